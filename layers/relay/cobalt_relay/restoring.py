"""What has to be done anew where a function goes on from a snapshot of its initialisation.

With SnapStart many instances begin as copies of one. Their clients hold no connection, for none
was used; credentials are renewed by botocore when their time is over; secrets and tokens are read
by the first call that needs them. The generator of random numbers, though, is in the same state in
each copy: the pauses before two retries would be equal just where they are to be apart.
"""

import random
from contextlib import suppress


def register_hooks() -> None:
    """Have it done when an instance goes on; nothing where Lambda's own library is not there."""
    with suppress(ImportError):
        from snapshot_restore_py import register_after_restore  # noqa: PLC0415 - it is Lambda's

        register_after_restore(random.seed)

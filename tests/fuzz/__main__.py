"""`make fuzz`: thousands of made-up calls of a stack of its own."""

import argparse
import sys

from tests.fuzz.run import fuzz, target_of
from tools.local import processes, snapshot
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError

CASES = 1_000


def main(arguments: list[str]) -> int:
    """Fuzz; give 0 where every answer is as `docs/openapi.yaml` has it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="per route (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="another one, other cases (%(default)s)"
    )
    given = parser.parse_args(arguments)
    forget_user_settings()
    processes.end_on_signals()
    try:
        with snapshot.session() as stack:
            outcome = fuzz(target_of(stack), given.cases, given.seed)
    except LocalError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    sys.stdout.write(outcome.said)
    return 0 if outcome.passed and outcome.cases > given.cases else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

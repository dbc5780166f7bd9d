"""No accepted request is lost, whatever call goes wrong (design, section 11).

For every path the calls are counted, then each goes wrong in every way, with and without a retry of
Cobalt's, and the reconciler runs until nothing is due. `promises.py` says what must hold then.
"""

import pytest

from tests.faults.matrix import RETRIES, Matrix
from tests.faults.paths import PATHS
from tests.faults.wire import Kind


@pytest.mark.parametrize("name", PATHS)
def test_every_promise_is_kept_when_any_call_goes_wrong(matrix: Matrix, name: str) -> None:
    results = matrix.run(name)

    assert len(results) == len(matrix.calls[name]) * len(Kind) * len(RETRIES) > 0
    broken = [result.line() for result in results if result.broken]
    assert not broken, "\n".join(["", *broken])

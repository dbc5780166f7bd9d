"""No accepted request is lost, whatever call goes wrong (design, section 11).

For every path the calls are counted, then each goes wrong in every way, and the reconciler runs
until nothing is due. `promises.py` says what must hold then.
"""

import pytest

from tests.faults.matrix import CRASHES, READS, RETRIES, Matrix
from tests.faults.paths import PATHS
from tests.faults.wire import Kind


@pytest.mark.parametrize("name", PATHS)
def test_every_promise_is_kept_when_any_call_goes_wrong(matrix: Matrix, name: str) -> None:
    results = matrix.run(name)

    met = {(result.number, result.kind) for result in results}
    crashes = [result for result in results if result.kind in CRASHES]
    calls = matrix.calls[name]
    kinds = [{kind for at, kind in met if at == number} for number in range(len(calls))]
    assert set().union(*kinds) == set(Kind)
    after = [at for at, call in enumerate(calls) if matrix.is_full or not READS.match(call.name)]
    assert all(Kind.CRASH_AFTER in kinds[at] for at in after)
    first = [
        at for at, call in enumerate(calls) if at == 0 or call.process != calls[at - 1].process
    ]
    before = range(len(calls)) if matrix.is_full else first
    assert all(Kind.CRASH_BEFORE in kinds[at] for at in before)
    assert len(crashes) == (len(before) + len(after)) * len(RETRIES)
    broken = [result.line() for result in results if result.broken]
    assert not broken, "\n".join(["", *broken])

"""The run of `make soak`, short enough for every test session."""

from tests.soak.books import differences, numbers, unshown
from tests.soak.plan import SMALL
from tests.soak.run import Soak
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack


def test_nothing_is_lost_when_much_goes_wrong(
    stack: Stack, sandbox: Sandbox, events: EventLog
) -> None:
    soak = Soak(stack, SMALL, events)

    books = soak.run()

    assert soak.faults_of_lambda == []
    assert differences(books) == []
    assert unshown(numbers(books)) == []

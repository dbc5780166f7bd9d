"""The run under load, in brief: it measures nothing here, but all of it works and all of it holds."""

import os

from tests.integration.support import Relay
from tests.soak.load import BRIEF, Load, document
from tests.soak.load_books import problems
from tools.local.eventlog import EventLog
from tools.local.paths import TESTS
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack


def test_everything_accepted_ends_when_much_is_refused(
    stack: Stack, sandbox: Sandbox, events: EventLog, relay: Relay
) -> None:
    relay.settle()
    load = Load(stack, TESTS / str(os.getpid()), BRIEF, events)

    books = load.run()
    told = document(load, books)

    assert problems(books) == []
    assert set(told["phases"]["slow"]["refused"]) == {"503"}
    assert told["phases"]["steady"]["refused"] == {}
    own = [job for job in books.jobs.values() if not job.range_id]
    assert sum(step["accepted"] for step in told["series"]) == len(own) > 0
    assert sum(step["completed"] for step in told["series"]) == len(books.jobs)

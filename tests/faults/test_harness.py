"""The crash matrix can fail: a relay that is built wrong breaks a promise in it."""

from collections.abc import Callable
from functools import partial
from itertools import chain, product
from typing import Any
from uuid import uuid4

import pytest

from cobalt_relay import events
from cobalt_relay.adapters import jobs, layout
from cobalt_relay.adapters.cobalt import Cobalt
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.results import Results
from cobalt_relay.adapters.table import Put, Table, Write
from cobalt_relay.errors import UpstreamUnanswered
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import Announced, FetchWork, ResultLocation
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.fetch_appointments import FetchAppointments
from cobalt_relay.services.gather_ranges import GatherRanges
from cobalt_relay.services.take_in import TakeIn
from tests.faults.lab import Lab
from tests.faults.matrix import OF_EFFECTS, RETRIES, run_case
from tests.faults.paths import PATHS
from tests.faults.wire import Call, Crash, Fault, Kind, Wire

type Patch = pytest.MonkeyPatch


def store_last(patch: Patch) -> None:
    """The row and the event go first, the bytes follow."""
    create, take_in = Results.create, TakeIn.take_in

    def create_later(self: Any, place: str, body: bytes) -> ResultLocation:
        self.later = partial(create, self, place, body)
        return ResultLocation(bucket=self._bucket, key=f"{place}.json")

    def take_in_and_store(self: Any, *args: Any) -> Any:
        outcome = take_in(self, *args)
        getattr(self._results, "later", lambda: None)()
        return outcome

    patch.setattr(Results, "create", create_later)
    patch.setattr(TakeIn, "take_in", take_in_and_store)


def close_first(patch: Patch) -> None:
    """The announcement is recorded as sent, then sent."""

    def announce(self: Any, announced: Announced, event: RelayEvent, look: Any = None) -> None:
        self._rows.close_announcement(announced, self._now(), look)
        self._bus.publish(event)

    patch.setattr(Announcer, "announce", announce)


def overwrite(patch: Patch) -> None:
    """A new row takes the place of one that is there."""
    write = Table.write

    def write_anyway(self: Table, *writes: Write) -> None:
        anyway = "attribute_exists(pk) OR attribute_not_exists(pk)"
        write(
            self,
            *(
                each._replace(condition=anyway, values={}) if isinstance(each, Put) else each
                for each in writes
            ),
        )

    patch.setattr(Table, "write", write_anyway)


def send_again(patch: Patch) -> None:
    """A fetch that was sent and not answered is sent once more."""
    fetch = Cobalt.fetch_appointments

    def fetch_twice(self: Cobalt, *args: Any) -> str:
        try:
            return fetch(self, *args)
        except UpstreamUnanswered:
            return fetch(self, *args)

    patch.setattr(Cobalt, "fetch_appointments", fetch_twice)


def record_nothing(patch: Patch) -> None:
    """A request is not put on record."""
    patch.setattr(Jobs, "record_request", lambda *_: None)


def look_at_nothing(patch: Patch) -> None:
    """No row is put on the list of what is due."""
    for module in (jobs, layout):
        patch.setattr(module, "due_attributes", lambda *_: {})


def change_ids(patch: Patch) -> None:
    """An event is announced under another id than before."""
    patch.setattr(events, "_NAMESPACE", uuid4())


def ask_anew(patch: Patch) -> None:
    """Each delivery of a message is a request of its own, and no robot is ever busy."""
    patch.setattr(FetchWork, "request_id", lambda *_: str(uuid4()))
    patch.setattr(FetchAppointments, "_robots_of", lambda *_: [])


def gather_nothing(patch: Patch) -> None:
    """Nobody looks at a range when a piece of it ends."""
    patch.setattr(GatherRanges, "gather", lambda *_: False)


SABOTAGE: list[tuple[Callable[[Patch], None], str, str]] = [
    (store_last, "webhook", "the bytes are not in S3"),
    (close_first, "webhook", "no event 'Appointments Fetched'"),
    (overwrite, "early webhook", "the job is ACCEPTED"),
    (send_again, "fetch", "one request was sent to Cobalt 2 times"),
    (record_nothing, "fetch", "no request is on record"),
    (look_at_nothing, "fetch", "the job is ACCEPTED"),
    (change_ids, "webhook", "an event 'Appointments Fetched' that announces nothing"),
    (ask_anew, "queued piece", "one request was sent to Cobalt"),
    (gather_nothing, "piece reports", "the range is ACCEPTED"),
]


pytestmark = pytest.mark.no_cover  # as the matrix itself, which runs in other processes


@pytest.mark.parametrize(
    ("sabotage", "path", "promise"), SABOTAGE, ids=[each.__name__ for each, *_ in SABOTAGE]
)
def test_a_promise_breaks_when_the_relay_is_built_wrong(
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[[Patch], None],
    path: str,
    promise: str,
) -> None:
    sabotage(monkeypatch)

    broken = _first_broken(lab, path)

    assert promise in broken


def _first_broken(lab: Lab, name: str) -> str:
    clean = run_case(lab, PATHS[name], None, RETRIES[0])
    cases = product(range(len(clean.calls)), OF_EFFECTS, RETRIES)
    runs = (run_case(lab, PATHS[name], Fault(number, kind), retry) for number, kind, retry in cases)
    return next("; ".join(run.broken) for run in chain([clean], runs) if run.broken)


def test_nothing_goes_out_any_more_when_the_process_has_crashed() -> None:
    wire, call = Wire(), Call("call", "")
    wire.begin(Fault(0, Kind.CRASH_BEFORE))

    with wire.watched(), wire.process():
        assert wire.next(lambda: call) is Kind.CRASH_BEFORE
        wire.crash()

        with pytest.raises(Crash):
            wire.next(lambda: call)

    with wire.process():
        assert wire.next(lambda: call) is None


def test_a_fault_lasts_when_the_same_call_is_repeated_at_once() -> None:
    wire, throttled, other = Wire(), Call("call", "a"), Call("call", "b")
    wire.begin(Fault(0, Kind.THROTTLE))

    with wire.watched():
        met = [wire.next(partial(Call, *call)) for call in (throttled, throttled, other, throttled)]

    assert met == [Kind.THROTTLE, Kind.THROTTLE, None, None]

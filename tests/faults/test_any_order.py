"""Nothing accepted is lost, in whatever order things happen and go wrong (design, section 11)."""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cobalt_relay.adapters import jobs
from cobalt_relay.events import RelayEvent
from cobalt_relay.models import Announced, Due, ResultLocation
from cobalt_relay.observability import logger, metrics
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.take_in import TakeIn
from tests.faults.any_order import (
    HOUR,
    MINUTE,
    SECOND,
    Act,
    Answer,
    Deliver,
    End,
    Fetch,
    Kind,
    Reconcile,
    Trouble,
    Wait,
    WaitUntilDue,
    World,
)

EXAMPLES = int(os.environ.get("ANY_ORDER_EXAMPLES", "0"))
"""More than `make test` has time for, and other ones each time."""
QUICK = settings(
    max_examples=EXAMPLES or 150,
    stateful_step_count=25,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

numbers = st.integers(0, 3)
fetches = st.builds(
    Fetch,
    token=st.sampled_from([0, 0, 1, 2]),
    question=st.sampled_from([0, 0, 0, 1, 2]),
    key=st.sampled_from([None, None, "a", "a", "b"]),
    answer=st.sampled_from([Answer.ACCEPTED, *Answer]),
    silent=st.sampled_from([False, False, False, True]),
)
ends = st.builds(
    End,
    job=numbers,
    succeeds=st.sampled_from([True, True, False]),
    is_old_edition=st.booleans(),
)
deliveries = st.builds(Deliver, event=numbers)
pauses = st.sampled_from([1, 2, 15, 31, 61, 100])
waits = st.builds(
    Wait,
    st.one_of(
        pauses.map(lambda n: n * SECOND),
        st.sampled_from([5, 6, 20, 60, 119]).map(lambda n: n * MINUTE),
        st.sampled_from([2, 6, 24]).map(lambda n: n * HOUR),
    ),
)
runs = st.builds(Reconcile, st.sampled_from([180, 180, 180, 76]))
meanwhile = st.one_of(
    fetches, ends, deliveries, st.builds(Wait, pauses.map(lambda n: n * SECOND)), runs
)


def troubles(calls: int) -> st.SearchStrategy[Trouble | None]:
    """Half of the time none, else one at any of so many calls."""
    call = st.integers(1, calls)
    kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.MEANWHILE])
    some = st.builds(Trouble, call, kinds)
    overtaken = st.builds(Trouble, call, st.just(Kind.MEANWHILE), meanwhile)
    return st.one_of(st.none(), st.none(), some, overtaken)


class AnyOrder(RuleBasedStateMachine):
    """A relay, its callers and its Cobalt."""

    finding: ClassVar = ""
    """What to look for, where not everything is meant."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        logging.getLogger(logger.name or "").addHandler(self.world.unexpected)

    @rule(fetch=fetches, trouble=troubles(8))
    def a_caller_asks(self, fetch: Fetch, trouble: Trouble | None) -> None:
        self.world.act(fetch, trouble)

    @precondition(lambda self: self.world.cobalt.running)
    @rule(end=ends)
    def a_job_ends(self, end: End) -> None:
        self.world.act(end)

    @precondition(lambda self: self.world.cobalt.results)
    @rule(delivery=deliveries, trouble=troubles(8))
    def a_result_is_delivered(self, delivery: Deliver, trouble: Trouble | None) -> None:
        self.world.act(delivery, trouble)

    @rule(wait=waits)
    def time_goes_by(self, wait: Wait) -> None:
        self.world.act(wait)

    @rule(run=runs, trouble=troubles(25))
    def the_reconciler_runs(self, run: Reconcile, trouble: Trouble | None) -> None:
        self.world.act(run, trouble)

    @precondition(lambda self: self.world.table.next_look())
    @rule(times=st.integers(1, 12), trouble=troubles(25))
    def the_reconciler_runs_whenever_something_is_due(
        self, times: int, trouble: Trouble | None
    ) -> None:
        """The last time with trouble."""
        for left in reversed(range(times)):
            self.world.act(WaitUntilDue())
            self.world.act(Reconcile(), None if left else trouble)

    @invariant()
    def every_promise_is_kept(self) -> None:
        found = [each for each in self.world.broken if self.finding in each]
        assert not found, found

    def teardown(self) -> None:
        try:
            self.world.come_to_rest()
            self.world.look_back()
            self.every_promise_is_kept()
        finally:
            logging.getLogger(logger.name or "").removeHandler(self.world.unexpected)
            metrics.clear_metrics()


pytestmark = pytest.mark.no_cover  # thousands of steps, and no line that others do not cover


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """No log lines of faults that are meant."""
    relay = logging.getLogger(logger.name or "")
    level, handlers = relay.level, relay.handlers[:]
    relay.setLevel(logging.ERROR)
    relay.handlers[:] = []
    yield
    relay.setLevel(level)
    relay.handlers[:] = handlers


def ask(answer: Answer, *, question: int = 0, key: str | None = None) -> Fetch:
    return Fetch(token=0, question=question, key=key, answer=answer)


LEASE_OVER = Wait(31 * SECOND)
FOUND: dict[str, tuple[tuple[Act, Trouble | None], ...]] = {
    "two questions for the same days are unanswered": (
        (ask(Answer.RAN_UNANSWERED), None),
        (ask(Answer.LOST, question=2), None),
    ),
    "a refusal follows on an unanswered request of a new connection": (
        (ask(Answer.RAN_UNANSWERED), None),
        (ask(Answer.REFUSED, key="a"), None),
    ),
    "the 202 is not recorded and the key comes again": (
        (ask(Answer.ACCEPTED, key="a"), Trouble(6, Kind.FAULT_BEFORE)),
        (LEASE_OVER, None),
        (ask(Answer.ACCEPTED, key="a"), None),
    ),
    "the missing answer is not recorded and the key comes again": (
        (ask(Answer.RAN_UNANSWERED, key="a"), Trouble(6, Kind.FAULT_BEFORE)),
        (LEASE_OVER, None),
        (ask(Answer.ACCEPTED, key="a"), None),
    ),
    "a refusal under a key comes between a young job and an equal request": (
        (ask(Answer.ACCEPTED), None),
        (ask(Answer.REFUSED, key="a"), None),
        (ask(Answer.ACCEPTED), None),
    ),
    "an earlier result is found while an equal request is under way": (
        (ask(Answer.ACCEPTED, key="a"), Trouble(6, Kind.CRASH_BEFORE)),
        (Wait(5 * MINUTE), None),
        (End(0, succeeds=True, is_old_edition=False), None),
        (
            replace(ask(Answer.ACCEPTED, key="b"), silent=True),
            Trouble(6, Kind.MEANWHILE, Reconcile()),
        ),
    ),
}
"""Sequences that broke a promise once, and that chance finds seldom."""


def test_every_promise_is_kept_when_things_happen_in_any_order() -> None:
    run_state_machine_as_test(AnyOrder, settings=QUICK)


@pytest.mark.parametrize("name", FOUND)
def test_every_promise_is_kept_when_it_happens_as_it_did_once(name: str) -> None:
    world = World()

    for act, trouble in FOUND[name]:
        world.act(act, trouble)
    world.come_to_rest()
    world.look_back()

    assert not world.broken


def tell_before_sending(
    self: Announcer, announced: Announced, event: RelayEvent, next_look: datetime | None = None
) -> None:
    self._rows.close_announcement(announced, self._now(), next_look)
    self._bus.publish(event)


def put_off_for_ever(self: jobs.Jobs, due: Due, _until: datetime | None, looks: int) -> bool:
    return PUT_OFF(self, due, None, looks)


def name_without_storing(_self: TakeIn, _delivery: object, place: str) -> ResultLocation:
    return ResultLocation(bucket="results", key=f"{place}.json")


PUT_OFF = jobs.Jobs.put_off
SOON = 3
"""A seed with which each of them is found within seconds."""
BREAKAGES: dict[str, tuple[object, str, object]] = {
    "nobody was told": (Announcer, "announce", tell_before_sending),
    "nobody will look at it": (jobs.Jobs, "put_off", put_off_for_ever),
    "names bytes that are not": (TakeIn, "_store", name_without_storing),
}
"""What is found, and with which of our own functions replaced by what."""


@pytest.mark.parametrize("finding", BREAKAGES)
def test_a_broken_promise_is_found_when_the_relay_is_broken(
    monkeypatch: pytest.MonkeyPatch, finding: str
) -> None:
    monkeypatch.setattr(*BREAKAGES[finding])

    class Looking(AnyOrder):
        pass

    Looking.finding = finding
    only_generate = settings(QUICK, phases=[Phase.generate], max_examples=60)

    with pytest.raises(AssertionError, match=finding):
        run_state_machine_as_test(seed(SOON)(Looking), settings=only_generate)

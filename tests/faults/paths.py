"""The paths that a live fetch can take. Each names the calls that go wrong, and what follows."""

from collections.abc import Callable
from datetime import timedelta

from cobalt_relay.adapters.jobs import FIRST_LOOK
from cobalt_relay.services.reconcile_jobs import LATE_LOOKS
from tests.faults.case import Case
from tests.faults.lab import DEADLINE

type Path = Callable[[Case], None]

PATHS: dict[str, Path] = {}
REDELIVERIES = 3
REPETITIONS = 2
"""Of an asynchronous run that failed: the template's MaximumRetryAttempts."""
REDELIVERY = timedelta(minutes=1)
"""After the lease of a request whose process died, and after Cobalt's pause where it names none."""


def path(name: str) -> Callable[[Path], Path]:
    """Put a path on the list."""

    def register(function: Path) -> Path:
        PATHS[name] = function
        return function

    return register


@path("fetch")
def fetch(case: Case) -> None:
    """A caller asks for a first live fetch of a clinic. The first delivery is lost on the way."""
    case.use_new_connection()
    with case.faulty():
        case.fetch()

    case.deliver_again()
    case.settle()


@path("joined fetch")
def joined_fetch(case: Case) -> None:
    """A second caller asks the very same while the first one's job is open."""
    case.fetch()

    with case.faulty():
        case.fetch()

    case.deliver_again()
    case.settle()


@path("webhook")
def webhook(case: Case) -> None:
    """Cobalt delivers the result."""
    case.fetch()

    with case.faulty():
        case.deliver()

    case.deliver_again()
    case.settle()


@path("early webhook")
def early_webhook(case: Case) -> None:
    """Cobalt delivers the result before it answers the fetch: two processes, either of which dies."""
    with case.faulty():
        case.fetch_overtaken()

    case.deliver_again()
    case.settle()


@path("failure event")
def failure_event(case: Case) -> None:
    """The robot failed, and Cobalt delivers that."""
    case.lab.box.set_fault("failed")
    case.fetch()

    with case.faulty():
        case.deliver()

    case.deliver_again()
    case.settle()


@path("reconcile found")
def reconcile_found(case: Case) -> None:
    """Every delivery is lost, and the reconciler asks for the result."""
    case.fetch()
    case.event()
    case.wait(FIRST_LOOK)

    with case.faulty():
        case.reconcile()

    case.deliver_again()
    case.settle()


@path("reconcile not found")
def reconcile_not_found(case: Case) -> None:
    """The reconciler asks before the robot is done."""
    case.be_silent()
    case.fetch()
    case.wait(FIRST_LOOK)

    with case.faulty():
        case.reconcile()

    case.report()
    case.deliver_again()
    case.settle()


@path("expiry")
def expiry(case: Case) -> None:
    """Nothing is heard of a job by its deadline; in half of the cases it reports afterwards."""
    case.be_silent()
    case.fetch()
    case.wait(DEADLINE)

    with case.faulty():
        case.reconcile()

    if case.comes_again:
        case.report()
    case.deliver_again()
    case.settle()


@path("late result")
def late_result(case: Case) -> None:
    """Cobalt delivers the result of a job that has expired."""
    _expire(case)
    case.report()

    with case.faulty():
        case.deliver()

    case.deliver_again()
    case.settle()


@path("late look")
def late_look(case: Case) -> None:
    """Nothing is delivered of a job that has expired, and the reconciler asks once more."""
    _expire(case)
    case.report()
    case.wait(LATE_LOOKS[0])

    with case.faulty():
        case.reconcile()

    case.deliver_again()
    case.settle()


@path("last look")
def last_look(case: Case) -> None:
    """As before, but the job reports so late that only the last look can find it."""
    _expire(case)
    for pause in LATE_LOOKS[:-1]:
        case.wait(pause)
        case.reconcile()
    case.report()
    case.wait(LATE_LOOKS[-1])

    with case.faulty():
        case.reconcile()

    case.deliver_again()
    case.settle()


@path("sweep of unknown")
def sweep_of_unknown(case: Case) -> None:
    """Cobalt runs a fetch that it never answered, and delivers nothing: the reconciler finds out."""
    case.fetch_unanswered()
    case.event()
    case.wait(FIRST_LOOK)

    with case.faulty():
        case.reconcile()

    case.deliver_again()
    case.settle()


@path("last sweep")
def last_sweep(case: Case) -> None:
    """As before, but Cobalt lists the result only when the deadline is there."""
    case.fetch_unanswered()
    case.event()
    case.wait(DEADLINE)

    with case.faulty():
        case.reconcile()

    case.deliver_again()
    case.settle()


@path("unknown expires")
def unknown_expires(case: Case) -> None:
    """Cobalt never got a fetch, which nobody can tell before its deadline."""
    case.fetch_vanished()
    case.wait(DEADLINE)

    with case.faulty():
        case.reconcile()

    case.settle()


@path("refusal")
def refusal(case: Case) -> None:
    """Cobalt refuses a fetch."""
    case.use_broken_connection()
    with case.faulty():
        case.fetch()

    case.settle()


@path("refusal announced")
def refusal_announced(case: Case) -> None:
    """The reconciler announces what Cobalt refused."""
    case.use_broken_connection()
    case.fetch()

    with case.faulty():
        case.reconcile()

    case.settle()


@path("queued piece")
def queued_piece(case: Case) -> None:
    """The message of a schedule comes, and comes again: after a death, a fault, or just so."""
    work = case.queued_piece()
    with case.faulty():
        case.work_off(work)

    for _ in range(REDELIVERIES):
        case.wait(REDELIVERY)
        case.work_off(work)
    case.deliver_again()
    case.settle()


@path("piece reports")
def piece_reports(case: Case) -> None:
    """Cobalt delivers the result of a range's only piece, and with it the range ends."""
    case.work_off(case.queued_piece())

    with case.faulty():
        case.deliver()

    case.deliver_again()
    case.settle()


@path("changes")
def changes(case: Case) -> None:
    """A result shows what is other than it was, on two days; Lambda repeats a run that failed."""
    _have_changed(case)

    with case.faulty():
        case.detect()

    for _ in range(REPETITIONS):
        case.detect()
    case.settle()


@path("changes repeated")
def changes_repeated(case: Case) -> None:
    """The event comes twice; the second run finds what the first one wrote, and tells the same."""
    _have_changed(case)
    case.detect()

    with case.faulty():
        case.detect()

    for _ in range(REPETITIONS):
        case.detect()
    case.settle()


def _have_changed(case: Case) -> None:
    case.know_days()
    case.be_silent()
    case.fetch()
    case.report()
    case.deliver()


def _expire(case: Case) -> None:
    case.be_silent()
    case.fetch()
    case.wait(DEADLINE)
    case.reconcile()

"""What a run under load comes to: a series of ten seconds each, and whatever does not hold."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak.callers import BUSY, Call

STEP_SECONDS = 10
MOST_GROWTH = 1.05
"""Memory of a worker at the end of a phase, to that of the phase's second minute: flat is within a
twentieth. An allocator keeps some pages for itself, and a worker has some 60 MB."""
LEAST_RECOVERY = 0.9
ACCEPTED = 202
FETCHED = "Appointments Fetched"

type Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run; its moments are in seconds since the epoch."""

    name: str
    began: float
    ended: float
    upstream_seconds: float
    robot_seconds: float
    callers: str

    def covers(self, moment: float) -> bool:
        """Tell whether a moment is in it."""
        return self.began <= moment < self.ended


@dataclass(frozen=True, slots=True)
class Sample:
    """What was looked at every few seconds: memory of each process in MB, messages queued."""

    at: float
    workers: Mapping[int, tuple[str, float]]
    """By process id: the function and its memory."""
    local_aws: float
    sandbox: float
    queued: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job's row, as far as it matters here; its moments are in seconds since the epoch."""

    id: str
    state: str
    accepted_at: float
    completed_at: float | None
    via: str | None
    is_announced: bool
    result_key: str | None
    range_id: str | None


@dataclass
class LoadBooks:
    """Everything that is known after a run."""

    phases: Sequence[Phase]
    calls: Sequence[Call]
    samples: Sequence[Sample]
    jobs: Mapping[str, Job]
    sandbox_jobs: int
    results: frozenset[str]
    """The keys of the results in S3 that are not empty."""
    events: Counter[str]
    """How often an `Appointments Fetched` told of a job."""
    ranges: Mapping[str, str]
    """The states of the ranges, by id."""
    dead_letters: int = 0
    errors: Sequence[str] = ()
    """Lines that functions logged as errors."""
    left_open: int = 0
    queued_at_the_end: int = 0
    rates: Mapping[str, float] = field(default_factory=dict)
    before: float = 0.0
    after: float = 0.0
    """Fetches a second at the end of the steady phase, and of the one after the slow one. At the end
    of both: the local AWS gets slower by itself as it has more to keep."""


def quantile(values: Iterable[float], share: float) -> float | None:
    """Give the value below which such a share of all is; None where there is none."""
    ordered = sorted(values)
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3)


# ----------------------------------------------------------------------------------------- the series


def series(books: LoadBooks) -> list[Json]:
    """Cut the run into steps of ten seconds, from its first phase to the end of its last job."""
    first = min(phase.began for phase in books.phases)
    ends = [job.completed_at for job in books.jobs.values() if job.completed_at]
    last = max(*(phase.ended for phase in books.phases), *ends)
    calls = _by_step(books.calls, lambda call: call.at, first)
    ended = _by_step(books.jobs.values(), lambda job: job.completed_at or 0.0, first)
    samples = _by_step(books.samples, lambda sample: sample.at, first)
    return [
        _step(books, first + at, at, (calls[at], ended[at], samples[at]))
        for at in range(0, int(last - first) + 1, STEP_SECONDS)
    ]


def _by_step[T](
    things: Iterable[T], moment: Callable[[T], float], first: float
) -> defaultdict[int, list[T]]:
    found: defaultdict[int, list[T]] = defaultdict(list)
    for thing in things:
        found[int((moment(thing) - first) // STEP_SECONDS) * STEP_SECONDS].append(thing)
    return found


def _step(
    books: LoadBooks,
    begin: float,
    at: int,
    seen: tuple[list[Call], list[Job], list[Sample]],
) -> Json:
    calls, ended, samples = seen
    end = begin + STEP_SECONDS
    open_since = [
        job.accepted_at
        for job in books.jobs.values()
        if job.accepted_at < end and (job.completed_at is None or job.completed_at >= end)
    ]
    refused = Counter(call.status for call in calls if call.status != ACCEPTED)
    latencies = [call.seconds for call in calls if call.status == ACCEPTED]
    times = [job.completed_at - job.accepted_at for job in ended if job.completed_at]
    sample = samples[-1] if samples else None
    return {
        "at": at,
        "phase": next((each.name for each in books.phases if each.covers(begin)), "draining"),
        "accepted": len(latencies),
        "completed": len(ended),
        "refused": {str(status): count for status, count in sorted(refused.items())},
        "latency_p50": quantile(latencies, 0.5),
        "latency_p99": quantile(latencies, 0.99),
        "completion_p50": quantile(times, 0.5),
        "completion_p99": quantile(times, 0.99),
        "open_jobs": len(open_since),
        "oldest_open_seconds": round(end - min(open_since), 1) if open_since else 0.0,
        "queued": sample.queued if sample else None,
        "worker_mb": _of_functions(sample) if sample else {},
        "local_aws_mb": sample.local_aws if sample else None,
        "sandbox_mb": sample.sandbox if sample else None,
    }


def _of_functions(sample: Sample) -> dict[str, float]:
    """Give the median memory of each function's workers."""
    found: dict[str, list[float]] = defaultdict(list)
    for function, megabytes in sample.workers.values():
        found[function].append(megabytes)
    return {name: round(statistics.median(values), 1) for name, values in sorted(found.items())}


# ------------------------------------------------------------------------------------------- memory


def growth(samples: Sequence[Sample], phase: Phase) -> dict[str, Json]:
    """Compare each function's workers in the phase's second minute with those in its last one.

    Only workers that were there both times; none where the phase is too short to have two.
    """
    early = _memory(samples, phase.began + 60, phase.began + 120)
    late = _memory(samples, phase.ended - 60, phase.ended)
    if phase.ended - phase.began < 180:
        return {}
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key in early.keys() & late.keys():
        found[key[1]].append((early[key], late[key]))
    return {
        function: {
            "workers": len(pairs),
            "second_minute_mb": round(statistics.median(pair[0] for pair in pairs), 2),
            "last_minute_mb": round(statistics.median(pair[1] for pair in pairs), 2),
            "ratio": round(statistics.median(pair[1] / pair[0] for pair in pairs), 4),
        }
        for function, pairs in sorted(found.items())
    }


def _memory(samples: Sequence[Sample], begin: float, end: float) -> dict[tuple[int, str], float]:
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for sample in samples:
        if begin <= sample.at < end:
            for pid, (function, megabytes) in sample.workers.items():
                found[pid, function].append(megabytes)
    return {key: statistics.median(values) for key, values in found.items()}


# -------------------------------------------------------------------------------- what does not hold


def problems(books: LoadBooks) -> list[str]:
    """Say whatever does not hold, one line each; none where all does."""
    return [
        *_calls(books),
        *_jobs(books),
        *(f"Logged as an error: {line}" for line in books.errors),
        *([f"{books.dead_letters} messages in the queues for failures"] * bool(books.dead_letters)),
        *([f"{books.left_open} rows are still due"] * bool(books.left_open)),
        *([f"{books.queued_at_the_end} messages are queued"] * bool(books.queued_at_the_end)),
    ]


def shortfalls(books: LoadBooks) -> list[str]:
    """Say what was slower or larger than it is to be: only a long run on a quiet machine can tell."""
    return [*_memory_of_phases(books), *_recovery(books)]


def _calls(books: LoadBooks) -> Iterable[str]:
    for phase in books.phases:
        calls = [call for call in books.calls if phase.covers(call.at)]
        may_refuse = phase.name != "steady"
        for status, count in sorted(Counter(call.status for call in calls).items()):
            if status != ACCEPTED and not (may_refuse and status in BUSY):
                yield f"{phase.name}: {count} calls were answered {status or 'not at all'}"
        bare = sum(call.status in BUSY and not call.retry_after for call in calls)
        if bare:
            yield f"{phase.name}: {bare} calls were refused without a Retry-After"
        if phase.name == "slow" and not any(call.status in BUSY for call in calls):
            yield "slow: nothing was shed, so it does not show how that goes"


def _jobs(books: LoadBooks) -> Iterable[str]:
    promised = [call.job_id for call in books.calls if call.status == ACCEPTED]
    if len(set(promised)) != len(promised):
        yield "two calls were answered with one job"
    for job_id in promised:
        job = books.jobs.get(job_id or "")
        if job is None:
            yield f"{job_id}: accepted, but has no row"
    own = [job for job in books.jobs.values() if not job.range_id]
    if len(own) != len(promised):
        yield f"{len(promised)} calls were accepted, and there are {len(own)} jobs of callers"
    if books.sandbox_jobs != len(books.jobs):
        yield f"Cobalt ran {books.sandbox_jobs} jobs, and there are rows of {len(books.jobs)}"
    for job in books.jobs.values():
        if job.state != "COMPLETED":
            yield f"{job.id}: ended {job.state}"
        elif not job.is_announced or not books.events[job.id]:
            yield f"{job.id}: no event tells of it"
        elif job.result_key not in books.results:
            yield f"{job.id}: its result is not in S3"
    for range_id, state in books.ranges.items():
        if state != "COMPLETED":
            yield f"range {range_id}: ended {state}"


def _memory_of_phases(books: LoadBooks) -> Iterable[str]:
    for phase in books.phases:
        for function, found in growth(books.samples, phase).items():
            if found["ratio"] > MOST_GROWTH:
                yield f"{phase.name}: workers of {function} grew to {found['ratio']:.3f} ×"


def _recovery(books: LoadBooks) -> Iterable[str]:
    if books.after < LEAST_RECOVERY * books.before:
        yield f"after the slow phase {books.after:.1f} fetches a second, before {books.before:.1f}"


def recovery(books: LoadBooks) -> Json:
    """Tell how fast it is again after the slow phase, and how long that took."""
    phase = next(each for each in books.phases if each.name == "recovered")
    begins = [phase.began + at for at in range(0, int(phase.ended - phase.began), STEP_SECONDS)]
    fast = [
        begin + STEP_SECONDS - phase.began
        for begin in begins
        if _accepted(books, begin) >= LEAST_RECOVERY * books.before * STEP_SECONDS
    ]
    return {
        "before": round(books.before, 2),
        "after": round(books.after, 2),
        "ratio": round(books.after / books.before, 3) if books.before else None,
        "seconds": round(fast[0]) if fast else None,
    }


def _accepted(books: LoadBooks, begin: float) -> int:
    return sum(
        call.status == ACCEPTED and begin <= call.at < begin + STEP_SECONDS for call in books.calls
    )

"""`make soak`, its second half: as much as the local stack holds, and an upstream ten times slower.

    python -m tests.soak.load [--minutes 5]

It steps the number of callers up until more of them bring no more fetches; then that many call
without a rest for some minutes, and every fetch is to end as it should. Then callers come at that
rate while Cobalt takes ten times as long: the function has as many runs as before and no more, so
most are refused, with a `Retry-After`, and come again. Then Cobalt is well again, and so is to be
the relay, by itself.

What it measured is in `bench/results/load.json`:

    machine         of whatever it ran on
    stack           reserved_concurrency, fetches_per_second: what the stack was told to take
    ramp            [{callers, per_second, latency_p50, latency_p99}]
    phases          {steady, slow, recovered: {began, seconds (since the first), upstream_seconds,
                    robot_seconds, callers, accepted, per_second, refused, gave_up, latency_p50,
                    latency_p99, completion_p50, completion_p99, completed_via, memory}}
    series          one entry every 10 s: at (seconds since the first), phase, accepted, completed,
                    refused {status: count}, latency_p50, latency_p99, completion_p50,
                    completion_p99 (seconds from acceptance to completion, by their end), open_jobs,
                    oldest_open_seconds, queued (messages), worker_mb {function: median},
                    local_aws_mb, sandbox_mb
    recovery        {before, after: fetches a second at the end of the steady phase and of the last
                    one, ratio, seconds: until 90 % was reached again}
    problems        whatever did not hold
"""

import argparse
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError
from rich.console import Console
from rich.table import Table

from tests.integration.support import Relay, eventually
from tests.soak.callers import CLINICS, FIRST_DAY, Callers, Fetch, fetches, provider_of, warm_up
from tests.soak.load_books import (
    ACCEPTED,
    FETCHED,
    Job,
    Json,
    LoadBooks,
    Phase,
    Sample,
    growth,
    problems,
    quantile,
    recovery,
    series,
    shortfalls,
)
from tools.local import logs, processes, snapshot
from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError
from tools.local.eventlog import EventLog
from tools.local.paths import ROOT, TESTS
from tools.local.stack import Stack

RESULTS = ROOT / "bench" / "results" / "load.json"
RANGE_CLINIC = "harbor"
SAMPLE_SECONDS = 5.0
LEAST_GAIN = 1.05
"""What more callers are to bring: less, and the stack holds no more."""
MOST_VAIN = 2
"""Numbers of callers in a row that bring no more: one may have met with something else that runs."""
MOST_SECONDS = 5.0
"""For 99 of 100 calls; a stack that needs longer has too many callers already."""
WARM_SECONDS = 1.0
MOST_WARM_UPS = 8
SPARE_RATE = 2.0
DRAIN_SECONDS = 420.0
LOOK_SECONDS = 0.5
PATIENT_SECONDS = 2.0
LAUNCHER, SANDBOX = "tools.local.launcher", "sandbox"
"""The modules that the servers are."""
FETCH_PATH = "/v1/appointments/fetch"
SHOWN = 40
INTERRUPTED = 130


@dataclass(frozen=True)
class Plan:
    """How a run goes; seconds everywhere."""

    steady: float
    slow: float
    recovery: float
    step: float = 12.0
    """How long each number of callers is tried."""
    callers: tuple[int, ...] = (4, 8, 12, 16, 24, 32, 48)
    upstream: float = 0.3
    """What Cobalt takes to answer a fetch."""
    robot: float = 1.0
    """What its robot takes beside what the sandbox itself needs."""
    factor: float = 10.0
    """How much slower both are in the slow phase."""
    slow_rate: float | None = None
    """Callers that come in a second of the slow phase; None for as many as the stack held."""
    most_rate: float | None = None
    """What the gateway takes in a second; None for twice what the stack held: those who come again
    are more than that."""
    tries: int = 4
    """Of a caller who is refused."""
    range_days: int = 20
    """Of the range that begins with a phase, fetched 5 days at a time: while one piece is, the
    others are queued."""
    spare_runs: int = 4
    """Runs of the function beside those of the callers: one ends a moment after its answer."""
    ranges_with: tuple[str, ...] = ("steady", "slow", "recovered")
    hurries: bool = False
    """Whether what no webhook brought is looked for at once, not when its minute is over."""

    @classmethod
    def of_minutes(cls, minutes: float) -> "Plan":
        """Give the plan of `make soak`."""
        return cls(steady=minutes * 60, slow=minutes * 60, recovery=90.0)


BRIEF = Plan(
    steady=1.0,
    slow=1.0,
    recovery=1.0,
    step=0.4,
    callers=(2,),
    upstream=0.05,
    robot=0.05,
    factor=20.0,
    slow_rate=12.0,
    most_rate=100.0,
    tries=2,
    spare_runs=2,
    range_days=5,
    ranges_with=("steady",),  # a piece that finds the robot busy comes again half a minute later
    hurries=True,
)
"""The plan of `make test`: it shows that all of this works, and measures nothing."""

type Say = Callable[[str], None]


@dataclass
class Load:
    """One run on a stack that nothing else uses meanwhile."""

    stack: Stack
    home: Path
    plan: Plan
    log: EventLog
    say: Say = print
    phases: list[Phase] = field(default_factory=list)
    ramp: list[Json] = field(default_factory=list)
    told: Json = field(default_factory=dict)
    """What the stack was told to take."""

    def __post_init__(self) -> None:
        self._relay = Relay(self.stack)
        providers = {
            clinic: provider_of(self.stack, clinic, FIRST_DAY)
            for clinic in (*CLINICS, RANGE_CLINIC)
        }
        self._range_provider = providers.pop(RANGE_CLINIC)
        self._source: Iterator[Fetch] = fetches(providers)
        self._ranges: list[str] = []
        self._samples: list[Sample] = []
        self._known_rows = {row["pk"]["S"] for row in self._rows()}
        self._known_jobs = {job["id"] for job in self.stack.sandbox.jobs()}
        self._known_events = len(self.log.all())
        self._callers = Callers(self.stack, self._source, self.plan.tries)
        self._known_dead = self._dead_letters()

    def run(self) -> LoadBooks:
        """Do all of it; give the books."""
        plan, box = self.plan, self.stack.sandbox
        try:
            with self._upstream(1.0):
                callers = self._find_callers()
            ramp, self._callers = self._callers, Callers(self.stack, self._source, self.plan.tries)
            rate = max(each["per_second"] for each in self.ramp)
            self._limit(callers + plan.spare_runs, plan.most_rate or rate * SPARE_RATE)
            with self._sampled():
                told = f"{callers} at once, without a rest"
                with self._upstream(1.0), self._phase("steady", 1.0, told):
                    self._callers.at_once(callers, plan.steady)
                rate = plan.slow_rate or self._rate("steady")
                told = f"{rate:.1f} a second, whatever happens"
                with self._upstream(plan.factor), self._phase("slow", plan.factor, told):
                    self._callers.at_rate(rate, plan.slow)
                told = f"{callers} at once, without a rest"
                with self._upstream(1.0), self._phase("recovered", 1.0, told):
                    self._callers.at_once(callers, plan.recovery)
                self._drain()
            return self._read(ramp)
        finally:
            box.clear_faults()
            self._unlimit()

    # ------------------------------------------------------------------------------------- preparing

    def _find_callers(self) -> int:
        """Find how many callers bring the most; more of them would only wait."""
        best, most, vain = 0.0, self.plan.callers[0], 0
        warm_up(self.stack, most + self.plan.spare_runs)
        self._warm_up(most)
        for callers in self.plan.callers:
            self._callers.at_once(callers, self.plan.step / 3)  # starts those of more callers
            before = len(self._callers.calls)
            began = time.monotonic()
            self._callers.at_once(callers, self.plan.step)
            calls = self._callers.calls[before:]
            rate = sum(each.status == ACCEPTED for each in calls) / (time.monotonic() - began)
            seconds = [each.seconds for each in calls]
            slowest = quantile(seconds, 0.99) or 0.0
            self.ramp.append(
                {
                    "callers": callers,
                    "per_second": round(rate, 2),
                    "latency_p50": quantile(seconds, 0.5),
                    "latency_p99": slowest,
                }
            )
            self.say(f"{callers} callers: {rate:.1f} fetches a second, p99 {slowest:.2f} s")
            if rate >= best * LEAST_GAIN and slowest <= MOST_SECONDS:
                best, most, vain = rate, callers, 0
            elif (vain := vain + 1) == MOST_VAIN:
                break
        return most

    def _warm_up(self, callers: int) -> None:
        """Call until the workers of every function are there: each begins with a second of CPU."""
        for _ in range(MOST_WARM_UPS):
            before = len(self._callers.calls)
            self._callers.at_once(callers, self.plan.step / 2)
            slowest = max(call.seconds for call in self._callers.calls[before:])
            if slowest < WARM_SECONDS + self.plan.upstream:
                return

    def _limit(self, runs: int, per_second: float) -> None:
        """Tell the stack what to take, as the parameters of the template do on AWS.

        The local AWS drops a reserved concurrency from the template, and does not understand the
        path of a method's own throttling in there.
        """
        limit = max(int(per_second), 1)
        self.told = {"reserved_concurrency": runs, "fetches_per_second": limit}
        self.stack.aws.functions.put_function_concurrency(
            FunctionName=self.stack.outputs["FetchAppointmentsName"],
            ReservedConcurrentExecutions=runs,
        )
        self._throttle("rateLimit", str(limit))
        self._throttle("burstLimit", str(limit))

    def _unlimit(self) -> None:
        self.stack.aws.functions.delete_function_concurrency(
            FunctionName=self.stack.outputs["FetchAppointmentsName"]
        )
        self._throttle("rateLimit", "1000")
        self._throttle("burstLimit", "1000")

    def _throttle(self, name: str, value: str) -> None:
        gateway = self.stack.aws.apigateway
        path = f"/~1appointments~1fetch/POST/throttling/{name}"
        for api in gateway.get_rest_apis()["items"]:
            gateway.update_stage(
                restApiId=api["id"],
                stageName="v1",
                patchOperations=[{"op": "replace", "path": path, "value": value}],
            )

    # ------------------------------------------------------------------------------------ the phases

    @contextmanager
    def _upstream(self, factor: float) -> Iterator[None]:
        """Let Cobalt take so many times as long as usual, to answer and to report."""
        box, plan = self.stack.sandbox, self.plan
        box.clear_faults()
        box.add_fault("slow", seconds=plan.upstream * factor, path=FETCH_PATH)
        box.add_fault("late", seconds=plan.robot * factor)
        yield

    @contextmanager
    def _phase(self, name: str, factor: float, callers: str) -> Iterator[None]:
        """Note when a phase began and ended; a range begins with it."""
        self.say(f"{name}: {callers}")
        if name in self.plan.ranges_with:
            self._begin_range(len(self.phases))
        began = time.time()
        yield
        plan = self.plan
        self.phases.append(
            Phase(name, began, time.time(), plan.upstream * factor, plan.robot * factor, callers)
        )

    def _begin_range(self, number: int) -> None:
        first = FIRST_DAY.replace(year=FIRST_DAY.year + number)
        body = {
            "search_by": "provider",
            "provider_ids": [self._range_provider],
            "start_date": first.isoformat(),
            "end_date": (first + timedelta(days=self.plan.range_days - 1)).isoformat(),
        }
        answer = self._relay.fetch_range(body, clinic=RANGE_CLINIC)
        assert answer.status_code == ACCEPTED, answer.text
        self._ranges.append(answer.json()["job_execution_id"])

    def _rate(self, name: str, share: float = 1.0) -> float:
        """Give the accepted fetches per second of a phase, or of that share of it at its end."""
        phase = next(each for each in self.phases if each.name == name)
        begin = phase.ended - (phase.ended - phase.began) * share
        accepted = sum(
            begin <= call.at < phase.ended
            for call in self._callers.calls
            if call.status == ACCEPTED
        )
        return accepted / (phase.ended - begin)

    def _drain(self) -> None:
        """Wait until nothing is queued, nothing is open and all is told."""
        self.say("Waiting until all is through ...")
        until = time.monotonic() + DRAIN_SECONDS
        patient_until = time.monotonic() + PATIENT_SECONDS
        while (found := self._open()) or self._queued():
            if time.monotonic() > until:
                return  # what is left is for the books to say
            time.sleep(LOOK_SECONDS)
            if self.plan.hurries and time.monotonic() > patient_until:
                for name in found:
                    with suppress(ClientError):  # it has ended meanwhile
                        self.stack.let_time_pass(name)
                self.stack.reconcile()

    def _open(self) -> list[str]:
        """Give the rows that somebody has to look at, but for connections: those always have."""
        found: list[str] = []
        for shard in range(4):
            pages = self.stack.aws.dynamodb.get_paginator("query").paginate(
                TableName=self.stack.table,
                IndexName="due",
                KeyConditionExpression="due_shard = :shard",
                ExpressionAttributeValues={":shard": {"S": str(shard)}},
            )
            rows = (row for page in pages for row in page["Items"])
            found += [name for row in rows if self._is_ours(name := row["pk"]["S"])]
        return found

    def _is_ours(self, name: str) -> bool:
        return name not in self._known_rows and not name.startswith("CONNECTION#")

    # -------------------------------------------------------------------------------------- sampling

    @contextmanager
    def _sampled(self) -> Iterator[None]:
        """Look at memory and queue every few seconds."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(SAMPLE_SECONDS):
                self._samples.append(self._sample())

        sampler = threading.Thread(target=look, daemon=True)
        sampler.start()
        try:
            yield
        finally:
            over.set()
            sampler.join()

    def _sample(self) -> Sample:
        servers = {LAUNCHER: 0.0, SANDBOX: 0.0}
        workers: dict[int, tuple[str, float]] = {}
        for pid, words, variables in _processes_of(self.home):
            memory = _megabytes(pid)
            if function := variables.get("AWS_LAMBDA_FUNCTION_NAME"):
                workers[pid] = (self._logical.get(function, function), memory)
            elif words[1:2] == ["-m"] and words[2] in servers:
                servers[words[2]] = memory
        return Sample(time.time(), workers, servers[LAUNCHER], servers[SANDBOX], self._queued())

    @property
    def _logical(self) -> dict[str, str]:
        """The logical ids of the functions, by their names."""
        outputs = self.stack.outputs.items()
        return {value: name.removesuffix("Name") for name, value in outputs}

    def _queued(self) -> int:
        """Count the messages of the queue of fetches, whatever state they are in."""
        answer = self.stack.aws.sqs.get_queue_attributes(
            QueueUrl=self.stack.outputs["FetchQueueUrl"],
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "ApproximateNumberOfMessagesDelayed",
            ],
        )
        return sum(int(each) for each in answer["Attributes"].values())

    # --------------------------------------------------------------------------------------- reading

    def _read(self, ramp: Callers) -> LoadBooks:
        self.say("Comparing ...")
        jobs = {job.id: job for job in self._jobs()}
        new = [job for job in self.stack.sandbox.jobs() if job["id"] not in self._known_jobs]
        with suppress(AssertionError):  # then the comparison says what is missing
            eventually(lambda: sum(self._events().values()) >= len(jobs), 20)
        own = {call.job_id for call in ramp.calls}
        return LoadBooks(
            phases=self.phases,
            calls=self._callers.calls,
            samples=self._samples,
            jobs={name: job for name, job in jobs.items() if name not in own},
            sandbox_jobs=sum(job["id"] not in own for job in new),
            results=self._results(),
            events=self._events(),
            ranges={
                each: str(self._relay.read(each, clinic=RANGE_CLINIC)["status"])
                for each in self._ranges
            },
            dead_letters=self._dead_letters() - self._known_dead,
            errors=self._errors(),
            left_open=len(self._open()),
            queued_at_the_end=self._queued(),
            rates={name: self._rate(name) for name in ("steady", "slow", "recovered")},
            before=self._rate("steady", 1 / 3),
            after=self._rate("recovered", 2 / 3),
        )

    def _jobs(self) -> Iterator[Job]:
        plain = TypeDeserializer()
        for item in self._rows():
            if item["sk"]["S"] != "JOB" or item["pk"]["S"] in self._known_rows:
                continue
            row = {name: plain.deserialize(value) for name, value in item.items()}
            completion = row.get("completion", {})
            yield Job(
                id=row["job_execution_id"],
                state=row["state"],
                accepted_at=_moment(row["accepted_at"]),
                completed_at=_moment(completion["completed_at"]) if completion else None,
                via=completion.get("delivered_via"),
                is_announced=row.get("notification") == "sent",
                result_key=completion["result"]["key"] if completion else None,
                range_id=row.get("range_id"),
            )

    def _rows(self) -> Iterator[Json]:
        pages = self.stack.aws.dynamodb.get_paginator("scan").paginate(TableName=self.stack.table)
        for page in pages:
            yield from page["Items"]

    def _results(self) -> frozenset[str]:
        pages = self.stack.aws.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.stack.bucket, Prefix="appointments/"
        )
        return frozenset(
            entry["Key"] for page in pages for entry in page.get("Contents", []) if entry["Size"]
        )

    def _events(self) -> Counter[str]:
        return Counter(
            event["detail"]["job_execution_id"]
            for event in self.log.all()[self._known_events :]
            if event["detail-type"] == FETCHED
        )

    def _dead_letters(self) -> int:
        urls = [url for name, url in self.stack.outputs.items() if name.endswith("FailuresUrl")]
        found = 0
        for url in urls:
            answer = self.stack.aws.sqs.get_queue_attributes(
                QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
            )
            found += int(answer["Attributes"]["ApproximateNumberOfMessages"])
        return found

    def _errors(self) -> list[str]:
        """Give the lines that functions logged as errors since the beginning of the phases."""
        began = int(min(phase.began for phase in self.phases) * 1000)
        prefix = f"/aws/lambda/{self.stack.stack_name}/"
        found: list[str] = []
        for group in self.stack.aws.logs.describe_log_groups(logGroupNamePrefix=prefix)[
            "logGroups"
        ]:
            pages = self.stack.aws.logs.get_paginator("filter_log_events").paginate(
                logGroupName=group["logGroupName"], filterPattern="ERROR", startTime=began
            )
            found += [event["message"][:500] for page in pages for event in page["events"]]
        return [line for line in found if '"level":"ERROR"' in line or "Traceback" in line]


def _processes_of(home: Path) -> Iterator[tuple[int, list[str], Mapping[str, str]]]:
    """Give the processes that a home's servers are, and that these started: id, words, variables."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError):
            words = _strings(folder / "cmdline")
            pairs = (each.partition("=") for each in _strings(folder / "environ"))
            variables = {name: value for name, _, value in pairs}
            is_ours = str(home) in " ".join(words) or str(home) in variables.get("HOME", "")
            if is_ours and "tools.local.leash" not in words:
                yield int(folder.name), words, variables


def _strings(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="replace").split("\0")


def _megabytes(pid: int) -> float:
    """Give what a process has in memory; 0 where it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# -------------------------------------------------------------------------------------------- telling


def document(load: Load, books: LoadBooks) -> Json:
    """Write down everything, as the head of this module says."""
    first = load.phases[0].began
    return {
        "machine": {"processors": os.cpu_count(), "python": platform.python_version()},
        "stack": load.told,
        "ramp": load.ramp,
        "phases": {each.name: _told(each, books, first) for each in books.phases},
        "recovery": recovery(books),
        "series": series(books),
        "problems": problems(books) + shortfalls(books),
    }


def _told(phase: Phase, books: LoadBooks, first: float) -> Json:
    calls = [call for call in books.calls if phase.covers(call.at)]
    accepted = [call for call in calls if call.status == ACCEPTED]
    ids = {call.job_id for call in accepted}
    jobs = [job for job in books.jobs.values() if job.id in ids]
    times = [job.completed_at - job.accepted_at for job in jobs if job.completed_at]
    refused = Counter(str(call.status) for call in calls if call.status != ACCEPTED)
    return {
        "began": round(phase.began - first, 1),
        "seconds": round(phase.ended - phase.began, 1),
        "upstream_seconds": phase.upstream_seconds,
        "robot_seconds": phase.robot_seconds,
        "callers": phase.callers,
        "accepted": len(accepted),
        "per_second": round(books.rates[phase.name], 2),
        "refused": dict(sorted(refused.items())),
        "gave_up": sum(call.is_last for call in calls if call.status != ACCEPTED),
        "latency_p50": quantile([call.seconds for call in accepted], 0.5),
        "latency_p99": quantile([call.seconds for call in accepted], 0.99),
        "completion_p50": quantile(times, 0.5),
        "completion_p99": quantile(times, 0.99),
        "completed_via": dict(Counter(str(job.via) for job in jobs)),
        "memory": growth(books.samples, phase),
    }


def table(told: Json) -> Table:
    """Show the phases beside each other."""
    shown = Table(title="Under load", title_justify="left")
    shown.add_column("")
    names = list(told["phases"])
    for name in names:
        shown.add_column(name, justify="right")
    rows: dict[str, Callable[[Json], object]] = {
        "Cobalt answers after, s": lambda each: each["upstream_seconds"],
        "its robot takes, s": lambda each: each["robot_seconds"],
        "callers": lambda each: each["callers"],
        "seconds": lambda each: each["seconds"],
        "accepted": lambda each: each["accepted"],
        "accepted a second": lambda each: each["per_second"],
        "refused": lambda each: _pairs(each["refused"]),
        "gave up after four tries": lambda each: each["gave_up"],
        "latency p50, p99, s": lambda each: f"{each['latency_p50']}, {each['latency_p99']}",
        "to completion p50, p99, s": lambda each: (
            f"{each['completion_p50']}, {each['completion_p99']}"
        ),
        "completed by": lambda each: _pairs(each["completed_via"]),
        "memory of workers, last to 2nd minute": lambda each: _ratios(each["memory"]),
    }
    for title, value in rows.items():
        shown.add_row(title, *(str(value(told["phases"][name])) for name in names))
    return shown


def _pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"


def _ratios(memory: Mapping[str, Json]) -> str:
    if not memory:
        return "too short"
    ratios = [each["ratio"] for each in memory.values()]
    return f"{statistics.median(ratios):.3f} ×, at most {max(ratios):.3f} ×"


def look_at_each_clinic(stack: Stack) -> None:
    """Let the reconciler measure how fresh each clinic is, at once instead of by the half-hour."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    event = {"scheduled_at": hour.isoformat()}
    stack.aws.functions.invoke(
        FunctionName=stack.outputs["ReconcileJobsName"], Payload=json.dumps(event).encode()
    )


def main(arguments: list[str]) -> int:
    """Run on a stack of its own; give 0 where everything holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of either phase (%(default)s)")
    given = parser.parse_args(arguments)
    forget_user_settings()
    processes.end_on_signals()
    console = Console(highlight=False)
    console.rule("Cobalt Relay: under load")
    try:
        with snapshot.session() as stack:
            log = EventLog(stack.aws, stack.outputs["EventLogUrl"])
            home = TESTS / str(os.getpid())
            load = Load(stack, home, Plan.of_minutes(given.minutes), log, say=console.print)
            told = document(load, load.run())
            look_at_each_clinic(stack)
            logs.keep_metrics(stack, logs.METRICS)
    except LocalError as error:
        console.print(f"\n{error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted.")
        return INTERRUPTED
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    console.print(table(told))
    for problem in told["problems"][:SHOWN]:
        console.print(f"  {problem}", markup=False, soft_wrap=True, style="red")
    if not told["problems"]:
        console.print("Every fetch ended as it should, and nothing grew.", style="bold green")
    return 1 if told["problems"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

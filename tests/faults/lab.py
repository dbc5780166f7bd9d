"""What makes processes of the relay: real adapters on the wire, a clock, and Cobalt's courier."""

import hashlib
import hmac
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import boto3
import pytest
import urllib3

from cobalt_relay.adapters import aws
from cobalt_relay.adapters.bus import Bus
from cobalt_relay.adapters.cobalt import Cobalt
from cobalt_relay.adapters.connections import Connections, Registry
from cobalt_relay.adapters.jobs import Jobs
from cobalt_relay.adapters.queue import FetchQueue
from cobalt_relay.adapters.ranges import Ranges
from cobalt_relay.adapters.results import Results
from cobalt_relay.adapters.secrets import Secrets
from cobalt_relay.adapters.snapshots import Snapshots
from cobalt_relay.adapters.table import Table
from cobalt_relay.models import Connection, ConnectionState, connection_id_of, utc_now
from cobalt_relay.services.announce import Announcer
from cobalt_relay.services.detect_changes import Clinics, DetectChanges
from cobalt_relay.services.fetch_appointments import FetchAppointments
from cobalt_relay.services.fetch_range import FetchRanges
from cobalt_relay.services.gather_ranges import GatherRanges
from cobalt_relay.services.look_after_ranges import LookAfterRanges
from cobalt_relay.services.receive_webhook import ReceiveWebhook
from cobalt_relay.services.reconcile_jobs import ReconcileJobs
from cobalt_relay.services.run_fetches import RunFetches
from cobalt_relay.services.standing import Standing
from cobalt_relay.services.take_in import TakeIn
from tests.faults.site import Site
from tests.faults.wire import Json, Line, Upstream, Wire
from tools.local import sandbox
from tools.local.aws import CREDENTIALS, REGION, Aws

KNOWN_CLINIC = "riverside"
"""Its connection is registered all the time."""
KNOWN_LABEL = "user_riverside"
FAR = timedelta(days=365)
NEW_CLINIC = "lakeside"
"""Its connection registers itself in each case."""
BROKEN_CLINIC = "old-mill"
"""Its link is broken: Cobalt refuses."""
DEADLINE = timedelta(minutes=10)
"""The shortest that the template takes: fewer looks until a job is overdue, and none of another
sort."""
SINGLE_FLIGHT = timedelta(seconds=60)
RETENTION = timedelta(days=30)
WEBHOOK_URLS = ("http://127.0.0.1:9/one", "http://127.0.0.1:9/two")
"""Two, for Cobalt lists an event once per URL. Nothing listens there, and nothing is sent there."""
CALL_SECONDS = 10.0


class Clock:
    """The real time, moved on by the cases: events of the sandbox have the real one."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.offset

    def seconds(self) -> float:
        """Of a clock that has no date."""
        return time.monotonic() + self.offset.total_seconds()

    def sleep(self, seconds: float) -> None:
        """Let time pass, at once."""
        self.offset += timedelta(seconds=seconds)

    def advance_to(self, moment: datetime) -> None:
        """Move on to a moment; never back."""
        self.offset = max(self.offset, moment - utc_now())


TOKEN_PATH = "/faults/tokens"
"""Of the known clinic."""
TOKEN_KEY = "alias/aws/ssm"
PATIENCES = (aws.PATIENT, aws.PROMPT, aws.UNHURRIED)


class Clients:
    """The clients of all functions, made as the relay makes them, each on the wire."""

    def __init__(self, wire: Wire) -> None:
        def on_wire[C](client: C) -> C:
            Line(wire, client)
            return client

        self.table = {each: on_wire(aws.dynamodb(each)) for each in PATIENCES}
        self.secrets = {each: on_wire(aws.secretsmanager(each)) for each in PATIENCES}
        self.bus = {each: on_wire(aws.events(each)) for each in PATIENCES}
        self.results = {each: on_wire(aws.s3(each)) for each in PATIENCES}
        self.tokens = on_wire(aws.ssm())
        self.queue = on_wire(aws.sqs())


class NothingMeasured:
    """In place of `Watch`: it reads at the end of a run, and nothing depends on it."""

    def run(self, minute: datetime, has_time: Callable[[], bool]) -> None:
        """Do nothing."""


class Lab:
    """Makes processes of the relay, cold or warm, on one site."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.wire = Wire()
        self.clock = Clock()
        self.box = Box(site.sandbox, site.webhook_key)
        self.aws = Aws(site.endpoint)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", site.endpoint)
            patch.setenv("AWS_DEFAULT_REGION", REGION)
            for name, value in CREDENTIALS.items():
                patch.setenv(name, value)
            patch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials it saw first
            self._clients = Clients(self.wire)
        self._upstream = Upstream(self.wire)
        self._warm = {each: self._secrets(each) for each in PATIENCES}
        access_token = self.box.access_tokens[KNOWN_CLINIC]
        self.known_connection = connection_id_of(access_token)
        self._connections(TOKEN_PATH).keep_token(self.known_connection, access_token)
        self.register_known_clinic()

    def register_known_clinic(self) -> None:
        """Write the row of a connection whose settings nobody has to ask for."""
        known = Connection(
            connection_id=self.known_connection,
            state=ConnectionState.ACTIVE,
            registered_at=utc_now(),
            access_token_reference_id=KNOWN_LABEL,
        )
        self._connections(TOKEN_PATH).put(known, due=utc_now() + FAR)

    def close(self) -> None:
        """Close the connections."""
        self._upstream.close()
        self.box.close()

    # ----------------------------------------------------------------- processes, as `bootstrap.py`

    def fetch_appointments(self, token_path: str, *, cold: bool) -> FetchAppointments:
        """A function instance of `fetch_appointments`."""
        return FetchAppointments(
            self._cobalt(),
            self._jobs(aws.PATIENT),
            self._connections(token_path),
            self._secrets_of(aws.PATIENT, cold=cold),
            self._standing(aws.PATIENT),
            SINGLE_FLIGHT,
            now=self.clock,
            sleep=self.clock.sleep,
        )

    def run_fetches(self, token_path: str, *, cold: bool) -> RunFetches:
        """A function instance of `run_fetches`."""
        return RunFetches(
            self.fetch_appointments(token_path, cold=cold),
            self._connections(token_path),
            self._jobs(aws.PATIENT),
            self._ranges(aws.PATIENT),
            self._gathering(aws.PATIENT),
            FetchQueue(self._clients.queue, self.site.queue),
            self._bus(aws.PATIENT),
            robots=1,
            now=self.clock,
        )

    def receive_webhook(self, *, cold: bool) -> ReceiveWebhook:
        """A function instance of `receive_webhook`."""
        return ReceiveWebhook(
            self._take_in(aws.PROMPT),
            self._secrets_of(aws.PROMPT, cold=cold),
            now=self.clock,
        )

    def reconcile_jobs(self, token_path: str, *, cold: bool) -> ReconcileJobs:
        """A function instance of `reconcile_jobs`."""
        connections = self._connections(token_path)
        secrets = self._secrets_of(aws.UNHURRIED, cold=cold)
        announcer = self._announcer(aws.UNHURRIED)
        queueing = FetchRanges(
            self._cobalt(),
            self._ranges(aws.PATIENT),
            FetchQueue(self._clients.queue, self.site.queue),
            connections,
            secrets,
            now=self.clock,
        )
        return ReconcileJobs(
            self._cobalt(),
            self._jobs(aws.UNHURRIED),
            connections,
            secrets,
            self._take_in(aws.UNHURRIED),
            announcer,
            LookAfterRanges(queueing, self._gathering(aws.UNHURRIED), announcer),
            NothingMeasured(),
            now=self.clock,
        )

    def detect_changes(self) -> DetectChanges:
        """A function instance of `detect_changes`."""
        s3 = self._clients.results[aws.UNHURRIED]
        return DetectChanges(
            self._jobs(aws.UNHURRIED),
            Clinics(Registry(self._table(aws.UNHURRIED)), ZoneInfo("America/New_York")),
            Results(s3, self.site.bucket),
            Snapshots(s3, self.site.bucket),
            self._bus(aws.UNHURRIED),
            now=self.clock,
            sleep=self.clock.sleep,
            each=map,  # one after the other: the calls are counted
        )

    def _cobalt(self) -> Cobalt:
        cobalt = Cobalt(self.box.url, clock=self.clock.seconds, sleep=self.clock.sleep)
        cobalt._session.mount("http://", self._upstream)
        return cobalt

    def _take_in(self, patience: aws.Patience) -> TakeIn:
        return TakeIn(
            self._jobs(patience),
            Results(self._clients.results[patience], self.site.bucket),
            self._announcer(patience),
            self._standing(patience),
            self._gathering(patience),
            now=self.clock,
            sleep=self.clock.sleep,
        )

    def _bus(self, patience: aws.Patience) -> Bus:
        return Bus(self._clients.bus[patience], self.site.bus)

    def _announcer(self, patience: aws.Patience) -> Announcer:
        return Announcer(self._jobs(patience), self._bus(patience), now=self.clock)

    def _standing(self, patience: aws.Patience) -> Standing:
        return Standing(Registry(self._table(patience)), now=self.clock)

    def _ranges(self, patience: aws.Patience) -> Ranges:
        return Ranges(self._table(patience), RETENTION)

    def _gathering(self, patience: aws.Patience) -> GatherRanges:
        announcer = self._announcer(patience)
        return GatherRanges(self._ranges(patience), self._jobs(patience), announcer, now=self.clock)

    def _table(self, patience: aws.Patience) -> Table:
        return Table(self._clients.table[patience], self.site.table)

    def _jobs(self, patience: aws.Patience) -> Jobs:
        return Jobs(self._table(patience), RETENTION, DEADLINE)

    def _connections(self, token_path: str) -> Connections:
        return Connections(
            self._table(aws.PATIENT), lambda: self._clients.tokens, token_path, TOKEN_KEY
        )

    def _secrets_of(self, patience: aws.Patience, *, cold: bool) -> Secrets:
        return self._secrets(patience) if cold else self._warm[patience]

    def _secrets(self, patience: aws.Patience) -> Secrets:
        return Secrets(
            self._clients.secrets[patience],
            self.site.credentials_arn,
            self.site.webhook_arn,
        )


class Box:
    """The sandbox's control interface, over one connection; Cobalt's courier is in here too."""

    def __init__(self, box: sandbox.Sandbox, webhook_key: str) -> None:
        where = urlsplit(box.url)
        self.url = box.url
        self.client_id = box.client_id
        self.client_secret = box.client_secret
        self.access_tokens = box.access_tokens
        self._webhook_key = webhook_key.encode()
        self._pool = urllib3.HTTPConnectionPool(
            where.hostname or "", where.port, timeout=CALL_SECONDS
        )

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def reset(self) -> None:
        """Forget everything. Deliver nothing by yourself."""
        self._call("POST", "/_sandbox/reset")
        self.set_fault("lost")
        credentials = {"client_id": self.client_id, "client_secret": self.client_secret}
        for url in WEBHOOK_URLS:
            self._call("POST", "/v1/webhook", {"webhook_url": url}, credentials)

    def set_fault(self, fault: str, **options: object) -> None:
        self._call("POST", "/_sandbox/faults", {"fault": fault, **options})

    def job(self, job_id: str) -> Json:
        """The job as the sandbox knows it."""
        job: Json = self._call("GET", f"/_sandbox/jobs/{job_id}").json()
        return job

    def jobs(self) -> list[str]:
        """The jobs since the reset, oldest first."""
        return [job["id"] for job in self._call("GET", "/_sandbox/jobs").json()["jobs"]]

    def event_body(self, event_id: str) -> bytes:
        """The bytes that Cobalt signs."""
        return self._call("GET", f"/_sandbox/events/{event_id}/body").data

    def emit(self, event_type: str, clinic: str, job_id: str, data: Json) -> str:
        """Record an event of a job that was silent."""
        body = {"type": event_type, "clinic": clinic, "job_id": job_id, "data": data}
        return str(self._call("POST", "/_sandbox/events", body).json()["event_id"])

    def sign(self, body: bytes) -> str:
        """Sign as Cobalt does."""
        return hmac.new(self._webhook_key, body, hashlib.sha256).hexdigest()

    def _call(
        self, method: str, path: str, body: Json | None = None, headers: Json | None = None
    ) -> urllib3.BaseHTTPResponse:
        answer = self._pool.request(method, path, json=body, headers=headers)
        assert answer.status < 300, f"the sandbox answered {answer.status} to {method} {path}"
        return answer

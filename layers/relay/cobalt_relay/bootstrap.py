"""Puts the use cases together, on first use, once per function instance."""

import gc
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from cobalt_relay.errors import EnvironmentIncomplete
from cobalt_relay.settings import Settings

if TYPE_CHECKING:
    from cobalt_relay.adapters.aws import Patience
    from cobalt_relay.adapters.bus import Bus
    from cobalt_relay.adapters.cobalt import Cobalt
    from cobalt_relay.adapters.connections import Connections
    from cobalt_relay.adapters.jobs import Jobs
    from cobalt_relay.adapters.queue import FetchQueue
    from cobalt_relay.adapters.ranges import Ranges
    from cobalt_relay.adapters.secrets import Secrets
    from cobalt_relay.adapters.table import Table
    from cobalt_relay.services.announce import Announcer
    from cobalt_relay.services.detect_changes import DetectChanges
    from cobalt_relay.services.fetch_appointments import FetchAppointments
    from cobalt_relay.services.fetch_range import FetchRanges
    from cobalt_relay.services.freshen import Freshen
    from cobalt_relay.services.gather_ranges import GatherRanges
    from cobalt_relay.services.plan_fetches import PlanFetches
    from cobalt_relay.services.read_appointments import ReadAppointments
    from cobalt_relay.services.read_jobs import ReadJobs
    from cobalt_relay.services.receive_webhook import ReceiveWebhook
    from cobalt_relay.services.reconcile_jobs import ReconcileJobs
    from cobalt_relay.services.rotate_webhook_secret import RotateWebhookSecret
    from cobalt_relay.services.run_fetches import RunFetches
    from cobalt_relay.services.standing import Standing
    from cobalt_relay.services.take_in import TakeIn

# Imports stand inside the functions: a handler loads what its own path needs, and nothing else.
# ruff: noqa: PLC0415


def warm_up(*use_cases: Callable[[], object]) -> None:
    """Put use cases together ahead of the first call, at the end of a handler's module.

    Lambda initialises with more CPU than a small function has later, and before a request waits for
    it; SnapStart keeps what was made. Nothing is called, and nothing is done where the environment
    is not a function's. What is there by then is not looked at any more when garbage is sought.
    """
    with suppress(EnvironmentIncomplete):
        settings()
        for make in use_cases:
            make()
    gc.freeze()
    from cobalt_relay.restoring import register_hooks

    register_hooks()


@cache
def settings() -> Settings:
    """Give the settings; `EnvironmentIncomplete` where a variable is missing."""
    return Settings.from_environment()


@cache
def fetch_appointments() -> "FetchAppointments":
    """Give the use case behind `POST /v1/appointments/fetch`, and behind each scheduled fetch."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.fetch_appointments import FetchAppointments

    cobalt = _cobalt()
    return FetchAppointments(
        cobalt,
        _jobs(aws.PATIENT),
        _connections(),
        _secrets(aws.PATIENT),
        _standing(aws.PATIENT),
        settings().single_flight,
    )


@cache
def fetch_ranges() -> "FetchRanges":
    """Give the use case behind `POST /v1/appointments/fetch/range`."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.fetch_range import FetchRanges

    cobalt = _cobalt()
    secrets = _secrets(aws.PATIENT)
    return FetchRanges(cobalt, _ranges(aws.PATIENT), _queue(), _connections(), secrets)


@cache
def read_jobs() -> "ReadJobs":
    """Give the use case behind `GET /v1/appointments/fetch/{job_execution_id}`."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.results import ResultLinks
    from cobalt_relay.services.read_jobs import ReadJobs

    return ReadJobs(
        _jobs(aws.PATIENT),
        _ranges(aws.PATIENT),
        _secrets(aws.PATIENT),
        ResultLinks(aws.s3(aws.SIGNING)),
        settings().retention,
    )


@cache
def read_appointments() -> "ReadAppointments":
    """Give the use case behind `GET /v1/appointments`."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.connections import Registry
    from cobalt_relay.adapters.snapshots import Snapshots
    from cobalt_relay.services.read_appointments import ReadAppointments

    snapshots = Snapshots(aws.s3(aws.PARALLEL), settings().bucket_name)
    connections = Registry(_table(aws.PATIENT))
    return ReadAppointments(snapshots, connections, _secrets(aws.PATIENT), freshen)


@cache
def freshen() -> "Freshen":
    """Give the use case that has days fetched anew, for a reader who wants no older ones."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.freshen import Freshen

    return Freshen(fetch_appointments(), fetch_ranges(), _jobs(aws.PATIENT))


@cache
def receive_webhook() -> "ReceiveWebhook":
    """Give the use case behind `POST /v1/webhooks/cobalt`."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.receive_webhook import ReceiveWebhook

    return ReceiveWebhook(_take_in(aws.PROMPT), _secrets(aws.PROMPT))


@cache
def reconcile_jobs() -> "ReconcileJobs":
    """Give the use case that looks after what is open, every minute."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.look_after_ranges import LookAfterRanges
    from cobalt_relay.services.reconcile_jobs import ReconcileJobs
    from cobalt_relay.services.watch import Watch

    return ReconcileJobs(
        _cobalt(),
        _jobs(aws.UNHURRIED),
        _connections(),
        _secrets(aws.UNHURRIED),
        _take_in(aws.UNHURRIED),
        _announcer(aws.UNHURRIED),
        LookAfterRanges(fetch_ranges(), _gathering(aws.UNHURRIED), _announcer(aws.UNHURRIED)),
        Watch(_jobs(aws.UNHURRIED), _connections()),
    )


@cache
def plan_fetches() -> "PlanFetches":
    """Give the use case that schedules invoke."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.plan_fetches import PlanFetches
    from cobalt_relay.settings import ZonedSettings

    own = ZonedSettings.from_environment()
    return PlanFetches(
        fetch_appointments(),
        _connections(),
        _queue(),
        _bus(aws.PATIENT),
        own.default_time_zone,
    )


@cache
def run_fetches() -> "RunFetches":
    """Give the use case that works the queue off."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.services.run_fetches import RunFetches

    return RunFetches(
        fetch_appointments(),
        _connections(),
        _jobs(aws.PATIENT),
        _ranges(aws.PATIENT),
        _gathering(aws.PATIENT),
        _queue(),
        _bus(aws.PATIENT),
        settings().fetches_per_connection,
    )


@cache
def detect_changes() -> "DetectChanges":
    """Give the use case that the event `Appointments Fetched` starts."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.connections import Registry
    from cobalt_relay.adapters.results import Results
    from cobalt_relay.adapters.snapshots import Snapshots
    from cobalt_relay.services.detect_changes import Clinics, DetectChanges
    from cobalt_relay.settings import ZonedSettings

    own = ZonedSettings.from_environment()
    s3 = aws.s3(aws.UNHURRIED)
    return DetectChanges(
        _jobs(aws.UNHURRIED),
        Clinics(Registry(_table(aws.UNHURRIED)), own.default_zone),
        Results(s3, own.bucket_name),
        Snapshots(s3, own.bucket_name),
        _bus(aws.UNHURRIED),
    )


@cache
def rotate_webhook_secret() -> "RotateWebhookSecret":
    """Give the use case that Secrets Manager invokes."""
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.front_door import FrontDoor
    from cobalt_relay.adapters.rotation import RotatedSecret
    from cobalt_relay.services.rotate_webhook_secret import RotateWebhookSecret
    from cobalt_relay.settings import RotationSettings

    own = RotationSettings.from_environment()
    return RotateWebhookSecret(
        _cobalt(),
        RotatedSecret(aws.secretsmanager(aws.UNHURRIED), own.webhook_secret_arn),
        _secrets(aws.PATIENT),
        FrontDoor(own.webhook_url),
        own.webhook_url,
    )


@cache
def _cobalt() -> "Cobalt":
    from cobalt_relay.adapters.cobalt import Cobalt
    from cobalt_relay.observability import upstream_answered

    return Cobalt(settings().cobalt_base_url, tell=upstream_answered)


@cache
def _table(patience: "Patience") -> "Table":
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.table import Table

    return Table(aws.dynamodb(patience), settings().table_name)


def _take_in(patience: "Patience") -> "TakeIn":
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.results import Results
    from cobalt_relay.services.take_in import TakeIn

    results = Results(aws.s3(patience), settings().bucket_name)
    announcer, gathering = _announcer(patience), _gathering(patience)
    return TakeIn(_jobs(patience), results, announcer, _standing(patience), gathering)


@cache
def _announcer(patience: "Patience") -> "Announcer":
    from cobalt_relay.services.announce import Announcer

    return Announcer(_jobs(patience), _bus(patience))


def _gathering(patience: "Patience") -> "GatherRanges":
    from cobalt_relay.services.gather_ranges import GatherRanges

    return GatherRanges(_ranges(patience), _jobs(patience), _announcer(patience))


def _standing(patience: "Patience") -> "Standing":
    from cobalt_relay.adapters.connections import Registry
    from cobalt_relay.services.standing import Standing

    return Standing(Registry(_table(patience)))


@cache
def _queue() -> "FetchQueue":
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.queue import FetchQueue

    return FetchQueue(aws.sqs(), settings().fetch_queue_url)


def _ranges(patience: "Patience") -> "Ranges":
    from cobalt_relay.adapters.ranges import Ranges

    return Ranges(_table(patience), settings().retention)


def _jobs(patience: "Patience") -> "Jobs":
    from cobalt_relay.adapters.jobs import Jobs

    return Jobs(_table(patience), settings().retention, settings().job_deadline)


@cache
def _connections() -> "Connections":
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.connections import Connections

    own = settings()
    return Connections(_table(aws.PATIENT), aws.ssm, own.token_path, own.token_key_arn)


def _bus(patience: "Patience") -> "Bus":
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.bus import Bus

    return Bus(aws.events(patience), settings().event_bus_name)


def _secrets(patience: "Patience") -> "Secrets":
    from cobalt_relay.adapters import aws
    from cobalt_relay.adapters.secrets import Secrets

    return Secrets(
        aws.secretsmanager(patience),
        settings().credentials_secret_arn,
        settings().webhook_secret_arn,
    )

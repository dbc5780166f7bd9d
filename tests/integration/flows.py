"""Small flows through the deployed stack, each of which tells what came of it.

With all permissions a flow gives what its decorator says. What is stored they see with the rights
of the operator, never with those of a function. What fails on the way is an outcome like any other.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import wraps
from http import HTTPStatus
from itertools import count
from typing import Any

import requests
from boto3.dynamodb.types import TypeSerializer

from cobalt_relay.adapters.layout import due_attributes, range_item
from cobalt_relay.adapters.secrets import REFRESH_SECONDS
from cobalt_relay.models import (
    Connection,
    ConnectionChange,
    ConnectionState,
    FetchRange,
    FetchWork,
    RangeState,
    connection_id_of,
    iso,
    utc_now,
)
from cobalt_relay.places import snapshot_key
from cobalt_relay.snapshots import Snapshot
from tests.integration.support import CALL_SECONDS, Item, Relay, eventually, record_of, work_for
from tests.integration.test_webhook import a_result, signed
from tools.local import rotation
from tools.local.eventlog import EventLog
from tools.local.rotation import RotationFailedError
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack, configure

DUE = due_attributes("", datetime(2025, 1, 1, tzinfo=UTC))
"""Of a row that is to be looked at now."""

type Outcome = dict[str, object]
type Flow = Callable[["Flows"], Outcome]

FLOWS: dict[str, tuple[Flow, Outcome]] = {}
"""Each flow by its name, with its outcome while nothing is missing."""


def gives(**outcome: object) -> Callable[[Flow], Flow]:
    """Say what a flow gives. Results are not delivered while it runs: it is alone with its own."""

    def register(flow: Flow) -> Flow:
        @wraps(flow)
        def run(flows: "Flows") -> Outcome:
            flows.sandbox.add_fault("lost")
            try:
                return flow(flows)
            finally:
                flows.sandbox.clear_faults()

        FLOWS[flow.__name__] = run, dict(outcome)
        return run

    return register


@dataclass
class Flows:
    """What the flows share."""

    stack: Stack
    relay: Relay
    events: EventLog
    _days: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def sandbox(self) -> Sandbox:
        return self.stack.sandbox

    def run(self, name: str) -> Outcome:
        """Run a flow by its name."""
        flow, _ = FLOWS[name]
        return flow(self)

    # -------------------------------------------------------------------------- fetch_appointments

    @gives(answer=202, job="ACCEPTED", token_kept=True, registered=True)
    def first_fetch_of_a_connection(self) -> Outcome:
        """On a new function instance, which has neither the secret nor the connection in memory."""
        connection_id = connection_id_of(self.stack.access_tokens["harbor"])
        self._forget_connection(connection_id)
        self.restart("FetchAppointments")
        answer = self.relay.fetch(self.window(), clinic="harbor")
        return {
            "answer": answer.status_code,
            "job": self._state_of_job(answer.json().get("job_execution_id")),
            "token_kept": self._has_token(connection_id),
            "registered": self.relay.item(f"CONNECTION#{connection_id}") is not None,
        }

    @gives(first=202, again=202, same_job=True)
    def fetch_under_a_key_twice(self) -> Outcome:
        window, key = self.window(), str(uuid.uuid4())
        first, again = (self.relay.fetch(window, key=key) for _ in range(2))
        return {
            "first": first.status_code,
            "again": again.status_code,
            "same_job": first.text == again.text,
        }

    @gives(answer=401, request="FAILED", token_kept=False)
    def fetch_that_cobalt_refuses(self) -> Outcome:
        stranger = f"stranger-{uuid.uuid4()}"
        headers = self.stack.headers("riverside") | {"access_token": stranger}
        return self._refused(stranger, self.relay.fetch(self.window(), headers=headers))

    # ---------------------------------------------------------------------------- read_appointments

    @gives(answer=200, same_job=True)
    def job_is_read(self) -> Outcome:
        job_id = self._fetched()
        url = f"{self.stack.api_url}/appointments/fetch/{job_id}"
        headers = self.stack.headers("riverside")
        answer = requests.get(url, headers=headers, timeout=CALL_SECONDS)
        return {
            "answer": answer.status_code,
            "same_job": answer.json().get("job_execution_id") == job_id,
        }

    @gives(answer=200, opened=200, same_bytes=True)
    def result_is_read_by_its_link(self) -> Outcome:
        return self._read_by_its_link(self._delivered())

    @gives(answer=200, opened=200, same_bytes=True)
    def result_without_a_version_is_read_by_its_link(self) -> Outcome:
        """As one of which only the place is known, after a crash between two deliveries."""
        job_id, body = self._delivered()
        self._forget_version(job_id)
        return self._read_by_its_link((job_id, body))

    @gives(answer=200, count=1)
    def days_are_read(self) -> Outcome:
        window = self.window()
        item = {"id": "appt_1", "datetime": f"{window['start_date']}T09:00:00-05:00"}
        self.relay.keep_days("riverside", window, [item])
        answer = self.relay.appointments(window)
        return {
            "answer": answer.status_code,
            "count": len(answer.json().get("appointments", ())),
        }

    @gives(answer=202, job="ACCEPTED", token_kept=True)
    def days_of_a_new_connection_are_fetched_for_a_reader(self) -> Outcome:
        """On a new function instance, which does not remember the connection."""
        connection_id = connection_id_of(self.stack.access_tokens["harbor"])
        self._forget_connection(connection_id)
        self.restart("ReadAppointments")
        answer = self.relay.appointments({**self.window(), "max_age": "60"}, clinic="harbor")
        [job] = answer.json().get("jobs") or [{}]
        return {
            "answer": answer.status_code,
            "job": self._state_of_job(job.get("job_execution_id")),
            "token_kept": self._has_token(connection_id),
        }

    @gives(answer=401, request="FAILED", token_kept=False)
    def refresh_that_cobalt_refuses(self) -> Outcome:
        stranger = f"stranger-{uuid.uuid4()}"
        query = {**self.window(), "max_age": "60"}
        answer = self.relay.appointments(query, headers={"access_token": stranger})
        return self._refused(stranger, answer)

    @gives(answer=202, is_range=True)
    def many_days_are_fetched_for_a_reader(self) -> Outcome:
        start = self.window()["start_date"]
        window = {"start_date": start, "end_date": f"{start[:-2]}28"}
        answer = self.relay.appointments({**window, "max_age": "60"}, clinic="lakeside")
        self.relay.settle()
        [work] = answer.json().get("jobs") or [{}]
        return {
            "answer": answer.status_code,
            "is_range": str(work.get("job_execution_id")).startswith("range_"),
        }

    # ------------------------------------------------------------------------------ receive_webhook

    @gives(answer=200, job="COMPLETED", notification="sent", kept=True)
    def result_is_delivered(self) -> Outcome:
        job_id = self._fetched()
        answer = self._deliver(a_result(job_id))
        row = self.relay.job(job_id) or {}
        return {
            "answer": answer.status_code,
            "job": row.get("state"),
            "notification": row.get("notification"),
            "kept": any(job_id in key for key in self.relay.object_keys("appointments/")),
        }

    @gives(answer=200, kept=True)
    def other_event_is_delivered(self) -> Outcome:
        event_id = f"evt_{uuid.uuid4().hex}"
        answer = self._deliver(a_result("", id=event_id, type="access_token.updated", data={}))
        return {
            "answer": answer.status_code,
            "kept": any(event_id in key for key in self.relay.object_keys("webhooks/")),
        }

    @gives(answer=401)
    def forged_event_is_delivered(self) -> Outcome:
        """To a new instance: one that has just looked for other keys would not look again."""
        self.restart("ReceiveWebhook")
        signature = {"cobalt-verification": "0" * 64}
        return {"answer": self.relay.webhook(a_result(""), signature).status_code}

    # ------------------------------------------------------------------------ rotate_webhook_secret

    @gives(created=True, current=True)
    def webhook_secret_is_rotated(self) -> Outcome:
        """To a key that Cobalt has made already: the function need not wait for its receivers."""
        self.sandbox.rotate_webhook_secret()
        manager, arn = self.stack.aws.secretsmanager, self.stack.outputs["WebhookSecretArn"]
        token = rotation.stage(self.stack, anew=True)
        try:
            created = self._takes("createSecret", token)
            self._takes("finishSecret", token)
            key = json.loads(manager.get_secret_value(SecretId=arn)["SecretString"])
        finally:
            labels = manager.describe_secret(SecretId=arn)["VersionIdsToStages"]
            if "AWSPENDING" in labels.get(token, []):
                manager.update_secret_version_stage(
                    SecretId=arn, VersionStage="AWSPENDING", RemoveFromVersionId=token
                )
            configure(self.stack)
        is_current = key["webhook_secret_key"] == self.sandbox.webhook_secret()["current"]
        return {"created": created, "current": is_current}

    # --------------------------------------------------------------------------------- plan_fetches

    @gives(messages=1)
    def schedule_is_planned(self) -> Outcome:
        return {"messages": self._planned(self._plan())}

    @gives(planned=True)
    def schedule_of_all_is_planned(self) -> Outcome:
        return {"planned": bool(self._planned(self._plan() | {"connections": "all"}))}

    @gives(failed="unknown_connection", announced=True)
    def scheduled_fetch_of_an_unknown_connection(self) -> Outcome:
        unknown = f"conn_{uuid.uuid4().hex}"
        told = self._invoke("PlanFetches", self._plan() | {"connections": [unknown]}) or {}
        return {
            "failed": told.get("failed", {}).get(unknown),
            "announced": self._was_announced("connection_id", unknown),
        }

    # ---------------------------------------------------------------------------------- run_fetches

    @gives(failed=[], job="ACCEPTED")
    def queued_fetch_is_made(self) -> Outcome:
        work = self.work()
        failed = self.run_fetches(work)
        request = self.relay.item(f"REQUEST#{work.request_id(0)}") or {}
        return {"failed": failed, "job": self._state_of_job(request.get("job_execution_id"))}

    @gives(failed=[], announced=True)
    def queued_fetch_of_an_unknown_connection(self) -> Outcome:
        unknown = f"conn_{uuid.uuid4().hex}"
        failed = self.run_fetches(self.work(unknown))
        return {"failed": failed, "announced": self._was_announced("connection_id", unknown)}

    @gives(failed=[])
    def queued_fetch_is_put_off(self) -> Outcome:
        """It comes back in a quarter of an hour, when nobody of here is left."""
        later = utc_now() + timedelta(hours=1)
        return {"failed": self.run_fetches(self.work().model_copy(update={"not_before": later}))}

    @gives(again=True, hidden=True)
    def queued_fetch_comes_again_later(self) -> Outcome:
        """While Lambda does not look into the queue."""
        sqs, queue = self.stack.aws.sqs, self.stack.outputs["FetchQueueUrl"]
        work = self.work()
        # Of this clinic alone: a message of another's may be worked off at this moment.
        self.sandbox.add_fault("rate_limited", count=1, clinic="riverside")
        with self._nobody_at_the_queue():
            sqs.send_message(QueueUrl=queue, MessageBody=work.model_dump_json())
            [message] = self._seen_in_queue(work)
            again = self.run_fetches(work, message["ReceiptHandle"])
            left = self._seen_in_queue(work)
            sqs.purge_queue(QueueUrl=queue)
        self.relay.free_robots()
        return {"again": again == [""], "hidden": not left}

    # -------------------------------------------------------------------------------------- ranges

    @gives(answer=202)
    def range_is_accepted(self) -> Outcome:
        answer = self.relay.fetch_range(self.window(), clinic="lakeside")
        self.relay.settle()
        return {"answer": answer.status_code}

    # ----------------------------------------------------------------------------------- suspension

    @gives(answer=200, suspended=True)
    def broken_link_is_told(self) -> Outcome:
        """Of a connection that stands there for this alone."""
        connection_id, label = f"conn_{uuid.uuid4().hex}", f"label-{uuid.uuid4()}"
        self._put_connection(connection_id, label)
        answer = self._deliver(
            a_result(
                "",
                id=f"evt_{uuid.uuid4().hex}",
                type="access_token.login_required",
                access_token_reference_id=label,
                data={},
            )
        )
        row = self.relay.item(f"CONNECTION#{connection_id}") or {}
        self.relay.forget(f"CONNECTION#{connection_id}")
        return {"answer": answer.status_code, "suspended": row.get("state") == "login_required"}

    # ------------------------------------------------------------------------------- reconcile_jobs

    @gives(measured=True)
    def freshness_is_measured(self) -> Outcome:
        told = self._invoke("ReconcileJobs", {"scheduled_at": "2026-01-01T00:00:00Z"})
        return {"measured": told is not None and "not_measured" not in told}

    @gives(job="FAILED")
    def open_job_of_a_suspended_connection_is_ended(self) -> Outcome:
        self.sandbox.add_fault("silent", count=1)
        job_id, now = self._fetched(), utc_now()
        connection_id = connection_id_of(self.stack.access_tokens["riverside"])
        change = ConnectionChange(
            change_id=f"{connection_id}@{iso(now)}",
            connection_id=connection_id,
            state=ConnectionState.LOGIN_REQUIRED,
            changed_at=now,
        )
        key = f"CHANGE#{change.change_id}"
        self._put(key, change.model_dump(mode="json", exclude_none=True) | DUE)

        def look() -> Outcome:
            return {"job": self._state_of_job(job_id)}

        outcome = self._reconciled("open_job_of_a_suspended_connection_is_ended", look)
        self.relay.forget(key)
        return outcome

    @gives(queued=True)
    def range_is_queued_whole(self) -> Outcome:
        plan = self.work(f"conn_{uuid.uuid4().hex}").plan
        key = f"RANGE#{plan.range_id}"
        found = FetchRange(plan=plan, state=RangeState.ACCEPTED)
        self._put(key, range_item(found) | DUE)

        def look() -> Outcome:
            return {"queued": (self.relay.item(key) or {}).get("queued", False)}

        return self._reconciled("range_is_queued_whole", look)

    @gives(job="COMPLETED", notification="sent", kept=True)
    def lost_result_is_polled(self) -> Outcome:
        job_id = self._finished(self._fetched())["id"]
        self.stack.let_time_pass(f"JOB#{job_id}")

        def look() -> Outcome:
            row = self.relay.job(job_id) or {}
            return {
                "job": row.get("state"),
                "notification": row.get("notification"),
                "kept": any(job_id in key for key in self.relay.object_keys("appointments/")),
            }

        return self._reconciled("lost_result_is_polled", look)

    @gives(request="ACCEPTED", archived=True)
    def unanswered_fetch_is_swept(self) -> Outcome:
        """And a second result of a job that has ended is come across, and archived."""
        known = {job["id"] for job in self.sandbox.jobs()}
        self.sandbox.add_fault("hang_up", count=1)
        answer = self.relay.fetch(self.window())
        request = f"REQUEST#{answer.headers['x-request-id']}"
        [asked] = {job["id"] for job in self.sandbox.jobs()} - known
        self._finished(asked)
        ended = self._fetched()
        second = self._finished(ended)["event_id"]
        self._deliver(a_result(ended))
        self.stack.let_time_pass(request)

        def look() -> Outcome:
            return {
                "request": (self.relay.item(request) or {}).get("state"),
                "archived": any(second in key for key in self.relay.object_keys("webhooks/")),
            }

        outcome = self._reconciled("unanswered_fetch_is_swept", look)
        self.relay.forget(request)
        return outcome

    # ------------------------------------------------------------------------------- detect_changes

    @gives(day=True, changed=True, told=True, again=True)
    def changes_are_told(self) -> Outcome:
        """Of a day that is fetched twice, the second time by two runs."""
        window = self.window()
        with self._nobody_at_the_bus():
            first, second = (self._fetched_again(window, status) for status in ("PEN", "ARR"))
            self._detected(first)
            self._detected(second)
            told = self._was_announced("details", self._details_of(second))
            again = self._detected(second)
        connection_id = connection_id_of(self.stack.access_tokens["riverside"])
        key = snapshot_key(connection_id, date.fromisoformat(window["start_date"]))
        is_there = key in self.relay.object_keys(key)
        statuses = (
            [each.status for each in Snapshot.read(self.relay.object(key)).appointments]
            if is_there
            else []
        )
        return {
            "day": is_there,
            "changed": statuses == ["ARR"],
            "told": told,
            "again": again,
        }

    @gives(detected=True)
    def changes_by_a_result_without_a_version(self) -> Outcome:
        with self._nobody_at_the_bus():
            job_id = self._fetched_again(self.window(), "PEN")
            self._forget_version(job_id)
            return {"detected": self._detected(job_id)}

    # -------------------------------------------------------------------------- all that runs async

    @gives(kept=True)
    def failed_run_is_kept_for_the_operator(self) -> Outcome:
        mark = uuid.uuid4().hex
        self.stack.aws.functions.invoke(
            FunctionName=self.stack.outputs["PlanFetchesName"],
            InvocationType="Event",
            Payload=json.dumps({"connections": mark}).encode(),
        )
        return {"kept": self._take_from_failures(mark)}

    @gives(started=True)
    def schedule_starts_a_run(self) -> Outcome:
        mark = f"conn_{uuid.uuid4().hex}"
        scheduler = self.stack.aws.scheduler
        name = self.stack.outputs["ScheduleName"]
        target: Any = scheduler.get_schedule(Name=name)["Target"]
        plan = self._plan() | {"connections": [mark]}
        scheduler.create_schedule(
            Name=f"{name}-once-{mark[-8:]}",
            ScheduleExpression="at(2025-01-01T00:00:00)",
            FlexibleTimeWindow={"Mode": "OFF"},
            ActionAfterCompletion="DELETE",
            Target=target | {"Input": json.dumps(plan)},
        )
        return {"started": self._was_announced("connection_id", mark, wait=True)}

    # ------------------------------------------------------------------------------------ the tools

    def restart(self, function: str) -> None:
        """Make new instances of a function: they remember no secret, no token, no connection."""
        functions, name = self.stack.aws.functions, self.stack.outputs[f"{function}Name"]
        environment = functions.get_function_configuration(FunctionName=name)["Environment"]
        variables = environment["Variables"] | {"RESTARTED": uuid.uuid4().hex}
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": variables}
        )

    def window(self) -> dict[str, str]:
        """A window that no other flow asked for."""
        day = next(self._days)
        year, month = 1990 + day // 12, 1 + day % 12
        return {"start_date": f"{year}-{month:02}-01", "end_date": f"{year}-{month:02}-03"}

    def _plan(self) -> Item:
        connection_id = connection_id_of(self.stack.access_tokens["riverside"])
        window = {"from_day": -next(self._days), "days": 2}
        return {"connections": [connection_id], **window, "spread_minutes": 720}

    def _refused(self, token: str, answer: requests.Response) -> Outcome:
        """What is left of a fetch that Cobalt refused; afterwards nothing is."""
        connection_id = connection_id_of(token)
        request = f"REQUEST#{answer.headers['x-request-id']}"
        outcome: Outcome = {
            "answer": answer.status_code,
            "request": (self.relay.item(request) or {}).get("state"),
            "token_kept": self._has_token(connection_id),
        }
        self.relay.forget(request)
        self._forget_connection(connection_id)
        return outcome

    def _fetched(self) -> str:
        """A job of riverside's, which is open."""
        answer = self.relay.fetch(self.window())
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_execution_id"])

    def _fetched_again(self, window: Item, status: str) -> str:
        """A job of riverside's that brought one appointment of its first day."""
        answer = self.relay.fetch(window)
        job_id = str(answer.json()["job_execution_id"])
        appointment = {"id": "appt_1", "datetime": f"{window['start_date']}T12:00:00Z"}
        appointments = [appointment | {"status": status}]
        data = {"success": True, "appointment_count": 1, **window, "appointments": appointments}
        self._deliver(a_result(job_id, data=data))
        return job_id

    def _detected(self, job_id: str) -> bool:
        """Have the changes of a job looked for; tell whether that succeeded."""
        event = {"detail": {"job_execution_id": job_id}}
        answer = self.stack.aws.functions.invoke(
            FunctionName=self.stack.outputs["DetectChangesName"], Payload=json.dumps(event).encode()
        )
        return "FunctionError" not in answer

    def _details_of(self, job_id: str) -> object:
        """Where the changes of a job are kept, as its event says; None where they are not."""
        keys = [key for key in self.relay.object_keys("changes/") if job_id in key]
        bucket = self.stack.bucket
        return {"bucket": bucket, "key": keys[0], "version_id": None} if keys else None

    @contextmanager
    def _nobody_at_the_bus(self) -> Iterator[None]:
        """No event starts the function of itself."""
        events, bus = self.stack.aws.events, self.stack.bus
        rules = events.list_rules(EventBusName=bus)["Rules"]
        [rule] = [each["Name"] for each in rules if "DetectChanges" in each["Name"]]
        events.disable_rule(Name=rule, EventBusName=bus)
        try:
            yield
        finally:
            events.enable_rule(Name=rule, EventBusName=bus)

    def _delivered(self) -> tuple[str, bytes]:
        """A job of riverside's that has completed, and what was delivered for it."""
        job_id = self._fetched()
        body = a_result(job_id)
        assert self._deliver(body).status_code == 200
        return job_id, body

    def _forget_version(self, job_id: str) -> None:
        """Let only the place of a job's result be known."""
        self.stack.aws.dynamodb.update_item(
            TableName=self.stack.table,
            Key={"pk": {"S": f"JOB#{job_id}"}, "sk": {"S": "JOB"}},
            UpdateExpression="REMOVE completion.#result.version_id",
            ExpressionAttributeNames={"#result": "result"},
        )

    def _read_by_its_link(self, delivered: tuple[str, bytes]) -> Outcome:
        """Read a job, and its result as whoever has the link and nothing else."""
        job_id, body = delivered
        url = f"{self.stack.api_url}/appointments/fetch/{job_id}"
        answer = requests.get(url, headers=self.stack.headers("riverside"), timeout=CALL_SECONDS)
        opened = requests.get(answer.json()["result_url"], timeout=CALL_SECONDS)
        return {
            "answer": answer.status_code,
            "opened": opened.status_code,
            "same_bytes": opened.content == body,
        }

    def _finished(self, job_id: str) -> Item:
        """Wait for the sandbox's robot; give its job."""
        found = lambda: (job := self.sandbox.job(job_id))["state"] != "running" and job  # noqa: E731
        return dict(eventually(found) or {})

    def _state_of_job(self, job_id: str | None) -> object:
        return (self.relay.job(job_id) or {}).get("state") if job_id else None

    def _deliver(self, body: bytes) -> requests.Response:
        """Deliver, and again where it was refused, as Cobalt does.

        After a rotation, a function that had a misfit looks for the new key a second later.
        """
        answer = self.relay.webhook(body, signed(self.stack, body))
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            time.sleep(REFRESH_SECONDS)
            answer = self.relay.webhook(body, signed(self.stack, body))
        return answer

    def _invoke(self, function: str, event: Item) -> Item | None:
        """Invoke a function and give what it tells; None where it fails."""
        answer = self.stack.aws.functions.invoke(
            FunctionName=self.stack.outputs[f"{function}Name"], Payload=json.dumps(event).encode()
        )
        told: Item = json.loads(answer["Payload"].read())
        return None if "FunctionError" in answer else told

    def _reconciled(self, flow: str, look: Callable[[], Outcome]) -> Outcome:
        """Reconcile; give what is seen then.

        Where nothing failed, the run of the minute may have taken the row, and still be at it.
        """
        told = self._invoke("ReconcileJobs", {})
        if told is not None and not told.get("failed"):
            with suppress(AssertionError):
                eventually(lambda: look() == FLOWS[flow][1])
        return look()

    def _planned(self, plan: Item) -> int:
        """Carry out a plan; tell how many messages there were. They are not to be worked off."""
        told = self._invoke("PlanFetches", plan) or {}
        self.relay.settle()
        return int(told.get("messages", 0))

    def work(self, connection_id: str = "") -> FetchWork:
        """A message of a range of its own, for riverside unless told otherwise."""
        known = connection_id_of(self.stack.access_tokens["riverside"])
        days = self.window()
        return work_for(connection_id or known, days["start_date"], days["end_date"])

    def run_fetches(self, work: FetchWork, receipt: str = "none") -> object:
        """Hand a message to the function as Lambda does; give the ids that are to come again."""
        record = record_of(work.model_dump_json(), receipt=receipt)
        self.relay.free_robots()
        told = self._invoke("RunFetches", {"Records": [record]}) or {}
        failures: list[Item] | None = told.get("batchItemFailures")
        return (failures and [each["itemIdentifier"] for each in failures]) or failures

    def _seen_in_queue(self, work: FetchWork) -> list[Any]:
        """Give the message of a fetch where it can be seen in the queue; it stays so."""
        found = self.stack.aws.sqs.receive_message(
            QueueUrl=self.stack.outputs["FetchQueueUrl"],
            MaxNumberOfMessages=10,
            VisibilityTimeout=0,
        ).get("Messages", [])
        return [each for each in found if work.plan.range_id in each["Body"]]

    @contextmanager
    def _nobody_at_the_queue(self) -> Iterator[None]:
        functions = self.stack.aws.functions
        [mapping] = functions.list_event_source_mappings(
            FunctionName=self.stack.outputs["RunFetchesName"]
        )["EventSourceMappings"]
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
        try:
            yield
        finally:
            functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)

    def _put_connection(self, connection_id: str, label: str) -> None:
        connection = Connection(
            connection_id=connection_id,
            state=ConnectionState.ACTIVE,
            registered_at=utc_now(),
            access_token_reference_id=label,
        )
        self._put(
            f"CONNECTION#{connection_id}", connection.model_dump(mode="json", exclude_none=True)
        )

    def _put(self, key: str, item: Item) -> None:
        """Write a row with the rights of the operator."""
        plain = TypeSerializer()
        row = item | {"pk": key, "sk": key.partition("#")[0]}
        self.stack.aws.dynamodb.put_item(
            TableName=self.stack.table,
            Item={name: plain.serialize(value) for name, value in row.items()},
        )

    def _takes(self, step: str, token: str) -> bool:
        """Take a step of a rotation; tell whether the function did."""
        try:
            rotation.take(self.stack, step, token)
        except RotationFailedError:
            return False
        return True

    def _was_announced(self, name: str, value: object, *, wait: bool = False) -> bool:
        """Whether an event about it is on the bus, before one that is sent now."""
        mark = uuid.uuid4().hex

        def seen(key: str, wanted: object) -> bool:
            return any(
                key in each["detail"] and each["detail"][key] == wanted
                for each in self.events.all()
            )

        if wait:
            return eventually(lambda: seen(name, value))
        self.stack.aws.events.put_events(
            Entries=[
                {
                    "EventBusName": self.stack.bus,
                    "Source": "cobalt-relay",
                    "DetailType": "Test",
                    "Detail": json.dumps({"mark": mark}),
                }
            ]
        )
        eventually(lambda: seen("mark", mark))
        return seen(name, value)

    def _take_from_failures(self, mark: str) -> bool:
        """Wait for a failed run in its queue, and take it out again."""
        sqs, queue = self.stack.aws.sqs, self.stack.outputs["ScheduleFailuresUrl"]

        def found() -> bool:
            answer = sqs.receive_message(
                QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0
            )
            for message in answer.get("Messages", []):
                if mark in message["Body"]:
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                    return True
            return False

        return eventually(found)

    def _parameter(self, connection_id: str) -> str:
        return f"/cobalt-relay/{self.stack.stack_name}/tokens/{connection_id}"

    def _has_token(self, connection_id: str) -> bool:
        answer = self.stack.aws.ssm.get_parameters(Names=[self._parameter(connection_id)])
        return bool(answer["Parameters"])

    def _forget_connection(self, connection_id: str) -> None:
        self.relay.forget(f"CONNECTION#{connection_id}")
        self.stack.aws.ssm.delete_parameters(Names=[self._parameter(connection_id)])

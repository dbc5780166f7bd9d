"""Small flows through the deployed stack, each of which tells what came of it.

With all permissions a flow gives what its decorator says. What is stored they see with the rights
of the operator, never with those of a function. What fails on the way is an outcome like any other.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from itertools import count
from typing import Any

import requests

from cobalt_relay.models import connection_id_of
from tests.integration.support import CALL_SECONDS, Item, Relay, eventually
from tests.integration.test_webhook import a_result, signed
from tools.local import rotation
from tools.local.eventlog import EventLog
from tools.local.rotation import RotationFailedError
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack, configure

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
        answer = self.relay.fetch(self.window(), headers=headers)
        connection_id = connection_id_of(stranger)
        request = f"REQUEST#{answer.headers['x-request-id']}"
        outcome: Outcome = {
            "answer": answer.status_code,
            "request": (self.relay.item(request) or {}).get("state"),
            "token_kept": self._has_token(connection_id),
        }
        self._forget(request)
        self._forget_connection(connection_id)
        return outcome

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

    @gives(started=True, job="ACCEPTED", joined=True)
    def scheduled_fetch(self) -> Outcome:
        plan = self._plan()
        job_id = self._started(plan)
        job = self._state_of_job(job_id)
        # An equal request joins the job, if there is one: without, it would wait for an answer.
        again = self._started(plan) if job else None
        return {
            "started": job_id is not None,
            "job": job,
            "joined": bool(job_id and again == job_id),
        }

    @gives(started=True)
    def scheduled_fetch_of_all(self) -> Outcome:
        return {"started": self._started(self._plan() | {"connections": "all"}) is not None}

    @gives(failed="unknown_connection", announced=True)
    def scheduled_fetch_of_an_unknown_connection(self) -> Outcome:
        unknown = f"conn_{uuid.uuid4().hex}"
        told = self._invoke("PlanFetches", self._plan() | {"connections": [unknown]}) or {}
        return {
            "failed": told.get("failed", {}).get(unknown),
            "announced": self._was_announced("connection_id", unknown),
        }

    # ------------------------------------------------------------------------------- reconcile_jobs

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
        self._forget(request)
        return outcome

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
        return {"connections": [connection_id], "from_day": -next(self._days), "days": 2}

    def _fetched(self) -> str:
        """A job of riverside's, which is open."""
        answer = self.relay.fetch(self.window())
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_execution_id"])

    def _finished(self, job_id: str) -> Item:
        """Wait for the sandbox's robot; give its job."""
        found = lambda: (job := self.sandbox.job(job_id))["state"] != "running" and job  # noqa: E731
        return dict(eventually(found) or {})

    def _state_of_job(self, job_id: str | None) -> object:
        return (self.relay.job(job_id) or {}).get("state") if job_id else None

    def _deliver(self, body: bytes) -> requests.Response:
        return self.relay.webhook(body, signed(self.stack, body))

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

    def _started(self, plan: Item) -> str | None:
        """Carry out a plan; give riverside's job."""
        told = self._invoke("PlanFetches", plan) or {}
        connection_id = connection_id_of(self.stack.access_tokens["riverside"])
        job_id: str | None = told.get("started", {}).get(connection_id)
        return job_id

    def _takes(self, step: str, token: str) -> bool:
        """Take a step of a rotation; tell whether the function did."""
        try:
            rotation.take(self.stack, step, token)
        except RotationFailedError:
            return False
        return True

    def _was_announced(self, name: str, value: str, *, wait: bool = False) -> bool:
        """Whether an event about it is on the bus, before one that is sent now."""
        mark = uuid.uuid4().hex

        def seen(key: str, wanted: str) -> bool:
            return any(event["detail"].get(key) == wanted for event in self.events.all())

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
        self._forget(f"CONNECTION#{connection_id}")
        self.stack.aws.ssm.delete_parameters(Names=[self._parameter(connection_id)])

    def _forget(self, key: str) -> None:
        """Remove a row."""
        self.stack.aws.dynamodb.delete_item(
            TableName=self.stack.table,
            Key={"pk": {"S": key}, "sk": {"S": key.partition("#")[0]}},
        )

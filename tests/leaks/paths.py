"""Sends canary patients down every path of a deployed relay, the failing ones before all."""

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import requests

from cobalt_relay.models import connection_id_of, utc_now
from tests.integration.support import CALL_SECONDS, Relay, eventually, record_of, work_for
from tests.leaks.canaries import DATE_OF_BIRTH, MRN, NAME, NOTE, PHONE, WORDING
from tests.leaks.search import Text
from tools.local.stack import Stack

type Headers = Mapping[str, str | bytes]

DAYS = {"start_date": "2025-01-06", "end_date": "2025-01-07"}
QUOTE = f"Chart of {NAME} (DOB {DATE_OF_BIRTH}, MRN {MRN}) is locked"
ONE_DAY = {"start_date": "2025-01-06", "end_date": "2025-01-06"}
RESULT = "appointment.live_fetch_completed"

INVALID_BODIES: dict[str, bytes] = {
    "canaries in every field": json.dumps(
        {"start_date": NAME, "end_date": NOTE, "search_by": None, "mrn": MRN}
    ).encode(),
    "a canary as the mode": json.dumps({**DAYS, "search_by": NAME}).encode(),
    "a note as the MRN": json.dumps({"search_by": "mrn", "mrn": NOTE}).encode(),
    "a patient as the MRN": json.dumps({"search_by": "mrn", "mrn": {"name": NAME}}).encode(),
    "canaries as providers": json.dumps(
        {**ONE_DAY, "search_by": "provider", "provider_ids": [NOTE, {MRN: PHONE}]}
    ).encode(),
    "canaries as keys": json.dumps({NAME: MRN, NOTE: {PHONE: DATE_OF_BIRTH}}).encode(),
    "canaries twice": f'{{"{MRN}": 1, "{MRN}": 2}}'.encode(),
    "no JSON": f"{{'{MRN}': {PHONE}".encode(),
    "no object": json.dumps([NAME, NOTE]).encode(),
    "no UTF-8": NAME.encode("utf-16"),
    "NaN": f'{{"start_date": NaN, "mrn": "{MRN}"}}'.encode(),
    "too large": json.dumps({"note": NOTE * 1000}).encode(),
    "a birthday as the window": json.dumps(
        {"start_date": DATE_OF_BIRTH, "end_date": DATE_OF_BIRTH}
    ).encode(),
}

NO_OPAQUE_IDS = (NAME, NOTE, f"MRN {MRN}", f"{MRN}\n", f"{MRN}\u2028x", MRN * 26)
"""What is plainly none; an id that is one word of ASCII is kept, whatever it may mean."""


@dataclass
class Run:
    """One run. `answers` has what every caller was told, headers and all."""

    stack: Stack
    began_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    answers: list[Text] = field(default_factory=list)
    schedule_inputs: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    """Former webhook secrets, credentials that strangers tried, and what signs a link."""
    others: set[str] = field(default_factory=set)
    """Cobalt's jobs of before."""
    pending_before: int = 0

    @property
    def relay(self) -> Relay:
        return Relay(self.stack)

    # ---------------------------------------------------------------------------------------- calls

    def call(
        self,
        path: str,
        body: bytes,
        headers: Headers,
        *,
        method: str = "POST",
        said: str | None = None,
        query: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Call the relay and keep what it answers.

        `said` is what Cobalt tells this very caller: by contract it is the `message` of a refusal,
        and nothing else of the answer holds it.
        """
        answer = requests.request(
            method,
            self.stack.api_url + path,
            data=body,
            headers=dict(headers),
            params=query,
            timeout=CALL_SECONDS,
        )
        text = answer.text
        if said is not None:
            document = answer.json()
            assert document.pop("message") == said
            text = json.dumps(document)
        self.answers.append(Text("answer", f"{answer.headers}\n{text}"))
        return answer

    def fetch(
        self,
        body: object,
        *,
        clinic: str = "riverside",
        said: str | None = None,
        query: Mapping[str, str] | None = None,
        headers: Headers | None = None,
    ) -> requests.Response:
        """Fetch, with an idempotency key of its own unless told otherwise."""
        own = {"Idempotency-Key": uuid.uuid4().hex, "content-type": "application/json"}
        sent = {**self.stack.headers(clinic), **own, **(headers or {})}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("/appointments/fetch", data, sent, said=said, query=query)

    def started(self, body: object = DAYS, **options: Any) -> str:
        answer = self.fetch(body, **options)
        assert answer.status_code == 202, answer.status_code
        job_id: str = answer.json()["job_execution_id"]
        return job_id

    def ended(self, body: object = DAYS, **options: Any) -> None:
        """Fetch and wait for the end: one delivery at a time needs one worker."""
        self.relay.ended_job(self.started(body, **options))

    def deliver(self, body: bytes, headers: Headers | None = None) -> int:
        """Deliver a webhook as Cobalt would, signed unless told otherwise."""
        key = self.stack.sandbox.webhook_secret()["current"].encode()
        signature = hmac.new(key, body, hashlib.sha256).hexdigest()
        own = {"cobalt-verification": signature, "content-type": "application/json"}
        sent = {**own, **(headers or {})}
        return self.call("/webhooks/cobalt", body, sent).status_code

    def invoke(self, function: str, event: object) -> None:
        """Invoke a function and wait; what it gives is an answer too."""
        answer = self.stack.aws.functions.invoke(
            FunctionName=self.stack.outputs[f"{function}Name"], Payload=json.dumps(event).encode()
        )
        self.answers.append(Text("outcome", answer["Payload"].read().decode()))

    def invoke_later(self, function: str, event: dict[str, Any]) -> None:
        """Invoke a function as the scheduler does; what fails goes into the failure queue."""
        self.schedule_inputs.append(event)
        self.stack.aws.functions.invoke(
            FunctionName=self.stack.outputs[f"{function}Name"],
            InvocationType="Event",
            Payload=json.dumps(event).encode(),
        )

    @contextmanager
    def restored(self, function: str) -> Iterator[Callable[[str, str], None]]:
        """Let a variable of a function be changed: then it looks for what is not there."""
        functions, name = self.stack.aws.functions, self.stack.outputs[f"{function}Name"]
        before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]

        def change(variable: str, value: str) -> None:
            functions.update_function_configuration(
                FunctionName=name, Environment={"Variables": {**before, variable: value}}
            )

        try:
            yield change
        finally:
            functions.update_function_configuration(
                FunctionName=name, Environment={"Variables": before}
            )

    # ---------------------------------------------------------------------------------------- paths

    def everything(self) -> None:
        """Go down every path."""
        sandbox = self.stack.sandbox
        self.others = {job["id"] for job in sandbox.jobs()}
        self.pending_before = self.pending()
        for clinic in ("riverside", "harbor"):
            sandbox.set_wording(clinic, WORDING)
        try:
            self.fetches()
            self.links()
            self.reads()
            self.bad_requests()
            self.strangers()
            self.refusals()
            self.deliveries()
            self.forgeries()
            self.ids_from_outside()
            self.recovery()
            self.schedules()
            self.ranges()
            self.changes()
            self.broken_links()
            self.storage_faults()
            self.rest()
        finally:
            sandbox.clear_faults()
            for clinic in ("riverside", "harbor"):
                sandbox.set_linked(clinic, linked=True)
                sandbox.set_wording(clinic, {})

    def fetches(self) -> None:
        sandbox = self.stack.sandbox
        self.ended()
        self.ended(clinic="harbor")
        for edition in ("oldest_edition", "newest_edition"):
            sandbox.add_fault(edition, count=1)
            self.ended()
        self.ended({"search_by": "mrn", "mrn": MRN})
        self.ended({**ONE_DAY, "search_by": "provider", "provider_ids": [PHONE]})
        self.ended({**DAYS, "patient": NAME, NOTE: MRN})
        self.ended(headers={"Idempotency-Key": NAME.encode()})
        by_key = [self.started(headers={"Idempotency-Key": MRN}) for _ in range(2)]
        assert len(set(by_key)) == 1
        other = self.fetch({"search_by": "mrn", "mrn": MRN}, headers={"Idempotency-Key": MRN})
        assert other.status_code == 422

    def links(self) -> None:
        """A job is waited for, and read with the link to its result: what signs that is a secret.

        The one answer that has it, to its very caller, is not kept.
        """
        headers, job_id = self.stack.headers("riverside"), self.started()
        path = f"/appointments/fetch/{job_id}"
        self.relay.ended_job(job_id)
        link = urlsplit(self.relay.read(job_id)["result_url"])
        self.secrets += parse_qs(link.query)["X-Amz-Signature"]
        assert requests.get(urlunsplit(link), timeout=CALL_SECONDS).status_code == 200
        refused = self.call(path, b"", headers, method="GET", query={"wait": MRN})
        assert refused.status_code == 400
        self.stack.sandbox.add_fault("lost", count=1)
        path = f"/appointments/fetch/{self.started()}"
        waited = self.call(path, b"", headers, method="GET", query={"wait": "1", "mrn": MRN})
        assert waited.json()["status"] == "ACCEPTED"

    def reads(self) -> None:
        """Days full of patients are read by what identifies them, in every form and way.

        What a reader is told of its own patients is its own; the headers beside it are searched,
        but for the link to the next page, which is the query that the reader has just sent.
        """
        window = {"start_date": "2025-01-13", "end_date": "2025-01-14"}
        told = {name: _in_utf_8(text) for name, text in WORDING.items()}
        items = [
            {"id": f"appt_{number}", "datetime": f"2025-01-13T1{number}:00:00-05:00", **told}
            for number in range(3)
        ]
        self.relay.keep_days("riverside", window, items)
        asked: dict[str, str] = {
            "patient_mrn": MRN,
            "patient_name": NAME,
            "patient_phone": PHONE,
            **window,
            "include_note": "true",
            "limit": "1",
        }
        for form in ("application/json", "application/x-ndjson", "application/fhir+json"):
            answer = self.relay.appointments(asked, headers={"Accept": form})
            assert MRN in answer.text
            headers = {name: value for name, value in answer.headers.items() if name != "Link"}
            self.answers.append(Text("answer", f"{headers}"))
            known = {"Accept": form, "If-None-Match": answer.headers["ETag"]}
            following = asked | {"cursor": answer.headers["x-relay-next-cursor"]}
            assert self.relay.appointments(asked, headers=known).status_code == 304
            assert MRN in self.relay.appointments(following, headers={"Accept": form}).text
        own = self.stack.headers("riverside")
        for wrong in (
            {"limit": MRN},
            {"cursor": NAME},
            {"status": _in_utf_8(NOTE)},
            {"max_age": PHONE},
        ):
            refused = self.call("/appointments", b"", own, method="GET", query=asked | wrong)
            assert refused.status_code == 400
        nobody = {**own, "Accept": f"text/{MRN}"}
        assert (
            self.call("/appointments", b"", nobody, method="GET", query=window).status_code == 406
        )
        quoted = {**window, "patient_mrn": MRN, "max_age": "0"}
        self.stack.sandbox.add_fault("rate_limited", count=1, retry_after=60, message=QUOTE)
        refused = self.call("/appointments", b"", own, method="GET", query=quoted, said=QUOTE)
        assert refused.status_code == 429
        self.stack.sandbox.add_fault("rate_limited", count=1, retry_after=60, message=QUOTE)
        stale = self.relay.appointments({**quoted, "allow_stale": "true"})
        assert stale.json()["fetch_error"]["message"] == QUOTE
        awaited = self.call("/appointments", b"", own, method="GET", query=quoted)
        assert awaited.status_code == 202
        self.relay.ended_job(awaited.json()["jobs"][0]["job_execution_id"])

    def bad_requests(self) -> None:
        for body in INVALID_BODIES.values():
            assert self.fetch(body).status_code in (400, 413)
        for key in ("x" * 250 + MRN, f"{MRN}\x7f"):
            assert self.fetch(DAYS, headers={"Idempotency-Key": key}).status_code == 400

    def strangers(self) -> None:
        """Credentials and headers, addresses and queries that are no one's, or someone else's."""
        self.secrets += [f"Qxstranger{uuid.uuid4().hex}", f"at_unknown_{uuid.uuid4().hex}"]
        secret, token = self.secrets[-2:]
        assert self.fetch(DAYS, headers={"client_secret": secret}).status_code == 401
        assert self.fetch(DAYS, headers={"client_id": NAME.encode()}).status_code == 401
        assert self.fetch(DAYS, headers={"access_token": token}).status_code == 401
        assert self.fetch(DAYS, headers={"access_token": NAME.encode()}).status_code == 401
        made_up: Headers = {
            "User-Agent": MRN,
            "X-Patient": MRN,
            "X-Note": NAME.encode(),
            "X-Amzn-Trace-Id": f"Root={MRN};Self={MRN}",
        }
        query = {"mrn": MRN, "patient_name": NAME}
        assert self.fetch(DAYS, query=query, headers=made_up).status_code == 202
        headers = self.stack.headers("riverside")
        for path in (f"/appointments/fetch/{MRN}", f"/patients/{quote(NAME)}"):
            for method in ("GET", "POST", "DELETE"):
                answer = self.call(path, b"", headers, method=method, query=query)
                assert answer.status_code in (403, 404)

    def refusals(self) -> None:
        """Cobalt says no, or fails, and quotes a patient."""
        sandbox = self.stack.sandbox
        for fault, status in (("wrong_credentials", 401), ("rate_limited", 429)):
            sandbox.add_fault(fault, count=1, message=QUOTE)
            assert self.fetch(DAYS, said=QUOTE).status_code == status
            sandbox.add_fault(fault, count=1, message=NOTE.replace("\ud800", ""))
            assert self.fetch(DAYS).status_code == status
        for fault, status in (("server_error", 502), ("unavailable", 502), ("html", 502)):
            sandbox.add_fault(fault, count=1, message=QUOTE)
            assert self.fetch(DAYS).status_code == status
        sandbox.add_fault("no_job_id", count=1)
        assert self.fetch(DAYS).status_code == 502
        sandbox.set_linked("riverside", linked=False)
        assert self.fetch(DAYS).status_code == 403
        sandbox.set_linked("riverside", linked=True)
        assert self.fetch(DAYS, clinic="summit").status_code == 400

    def deliveries(self) -> None:
        """Cobalt's own deliveries, in all their variety."""
        sandbox = self.stack.sandbox
        former = sandbox.webhook_secret()["current"]
        sandbox.rotate_webhook_secret()
        self.secrets += [former, sandbox.webhook_secret()["current"]]
        self.stack.aws.secretsmanager.put_secret_value(
            SecretId=self.stack.outputs["WebhookSecretArn"],
            SecretString=json.dumps({"webhook_secret_key": sandbox.webhook_secret()["current"]}),
        )
        for fault in ("previous_secret", "failed", "early", "count_mismatch", "duplicated"):
            sandbox.add_fault(fault, count=1)
            self.ended()
        for kind in ("patient.updated", "note.created", "document.created", "appointment.failed"):
            quoted = {
                **WORDING,
                "failure_reason": QUOTE,
                "reasons": [{"code": MRN, "description": QUOTE}],
            }
            sandbox.emit(kind, "riverside", {kind: quoted, NAME: MRN})
        sandbox.emit(
            "access_token.login_required", "riverside", {"message": QUOTE, "error_type": MRN}
        )

    def forgeries(self) -> None:
        genuine = a_result(f"job_{uuid.uuid4().hex}")
        noisy: Headers = {
            "webhook-id": MRN,
            "webhook-timestamp": NAME.encode(),
            "webhook-attempt": MRN,
        }
        assert self.deliver(genuine, {**noisy, "cobalt-verification": "0" * 64}) == 401
        assert self.deliver(genuine, {**noisy, "cobalt-verification": NAME.encode()}) == 401
        assert self.deliver(genuine, noisy) == 200
        assert self.deliver(genuine, noisy) == 200
        assert self.deliver(genuine.replace(b'"sync"', b'"other"')) == 200
        for body in (f"{{{MRN}", f'{{"{MRN}": "{PHONE}"}}', f'["{MRN}"]', f'"{NAME}"', ""):
            assert self.deliver(body.encode()) in (400, 401)
        # the local gateway takes every body for UTF-8, and so breaks its signature
        assert self.deliver(NAME.encode("utf-16")) in (400, 401)
        assert self.deliver(a_result("job_large", note=NOTE * 40_000)) == 413

    def ids_from_outside(self) -> None:
        """Ids and types that are none do not come in; reasons and codes that quote do not get on."""
        for text in NO_OPAQUE_IDS:
            assert self.deliver(a_result("job_1", id=text)) == 400
            assert self.deliver(a_result("job_1", type=text)) == 400
            assert self.deliver(a_result(text, id=f"evt_{uuid.uuid4().hex}")) == 200
        for data in (
            {"success": False, "error": QUOTE, "error_type": NAME, "reasons": [{"code": MRN}]},
            {"success": False, "error_code": NOTE, "reasons": QUOTE, "failure_reason": NOTE},
            {"success": True, "appointments": QUOTE, "appointment_count": NAME, "start_date": NAME},
            {"success": NAME, "appointments": [QUOTE]},
            QUOTE,
            [WORDING],
        ):
            self.stack.sandbox.add_fault("silent", count=1)
            assert self.deliver(a_result(self.started(), data=data)) == 200

    def recovery(self) -> None:
        """Lost results: by poll, by sweep, after the deadline; poisoned rows of the list."""
        sandbox, relay = self.stack.sandbox, self.relay
        for fault in ("lost", "failed"):
            sandbox.add_fault(fault, count=1)
        polled = self.started()
        sandbox.add_fault("silent", count=2)
        expired, poisoned = self.started(clinic="harbor"), self.started()
        sandbox.add_fault("hang_up", count=1)
        sandbox.add_fault("lost", count=1)
        unanswered = self.fetch({**DAYS, "end_date": "2025-01-08"})
        assert unanswered.status_code == 504
        request = f"REQUEST#{unanswered.headers['x-request-id']}"
        self.wait_for_our_jobs()
        for event_id in (f"evt_{uuid.uuid4().hex}", f"MRN {MRN}"):
            sandbox.add_fault("lost", count=1)
            data = {"success": False, "error": QUOTE, NAME: [WORDING]}
            sandbox.emit(RESULT, "riverside", data, id=event_id, job_id=poisoned)
        for key in (f"JOB#{polled}", f"JOB#{poisoned}", request):
            self.stack.let_time_pass(key)
        self.stack.let_time_pass(f"JOB#{expired}", to_the_deadline=True)
        sandbox.add_fault("server_error", path="/v1/webhook-events", count=2, message=QUOTE)
        self.invoke("ReconcileJobs", {"note": NOTE})
        for key in (f"JOB#{polled}", f"JOB#{poisoned}", request):
            row = relay.item(key)
            if row and "due_at" in row:
                self.stack.let_time_pass(key)
        self.invoke("ReconcileJobs", {"patient": NAME})
        ends = [relay.ended_job(job)["state"] for job in (polled, poisoned)]
        assert ends == ["FAILED", "FAILED"]
        assert (relay.item(request) or {})["state"] == "ACCEPTED"
        assert relay.ended_job(expired)["state"] == "EXPIRED"
        assert self.deliver(a_result(expired)) == 200
        assert relay.ended_job(expired)["state"] == "COMPLETED"

    def schedules(self) -> None:
        sandbox = self.stack.sandbox
        sandbox.set_linked("harbor", linked=False)
        self.invoke("PlanFetches", {"connections": "all", "from_day": 0, "days": 2})
        sandbox.set_linked("harbor", linked=True)
        self.invoke("PlanFetches", {"patient": NOTE})
        for plan in ({"connections": [NAME, MRN]}, {NOTE: PHONE, "days": QUOTE}):
            self.invoke_later("PlanFetches", plan)

    def ranges(self) -> None:
        """A range, whose providers are kept until they are fetched; the queue, with what fails in it and what is no message."""
        headers = {**self.stack.headers("riverside"), "Idempotency-Key": MRN}
        connection_id = connection_id_of(self.stack.access_tokens["riverside"])
        self.relay.forget(f"ROBOT#{connection_id}-0")
        by_provider = {**ONE_DAY, "search_by": "provider", "provider_ids": ["p-12", 7]}
        for body, status in (
            (by_provider, 202),
            ({**by_provider, "note": NOTE, NAME: PHONE}, 202),  # the same, for nobody reads those
            ({**by_provider, "end_date": "2025-01-09"}, 422),
            ({"search_by": NAME, **DAYS}, 400),
            ({**DAYS, "end_date": DATE_OF_BIRTH}, 400),
        ):
            answer = self.call("/appointments/fetch/range", json.dumps(body).encode(), headers)
            assert answer.status_code == status
            if status == 202:
                eventually(partial(self._has_ended, answer.json()["job_execution_id"]))
        self.relay.forget(f"ROBOT#{connection_id}-0")
        later = utc_now() + timedelta(hours=1)
        works = [work_for(connection_id, **_days(number)) for number in range(3)]
        works.append(work_for(f"conn_{uuid.uuid4().hex}", **_days(4)))
        works[0] = works[0].model_copy(update={"not_before": later})
        self.stack.sandbox.add_fault("rate_limited", count=1, retry_after=60, message=QUOTE)
        bodies = [work.model_dump_json() for work in reversed(works)]
        records = [
            record_of(body, str(number), NAME)
            for number, body in enumerate([*bodies, f'{{"{MRN}": "{PHONE}"}}', NOTE])
        ]
        self.invoke("RunFetches", {"Records": records})
        self.stack.aws.sqs.send_message(
            QueueUrl=self.stack.outputs["FetchFailuresUrl"], MessageBody=bodies[0]
        )
        self.relay.forget("PAUSE#cobalt")
        self.call(f"/appointments/fetch/range_{MRN}", b"", headers, method="GET")

    def changes(self) -> None:
        """Days that are fetched twice, with every kind of change; runs that fail at them."""
        day = {"datetime": "2025-01-06T10:00:00-05:00", **WORDING, NAME: {MRN: PHONE}}
        ids = ("same", "off", "gone", NAME, None)
        before = [{"id": each, "status": NOTE, **day} for each in ids]
        after = [
            {"id": "same", **day, "reason": QUOTE, NAME: MRN},
            {"id": "off", **day, "status": f"Cancelled, {NAME}"},
            {"id": "new", **day, "datetime": NOTE},
        ]
        for items in (before, after):
            self.stack.sandbox.add_fault("silent", count=1, clinic="riverside")
            job_id = self.started()
            data = {"success": True, "appointment_count": len(items), **DAYS}
            body = a_result(job_id, data={**data, "appointments": items})
            assert self.deliver(body) == 200
            eventually(partial(self._is_kept, f"snapshots/{self._riverside}", job_id))
        eventually(partial(self._is_kept, f"changes/{self._riverside}", job_id))
        self.invoke("DetectChanges", {"detail": {NAME: MRN}})
        with self.restored("DetectChanges") as change:
            change("BUCKET_NAME", "not-there")
            self.invoke("DetectChanges", {"detail": {"job_execution_id": job_id, "note": NOTE}})

    @property
    def _riverside(self) -> str:
        """The folder of riverside's connection."""
        return f"connection={connection_id_of(self.stack.access_tokens['riverside'])}/"

    def _is_kept(self, folder: str, job_id: str) -> bool:
        """Whether something in a folder tells of a job."""
        keys = self.relay.object_keys(folder)
        return any(job_id.encode() in key.encode() + self.relay.object(key) for key in keys)

    def _has_ended(self, range_id: str) -> bool:
        return bool((self.relay.item(f"RANGE#{range_id}") or {})["state"] != "ACCEPTED")

    def broken_links(self) -> None:
        """A connection is warned, suspended and resumed by events and results that quote."""
        sandbox, stack = self.stack.sandbox, self.stack
        connection_id = connection_id_of(stack.access_tokens["riverside"])
        if "due_at" in self.relay.connection("riverside"):
            stack.let_time_pass(f"CONNECTION#{connection_id}")
        stack.reconcile()
        self.relay.let_success_be_long_ago("riverside")
        for kind in ("password_change_warning", "login_required"):
            quoted = {"message": QUOTE, "error_type": MRN, NAME: NOTE}
            sandbox.emit(f"access_token.{kind}", "riverside", quoted)
        eventually(lambda: self.relay.connection("riverside")["state"] == "login_required")
        stack.reconcile()
        self.ended()
        assert self.relay.connection("riverside")["state"] == "active"
        stack.reconcile()

    def storage_faults(self) -> None:
        """Take the table, the bucket, the bus away: what then is logged and answered."""
        with self.restored("ReceiveWebhook") as change:
            for variable in ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME"):
                change(variable, "not-there")
                eventually(self._delivery_fails)
        with self.restored("FetchAppointments") as change:
            change("TABLE_NAME", "not-there")
            eventually(lambda: self.fetch(DAYS).status_code == 503)
            change("TOKEN_PATH", "/not-there")
            assert self.fetch(DAYS, clinic="lakeside").status_code == 202
        with self.restored("ReconcileJobs") as change:
            change("TABLE_NAME", "not-there")
            self.invoke("ReconcileJobs", {"note": NOTE})
            self.invoke_later("ReconcileJobs", {"note": NAME})
            self.rest()

    def _delivery_fails(self) -> bool:
        """A worker that was at work when its function was changed may serve once more."""
        return self.deliver(a_result(f"job_{uuid.uuid4().hex}")) == 503

    def pending(self) -> int:
        """Count what Cobalt has still to do; other tests leave jobs that end in ten minutes."""
        health = requests.get(f"{self.stack.sandbox_url}/_sandbox/health", timeout=5)
        return int(health.json()["pending"])

    def wait_for_our_jobs(self) -> None:
        """Wait until none of this run's is under way at Cobalt; others may never end."""
        jobs = self.stack.sandbox.jobs
        eventually(
            lambda: all(job["state"] != "running" for job in jobs() if job["id"] not in self.others)
        )

    def empty_the_failure_queues(self) -> None:
        for queue in (
            "ScheduleFailuresUrl",
            "EventFailuresUrl",
            "FetchQueueUrl",
            "FetchFailuresUrl",
        ):
            self.stack.aws.sqs.purge_queue(QueueUrl=self.stack.outputs[queue])

    def rest(self) -> None:
        """Wait until nothing is under way any more, and all failed runs are in their queue."""
        eventually(lambda: self.pending() <= self.pending_before)
        self.wait_for_our_jobs()
        url = self.stack.outputs["ScheduleFailuresUrl"]
        wanted = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]

        def are_there() -> bool:
            counted = self.stack.aws.sqs.get_queue_attributes(
                QueueUrl=url,
                AttributeNames=wanted,  # type: ignore[arg-type]
            )["Attributes"]
            return sum(map(int, counted.values())) >= len(self.schedule_inputs)

        eventually(are_there)


def _in_utf_8(text: str) -> str:
    """Put something else in place of half a pair, which neither a snapshot nor a URL can hold."""
    return text.encode(errors="replace").decode()


def _days(number: int) -> dict[str, str]:
    """Days of their own, so that no message joins the fetch of another."""
    return {"start": f"2025-05-{2 * number + 1:02}", "end": f"2025-05-{2 * number + 2:02}"}


def a_result(job_id: str, **changes: Any) -> bytes:
    """A live fetch's event about canary patients."""
    document = {
        "id": f"evt_{uuid.uuid4().hex}",
        "access_token_reference_id": "user_1",
        "job_id": job_id,
        "timestamp": datetime.now(UTC).isoformat(),
        "type": RESULT,
        "action": "sync",
        "data": {"success": True, "appointment_count": 1, **DAYS, "appointments": [WORDING]},
        **changes,
    }
    return json.dumps(document).encode()

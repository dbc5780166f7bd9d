"""From a fetch to the clinic's days and the news about them, on the deployed stack."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

from cobalt_relay.adapters.snapshots import Snapshots
from cobalt_relay.models import Window, connection_id_of, iso, utc_now
from cobalt_relay.snapshots import Snapshot
from tests.integration.support import Item, Relay, eventually
from tests.integration.test_webhook import a_result, signed
from tests.unit.fakes import validate_event
from tools.local.eventlog import EventLog
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack

DAY, NEXT_DAY, LAST_DAY = "2031-03-03", "2031-03-04", "2031-03-05"
FEW_DAYS = {"start_date": DAY, "end_date": LAST_DAY}


def connection_of(stack: Stack, clinic: str) -> str:
    return connection_id_of(stack.access_tokens[clinic])


def day_of(relay: Relay, clinic: str, day: str) -> Snapshot:
    """A clinic's day as it is kept."""
    connection = connection_of(relay.stack, clinic)
    key = f"snapshots/connection={connection}/day={day}/appointments.ndjson"
    return Snapshot.read(relay.object(key))


def fetched(relay: Relay, *items: Item, clinic: str = "lakeside", **event: Any) -> str:
    """A job whose result brings these appointments."""
    relay.stack.sandbox.add_fault("silent", count=1, clinic=clinic)
    job_id: str = relay.fetch(FEW_DAYS, clinic=clinic).json()["job_execution_id"]
    data = {"success": True, "appointment_count": len(items), **FEW_DAYS, "appointments": items}
    body = a_result(job_id, data=data, **event)
    assert relay.webhook(body, signed(relay.stack, body)).status_code == 200
    return job_id


def known(relay: Relay, *items: Item, clinic: str = "lakeside") -> None:
    """Let the days be seen so, before anything else is."""
    job_id = fetched(relay, *items, clinic=clinic)
    relay.invoke("DetectChanges", {"detail": {"job_execution_id": job_id}})


def versions_of(stack: Stack, clinic: str, day: str) -> list[Snapshot]:
    """Every version of a day, the newest first, as each names the one before."""
    snapshots, connection = Snapshots(stack.aws.s3, stack.bucket), connection_of(stack, clinic)
    versions: list[Snapshot] = []
    found = snapshots.read(connection, date.fromisoformat(day))
    while found:
        versions.append(found.snapshot)
        former = versions[-1].previous_version
        found = snapshots.read(connection, versions[-1].day, former) if former else None
    return versions


def news(events: EventLog, job_id: str) -> Item:
    """The event about what a job's fetch changed."""
    [event] = eventually(lambda: events.changes_of(job_id))
    validate_event(event["detail-type"], event["detail"])
    detail: Item = event["detail"]
    return detail


def at(day: str, name: str, status: str = "S", **fields: object) -> Item:
    return {"id": name, "datetime": f"{day}T10:00:00-06:00", "status": status, **fields}


def test_days_are_kept_and_announced_when_the_sandbox_delivers(
    relay: Relay, events: EventLog, sandbox: Sandbox, stack: Stack
) -> None:
    window = {"start_date": "2025-02-03", "end_date": "2025-02-06"}
    job_id = relay.fetch(window, clinic="riverside").json()["job_execution_id"]

    detail = news(events, job_id)

    [delivered] = [each for each in sandbox.jobs() if each["id"] == job_id]
    items = json.loads(sandbox.event_body(delivered["event_id"]))["data"]["appointments"]
    days = [f"2025-02-0{number}" for number in (3, 4, 5, 6)]
    kept = [day_of(relay, "riverside", day) for day in days]
    assert detail["baseline_days"] == days
    assert detail["connection_id"] == connection_of(stack, "riverside")
    assert sorted(each.id for day in kept for each in day.appointments) == sorted(
        each["id"] for each in items
    )
    assert items
    for day in kept:
        assert day.fetched_by == job_id
        assert iso(day.as_of or utc_now()) == detail["as_of"]
        assert {str(each.datetime.date()) for each in day.appointments if each.datetime} <= {
            str(day.day)
        }


def test_changes_are_told_by_id_and_kept_with_what_was_before(
    relay: Relay, events: EventLog
) -> None:
    known(relay, at(DAY, "stays"), at(DAY, "moves"), at(DAY, "off"), at(NEXT_DAY, "gone"))
    job_id = fetched(
        relay,
        at(DAY, "stays", reason="Cough"),
        at(LAST_DAY, "moves"),
        at(DAY, "off", "Cancelled"),
        at(NEXT_DAY, "new", patient_name="Jane Roe"),
    )

    detail = news(events, job_id)

    assert {kind: detail[kind] for kind in ("created", "changed", "cancelled", "disappeared")} == {
        "created": ["new"],
        "changed": [
            {"id": "moves", "fields": ["datetime"]},
            {"id": "stays", "fields": ["reason"]},
        ],
        "cancelled": ["off"],
        "disappeared": ["gone"],
    }
    details = json.loads(relay.object(detail["details"]["key"]))
    by_id = {each["id"]: each for each in details["changes"]}
    assert by_id["new"]["after"]["patient_name"] == "Jane Roe"
    assert (by_id["moves"]["day_before"], by_id["moves"]["day_after"]) == (DAY, LAST_DAY)
    assert "Roe" not in json.dumps(detail)


def test_oldest_edition_is_the_same_day(relay: Relay, events: EventLog) -> None:
    known(relay, at(DAY, "a", patient_mrn="4711"), clinic="mesa")
    old = {"id": "a", "date_time": f"{DAY}T10:00:00-06:00", "status": "S", "mrn": "4711"}
    job_id = fetched(relay, old, at(DAY, "b"), clinic="mesa")

    detail = news(events, job_id)

    assert (detail["created"], detail["changed"]) == (["b"], [])
    assert [each.patient_mrn for each in day_of(relay, "mesa", DAY).appointments] == ["4711", None]


def test_days_converge_to_the_newest_when_results_come_at_once_and_in_no_order(
    relay: Relay, stack: Stack
) -> None:
    begin = utc_now()
    jobs: dict[str, str] = {}
    for minute in (4, 1, 3, 5, 2):
        made = begin + timedelta(seconds=minute)
        jobs[f"S{minute}"] = fetched(
            relay, at(DAY, "x", f"S{minute}"), clinic="harbor", timestamp=iso(made)
        )

    def detect(job_id: str) -> Item:
        return relay.invoke("DetectChanges", {"detail": {"job_execution_id": job_id}})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(detect, [*jobs.values(), *jobs.values()]))

    newest = max(relay.job(each)["completion"]["completed_at"] for each in jobs.values())  # type: ignore[index]
    day = day_of(relay, "harbor", DAY)
    assert len(day.appointments) == 1
    assert jobs[str(day.appointments[0].status)] == day.fetched_by
    assert iso(day.as_of or begin) <= newest
    seen = versions_of(stack, "harbor", DAY)
    moments = [each.as_of or begin for each in seen]
    assert moments == sorted(moments, reverse=True)
    assert len({each.fetched_by for each in seen}) == len(seen)


def test_day_is_found_by_its_window_alone(relay: Relay, stack: Stack) -> None:
    known(relay, at(DAY, "x"))
    snapshots = Snapshots(stack.aws.s3, stack.bucket)

    def days(start: str, end: str) -> list[str]:
        window = Window.parse(start, end)
        found = snapshots.stored(connection_of(stack, "lakeside"), window)
        return [str(each.day) for each in found]

    assert days(DAY, LAST_DAY) == [DAY, NEXT_DAY, LAST_DAY]
    assert days(NEXT_DAY, NEXT_DAY) == [NEXT_DAY]
    assert days("0001-01-01", "2031-03-02") == []
    assert days(LAST_DAY, "9999-12-31") == [LAST_DAY]


def test_event_that_the_function_fails_at_is_kept_for_the_operator(stack: Stack) -> None:
    mark = uuid.uuid4().hex
    stack.aws.events.put_events(
        Entries=[
            {
                "EventBusName": stack.bus,
                "Source": "cobalt-relay",
                "DetailType": "Appointments Fetched",
                "Detail": json.dumps({"mark": mark}),
            }
        ]
    )

    sqs, queue = stack.aws.sqs, stack.outputs["EventFailuresUrl"]

    def kept() -> Item | None:
        for message in sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0
        ).get("Messages", []):
            if mark in message["Body"]:
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
                return dict(json.loads(message["Body"]))
        return None

    record = eventually(kept, 30)

    assert record
    assert record["requestPayload"]["detail"] == {"mark": mark}
    assert stack.outputs["DetectChangesName"] in record["requestContext"]["functionArn"]

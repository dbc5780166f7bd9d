"""What a fetch changed, from the event that tells of it to the event that tells of its changes."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cobalt_relay.appointments import FIELDS
from cobalt_relay.errors import (
    BusFault,
    MalformedNotice,
    ResultsFault,
    StorageFault,
    UnreadableResult,
)
from cobalt_relay.models import (
    ClinicSettings,
    FetchRequest,
    Window,
    connection_id_of,
)
from cobalt_relay.services.detect_changes import PART_BYTES, WRITE_TRIES, Notice
from cobalt_relay.services.manage_connections import ManageConnections
from cobalt_relay.snapshots import Snapshot
from functions.detect_changes.handler import lambda_handler
from tests.unit.conftest import HEADERS, LambdaContextStub, World, sign
from tests.unit.fakes import SCHEMAS

TOKEN = HEADERS["access_token"]
CONNECTION = connection_id_of(TOKEN)
MONDAY, TUESDAY, SUNDAY = date(2025, 1, 13), date(2025, 1, 14), date(2025, 1, 19)
WEEK = Window(start_date=MONDAY, end_date=SUNDAY)
Item = dict[str, Any]


def at(day: date, hour: int = 9, name: str = "x", status: str = "PEN", **fields: Any) -> Item:
    """An appointment where the clinic is."""
    return {"id": name, "datetime": f"{day}T{hour:02}:00:00-05:00", "status": status, **fields}


def fetch(world: World, *items: Item, window: Window = WEEK, **data: Any) -> str:
    """Fetch a window and have the result delivered; give the job."""
    job_id = begin(world, window)
    deliver(world, job_id, *items, **data)
    return job_id


def begin(world: World, window: Window = WEEK, token: str = TOKEN) -> str:
    world.clock.moment += timedelta(minutes=5)
    number = len(world.cobalt.calls)
    started = world.fetch_appointments.start(
        token, FetchRequest(window=window), request_id=f"request_{number}", trigger="api"
    )
    return started.job_execution_id


def deliver(world: World, job_id: str, *items: Item, **data: Any) -> None:
    job = world.jobs.jobs[job_id]
    days = job.window.model_dump(mode="json") if job.window else {}
    counted = {"success": True, "appointment_count": len(items), **days}
    world.clock.moment += timedelta(seconds=30)
    world.deliver(job_id, {**counted, "appointments": list(items), **data})


def detect(world: World, job_id: str) -> None:
    world.detect_changes.run(Notice(job_execution_id=job_id))


def changes(world: World) -> list[dict[str, Any]]:
    return [detail for kind, detail in world.bus.events if kind == "Appointments Changed"]


def told(detail: dict[str, Any]) -> dict[str, Any]:
    """What an event says besides ids and times."""
    kinds = ("created", "changed", "cancelled", "disappeared", "baseline_days")
    return {kind: detail[kind] for kind in kinds if detail[kind]}


def day(world: World, when: date = MONDAY) -> Snapshot:
    stored = world.snapshots.read(CONNECTION, when)
    assert stored is not None
    return stored.snapshot


def seen(world: World, *items: Item, **data: Any) -> list[dict[str, Any]]:
    """Fetch the week, look for changes, and give what was told."""
    before = len(changes(world))
    detect(world, fetch(world, *items, **data))
    return [told(each) for each in changes(world)[before:]]


# ---------------------------------------------------------------------------------- what is announced


def test_first_sight_of_days_is_their_baseline(world: World) -> None:
    job_id = fetch(world, at(MONDAY), at(TUESDAY, name="y"))

    lambda_handler({"detail": {"job_execution_id": job_id}}, LambdaContextStub())

    [detail] = changes(world)
    assert told(detail) == {"baseline_days": [str(MONDAY + timedelta(days=n)) for n in range(7)]}
    assert (detail["connection_id"], detail["job_execution_id"]) == (CONNECTION, job_id)
    assert detail["window"] == WEEK.model_dump(mode="json")
    assert [each.id for each in day(world).appointments] == ["x"]
    assert day(world).fetched_by == job_id


def test_every_kind_of_change_is_announced(world: World) -> None:
    world.connections.add(TOKEN)
    world.connections.note_settings(
        CONNECTION, ClinicSettings(visit_statuses={"Q": "Cancelled"}), world.clock(), timedelta(1)
    )
    seen(world, at(MONDAY), at(MONDAY, 10, "off"), at(MONDAY, 11, "gone"), at(TUESDAY, 8, "moved"))

    news = seen(
        world,
        at(MONDAY, 12, reason="Cough"),
        at(MONDAY, 10, "off", "Q"),
        at(MONDAY, 16, "moved"),
        at(TUESDAY, 7, "new"),
    )

    assert news == [
        {
            "created": ["new"],
            "changed": [
                {"id": "moved", "fields": ["datetime"]},
                {"id": "x", "fields": ["datetime", "reason"]},
            ],
            "cancelled": ["off"],
            "disappeared": ["gone"],
        }
    ]


def test_nothing_is_announced_when_nothing_changed(world: World) -> None:
    seen(world, at(MONDAY))
    before = day(world)

    assert seen(world, at(MONDAY)) == []
    assert day(world).as_of > before.as_of  # type: ignore[operator]


def test_details_tell_what_was_before_and_after(world: World) -> None:
    seen(world, at(MONDAY, patient_name="Jane Doe"), at(MONDAY, 10, "gone"))

    seen(world, at(TUESDAY, patient_name="Jane Roe"))

    detail = changes(world)[-1]
    details = json.loads(world.results.objects[detail["details"]["key"]])
    gone, moved = details["changes"]
    assert (moved["kind"], moved["fields"]) == ("changed", ["datetime", "patient_name"])
    assert (moved["day_before"], moved["day_after"]) == (str(MONDAY), str(TUESDAY))
    assert moved["before"]["patient_name"] == "Jane Doe"
    assert moved["after"]["patient_name"] == "Jane Roe"
    assert (gone["kind"], gone["before"]["id"], "after" in gone) == ("disappeared", "gone", False)
    assert details["as_of"] == detail["as_of"]
    assert "Jane" not in json.dumps(detail)


def test_long_list_is_told_in_parts_below_the_limit_of_the_bus(world: World) -> None:
    names = [f"{number:05}".ljust(250, "x") for number in range(2_000)]
    seen(world, at(MONDAY))

    seen(world, at(MONDAY), *(at(MONDAY, 10, name) for name in names))

    parts = changes(world)[1:]
    assert len(parts) == 3
    assert [(each["part"], each["parts"], each["created_count"]) for each in parts] == [
        (number, 3, 2_000) for number in (1, 2, 3)
    ]
    assert [name for each in parts for name in each["created"]] == names
    assert max(len(json.dumps(each)) for each in parts) < PART_BYTES + 2_000
    assert len({each["event_id"] for each in parts}) == 3
    assert len({each["details"]["key"] for each in parts}) == 1


def test_fields_are_those_of_the_contract() -> None:
    schema = json.loads((SCHEMAS / "appointments-changed.schema.json").read_text())

    named = schema["$defs"]["changed"]["properties"]["fields"]["items"]["enum"]

    assert set(named) == set(FIELDS) - {"id", "normalized_status"}


# ------------------------------------------------------------------------------------ what is proven


@pytest.mark.parametrize(
    "data",
    [{"appointment_count": 3}, {"appointment_count": None}, {"appointment_count": "1"}],
    ids=["fewer", "uncounted", "no number"],
)
def test_nothing_disappears_when_the_list_may_be_incomplete(
    world: World, data: dict[str, Any]
) -> None:
    seen(world, at(MONDAY), at(MONDAY, 10, "y"))
    before = day(world).as_of

    news = seen(world, at(MONDAY, status="ARR"), **data)

    assert news == [{"changed": [{"id": "x", "fields": ["status"]}]}]
    assert [each.id for each in day(world).appointments] == ["x", "y"]
    assert day(world).as_of == before


def test_nothing_disappears_when_its_day_was_not_in_the_window(world: World) -> None:
    seen(world, at(MONDAY))
    later = Window(start_date=TUESDAY, end_date=SUNDAY)

    job_id = fetch(world, at(MONDAY, 10, "y"), window=later)
    detect(world, job_id)

    assert told(changes(world)[-1]) == {"created": ["y"]}
    assert [each.id for each in day(world).appointments] == ["x", "y"]


def test_nothing_disappears_when_cobalt_tells_of_fewer_days(world: World) -> None:
    seen(world, at(MONDAY), at(TUESDAY, name="y"))

    news = seen(world, at(MONDAY), end_date=str(MONDAY))

    assert news == []


def test_nothing_disappears_when_providers_or_a_patient_were_searched(world: World) -> None:
    seen(world, at(MONDAY), at(MONDAY, 10, "y"))
    one = FetchRequest(
        search_by="provider",
        window=Window(start_date=MONDAY, end_date=MONDAY),
        provider_ids=("1", "2"),
        names_search_by=True,
    )
    patient = FetchRequest(search_by="mrn", mrn="4711", names_search_by=True)
    for number, request in enumerate((one, patient)):
        world.clock.moment += timedelta(minutes=5)
        started = world.fetch_appointments.start(
            TOKEN, request, request_id=f"search_{number}", trigger="api"
        )
        deliver(world, started.job_execution_id, at(MONDAY, status=f"S{number}"))

        detect(world, started.job_execution_id)

    fields = {"changed": [{"id": "x", "fields": ["status"]}]}
    assert [told(each) for each in changes(world)[1:]] == [fields, fields]
    assert [each.status for each in day(world).appointments] == ["S1", "PEN"]


def test_move_is_one_change_when_the_list_may_be_incomplete(world: World) -> None:
    seen(world, at(MONDAY), at(SUNDAY, name="y"))

    news = seen(world, at(SUNDAY), at(SUNDAY, name="y"), appointment_count=3)

    assert news == [{"changed": [{"id": "x", "fields": ["datetime"]}]}]
    assert [each.id for each in day(world).appointments] == ["x"]


def test_appointment_counts_to_its_day_when_it_has_a_day_and_no_time(world: World) -> None:
    x = {"id": "x", "datetime": str(TUESDAY), "status": "PEN"}
    seen(world, x)
    later = Window(start_date=TUESDAY, end_date=SUNDAY)

    detect(world, fetch(world, x, window=later))

    assert len(changes(world)) == 1
    assert day(world).appointments == ()
    [appointment] = day(world, TUESDAY).appointments
    assert appointment.extra == {"datetime": str(TUESDAY)}


def test_appointment_without_a_time_counts_to_the_first_day(world: World) -> None:
    seen(world, at(TUESDAY))

    news = seen(world, {"id": "x", "datetime": "some day", "status": "PEN"})

    assert news == [{"changed": [{"id": "x", "fields": ["datetime"]}]}]
    [appointment] = day(world).appointments
    assert appointment.extra == {"datetime": "some day"}


# --------------------------------------------------------------------------------- when it was seen


def test_day_is_as_of_when_cobalt_made_the_result(world: World) -> None:
    job_id = begin(world)
    made = world.clock() + timedelta(seconds=20)
    world.said[job_id] = {}
    body = json.loads(world.result(job_id))
    body["timestamp"] = made.isoformat()
    body["data"]["appointment_count"], body["data"]["appointments"] = 1, [at(MONDAY)]
    raw = json.dumps(body).encode()
    world.clock.moment += timedelta(minutes=40)
    world.receive_webhook.receive(raw, sign(raw))

    detect(world, job_id)

    assert day(world).as_of == made
    assert changes(world)[0]["as_of"] == made.isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )


def test_older_fetch_changes_nothing_when_a_newer_one_is_known(world: World) -> None:
    older = fetch(world, at(MONDAY), at(MONDAY, 10, "y"))
    newer = fetch(world, at(MONDAY, status="ARR"))
    detect(world, newer)

    detect(world, older)

    assert len(changes(world)) == 1
    assert [each.status for each in day(world).appointments] == ["ARR"]


# ----------------------------------------------------------------------- whatever order, whoever else

STATES = st.dictionaries(
    st.sampled_from("abc"),
    st.tuples(st.sampled_from([MONDAY, TUESDAY, SUNDAY]), st.sampled_from(["PEN", "ARR"])),
    max_size=3,
)
WINDOWS = st.sampled_from(
    [
        Window(start_date=MONDAY, end_date=TUESDAY),
        Window(start_date=TUESDAY, end_date=SUNDAY),
        WEEK,
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(STATES, WINDOWS, st.booleans()), min_size=1, max_size=5),
    st.data(),
)
def test_days_converge_to_the_newest_when_fetches_come_in_any_order_and_at_once(
    fetches: list[tuple[dict[str, tuple[date, str]], Window, bool]], data: st.DataObject
) -> None:
    world, in_order = World(), World()
    jobs = []
    for state, window, complete in fetches:
        items = [at(when, name=name, status=status) for name, (when, status) in state.items()]
        inside = [each for each in items if str(window.start_date) <= each["datetime"][:10]]
        inside = [each for each in inside if each["datetime"][:10] <= str(window.end_date)]
        counted = {} if complete else {"appointment_count": 99}
        for each in (world, in_order):
            job_id = fetch(each, *inside, window=window, **counted)
        jobs.append(job_id)
    for job_id in jobs:
        detect(in_order, job_id)

    order = data.draw(st.permutations(jobs * 2))
    while order:
        job_id = order.pop()
        rivals = data.draw(st.integers(0, min(2, len(order))))
        for _ in range(rivals):
            world.snapshots.rivals.append(partial(detect, world, order.pop()))
        detect(world, job_id)
        while world.snapshots.rivals:  # of which the run wrote nothing
            world.snapshots.rivals.pop(0)()

    assert known_days(world) == known_days(in_order)


def known_days(world: World) -> dict[date, tuple[object, ...]]:
    """What is known of each day, but for how it came about."""
    snapshots = [Snapshot.read(each[-1]) for each in world.snapshots.versions.values()]
    return {each.day: (each.as_of, each.fetched_by, each.appointments) for each in snapshots}


def test_rival_is_not_undone_when_it_writes_the_same_day_first(world: World) -> None:
    seen(world, at(MONDAY), at(MONDAY, 10, "y"))
    older = fetch(world, at(MONDAY, status="ARR"), at(MONDAY, 10, "y"))
    newer = fetch(world, at(MONDAY, status="ARR"), at(MONDAY, 10, "y", "Cancelled"))
    world.snapshots.rivals.append(lambda: detect(world, newer))

    detect(world, older)

    assert [each.status for each in day(world).appointments] == ["ARR", "Cancelled"]
    assert [told(each) for each in changes(world)[1:]] == [
        {"changed": [{"id": "x", "fields": ["status"]}], "cancelled": ["y"]}
    ]


def test_run_gives_up_when_a_day_never_stays(world: World) -> None:
    seen(world, at(MONDAY))
    job_id = fetch(world, at(MONDAY, status="ARR"))
    versions = world.snapshots.versions[CONNECTION, MONDAY]
    world.snapshots.rivals += [lambda: versions.append(versions[0])] * WRITE_TRIES

    with pytest.raises(ResultsFault):
        detect(world, job_id)


# ------------------------------------------------------------------------------- a run that ends early


def crashes(world: World) -> dict[str, tuple[Any, str, StorageFault]]:
    return {
        "list": (world.snapshots, "stored", ResultsFault()),
        "day": (world.snapshots, "read", ResultsFault()),
        "write": (world.snapshots, "write", ResultsFault()),
        "result": (world.results, "read", ResultsFault()),
        "details": (world.results, "put_beside", ResultsFault()),
        "bus": (world.bus, "publish", BusFault()),
    }


@pytest.mark.parametrize("call", ["list", "day", "write", "result", "details", "bus"])
def test_same_change_is_told_when_a_run_ended_early(world: World, call: str) -> None:
    untouched = World()
    for each in (world, untouched):
        seen(each, at(MONDAY), at(MONDAY, 10, "gone"), at(TUESDAY, 9, "moved"))
        job_id = fetch(each, at(MONDAY, status="ARR"), at(SUNDAY, 9, "moved"))
    detect(untouched, job_id)
    part, name, fault = crashes(world)[call]
    part.fail(name, fault)

    with pytest.raises(StorageFault):
        detect(world, job_id)
    detect(world, job_id)

    assert changes(world) == changes(untouched)
    assert known_days(world) == known_days(untouched)


@pytest.mark.parametrize("written", range(8))
def test_move_stays_one_change_when_a_run_ended_between_two_days(
    world: World, written: int
) -> None:
    seen(world, at(MONDAY), at(SUNDAY, 9, "y"))
    job_id = fetch(world, at(SUNDAY), at(MONDAY, 9, "y"))
    stop = [lambda: None] * written + [fail_with(ResultsFault())]
    world.snapshots.rivals += stop

    if written < 7:
        with pytest.raises(ResultsFault):
            detect(world, job_id)
    world.snapshots.rivals.clear()
    detect(world, job_id)

    fields = ["datetime"]
    assert told(changes(world)[-1]) == {
        "changed": [{"id": "x", "fields": fields}, {"id": "y", "fields": fields}]
    }


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def test_change_is_told_when_another_fetch_came_before_the_run_was_repeated(world: World) -> None:
    seen(world, at(MONDAY))
    cut_off = fetch(world, at(MONDAY, status="ARR"))
    world.bus.fail_once()
    with pytest.raises(BusFault):
        detect(world, cut_off)
    seen(world, at(MONDAY, status="CHK"))

    detect(world, cut_off)

    assert [told(each) for each in changes(world)[1:]] == [
        {"changed": [{"id": "x", "fields": ["status"]}]}
    ] * 2
    assert changes(world)[-1]["job_execution_id"] == cut_off
    assert [each.status for each in day(world).appointments] == ["CHK"]


def test_repeated_event_is_the_same_when_the_run_is_repeated(world: World) -> None:
    seen(world, at(MONDAY))
    job_id = fetch(world, at(MONDAY, status="ARR"))

    detect(world, job_id)
    detect(world, job_id)

    first, second = changes(world)[1:]
    assert first == second
    assert len(world.snapshots.versions[CONNECTION, MONDAY]) == 2


def test_parts_are_the_same_when_a_run_ended_between_them(world: World) -> None:
    names = [f"{number:03}".rjust(250, "x") for number in range(1_000)]
    seen(world, at(MONDAY))
    job_id = fetch(world, at(MONDAY), *(at(TUESDAY, 10, name) for name in reversed(names)))
    detect(world, job_id)
    told_at_once = changes(world)[1:]

    detect(world, job_id)

    assert len(told_at_once) == 2
    assert changes(world)[3:] == told_at_once


def test_nothing_is_made_up_when_the_former_version_is_not_kept_any_more(world: World) -> None:
    seen(world, at(MONDAY))
    job_id = fetch(world, at(MONDAY, status="ARR"))
    detect(world, job_id)
    told_before = len(changes(world))
    versions = world.snapshots.versions[CONNECTION, MONDAY]
    versions[0] = b""
    world.snapshots.gone.add((CONNECTION, MONDAY, "1"))

    detect(world, job_id)

    assert len(changes(world)) == told_before


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_same_change_is_told_when_a_connection_took_the_place_of_its_own(
    world: World,
    is_cut_off: bool,
) -> None:
    seen(world, at(MONDAY))
    job_id = fetch(world, at(MONDAY, status="ARR"))
    if is_cut_off:
        world.bus.fail_once()
        with pytest.raises(BusFault):
            detect(world, job_id)
    else:
        detect(world, job_id)
    told_before = len(changes(world))
    replace_connection(world, "token-2")

    detect(world, job_id)

    [again] = changes(world)[told_before:]
    assert told(again) == {"changed": [{"id": "x", "fields": ["status"]}]}
    assert again["connection_id"] == connection_id_of("token-2")


def replace_connection(world: World, access_token: str) -> None:
    manage = ManageConnections(
        world.cobalt,
        world.jobs,
        world.ranges,
        world.snapshots,
        world.connections,
        world.secrets,
        now=world.clock,
    )
    manage.replace(CONNECTION, access_token, sure=True)


# ------------------------------------------------------------------------------------ what is no work


def test_nothing_is_written_when_the_job_is_unclaimed_unknown_or_failed(world: World) -> None:
    failed = begin(world)
    world.deliver(failed, {"success": False})

    for job_id in ("job_unknown", failed, begin(world)):
        detect(world, job_id)

    assert world.snapshots.versions == {}
    assert changes(world) == []


def test_nothing_is_written_when_the_result_is_not_kept_any_more(world: World) -> None:
    job_id = fetch(world, at(MONDAY))
    world.results.objects.clear()

    detect(world, job_id)

    assert world.snapshots.versions == {}


def test_run_fails_when_the_result_is_none(world: World) -> None:
    job_id = fetch(world, at(MONDAY))
    [key] = world.results.objects
    world.results.objects[key] = b"[]"

    with pytest.raises(UnreadableResult):
        detect(world, job_id)


@pytest.mark.parametrize("event", [{}, {"detail": None}, {"detail": {"job_execution_id": 1}}])
def test_event_is_refused_when_it_tells_of_no_job(event: dict[str, Any]) -> None:
    with pytest.raises(MalformedNotice):
        Notice.parse(event)


def test_days_of_another_connection_are_left_alone(world: World) -> None:
    seen(world, at(MONDAY))
    other = begin(world, token="token-2")
    deliver(world, other, at(MONDAY, status="ARR"))

    detect(world, other)

    assert [each.status for each in day(world).appointments] == ["PEN"]
    assert {connection for connection, _ in world.snapshots.versions} == {
        CONNECTION,
        connection_id_of("token-2"),
    }


def test_days_are_the_clinics_when_its_zone_is_known(world: World) -> None:
    world.connections.add(TOKEN)
    world.connections.note_settings(
        CONNECTION, ClinicSettings(time_zone="Pacific/Honolulu"), world.clock(), timedelta(1)
    )

    seen(world, {"id": "x", "datetime": "2025-01-14T08:00:00Z"})

    [appointment] = day(world).appointments
    assert str(appointment.datetime) == "2025-01-13 22:00:00-10:00"


def test_patients_are_not_logged(world: World, logged: Callable[[], str]) -> None:
    seen(world, at(MONDAY, patient_name="Jane Doe", patient_mrn="MRN-4711"))

    lines = logged()

    assert "changes_detected" in lines
    assert not [each for each in ("Jane", "4711") if each in lines]

"""Connections as an operator adds, replaces and removes them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cobalt_relay.errors import (
    AccessTokenRefused,
    AnotherClinic,
    ConnectionMoved,
    ConnectionUnregistered,
    RelayError,
    SameToken,
    TableFault,
    UnknownConnection,
    UnprovenClinic,
)
from cobalt_relay.models import (
    ClientCredentials,
    ClinicSettings,
    CobaltEvent,
    Completion,
    Connection,
    ConnectionState,
    FetchRange,
    Job,
    JobState,
    RangePlan,
    RangeRequest,
    RangeState,
    RequestRecord,
    RequestState,
    ResultLocation,
    Window,
    connection_id_of,
)
from cobalt_relay.services.manage_connections import ManageConnections
from cobalt_relay.services.standing import Standing
from cobalt_relay.snapshots import SeenAppointment, Snapshot
from tests.unit.fakes import FakeSnapshots

OLD, NEW, THIRD = "token-old", "token-new", "token-third"
OLD_ID, NEW_ID, THIRD_ID = map(connection_id_of, (OLD, NEW, THIRD))
NOW = datetime(2025, 1, 2, 10, 0, tzinfo=UTC)
BEFORE = NOW - timedelta(days=30)
WEEK = Window.parse("2025-01-06", "2025-01-10")
type Row = Job | RequestRecord | FetchRange


@dataclass
class Office:
    """Connections, tokens, rows and settings in dictionaries; `failing` names a call that fails."""

    rows: dict[str, Connection] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    settings: dict[str, ClinicSettings] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    owners: dict[str, str | None] = field(default_factory=dict)
    failing: str = ""

    def credentials(self, *, refresh: bool = False) -> ClientCredentials:
        return ClientCredentials(client_id="client", client_secret="sesame")

    def settings_of(self, _: ClientCredentials, access_token: str) -> ClinicSettings:
        if access_token not in self.settings:
            raise AccessTokenRefused
        return self.settings[access_token]

    def get(self, connection_id: str) -> Connection | None:
        return self.rows.get(connection_id)

    def put(self, connection: Connection, due: datetime) -> bool:
        self._meet("put")
        return self.rows.setdefault(connection.connection_id, connection) is connection

    def note_settings(
        self, connection_id: str, settings: ClinicSettings, now: datetime, life: timedelta
    ) -> None:
        noted = settings.model_dump(exclude_none=True) | {"settings_read_at": now}
        self._change(connection_id, noted)

    def note_failure(self, connection_id: str, error_code: str, now: datetime) -> None:
        self._change(connection_id, {"last_failure_at": now, "last_failure_code": error_code})

    def suspend(self, connection: Connection, *_: object) -> bool:
        self._change(connection.connection_id, {"state": ConnectionState.LOGIN_REQUIRED})
        return True

    def with_label(self, label: str) -> list[str]:
        named = self.rows.values()
        return [each.connection_id for each in named if each.access_token_reference_id == label]

    def hand_over(self, connection_id: str, heir: str) -> bool:
        self._meet("hand_over")
        if self.rows[connection_id].state is ConnectionState.REPLACED:
            return False
        self._change(connection_id, {"state": ConnectionState.REPLACED, "replaced_by": heir})
        return True

    def keep_token(self, connection_id: str, access_token: str) -> bool:
        return self.tokens.setdefault(connection_id, access_token) is access_token

    def token(self, connection_id: str, *, refresh: bool = False) -> str:
        if connection_id not in self.tokens:
            raise UnknownConnection
        return self.tokens[connection_id]

    def forget_token(self, connection_id: str) -> None:
        self._meet("forget_token")
        self.tokens.pop(connection_id, None)

    def remove(self, connection_id: str) -> None:
        self.forget_token(connection_id)
        del self.rows[connection_id]

    def give(self, row: Row, connection_id: str) -> bool:
        self._meet("give")
        self.owners[_id(row)] = connection_id
        return True

    def open_requests(self, up_to: datetime) -> list[RequestRecord]:
        return [each for each in self.history if isinstance(each, RequestRecord)]

    def of[T: (Job, FetchRange)](self, kind: type[T], connection_id: str) -> Iterator[T]:
        for row in self.history:
            if isinstance(row, kind) and self.owners[_id(row)] == connection_id:
                yield row

    def hold(self, *rows: Row) -> None:
        for row in rows:
            self.history.append(row)
            self.owners[_id(row)] = _owner(row)

    def _change(self, connection_id: str, changes: dict[str, Any]) -> None:
        self.rows[connection_id] = self.rows[connection_id].model_copy(update=changes)

    def _meet(self, call: str) -> None:
        if call == self.failing:
            self.failing = ""
            raise TableFault


class JobsOf:
    """The rows of requests and jobs."""

    def __init__(self, office: Office) -> None:
        self.open_requests, self.give = office.open_requests, office.give
        self.of_connection = lambda connection_id: office.of(Job, connection_id)


class RangesOf:
    """The rows of ranges."""

    def __init__(self, office: Office) -> None:
        self.of_connection = lambda connection_id: office.of(FetchRange, connection_id)


def _id(row: Row) -> str:
    match row:
        case Job():
            return row.job_execution_id
        case RequestRecord():
            return row.request_id
        case FetchRange():
            return row.plan.range_id


def _owner(row: Row) -> str | None:
    return row.plan.connection_id if isinstance(row, FetchRange) else row.connection_id


def connection(token: str, **fields: Any) -> Connection:
    known = {"state": ConnectionState.ACTIVE, "registered_at": BEFORE} | fields
    return Connection(connection_id=connection_id_of(token), **known)


def job(job_id: str, owner: str, **fields: Any) -> Job:
    return Job(job_execution_id=job_id, state=JobState.ACCEPTED, connection_id=owner, **fields)


def request(request_id: str, owner: str) -> RequestRecord:
    return RequestRecord(
        request_id=request_id,
        connection_id=owner,
        trigger="api",
        search_by="date_range",
        fingerprint="f",
        requested_at=NOW,
        state=RequestState.UNKNOWN,
        deadline=NOW,
    )


def fetch_range(range_id: str, owner: str) -> FetchRange:
    plan = RangePlan(
        range_id=range_id,
        connection_id=owner,
        trigger="range",
        request=RangeRequest(window=WEEK),
        accepted_at=NOW,
    )
    return FetchRange(plan=plan, state=RangeState.ACCEPTED)


@pytest.fixture
def office() -> Office:
    """A connection that has a history, beside one that has another; Cobalt takes a new token."""
    office = Office()
    office.rows = {
        OLD_ID: connection(
            OLD, access_token_reference_id="clinic_1", time_zone="America/Denver", emr_name="eCW"
        ),
        THIRD_ID: connection(THIRD, access_token_reference_id="clinic_3"),
    }
    office.tokens = {OLD_ID: OLD, THIRD_ID: THIRD}
    office.settings = {
        NEW: ClinicSettings(access_token_reference_id="clinic_1"),
        THIRD: ClinicSettings(time_zone="America/Chicago"),
    }
    office.hold(
        job("job_1", OLD_ID),
        job("job_2", OLD_ID),
        job("job_3", THIRD_ID),
        request("request_1", OLD_ID),
        request("request_3", THIRD_ID),
        fetch_range("range_1", OLD_ID),
        fetch_range("range_3", THIRD_ID),
    )
    return office


@pytest.fixture
def days() -> FakeSnapshots:
    """A day of the connection that has a history."""
    days = FakeSnapshots()
    days.write(a_day(OLD_ID), None)
    return days


def a_day(owner: str, seen_at: datetime = BEFORE) -> Snapshot:
    seen = SeenAppointment(id="appt_1", as_of=seen_at, fetched_by="job_1")
    return Snapshot(
        connection_id=owner,
        day=WEEK.start_date,
        as_of=seen_at,
        fetched_by="job_1",
        written_at=seen_at,
        written_by="job_1",
        previous_version="7",
        appointment_count=1,
        appointments=(seen,),
    )


@pytest.fixture
def manage(office: Office, days: FakeSnapshots) -> ManageConnections:
    return ManageConnections(
        office, JobsOf(office), RangesOf(office), days, office, office, now=lambda: NOW
    )


GIVEN = {
    "job_1": NEW_ID,
    "job_2": NEW_ID,
    "job_3": THIRD_ID,
    "request_1": NEW_ID,
    "request_3": THIRD_ID,
    "range_1": NEW_ID,
    "range_3": THIRD_ID,
}


def test_connection_is_registered_with_its_settings_when_cobalt_takes_the_token(
    office: Office, manage: ManageConnections
) -> None:
    office.settings[NEW] = ClinicSettings(
        access_token_reference_id="clinic_2", time_zone="America/Boise"
    )

    added = manage.add(NEW)

    assert added == office.rows[NEW_ID]
    assert (added.state, added.registered_at, added.settings_read_at) == ("active", NOW, NOW)
    assert (added.access_token_reference_id, added.time_zone) == ("clinic_2", "America/Boise")
    assert office.tokens[NEW_ID] == NEW


def test_nothing_is_kept_when_cobalt_refuses_the_token(
    office: Office, manage: ManageConnections
) -> None:
    with pytest.raises(AccessTokenRefused):
        manage.add("stranger")

    assert set(office.rows) == set(office.tokens) == {OLD_ID, THIRD_ID}


def test_settings_are_read_anew_when_the_connection_is_registered_already(
    office: Office, manage: ManageConnections
) -> None:
    added = manage.add(THIRD)

    assert (added.registered_at, added.time_zone) == (BEFORE, "America/Chicago")
    assert added.access_token_reference_id == "clinic_3"


def test_token_is_kept_when_another_stands_under_its_name(
    office: Office, manage: ManageConnections
) -> None:
    office.tokens[NEW_ID] = "stale"

    manage.add(NEW)

    assert office.tokens[NEW_ID] == NEW


def test_history_goes_to_the_new_connection_when_it_takes_a_place(
    office: Office, manage: ManageConnections
) -> None:
    new = manage.replace(OLD_ID, NEW)

    assert office.owners == GIVEN
    assert (new.connection_id, new.replaces, new.state) == (NEW_ID, OLD_ID, "active")
    assert (new.access_token_reference_id, new.time_zone) == ("clinic_1", "America/Denver")
    old = office.rows[OLD_ID]
    assert (old.state, old.replaced_by) == ("replaced", NEW_ID)
    assert office.tokens == {NEW_ID: NEW, THIRD_ID: THIRD}


def test_days_are_the_new_connections_too_when_it_takes_a_place(
    office: Office, manage: ManageConnections, days: FakeSnapshots
) -> None:
    office.rows[OLD_ID] = office.rows[OLD_ID].model_copy(update={"visit_statuses": {"X": "Gone"}})

    new = manage.replace(OLD_ID, NEW)

    found = days.read(NEW_ID, WEEK.start_date)
    assert found is not None
    assert found.snapshot == a_day(NEW_ID).model_copy(update={"copied_from": OLD_ID})
    assert new.visit_statuses == {"X": "Gone"}


def test_day_stays_when_the_new_connection_has_seen_it_itself(
    manage: ManageConnections, days: FakeSnapshots
) -> None:
    days.write(a_day(NEW_ID, NOW), None)

    manage.replace(OLD_ID, NEW)

    found = days.read(NEW_ID, WEEK.start_date)
    assert found is not None
    assert found.snapshot.as_of == NOW


@pytest.mark.parametrize("call", ["put", "give", "hand_over", "forget_token"])
def test_replacement_is_finished_when_it_is_made_again(
    office: Office, manage: ManageConnections, call: str
) -> None:
    office.failing = call
    with pytest.raises(TableFault):
        manage.replace(OLD_ID, NEW)

    manage.replace(OLD_ID, NEW)

    assert office.owners == GIVEN
    assert (office.rows[NEW_ID].replaces, office.rows[OLD_ID].replaced_by) == (OLD_ID, NEW_ID)
    assert office.tokens == {NEW_ID: NEW, THIRD_ID: THIRD}


def test_connection_takes_a_place_when_it_registered_itself_before(
    office: Office, manage: ManageConnections
) -> None:
    office.rows[THIRD_ID] = connection(THIRD, access_token_reference_id="clinic_1")

    manage.replace(OLD_ID, THIRD)

    assert set(office.owners.values()) == {THIRD_ID}
    assert office.rows[OLD_ID].replaced_by == THIRD_ID


def test_nothing_changes_when_the_new_token_is_registered_as_another_clinics(
    office: Office, manage: ManageConnections
) -> None:
    with pytest.raises(AnotherClinic):
        manage.replace(OLD_ID, THIRD)

    assert office.rows[OLD_ID].state is ConnectionState.ACTIVE
    assert office.owners["job_1"] == OLD_ID


@pytest.mark.parametrize(
    ("old", "token", "refusal"),
    [
        (OLD_ID, OLD, SameToken),
        (NEW_ID, OLD, ConnectionUnregistered),
        (THIRD_ID, NEW, ConnectionMoved),
        (OLD_ID, THIRD, ConnectionMoved),
    ],
)
def test_replacement_is_refused_when_it_makes_no_sense(
    office: Office, manage: ManageConnections, old: str, token: str, refusal: type[RelayError]
) -> None:
    office.rows[THIRD_ID] = connection(
        THIRD, state=ConnectionState.REPLACED, replaced_by=connection_id_of("token-4")
    )
    before = (dict(office.rows), dict(office.tokens), dict(office.owners))

    with pytest.raises(refusal):
        manage.replace(old, token)

    assert (office.rows, office.tokens, office.owners) == before


def test_token_does_not_come_back_when_its_connection_was_replaced(
    office: Office, manage: ManageConnections
) -> None:
    manage.replace(OLD_ID, NEW)

    with pytest.raises(ConnectionMoved):
        manage.add(OLD)

    assert OLD_ID not in office.tokens


def test_nothing_changes_when_the_new_token_is_another_clinics(
    office: Office, manage: ManageConnections
) -> None:
    office.settings[NEW] = ClinicSettings(access_token_reference_id="clinic_2")
    before = dict(office.rows), dict(office.tokens), dict(office.owners)

    with pytest.raises(AnotherClinic):
        manage.replace(OLD_ID, NEW, sure=True)

    assert (office.rows, office.tokens, office.owners) == before


@pytest.mark.parametrize(("new", "old"), [(None, "clinic_1"), ("clinic_1", None), (None, None)])
def test_nothing_changes_unless_somebody_is_sure_when_a_label_is_not_known(
    office: Office, manage: ManageConnections, new: str | None, old: str | None
) -> None:
    office.settings[NEW] = ClinicSettings(access_token_reference_id=new)
    office.rows[OLD_ID] = connection(OLD, access_token_reference_id=old)
    before = dict(office.rows), dict(office.tokens), dict(office.owners)

    with pytest.raises(UnprovenClinic):
        manage.replace(OLD_ID, NEW)

    assert (office.rows, office.tokens, office.owners) == before
    assert manage.replace(OLD_ID, NEW, sure=True).replaces == OLD_ID


def test_connection_is_gone_with_its_token_when_it_is_removed(
    office: Office, manage: ManageConnections
) -> None:
    manage.remove(OLD_ID)

    assert OLD_ID not in office.rows
    assert OLD_ID not in office.tokens
    assert office.owners["job_1"] == OLD_ID
    with pytest.raises(ConnectionUnregistered):
        manage.remove(OLD_ID)


def test_replaced_connection_is_gone_when_it_is_removed(
    office: Office, manage: ManageConnections
) -> None:
    manage.replace(OLD_ID, NEW)

    manage.remove(OLD_ID)

    assert set(office.rows) == {NEW_ID, THIRD_ID}
    assert office.tokens[NEW_ID] == NEW


@pytest.mark.parametrize(("made", "suspends"), [(-1, False), (0, True)])
def test_event_is_the_heirs_when_it_was_made_after_the_new_token_came(
    office: Office, manage: ManageConnections, made: int, suspends: bool
) -> None:
    manage.replace(OLD_ID, NEW)
    event = CobaltEvent(
        id="evt_1",
        type="access_token.login_required",
        access_token_reference_id="clinic_1",
        job_execution_id=None,
        created_at=NOW + timedelta(minutes=made),
        data=None,
    )

    claimed = Standing(office, now=lambda: NOW).heard(event, NOW)  # type: ignore[arg-type]

    assert claimed == NEW_ID
    assert office.rows[NEW_ID].is_suspended is suspends


@pytest.mark.parametrize(("began", "suspends"), [(-1, False), (1, True)])
def test_broken_link_suspends_when_its_job_began_after_the_new_token_came(
    office: Office, manage: ManageConnections, began: int, suspends: bool
) -> None:
    manage.replace(OLD_ID, NEW)
    completion = Completion(
        cobalt_event_id="evt_1",
        job_execution_id="job_1",
        state=JobState.FAILED,
        completed_at=NOW + timedelta(minutes=5),
        delivered_via="webhook",
        body_sha256="0" * 64,
        appointment_count=0,
        error_code="login_required",
        result=ResultLocation(bucket="results", key="job_1.json"),
    )
    accepted_at = NOW + timedelta(minutes=began)
    ended = job("job_1", NEW_ID, accepted_at=accepted_at, completion=completion)

    Standing(office, now=lambda: NOW).job_ended(ended, None)  # type: ignore[arg-type]

    assert office.rows[NEW_ID].is_suspended is suspends

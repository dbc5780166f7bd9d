"""The queries of `docs/analytics.md`, run by DuckDB on the files that the deployed function wrote.

They are read as Athena reads them, and put into the words of DuckDB: a word that Athena does not
know, or a column that the files do not have, shows here.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import duckdb
import pytest
import sqlglot
from sqlglot import exp

from cobalt_relay.appointments import FIELDS, normalized
from cobalt_relay.models import connection_id_of
from cobalt_relay.places import snapshot_key
from sandbox.clinics import PROFILES
from tests.integration.support import Item, Relay, eventually
from tools.local.eventlog import EventLog
from tools.local.paths import ROOT
from tools.local.stack import Stack

PAGE = (ROOT / "docs" / "analytics.md").read_text()
TABLE, *QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
EXAMPLE = "conn_0123456789abcdef0123456789abcdef"
WEEK = {"start_date": "2025-01-13", "end_date": "2025-01-19"}
"""The week that the queries name."""
NO_VISIT = {"cancelled", "noshow", "entered-in-error"}
STATUSES = dict(PROFILES[0].statuses.values())

type Rows = list[tuple[Any, ...]]


def columns() -> dict[str, str]:
    """The columns of the table and their types, without those that the place of a file tells."""
    table = sqlglot.parse_one(TABLE, read="athena")
    partitions = {
        each.name
        for partition in table.find_all(exp.PartitionedByProperty)
        for each in partition.find_all(exp.ColumnDef)
    }
    return {
        each.name: each.args["kind"].sql("duckdb")
        for each in table.find_all(exp.ColumnDef)
        if each.name not in partitions
    }


@pytest.fixture(scope="module")
def fetched(stack: Stack, events: EventLog) -> list[Item]:
    """What the sandbox delivers of riverside's week, which is then in the bucket.

    What the clinic's status codes mean is asked for when its connection is registered.
    """
    relay, sandbox = Relay(stack), stack.sandbox
    relay.fetch({"start_date": "2025-01-01", "end_date": "2025-01-02"})
    eventually(lambda: stack.reconcile() and relay.connection("riverside").get("visit_statuses"))
    job_id = relay.fetch(WEEK).json()["job_execution_id"]
    eventually(lambda: events.changes_of(job_id))
    [event_id] = [each["event_id"] for each in sandbox.jobs() if each["id"] == job_id]
    items: list[Item] = json.loads(sandbox.event_body(event_id))["data"]["appointments"]
    assert len(items) > 20
    return items


@pytest.fixture(scope="module")
def ask(
    stack: Stack, fetched: list[Item], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Rows]]:
    """Gives the rows of a query on the bucket's files."""
    relay, folder = Relay(stack), tmp_path_factory.mktemp("bucket")
    for key in relay.object_keys("snapshots/"):
        file = folder / key
        file.parent.mkdir(parents=True)
        file.write_bytes(relay.object(key))
    with duckdb.connect() as base:
        # What the lines hold beyond the columns is no part of the table, for Athena as well.
        base.execute(
            f"CREATE VIEW cobalt_relay_days AS SELECT * FROM read_json("  # noqa: S608 - our own
            f"'{folder}/snapshots/*/*/*', format='newline_delimited', hive_partitioning=true,"
            f" hive_types_autocast=false, columns={columns()})"
        )
        connection_id = connection_id_of(stack.access_tokens["riverside"])

        def rows(query: str) -> Rows:
            asked = query.replace(EXAMPLE, connection_id)
            found: Rows = base.execute(sqlglot.transpile(asked, "athena", "duckdb")[0]).fetchall()
            return found

        yield rows


def meaning(item: Item) -> str | None:
    return normalized(item["status"], STATUSES)


def test_table_has_the_columns_that_the_files_have() -> None:
    of_the_day = {"appointment_count"}
    of_a_sight = {"as_of", "fetched_by"}

    assert set(columns()) == {*FIELDS, *of_the_day, *of_a_sight}


def test_table_takes_what_cobalt_sent_under_names_that_differ_in_case_alone() -> None:
    assert "WITH SERDEPROPERTIES ('case.insensitive' = 'FALSE')" in TABLE
    assert all(name == name.lower() for name in columns())


def test_table_is_found_where_the_files_are() -> None:
    properties = dict(re.findall(r"'([a-z.]+)' = '(.*?)'", TABLE))
    template = properties["storage.location.template"]

    place = template.replace("${connection}", EXAMPLE).replace("${day}", "2025-01-13")

    key = snapshot_key(EXAMPLE, datetime(2025, 1, 13).date())  # noqa: DTZ001 - a day has no zone
    assert Path(f"s3://BUCKET/{key}").parent == Path(place)
    assert f"LOCATION '{template.partition('connection=')[0]}'" in TABLE
    assert properties["projection.day.format"] == "yyyy-MM-dd"


def test_there_are_three_queries() -> None:
    assert len(QUERIES) == 3


def test_days_tell_how_fresh_they_are(
    ask: Callable[[str], Rows], fetched: list[Item], stack: Stack
) -> None:
    rows = ask(QUERIES[0])

    counts = [sum(item["datetime"][:10] == day for item in fetched) for _, day, _, _ in rows]
    assert [day for _, day, _, _ in rows] == [f"2025-01-{number}" for number in range(13, 20)]
    assert [count for *_, count in rows] == counts
    assert sum(counts) == len(fetched)
    assert {connection for connection, *_ in rows} == {
        connection_id_of(stack.access_tokens["riverside"])
    }
    assert all(datetime.fromisoformat(as_of) for _, _, as_of, _ in rows)


def test_no_shows_are_counted_by_provider(ask: Callable[[str], Rows], fetched: list[Item]) -> None:
    by_provider: dict[str, list[str | None]] = defaultdict(list)
    for item in fetched:
        by_provider[item["provider_name"]].append(meaning(item))

    rows = ask(QUERIES[1])

    assert [row[:5] for row in rows] == [
        ("2025-01", name, len(told), told.count("noshow"), told.count("cancelled"))
        for name, told in sorted(by_provider.items())
    ]
    for _, _, number, no_shows, _, percent in rows:
        assert float(percent) == pytest.approx(100 * no_shows / number, abs=0.06)


def test_hours_are_the_clinics_own(ask: Callable[[str], Rows], fetched: list[Item]) -> None:
    booked: dict[tuple[int, str], list[Item]] = defaultdict(list)
    for item in fetched:
        if meaning(item) not in NO_VISIT:
            begins = datetime.fromisoformat(item["datetime"])
            booked[begins.isoweekday(), item["datetime"][11:13]].append(item)

    rows = ask(QUERIES[2])

    assert [row[:2] for row in rows] == sorted(booked)
    for weekday, hour, hours, days in rows:
        items = booked[weekday, hour]
        ahead = [
            datetime.fromisoformat(each["datetime"]) - datetime.fromisoformat(each["created_at"])
            for each in items
        ]
        assert hours == pytest.approx(sum(each["duration"] for each in items) / 60, abs=0.01)
        wanted = fmean(each.total_seconds() for each in ahead) / 86_400
        assert days == pytest.approx(wanted, abs=0.051)

"""What `make bench` says: the arithmetic of its goals, and the numbers that are exact."""

import contextlib
import io
import json
import runpy
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import urllib3

import bench.__main__ as table
from bench import calls, cold_start, designs, package, requests
from bench.answers import Answers, fetch_call, result, webhook_call
from bench.cost import PRICES
from bench.figures import Figure
from bench.setting import FUNCTIONS
from tools.local.paths import ROOT
from tools.local.stack import FUNCTIONS as LOGICAL_IDS


def a_figure(kind: Any, value: float, rival: float, limit: float = 1.5) -> Figure:
    return Figure("figure", "ms", value, "rival", rival, "goal", limit, kind)


@pytest.mark.parametrize(
    ("figure", "is_met", "beside"),
    [
        (a_figure("ratio_at_most", 3.0, 2.0), True, "1.500"),
        (a_figure("ratio_at_most", 3.1, 2.0), False, "1.550"),
        (a_figure("ratio_at_least", 1.7, 2.0, 0.85), True, "0.850"),
        (a_figure("ratio_at_least", 1.6, 2.0, 0.85), False, "0.800"),
        (a_figure("difference_at_most", 3.5, 2.0), True, "+1.50"),
        (a_figure("difference_at_most", 3.6, 2.0), False, "+1.60"),
        (a_figure("exactly", 2, 2), True, "1.000"),
        (a_figure("exactly", 1, 2), False, "0.500"),
        (a_figure("exactly", 0, 0), True, "-"),
        (a_figure("lowest", 1, 2), True, "0.500"),
        (a_figure("lowest", 2, 2), False, "1.000"),
    ],
)
def test_goal_is_met_or_not(figure: Figure, is_met: bool, beside: str) -> None:
    assert (figure.is_met, figure.beside) == (is_met, beside)


def test_missed_goal_is_named() -> None:
    met, missed = a_figure("exactly", 1, 1), a_figure("exactly", 2, 1)

    assert table.verdict([met]) == "1 of 1 goals are met."
    assert table.verdict([met, missed]) == "1 of 2 goals are met. MISSED: figure (rival)."


def test_warm_functions_make_the_fewest_calls_that_the_design_allows() -> None:
    assert {name: dict(counted.calls) for name, counted in calls.count().items()} == {
        "fetch": {"table": 2, "Cobalt": 1},
        "webhook": {"table": 3, "S3": 1, "bus": 1},
    }


class Recorded(Answers):
    """Answers that keep what was asked of AWS."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, Any]] = []

    def _aws(self, service: str, operation: str, asked: Any) -> Any:
        self.asked.append((operation, shape(asked)))
        return super()._aws(service, operation, asked)


class Accepted:
    """Cobalt's 202, as urllib3 hands it on."""

    @staticmethod
    def json() -> Any:
        return {"success": True, "job_execution_id": "job_1"}


def shape(value: Any) -> Any:
    """Give names and their places without what varies; the detail of an event is read."""
    if isinstance(value, dict):
        value = {
            name: json.loads(each) if name == "Detail" else each for name, each in value.items()
        }
        return {name: shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "text" if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize("route", ["fetch", "webhook"])
def test_bare_rival_makes_the_very_same_calls(route: str) -> None:
    def call() -> Any:
        if route == "webhook":
            return webhook_call(result().replace(b"access_token_reference_id", b"unknown"))
        event = fetch_call()
        for headers in (event["headers"], event["multiValueHeaders"]):
            del headers["Idempotency-Key"]
        return event

    answers, asked = Recorded(), []
    upstream = patch.object(urllib3.PoolManager, "request", lambda *_, **__: Accepted())
    with answers.in_place(), upstream, contextlib.redirect_stdout(io.StringIO()):
        bare = runpy.run_path(str(ROOT / "bench" / "rivals" / "bare" / f"{route}.py"))
        for handler in (requests.handlers()[route], bare["lambda_handler"]):
            requests.answered(handler, call())  # reads a secret, too
            answers.asked.clear()
            requests.answered(handler, call())
            asked.append(list(answers.asked))

    assert asked[0] == asked[1] != []


def test_requests_are_measured_and_answered() -> None:
    figures = requests.measure(quick=True)

    assert [figure.unit for figure in figures] == ["CPU ms", "CPU ms", "CPU ms", "MiB at most"]
    assert all(figure.value > 0 < figure.rival_value for figure in figures)


def test_design_costs_what_its_calls_cost() -> None:
    free = designs.Design("free", api_requests=0, runs=0, puts=0, events=0, log_lines=0)
    queued = designs.Design("queued", 0, 0, 0, 0, 0, 0, 0, 0, queue_requests=3, log_lines=0)
    standing = designs.Design("standing", 0, 0, 0, 0, 0, 0, 0, 0, log_lines=0, usd_a_month=50)

    assert free.usd() == 0
    assert queued.usd() == pytest.approx(3 * PRICES["sqs_million_requests"])
    assert (standing.usd(), standing.usd(500_000)) == (50, 100)


def test_container_costs_as_much_as_the_relay_where_it_begins_to_cost_less() -> None:
    ours, *_, container = designs.designs()
    fetches = designs.cheaper_from(container)

    assert container.usd(fetches) == pytest.approx(ours.usd(fetches), rel=1e-4)
    assert container.usd(fetches / 2) > ours.usd(fetches / 2)


def test_every_price_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bench").glob("*.py"))

    assert [name for name in PRICES if f'"{name}"' not in text] == []


def test_every_function_begins_with_use_cases_of_its_own() -> None:
    assert set(FUNCTIONS.values()) == set(LOGICAL_IDS)
    assert all(cold_start.use_cases_of(folder) for folder in FUNCTIONS)


def test_rivals_are_locked_with_hashes() -> None:
    for path in (ROOT / "bench" / "rivals" / "requirements.txt", *ROOT.glob("requirements/*.txt")):
        text = path.read_text(encoding="utf-8")
        assert text.count("==") <= text.count("--hash=sha256:")
        assert "index-url" not in text


def test_results_that_are_kept_have_every_part(tmp_path: Path) -> None:
    results = ROOT / "bench" / "results"
    kept = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")
    }

    assert set(table.PARTS) <= kept.keys()
    assert all(kept[part]["figures"] for part in table.PARTS)
    assert kept["package"]["figures"][0]["limit"] == package.LIMIT
    assert tomllib.loads((ROOT / "bench" / "prices.toml").read_text(encoding="utf-8")) == PRICES

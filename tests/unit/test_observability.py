"""What may be logged, whatever the levels and switches of the environment are."""

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from cobalt_relay.adapters.secrets import Secrets
from cobalt_relay.errors import TableFault, UnexpectedFailure
from cobalt_relay.observability import failure, logger, observed
from tests.unit.conftest import HEADERS, LambdaContextStub, World, fetch_event
from tests.unit.test_adapters import NOW


@pytest.fixture
def root_at_debug() -> Iterator[list[str]]:
    """The root logger as Lambda sets it at DEBUG, with what it takes in."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    root, keep = logging.getLogger(), Keep(level=logging.DEBUG)
    before = root.level
    root.addHandler(keep)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(keep)
    root.setLevel(before)


def test_no_library_logs_a_secret_when_everything_is_at_debug(root_at_debug: list[str]) -> None:
    client = boto3.client("secretsmanager")
    value = {"client_id": "client", "client_secret": "canary-secret"}
    with Stubber(client) as stubber:
        stubber.add_response(
            "get_secret_value",
            {"SecretString": json.dumps(value), "CreatedDate": NOW, "VersionId": "v" * 32},
        )
        Secrets(client, "arn:c", "arn:w").credentials()

    logging.getLogger("another.library").debug("heard")

    assert root_at_debug == ["heard"]
    assert "canary" not in "".join(root_at_debug)


@pytest.mark.parametrize("switch", ["POWERTOOLS_LOGGER_LOG_EVENT", "POWERTOOLS_DEV"])
def test_no_switch_of_the_environment_logs_an_event(
    world: World, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv(switch, "true")

    @observed
    def handle(_event: dict[str, Any], _context: object) -> None:
        logger.info("handled")

    handle(fetch_event({}, {**HEADERS, "client_secret": "canary"}), LambdaContextStub())

    lines = logged()
    assert "handled" in lines
    assert "canary" not in lines


def test_keys_of_one_invocation_are_gone_in_the_next(logged: Callable[[], str]) -> None:
    @observed
    def handle(event: dict[str, Any], _context: object) -> None:
        if event:
            logger.append_keys(connection_id="conn_1")
        logger.info("handled")

    handle({"first": True}, LambdaContextStub())
    handle({}, LambdaContextStub())

    first, second = [json.loads(line) for line in logged().splitlines()]
    assert first["connection_id"] == "conn_1"
    assert "connection_id" not in second


def test_line_stays_one_line_whatever_an_id_holds(logged: Callable[[], str]) -> None:
    logger.info("handled", extra={"job_execution_id": "a\n\x1b[31m\u2028b"})

    [line] = logged().splitlines()
    assert json.loads(line)["job_execution_id"] == "a\n\x1b[31m\u2028b"
    assert line.isascii()


def test_failure_tells_type_and_place_but_not_the_text() -> None:
    with pytest.raises(ValueError, match="Jane") as raised:
        int("Jane Doe")

    told = failure(raised.value)

    assert told["error_type"] == "ValueError"
    assert "test_failure_tells" in told["error_place"]
    assert "Jane" not in str(told)


def test_exception_that_nobody_foresaw_leaves_without_its_text(logged: Callable[[], str]) -> None:
    @observed
    def handle(event: dict[str, Any], _context: object) -> None:
        raise KeyError(event["patient"])

    patient = "Jane Doe"
    with pytest.raises(UnexpectedFailure) as raised:
        handle({"patient": patient}, LambdaContextStub())

    told = "".join(traceback.format_exception(raised.value))
    line, metric = [json.loads(each) for each in logged().splitlines()]
    assert (line["message"], line["error_type"]) == ("unexpected_error", "KeyError")
    assert metric["UnexpectedError"] == [1.0]
    assert patient not in told + json.dumps(line)


def test_metrics_bear_the_name_of_their_stack() -> None:
    code = (
        "from cobalt_relay.observability import count, metrics;"
        "count('FetchAccepted'); metrics.flush_metrics()"
    )
    environment = os.environ | {
        "POWERTOOLS_SERVICE_NAME": "staging",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }

    done = subprocess.run(  # in an interpreter of its own, as a function begins
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )

    told = json.loads(done.stdout)
    [description] = told["_aws"]["CloudWatchMetrics"]
    assert description["Dimensions"] == [["service"]]
    assert told["service"] == "staging"


def test_foreseen_error_leaves_as_it_is() -> None:
    @observed
    def handle(_event: dict[str, Any], _context: object) -> None:
        raise TableFault

    with pytest.raises(TableFault):
        handle({}, LambdaContextStub())

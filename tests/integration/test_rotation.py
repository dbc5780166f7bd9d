"""The rotation of the webhook secret on the deployed stack, against the sandbox."""

import hashlib
import hmac
import json
import uuid
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from cobalt_relay.models import iso, utc_now
from tests.integration.support import Relay, eventually
from tests.integration.test_stack import as_function
from tools.local import rotation
from tools.local.rotation import RotationFailedError
from tools.local.sandbox import Sandbox
from tools.local.stack import Stack, configure

WEEK = {"start_date": "2025-01-06", "end_date": "2025-01-10"}
RANDOM = "nobody-has-this-key"


@pytest.fixture(autouse=True)
def _as_it_was(stack: Stack) -> Iterator[None]:
    """Whatever a test leaves, the next one finds a relay that is set up."""
    yield
    manager, arn = stack.aws.secretsmanager, stack.outputs["WebhookSecretArn"]
    for version, labels in manager.describe_secret(SecretId=arn)["VersionIdsToStages"].items():
        for label in {"AWSPENDING", "RELAY_ROTATING"} & set(labels):
            manager.update_secret_version_stage(
                SecretId=arn, VersionStage=label, RemoveFromVersionId=version
            )
    configure(stack)


def deliver(relay: Relay, key: str) -> int:
    """The answer to an event that is signed so."""
    body = json.dumps({"id": f"evt_{uuid.uuid4().hex}", "type": "patient.updated"}).encode()
    signature = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    return relay.webhook(body, {"cobalt-verification": signature}).status_code


def fetched(relay: Relay) -> str:
    """The state in which a whole live fetch ends."""
    answer = relay.fetch(WEEK)
    assert answer.status_code == 202, answer.text
    state: str = relay.ended_job(answer.json()["job_execution_id"])["state"]
    return state


def labels(stack: Stack) -> dict[str, str]:
    """Which version each label is on; AWSPENDING may stay on the one that became current."""
    described = stack.aws.secretsmanager.describe_secret(SecretId=stack.outputs["WebhookSecretArn"])
    return {
        label: version
        for version, theirs in described["VersionIdsToStages"].items()
        for label in theirs
        if (label, "AWSCURRENT" in theirs) != ("AWSPENDING", True)
    }


def rotations(sandbox: Sandbox) -> int:
    return sum(call["path"].endswith("/rotate-secret") for call in sandbox.requests())


def test_live_fetches_end_before_while_and_after_the_secret_is_rotated(
    stack: Stack, relay: Relay, sandbox: Sandbox
) -> None:
    before = sandbox.webhook_secret()["current"]
    states = [fetched(relay)]
    token = rotation.stage(stack)

    for step in rotation.STEPS:
        rotation.take(stack, step, token)
        states.append(fetched(relay))

    after = sandbox.webhook_secret()
    assert states == ["COMPLETED"] * 5
    assert (after["previous"], after["current"] != before) == (before, True)
    assert labels(stack)["AWSCURRENT"] == token
    assert labels(stack).keys() == {"AWSCURRENT", "AWSPREVIOUS"}
    assert [deliver(relay, key) for key in (after["current"], before, RANDOM)] == [200, 200, 401]
    sandbox.add_fault("previous_secret", count=1)
    assert [fetched(relay), fetched(relay)] == ["COMPLETED", "COMPLETED"]


def test_rotation_can_be_repeated_step_by_step(
    stack: Stack, relay: Relay, sandbox: Sandbox
) -> None:
    made = rotations(sandbox)
    token = rotation.stage(stack)

    for step in rotation.STEPS:
        for _ in range(2):
            rotation.take(stack, step, token)
    for step in rotation.STEPS:
        rotation.take(stack, step, token)

    assert rotations(sandbox) - made == 1
    assert deliver(relay, sandbox.webhook_secret()["current"]) == 200


def test_rotations_follow_one_another(stack: Stack, relay: Relay, sandbox: Sandbox) -> None:
    tokens = [rotation.rotate(stack) for _ in range(3)]

    keys = sandbox.webhook_secret()
    assert labels(stack) == {"AWSPREVIOUS": tokens[1], "AWSCURRENT": tokens[2]}
    assert [deliver(relay, keys[name]) for name in ("current", "previous")] == [200, 200]


@pytest.mark.parametrize(
    ("fault", "step"),
    [
        ("server_error", "createSecret"),
        ("wrong_credentials", "createSecret"),
        ("unavailable", "setSecret"),
        ("html", "setSecret"),
        ("rate_limited", "testSecret"),
        ("hang_up", "testSecret"),
    ],
)
def test_everything_works_and_goes_on_when_cobalt_fails_at_a_step(
    stack: Stack, relay: Relay, sandbox: Sandbox, step: str, fault: str
) -> None:
    token = rotation.stage(stack)
    for earlier in rotation.STEPS[: rotation.STEPS.index(step)]:
        rotation.take(stack, earlier, token)
    sandbox.add_fault(fault, path="/v1/webhook")

    with pytest.raises(RotationFailedError) as failure:
        rotation.take(stack, step, token)

    sandbox.clear_faults()
    assert "Cobalt refused or did not answer" in str(failure.value)
    assert deliver(relay, sandbox.webhook_secret()["current"]) == 200
    assert rotation.rotate(stack) == token
    assert deliver(relay, sandbox.webhook_secret()["current"]) == 200


@pytest.mark.parametrize(("fault", "accepted"), [("server_error", True), ("hang_up", False)])
def test_key_is_found_out_or_made_later_when_the_answer_to_the_rotation_is_lost(
    stack: Stack, relay: Relay, sandbox: Sandbox, fault: str, accepted: bool
) -> None:
    [own] = [each for each in _registered(stack) if each["url"] == stack.webhook_url]
    before = sandbox.webhook_secret()["current"]
    token = rotation.stage(stack)
    path = f"/v1/webhook/{own['id']}/rotate-secret"
    sandbox.add_fault(fault, path=path, accepted=accepted, count=1)

    if accepted:
        rotation.take(stack, "createSecret", token)
    else:
        with pytest.raises(RotationFailedError):
            rotation.take(stack, "createSecret", token)
        assert sandbox.webhook_secret()["current"] == before
        assert deliver(relay, before) == 200

    assert rotation.rotate(stack) == token
    after = sandbox.webhook_secret()
    assert after["previous"] == before
    assert [deliver(relay, after[name]) for name in ("current", "previous")] == [200, 200]


def _registered(stack: Stack) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = stack.sandbox._cobalt("GET", "/v1/webhook")["webhook_urls"]
    return entries


def test_delivery_is_put_off_not_refused_when_a_rotation_died_before_its_key_was_kept(
    stack: Stack, relay: Relay, sandbox: Sandbox
) -> None:
    sandbox.add_fault("hang_up", path="/v1/webhook", count=1)  # not the first look, but the last
    token = rotation.stage(stack)
    with pytest.raises(RotationFailedError):
        rotation.take(stack, "createSecret", token)
    sandbox.clear_faults()
    stack.aws.secretsmanager.put_secret_value(
        SecretId=stack.outputs["WebhookSecretArn"],
        SecretString=json.dumps({"rotating_since": iso(utc_now()), "token": token}),
        VersionStages=["RELAY_ROTATING"],
    )
    sandbox.rotate_webhook_secret()
    key = sandbox.webhook_secret()["current"]

    eventually(lambda: deliver(relay, key) == 503)  # within the second after its last look

    made = rotations(sandbox)
    rotation.rotate(stack)
    assert rotations(sandbox) == made  # the key was there: none was made
    assert deliver(relay, key) == 200


def test_rotation_begins_anew_when_it_was_given_up(
    stack: Stack, relay: Relay, sandbox: Sandbox
) -> None:
    first = rotation.stage(stack)
    rotation.take(stack, "createSecret", first)
    key = sandbox.webhook_secret()["current"]
    second = rotation.stage(stack, anew=True)
    status = deliver(relay, key)

    assert rotation.rotate(stack) == second

    assert (status, deliver(relay, key)) == (200, 200)
    assert sandbox.webhook_secret()["current"] == key


def test_nothing_is_done_when_a_schedule_is_tried_out_or_the_event_is_wrong(
    stack: Stack, sandbox: Sandbox
) -> None:
    key = sandbox.webhook_secret()["current"]
    token = rotation.stage(stack)

    rotation.take(stack, "testSecret", token)
    for step, which, secret in (
        ("dropSecret", token, "WebhookSecretArn"),
        ("createSecret", str(uuid.uuid4()), "WebhookSecretArn"),
        ("createSecret", token, "CobaltCredentialsArn"),
    ):
        with pytest.raises(RotationFailedError):
            rotation.take(stack, step, which, of=secret)

    assert sandbox.webhook_secret()["current"] == key


def test_nothing_is_rotated_when_cobalt_does_not_deliver_to_us(
    stack: Stack, relay: Relay, sandbox: Sandbox
) -> None:
    key = sandbox.webhook_secret()["current"]
    sandbox.forget_other_webhooks("nothing")

    with pytest.raises(RotationFailedError, match="register the URL"):
        rotation.rotate(stack)

    assert sandbox.webhook_secret()["current"] == key
    assert deliver(relay, RANDOM) == 401  # no mark was left
    sandbox.register_webhook(stack.webhook_url)
    rotation.rotate(stack)
    assert sandbox.webhook_secret()["previous"] == key


def test_no_secret_is_logged(stack: Stack, sandbox: Sandbox) -> None:
    rotation.rotate(stack)

    keys = sandbox.webhook_secret()
    logs = stack.aws.logs
    said = ""
    for group in logs.describe_log_groups()["logGroups"]:
        pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
        said += "".join(event["message"] for page in pages for event in page["events"])
    assert "rotation_step" in said
    for canary in (
        keys["current"],
        keys["previous"],
        stack.client_secret,
        *stack.access_tokens.values(),
    ):
        assert canary not in said


def test_function_may_rotate_the_webhook_secret_alone(stack: Stack) -> None:
    rotator = as_function(stack, "RotateWebhookSecret")
    own, other = stack.outputs["WebhookSecretArn"], stack.outputs["CobaltCredentialsArn"]

    with pytest.raises(ClientError):
        rotator.secretsmanager.put_secret_value(SecretId=other, SecretString="{}")

    assert rotator.secretsmanager.describe_secret(SecretId=own)["ARN"] == own

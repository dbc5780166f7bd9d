"""The rotation of the webhook secret, through its handler, and the receivers that watch it."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import pytest

from cobalt_relay import bootstrap
from cobalt_relay.adapters.rotation import RotatedSecret
from cobalt_relay.adapters.secrets import Secrets
from cobalt_relay.errors import (
    AccessTokenRefused,
    BadSignature,
    InvalidRotationEvent,
    KeyNotYetKnown,
    NotTheWebhookSecret,
    PendingSecretMissing,
    PendingSecretOutdated,
    PendingSecretUnproven,
    RelayError,
    RotationHeldUp,
    UnknownRotation,
    UpstreamBroken,
    UpstreamUnanswered,
    UpstreamUnreachable,
    WebhookNotRegistered,
    WebhookSecretNotConfigured,
)
from cobalt_relay.models import ClientCredentials
from cobalt_relay.services.receive_webhook import ReceiveWebhook
from cobalt_relay.services.rotate_webhook_secret import (
    KNOWN_SECONDS,
    RotateWebhookSecret,
    RotationStep,
)
from cobalt_relay.services.take_in import Verdict
from functions.rotate_webhook_secret.handler import lambda_handler
from tests.unit.conftest import LambdaContextStub
from tests.unit.fakes import (
    FakeClock,
    FakeSecrets,
    FakeSecretsManager,
    FakeWebhooks,
)

ARN = "arn:w"
URL = "https://relay.example.com/v1/webhooks/cobalt"
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
DAY = timedelta(hours=24)


class Killed(BaseException):
    """The process died; nothing catches that."""


class TakesAll:
    """What comes after the signature is no matter here."""

    def take_in(self, _delivery: object) -> Verdict:
        return Verdict.RECEIVED


class Site:
    """A secret, a Cobalt, receivers warm and cold, and the rotation between them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.calls = 0
        self.dies_at = -1
        self.watch: Callable[[str], None] = lambda _call: None
        self.manager = FakeSecretsManager(self.clock, self._meet)
        self.cobalt = FakeWebhooks(URL, self._meet)
        self.manager.put(json.dumps({"webhook_secret_key": "whsec_0", "success": True}))
        self.clock.moment += timedelta(days=30)
        self.credentials = FakeSecrets()
        self.warm = self.receiver()
        self.statuses: list[int] = []
        self.door: Callable[[bytes, str], int] = self._deliver

    def _meet(self, call: str) -> None:
        self.calls += 1
        if self.calls == self.dies_at:
            raise Killed
        self.watch(call)

    def ticks(self) -> float:
        return self.clock().timestamp()

    def receiver(self) -> ReceiveWebhook:
        """A new instance, which has seen nothing; its own look-ups are not part of the rotation."""
        view = FakeSecretsManager(self.clock)
        view.values, view.labels = self.manager.values, self.manager.labels
        keys = Secrets(cast("Any", view), "arn:c", ARN, clock=self.ticks, now=self.clock)
        return ReceiveWebhook(cast("Any", TakesAll()), keys, now=self.clock)

    def rotation(self) -> RotateWebhookSecret:
        return RotateWebhookSecret(
            self.cobalt,
            RotatedSecret(cast("Any", self.manager), ARN),
            self.credentials,
            self,
            URL,
            now=self.clock,
            sleep=self.clock.sleep,
        )

    def deliver(self, body: bytes, signature: str) -> int:
        self._meet("deliver")
        status = self.door(body, signature)
        self._meet("deliver")
        return status

    def _deliver(self, body: bytes, signature: str) -> int:
        return status_of(self.warm, body, signature)

    def keys(self) -> list[tuple[str, str]]:
        """What a receiver knows that has looked at everything."""
        live = self.receiver()._secrets.webhook_keys(refresh=True)
        return [(key.name, key.secret.decode()) for key in live.keys]

    def labelled_text(self) -> str:
        """Every value that has a label: what has none is as good as gone."""
        manager = self.manager
        return "".join(manager.values[version][0] or "" for version in manager.labels.values())

    def rotate(self, token: str, *steps: str) -> None:
        """Ask for steps as Secrets Manager does: it stages an empty version first."""
        if token not in self.manager.values:
            self.manager.stage(token)
        for step in steps or STEPS:
            take(step, token)


def take(step: str, token: str, arn: str = ARN) -> None:
    event = {"Step": step, "SecretId": arn, "ClientRequestToken": token}
    lambda_handler(event, LambdaContextStub())


def signature_of(body: bytes, key: bytes) -> str:
    return hmac.new(key, body, hashlib.sha256).hexdigest()


def an_event() -> bytes:
    return json.dumps({"id": secrets.token_hex(8), "type": "patient.updated"}).encode()


def status_of(receiver: ReceiveWebhook, body: bytes, signature: str) -> int:
    """What the front door answers."""
    try:
        receiver.receive(body, signature)
    except BadSignature:
        return 401
    except KeyNotYetKnown:
        return 503
    return 200


def genuine(receiver: ReceiveWebhook, key: str) -> int:
    body = an_event()
    return status_of(receiver, body, signature_of(body, key.encode()))


def forged(receiver: ReceiveWebhook) -> int:
    return genuine(receiver, secrets.token_hex(16))


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site()
    monkeypatch.setattr(bootstrap, "rotate_webhook_secret", site.rotation)
    return site


# ----------------------------------------------------------------------------------------- the steps


def test_cobalts_new_key_becomes_the_current_one(site: Site, logged: Callable[[], str]) -> None:
    site.rotate("token-1")

    assert site.cobalt.rotated == ["wh_1"]
    assert json.loads(site.manager.text("AWSCURRENT") or "")["webhook_secret_key"] == "whsec_1"
    assert json.loads(site.manager.text("AWSPREVIOUS") or "")["webhook_secret_key"] == "whsec_0"
    assert site.manager.labels.keys() == {"AWSCURRENT", "AWSPREVIOUS"}
    assert site.keys() == [("Current", "whsec_1"), ("Previous", "whsec_0")]
    lines = logged()
    assert "SecretRotated" in lines
    assert "whsec" not in lines


def test_rotations_follow_one_another(site: Site) -> None:
    for number in range(3):
        site.rotate(f"token-{number}")
        site.clock.moment += timedelta(days=30)

    assert site.cobalt.keys == ["whsec_0", "whsec_1", "whsec_2", "whsec_3"]
    assert site.keys() == [("Current", "whsec_3")]


@pytest.mark.parametrize("step", STEPS)
def test_repeated_step_changes_nothing(site: Site, step: str) -> None:
    site.rotate("token-1", *STEPS[: STEPS.index(step) + 1])
    before = dict(site.manager.labels), dict(site.manager.values)

    take(step, "token-1")

    assert (site.manager.labels, site.manager.values) == before
    assert site.cobalt.rotated == ["wh_1"]


def test_all_steps_are_harmless_when_they_come_after_the_end(site: Site) -> None:
    site.rotate("token-1")
    before = dict(site.manager.labels), dict(site.manager.values)

    site.rotate("token-1")

    assert (site.manager.labels, site.manager.values) == before
    assert len(site.cobalt.keys) == 2


def test_receivers_know_of_the_rotation_before_cobalt_makes_the_key(site: Site) -> None:
    seen: list[tuple[str, bool, timedelta]] = []

    def watch(call: str) -> None:
        if call == "rotate":
            version = site.manager.labels["RELAY_ROTATING"]
            since = site.clock() - site.manager.values[version][1]
            rotating = site.receiver()._secrets.webhook_keys(refresh=True).rotating
            seen.append((call, rotating, since))

    site.watch = watch

    site.rotate("token-1", "createSecret")

    assert seen == [("rotate", True, timedelta(seconds=KNOWN_SECONDS))] * 2
    assert not site.receiver()._secrets.webhook_keys(refresh=True).rotating


def test_key_that_cobalt_uses_already_is_taken_over_at_once(site: Site) -> None:
    site.cobalt.keys.append("whsec_1")  # made by a rotation that died over it
    began = site.clock()

    site.rotate("token-2")

    assert site.cobalt.rotated == []
    assert site.clock() == began
    assert site.keys() == [("Current", "whsec_1"), ("Previous", "whsec_0")]


def test_key_is_taken_over_when_another_makes_it_while_we_wait(site: Site) -> None:
    sleep = site.clock.sleep

    def meanwhile(seconds: float) -> None:
        site.cobalt.keys.append("whsec_1")
        sleep(seconds)

    site.clock.sleep = meanwhile  # type: ignore[method-assign]

    site.rotate("token-1")

    assert site.cobalt.rotated == []
    assert site.keys()[0] == ("Current", "whsec_1")


@pytest.mark.parametrize("error", [UpstreamUnanswered(), UpstreamBroken()])
def test_key_is_found_out_when_the_answer_gets_lost(site: Site, error: RelayError) -> None:
    site.cobalt.loses = error

    site.rotate("token-1")

    assert site.cobalt.keys == ["whsec_0", "whsec_1"]
    assert site.keys()[0] == ("Current", "whsec_1")


@pytest.mark.parametrize("error", [UpstreamUnanswered(), UpstreamUnreachable(), UpstreamBroken()])
def test_rotation_is_held_up_and_made_later_when_cobalt_made_no_key(
    site: Site, logged: Callable[[], str], error: RelayError
) -> None:
    site.cobalt.fail("rotate", error)

    with pytest.raises(RotationHeldUp):
        site.rotate("token-1")

    assert f'"error_code":"{error.code}"' in logged()
    site.rotate("token-1")
    assert site.cobalt.keys == ["whsec_0", "whsec_1"]
    assert site.keys()[0] == ("Current", "whsec_1")


@pytest.mark.parametrize("step", ["createSecret", "setSecret", "testSecret"])
def test_rotation_is_held_up_when_cobalt_does_not_answer_a_step(site: Site, step: str) -> None:
    before = STEPS[: STEPS.index(step)]
    site.rotate("token-1", *before) if before else None
    site.cobalt.fail("webhook", UpstreamUnreachable())

    with pytest.raises(RotationHeldUp):
        site.rotate("token-1", step)

    assert genuine(site.warm, site.cobalt.keys[-1]) == 200
    site.rotate("token-1")
    assert site.keys()[0] == ("Current", "whsec_1")


def test_replaced_credentials_are_read_when_cobalt_refuses_the_kept_ones(site: Site) -> None:
    site.credentials.refreshed = ClientCredentials(client_id="client", client_secret="new")
    site.cobalt.fail("webhook", AccessTokenRefused())

    site.rotate("token-1", "createSecret")

    assert len(site.cobalt.keys) == 2


def test_nothing_is_touched_when_the_url_is_not_registered(site: Site) -> None:
    del site.cobalt.ids[URL]
    site.manager.stage("token-1")
    before = dict(site.manager.labels)

    with pytest.raises(WebhookNotRegistered):
        take("createSecret", "token-1")

    assert (site.cobalt.keys, site.manager.labels) == (["whsec_0"], before)


def test_nothing_is_rotated_when_the_secret_is_not_configured(site: Site) -> None:
    site.manager.values["version-0"] = ("{}", site.clock())

    with pytest.raises(WebhookSecretNotConfigured):
        site.rotate("token-1")

    assert site.cobalt.keys == ["whsec_0"]


@pytest.mark.parametrize("token", ["token-9", "version-0", "long-gone"])
def test_refused_when_nothing_is_staged_under_the_token(site: Site, token: str) -> None:
    site.manager.values["long-gone"] = ("{}", site.clock())  # without a label
    site.rotate("token-1")  # AWSPREVIOUS is on version-0 by now

    with pytest.raises(UnknownRotation):
        take("createSecret", token)


def test_refused_when_it_is_another_secret(site: Site) -> None:
    site.manager.stage("token-1")

    with pytest.raises(NotTheWebhookSecret):
        take("createSecret", "token-1", arn="arn:c")

    assert site.cobalt.keys == ["whsec_0"]


@pytest.mark.parametrize(
    "change", [{"Step": "dropSecret"}, {"SecretId": ""}, {"ClientRequestToken": 7}, {"Step": None}]
)
def test_refused_when_it_is_no_step(site: Site, change: dict[str, Any]) -> None:
    event = {"Step": "createSecret", "SecretId": ARN, "ClientRequestToken": "token-1", **change}

    with pytest.raises(InvalidRotationEvent):
        lambda_handler(event, LambdaContextStub())


@pytest.mark.parametrize("step", ["setSecret", "finishSecret"])
def test_refused_when_there_is_no_key_under_the_token(site: Site, step: str) -> None:
    with pytest.raises(PendingSecretMissing):
        site.rotate("token-1", step)

    assert site.keys() == [("Current", "whsec_0")]


def test_nothing_is_done_when_a_new_schedule_is_tried_out(site: Site) -> None:
    site.rotate("token-1", "testSecret")

    assert site.cobalt.keys == ["whsec_0"]
    assert site.manager.labels == {"AWSCURRENT": "version-0", "AWSPENDING": "token-1"}


@pytest.mark.parametrize("step", ["setSecret", "testSecret"])
def test_refused_when_cobalt_was_rotated_elsewhere(site: Site, step: str) -> None:
    site.rotate("token-1", "createSecret")
    site.cobalt.keys.append("whsec_2")

    with pytest.raises(PendingSecretOutdated) as refusal:
        take(step, "token-1")

    assert "AWSPENDING" in refusal.value.message
    del site.manager.labels["AWSPENDING"]  # as it says
    site.rotate("token-2")
    assert site.keys()[0] == ("Current", "whsec_2")


@pytest.mark.parametrize("cancelled", [False, True])
def test_pending_key_ends_a_day_after_an_operator_has_put_another(
    site: Site, cancelled: bool
) -> None:
    site.rotate("token-1", "createSecret")
    site.clock.moment += timedelta(hours=1)
    if cancelled:
        del site.manager.labels["AWSPENDING"]  # our own label stays, and nothing takes it away

    site.manager.put(json.dumps({"webhook_secret_key": "whsec_put"}))

    live = [("Current", "whsec_put"), ("Pending", "whsec_1"), ("Previous", "whsec_0")]
    assert site.keys() == live
    site.clock.moment += DAY
    assert site.keys() == [("Current", "whsec_put")]
    assert genuine(site.receiver(), "whsec_1") == 401


def test_former_key_lives_for_a_day_when_an_operator_edited_what_a_rotation_had_put(
    site: Site,
) -> None:
    site.rotate("token-1")
    site.clock.moment += timedelta(days=30)
    edited = json.loads(site.manager.text("AWSCURRENT") or "") | {"webhook_secret_key": "whsec_put"}

    site.manager.put(json.dumps(edited))

    assert site.keys() == [("Current", "whsec_put"), ("Previous", "whsec_1")]
    site.clock.moment += DAY
    assert site.keys() == [("Current", "whsec_put")]


def test_pending_key_lives_however_long_its_rotation_stands_still(site: Site) -> None:
    site.rotate("token-1", "createSecret")

    site.clock.moment += timedelta(days=30)

    assert site.keys() == [("Current", "whsec_0"), ("Pending", "whsec_1")]


@pytest.mark.parametrize("answer", [200, 401, 403, 500, 503])
def test_unproven_when_the_front_door_answers_everything_alike(site: Site, answer: int) -> None:
    site.rotate("token-1", "createSecret", "setSecret")
    site.door = lambda _body, _signature: answer

    with pytest.raises(PendingSecretUnproven):
        take("testSecret", "token-1")

    assert site.manager.labels["AWSCURRENT"] == "version-0"
    assert genuine(site.warm, "whsec_1") == 200


def test_unproven_when_the_front_door_takes_forgeries(site: Site) -> None:
    site.rotate("token-1", "createSecret", "setSecret")
    answers = iter([200, 200, 200, 200])
    site.door = lambda _body, _signature: next(answers)

    with pytest.raises(PendingSecretUnproven):
        take("testSecret", "token-1")


def test_probe_waits_for_a_receiver_that_may_not_look_again_yet(site: Site) -> None:
    site.rotate("token-1", "createSecret", "setSecret")
    answers = iter([503, 503, 200, 503, 401])
    site.door = lambda _body, _signature: next(answers)

    take("testSecret", "token-1")

    assert list(answers) == []


def test_no_secret_is_in_a_message_or_a_representation(site: Site) -> None:
    site.rotate("token-1", "createSecret")
    live = site.receiver()._secrets.webhook_keys(refresh=True)
    registration = site.cobalt.webhook(cast("Any", None))

    shown = [repr(live), repr(registration), repr(vars(site.rotation())), str(live)]

    assert "whsec" not in "".join(shown)


# ----------------------------------------------------------------------------------- the life of keys


def test_previous_key_is_refused_after_a_day(site: Site) -> None:
    site.rotate("token-1")
    site.clock.moment += DAY - timedelta(seconds=10)
    before = [genuine(each, "whsec_0") for each in (site.warm, site.receiver())]
    site.clock.moment += timedelta(seconds=11)

    after = [genuine(site.receiver(), key) for key in ("whsec_0", "whsec_1")]

    assert (before, after) == ([200, 200], [401, 200])


def test_day_of_the_previous_key_begins_with_the_rotation_however_old_its_version(
    site: Site,
) -> None:
    site.cobalt.fail("webhook", UpstreamUnreachable())
    with suppress(RotationHeldUp):
        site.rotate("token-1")
    site.clock.moment += 3 * DAY

    site.rotate("token-1")
    version = site.manager.labels["AWSCURRENT"]
    text, _ = site.manager.values[version]
    site.manager.values[version] = (
        text,
        site.clock() - 3 * DAY,
    )  # where AWS dates it at its staging

    assert [genuine(site.receiver(), key) for key in ("whsec_0", "whsec_1")] == [200, 200]


def test_mark_is_believed_for_a_quarter_of_an_hour(site: Site) -> None:
    site.cobalt.fail("rotate", UpstreamUnreachable())
    with suppress(RotationHeldUp):
        site.rotate("token-1")
    statuses = [forged(site.receiver())]
    site.clock.moment += timedelta(minutes=15)

    statuses += [forged(site.receiver()), forged(site.warm)]

    assert statuses == [503, 401, 401]


def test_few_look_ups_under_a_thousand_bad_signatures(site: Site) -> None:
    receiver = site.receiver()
    view = cast("Any", receiver._secrets)._client

    statuses = {forged(receiver) for _ in range(1000)}

    assert statuses == {401}
    assert view.calls.total() == 2  # the first look, and another because it did not fit


def test_warm_receiver_looks_nothing_up(site: Site) -> None:
    receiver = site.receiver()
    view = cast("Any", receiver._secrets)._client
    genuine(receiver, "whsec_0")
    first = view.calls.total()

    for _ in range(10):
        genuine(receiver, "whsec_0")
        site.clock.moment += timedelta(seconds=29)

    assert (first, view.calls.total()) == (1, 1)


# ------------------------------------------------------------------------------------------ no gap


class Gaps:
    """Delivers what Cobalt would, at every moment of a rotation, and notes what is not taken."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.refused: list[str] = []
        self.put_off = 0
        self.taken = 0
        self.attacked = site.receiver()
        self.busy = site.receiver()
        genuine(self.busy, "whsec_0")

    def __call__(self, call: str) -> None:
        site, signing = self.site, self.site.cobalt.keys[-2:]
        forged(self.attacked)  # may use up its look
        for receiver in (self.attacked, self.busy, site.warm, site.receiver()):
            for key in signing:
                self._expect(receiver, key, call)

    def _expect(self, receiver: ReceiveWebhook, key: str, call: str) -> None:
        status = genuine(receiver, key)
        if status == 401:
            self.refused.append(f"{key} at {call}")
        self.put_off += status == 503
        self.taken += status == 200
        if (
            status == 503 and key in self.site.labelled_text()
        ):  # it is there: Cobalt's second attempt must find it
            self.site.clock.moment += timedelta(seconds=1)
            if genuine(receiver, key) != 200:
                self.refused.append(f"{key} at {call}, twice")


def test_no_genuine_delivery_is_refused_between_any_two_calls(site: Site) -> None:
    site.watch = gaps = Gaps(site)

    for number in range(2):
        site.rotate(f"token-{number}")
        site.clock.moment += timedelta(hours=23)  # Cobalt may still use the previous one

    assert gaps.refused == []
    assert gaps.taken > 200
    assert gaps.put_off > 0  # there is such a moment, and it is answered with 503


def calls_of_a_rotation() -> int:
    site = Site()
    site.manager.stage("token-1")
    rotation = site.rotation()
    for step in STEPS:
        asked = {"Step": step, "SecretId": ARN, "ClientRequestToken": "token-1"}
        rotation.run(RotationStep.parse(asked))
    return site.calls


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("call", range(1, calls_of_a_rotation() + 1))
def test_no_genuine_delivery_is_refused_when_a_rotation_dies_and_is_resumed(
    site: Site, call: int, anew: bool
) -> None:
    site.watch = gaps = Gaps(site)
    site.manager.stage("token-1")
    site.dies_at = site.calls + call

    with pytest.raises(Killed):
        site.rotate("token-1")
    gaps("death")
    site.clock.moment += timedelta(minutes=5)
    gaps("resumption")
    if anew:  # the operator has taken the label away and begun again
        site.manager.labels.pop("AWSPENDING", None)
        gaps("cancelled")
    site.rotate("token-2" if anew else "token-1")

    gaps("end")
    assert gaps.refused == []
    assert site.manager.labels.keys() == {"AWSCURRENT", "AWSPREVIOUS"}
    assert site.keys()[0] == ("Current", site.cobalt.keys[-1])
    was_finished = anew and site.manager.labels["AWSPREVIOUS"] == "token-1"
    assert len(site.cobalt.rotated) == (2 if was_finished else 1)


def test_gap_would_be_seen_if_the_mark_came_too_late(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cobalt_relay.services.rotate_webhook_secret.KNOWN_SECONDS", 0.0)
    site.watch = gaps = Gaps(site)

    site.rotate("token-1")

    assert any(each.startswith("whsec_1") for each in gaps.refused)

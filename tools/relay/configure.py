"""`relay configure`: the client credentials, the webhook and its secret, each put where it differs.

The webhook comes last: from its registration on Cobalt delivers, and by then all that the relay
needs for a delivery but the secret is there; and the secret follows at once.
"""

import sys
from typing import Any

from pydantic import ValidationError

from cobalt_relay.errors import AccessTokenRefused
from cobalt_relay.models import ClientCredentials
from tools.relay.faults import NotWell, Unreachable, WrongUsage
from tools.relay.output import Output, read_line, read_secret
from tools.relay.session import Deployment, json_object, secret_text


def configure(deployment: Deployment, output: Output) -> None:
    """Ask, put, register; tell what was done and what was already so."""
    client = deployment.client("secretsmanager")
    credentials_arn = deployment.output("CobaltCredentialsArn")
    stored = credentials_in(json_object(secret_text(client, credentials_arn)))
    entered = _ask(output, stored)
    credentials = entered or stored
    if credentials is None:
        raise WrongUsage(
            "no_credentials", "Nothing was entered, and no credentials are there to be kept."
        )
    # Cobalt is asked before anything is put: wrong credentials must not replace right ones.
    try:
        registration = deployment.cobalt.webhook(credentials)
    except AccessTokenRefused as error:
        raise Unreachable(
            "wrong_client_credentials",
            "Cobalt does not take these client credentials, and nothing was put. Run it again with"
            " the client id and the client secret that Cobalt gave you.",
        ) from error
    done: dict[str, str] = {}
    if credentials == stored:
        done["credentials"] = "unchanged"
    else:
        _put(client, credentials_arn, credentials.model_dump())
        done["credentials"] = "put"
    url = deployment.webhook_url
    done["webhook"] = "unchanged" if url in registration.ids else "registered"
    if url in registration.ids:
        secret = registration.secret
    else:
        secret = deployment.cobalt.register_webhook(credentials, url)
    if not secret:
        raise NotWell("no_webhook_secret", "Cobalt does not say what it signs webhooks with.")
    webhook_arn = deployment.output("WebhookSecretArn")
    known = json_object(secret_text(client, webhook_arn))
    if known.get("webhook_secret_key") == secret:
        done["webhook_secret"] = "unchanged"  # noqa: S105 - what was done
    else:
        _put(client, webhook_arn, {"webhook_secret_key": secret})
        done["webhook_secret"] = "put"  # noqa: S105 - what was done
    others = sorted(set(registration.ids) - {url})
    _tell(output, done, url, others)


def _tell(output: Output, done: dict[str, str], url: str, others: list[str]) -> None:
    if output.as_json:
        output.document({**done, "webhook_url": url, "other_webhook_urls": others})
        return
    already = {"credentials": "kept", "webhook": "registered", "webhook_secret": "right"}
    names = {
        "credentials": "Client credentials",
        "webhook": f"Webhook {url}",
        "webhook_secret": "Webhook secret",
    }
    for key, what in done.items():
        said = f"was {already[key]} already" if what == "unchanged" else what
        output.say(f"{names[key]}: {said}.", style="dim" if what == "unchanged" else "green")
    for other in others:
        output.note(f"Cobalt delivers to {other} too.")
    if all(what == "unchanged" for what in done.values()):
        output.say("Nothing was to be done.")


def _ask(output: Output, stored: ClientCredentials | None) -> ClientCredentials | None:
    """Read credentials; None for those that are there already."""
    if sys.stdin.isatty():
        kept = " (Enter keeps the one that is there)" if stored else ""
        client_id = read_line(output, f"Client id{kept}")
        client_secret = read_secret(output, f"Client secret{kept}", may_be_empty=True)
    else:
        text = sys.stdin.read().strip()
        said: dict[str, Any] = json_object(text)
        lines = text.splitlines()
        if said:
            client_id, client_secret = said.get("client_id", ""), said.get("client_secret", "")
        else:
            client_id, client_secret = (*lines, "", "")[:2]
    if not client_id and not client_secret:
        return None
    if stored:
        client_id = client_id or stored.client_id
        if not client_secret and client_id == stored.client_id:
            client_secret = stored.client_secret
    found = credentials_in({"client_id": client_id, "client_secret": client_secret})
    if found is None:
        raise WrongUsage(
            "unusable_credentials",
            "A client id and a client secret are needed: visible ASCII without blanks, two lines or"
            ' {"client_id": …, "client_secret": …}.',
        )
    return found


def credentials_in(said: dict[str, Any]) -> ClientCredentials | None:
    """Read credentials; None where these are none."""
    try:
        return ClientCredentials.model_validate(said)
    except ValidationError:
        return None


def _put(client: Any, arn: str, document: dict[str, Any]) -> None:  # noqa: ANN401 - Secrets Manager
    import json  # noqa: PLC0415 - where something is put alone

    client.put_secret_value(SecretId=arn, SecretString=json.dumps(document))

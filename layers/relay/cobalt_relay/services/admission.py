"""Let a caller in who has this relay's client credentials, and a token that can be one."""

import re
from typing import TYPE_CHECKING

from cobalt_relay.errors import UnusableAccessToken, WrongClientCredentials
from cobalt_relay.observability import count
from cobalt_relay.patterns import pattern

if TYPE_CHECKING:
    from cobalt_relay.services.ports import CredentialStore

_HEADER_VALUE = pattern(r"[\x21-\x7e]{1,4096}", re.ASCII)
"""What a token can be: an HTTP header value, and a standard SSM parameter (4 KB at most)."""


def admit(
    secrets: "CredentialStore", client_id: str, client_secret: str, access_token: str
) -> None:
    """Raise `WrongClientCredentials`, `UnusableAccessToken` or a `NotConfigured` leaf.

    A mismatch reads the secret again (rate-limited) before it refuses: the operator may just have
    replaced it.
    """
    presented = (client_id, client_secret)
    if not secrets.credentials().fit(*presented) and not secrets.credentials(refresh=True).fit(
        *presented
    ):
        count("ClientCredentialsRefused")
        raise WrongClientCredentials
    if not _HEADER_VALUE.fullmatch(access_token):
        raise UnusableAccessToken

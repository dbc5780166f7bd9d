"""The relay's own webhook URL, from outside: the way that Cobalt's deliveries take."""

import requests

from cobalt_relay.errors import PendingSecretUnproven

CONNECT_SECONDS = 3.05
ANSWER_SECONDS = 10.0


class FrontDoor:
    """Delivers to the relay itself."""

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self._session = requests.Session()
        self._session.trust_env = False

    def deliver(self, body: bytes, signature: str) -> int:
        """Deliver a body as Cobalt would; give the status of the answer.

        `PendingSecretUnproven` where there is none.
        """
        headers = {"cobalt-verification": signature, "content-type": "application/json"}
        try:
            with self._session.post(
                self._url,
                data=body,
                headers=headers,
                timeout=(CONNECT_SECONDS, self._answer_seconds),
                allow_redirects=False,
                stream=True,
            ) as answer:
                return answer.status_code
        except requests.RequestException as error:
            raise PendingSecretUnproven from error

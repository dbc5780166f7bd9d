"""What an operator asks of Cobalt beside the functions: its webhook, failed deliveries, its clock.

As careful as the relay's own adapter: no proxy and no .netrc from the environment, no redirect,
and of an answer nothing but what is needed.
"""

from collections.abc import Iterator
from datetime import date
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import requests

from cobalt_relay.adapters.cobalt import failure_of, headers_of
from cobalt_relay.errors import UpstreamUnanswered, UpstreamUnreachable
from cobalt_relay.models import ClientCredentials, first_id, job_id_of, moment_of
from tools.relay.session import Deployment

TIMEOUT = (5, 30)
PAGE_ROWS = 50
MOST_PAGES = 40


class FailedDelivery(NamedTuple):
    """A delivery that Cobalt calls failed."""

    event_id: str
    event_type: str
    job_execution_id: str | None
    created_at: str | None
    url: str | None


class Upstream:
    """Calls of Cobalt. Raises `UpstreamRefusal` and `UpstreamFault`, as the adapter does."""

    def __init__(self, deployment: Deployment, credentials: ClientCredentials) -> None:
        self._base_url = deployment.settings.cobalt_base_url
        self._session = requests.Session()
        self._session.trust_env = False
        self._headers = headers_of(credentials)
        self.clock: float | None = None
        """Cobalt's clock by its last answer, in seconds since 1970."""

    def ask_for_webhook(self) -> None:
        """Ask something cheap, so that Cobalt's clock is known."""
        self._call("GET", "/v1/webhook")

    def failed_deliveries(self, since: date) -> Iterator[FailedDelivery]:
        """List what Cobalt could not deliver (docs: `GET /v1/webhook-events`), each event once."""
        seen: set[str] = set()
        for number in range(1, MOST_PAGES + 1):
            query = {
                "delivery_status": "failed",
                "start_date": since.isoformat(),
                "page": str(number),
                "page_size": str(PAGE_ROWS),
            }
            answer = self._call("GET", "/v1/webhook-events", query)
            rows = [row for row in answer.get("webhook_events") or [] if isinstance(row, dict)]
            for row in rows:
                event_id = first_id(row, "event_id", "id")
                if event_id and event_id not in seen:
                    seen.add(event_id)
                    made = row.get("created_at") or row.get("created")
                    url = row.get("webhook_url")
                    yield FailedDelivery(
                        event_id,
                        first_id(row, "event_type", "type") or "unknown",
                        job_id_of(row),
                        str(made) if moment_of(made) else None,
                        url if isinstance(url, str) else None,
                    )
            pagination = answer.get("pagination")
            pages = pagination.get("total_pages") if isinstance(pagination, dict) else None
            if not rows or (isinstance(pages, int) and number >= pages):
                return

    def _call(self, method: str, path: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        try:
            response = self._session.request(
                method,
                self._base_url + path,
                params=query,
                headers=self._headers,
                timeout=TIMEOUT,
                allow_redirects=False,
            )
            answer = response.json() if response.content else {}
        except requests.JSONDecodeError:
            answer = {}
        except requests.ConnectionError as error:
            raise UpstreamUnreachable from error
        except requests.RequestException as error:
            raise UpstreamUnanswered from error
        self.clock = _clock(response.headers.get("Date"))
        status, answer = response.status_code, answer if isinstance(answer, dict) else {}
        if 200 <= status < 300 and answer.get("success") is not False:
            return answer
        raise failure_of(status, None, answer)


def _clock(said: str | None) -> float | None:
    try:
        return parsedate_to_datetime(said).timestamp() if said else None
    except ValueError:
        return None

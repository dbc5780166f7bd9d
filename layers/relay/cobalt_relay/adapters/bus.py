"""The EventBridge bus.

PutEvents answers 200 even where it took nothing: every entry is looked at.
"""

from typing import TYPE_CHECKING

from cobalt_relay.adapters.aws import AWS_FAULTS
from cobalt_relay.errors import BusFault
from cobalt_relay.events import SOURCE, RelayEvent

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

_TRIES = 2


class Bus:
    """Publishes events. Raises `BusFault` where EventBridge does not take one."""

    def __init__(self, client: "EventBridgeClient", name: str) -> None:
        self._client = client
        self._name = name

    def publish(self, event: RelayEvent) -> None:
        """Send one event; a refused entry is sent once more."""
        entry = {
            "EventBusName": self._name,
            "Source": SOURCE,
            "DetailType": event.detail_type,
            "Detail": event.model_dump_json(),
        }
        for _ in range(_TRIES):
            try:
                answer = self._client.put_events(Entries=[entry])  # type: ignore[list-item]
            except AWS_FAULTS as error:
                raise BusFault from error
            if not answer["FailedEntryCount"]:
                return
        raise BusFault

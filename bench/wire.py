"""A fleet of connections behind boto3, in place of the network: every call is answered and counted.

Of AWS there is what planning needs: pages of an index, batches of rows, a queue. The adapters are
the real ones; what the SDK does for a call (serialising, signing, HTTP, parsing) is left out, as
the local AWS would be the limit. So calls, bytes and memory are exact, and CPU is the relay's own.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config

from cobalt_relay.adapters.connections import REGISTRY_SHARDS, Connections
from cobalt_relay.adapters.queue import FetchQueue
from cobalt_relay.adapters.table import Table

PAGE_BYTES = 1024 * 1024
"""What DynamoDB reads for one page of a Query (DynamoDB quotas)."""
ZONES = ("America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles")

type Answer = dict[str, Any]


def connection_id(number: int) -> str:
    """Name a connection of the fleet."""
    return "conn_" + hashlib.sha256(str(number).encode()).hexdigest()[:32]


class Wire:
    """Answers the calls of a fleet of so many connections, and counts them."""

    def __init__(self, connections: int) -> None:
        self.connections = connections
        self.calls: Counter[str] = Counter()
        self.messages = 0
        self.message_bytes = 0
        self.rows_read = 0

    def adapters(self) -> tuple[Connections, FetchQueue]:
        """Give the real adapters on this wire."""
        options: Any = {
            "region_name": "us-east-1",
            "aws_access_key_id": "nobody",
            "aws_secret_access_key": "nothing",
            "config": Config(max_pool_connections=16),
        }
        make: Any = boto3.client
        clients = {name: make(name, **options) for name in ("dynamodb", "ssm", "sqs")}
        for client in clients.values():
            client._make_api_call = self._answer  # noqa: SLF001 - below it is nothing but HTTP
        table = Table(clients["dynamodb"], "table")
        registry = Connections(table, lambda: clients["ssm"], "/relay/tokens", "arn:key")
        return registry, FetchQueue(clients["sqs"], "https://sqs.us-east-1.amazonaws.com/0/fetches")

    def _answer(self, operation: str, arguments: Answer) -> Answer:
        self.calls[operation] += 1
        return {
            "Query": self._page,
            "BatchGetItem": self._rows,
            "SendMessageBatch": self._taken,
            "SendMessage": self._taken_alone,
        }[operation](arguments)

    def _page(self, arguments: Answer) -> Answer:
        """Give one page of a shard of the index `connections`, which has keys only."""
        shard = int(arguments["ExpressionAttributeValues"][":partition"]["S"])
        begin = int(arguments.get("ExclusiveStartKey", {"at": {"N": "0"}})["at"]["N"])
        items: list[Answer] = []
        size = 0
        for number in self._of_shard(shard, begin):
            if size >= PAGE_BYTES:
                return {"Items": items, "LastEvaluatedKey": {"at": {"N": str(number)}}}
            name = connection_id(number)
            item = {
                "pk": {"S": f"CONNECTION#{name}"},
                "sk": {"S": "CONNECTION"},
                "registry_shard": {"S": str(shard)},
                "connection_id": {"S": name},
            }
            size += sum(len(key) + len(value["S"]) for key, value in item.items())
            items.append(item)
        return {"Items": items}

    def _of_shard(self, shard: int, begin: int) -> Iterator[int]:
        first = begin + (shard - begin) % REGISTRY_SHARDS
        return iter(range(first, self.connections, REGISTRY_SHARDS))

    def _rows(self, arguments: Answer) -> Answer:
        keys = arguments["RequestItems"]["table"]["Keys"]
        self.rows_read += len(keys)
        return {"Responses": {"table": [self._row(key["pk"]["S"]) for key in keys]}}

    def _row(self, pk: str) -> Answer:
        name = pk.removeprefix("CONNECTION#")
        return {
            "pk": {"S": pk},
            "sk": {"S": "CONNECTION"},
            "connection_id": {"S": name},
            "state": {"S": "active"},
            "registered_at": {"S": "2025-01-01T00:00:00.000Z"},
            "time_zone": {"S": ZONES[int(name[-1], 16) % len(ZONES)]},
            "access_token_reference_id": {"S": f"user_{name[-8:]}"},
            "emr_name": {"S": "eClinicalWorks"},
        }

    def _taken(self, arguments: Answer) -> Answer:
        entries = arguments["Entries"]
        self.messages += len(entries)
        self.message_bytes += sum(len(entry["MessageBody"]) for entry in entries)
        return {"Successful": [{"Id": entry["Id"]} for entry in entries]}

    def _taken_alone(self, arguments: Answer) -> Answer:
        self.messages += 1
        self.message_bytes += len(arguments["MessageBody"])
        return {}

"""One DynamoDB table, spoken to in plain values.

How an item is laid out is the business of its adapter.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from cobalt_relay.adapters.aws import AWS_FAULTS, error_code
from cobalt_relay.errors import TableFault
from cobalt_relay.patterns import pattern

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Item = dict[str, Any]

_TRANSACTION_TRIES = 3
_READ_TRIES = 3
_ATTRIBUTE = pattern(r"#(\w+)")
_CONDITION_FAILED = "ConditionalCheckFailed"


class ConditionFailedError(Exception):
    """A conditional write met another state than it wants.

    `failed` tells which parts of it, in order.
    """

    def __init__(self, failed: Sequence[bool]) -> None:
        super().__init__()
        self.failed = tuple(failed)


class Key(NamedTuple):
    """The key of an item: `pk` is `KIND#id`, `sk` is `KIND`."""

    kind: str
    id: str

    def attributes(self) -> Item:
        """Give the key's attributes."""
        return {"pk": f"{self.kind}#{self.id}", "sk": self.kind}

    @classmethod
    def of(cls, item: Item) -> Self:
        """Give the key of an item, or of what an index holds of it."""
        return cls(item["sk"], item["pk"].removeprefix(f"{item['sk']}#"))


class Put(NamedTuple):
    """Write an item that must not be there yet, or one in place of which `condition` holds."""

    key: Key
    item: Mapping[str, Any]
    condition: str = "attribute_not_exists(pk)"
    values: Mapping[str, Any] = MappingProxyType({})


class Update(NamedTuple):
    """Change an item of which `condition` must hold.

    `expression` and `condition` are DynamoDB expressions with `:value` placeholders, and `#state`
    for the reserved word `state`.
    """

    key: Key
    expression: str
    condition: str
    values: Mapping[str, Any]


class Delete(NamedTuple):
    """Remove an item, whatever it holds; harmless where there is none."""

    key: Key


Write = Put | Update | Delete


class Table:
    """Reads and conditional writes. Every fault of AWS comes out as `TableFault`."""

    def __init__(self, client: "DynamoDBClient", name: str) -> None:
        self._client = client
        self._name = name
        self._serializer = TypeSerializer()
        self._deserializer = TypeDeserializer()

    def get(self, *keys: Key) -> list[Item | None]:
        """Read up to 100 items in one call, consistently; None for one that is not there."""
        wanted = [self._serialize(key.attributes()) for key in keys]
        found: list[Item] = []
        for _ in range(_READ_TRIES):
            try:
                answer = self._client.batch_get_item(
                    RequestItems={self._name: {"Keys": wanted, "ConsistentRead": True}}
                )
            except AWS_FAULTS as error:
                raise TableFault from error
            items = answer["Responses"].get(self._name, [])
            found += [self._deserialize(item) for item in items]
            if not answer.get("UnprocessedKeys"):
                break
            wanted = answer["UnprocessedKeys"][self._name]["Keys"]
        else:
            raise TableFault
        by_key = {(item["pk"], item["sk"]): item for item in found}
        return [by_key.get(tuple(key.attributes().values())) for key in keys]

    def write(self, *writes: Write) -> None:
        """Do all of the writes or none.

        Raises `ConditionFailedError` where another state was met. Even a single write is a
        transaction, for those carry a token by which DynamoDB knows the SDK's own repetition: a
        plain conditional write whose answer got lost would meet itself and seem to have failed. A
        clash with another transaction is tried again: both may be right, one after the other.
        """
        for _ in range(_TRANSACTION_TRIES):
            try:
                self._client.transact_write_items(
                    TransactItems=[self._transact_item(write) for write in writes]
                )
            except ClientError as error:
                failed = _failed_conditions(error)
                if any(failed):
                    raise ConditionFailedError(failed) from None
                if error_code(error) != "TransactionCanceledException":
                    raise TableFault from error
                time.sleep(random.uniform(0.01, 0.06))  # noqa: S311 - only to part two rivals
            except AWS_FAULTS as error:
                raise TableFault from error
            else:
                return
        raise TableFault

    def keys_of_index(
        self,
        index: str,
        partition: tuple[str, str],
        up_to: tuple[str, str] | None = None,
        *,
        backwards: bool = False,
    ) -> Iterator[Item]:
        """List one partition of an index, page by page, in the order of its sort key.

        `up_to` names the sort key and the last value wanted.
        """
        name, value = partition
        condition, values = f"{name} = :partition", {":partition": {"S": value}}
        if up_to:
            condition += f" AND {up_to[0]} <= :last"
            values[":last"] = {"S": up_to[1]}
        start: dict[str, Any] | None = None
        while True:
            page = {"ExclusiveStartKey": start} if start else {}
            try:
                answer = self._client.query(
                    TableName=self._name,
                    IndexName=index,
                    KeyConditionExpression=condition,
                    ExpressionAttributeValues=values,
                    ScanIndexForward=not backwards,
                    **page,  # type: ignore[arg-type]
                )
            except AWS_FAULTS as error:
                raise TableFault from error
            yield from (self._deserialize(item) for item in answer["Items"])
            start = answer.get("LastEvaluatedKey")
            if not start:
                return

    def _transact_item(self, write: Write) -> Any:  # noqa: ANN401 - boto3 types it otherwise
        match write:
            case Put(key, item, condition, values):
                wanted = {"ExpressionAttributeValues": self._serialize(values)} if values else {}
                return {
                    "Put": {
                        "TableName": self._name,
                        "Item": self._serialize({**key.attributes(), **item}),
                        "ConditionExpression": condition,
                        **wanted,
                    }
                }
            case Delete(key):
                return {
                    "Delete": {
                        "TableName": self._name,
                        "Key": self._serialize(key.attributes()),
                    }
                }
            case Update(key, expression, condition, values):
                names = _ATTRIBUTE.findall(f"{expression} {condition}")
                return {
                    "Update": {
                        "TableName": self._name,
                        "Key": self._serialize(key.attributes()),
                        "UpdateExpression": expression,
                        "ConditionExpression": condition,
                        "ExpressionAttributeValues": self._serialize(values),
                        **(
                            {"ExpressionAttributeNames": {f"#{name}": name for name in names}}
                            if names
                            else {}
                        ),
                    }
                }

    def _serialize(self, values: Mapping[str, Any]) -> Item:
        """Give each value with its type; of a text, which most are, that need not be searched."""
        return {
            name: {"S": value} if type(value) is str else self._serializer.serialize(value)
            for name, value in values.items()
            if value is not None
        }

    def _deserialize(self, item: Mapping[str, Any]) -> Item:
        return {name: self._deserializer.deserialize(value) for name, value in item.items()}


def wrote(table: Table, *writes: Write) -> bool:
    """Do all of the writes or none; False where another state was met."""
    try:
        table.write(*writes)
    except ConditionFailedError:
        return False
    return True


def _failed_conditions(error: ClientError) -> list[bool]:
    reasons = error.response.get("CancellationReasons", [])
    return [reason.get("Code") == _CONDITION_FAILED for reason in reasons]

"""POST /v1/appointments/fetch, bare: the calls that the relay makes, and nothing beside them.

Two writes of the table and one call of Cobalt, with rows as the relay has them. It checks no
header, no credentials and no body, joins nothing, retries nothing, logs nothing and counts nothing.
The call of Cobalt has the relay's own headers.
"""

import hashlib
import json
import os
import time
import uuid
from typing import Any

import boto3
import urllib3

TABLE = os.environ["TABLE_NAME"]
COBALT = os.environ["COBALT_BASE_URL"] + "/v1/appointments/fetch"
type Json = dict[str, Any]

dynamodb: Any = boto3.client("dynamodb")
http = urllib3.PoolManager()


def lambda_handler(event: Json, _context: object) -> Json:
    """Answer API Gateway."""
    request_id = str(uuid.uuid4())
    headers = {name.lower(): value for name, value in event["headers"].items()}
    body = json.loads(event["body"])
    connection = "bare_" + headers["access_token"][-32:]
    window = {"M": {name: {"S": body[name]} for name in ("start_date", "end_date")}}
    likeness = f"{connection}{body['start_date']}{body['end_date']}"
    fingerprint = hashlib.sha256(likeness.encode()).hexdigest()
    now = int(time.time())
    asked = {
        "connection_id": {"S": connection},
        "request_id": {"S": request_id},
        "trigger": {"S": "api"},
        "search_by": {"S": "date_range"},
        "window": window,
        "deadline": {"S": moment(now + 7200)},
        "trace_id": {"S": uuid.uuid4().hex},
        "looks": {"N": "0"},
        "expires_at": {"N": str(now + 2_592_000)},
        "due_shard": {"S": "0"},
        "due_at": {"S": moment(now + 300)},
    }
    request = {
        **asked,
        "fingerprint": {"S": fingerprint},
        "requested_at": {"S": moment(now)},
        "contested": {"BOOL": False},
        "state": {"S": "REQUESTED"},
    }
    flight = put(
        "FLIGHT",
        fingerprint,
        hold(request_id, fingerprint, now),
        "attribute_not_exists(pk) OR held_until < :now",
    )
    flight["Put"]["ExpressionAttributeValues"] = {":now": {"S": moment(now)}}
    dynamodb.transact_write_items(
        TransactItems=[
            put("REQUEST", request_id, request, "attribute_not_exists(pk)"),
            flight,
        ]
    )
    answer = http.request(
        "POST",
        COBALT,
        headers={
            **{name: headers[name] for name in ("client_id", "client_secret", "access_token")},
            "Accept": "application/json",
            "traceparent": f"00-{asked['trace_id']['S']}-{uuid.uuid4().hex[:16]}-01",
            "Connection": "close",  # one that a pause of the function killed is no use
        },
        json=body,
    )
    job_id = answer.json()["job_execution_id"]
    job = {
        **asked,
        "job_execution_id": {"S": job_id},
        "accepted_at": {"S": moment(now)},
        "state": {"S": "ACCEPTED"},
    }
    dynamodb.transact_write_items(
        TransactItems=[
            put("JOB", job_id, job, "attribute_not_exists(pk)"),
            {
                "Update": {
                    "TableName": TABLE,
                    "Key": key("REQUEST", request_id),
                    "UpdateExpression": "SET #state = :state,"
                    " #job_execution_id = :job_execution_id"
                    " REMOVE due_shard, due_at, notification",
                    "ConditionExpression": "#state IN (:from0, :from1, :from2)",
                    "ExpressionAttributeNames": {
                        "#state": "state",
                        "#job_execution_id": "job_execution_id",
                    },
                    "ExpressionAttributeValues": {
                        ":state": {"S": "ACCEPTED"},
                        ":job_execution_id": {"S": job_id},
                        ":from0": {"S": "REQUESTED"},
                        ":from1": {"S": "UNKNOWN"},
                        ":from2": {"S": "EXPIRED"},
                    },
                }
            },
            put(
                "ROBOT",
                connection,
                hold(request_id, fingerprint, now),
                "attribute_not_exists(pk) OR attribute_exists(pk)",
            ),
        ]
    )
    accepted = {"success": True, "message": "Accepted.", "job_execution_id": job_id}
    return {
        "statusCode": 202,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps(accepted),
    }


def moment(seconds: int) -> str:
    """Write a moment as the rows have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def hold(request_id: str, fingerprint: str, now: int) -> Json:
    """Lay out a hold."""
    return {
        "request_id": {"S": request_id},
        "fingerprint": {"S": fingerprint},
        "held_until": {"S": moment(now + 90)},
        "expires_at": {"N": str(now + 3690)},
    }


def key(kind: str, name: str) -> Json:
    """Give the key of a row."""
    return {"pk": {"S": f"{kind}#{name}"}, "sk": {"S": kind}}


def put(kind: str, name: str, item: Json, condition: str) -> Json:
    """Write a row, on a condition."""
    return {
        "Put": {
            "TableName": TABLE,
            "Item": {**key(kind, name), **item},
            "ConditionExpression": condition,
        }
    }

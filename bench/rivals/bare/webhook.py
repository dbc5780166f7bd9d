"""POST /v1/webhooks/cobalt, bare: the calls that the relay makes, and nothing beside them.

One read and two writes of the table, one object, one event, with rows as the relay has them. It
checks no signature and no time, compares nothing, waits for nobody, logs and counts nothing.
"""

import hashlib
import json
import os
import time
from typing import Any

import boto3

TABLE, BUCKET, BUS = (os.environ[name] for name in ("TABLE_NAME", "BUCKET_NAME", "EVENT_BUS_NAME"))
type Json = dict[str, Any]

make: Any = boto3.client
dynamodb, s3, events = (make(name) for name in ("dynamodb", "s3", "events"))


def lambda_handler(event: Json, _context: object) -> Json:
    """Answer API Gateway."""
    text = event["body"]
    body = text.encode()
    told = json.loads(body)
    event_id, job_id, data = told["id"], told["job_id"], told["data"]
    answer = dynamodb.batch_get_item(
        RequestItems={
            TABLE: {
                "Keys": [key("EVENT", event_id), key("JOB", job_id)],
                "ConsistentRead": True,
            }
        }
    )
    job = next(row for row in answer["Responses"][TABLE] if row["sk"]["S"] == "JOB")
    connection, request_id = job["connection_id"]["S"], job["request_id"]["S"]
    now = int(time.time())
    digest = hashlib.sha256(body).hexdigest()
    place = f"appointments/connection={connection}/date={moment(now)[:10]}/{job_id}.json"
    stored = s3.put_object(
        Bucket=BUCKET, Key=place, Body=body, ContentType="application/json", IfNoneMatch="*"
    )
    result = {"bucket": BUCKET, "key": place, "version_id": stored.get("VersionId", "null")}
    completion = {
        "job_execution_id": {"S": job_id},
        "state": {"S": "COMPLETED"},
        "cobalt_event_id": {"S": event_id},
        "body_sha256": {"S": digest},
        "window": job["window"],
        "appointment_count": {"N": str(len(data["appointments"]))},
        "declared_count": {"N": str(data["appointment_count"])},
        "result": {"M": {name: {"S": value} for name, value in result.items()}},
        "delivered_via": {"S": "webhook"},
        "completed_at": {"S": moment(now)},
    }
    record = {
        "body_sha256": {"S": digest},
        "received_at": {"S": moment(now)},
        "event_type": {"S": told["type"]},
        "delivered_via": {"S": "webhook"},
        "job_execution_id": {"S": job_id},
        "expires_at": {"N": str(now + 2_592_000)},
    }
    put = {
        "TableName": TABLE,
        "Item": {**key("EVENT", event_id), **record},
        "ConditionExpression": "attribute_not_exists(pk)",
    }
    ended = {
        "state": {"S": "COMPLETED"},
        "completion": {"M": completion},
        "looks": {"N": "0"},
        "notification": {"S": "open"},
        "announced_from": {"S": moment(now)},
        "due_shard": {"S": "0"},
        "due_at": {"S": moment(now + 60)},
        "seconds_to_completion": {"N": "1"},
    }
    noted = {"last_success_at": {"S": moment(now)}, "emr_name": {"S": "eClinicalWorks"}}
    told_of = {"notification": {"S": "sent"}, "notified_at": {"S": moment(now)}}
    ending = update(
        "JOB", job_id, ended, " REMOVE notified_at", "#state IN (:from0)", {":from0": "ACCEPTED"}
    )
    noting = update(
        *("CONNECTION", connection, noted, ""),
        "attribute_not_exists(#state) OR #state = :active",  # here it does not exist
        {":active": "active"},
    )
    dynamodb.transact_write_items(TransactItems=[{"Put": put}, ending, noting])
    detail = {
        "version": "1",
        "event_id": digest[:32],
        "job_execution_id": job_id,
        "request_id": request_id,
        "cobalt_event_id": event_id,
        "trigger": job["trigger"]["S"],
        "search_by": job["search_by"]["S"],
        "connection_id": connection,
        "access_token_reference_id": told.get("access_token_reference_id"),
        "window": {name: value["S"] for name, value in job["window"]["M"].items()},
        "appointment_count": len(data["appointments"]),
        "declared_count": data["appointment_count"],
        "result": result,
        "delivered_via": "webhook",
        "accepted_at": job["accepted_at"]["S"],
        "completed_at": moment(now),
        "expired_at": None,
        "seconds_to_completion": 1.0,
        "trace_id": job["trace_id"]["S"],
    }
    events.put_events(
        Entries=[
            {
                "EventBusName": BUS,
                "Source": "cobalt-relay",
                "DetailType": "Appointments Fetched",
                "Detail": json.dumps(detail),
            }
        ]
    )
    closing = update(
        *("JOB", job_id, told_of, " REMOVE due_shard, due_at"),
        "notification = :open AND #state = :announced",
        {":open": "open", ":announced": "COMPLETED"},
    )
    dynamodb.transact_write_items(TransactItems=[closing])
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": json.dumps({"success": True, "message": "Webhook received."}),
    }


def moment(seconds: int) -> str:
    """Write a moment as the rows have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def key(kind: str, name: str) -> Json:
    """Give the key of a row."""
    return {"pk": {"S": f"{kind}#{name}"}, "sk": {"S": kind}}


def update(
    kind: str, name: str, changes: Json, remove: str, condition: str, beside: dict[str, str]
) -> Json:
    """Change a row, on a condition."""
    names = {f"#{each}": each for each in changes} | {"#state": "state"}
    values = {f":{each}": value for each, value in changes.items()}
    values |= {each: {"S": value} for each, value in beside.items()}
    return {
        "Update": {
            "TableName": TABLE,
            "Key": key(kind, name),
            "UpdateExpression": "SET "
            + ", ".join(f"#{each} = :{each}" for each in changes)
            + remove,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        }
    }

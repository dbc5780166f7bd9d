"""POST /v1/webhooks/cobalt on FastAPI, Mangum and boto3: the rival of a cold start."""

import hashlib
import hmac
import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any

import boto3
import httpx
from fastapi import FastAPI, Header, HTTPException, Request
from mangum import Mangum
from pydantic import BaseModel

app = FastAPI(title="Webhooks")
table = boto3.client("dynamodb")
secrets = boto3.client("secretsmanager")
results = boto3.client("s3")
bus = boto3.client("events")
cobalt = httpx.AsyncClient(base_url=os.environ["COBALT_BASE_URL"], timeout=20)


class Event(BaseModel):
    """What is needed of an event."""

    id: str
    type: str
    job_id: str | None = None
    data: dict[str, Any] = {}


class Received(BaseModel):
    """The answer."""

    success: bool
    message: str


@app.post("/v1/webhooks/cobalt")
async def receive(request: Request, cobalt_verification: Annotated[str, Header()]) -> Received:
    """Verify, store, end the job, announce."""
    body = await request.body()
    secret = secrets.get_secret_value(SecretId=os.environ["WEBHOOK_SECRET_ARN"])
    key = json.loads(secret["SecretString"])["webhook_secret_key"].encode()
    if not hmac.compare_digest(
        hmac.new(key, body, hashlib.sha256).hexdigest(), cobalt_verification
    ):
        raise HTTPException(401, "Invalid signature.")
    event = Event.model_validate_json(body)
    place = f"appointments/{datetime.now(UTC):%Y-%m-%d}/{event.job_id}.json"
    results.put_object(Bucket=os.environ["BUCKET_NAME"], Key=place, Body=body)
    table.update_item(
        TableName=os.environ["TABLE_NAME"],
        Key={"pk": {"S": f"JOB#{event.job_id}"}, "sk": {"S": "JOB"}},
        UpdateExpression="SET #state = :completed",
        ExpressionAttributeNames={"#state": "state"},
        ExpressionAttributeValues={":completed": {"S": "COMPLETED"}},
    )
    detail = json.dumps({"job_execution_id": event.job_id, "key": place})
    bus.put_events(Entries=[{"Source": "rival", "DetailType": "Fetched", "Detail": detail}])
    return Received(success=True, message="Webhook received.")


handler = Mangum(app, lifespan="off")

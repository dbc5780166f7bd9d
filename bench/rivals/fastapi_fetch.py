"""POST /v1/appointments/fetch on FastAPI, Mangum, boto3 and httpx: the rival of a cold start."""

import hashlib
import hmac
import json
import os
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import boto3
import httpx
from fastapi import FastAPI, Header, HTTPException
from mangum import Mangum
from pydantic import BaseModel, model_validator

MAX_DAYS = 7

app = FastAPI(title="Appointments")
table = boto3.client("dynamodb")
secrets = boto3.client("secretsmanager")
tokens = boto3.client("ssm")
cobalt = httpx.Client(base_url=os.environ["COBALT_BASE_URL"], timeout=20)


class Fetch(BaseModel):
    """The documented body."""

    start_date: date
    end_date: date

    @model_validator(mode="after")
    def _is_a_window(self) -> "Fetch":
        if not timedelta(0) < self.end_date - self.start_date <= timedelta(days=MAX_DAYS):
            raise ValueError("Date range cannot exceed 7 days.")
        return self


class Accepted(BaseModel):
    """The documented answer."""

    success: bool
    message: str
    job_execution_id: str


@app.post("/v1/appointments/fetch", status_code=202)
def fetch(
    body: Fetch,
    client_id: Annotated[str, Header(convert_underscores=False)],
    client_secret: Annotated[str, Header(convert_underscores=False)],
    access_token: Annotated[str, Header(convert_underscores=False)],
) -> Accepted:
    """Check, ask Cobalt, keep the job and the token."""
    secret = secrets.get_secret_value(SecretId=os.environ["CREDENTIALS_SECRET_ARN"])
    known = json.loads(secret["SecretString"])
    if not hmac.compare_digest(known["client_secret"], client_secret):
        raise HTTPException(401, "Invalid client credentials.")
    headers = {"client_id": client_id, "client_secret": client_secret, "access_token": access_token}
    asked = body.model_dump(mode="json")
    answer = cobalt.post("/v1/appointments/fetch", json=asked, headers=headers)
    answer.raise_for_status()
    said: dict[str, Any] = answer.json()
    connection = "conn_" + hashlib.sha256(access_token.encode()).hexdigest()[:32]
    item = {
        "pk": {"S": f"JOB#{said['job_execution_id']}"},
        "sk": {"S": "JOB"},
        "request_id": {"S": str(uuid.uuid4())},
        "connection_id": {"S": connection},
        "accepted_at": {"S": datetime.now(UTC).isoformat()},
    }
    table.put_item(TableName=os.environ["TABLE_NAME"], Item=item)
    place = f"{os.environ['TOKEN_PATH']}/{connection}"
    tokens.put_parameter(Name=place, Value=access_token, Type="SecureString", Overwrite=True)
    return Accepted(**said)


handler = Mangum(app, lifespan="off")

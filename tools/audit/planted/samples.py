# What each rule of semgrep.yml must find (`# ruleid:` above the line) and must let pass (`# ok:`).
# Read by semgrep alone; nothing imports it. `make audit` compares line by line.
import base64
import hmac
import json
import pickle
import ssl
import traceback

import boto3
import requests
import yaml

session = requests.Session()


def mac(key, body, signature, theirs, own):
    # ruleid: mac-compared-with-equals
    if hmac.new(key, body, "sha256").hexdigest() == signature:
        return True
    expected = hmac.digest(key, body, "sha256").hex()
    # ruleid: mac-compared-with-equals
    if signature != expected:
        return False
    # ruleid: mac-compared-with-equals
    if theirs.client_secret == own:
        return False
    # ok: mac-compared-with-equals
    if len(signature) == 64:
        return False
    # ok: mac-compared-with-equals
    if deliver(body, expected) == 401:
        return False
    # ok: mac-compared-with-equals
    return hmac.compare_digest(expected.encode(), signature.encode()) == True


def publish_and_forget(client, entries):
    # ruleid: refused-entries-unread
    client.put_events(Entries=entries)


def publish_and_keep(client, entries):
    # ruleid: refused-entries-unread
    answer = client.put_events(Entries=entries)
    return answer


def publish(client, entries):
    for _ in range(2):
        try:
            # ok: refused-entries-unread
            answer = client.put_events(Entries=entries)
        except ValueError as error:
            raise LookupError from error
        if not answer["FailedEntryCount"]:
            return


def read_a_part(client, keys):
    # ruleid: unprocessed-keys-unread
    return client.batch_get_item(RequestItems=keys)["Responses"]


def read_all(client, keys):
    found = []
    for _ in range(3):
        # ok: unprocessed-keys-unread
        answer = client.batch_get_item(RequestItems=keys)
        found += answer["Responses"]
        if not answer.get("UnprocessedKeys"):
            return found
        keys = answer["UnprocessedKeys"]
    raise LookupError


def lambda_handler(event, context):
    # ruleid: input-logged
    print(event)
    # ruleid: input-logged
    logger.info("received", extra={"event": event})
    # ruleid: input-logged
    logger.info("received", extra={"body": event["body"]})
    # ok: input-logged
    logger.info("received", extra={"request_id": context.aws_request_id})


def receive(request, model, body: bytes):
    # ruleid: input-logged
    logger.warning("refused", extra={"headers": dict(request.headers)})
    text = model.model_dump_json()
    # ruleid: input-logged
    logger.warning("refused", extra={"model": text})
    # ruleid: input-logged
    logger.append_keys(token=request.access_token)
    # ruleid: input-logged
    logger.warning("refused", extra={"body": body.decode()})
    # ok: input-logged
    logger.warning("refused", extra={"bytes": len(body)})
    # ok: input-logged
    logger.warning("refused", extra=Delivery(model, body).ids)


def fault(call):
    try:
        call()
    except ValueError as error:
        # ruleid: input-logged
        logger.error("failed", extra={"text": str(error)})
        # ruleid: exception-text-logged
        logger.exception("failed")
        # ruleid: exception-text-logged
        logger.error("failed", exc_info=True)
        # ruleid: exception-text-logged
        traceback.print_exc()
        # ok: exception-text-logged, input-logged
        logger.error("failed", extra={"error_type": type(error).__name__})


def message(job_id, has_key):
    # ruleid: log-message-not-constant
    logger.info(f"job {job_id}")
    # ruleid: log-message-not-constant
    logger.info("job " + job_id)
    # ruleid: log-message-not-constant
    logger.info("job %s" % job_id)
    # ok: log-message-not-constant
    logger.info("fetch_repeated" if has_key else "fetch_joined", extra={"job_id": job_id})


def complain(mrn):
    # ruleid: error-message-with-values
    raise ValueError(f"bad number {mrn}")
    # ruleid: error-message-with-values
    raise ValueError("bad number " + mrn)
    # ok: error-message-with-values
    raise ValueError("bad number")


def read_json(text, stream, refuse):
    # ruleid: json-read-laxly
    json.loads(text)
    # ruleid: json-read-laxly
    json.load(stream)
    # ok: json-read-laxly
    json.loads(text, object_pairs_hook=dict, parse_constant=refuse)


class Upstream:
    def ask(self, url):
        # ruleid: request-without-timeout, redirect-followed
        self._session.post(url)
        # ruleid: request-without-timeout
        session.get(url, allow_redirects=False)
        # ruleid: redirect-followed
        self._session.request("GET", url, timeout=(1, 2))
        # ok: request-without-timeout, redirect-followed
        self._session.request("GET", url, timeout=(1, 2), allow_redirects=False)
        # ruleid: certificate-unchecked
        session.get(url, timeout=1, allow_redirects=False, verify=False)
        # ruleid: certificate-unchecked
        session.verify = False
        # ok: certificate-unchecked
        session.get(url, timeout=1, allow_redirects=False, verify="ca.pem")


def clients(config):
    # ruleid: client-without-config
    boto3.client("s3")
    # ruleid: client-without-config
    boto3.Session().client("s3", region_name="us-east-1")
    # ok: client-without-config
    boto3.client("s3", config=config)


def load(data):
    # ruleid: code-from-data
    pickle.loads(data)
    # ruleid: code-from-data
    eval(data)
    # ruleid: code-from-data
    yaml.load(data)
    # ok: code-from-data
    yaml.safe_load(data)


def decode(text):
    # ruleid: base64-read-laxly
    base64.b64decode(text)
    # ok: base64-read-laxly
    base64.b64decode(text, validate=True)


def number(text):
    # ruleid: digits-of-any-script
    if text.isdigit():
        return int(text)
    # ok: digits-of-any-script
    return int(text) if text.isascii() and text.isdecimal() else None


def everything(client):
    # ruleid: table-scanned
    client.scan(TableName="t")
    # ruleid: table-scanned
    client.get_paginator("scan")
    # ok: table-scanned
    client.query(TableName="t", IndexName="due")


def keep(client, token):
    # ruleid: token-in-clear
    client.put_parameter(Name="n", Value=token, Type="String")
    # ok: token-in-clear
    client.put_parameter(Name="n", Value=token, Type="SecureString", Overwrite=True)

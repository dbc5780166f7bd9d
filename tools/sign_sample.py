"""Gives a sample webhook the present time and a signature that fits, for a stack that is running.

    WEBHOOK_KEY=whsec_... python -m tools.sign_sample events/webhook-live-fetch-empty.json > fresh

The times in the samples are long past, and a webhook of another time than now is refused. Without
WEBHOOK_KEY the key is that of the samples.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SAMPLE_KEY = "whsec_of_the_sample_events"
_TIME = re.compile(r'(?<="timestamp":")[^"]+|(?<="created":")[^"]+')


def signed_anew(event: dict[str, Any], key: str, moment: datetime) -> dict[str, Any]:
    """Give an invocation's event with `moment` in its body and headers, signed with `key`."""
    is_encoded = event["isBase64Encoded"]
    body = base64.b64decode(event["body"]).decode() if is_encoded else event["body"]
    time = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    fresh = _TIME.sub(time, body, count=1).encode()
    changed = {
        "cobalt-verification": hmac.new(key.encode(), fresh, hashlib.sha256).hexdigest(),
        "webhook-timestamp": time,
    }
    several = {name: [value] for name, value in changed.items()}
    return {
        **event,
        "headers": {**event["headers"], **changed},
        "multiValueHeaders": {**event["multiValueHeaders"], **several},
        "body": base64.b64encode(fresh).decode() if is_encoded else fresh.decode(),
    }


def main() -> None:
    """Read the file that is named, and print it with the present time."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    event = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    key = os.environ.get("WEBHOOK_KEY", SAMPLE_KEY)
    print(json.dumps(signed_anew(event, key, datetime.now(UTC)), indent=2))


if __name__ == "__main__":
    main()

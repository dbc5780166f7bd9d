"""Rotates the webhook secret of a local stack, as Secrets Manager does on AWS.

    python -m tools.local.rotation

MiniStack's RotateSecret copies the value and never calls the function. So this stages an empty
version under AWSPENDING and invokes the function for the four steps. A rotation that failed is
taken up again under its own token, as on AWS.
"""

import json
import sys
import uuid
from typing import Any

from tools.local.aws import forget_user_settings
from tools.local.errors import LocalError
from tools.local.stack import ROTATOR, Stack

STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")


class RotationFailedError(LocalError):
    """A step failed; `kind` is the error that the function raised."""

    def __init__(self, step: str, kind: str, message: str) -> None:
        super().__init__(f"{step} failed: {message}")
        self.kind = kind


def rotate(stack: Stack, *, anew: bool = False) -> str:
    """Go through all steps; give the token. With `anew`, give up a rotation that was not finished.

    `RotationFailedError` names the step that failed; the next call goes on from there.
    """
    token = stage(stack, anew=anew)
    for step in STEPS:
        take(stack, step, token)
    return token


def stage(stack: Stack, *, anew: bool = False) -> str:
    """Give the token of the rotation that is under way; stage an empty version where none is.

    AWS moves the label; here it would stay on the version before as well.
    """
    manager, arn = stack.aws.secretsmanager, stack.outputs["WebhookSecretArn"]
    for version, labels in manager.describe_secret(SecretId=arn)["VersionIdsToStages"].items():
        if "AWSPENDING" in labels:
            if not anew and "AWSCURRENT" not in labels:
                return version
            manager.update_secret_version_stage(
                SecretId=arn, VersionStage="AWSPENDING", RemoveFromVersionId=version
            )
    token = str(uuid.uuid4())
    manager.put_secret_value(SecretId=arn, ClientRequestToken=token, VersionStages=["AWSPENDING"])
    return token


def take(stack: Stack, step: str, token: str, *, of: str = "WebhookSecretArn") -> None:
    """Invoke the function for one step, with the event that Secrets Manager sends.

    `of` is the output that names the secret.
    """
    event = {"Step": step, "SecretId": stack.outputs[of], "ClientRequestToken": token}
    answer = stack.aws.functions.invoke(
        FunctionName=stack.outputs[f"{ROTATOR}Name"], Payload=json.dumps(event)
    )
    said: Any = json.loads(answer["Payload"].read() or b"null")
    if "FunctionError" in answer:
        told = said if isinstance(said, dict) else {}
        kind, message = str(told.get("errorType", "")), str(told.get("errorMessage", said))
        raise RotationFailedError(step, kind, message)


def main() -> int:
    """Rotate the secret of the stack that `make up` left running."""
    from tools.local import up  # noqa: PLC0415 - only when it is run by hand

    forget_user_settings()
    try:
        token = rotate(up.running())
    except LocalError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    print(f"The webhook secret was rotated; its version is {token}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Starts MiniStack, the local AWS, changed where a developer's machine differs from its defaults.

    python -m tools.local.launcher <home> <interpreter of the functions> <shelf of unpacked layers>

* The functions run on an interpreter without any of our packages, so that one that is missing from
  the layers is missed. MiniStack would lend them its own.
* A layer is unpacked once, not for every new worker: AWS does not unpack either. Cold starts lose
  more than half a second.
* The scheduler looks every second, not every ten.
* What an invocation logs goes into a file, which is read when it has answered. MiniStack lets a
  thread listen for it, and asks each millisecond until nothing has come for some: who logs would be
  slower for it, and others with them.
* A parameter of the template that limits how many batches of a queue are under way at once is a
  number, and no text on which MiniStack stumbles.
* A queue is found by what takes its messages to a function when it was made on another port, as the
  queues of a stack are that was saved and is started anew.
* Policies can tell who sends an event, and which key an object is to be encrypted with. MiniStack
  knows neither of these condition keys, so that what depends on them would always be refused.
* A function that a rule of EventBridge starts is started again when it fails, and the event goes to
  its failure destination at last, as on AWS: MiniStack starts it once and forgets it.
* A batch of messages needs the permission that a single one needs, as on AWS: MiniStack asks for
  one of its own, which IAM does not know.
* A function that has no run free is a failed integration to API Gateway, which answers as it is
  told to for those. MiniStack would hand Lambda's own 429 on, which AWS never does.

All of it touches names that are private to one version of MiniStack, hence the check.
"""

import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

VERSION = "1.5.33"
SCHEDULER_SECONDS = 1
LOG = "log"
LOG_TO_FILE = f"""
import os
log = os.path.join(os.path.dirname(__file__), {LOG!r})
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
"""
KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"


def unpacked(layer: bytes, shelf: Path) -> Path:
    """Give the folder with the content of a layer, from the shelf where it lies already."""
    folder = shelf / hashlib.sha256(layer).hexdigest()
    if not folder.exists():
        shelf.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=shelf))
        archive = draft.with_suffix(".zip")
        archive.write_bytes(layer)
        with zipfile.ZipFile(archive) as content:
            content.extractall(draft)
        archive.unlink()
        try:
            draft.rename(folder)
        except OSError:  # another worker was faster
            if not folder.exists():
                raise
    return folder


def change_lambda(interpreter: str, shelf: Path) -> None:
    """Give workers their own interpreter and ready layers, and a file for what they log."""
    from ministack.core import lambda_runtime  # noqa: PLC0415 - after the check of its version
    from ministack.services.lambda_svc import _resolve_layer_zip  # noqa: PLC0415

    runtime: Any = lambda_runtime
    detect = runtime._detect_runtime_binary  # noqa: SLF001
    spawn = runtime.Worker._spawn  # noqa: SLF001

    def detect_ours(name: str) -> tuple[str, str]:
        binary, script = detect(name)
        if not name.startswith("python"):
            return binary, script
        before, answer, after = script.rpartition("_real_stdout.flush()")
        return interpreter, LOG_TO_FILE + before + "sys.stderr.flush(); " + answer + after

    def spawn_ours(worker: Any) -> None:  # noqa: ANN401 - a class of MiniStack's
        config = worker.config
        zips = [_resolve_layer_zip(layer) for layer in config.get("Layers") or []]
        folders = [str(unpacked(content, shelf)) for content in zips if content]
        variables = (config.get("Environment") or {}).get("Variables") or {}
        variables = variables | {"_LAMBDA_LAYERS_DIRS": os.pathsep.join(folders)}
        worker.config = config | {"Layers": [], "Environment": {"Variables": variables}}
        try:
            spawn(worker)
        finally:
            worker.config = config

    def drain_ours(worker: Any) -> str:  # noqa: ANN401
        return taken(Path(worker._tmpdir) / LOG)  # noqa: SLF001

    runtime._detect_runtime_binary = detect_ours  # noqa: SLF001
    runtime.Worker._spawn = spawn_ours  # noqa: SLF001
    runtime.Worker._drain_stderr = drain_ours  # noqa: SLF001
    runtime.Worker._drain_stderr_bounded = drain_ours  # noqa: SLF001


def taken(log: Path) -> str:
    """Take what a worker has logged, and leave the file empty."""
    try:
        with log.open("r+b") as file:
            text = file.read()
            file.truncate(0)
    except FileNotFoundError:
        return ""
    return text.decode("utf-8", "replace").removesuffix("\n")


def change_queues() -> None:
    """Take the concurrency of a queue's function as a number; find a queue of another port.

    A queue keeps the address under which it was made, and those who call it find it by its name;
    but not what invokes functions with its messages.
    """
    from ministack.services import lambda_svc, sqs  # noqa: PLC0415 - after the check of its version

    service: Any = lambda_svc
    concurrency = service._sqs_esm_concurrency  # noqa: SLF001

    def as_a_number(mapping: dict[str, Any], *others: Any) -> Any:  # noqa: ANN401
        scaling = mapping.get("ScalingConfig") or {}
        numbers = {name: int(value) for name, value in scaling.items()}
        return concurrency({**mapping, "ScalingConfig": numbers}, *others)

    queues: Any = sqs
    address = queues._queue_url  # noqa: SLF001

    def as_it_was_made(name: str) -> str:
        known: str | None = queues._queue_name_to_url.get(name)  # noqa: SLF001
        return known or str(address(name))

    service._sqs_esm_concurrency = as_a_number  # noqa: SLF001
    queues._queue_url = as_it_was_made  # noqa: SLF001


def change_bus() -> None:
    """Start the functions of rules as any other asynchronous invocation starts them."""
    from ministack.services import eventbridge, lambda_svc  # noqa: PLC0415 - as above

    service: Any = lambda_svc
    bus: Any = eventbridge

    def start(arn: str, payload: str) -> None:
        function, config, _ = service._get_func_record_for_ref(arn)  # noqa: SLF001
        if function and config:
            record = service._execution_record_for_config(function, config)  # noqa: SLF001
            service.invoke_async_with_retry(record, json.loads(payload))

    bus._dispatch_to_lambda = start  # noqa: SLF001


class _NoRunFreeError(Exception):
    """Lambda refused an invocation: all the concurrency that the function may have is taken."""


def change_gateway() -> None:
    """Answer a throttled function by the gateway response for failed integrations."""
    from ministack.services import apigateway_v1  # noqa: PLC0415 - after the check of its version

    gateway: Any = apigateway_v1
    call, invoke = gateway._call_lambda_raw, gateway._invoke_lambda_proxy_v1  # noqa: SLF001

    async def call_ours(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        result, error = await call(*arguments, **options)
        if result and result.get("throttle"):
            raise _NoRunFreeError
        return result, error

    async def invoke_ours(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        try:
            return await invoke(*arguments, **options)
        except _NoRunFreeError:
            return gateway._gw_error("INTEGRATION_FAILURE", "Internal server error")  # noqa: SLF001

    gateway._call_lambda_raw = call_ours  # noqa: SLF001
    gateway._invoke_lambda_proxy_v1 = invoke_ours  # noqa: SLF001


def change_iam() -> None:
    """Add two condition keys to what policies are evaluated with; name batches as IAM does."""
    from ministack.core import iam_actions  # noqa: PLC0415 - after the check of its version

    actions: Any = iam_actions
    of_tags, of_s3 = actions.request_tag_context, actions.s3_service_context
    extract = actions.extract_iam_action

    def extract_single(service: str, *request: Any, **options: Any) -> Any:  # noqa: ANN401
        action = extract(service, *request, **options)
        is_batch = service == "sqs" and isinstance(action, str)
        return action.removesuffix("Batch") if is_batch else action

    def of_tags_and_events(service: str, action: str, body: bytes, params: Any) -> dict[str, Any]:  # noqa: ANN401
        context: dict[str, Any] = of_tags(service, action, body, params)
        return context | event_source(body) if action == "events:PutEvents" else context

    def of_s3_and_keys(action: str, query: Any, path: str = "", headers: Any = None) -> Any:  # noqa: ANN401
        key = (headers or {}).get(KEY_HEADER)
        context = of_s3(action, query, path, headers)
        return context | {f"s3:{KEY_HEADER}": key} if key and action == "s3:PutObject" else context

    actions.extract_iam_action = extract_single
    actions.request_tag_context = of_tags_and_events
    actions.s3_service_context = of_s3_and_keys


def event_source(body: bytes) -> dict[str, Any]:
    """Give the source that all entries of a PutEvents have; none that fits where they differ."""
    try:
        sources = {entry["Source"] for entry in json.loads(body)["Entries"]}
    except (ValueError, TypeError, KeyError):
        return {}
    return {"events:source": sources.pop() if len(sources) == 1 else sorted(sources)}


def main() -> None:
    """Run the server in this process until a signal comes."""
    installed = importlib.metadata.version("ministack")
    if installed != VERSION:
        sys.exit(f"MiniStack {installed} is installed, {VERSION} is needed: run make clean.")
    _, _, interpreter, shelf = sys.argv  # the home is there to be seen: see `processes`
    change_lambda(interpreter, Path(shelf))
    change_iam()
    change_queues()
    change_bus()
    change_gateway()

    from ministack.services import scheduler  # noqa: PLC0415

    scheduler._SCHEDULE_TICK_INTERVAL = SCHEDULER_SECONDS  # noqa: SLF001

    from ministack.app import main as serve  # noqa: PLC0415

    sys.argv = sys.argv[:1]  # MiniStack reads it too
    serve()


if __name__ == "__main__":
    main()

"""What a request costs in CPU, without network: beside a function that does the bare minimum.

    PYTHONPATH=layers/relay python -m bench --only requests

A warm function, a whole `lambda_handler`: API Gateway's event in, its answer out, its log lines and
metrics written. `answers` says what is left out. The bare function reads the body as JSON, computes
an HMAC of it, and answers. For a body of 5 MB the rival does the same two things; memory is the
most that Python allocates on top of what was there, in a run of its own, for counting takes time.
"""

import contextlib
import gc
import hmac
import io
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

from bench.answers import (
    KEY,
    MEBI,
    Answers,
    Context,
    Handler,
    Json,
    fetch_call,
    result,
    webhook_call,
)
from bench.figures import Figure

ROUNDS, QUICK_ROUNDS = 25, 3
REQUESTS = 20
MOST_MS = 1.5
LARGE_BYTES = 5_000_000
LARGE_ROUNDS = 9
MOST_TIMES = 1.5


def measure(*, quick: bool = False) -> list[Figure]:
    """Measure both requests and the large body."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    answers = Answers()
    with answers.in_place(), contextlib.redirect_stdout(io.StringIO()):
        each = handlers()
        figures = [
            _request("fetch", each["fetch"], fetch_call, rounds),
            _request("webhook of 42 appointments", each["webhook"],
                     lambda: webhook_call(result()), rounds),
        ]  # fmt: skip
        return figures + _large(each["webhook"], QUICK_ROUNDS if quick else LARGE_ROUNDS)


def bare(event: Json, _context: object) -> Json:
    """Read, compute an HMAC, answer: what no function can do without."""
    body = event["body"].encode()
    document = json.loads(body)
    digest = hmac.digest(KEY, body, "sha256").hex()
    return {"statusCode": 200, "body": json.dumps({"success": bool(document), "digest": digest})}


def handlers() -> dict[str, Handler]:
    """Load the two functions; within `Answers.in_place`, for they begin then."""
    from functions.fetch_appointments.handler import lambda_handler as fetch  # noqa: PLC0415
    from functions.receive_webhook.handler import lambda_handler as receive  # noqa: PLC0415

    return {"fetch": fetch, "webhook": receive}


def _request(name: str, handler: Handler, event: Callable[[], Json], rounds: int) -> Figure:
    contenders = {"ours": handler, "bare": bare}
    samples: dict[str, list[float]] = {each: [] for each in contenders}
    for number in range(rounds + 1):
        for each, function in contenders.items():
            events = [event() for _ in range(REQUESTS)]
            cpu = _cpu_ms(lambda: [answered(function, one) for one in events])  # noqa: B023
            if number:  # the first one warms up
                samples[each].append(cpu / REQUESTS)
    median = {each: statistics.median(found) for each, found in samples.items()}
    return Figure(
        f"request: {name}", "CPU ms", median["ours"], "json.loads and HMAC", median["bare"],
        f"at most {MOST_MS} ms more", MOST_MS, "difference_at_most", {"samples": samples},
    )  # fmt: skip


def _large(handler: Handler, rounds: int) -> list[Figure]:
    cpu: dict[str, list[float]] = {"ours": [], "rival": []}
    for _ in range(rounds):
        event = webhook_call(result(size=LARGE_BYTES))
        body = event["body"].encode()
        cpu["ours"].append(_cpu_ms(lambda: answered(handler, event)))  # noqa: B023
        cpu["rival"].append(_cpu_ms(lambda: _minimum(body)))  # noqa: B023
    event = webhook_call(result(size=LARGE_BYTES))
    body = event["body"].encode()
    memory = {
        "ours": _peak(lambda: answered(handler, event)),
        "rival": _peak(lambda: _minimum(body)),
    }
    median = {each: statistics.median(found) for each, found in cpu.items()}
    rival, goal = "hmac and json.loads", f"at most {MOST_TIMES} times"
    name, size = "webhook of 5 MB", {"body_bytes": len(body)}
    return [
        Figure(name, "CPU ms", median["ours"], rival, median["rival"], goal, MOST_TIMES,
               "ratio_at_most", {"samples": cpu, **size}),
        Figure(name, "MiB at most", memory["ours"] / MEBI, rival, memory["rival"] / MEBI, goal,
               MOST_TIMES, "ratio_at_most", size),
    ]  # fmt: skip


def _minimum(body: bytes) -> object:
    return hmac.digest(KEY, body, "sha256"), json.loads(body)


def answered(handler: Handler, event: Json) -> Json:
    """Give the answer of a function, which is to be a success."""
    answer = handler(event, Context())
    if answer["statusCode"] not in {200, 202}:
        raise RuntimeError(f"answered {answer['statusCode']}: {answer['body']}")
    return answer


def _cpu_ms(run: Callable[[], object]) -> float:
    gc.collect()
    began = time.process_time()
    run()
    return (time.process_time() - began) * 1000


def _peak(run: Callable[[], Any]) -> int:
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak - before

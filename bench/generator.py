"""A process of its own that sends many requests and notes when each was answered.

    python -m bench.generator < round.json > answers.json

It is to take as little of the processors as can be, for what it measures needs them: connections
that stay, `http.client`, and nothing done with an answer but to keep it. In: `host`, `port`,
`name` (of the host, as the requests have it), `at_once` and `requests` ([path, headers, body]).
Out: `seconds` from the first request to the last answer, and `answers` ([status, seconds, body]).
"""

import http.client
import json
import queue
import sys
import threading
import time
from typing import Any

SECONDS = 60.0


def send(told: dict[str, Any]) -> dict[str, Any]:
    """Send a round: so many threads, each with one request at a time."""
    left: queue.SimpleQueue[tuple[str, dict[str, str], bytes]] = queue.SimpleQueue()
    for path, headers, body in told["requests"]:
        left.put((path, headers | {"Host": told["name"]}, body.encode()))
    answers: list[tuple[int, float, str]] = []
    ready = threading.Barrier(told["at_once"] + 1)

    def caller() -> None:
        connection = http.client.HTTPConnection(told["host"], told["port"], timeout=SECONDS)
        connection.connect()
        ready.wait()
        while True:
            try:
                path, headers, body = left.get_nowait()
            except queue.Empty:
                break
            began = time.perf_counter()
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            answers.append((answer.status, time.perf_counter() - began, text))
        connection.close()

    callers = [threading.Thread(target=caller) for _ in range(told["at_once"])]
    for each in callers:
        each.start()
    ready.wait()
    began = time.perf_counter()
    for each in callers:
        each.join()
    return {"seconds": time.perf_counter() - began, "answers": answers}


if __name__ == "__main__":
    json.dump(send(json.load(sys.stdin)), sys.stdout)

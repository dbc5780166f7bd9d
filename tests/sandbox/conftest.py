import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.sandbox.support import Answer, Cobalt, Json, Receiver, running

type Started = Callable[..., Cobalt]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Start a sandbox with these options; asked again with the same ones, give the same."""
    found: dict[tuple[str, ...], Cobalt] = {}
    with contextlib.ExitStack() as stack:
        processes = []

        def started(*options: str) -> Cobalt:
            if options not in found:
                folder = tmp_path_factory.mktemp("sandbox")
                ready, process = stack.enter_context(
                    running(folder, "--fetch-seconds", "0.02", "--log-level", "debug", *options)
                )
                processes.append(process)
                found[options] = Cobalt(ready)
                stack.callback(found[options].http.close)
            return found[options]

        yield started
        for each in processes:
            each.terminate()


@pytest.fixture
def cobalt(start: Started) -> Cobalt:
    """A sandbox in its first state."""
    client = start()
    assert client.steer("/reset").status_code == 204
    return client


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


@dataclass(frozen=True)
class Schedule:
    """One event on its way to receivers that fail in every manner, in Cobalt's own seconds."""

    cobalt: Cobalt
    receiver: Receiver
    secret: str

    def attempts(self, path: str) -> list[Json]:
        """The attempts at a path, once all of the event are over."""
        self.cobalt.idle()
        log = self.cobalt.control("/deliveries")["deliveries"]
        return [each for each in log if each["url"].endswith(path)]

    def delivery_status(self, path: str) -> str:
        rows = [row for row in self.cobalt.rows() if row["webhook_url"].endswith(path)]
        return str(rows[0]["delivery_status"])


@pytest.fixture(scope="session", autouse=True)
def schedule(start: Started) -> Iterator[Schedule]:
    """Begins with the first test, so that its seconds pass while the others run."""
    scripts = {
        "/slow": [Answer(delay=60)],
        "/slow-again": [Answer(500), Answer(delay=60)],
        "/recovers": [Answer(500), Answer(200)],
        "/cut": [Answer(hang_up=True), Answer(hang_up=True)],
        **{f"/{status}": [Answer(status)] * 2 for status in (429, 500, 503)},
        **{f"/{status}": [Answer(status)] for status in (302, 400, 401, 404, 408, 422)},
    }
    receiver = Receiver()
    receiver.scripts.update(scripts)
    cobalt = start("--seed", "3")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        gone = f"http://127.0.0.1:{unused.getsockname()[1]}/gone"
    for url in (gone, *map(receiver.url, scripts)):
        secret = cobalt.register(url)
    cobalt.started()
    yield Schedule(cobalt, receiver, secret)
    receiver.close()

"""The server process: a socket, a ready file, and an end within a second."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox.app import build_app
from sandbox.settings import Settings
from sandbox.world import World

logger = logging.getLogger(__name__)

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Protocol(H11Protocol):
    """HTTP/1.1 that lets a request end its own connection, through ``request.state.hang_up``."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - passed on untouched
        super().__init__(*args, **options)
        self.app_state = {**self.app_state, "hang_up": self.hang_up}

    def hang_up(self) -> None:
        """Close the connection without an answer."""
        self.transport.close()


class Server(uvicorn.Server):
    """A server that says when it listens and does not wait for anybody when it is to end."""

    def __init__(self, config: uvicorn.Config, when_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_listening = when_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM, and leave the exit code at 0."""
        loop = asyncio.get_running_loop()
        for each in ENDING_SIGNALS:
            loop.add_signal_handler(each, self.end)
        try:
            yield
        finally:
            for each in ENDING_SIGNALS:
                loop.remove_signal_handler(each)

    def end(self) -> None:
        """Ask the server to stop."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self.started:
            self._when_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut every connection, hanging requests included, and stop."""
        self.force_exit = True
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Bind the socket; raise ``OSError`` where the address is taken or not ours.

    The protocol is named because asyncio turns Nagle's algorithm off only where it is, and answers
    would come 40 ms late with it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    """Give the address under which the socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def write_ready_file(path: Path, document: Mapping[str, object]) -> None:
    """Write the file in one step, readable by its owner alone: it holds credentials."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until a signal comes; the ready file is written once the socket listens."""
    started = time.monotonic()
    world = World(settings)
    url = url_of(listener)

    def when_listening() -> None:
        if settings.ready_file is not None:
            write_ready_file(settings.ready_file, world.ready_document(url, os.getpid()))
        logger.info(
            "listening",
            extra={
                "url": url,
                "pid": os.getpid(),
                "seed": settings.seed,
                "edition": settings.edition.value,
                "credentials": f"{url}/_sandbox/ready",
                "ms": round((time.monotonic() - started) * 1000),
            },
        )

    config = uvicorn.Config(
        build_app(world),
        http=Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=30,
    )
    try:
        await Server(config, when_listening).serve(sockets=[listener])
    finally:
        await world.close()
        logger.info("ended")

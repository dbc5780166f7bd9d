"""Patience for a call that has none of its own, in a thread that is kept for the next call.

The timeouts of a socket begin anew with each byte, so a server that drips could hold us for hours;
here a whole call has one. A thread costs about as much to begin as a request does to make: the one
that has ended its call waits for another.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread

type _Calls = SimpleQueue[Callable[[], None] | None]


class InTime:
    """Makes calls, as many at once as are asked for."""

    def __init__(self) -> None:
        self._idle: deque[_Calls] = deque()
        """One for each thread that waits for a call."""

    def __del__(self) -> None:
        for calls in self._idle:
            calls.put(None)

    def do[T](self, call: Callable[[], T], seconds: float) -> T:
        """Give what a call gives, or raise what it raises; `TimeoutError` where it takes longer.

        A call that is given up goes on until it ends by itself, and its thread with it.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised again by the outcome
                outcome.set_exception(error)

        calls = self._thread()
        calls.put(run)
        try:
            return outcome.result(seconds)
        finally:
            if outcome.done():
                self._idle.append(calls)
            else:
                calls.put(None)

    def _thread(self) -> "_Calls":
        try:
            return self._idle.pop()
        except IndexError:
            calls: _Calls = SimpleQueue()
            Thread(target=_work, args=(calls,), daemon=True).start()
            return calls


def _work(calls: "_Calls") -> None:
    while call := calls.get():
        call()
        del call  # and with it what it gave, which may be large

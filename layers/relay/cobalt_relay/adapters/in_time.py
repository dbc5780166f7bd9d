"""Patience for a call that has none of its own, in a thread that is kept for the next call.

The timeouts of a socket begin anew with each byte, so a server that drips could hold us for hours;
here a whole call has one. A thread costs about as much to begin as a request does to make: the one
that has ended its call waits for another.
"""

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

type _Answers = SimpleQueue[tuple[Any, BaseException | None]]
type _Calls = SimpleQueue[tuple[Callable[[], Any], _Answers] | None]


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
        calls = self._thread()
        answers: _Answers = SimpleQueue()
        calls.put((call, answers))
        try:
            given, error = answers.get(timeout=seconds)
        except Empty:
            calls.put(None)
            raise TimeoutError from None
        self._idle.append(calls)
        if error:
            try:
                raise error
            finally:
                del error  # or it holds this frame, and the frame holds it
        result: T = given
        return result

    def _thread(self) -> "_Calls":
        try:
            return self._idle.pop()
        except IndexError:
            calls: _Calls = SimpleQueue()
            Thread(target=_work, args=(calls,), daemon=True).start()
            return calls


def _work(calls: "_Calls") -> None:
    while wanted := calls.get():
        call, answers = wanted
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was wanted
            answers.put((None, error))
        del wanted, call, answers  # and with them what the call gave, which may be large

"""Calls that are waited for as long as patience lasts, in threads that are kept."""

import gc
import threading
import time
import weakref

import pytest

from cobalt_relay.adapters.in_time import InTime

SOON, LONG = 0.05, 10.0


class Result:
    """Something whose end can be seen."""


def ends(thread: threading.Thread) -> bool:
    thread.join(LONG)
    return not thread.is_alive()


def test_call_gives_its_result_and_its_error() -> None:
    def fails() -> None:
        raise LookupError("not there")

    in_time = InTime()
    assert in_time.do(lambda: 42, LONG) == 42
    with pytest.raises(LookupError, match="not there"):
        in_time.do(fails, LONG)
    assert in_time.do(lambda: 43, LONG) == 43


def test_one_thread_serves_calls_that_follow_each_other() -> None:
    in_time = InTime()
    threads = {in_time.do(threading.current_thread, LONG) for _ in range(5)}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_calls_at_once_do_not_wait_for_each_other() -> None:
    in_time, together = InTime(), threading.Barrier(3)
    callers = [
        threading.Thread(target=in_time.do, args=(lambda: together.wait(LONG), LONG))
        for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    assert all(ends(caller) for caller in callers)
    assert not together.broken


def test_call_that_takes_too_long_is_given_up_and_the_next_one_made() -> None:
    in_time, go_on = InTime(), threading.Event()
    held: list[threading.Thread] = []

    def drips() -> None:
        held.append(threading.current_thread())
        go_on.wait(LONG)

    with pytest.raises(TimeoutError):
        in_time.do(drips, SOON)
    assert in_time.do(lambda: 42, LONG) == 42
    assert in_time.do(threading.current_thread, LONG) not in held
    go_on.set()
    assert ends(held[0]), "the thread of a call that was given up waits for another"


def test_threads_end_with_who_kept_them() -> None:
    in_time = InTime()
    thread = in_time.do(threading.current_thread, LONG)
    assert thread.is_alive()
    del in_time
    gc.collect()
    assert ends(thread)


def test_thread_that_waits_keeps_nothing_of_its_last_call() -> None:
    in_time = InTime()
    result = in_time.do(Result, LONG)
    seen = weakref.ref(result)
    del result
    until = time.monotonic() + LONG
    while seen() is not None and time.monotonic() < until:
        time.sleep(0.001)  # the thread lets go after it has answered
    assert seen() is None

"""Signals ask for a drain; a task ends at its limit or at the end of the grace; nothing is left behind."""

import os
import signal
import time
from contextlib import suppress

import pytest

from sphot_mpi.interrupts import STOP_SIGNALS, Interrupts, TaskDropped, TaskTimeout


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # a signal that another thread took is seen where Python lets go of its lock, as kernels and MPI do
        time.sleep(1e-4)


def kill_and_spin(number, seconds):
    os.kill(os.getpid(), number)
    spin(seconds)


def swallow_for_ever():
    while True:
        with suppress(Exception):  # as careless libraries do
            spin(1.0)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_for_a_drain_and_nothing_more(number):
    with Interrupts(grace=60.0) as interrupts:
        assert not interrupts.stopping
        os.kill(os.getpid(), number)
        spin(0.01)
        assert interrupts.stopping
        assert interrupts.reason == number.name


def test_a_second_interrupt_leaves_at_once():
    with Interrupts(grace=60.0) as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        spin(0.01)
        assert interrupts.stopping
        with pytest.raises(KeyboardInterrupt):
            kill_and_spin(signal.SIGINT, 0.1)


def test_an_interrupt_after_another_signal_is_not_the_second():
    with Interrupts(grace=60.0) as interrupts:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        spin(0.01)
        assert interrupts.stopping


def test_a_task_ends_at_its_limit_even_where_exceptions_are_swallowed():
    with Interrupts(grace=60.0) as interrupts, pytest.raises(TaskTimeout), interrupts.task(0.05):
        swallow_for_ever()


def test_the_next_task_has_its_whole_time():
    with Interrupts(grace=60.0) as interrupts:
        with interrupts.task(0.2):
            spin(0.01)
        with interrupts.task(0.4):
            spin(0.3)  # longer than what the first had left
        with interrupts.task(None):
            spin(0.01)


def test_a_running_task_is_dropped_when_the_grace_is_over():
    with Interrupts(grace=0.05) as interrupts, pytest.raises(TaskDropped), interrupts.task(60.0):
        kill_and_spin(signal.SIGTERM, 30.0)


def test_a_task_may_finish_within_the_grace():
    with Interrupts(grace=30.0) as interrupts, interrupts.task(None):
        os.kill(os.getpid(), signal.SIGTERM)
        spin(0.05)


def test_handlers_and_timer_are_put_back():
    """The timer may be another's: that of pytest-timeout runs now."""
    before = [signal.getsignal(n) for n in (*STOP_SIGNALS, signal.SIGALRM)]
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    with Interrupts(grace=1.0) as interrupts, interrupts.task(1.0):
        pass
    assert [signal.getsignal(n) for n in (*STOP_SIGNALS, signal.SIGALRM)] == before
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0.0) == (left > 0.0)

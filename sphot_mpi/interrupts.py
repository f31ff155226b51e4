"""Signals and time limits: how a rank is told to stop, and how a task is stopped.

The first SIGTERM, SIGINT or SIGUSR1 asks for a drain: no new task begins, and the one
that runs has `grace` seconds left. A second SIGINT leaves at once. A task's own limit
and the end of the grace both come as SIGALRM, which reaches Python code between two
compiled kernels.
"""

import faulthandler
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

#: Signals that ask for a drain; Slurm sends USR1 or TERM, a terminal INT.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

#: Seconds after which an alarm is repeated, should a library have swallowed the exception.
_AGAIN = 5.0


class TaskTimeout(BaseException):  # noqa: N818
    """The running task is over its limit; no library's ``except Exception`` may swallow this."""


class TaskDropped(BaseException):  # noqa: N818
    """The grace after a signal is over; the running task is dropped."""


def hang_limit(limit: float) -> float:
    """Return the seconds after which a task with a limit must hang, as not even the limit has stopped it."""
    return 2.0 * limit + min(4.0 * limit, 60.0)


class Interrupts:
    """What signals have asked for; a context manager that installs and removes the handlers.

    Parameters
    ----------
    grace : float
        Seconds that a running task has left after a signal.
    exit_if_hung : bool
        Whether the process ends (with the place where it hangs) if a task outlives
        `hang_limit`; else the place is only printed, and a master ends the job.
    """

    def __init__(self, grace: float, *, exit_if_hung: bool = False) -> None:
        self._grace = grace
        self._exit_if_hung = exit_if_hung
        self._since: float | None = None
        self._signal: signal.Signals | None = None
        self._task_end: float | None = None
        self._running = False
        self._handlers: dict[signal.Signals, Any] = {}
        self._timer = (0.0, 0.0)

    @property
    def stopping(self) -> bool:
        """Whether a drain was asked for."""
        return self._since is not None

    @property
    def reason(self) -> str:
        """Name of the signal that asked; empty: none."""
        return self._signal.name if self._signal is not None else ""

    @property
    def number(self) -> signal.Signals:
        """The signal that asked; SIGTERM if none has."""
        return self._signal if self._signal is not None else signal.SIGTERM

    def stop(self, reason: signal.Signals = signal.SIGTERM) -> None:
        """Ask for a drain, as the signal would; safe to call more than once."""
        if self._since is None:
            self._since, self._signal = time.monotonic(), reason
            self._arm()

    @contextmanager
    def task(self, limit: float | None) -> Iterator[None]:
        """Bound the time of one task.

        Parameters
        ----------
        limit : float or None
            Seconds; None: no limit.

        Raises
        ------
        TaskTimeout
            Within the body, when the limit is over.
        TaskDropped
            Within the body, when the grace after a signal is over.
        """
        self._task_end = None if limit is None else time.monotonic() + limit
        if limit is not None and sys.__stderr__ is not None:
            faulthandler.dump_traceback_later(hang_limit(limit), exit=self._exit_if_hung, file=sys.__stderr__)
        self._running = True
        try:
            self._arm()
            yield
        finally:
            self._running = False  # from here on an alarm is ignored
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            faulthandler.cancel_dump_traceback_later()

    def __enter__(self) -> Self:
        """Install the handlers; only the main thread can."""
        for number in STOP_SIGNALS:
            self._handlers[number] = signal.signal(number, self._asked)
        self._handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._alarm)
        self._timer = signal.setitimer(signal.ITIMER_REAL, 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back as it was."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *self._timer)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._signal is signal.SIGINT:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            self._signal = signal.SIGINT
        self.stop(signal.Signals(number))

    def _deadline(self) -> float | None:
        ends = [self._task_end, None if self._since is None else self._since + self._grace]
        return min((end for end in ends if end is not None), default=None)

    def _arm(self) -> None:
        deadline = self._deadline()
        if self._running and deadline is not None:
            signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 1e-3), _AGAIN)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        deadline = self._deadline()
        if not self._running or deadline is None:
            return
        if time.monotonic() < deadline:
            self._arm()
            return
        if self._task_end is not None and deadline == self._task_end:
            raise TaskTimeout
        raise TaskDropped

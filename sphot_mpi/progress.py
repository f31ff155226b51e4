"""How far a campaign is: a live bar on a terminal, one line every so often elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sphot_mpi.schedule import Counts

#: Seconds between two lines where there is no terminal.
INTERVAL = 30.0


class Quiet:
    """Says nothing."""

    def update(self, counts: Counts) -> None:
        """Take notice."""

    def say(self, sentence: str) -> None:
        """Show one line; not here."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


class Lines(Quiet):
    """One line every `interval` seconds, and one at the end: ``progress key=value ...``.

    Parameters
    ----------
    stream : text file
        Where the lines go.
    interval : float
        Seconds between lines.
    """

    def __init__(self, stream: TextIO, interval: float = INTERVAL) -> None:
        self._stream = stream
        self._interval = interval
        self._start = self._last = time.monotonic()

    def update(self, counts: Counts) -> None:
        """Write a line if it is time, or if nothing is left."""
        now = time.monotonic()
        ended = counts.done + counts.failed + counts.dropped
        if now - self._last < self._interval and ended < counts.total:
            return
        self._last = now
        elapsed = max(now - self._start, 1e-3)
        rate = (counts.done + counts.failed) / elapsed
        eta = (counts.total - ended) / rate if rate > 0.0 else float("nan")
        self._stream.write(
            f"progress done={counts.done} failed={counts.failed} dropped={counts.dropped} running={counts.running} "
            f"waiting={counts.waiting} total={counts.total} elapsed={elapsed:.1f}s rate={rate:.3g}/s eta={eta:.0f}s\n"
        )
        self._stream.flush()

    def say(self, sentence: str) -> None:
        """Write one line."""
        self._stream.write(f"{sentence}\n")
        self._stream.flush()


class Bar(Quiet):
    """A live bar with counts, rate, time left and failures.

    Parameters
    ----------
    console : rich.console.Console
        Terminal that logging uses as well.
    """

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("fits"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.2g}/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]} failed"),
            console=console,
        )
        self._task = self._bar.add_task("fits", total=None, rate=0.0, failed=0)
        self._start = time.monotonic()

    def update(self, counts: Counts) -> None:
        """Move the bar."""
        ended = counts.done + counts.failed + counts.dropped
        rate = ended / max(time.monotonic() - self._start, 1e-3)
        failed = counts.failed + counts.dropped
        self._bar.update(self._task, completed=ended, total=counts.total, rate=rate, failed=failed)

    def say(self, sentence: str) -> None:
        """Write one line above the bar."""
        self._bar.console.print(sentence, markup=False, highlight=False)

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


def choose_progress(console: Console, *, quiet: bool) -> Quiet:
    """Return the reporter that suits the output: `Bar`, `Lines` or `Quiet`."""
    if quiet:
        return Quiet()
    return Bar(console) if console.is_terminal else Lines(sys.stderr)

"""Log lines that tell the rank and the task."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


class TaskLabel(logging.Filter):
    """Adds what this process works on to every record that passes a handler."""

    def __init__(self) -> None:
        super().__init__()
        self._current = ""

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Name the task that runs within the body."""
        self._current = name
        try:
            yield
        finally:
            self._current = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attribute `task`: the task in brackets with a space behind it, or nothing."""
        record.task = f"[{self._current}] " if self._current else ""
        return True


def stream_handler(stream: TextIO, where: str, label: TaskLabel) -> logging.Handler:
    """Return a handler for a job's output.

    Parameters
    ----------
    stream : text file
        Where the lines go.
    where : str
        Rank and size; empty: one process.
    label : TaskLabel
        Knows the task.
    """
    return _formatted(logging.StreamHandler(stream), where, label, "%H:%M:%S")


def log_file(folder: Path, rank: int, where: str, label: TaskLabel) -> logging.Handler:
    """Return a handler that appends to the file of this rank, ``rank-RRRRRR.log``.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    rank : int
        Number of this process.
    where : str
        Rank and size; empty: one process.
    label : TaskLabel
        Knows the task.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank:06d}.log"
    return _formatted(logging.FileHandler(path, encoding="utf-8"), where, label, "%Y-%m-%dT%H:%M:%S")


def _formatted(handler: logging.Handler, where: str, label: TaskLabel, time: str) -> logging.Handler:
    handler.addFilter(label)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {where}%(levelname)s: %(task)s%(message)s", time))
    return handler

"""What a journal holds, from the heads of its records."""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import JournalError
from sphot_mpi.journal import RecordRef, file_numbers, journal_files
from sphot_mpi.journal_format import Closed, Ended, Framed, Losses, Planned, Started, records
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.schedule import TaskKind

_STATUSES = tuple(Status)
_KINDS = tuple(TaskKind)

#: One ended task: a campaign may have a million, so they are bytes and no objects.
_ENTRY = struct.Struct("<qiqqB16s")
_ENTRY_DTYPE = np.dtype(
    [("code", "<i8"), ("file", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("status", "u1"), ("digest", "V16")]
)


@dataclass(frozen=True, slots=True)
class Found:
    """The last end of a task: where its record stands, digest, status, and the start in which it ran."""

    ref: RecordRef
    digest: str
    status: Status
    start: int


@dataclass(slots=True)
class JournalIndex:
    """The last end of every task, and the tasks that were begun and never ended.

    Parameters
    ----------
    deaths : dict of TaskKey to int
        Number of times that a process began a task and neither ended it nor left in order; since the
        task's last end. Tasks that are not there have none.
    plans : list of (int, Planned)
        What each start was to do, with its number, in order.
    losses : Losses
        What could not be used.
    """

    deaths: Counter[TaskKey] = field(default_factory=Counter)
    plans: list[tuple[int, Planned]] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)
    _files: list[str] = field(default_factory=list)
    _names: dict[str, int] = field(default_factory=dict)
    _filters: dict[str, int] = field(default_factory=dict)
    _codes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _entries: NDArray[np.void] = field(default_factory=lambda: np.empty(0, _ENTRY_DTYPE))

    def __len__(self) -> int:
        """Return the number of tasks that have ended."""
        return len(self._entries)

    def find(self, key: TaskKey) -> Found | None:
        """Return the last end of a task, or None."""
        if key.name not in self._names or key.filter not in self._filters:
            return None
        code = _code(self._names[key.name], self._filters[key.filter], key.kind)
        at = int(np.searchsorted(self._codes, code))
        return self._found(at) if at < len(self._codes) and self._codes[at] == code else None

    def keys(self) -> Iterator[TaskKey]:
        """Yield the tasks that have ended."""
        names, filters = list(self._names), list(self._filters)
        for code in self._codes.tolist():
            yield TaskKey(names[code >> 32], _KINDS[code & 0xFF], filters[code >> 8 & 0xFFFFFF])

    def _found(self, at: int) -> Found:
        _, file, offset, length, status, digest = self._entries[at].item()
        name = self._files[file]
        return Found(RecordRef(name, offset, length), digest.hex(), _STATUSES[status], file_numbers(name)[0])


def heads(folder: Path, losses: Losses, *, verify: bool = False) -> Iterator[tuple[str, Framed]]:
    """Yield all records of a journal with the names of their files, by start, rank and place.

    Parameters
    ----------
    folder : Path
        The journal's folder; nothing is yielded if it is not there.
    losses : Losses
        Takes down what cannot be used.
    verify : bool
        Read the bodies too, and leave out what is damaged.

    Raises
    ------
    JournalError
        If a file cannot be read, or is of a newer format.
    """
    for path in journal_files(folder):
        try:
            with path.open("rb", buffering=0) as file:
                for framed in records(file.fileno(), path.name, losses, verify=verify):
                    yield path.name, framed
        except OSError as error:
            msg = f"{path}: the journal cannot be read ({os.strerror(error.errno or 0)}); make it readable."
            raise JournalError(msg) from error


def scan(folder: Path, *, verify: bool = False) -> JournalIndex:
    """Read the heads of all records of a journal.

    Parameters
    ----------
    folder : Path
        The journal's folder; if it is not there, the index is empty.
    verify : bool
        Check the outcomes' checksums, too, which reads all bytes: a damaged outcome then is as if it had never
        been written, and its task runs again. Otherwise `read_record` finds it.

    Returns
    -------
    JournalIndex
        What is there.

    Raises
    ------
    JournalError
        If a file cannot be read, or is of a newer format.
    """
    index = JournalIndex()
    entries = bytearray()
    begun: set[TaskKey] = set()
    last = ""
    for name, framed in heads(folder, index.losses, verify=verify):
        if name != last:
            index.deaths.update(begun)
            begun, last = set(), name
            index._files.append(name)
        match framed.head:
            case Started() as head:
                begun.add(TaskKey(head.name, head.kind, head.filter))
            case Ended() as head:
                key = TaskKey(head.name, head.kind, head.filter)
                begun.discard(key)
                index.deaths.pop(key, None)
                entries += _entry(index, key, framed, head)
            case Planned() as head:
                index.plans.append((file_numbers(name)[0], head))
            case Closed():
                begun = set()
            case _:
                pass
    index.deaths.update(begun)
    index._codes, index._entries = _last_of_each(np.frombuffer(entries, _ENTRY_DTYPE))
    return index


def _entry(index: JournalIndex, key: TaskKey, framed: Framed, head: Ended) -> bytes:
    name = index._names.setdefault(key.name, len(index._names))
    code = _code(name, index._filters.setdefault(key.filter, len(index._filters)), key.kind)
    status = _STATUSES.index(head.status)
    digest = bytes.fromhex(head.digest)
    return _ENTRY.pack(code, len(index._files) - 1, framed.offset, framed.length, status, digest)


def _code(name: int, filter_number: int, kind: TaskKind) -> int:
    return name << 32 | filter_number << 8 | _KINDS.index(kind)


def _last_of_each(entries: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Return the codes in order, and the last entry of each."""
    order = np.argsort(entries["code"], kind="stable")
    codes = entries["code"][order]
    last = np.append(codes[1:] != codes[:-1], True)[: len(codes)]
    return codes[last], entries[order[last]]

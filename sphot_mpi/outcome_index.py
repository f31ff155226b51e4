"""Which tasks have ended, how, and where their outcomes stand: tens of bytes a task."""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.schedule import TaskKind

#: Hex characters of the digest of a task's inputs; shorter ones are filled up with zeros.
DIGEST_LENGTH = 48

_STATUSES = tuple(Status)
_KINDS = tuple(TaskKind)

#: One ended task: a campaign may have a million, so they are bytes and no objects.
_ENTRY = struct.Struct("<qiiqqHB?24s")
_ENTRY_DTYPE = np.dtype(
    [
        ("code", "<i8"),
        ("file", "<i4"),
        ("start", "<i4"),
        ("offset", "<i8"),
        ("length", "<i8"),
        ("attempt", "<u2"),
        ("status", "u1"),
        ("final", "?"),
        ("digest", "V24"),
    ]
)


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where an outcome stands.

    Parameters
    ----------
    file : str
        Name of a file of the journal; empty: the finished results file.
    offset : int
        First byte, or row of /provenance.
    length : int
        Bytes.
    """

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Found:
    """The last end of a task.

    Parameters
    ----------
    ref : RecordRef
        Where its outcome stands.
    digest : str
        Hex digest of the task's inputs, `DIGEST_LENGTH` characters.
    status : Status
        How it ended.
    start : int
        Start of the campaign in which it ran; 0: it stands in the finished results file.
    attempt : int
        Which try it was, from 1; 0: it never started, because its base fit had failed.
    final : bool
        Whether it failed in a way that is not tried again.
    """

    ref: RecordRef
    digest: str
    status: Status
    start: int
    attempt: int
    final: bool


class OutcomeIndex:
    """The last end of every task: `add` them in order, then `settle`, then `find` them."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._file_names: list[str] = []
        self._names: dict[str, int] = {}
        self._filters: dict[str, int] = {}
        self._added = bytearray()
        self._codes = array("q")  # of the entries, in order
        self._entries = memoryview(b"")

    def add(self, key: TaskKey, found: Found) -> None:
        """Take down the end of a task; it replaces those that were added before."""
        code = _code(
            self._names.setdefault(key.name, len(self._names)),
            self._filters.setdefault(key.filter, len(self._filters)),
            key.kind,
        )
        self._added += _ENTRY.pack(
            code,
            self._files.setdefault(found.ref.file, len(self._files)),
            found.start,
            found.ref.offset,
            found.ref.length,
            min(found.attempt, 0xFFFF),
            _STATUSES.index(found.status),
            found.final,
            bytes.fromhex(found.digest.ljust(DIGEST_LENGTH, "0")),
        )

    def settle(self) -> None:
        """Make `find` know all that was added."""
        entries = np.frombuffer(self._added, _ENTRY_DTYPE)
        if self._entries:
            entries = np.concatenate([np.frombuffer(self._entries, _ENTRY_DTYPE), entries])
        self._added = bytearray()
        order = np.argsort(entries["code"], kind="stable")
        codes = entries["code"][order]
        last = np.append(codes[1:] != codes[:-1], True)[: len(codes)]
        self._codes = array("q", codes[last].tobytes())
        self._entries = entries[order[last]].view(np.uint8).data
        self._file_names = list(self._files)

    def __len__(self) -> int:
        """Return the number of tasks that have ended."""
        return len(self._codes)

    def find(self, key: TaskKey) -> Found | None:
        """Return the last end of a task, or None."""
        if key.name not in self._names or key.filter not in self._filters:
            return None
        code = _code(self._names[key.name], self._filters[key.filter], key.kind)
        at = bisect_left(self._codes, code)
        if at == len(self._codes) or self._codes[at] != code:
            return None
        _, file, start, offset, length, attempt, status, final, digest = _ENTRY.unpack_from(
            self._entries, at * _ENTRY.size
        )
        ref = RecordRef(self._file_names[file], offset, length)
        return Found(ref, digest.hex(), _STATUSES[status], start, attempt, final)

    def clear(self) -> None:
        """Forget everything."""
        self.__init__()  # type: ignore[misc]

    def has(self, kind: TaskKind) -> bool:
        """Whether any task of a kind has ended."""
        return any(code & 0xFF == _KINDS.index(kind) for code in self._codes)

    def names(self) -> list[str]:
        """Return the galaxies of which a task has ended."""
        return list(self._names)

    def keys(self) -> Iterator[TaskKey]:
        """Yield the tasks that have ended."""
        names, filters = list(self._names), list(self._filters)
        for code in self._codes:
            yield TaskKey(names[code >> 32], _KINDS[code & 0xFF], filters[code >> 8 & 0xFFFFFF])


def _code(name: int, filter_number: int, kind: TaskKind) -> int:
    return name << 32 | filter_number << 8 | _KINDS.index(kind)

"""Records of a journal file: how they are framed, checked and found again.

::

    magic 8 | version u8 | kind u8 | 2 zeros | head length u32 | body length u64
    | CRC32 of all that and the head u32 | CRC32 of the body u32 | head | body

Little-endian. The head is one of the small dataclasses below, by `codec.pack`; a scan
reads heads only. The body, of an `Ended`, is the outcome by `codec.encode`. After bytes
that are no record the next one is found by its magic: damage loses only what it hits.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from sphot_mpi.codec import pack, unpack
from sphot_mpi.errors import CodecError, JournalError
from sphot_mpi.outcomes import Status
from sphot_mpi.schedule import TaskKind

VERSION = 1
# like PNG's: no text, and broken by a transfer that changes line ends
MAGIC = b"\x89SPJ\r\n\x1a\x00"

_FIXED = struct.Struct("<8sBB2xIQ")
_SUMS = struct.Struct("<II")
PREFIX = _FIXED.size + _SUMS.size

#: Bytes of one read; holds several heads.
_WINDOW = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """First record of a file: a process has started."""

    start: int
    rank: int
    host: str
    pid: int
    time: float
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """From rank 0: what this start is to do.

    Parameters
    ----------
    time : float
        Unix time.
    ranks : int
        MPI ranks of this start.
    command_line, catalogue : str
        As typed, and the catalogue's path.
    base, scale, photometry : int
        Tasks of the whole campaign, by kind.
    done, no_data, missing, failed : int
        Tasks whose outcomes were there already, by status.
    never : int
        Tasks that cannot start, because a base fit among those has failed.
    selection : str
        What was asked to run again, of which galaxies and filters; empty: nothing.
    since : int
        Start at which this selection began; outcomes from then on are not made again.
    anew : bool
        Whether nothing from before this start counts.
    """

    time: float
    ranks: int
    command_line: str
    catalogue: str
    base: int
    scale: int
    photometry: int = 0
    done: int = 0
    no_data: int = 0
    missing: int = 0
    failed: int = 0
    never: int = 0
    selection: str = ""
    since: int = 1
    anew: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A task is begun, for the `attempt`-th time."""

    name: str
    kind: TaskKind
    filter: str
    attempt: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A task has ended; the body is its outcome.

    Parameters
    ----------
    name, filter : str
        Galaxy and filter.
    kind : TaskKind
        Which task.
    digest : str
        Hex digest of all that can change the outcome.
    status : Status
        How it ended.
    attempt : int
        Which try this was, from 1.
    time, seconds : float
        Unix time of the end, and process time.
    flags : int
        Of the fit.
    error, message : str
        Type and sentence of a failure.
    """

    name: str
    kind: TaskKind
    filter: str
    digest: str
    status: Status
    attempt: int = 1
    time: float = 0.0
    seconds: float = 0.0
    flags: int = 0
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """Last record of a file: the process has left in order.

    Parameters
    ----------
    reason : str
        "finished", or "drained" where work is left; tasks begun and not ended are then nobody's fault.
    time : float
        Unix time.
    """

    reason: str
    time: float


Head = Opened | Planned | Started | Ended | Closed

_KINDS: dict[int, type[Head]] = {1: Opened, 2: Planned, 3: Started, 4: Ended, 5: Closed}
_CODES: dict[type[Head], int] = {kind: code for code, kind in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Framed:
    """A record found in a file."""

    head: Head
    offset: int
    length: int


@dataclass(slots=True)
class Losses:
    """What a scan could not use.

    Parameters
    ----------
    damaged : list of (str, int, int)
        File, offset and length of bytes, or records, in the midst of a file that fail their checksum.
    torn : list of (str, int, int)
        Likewise at the end of a file: a record that was not finished.
    """

    damaged: list[tuple[str, int, int]] = field(default_factory=list)
    torn: list[tuple[str, int, int]] = field(default_factory=list)


def frame(head: Head, body: bytes = b"") -> bytes:
    """Return a record as bytes."""
    text = pack(head)
    fixed = _FIXED.pack(MAGIC, VERSION, _CODES[type(head)], len(text), len(body))
    return b"".join([fixed, _SUMS.pack(zlib.crc32(text, zlib.crc32(fixed)), zlib.crc32(body)), text, body])


def unframe(data: bytes, where: str) -> tuple[Head, bytes]:
    """Return head and body of one whole record.

    Parameters
    ----------
    data : bytes
        All of the record.
    where : str
        File and offset, for the message.

    Raises
    ------
    JournalError
        If a checksum or a length is wrong.
    """
    framed = _parse(data, 0, len(data), where)
    if framed is None or framed.length != len(data):
        msg = f"{where}: this is no whole record of a journal; run again with the same command."
        raise JournalError(msg)
    body_length = _FIXED.unpack_from(data)[4]
    body = data[len(data) - body_length :]
    if zlib.crc32(body) != _SUMS.unpack_from(data, _FIXED.size)[1]:
        msg = f"{where}: the record is damaged, its checksum is wrong; run again with the same command."
        raise JournalError(msg)
    return framed.head, body


def records(descriptor: int, name: str, losses: Losses, *, verify: bool = False) -> Iterator[Framed]:
    """Yield the whole records of an open file, from the first to the last.

    Parameters
    ----------
    descriptor : int
        File descriptor; its size now is where reading ends, so a file may be written to meanwhile.
    name : str
        For messages and `losses`.
    losses : Losses
        Takes down what cannot be used.
    verify : bool
        Read the bodies too, and leave out records whose body fails its checksum.

    Yields
    ------
    Framed
        Head and place of each record.

    Raises
    ------
    JournalError
        If a record has a format newer than this program's.
    """
    size = os.fstat(descriptor).st_size
    window, begin, offset = b"", 0, 0
    while offset < size:
        if not begin <= offset <= begin + len(window) - PREFIX:
            window, begin = os.pread(descriptor, _WINDOW, offset), offset
        at = offset - begin
        need = _head_end(window, at)
        if need is not None and need > len(window) and offset + need - at <= size:
            window, begin, at = os.pread(descriptor, max(need - at, _WINDOW), offset), offset, 0
        framed = _parse(window, at, size - begin, f"{name}, byte {offset}", begin)
        if framed is None:
            found = _next_magic(descriptor, offset + 1, size)
            lost = losses.torn if found == size else losses.damaged
            lost.append((name, offset, found - offset))
            offset = found
            continue
        offset += framed.length
        if verify and not _body_is_whole(descriptor, framed):
            losses.damaged.append((name, framed.offset, framed.length))
            continue
        yield framed


def _head_end(window: bytes, at: int) -> int | None:
    """Return where in the window a head should end; None: there is no record at `at`."""
    if len(window) - at < PREFIX or not window.startswith(MAGIC, at):
        return None
    return at + PREFIX + int(_FIXED.unpack_from(window, at)[3])


def _parse(window: bytes, at: int, limit: int, where: str, begin: int = 0) -> Framed | None:
    """Return the record at `at` of a window, or None if there is no whole one before `limit`."""
    end = _head_end(window, at)
    if end is None or end > len(window):
        return None
    _, version, code, _, body_length = _FIXED.unpack_from(window, at)
    text = window[at + PREFIX : end]
    if zlib.crc32(text, zlib.crc32(window[at : at + _FIXED.size])) != _SUMS.unpack_from(window, at + _FIXED.size)[0]:
        return None
    if version > VERSION or code not in _KINDS:
        msg = f"{where}: a newer sphot-mpi wrote the journal; use that, or start anew with --restart."
        raise JournalError(msg)
    if end + body_length > limit:
        return None
    try:
        head = unpack(_KINDS[code], text)
    except CodecError as error:
        msg = (
            f"{where}: the journal was written by another sphot-mpi ({error}); use that, or start anew with --restart."
        )
        raise JournalError(msg) from error
    return Framed(head, begin + at, end - at + body_length)


def _body_is_whole(descriptor: int, framed: Framed) -> bool:
    prefix = os.pread(descriptor, PREFIX, framed.offset)
    _, _, _, head_length, body_length = _FIXED.unpack_from(prefix)
    body = os.pread(descriptor, body_length, framed.offset + PREFIX + head_length)
    return zlib.crc32(body) == int(_SUMS.unpack_from(prefix, _FIXED.size)[1])


def _next_magic(descriptor: int, offset: int, size: int) -> int:
    """Return where the next magic stands at or after `offset`; the size of the file if there is none."""
    step = 1 << 20
    while offset < size:
        found = os.pread(descriptor, step, offset).find(MAGIC)
        if found >= 0:
            return offset + found
        offset += step - len(MAGIC) + 1
    return size

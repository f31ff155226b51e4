"""The journal of a campaign: what has ended is on the disk before anybody hears of it.

A folder ``NAME.journal`` beside the results file NAME; each process that starts adds one
file of its own, ``SSSS-RRRRRR.journal`` (number of the start, rank), and only ever appends
to it: no lock, no shared file, nothing written twice. Bytes that a killed process left
unfinished stand at the end of its file, where a scan passes over them.
"""

import os
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import sphot_mpi
from sphot_mpi.codec import decode, encode
from sphot_mpi.errors import JournalError
from sphot_mpi.journal_format import Closed, Ended, Head, Opened, Planned, Started, frame, unframe
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcomes import TaskKey, TaskOutcome
from sphot_mpi.storable import storable

#: Seconds between two signs of life of rank 0.
BEAT = 30.0

_NAME = re.compile(r"(\d{4,9})-(\d{6,9})\.journal")


def journal_folder(output: Path) -> Path:
    """Return the folder of a results file's journal."""
    return output.with_name(output.name + ".journal")


def journal_files(folder: Path) -> list[Path]:
    """Return the files of a journal, by start and then by rank; none if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: file_numbers(p.name))


def file_numbers(name: str) -> tuple[int, int]:
    """Return start and rank of a journal file by its name.

    Raises
    ------
    JournalError
        If this is no such name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        msg = f"{name!r} is no journal file."
        raise JournalError(msg)
    return int(match[1]), int(match[2])


def next_start(folder: Path) -> int:
    """Return the number of the next start, from 1; rank 0 asks, and tells the others."""
    files = journal_files(folder)
    return 1 + (file_numbers(files[-1].name)[0] if files else 0)


def remove_journal(folder: Path) -> None:
    """Remove a journal whose results file is whole.

    Raises
    ------
    JournalError
        If it cannot be removed.
    """
    try:
        for path in journal_files(folder):
            path.unlink()
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        msg = f"{folder}: the journal cannot be removed ({error.strerror}); remove this folder yourself."
        raise JournalError(msg) from error


class Journal:
    """One process' file of a journal, open for appending; use it in a ``with`` statement or `close` it.

    Parameters
    ----------
    folder : Path
        The journal's folder; made if it is not there.
    rank, start : int
        Number of this process, and of this start of the campaign.
    sync : bool
        Wait until each record is on the disk; False only where a benchmark measures something else.

    Raises
    ------
    JournalError
        If the file cannot be made, or is there already: another run is at work.
    """

    def __init__(self, folder: Path, rank: int, start: int, *, sync: bool = True) -> None:
        self.path = folder / f"{start:04d}-{rank:06d}.journal"
        self._sync = sync
        self._offset = 0
        self._attempts: dict[TaskKey, int] = {}
        self._closing = threading.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except FileExistsError as error:
            msg = f"{self.path}: the file exists; another run writes to {folder}: wait for it, or end it."
            raise JournalError(msg) from error
        except OSError as error:
            msg = f"{self.path}: the journal cannot be written ({error.strerror}); choose another -o."
            raise JournalError(msg) from error
        if sync:
            _sync_folder(folder)
        self._write(
            Opened(
                start=start,
                rank=rank,
                host=socket.gethostname(),
                pid=os.getpid(),
                time=time.time(),
                version=sphot_mpi.__version__,
            )
        )
        if rank == 0:  # one is enough, and thousands would be a burden on a shared filesystem
            threading.Thread(target=self._beat, name="journal", daemon=True).start()

    @classmethod
    def open(cls, folder: Path, rank: int, start: int) -> "Journal":
        """Open the file of a rank."""
        return cls(folder, rank, start)

    def planned(self, plan: Planned) -> None:
        """Write down what this start is to do; rank 0 does, before the first task."""
        self._write(plan)

    def started(self, key: TaskKey, attempt: int) -> None:
        """Write down that a task begins; if no end follows, it may have killed its process."""
        self._attempts[key] = attempt
        self._write(Started(name=key.name, kind=key.kind, filter=key.filter, attempt=attempt, time=time.time()))

    def append(self, name: str, outcome: TaskOutcome, digest: str) -> RecordRef:
        """Write an outcome; when this returns, it is on the disk.

        Parameters
        ----------
        name : str
            Name of the galaxy.
        outcome : TaskOutcome
            What has ended, here or, if it never started, anywhere. It is written as `storable` makes it.
        digest : str
            Digest of the task's inputs.

        Returns
        -------
        RecordRef
            Where it stands, for `read_ended`.

        Raises
        ------
        JournalError
            If it cannot be written; what stood in the journal before is as it was.
        """
        outcome = storable(outcome)
        task, failure = outcome.task, outcome.failure
        key = TaskKey(name, task.kind, task.filter)
        head = Ended(
            name=name,
            kind=task.kind,
            filter=task.filter,
            digest=digest,
            status=outcome.status,
            attempt=self._attempts.pop(key, 1),
            time=time.time(),
            seconds=outcome.timing.seconds,
            flags=int(outcome.fit.flags) if outcome.fit is not None else 0,
            error=failure.error if failure is not None else "",
            message=failure.message[:200] if failure is not None else "",
        )
        return self._write(head, encode(outcome))

    def close(self, reason: str = "") -> None:
        """Close the file.

        Parameters
        ----------
        reason : str
            "finished" or "drained": the process leaves in order. Empty: it does not, and what it began counts
            as an attempt.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        try:
            if reason:
                self._write(Closed(reason=reason, time=time.time()))
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        """Return the journal."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _beat(self) -> None:
        """Touch the file now and then while it is open: `sphot-mpi status` takes it for a sign of life."""
        while not self._closing.wait(BEAT):
            with suppress(OSError):  # a sign may fail; a record that fails is told
                os.utime(self.path)

    def _write(self, head: Head, body: bytes = b"") -> RecordRef:
        data = memoryview(frame(head, body))
        begin, length = self._offset, len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            if self._sync:
                os.fsync(self._descriptor)
        except OSError as error:
            self._cut(begin)
            msg = f"{self.path}: the journal cannot be written ({error.strerror}); free space, and run again."
            raise JournalError(msg) from error
        self._offset += length
        return RecordRef(self.path.name, begin, length)

    def _cut(self, offset: int) -> None:
        """Take back a record that could not be written whole."""
        try:
            os.ftruncate(self._descriptor, offset)
        except OSError:
            # a scan finds the next record by its magic; offsets must only be true
            self._offset = os.fstat(self._descriptor).st_size


def read_ended(folder: Path, ref: RecordRef) -> tuple[Ended, TaskOutcome]:
    """Read one outcome with the head of its record.

    Parameters
    ----------
    folder : Path
        The journal's folder.
    ref : RecordRef
        From `Journal.append` of any process, or from a scan.

    Returns
    -------
    head : Ended
        Task, digest and attempt.
    outcome : TaskOutcome
        Its `task.galaxy` is the index at the time of writing; rows may have moved since.

    Raises
    ------
    JournalError
        If it cannot be read, or is damaged.
    """
    file_numbers(ref.file)
    path = folder / ref.file
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), ref.length, ref.offset)
    except OSError as error:
        msg = f"{path}: the journal cannot be read ({error.strerror}); run again with the same command."
        raise JournalError(msg) from error
    head, body = unframe(data, f"{path}, byte {ref.offset}")
    if not isinstance(head, Ended):
        msg = f"{path}, byte {ref.offset}: no outcome stands here."
        raise JournalError(msg)
    return head, decode(body)


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder durable; not every filesystem can, and then needs not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        return
    finally:
        os.close(descriptor)

"""What a journal holds, from the heads of its records."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sphot_mpi.errors import JournalError, ProcessDiedError
from sphot_mpi.journal import file_numbers, journal_files
from sphot_mpi.journal_format import Closed, Ended, Framed, Head, Losses, Planned, Started, records
from sphot_mpi.outcome_index import Found, OutcomeIndex, RecordRef
from sphot_mpi.outcomes import TaskKey


@dataclass(frozen=True, slots=True, eq=False)
class JournalIndex:
    """The last end of every task, and the tasks that were begun and never ended.

    Parameters
    ----------
    ended : OutcomeIndex
        Ended tasks.
    deaths : Counter of TaskKey
        Times that a process began a task and neither ended it nor left in order, since the task's last end.
    plans : list of (int, Planned)
        What each start was to do, with its number, in order.
    losses : Losses
        What could not be used.
    """

    ended: OutcomeIndex
    deaths: Counter[TaskKey] = field(default_factory=Counter)
    plans: list[tuple[int, Planned]] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)

    def find(self, key: TaskKey) -> Found | None:
        """Return the last end of a task, or None."""
        return self.ended.find(key)

    def __len__(self) -> int:
        """Return the number of tasks that have ended."""
        return len(self.ended)


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

    Yields
    ------
    name : str
        File.
    framed : Framed
        Record.

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


def scan(
    folder: Path,
    *,
    verify: bool = False,
    ended: OutcomeIndex | None = None,
    see: Callable[[str, Head], None] | None = None,
) -> JournalIndex:
    """Read the heads of all records of a journal.

    Parameters
    ----------
    folder : Path
        The journal's folder; if it is not there, nothing is found.
    verify : bool
        Check the outcomes' checksums, too, which reads all bytes: a damaged outcome then is as if it had never
        been written, and its task runs again. Otherwise `read_ended` finds it.
    ended : OutcomeIndex or None
        What a finished results file holds; the journal's outcomes are newer and go on top.
    see : callable or None
        Shown the head of every record, with the name of its file, in order.

    Returns
    -------
    JournalIndex
        What is there.

    Raises
    ------
    JournalError
        If a file cannot be read, or is of a newer format.
    """
    index = JournalIndex(OutcomeIndex() if ended is None else ended)
    begun: set[TaskKey] = set()
    last = ""
    for name, framed in heads(folder, index.losses, verify=verify):
        if name != last:
            index.deaths.update(begun)
            begun, last = set(), name
        if see is not None:
            see(name, framed.head)
        match framed.head:
            case Started() as head:
                begun.add(TaskKey(head.name, head.kind, head.filter))
            case Ended() as head:
                key = TaskKey(head.name, head.kind, head.filter)
                begun.discard(key)
                index.deaths.pop(key, None)
                index.ended.add(key, _found(name, framed, head))
            case Planned() as head:
                if head.anew:  # rank 0's file is the first of its start, and this its first record but one
                    index.ended.clear()
                    index.deaths.clear()
                index.plans.append((file_numbers(name)[0], head))
            case Closed():
                begun = set()
            case _:
                pass
    index.deaths.update(begun)
    index.ended.settle()
    return index


def _found(name: str, framed: Framed, head: Ended) -> Found:
    return Found(
        ref=RecordRef(name, framed.offset, framed.length),
        digest=head.digest,
        status=head.status,
        start=file_numbers(name)[0],
        attempt=head.attempt,
        final=head.error == ProcessDiedError.__name__,
    )

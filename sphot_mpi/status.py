"""How far a campaign is: from its journal while it runs or after it was stopped, else from its results file."""

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sphot_mpi.errors import UsageError, counted
from sphot_mpi.journal import file_numbers, journal_files, journal_folder
from sphot_mpi.journal_format import Closed, Ended, Head, Opened, Planned, Started
from sphot_mpi.journal_index import JournalIndex, scan
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.schedule import TaskKind
from sphot_mpi.status_text import CampaignStatus, Failures, Running, duration

#: Seconds without a sign of life after which a campaign counts as dead.
PATIENCE = 300.0

#: Tasks over which the rate is measured, the last ones.
_RECENT = 500


def campaign_status(results: Path, now: float | None = None) -> CampaignStatus:
    """Find out how far a campaign is.

    Parameters
    ----------
    results : Path
        Its results file, there or not yet.
    now : float or None
        Unix time; None: now.

    Returns
    -------
    CampaignStatus
        From the journal, if there is one; it may be written to meanwhile.

    Raises
    ------
    UsageError
        If there is neither results file nor journal.
    OutputError
        If they cannot be read.
    """
    folder = journal_folder(results)
    if journal_files(folder):
        return _from_journal(results, folder, time.time() if now is None else now)
    if results.is_file():
        return _from_file(results)
    msg = (
        f"{results}: there is no such file, and no journal {folder.name} of a campaign that runs; name a results file."
    )
    raise UsageError(msg)


@dataclass(slots=True)
class _Tally:
    """What goes by while a journal is read."""

    failed: dict[TaskKey, Ended] = field(default_factory=dict)
    begun: dict[str, dict[TaskKey, Started]] = field(default_factory=dict)
    opened: dict[str, Opened] = field(default_factory=dict)
    closed: dict[str, Closed] = field(default_factory=dict)
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    ended: Counter[Status] = field(default_factory=Counter)
    failed_bases: int = 0
    start: int = 0

    def see(self, file: str, head: Head) -> None:
        """Take notice of a record."""
        start = file_numbers(file)[0]
        if start != self.start:  # only the last start is at work
            self.start, self.failed_bases = start, 0
            self.begun, self.opened, self.closed = {}, {}, {}
            self.recent.clear()
            self.ended.clear()
        match head:
            case Opened():
                self.opened[file] = head
            case Started():
                self.begun.setdefault(file, {})[TaskKey(head.name, head.kind, head.filter)] = head
            case Ended():
                key = TaskKey(head.name, head.kind, head.filter)
                self.begun.setdefault(file, {}).pop(key, None)
                self.failed.pop(key, None)
                if head.status is Status.FAILED:
                    self.failed[key] = head
                    self.failed_bases += head.kind is TaskKind.BASE
                self.recent.append(head.time)
                self.ended[head.status] += 1
            case Closed():
                self.closed[file] = head
            case Planned():
                if head.anew:
                    self.failed.clear()


def _from_journal(results: Path, folder: Path, now: float) -> CampaignStatus:
    tally = _Tally()
    index = scan(folder, see=tally.see)
    files = [path for path in journal_files(folder) if file_numbers(path.name)[0] == tally.start]
    seen = max((path.stat().st_mtime for path in files), default=0.0)
    plan = index.plans[-1][1] if index.plans and index.plans[-1][0] == tally.start else None
    state = _state(tally, len(files), plan, now - seen)
    ended, never, total = _counts(tally, plan)
    rate = _rate(tally)
    n_left = total - ended.total() - never
    return CampaignStatus(
        results=str(results),
        state=state,
        total=total,
        ended={status.value: n for status, n in ended.items() if n},
        never=never,
        starts=tally.start,
        ranks=plan.ranks if plan is not None else len(tally.opened),
        begun=min((head.time for head in tally.opened.values()), default=0.0),
        seen=seen,
        rate=rate,
        left=n_left / rate if state == "running" and total and rate > 0.0 else float("nan"),
        running=_running(tally, now if state == "running" else seen),
        failures=_failures({key: (head.error, head.message) for key, head in tally.failed.items()}),
        command_line=plan.command_line if plan is not None else "",
        notes=_notes(index, state, now - seen),
    )


def _counts(tally: _Tally, plan: Planned | None) -> tuple[Counter[Status], int, int]:
    """Return how many tasks have ended by status, how many cannot start, and how many there are."""
    ended = Counter(tally.ended)
    if plan is None:
        return ended, 0, 0
    ended.update(
        {
            Status.DONE: plan.done,
            Status.NO_DATA: plan.no_data,
            Status.MISSING: plan.missing,
            Status.FAILED: plan.failed,
        }
    )
    # the journal does not tell how many filters a galaxy has; mostly all have the same number
    never = plan.never + round(tally.failed_bases * (plan.scale + plan.photometry) / max(plan.base, 1))
    return ended, never, plan.base + plan.scale + plan.photometry


def _state(tally: _Tally, n_files: int, plan: Planned | None, silence: float) -> str:
    if len(tally.closed) == n_files and (plan is None or n_files >= plan.ranks):
        finished = all(head.reason == "finished" for head in tally.closed.values())
        return "writing" if finished else "stopped"
    here = [head.pid for head in tally.opened.values() if head.host == socket.gethostname()]
    if any(_lives(pid) for pid in here):
        return "running"
    return "dead" if len(here) == n_files or silence > PATIENCE else "running"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it lives
        return True
    return True


def _rate(tally: _Tally) -> float:
    """Return the tasks a second over the last `_RECENT` ends, of all ranks together."""
    times = sorted(tally.recent)
    span = times[-1] - times[0] if len(times) > 1 else 0.0
    return (len(times) - 1) / span if span > 0.0 else float("nan")


def _running(tally: _Tally, until: float) -> tuple[Running, ...]:
    found = []
    for file, tasks in tally.begun.items():
        if file in tally.closed:
            continue
        process = tally.opened.get(file)
        for key, head in tasks.items():
            found.append(
                Running(
                    name=key.name,
                    kind=key.kind.value,
                    filter=key.filter,
                    rank=file_numbers(file)[1],
                    host=process.host if process is not None else "unknown",
                    attempt=head.attempt,
                    seconds=max(until - head.time, 0.0),
                )
            )
    return tuple(sorted(found, key=lambda r: -r.seconds))


def _failures(failed: Mapping[TaskKey, tuple[str, str]]) -> tuple[Failures, ...]:
    groups: dict[str, list[tuple[TaskKey, str]]] = {}
    for key, (error, message) in failed.items():
        groups.setdefault(error, []).append((key, message))
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return tuple(
        Failures(error=error, count=len(some), name=some[0][0].name, filter=some[0][0].filter, message=some[0][1])
        for error, some in ordered
    )


def _notes(index: JournalIndex, state: str, silence: float) -> tuple[str, ...]:
    notes = []
    if state == "dead":
        notes.append(f"No sign of life for {duration(silence)}: the same command goes on where it stopped.")
    if state == "stopped":
        notes.append("It was stopped in order: the same command goes on.")
    if state == "writing":
        notes.append("All tasks have ended; if it does not write the file any more, the same command does.")
    repeated = {key: n for key, n in index.deaths.items() if n > 1}
    if repeated and state != "running":
        key = max(repeated, key=lambda k: repeated[k])
        count = f"{len(repeated)} tasks were" if len(repeated) > 1 else "One task was"
        notes.append(f"{count} running more than once when a process died: {key.name} {key.filter}.")
    if index.losses.damaged:
        file, offset, _ = index.losses.damaged[0]
        places = counted(len(index.losses.damaged), "place")
        notes.append(f"The journal is damaged in {places}, first in {file} at byte {offset}.")
    return tuple(notes)


def _from_file(results: Path) -> CampaignStatus:
    with ResultsReader(results) as reader:
        attributes: Mapping[str, Any] = reader.file.attrs
        provenance = reader.array("provenance")
        failures = reader.array("failures")
        complete = bool(attributes.get("complete", True))
        never = int(np.count_nonzero(provenance["attempts"] == 0))
        ended = reader.ends()
        seen = float(max(provenance["started"] + provenance["seconds"], default=0.0))
        failed = {
            TaskKey(f["name"].decode(), TaskKind(f["task"].decode()), f["filter"].decode()): (
                f["error"].decode(),
                f["message"].decode(),
            )
            for f in failures
            if f["attempt"] > 0
        }
        ended["failed"] -= never
        return CampaignStatus(
            results=str(results),
            state="finished" if complete else "stopped",
            total=len(provenance),
            ended=dict(+ended),
            never=never,
            starts=1 + int(attributes.get("restarts", 0)),
            ranks=int(attributes.get("ranks", 1)),
            begun=float(min(provenance["started"], default=0.0)),
            seen=seen,
            failures=_failures(failed),
            command_line=str(attributes.get("command_line", "")),
            notes=() if complete else ("Tasks are left: the same command goes on.",),
        )

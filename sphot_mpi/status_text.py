"""How far a campaign is, as a record, as lines and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from sphot_mpi.outcomes import Status

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A task that was begun and has not ended."""

    name: str
    kind: str
    filter: str
    rank: int
    host: str
    attempt: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Tasks that failed for one reason, with the first of them."""

    error: str
    count: int
    name: str
    filter: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignStatus:
    """How far a campaign is.

    Parameters
    ----------
    results : str
        Its results file.
    state : str
        "running", "stopped" (in order, with work left), "dead" (killed, or its machine is lost), "writing" (all
        tasks have ended, and the file is not there yet), or "finished".
    total : int
        Tasks; 0: not known.
    ended : mapping of str to int
        Tasks that have ended, by status.
    never : int
        Tasks that cannot start, because their base fit failed, as far as it is known.
    starts, ranks : int
        Times that the campaign was started, and ranks of the last start.
    begun, seen : float
        Unix times of the last start, and of the last sign of life.
    rate : float
        Tasks a second, lately; NaN: not known.
    left : float
        Seconds to go at this rate; NaN: not known.
    running : tuple of Running
        What is being done, or was when the campaign died; the longest first.
    failures : tuple of Failures
        The most frequent reason first.
    command_line : str
        As typed.
    notes : tuple of str
        What else is to be known, one sentence each.
    """

    results: str
    state: str
    total: int
    ended: Mapping[str, int]
    never: int = 0
    starts: int = 1
    ranks: int = 1
    begun: float = 0.0
    seen: float = 0.0
    rate: float = float("nan")
    left: float = float("nan")
    running: tuple[Running, ...] = ()
    failures: tuple[Failures, ...] = ()
    command_line: str = ""
    notes: tuple[str, ...] = ()

    def json(self) -> str:
        """Return everything as one line of JSON; what is not known is null."""
        values = {name: None if value != value else value for name, value in asdict(self).items()}
        values["ended"] = {status.value: self.ended.get(status.value, 0) for status in Status}
        return json.dumps(values, allow_nan=False)

    def text(self) -> str:
        """Return it as lines, of which the first is ``status key=value ...``."""
        n = sum(self.ended.values())
        counts = " ".join(f"{s.value.replace(' ', '_')}={self.ended.get(s.value, 0)}" for s in Status)
        lines = [
            f"status state={self.state} total={self.total} ended={n} {counts} never={self.never} "
            f"running={len(self.running)} rate={_known(self.rate, '.3g', '/s')} left={_known(self.left, '.0f', 's')}",
            f"results    {self.results}",
            f"command    {self.command_line}",
            f"started    {_clock(self.begun)}, start {self.starts}, {self.ranks} ranks",
            f"last sign  {_clock(self.seen)}",
        ]
        if self.running:
            lines.append("in flight" if self.state == "running" else "in flight when it stopped")
            lines += [
                f"  {duration(r.seconds):>9}  {r.kind} {r.name} {r.filter}".rstrip()
                + f" (rank {r.rank} on {r.host}, try {r.attempt})"
                for r in self.running[:_SHOWN]
            ]
            more = len(self.running) - _SHOWN
            lines += [f"  and {more} more"] if more > 0 else []
        if self.failures:
            lines.append("failures")
            lines += [
                f"  {f.count:>9}  {f.error}, as of {f.name} {f.filter}: {f.message}" for f in self.failures[:_SHOWN]
            ]
        return "\n".join([*lines, *self.notes])


def _known(value: float, form: str, unit: str) -> str:
    return f"{value:{form}}{unit}" if value == value else "unknown"


def _clock(when: float) -> str:
    return datetime.fromtimestamp(when).astimezone().isoformat(" ", "seconds") if when else "unknown"


def duration(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

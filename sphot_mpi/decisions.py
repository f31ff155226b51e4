"""The rules by which an outcome that is known is kept, or its task runs again.

An outcome is kept if it was made from the same settings, files and program, if what it was
made from (its base fit; for photometry, all fits) is not newer and does not run again, and if
nobody asked for it anew. What was made from something else is kept all the same where its
task is not selected.
"""

from dataclasses import dataclass
from enum import StrEnum

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.digests import PART, InputFiles, Settings
from sphot_mpi.outcome_index import Found, OutcomeIndex
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.schedule import Task, TaskKind


class Rerun(StrEnum):
    """``--rerun``: which known tasks run again; what depends on them follows."""

    NONE = ""
    ALL = "all"
    BASE = "base"
    SCALE = "scale"
    PHOTOMETRY = "photometry"
    FAILED = "failed"


class Anew(StrEnum):
    """Whether to begin with nothing: ``--overwrite`` once, so that the same command goes on; ``--restart`` always."""

    NO = ""
    OVERWRITE = "overwrite"
    RESTART = "restart"


class Reason(StrEnum):
    """Why a task runs."""

    NEW = "not run yet"
    SETTINGS = "because of another configuration, row or program"
    FILES = "because of other input files"
    BASE = "because their base fit runs again or is newer"
    FITS = "because a fit of their galaxy runs again or is newer"
    FAILED = "that failed before"
    RERUN = "asked for with --rerun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What the command line asks for; it restricts what runs, never what stays in the file.

    Parameters
    ----------
    filters, only : tuple of str
        ``--filters`` and ``--only``; empty: all.
    limit : int or None
        Only the first galaxies of the catalogue.
    rerun : Rerun
        Known tasks that run again.
    anew : Anew
        Whether what is known counts at all.
    photometry : bool or None
        Whether aperture photometry is wanted; None: as it was, and not in a new campaign.
    """

    filters: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    limit: int | None = None
    rerun: Rerun = Rerun.NONE
    anew: Anew = Anew.NO
    photometry: bool | None = None

    def text(self) -> str:
        """Return what is the same in two commands that make the same tasks run again; empty: none does."""
        if not self.rerun and not self.anew:
            return ""
        limit = "" if self.limit is None else str(self.limit)
        return "|".join([self.rerun, self.anew, ",".join(self.filters), ",".join(self.only), limit])

    def wants(self, kind: TaskKind, filter_name: str) -> bool:
        """Whether tasks like this may run, in a galaxy that is selected; a base fit always may."""
        return kind is not TaskKind.SCALE or not self.filters or filter_name in self.filters

    def again(self, kind: TaskKind, filter_name: str, status: Status) -> bool:
        """Whether a known task of a selected galaxy is to run again."""
        match self.rerun:
            case Rerun.ALL:
                return kind is TaskKind.PHOTOMETRY or not self.filters or filter_name in self.filters
            case Rerun.FAILED:
                return status is Status.FAILED
            case _:
                return self.rerun == kind.value


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one task: it runs for a `reason`, or what was `found` is kept, or, with neither, it cannot start.

    Parameters
    ----------
    task : Task
        Which.
    found : Found or None
        Its last end.
    reason : Reason or None
        Why it runs.
    stale : bool
        What is kept was made from something else.
    """

    task: Task
    found: Found | None
    reason: Reason | None = None
    stale: bool = False


class Rules:
    """Decides, galaxy by galaxy.

    Parameters
    ----------
    settings : Settings
        Digests of the settings of now.
    files : InputFiles
        Looks at the input files.
    index : OutcomeIndex
        What is known.
    selection : Selection
        What is asked for.
    since : int
        First start whose outcomes are not made again.
    """

    def __init__(
        self, settings: Settings, files: InputFiles, index: OutcomeIndex, selection: Selection, since: int
    ) -> None:
        self._settings = settings
        self._files = files
        self._index = index
        self._selection = selection
        self._since = since

    def verdicts(self, galaxy: Galaxy, tasks: list[Task], *, chosen: bool) -> list[Verdict]:
        """Decide on all tasks of a galaxy.

        Parameters
        ----------
        galaxy : Galaxy
            The row.
        tasks : list of Task
            Base fit first, photometry last.
        chosen : bool
            Whether the galaxy is selected.

        Returns
        -------
        list of Verdict
            One a task.
        """
        verdicts: list[Verdict] = []
        stat = self._files.stat(galaxy)
        for task in tasks:
            found = self._index.find(TaskKey(galaxy.name, task.kind, task.filter))
            if found is not None and not found.attempt:  # it had never started
                found = None
            if task.kind is TaskKind.BASE:
                verdict = self._alone(galaxy, task, found, stat, chosen=chosen)
            elif verdicts[0].reason is None and _failed(verdicts[0]):
                verdict = Verdict(task, None)
            else:
                made_from = verdicts[:1] if task.kind is TaskKind.SCALE else verdicts
                verdict = self._dependent(galaxy, task, found, stat, made_from, chosen=chosen)
            verdicts.append(verdict)
        return verdicts

    def _dependent(
        self, galaxy: Galaxy, task: Task, found: Found | None, stat: str, made_from: list[Verdict], *, chosen: bool
    ) -> Verdict:
        newest = max((v.found.start for v in made_from if v.found is not None), default=0)
        older = found is not None and found.start < newest
        if found is not None and (older or any(v.reason is not None for v in made_from)):
            return Verdict(task, found, Reason.BASE if task.kind is TaskKind.SCALE else Reason.FITS)
        return self._alone(galaxy, task, found, stat, chosen=chosen)

    def _alone(self, galaxy: Galaxy, task: Task, found: Found | None, stat: str, *, chosen: bool) -> Verdict:
        """Decide on a task by itself."""
        if found is None:
            return Verdict(task, None, Reason.NEW)
        selected = chosen and self._selection.wants(task.kind, task.filter)
        changed = self._change(galaxy, task, found, stat)
        if not selected:
            return Verdict(task, found, stale=changed is not None)
        if found.start < self._since and self._selection.again(task.kind, task.filter, found.status):
            return Verdict(task, found, Reason.RERUN)
        if changed is None and _failed_in_journal(found):
            changed = Reason.FAILED
        return Verdict(task, found, changed)

    def _change(self, galaxy: Galaxy, task: Task, found: Found, stat: str) -> Reason | None:
        if found.digest[:PART] != self._settings.of(galaxy, task.kind, task.filter):
            return Reason.SETTINGS
        return None if self._files.same(found.digest, galaxy, stat) else Reason.FILES


def _failed(verdict: Verdict) -> bool:
    return verdict.found is not None and verdict.found.status is Status.FAILED


def _failed_in_journal(found: Found) -> bool:
    """Whether a task is tried again because it failed: in an unfinished campaign, unless it killed its process."""
    return found.status is Status.FAILED and found.start > 0 and not found.final

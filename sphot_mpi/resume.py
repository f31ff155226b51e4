"""What must run of a campaign, after what is known of it.

Outcomes go by the galaxies' names, so rows of the catalogue may be added and moved.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.decisions import Anew, Reason, Rerun, Rules, Selection
from sphot_mpi.digests import InputFiles, Settings
from sphot_mpi.errors import OutputError, counted, listed
from sphot_mpi.journal_format import Planned
from sphot_mpi.journal_index import JournalIndex
from sphot_mpi.known import Known
from sphot_mpi.ledger import Ledger
from sphot_mpi.outcome_index import OutcomeIndex
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.schedule import GalaxyPlan, Task, TaskKind

_RUNS, _DONE, _FAILED = range(3)


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """A campaign's tasks: which outcomes are kept, and which tasks run.

    Parameters
    ----------
    catalogue : Catalogue
        Galaxies and filters of the campaign: those that are selected, and those that are known.
    selection : Selection
        What was asked for.
    known : Known
        What there was.
    since : int
        First start whose outcomes `selection` does not make again.
    ledger : Ledger
        Where the kept outcomes stand, by number of the task.
    photometry : bytearray
        For each galaxy, whether it has a photometry task.
    deaths : dict of Task to int
        Times that a process died in a task that runs.
    tries : dict of Task to int
        Times that a task which runs has failed.
    reasons : Counter of Reason
        Tasks that run.
    kept : Counter of Status
        Outcomes that are kept.
    n_stale : int
        Those of them that were made from something else.
    n_never : int
        Tasks that cannot start, because their base fit has failed and is kept.
    """

    catalogue: Catalogue
    selection: Selection
    known: Known
    since: int
    ledger: Ledger
    photometry: bytearray = field(default_factory=bytearray)
    deaths: dict[Task, int] = field(default_factory=dict)
    tries: dict[Task, int] = field(default_factory=dict)
    reasons: Counter[Reason] = field(default_factory=Counter)
    kept: Counter[Status] = field(default_factory=Counter)
    n_stale: int = 0
    n_never: int = 0
    _states: bytearray = field(default_factory=bytearray)
    _first: "array[int]" = field(default_factory=lambda: array("q"))

    @property
    def n_run(self) -> int:
        """Number of tasks that run."""
        return self.reasons.total()

    @property
    def n_kept(self) -> int:
        """Number of outcomes that are kept."""
        return self.kept.total()

    def plan(self, galaxy: Galaxy) -> GalaxyPlan:
        """Return what the schedule must know of a galaxy, but for priority and cost."""
        plan = GalaxyPlan(
            galaxy=galaxy.index, filters=galaxy.filters, photometry=bool(self.photometry[galaxy.index])
        )  # fmt: skip
        first = self._first[galaxy.index]
        states = self._states[first : first + len(plan.filters) + plan.photometry]
        known = {task: state == _DONE for task, state in zip(plan.tasks(), states, strict=True) if state != _RUNS}
        return replace(plan, known=known or None)

    def attempt(self, task: Task) -> int:
        """Return which try of a task is next, from 1."""
        return 1 + self.tries.get(task, 0) + self.deaths.get(task, 0)

    def summary(self) -> str:
        """Return one line: how many tasks run and why, and what is kept."""
        why = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        parts = [f"{self.n_kept} tasks are known, {self.n_run} run" + (f": {why}" if why else "")]
        if self.n_stale:
            parts.append(f"{self.n_stale} of the known were made from other settings or files, but are not selected")
        if self.known.index.losses.damaged:
            parts.append(f"{len(self.known.index.losses.damaged)} damaged places of the journal were passed over")
        return "; ".join(parts)

    def planned(self, *, time: float, ranks: int, command_line: str) -> Planned:
        """Return the journal's record of this start, which goes before all other records of rank 0."""
        galaxies = self.catalogue.galaxies
        return Planned(
            time=time,
            ranks=ranks,
            command_line=command_line,
            catalogue=str(self.catalogue.path),
            base=len(galaxies),
            scale=sum(len(galaxy.filters) - 1 for galaxy in galaxies),
            photometry=sum(self.photometry),
            done=self.kept[Status.DONE],
            no_data=self.kept[Status.NO_DATA],
            missing=self.kept[Status.MISSING],
            failed=self.kept[Status.FAILED],
            never=self.n_never,
            selection=self.selection.text(),
            since=self.since,
            anew=bool(self.selection.anew) and self.since == self.known.start,
        )


def plan_work(catalogue: Catalogue, settings: Settings, selection: Selection, output: Path, known: Known) -> Work:
    """Decide what runs.

    Parameters
    ----------
    catalogue : Catalogue
        All of it, with all filters of the configuration.
    settings : Settings
        Digests of the settings.
    selection : Selection
        What was asked for.
    output : Path
        The results file, for messages.
    known : Known
        From `known_outcomes`.

    Returns
    -------
    Work
        What is kept and what runs.

    Raises
    ------
    UsageError
        If a galaxy or filter of the selection is not in the catalogue.
    OutputError
        If file or journal hold galaxies that the catalogue has not.
    """
    chosen = {galaxy.name for galaxy in catalogue.select(selection.only, selection.limit).galaxies}
    catalogue.check_filters(selection.filters)
    since = _since(selection, known)
    if selection.anew and since == known.start:
        known = replace(known, index=JournalIndex(OutcomeIndex()), complete=False)
    _check_names(catalogue, output, known)
    ended = known.index.ended
    narrowed = [_narrowed(g, ended, selection, chosen=g.name in chosen) for g in catalogue.galaxies]
    rows = [row for row, galaxy in enumerate(narrowed) if galaxy is not None]
    galaxies = tuple(replace(g, index=k) for k, g in enumerate(g for g in narrowed if g is not None))
    work = Work(
        catalogue=replace(
            catalogue, galaxies=galaxies, columns={name: values[rows] for name, values in catalogue.columns.items()}
        ),
        selection=selection,
        known=known,
        since=since,
        ledger=Ledger(sum(len(galaxy.filters) + 1 for galaxy in galaxies)),
    )
    rules = Rules(settings, InputFiles(), ended, selection, since)
    wanted = _wants_photometry(selection, ended)
    for galaxy in galaxies:
        _decide(work, rules, galaxy, chosen=galaxy.name in chosen, wants_photometry=wanted)
    return work


def _decide(work: Work, rules: Rules, galaxy: Galaxy, *, chosen: bool, wants_photometry: bool) -> None:
    key = TaskKey(galaxy.name, TaskKind.PHOTOMETRY, "")
    photometry = (chosen and wants_photometry) or work.known.index.find(key) is not None
    plan = GalaxyPlan(galaxy=galaxy.index, filters=galaxy.filters, photometry=photometry)
    verdicts = rules.verdicts(galaxy, list(plan.tasks()), chosen=chosen)
    if photometry and verdicts[-1].reason is not None and work.selection.photometry is False:
        verdicts.pop()
        photometry = False
    work.photometry.append(photometry)
    work._first.append(len(work._states))
    for verdict in verdicts:
        task, found = verdict.task, verdict.found
        if verdict.reason is not None:
            work._states.append(_RUNS)
            work.reasons[verdict.reason] += 1
            if verdict.reason is Reason.FAILED and found is not None:
                work.tries[task] = found.attempt
            deaths = work.known.index.deaths[TaskKey(galaxy.name, task.kind, task.filter)]
            if deaths:
                work.deaths[task] = deaths
        elif found is None:  # the schedule drops it, as its base fit has failed
            work._states.append(_RUNS)
            work.n_never += 1
        else:
            work.ledger.put(len(work._states), found.ref)
            work._states.append(_FAILED if found.status is Status.FAILED else _DONE)
            work.kept[found.status] += 1
            work.n_stale += verdict.stale


def _since(selection: Selection, known: Known) -> int:
    """Return the first start of this very selection: a command that is given again goes on with what it began."""
    last = known.index.plans[-1][1] if known.index.plans else None
    if last is None or selection.anew is Anew.RESTART or last.selection != selection.text():
        return known.start
    return last.since


def _narrowed(galaxy: Galaxy, ended: OutcomeIndex, selection: Selection, *, chosen: bool) -> Galaxy | None:
    """Return a galaxy with those of its filters that are selected or known; None: there are none."""
    keys = {f: TaskKey(galaxy.name, TaskKind.SCALE if k else TaskKind.BASE, f) for k, f in enumerate(galaxy.filters)}
    there = {f for f, key in keys.items() if ended.find(key) is not None}
    if not chosen and not there:
        return None
    base, *others = galaxy.filters
    kept = [f for f in others if f in there or (chosen and selection.wants(TaskKind.SCALE, f))]
    filters = (base, *kept)
    return galaxy if filters == galaxy.filters else replace(galaxy, filters=filters, forced=_common(galaxy, filters))


def _common(galaxy: Galaxy, filters: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in galaxy.forced if name in filters)


def _wants_photometry(selection: Selection, ended: OutcomeIndex) -> bool:
    if selection.photometry is None:
        return selection.rerun is Rerun.PHOTOMETRY or ended.has(TaskKind.PHOTOMETRY)
    return selection.photometry


def _check_names(catalogue: Catalogue, output: Path, known: Known) -> None:
    there = {galaxy.name for galaxy in catalogue.galaxies}
    others = [name for name in known.index.ended.names() if name not in there]
    if others:
        msg = (
            f"{output}: the file or its journal holds {counted(len(others), 'galaxy')} that {catalogue.path} "
            f"has not ({listed(others)}); "
            "put them back, name another file with -o, or give --overwrite to begin anew."
        )
        raise OutputError(msg)

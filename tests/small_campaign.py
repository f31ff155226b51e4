"""Runs a campaign in small steps without fits: the schedule, the journal and the results file are the real ones."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from random_outcomes import random_outcome

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import load_config
from sphot_mpi.decisions import Selection
from sphot_mpi.digests import InputFiles, Settings
from sphot_mpi.journal import Journal, journal_folder, remove_journal
from sphot_mpi.known import known_outcomes
from sphot_mpi.ledger import never_started
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.results import write_results
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.resume import plan_work
from sphot_mpi.schedule import Schedule, TaskState

EVERYTHING = Selection()


def fake_outcome(name, task, filters, fails=()):
    """What a task brings back: it hangs on the galaxy's name and the filter only."""
    key = TaskKey(name, task.kind, task.filter)
    seed = int.from_bytes(hashlib.sha256(repr((name, str(task.kind), task.filter)).encode()).digest()[:8])
    status = Status.FAILED if key in fails else Status.DONE
    outcome = random_outcome(
        np.random.default_rng(seed), task.kind, status, index=task.galaxy, galaxy=name, filter_name=task.filter,
        filters=filters,
    )  # fmt: skip
    if outcome.failure is None:
        return outcome
    return replace(outcome, failure=replace(outcome.failure, error=fails[key]))


@dataclass(frozen=True)
class Step:
    """What one start did: its plan, the tasks that ran, by key, and whether nothing is left."""

    work: object
    ran: list
    finished: bool


class Source:
    def __init__(self, work, schedule, ledger, store):
        self._galaxies, self._schedule, self._ledger, self._store = work.catalogue.galaxies, schedule, ledger, store

    def tasks(self, galaxy):
        return [t for t in self._schedule.tasks(galaxy) if self._schedule.state(t).ended]

    def load(self, task):
        if self._schedule.state(task) is TaskState.DROPPED:
            base = self.load(self._schedule.tasks(task.galaxy)[0])
            return KeptOutcome(outcome=never_started(task, base.outcome), attempts=0)
        kept = self._store.load(self._ledger.get(self._schedule.number(task)))
        return replace(kept, outcome=replace(kept.outcome, task=task))


def step(files, selection=EVERYTHING, *, most=None, fails=None, config=None, ranks=2, end="", write=None):
    """Start the campaign once.

    `most` tasks run; then every rank is killed in its next task (`end` is "killed"), or leaves in order. The file is
    written when nothing is left, or if `write` says so.
    """
    config = config or load_config(files.config)
    catalogue = read_catalogue(files.catalogue, config)
    output = files.folder / "results.h5"
    settings = Settings(config)
    known = known_outcomes(output, selection.anew)
    work = plan_work(catalogue, settings, selection, output, known)
    galaxies = work.catalogue.galaxies
    schedule = Schedule(work.plan(galaxy) for galaxy in galaxies)
    folder = journal_folder(output)
    journals = [Journal(folder, rank, known.start, sync=False) for rank in range(ranks)]
    journals[0].planned(work.planned(time=1e9, ranks=ranks, command_line="sphot-mpi x"))
    ran, inputs = [], InputFiles()
    while most is None or len(ran) < most:
        task = schedule.next_task()
        if task is None:
            break
        journal = journals[len(ran) % ranks]
        galaxy = galaxies[task.galaxy]
        key = TaskKey(galaxy.name, task.kind, task.filter)
        journal.started(key, work.attempt(task))
        outcome = fake_outcome(galaxy.name, task, galaxy.filters, fails or {})
        digest = settings.of(galaxy, task.kind, task.filter) + inputs.of(galaxy)
        work.ledger.put(schedule.number(task), journal.append(galaxy.name, outcome, digest))
        (schedule.fail if outcome.status is Status.FAILED else schedule.complete)(task)
        ran.append(key)
    for journal in journals:
        task = schedule.next_task() if end == "killed" else None
        if task is not None:
            journal.started(TaskKey(galaxies[task.galaxy].name, task.kind, task.filter), work.attempt(task))
        journal.close("" if end == "killed" else "finished" if schedule.finished else "drained")
    finished = schedule.finished and end != "killed"
    if write or (write is None and finished):
        with OutcomeStore(folder, output) as store:
            info = CampaignInfo(catalogue=work.catalogue, config=config, photometry=any(work.photometry))
            write_results(output, info, Source(work, schedule, work.ledger, store), SoloComm())
        if finished:
            remove_journal(folder)
    return Step(work, ran, finished)


def table_bytes(path: Path) -> dict[str, bytes]:
    """All tables of a results file but those of times and tries."""
    with h5py.File(path) as file:
        return {name: file[name][:].tobytes() for name in file if name not in ("provenance", "failures", "galaxies")}

"""A worker: outcomes go into the journal, suspects into a process of their own."""

from dataclasses import replace

import pytest
from fakes import FILTERS, make_fakes, write_campaign

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.codec import encode
from sphot_mpi.config import load_config
from sphot_mpi.interrupts import Interrupts
from sphot_mpi.isolation import run_isolated
from sphot_mpi.journal import Journal, read_ended
from sphot_mpi.messages import Assignment, Handback, Report
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.outcomes import Status, Timing
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.task_log import TaskLabel
from sphot_mpi.worker import Worker

NOWHEN = Timing(rank=0, host="", started=0.0, seconds=0.0, memory=0.0)


@pytest.fixture
def desk(tmp_path):
    """A worker with its journal, for the galaxies ga and crash."""
    files = write_campaign(tmp_path, ("ga", "crash"))
    config = load_config(files.config)
    galaxies = read_catalogue(files.catalogue, config).galaxies
    folder = tmp_path / "results.h5.journal"
    with (
        Interrupts(20.0) as interrupts,
        Journal.open(folder, 0, 1) as journal,
        OutcomeStore(folder, tmp_path / "results.h5") as store,
    ):
        worker = Worker(config, make_fakes, journal, store, interrupts, label=TaskLabel())

        def do(galaxy, kind, filter_name="", **more):
            task = Task(kind=kind, galaxy=galaxy, filter=filter_name)
            return worker.do(Assignment(task=task, galaxy=galaxies[galaxy], **more))

        yield do, folder, interrupts


def bits(folder, report):
    """An outcome as bytes, without times."""
    outcome = read_ended(folder, report.ref)[1]
    return encode(replace(outcome, timing=NOWHEN, fit=outcome.fit and replace(outcome.fit, seconds=0.0)))


def test_a_suspect_brings_the_same_bits_from_a_process_of_its_own(desk):
    do, folder, _ = desk
    base = do(0, TaskKind.BASE, FILTERS[0])
    fits = [do(0, TaskKind.SCALE, FILTERS[1], refs=(base.ref,), deaths=deaths) for deaths in (0, 1)]
    assert [fit.status for fit in fits] == [Status.DONE] * 2
    assert bits(folder, fits[0]) == bits(folder, fits[1])


def test_a_suspect_that_kills_that_process_has_failed(desk):
    do, _, _ = desk
    report = do(1, TaskKind.BASE, FILTERS[0], deaths=1)
    assert (report.status, report.error) == (Status.FAILED, "ProcessDiedError")
    assert "signal SIGKILL" in report.message


def broken_fitters():
    msg = "there are no fitters"
    raise ValueError(msg)


def test_a_process_that_cannot_begin_is_not_the_death_of_a_task(tmp_path):
    files = write_campaign(tmp_path, ("ga",))
    config = load_config(files.config)
    (galaxy,) = read_catalogue(files.catalogue, config).galaxies
    task = Task(kind=TaskKind.BASE, galaxy=0, filter=FILTERS[0])
    with pytest.raises(RuntimeError, match="could not be started"):
        run_isolated(config, broken_fitters, 0, task, galaxy, {})


def test_a_suspect_of_too_many_deaths_is_not_tried(desk):
    do, _, _ = desk
    report = do(0, TaskKind.BASE, FILTERS[0], deaths=13)
    assert (report.status, report.error) == (Status.FAILED, "ProcessDiedError")


def test_an_outcome_that_cannot_be_read_fails_the_task_that_needs_it(desk):
    do, _, _ = desk
    base = do(0, TaskKind.BASE, FILTERS[0])
    other = replace(base.ref, length=base.ref.length - 1)
    report = do(0, TaskKind.SCALE, FILTERS[1], refs=(other,))
    assert isinstance(report, Report)
    assert (report.status, report.stage) == (Status.FAILED, "read")


def test_nothing_is_begun_after_a_signal(desk):
    do, folder, interrupts = desk
    interrupts.stop()
    before = [path.stat().st_size for path in folder.iterdir()]
    assert isinstance(do(0, TaskKind.BASE, FILTERS[0]), Handback)
    assert [path.stat().st_size for path in folder.iterdir()] == before

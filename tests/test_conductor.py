"""The conductor, driven by a plain loop: what it hands out, how large messages are, how much memory a galaxy takes."""

import logging
import pickle
import tracemalloc

import pytest
from fakes import FILTERS

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.conductor import Conductor
from sphot_mpi.config import load_config
from sphot_mpi.ledger import Ledger
from sphot_mpi.messages import Report
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcomes import Status
from sphot_mpi.progress import Quiet
from sphot_mpi.schedule import GalaxyPlan, Schedule, TaskKind


def make(files, known=None, deaths=None):
    galaxies = read_catalogue(files.catalogue, load_config(files.config)).galaxies
    plans = [
        GalaxyPlan(galaxy=g.index, filters=g.filters, photometry=True, known=(known or {}).get(g.name))
        for g in galaxies
    ]  # fmt: skip
    schedule = Schedule(plans)
    ledger = Ledger(schedule.counts.total)
    return Conductor(galaxies, schedule, ledger, Quiet(), deaths or {})


def report(assignment, status=Status.DONE, number=0):
    ref = RecordRef("0001-000001.journal", number, 100)
    return Report(task=assignment.task, status=status, ref=ref, stage="fit", error="FitError", message="no")


def drive(conductor, fails=()):
    """Run all; return assignments by galaxy, kind and filter."""
    seen = {}
    while (assignment := conductor.next_assignment()) is not None:
        name = assignment.galaxy.name
        seen[name, assignment.task.kind, assignment.task.filter] = assignment
        status = Status.FAILED if (name, assignment.task.filter) in fails else Status.DONE
        conductor.take(report(assignment, status, len(seen)))
    return seen


def test_tasks_are_given_the_outcomes_that_they_need(files):
    seen = drive(make(files), fails={("gb", FILTERS[1])})
    offsets = {key: number for number, key in enumerate(seen, 1)}

    def needed(*key):
        return [ref.offset for ref in seen[key].refs]

    assert needed("ga", TaskKind.BASE, FILTERS[0]) == []
    assert needed("ga", TaskKind.SCALE, FILTERS[1]) == [offsets["ga", TaskKind.BASE, FILTERS[0]]]
    fits = [(TaskKind.BASE, FILTERS[0]), (TaskKind.SCALE, FILTERS[1]), (TaskKind.SCALE, FILTERS[2])]
    assert needed("ga", TaskKind.PHOTOMETRY, "") == [offsets["ga", *fit] for fit in fits]
    assert needed("gb", TaskKind.PHOTOMETRY, "") == [offsets["gb", *fit] for fit in (fits[0], fits[2])]


def test_a_task_in_which_a_process_died_is_told_so(files):
    conductor = make(files)
    first = conductor.next_assignment()
    conductor = make(files, deaths={first.task: 2})
    assert conductor.next_assignment().deaths == 2
    assert conductor.next_assignment().deaths == 0


def test_every_task_is_a_line_in_the_log_and_failures_are_warnings(files, caplog):
    with caplog.at_level(logging.INFO, "sphot_mpi"):
        drive(make(files), fails={("ga", FILTERS[2])})
    lines = [r.message for r in caplog.records if r.message.startswith("task ")]
    assert len(lines) == 12
    assert lines[0] == "task galaxy=ga filter=F150W kind=base status=done seconds=0.00 flags=0 rank=0"
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["ga F277W: fit failed: no"]


def test_messages_are_small(files):
    """Thousands of workers talk to one master; what a fit has found never passes through it."""
    for assignment in drive(make(files)).values():
        assert len(pickle.dumps(assignment)) < 1000
        assert len(pickle.dumps(report(assignment))) < 500


def test_the_master_needs_less_than_a_kilobyte_a_galaxy(files):
    """Catalogue, schedule and ledger, from reading to the last task."""

    def peak(n):
        rows = "".join(f"galaxy_{k:06d},ga.h5\n" for k in range(n))
        files.catalogue.write_text(f"name,path\n{rows}")
        tracemalloc.start()
        drive_without_memory(make(files))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)
    few, many = 300, 1500
    assert (peak(many) - peak(few)) / (many - few) < 1000


def drive_without_memory(conductor):
    while (assignment := conductor.next_assignment()) is not None:
        conductor.take(report(assignment))


def test_what_is_given_back_is_handed_out_again(files):
    conductor = make(files)
    first = conductor.next_assignment()
    conductor.give_back(first.task)
    assert conductor.next_assignment().task == first.task
    conductor.give_back(first.task)
    with pytest.raises(ValueError, match="not running"):
        conductor.give_back(first.task)

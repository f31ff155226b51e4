"""The schedule is driven by a plain loop, with completions in any order."""

import numpy as np
import pytest

from sphot_mpi.schedule import GalaxyPlan, Schedule, Task, TaskKind


def plans(n, filters=("B", "S1", "S2"), **options):
    return [GalaxyPlan(galaxy=k, filters=filters, **options) for k in range(n)]


def drive(schedule, rng, workers, fails=frozenset()):
    """Run everything with `workers` tasks in flight, completed in random order; return the order of completion."""
    flying, order = [], []
    while not schedule.finished:
        while len(flying) < workers and (task := schedule.next_task()) is not None:
            flying.append(task)
        task = flying.pop(int(rng.integers(len(flying))))
        order.append(task)
        if (task.galaxy, task.filter) in fails:
            schedule.fail(task)
        else:
            schedule.complete(task)
    return order


@pytest.mark.parametrize("workers", [1, 2, 7, 100])
def test_every_task_runs_once_whatever_the_order(workers):
    order = drive(Schedule(plans(9)), np.random.default_rng(workers), workers)
    assert len(order) == 27
    assert {(t.galaxy, t.filter) for t in order} == {(g, f) for g in range(9) for f in ("B", "S1", "S2")}


def test_scale_fits_wait_for_their_base_fit():
    schedule = Schedule(plans(2))
    first, second = schedule.next_task(), schedule.next_task()
    assert {first.kind, second.kind} == {TaskKind.BASE}
    assert schedule.next_task() is None
    assert not schedule.finished
    schedule.complete(first)
    released = [schedule.next_task(), schedule.next_task()]
    assert [(t.kind, t.galaxy, t.filter) for t in released] == [
        (TaskKind.SCALE, first.galaxy, "S1"),
        (TaskKind.SCALE, first.galaxy, "S2"),
    ]


def test_a_galaxy_is_finished_before_the_next_begins():
    order = drive(Schedule(plans(3)), np.random.default_rng(0), 1)
    assert [t.galaxy for t in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_failed_base_fit_drops_only_its_own_scale_fits():
    schedule = Schedule(plans(4))
    order = drive(schedule, np.random.default_rng(1), 3, fails={(2, "B")})
    assert sorted({t.galaxy for t in order if t.kind is TaskKind.SCALE}) == [0, 1, 3]
    counts = schedule.counts
    assert (counts.total, counts.done, counts.failed, counts.dropped) == (12, 9, 1, 2)
    assert counts.waiting == counts.running == 0


def test_fail_names_the_dropped_tasks():
    schedule = Schedule(plans(1))
    base = schedule.next_task()
    assert [t.filter for t in schedule.fail(base)] == ["S1", "S2"]
    assert schedule.finished
    assert schedule.galaxy_finished(0)


def test_a_failed_scale_fit_drops_nothing():
    schedule = Schedule(plans(1))
    drive(schedule, np.random.default_rng(2), 2, fails={(0, "S1")})
    assert (schedule.counts.done, schedule.counts.failed, schedule.counts.dropped) == (2, 1, 0)


def test_priority_goes_before_cost_and_cost_before_order():
    schedule = Schedule(
        [
            GalaxyPlan(galaxy=0, filters=("B",), cost=1.0),
            GalaxyPlan(galaxy=1, filters=("B",), cost=5.0),
            GalaxyPlan(galaxy=2, filters=("B",), priority=1.0),
            GalaxyPlan(galaxy=3, filters=("B",), cost=1.0),
        ]
    )
    assert [schedule.next_task().galaxy for _ in range(4)] == [2, 1, 0, 3]


def test_a_galaxy_counts_as_finished_only_after_its_last_task():
    schedule = Schedule(plans(1, filters=("B", "S")))
    base = schedule.next_task()
    schedule.complete(base)
    assert not schedule.galaxy_finished(0)
    schedule.complete(schedule.next_task())
    assert schedule.galaxy_finished(0)


def test_a_task_that_is_not_running_cannot_come_back():
    schedule = Schedule(plans(1))
    with pytest.raises(ValueError, match="not running"):
        schedule.complete(Task(kind=TaskKind.BASE, galaxy=0, filter="B"))


def test_an_empty_campaign_is_finished():
    assert Schedule([]).finished

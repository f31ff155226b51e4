"""The schedule is driven by a plain loop, with completions in any order."""

import numpy as np
import pytest

from sphot_mpi.schedule import GalaxyPlan, Schedule, Task, TaskKind, TaskState


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


def test_the_last_new_galaxies_begin_before_others_are_finished():
    """Three workers: with two galaxies left, their base fits go first, so that nobody waits for them at the end."""
    order = drive(Schedule(plans(5), workers=3), np.random.default_rng(0), 1)
    begun = [t.galaxy for t in order if t.kind is TaskKind.BASE]
    assert begun == [0, 1, 2, 3, 4]
    at = {t.galaxy: order.index(t) for t in order if t.kind is TaskKind.BASE}
    assert at[1] == 3
    assert (at[3], at[4]) == (at[2] + 1, at[2] + 2)


def test_a_failed_base_fit_drops_only_its_own_scale_fits():
    schedule = Schedule(plans(4))
    order = drive(schedule, np.random.default_rng(1), 3, fails={(2, "B")})
    assert sorted({t.galaxy for t in order if t.kind is TaskKind.SCALE}) == [0, 1, 3]
    counts = schedule.counts
    assert (counts.total, counts.done, counts.failed, counts.dropped) == (12, 9, 1, 2)
    assert counts.waiting == counts.running == 0


def test_dropped_tasks_can_be_told():
    schedule = Schedule(plans(1, photometry=True))
    schedule.fail(schedule.next_task())
    assert [schedule.state(t) for t in schedule.tasks(0)] == [TaskState.FAILED, *[TaskState.DROPPED] * 3]
    assert schedule.finished


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


def test_a_task_that_is_not_running_cannot_come_back():
    schedule = Schedule(plans(1))
    with pytest.raises(ValueError, match="not running"):
        schedule.complete(Task(kind=TaskKind.BASE, galaxy=0, filter="B"))


def test_an_empty_campaign_is_finished():
    assert Schedule([]).finished


def task(kind, galaxy, filter_name=""):
    return Task(kind=kind, galaxy=galaxy, filter=filter_name)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("fails", [frozenset(), frozenset({(1, "S2")})])
def test_photometry_waits_for_all_filters_of_its_galaxy_failed_ones_too(workers, fails):
    order = drive(Schedule(plans(4, photometry=True)), np.random.default_rng(workers), workers, fails)
    assert len(order) == 16
    for galaxy in range(4):
        assert [t.kind for t in order if t.galaxy == galaxy][-1] is TaskKind.PHOTOMETRY


def test_photometry_of_a_single_filter_waits_for_the_base_fit():
    schedule = Schedule(plans(1, filters=("B",), photometry=True))
    base = schedule.next_task()
    assert schedule.next_task() is None
    schedule.complete(base)
    assert schedule.next_task() == task(TaskKind.PHOTOMETRY, 0)


def test_a_more_urgent_galaxy_goes_before_the_rest_of_one_that_has_begun():
    schedule = Schedule([GalaxyPlan(galaxy=0, filters=("B", "S")), GalaxyPlan(galaxy=1, filters=("B", "S"))])
    schedule.complete(schedule.next_task())
    assert schedule.next_task() == task(TaskKind.SCALE, 0, "S")  # equals: the begun one first
    schedule = Schedule(
        [
            GalaxyPlan(
                galaxy=0, filters=("B", "S"), priority=1.0, known={task(TaskKind.BASE, 0, "B"): True}
            ),
            GalaxyPlan(galaxy=1, filters=("B", "S"), priority=2.0),
        ]
    )  # fmt: skip
    assert schedule.next_task() == task(TaskKind.BASE, 1, "B")


def test_a_task_that_is_given_back_starts_again():
    schedule = Schedule(plans(2))
    base = schedule.next_task()
    schedule.give_back(base)
    assert schedule.counts.running == 0
    assert schedule.next_task() == base
    schedule.complete(base)
    scale = schedule.next_task()
    schedule.give_back(scale)
    order = drive(schedule, np.random.default_rng(0), 2)
    assert len(order) == 5
    assert scale in order


def test_what_is_known_does_not_run_again():
    known = {task(TaskKind.BASE, 0, "B"): True, task(TaskKind.SCALE, 0, "S1"): False}
    schedule = Schedule([GalaxyPlan(galaxy=0, filters=("B", "S1", "S2"), photometry=True, known=known), *plans(2)[1:]])
    assert schedule.counts.done == schedule.counts.failed == 1
    order = drive(schedule, np.random.default_rng(0), 3)
    assert [t for t in order if t.galaxy == 0] == [task(TaskKind.SCALE, 0, "S2"), task(TaskKind.PHOTOMETRY, 0)]


def test_a_known_failure_of_a_base_fit_drops_the_rest():
    schedule = Schedule([GalaxyPlan(galaxy=0, filters=("B", "S"), known={task(TaskKind.BASE, 0, "B"): False})])
    assert schedule.finished
    assert schedule.counts.dropped == 1


def test_everything_known_is_finished_at_once():
    plan = plans(1, photometry=True)[0]
    done = GalaxyPlan(galaxy=0, filters=plan.filters, photometry=True, known=dict.fromkeys(plan.tasks(), True))
    assert Schedule([done]).finished


def test_tasks_are_numbered_in_the_order_of_the_results_file():
    schedule = Schedule(plans(3, photometry=True))
    assert [schedule.number(t) for g in range(3) for t in schedule.tasks(g)] == list(range(12))


def test_random_campaigns_end_whatever_happens():
    """Any mix of priorities, failures, known ends and tasks given back runs each remaining task to one end."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        all_plans = []
        for g in range(int(rng.integers(1, 8))):
            names = ("B", "S1", "S2", "S3")[: int(rng.integers(1, 5))]
            plan = GalaxyPlan(
                galaxy=g, filters=names, photometry=bool(rng.integers(2)), priority=float(rng.integers(3))
            )
            known = {t: bool(rng.integers(2)) for t in plan.tasks() if rng.random() < 0.2}
            if plan.filters[0] not in {t.filter for t in known}:
                known = {}  # nothing stands without its base fit
            all_plans.append(GalaxyPlan(galaxy=g, filters=names, photometry=plan.photometry, known=known))
        schedule, flying, ended = Schedule(all_plans), [], []
        while not schedule.finished:
            while len(flying) < 3 and (new := schedule.next_task()) is not None:
                flying.append(new)
            back = flying.pop(int(rng.integers(len(flying))))
            fate = rng.random()
            if fate < 0.2:
                schedule.give_back(back)
                continue
            ended.append(back)
            (schedule.fail if fate < 0.4 else schedule.complete)(back)
        assert not flying
        assert len(ended) == len(set(ended))
        counts = schedule.counts
        assert counts.ended == counts.total

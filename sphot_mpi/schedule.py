"""The task graph of a campaign and its priorities: pure, no file, no clock, no rank.

A galaxy is one base fit; once that is done, one scale fit for each other filter;
and once all of these have ended, aperture photometry, if asked for. Galaxies that
have begun go before new ones, so that a stopped campaign holds few half-done ones;
new ones go by the catalogue's priority, and among equals the largest first, so that
no large one is left for the end. The last new galaxies, fewer than there are workers, go
before the rest of those that have begun: else workers would wait for their base fits.

A task costs one byte: campaigns of millions of galaxies are planned in one process.
"""

import heapq
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np


class TaskKind(StrEnum):
    """What is to be done."""

    BASE = "base"
    SCALE = "scale"
    PHOTOMETRY = "photometry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One fit of one filter of one galaxy, or the photometry of a galaxy.

    Parameters
    ----------
    kind : TaskKind
        Base fit, scale fit (a forced one as well) or photometry.
    galaxy : int
        Index in the catalogue.
    filter : str
        Filter; empty for photometry, which takes all filters.
    """

    kind: TaskKind
    galaxy: int
    filter: str


class TaskState(IntEnum):
    """Where a task is; each comes after the one before it, or ends the task."""

    BLOCKED = 0
    READY = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    #: Can never start, because the base fit failed.
    DROPPED = 5

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the task."""
        return self >= TaskState.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class GalaxyPlan:
    """What the schedule must know of a galaxy.

    Parameters
    ----------
    galaxy : int
        Index in the catalogue.
    filters : tuple of str
        Base filter first.
    photometry : bool
        Whether photometry follows the fits.
    priority : float
        Higher goes first.
    cost : float
        Guess of the work, in any unit; among equals the largest goes first.
    known : dict of Task to bool, or None
        Tasks that need not run: True: done, False: failed.
    """

    galaxy: int
    filters: tuple[str, ...]
    photometry: bool = False
    priority: float = 0.0
    cost: float = 0.0
    known: dict[Task, bool] | None = None

    def tasks(self) -> Iterator[Task]:
        """Yield the galaxy's tasks, in the order of the results file."""
        for position, name in enumerate(self.filters):
            kind = TaskKind.SCALE if position else TaskKind.BASE
            yield Task(kind=kind, galaxy=self.galaxy, filter=name)
        if self.photometry:
            yield Task(kind=TaskKind.PHOTOMETRY, galaxy=self.galaxy, filter="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far a campaign is; `total` is the sum of all others."""

    total: int
    waiting: int
    running: int
    done: int
    failed: int
    dropped: int

    @property
    def ended(self) -> int:
        """Tasks to which nothing more will happen."""
        return self.done + self.failed + self.dropped


class Schedule:
    """State machine: `next_task` hands out; `complete`, `fail` and `give_back` take back.

    Parameters
    ----------
    plans : iterable of GalaxyPlan
        One a galaxy; galaxies are numbered 0, 1, 2, ... in this order.
    workers : int
        How many there are.

    Notes
    -----
    The order of completion never changes what tasks there are, so results do not
    depend on the number of workers. Every method costs a time that does not grow with
    the campaign, but for a logarithm.
    """

    def __init__(self, plans: Iterable[GalaxyPlan], workers: int = 1) -> None:
        self._workers = workers
        self._filters: list[tuple[str, ...]] = []
        self._first = array("q", [0])  # number of a galaxy's first task
        self._states = bytearray()
        self._priority = array("d")
        cost = array("d")
        for plan in plans:
            if plan.galaxy != len(self._filters):
                msg = f"galaxy {plan.galaxy} comes as number {len(self._filters)}"
                raise ValueError(msg)
            self._filters.append(plan.filters)
            self._priority.append(plan.priority)
            cost.append(plan.cost)
            self._states += _first_states(plan)
            self._first.append(len(self._states))
        self._count = [self._states.count(state) for state in TaskState]
        priority, size = np.array(self._priority), np.array(cost)
        # urgency: the first is the most urgent; the sort is stable, so the catalogue's order decides among equals
        self._order = np.lexsort((-size, -priority)).astype("i4")
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(self._order), dtype="i4")
        self._new = 0
        self._n_new = sum(self._states[first] == TaskState.READY for first in self._first[:-1])
        self._begun: list[int] = []  # heap of places of galaxies with tasks that are ready besides a base fit
        for galaxy in range(len(self._filters)):
            self._settle(galaxy)

    def next_task(self) -> Task | None:
        """Return the most urgent task that can start now, or None; the caller owns it."""
        galaxy = self._most_urgent()
        if galaxy is None:
            return None
        position = self._ready_position(galaxy)
        self._move(galaxy, position, TaskState.RUNNING)
        return self._task(galaxy, position)

    def complete(self, task: Task) -> None:
        """Take back a finished task, and release what waited for it."""
        self._take_back(task, TaskState.DONE)
        self._settle(task.galaxy)

    def fail(self, task: Task) -> None:
        """Take back a failed task; without a base fit the galaxy's other tasks are dropped."""
        self._take_back(task, TaskState.FAILED)
        self._settle(task.galaxy)

    def give_back(self, task: Task) -> None:
        """Take back a task that was not done; it can start again."""
        self._take_back(task, TaskState.READY)
        self._push(task.galaxy)

    def state(self, task: Task) -> TaskState:
        """Where a task is."""
        return TaskState(self._states[self.number(task)])

    def number(self, task: Task) -> int:
        """Return the task's place in the order of the results file, from 0."""
        names = self._filters[task.galaxy]
        position = len(names) if task.kind is TaskKind.PHOTOMETRY else names.index(task.filter)
        return self._first[task.galaxy] + position

    def tasks(self, galaxy: int) -> list[Task]:
        """Return a galaxy's tasks, in the order of the results file."""
        return [self._task(galaxy, position) for position in range(self._first[galaxy + 1] - self._first[galaxy])]

    @property
    def n_ready(self) -> int:
        """Number of tasks that could start now."""
        return self._count[TaskState.READY]

    @property
    def finished(self) -> bool:
        """Whether every task is done, failed or dropped."""
        return not (self._count[TaskState.BLOCKED] or self._count[TaskState.READY] or self._count[TaskState.RUNNING])

    @property
    def counts(self) -> Counts:
        """How far the campaign is."""
        blocked, ready, running, done, failed, dropped = self._count
        return Counts(
            total=len(self._states), waiting=blocked + ready, running=running, done=done, failed=failed, dropped=dropped
        )

    def _most_urgent(self) -> int | None:
        """Return the galaxy whose task is next."""
        while self._begun and self._ready_position(int(self._order[self._begun[0]])) < 0:
            heapq.heappop(self._begun)
        while self._new < len(self._order) and self._states[self._base_number(self._new)] != TaskState.READY:
            self._new += 1
        if not self._begun:
            return int(self._order[self._new]) if self._new < len(self._order) else None
        begun = int(self._order[self._begun[0]])
        if self._new < len(self._order):
            new = int(self._order[self._new])
            ahead = self._priority[new] - self._priority[begun]
            if ahead > 0.0 or (ahead == 0.0 and self._n_new < self._workers):
                return new
        return begun

    def _base_number(self, place: int) -> int:
        return self._first[int(self._order[place])]

    def _ready_position(self, galaxy: int) -> int:
        """Return the position of a galaxy's first ready task, or -1."""
        first = self._first[galaxy]
        return max(self._states.find(TaskState.READY, first, self._first[galaxy + 1]) - first, -1)

    def _task(self, galaxy: int, position: int) -> Task:
        names = self._filters[galaxy]
        if position == len(names):
            return Task(kind=TaskKind.PHOTOMETRY, galaxy=galaxy, filter="")
        return Task(kind=TaskKind.SCALE if position else TaskKind.BASE, galaxy=galaxy, filter=names[position])

    def _take_back(self, task: Task, state: TaskState) -> None:
        position = self.number(task) - self._first[task.galaxy]
        if self._states[self._first[task.galaxy] + position] != TaskState.RUNNING:
            msg = f"{task} is not running"
            raise ValueError(msg)
        self._move(task.galaxy, position, state)

    def _move(self, galaxy: int, position: int, state: TaskState) -> None:
        number = self._first[galaxy] + position
        if position == 0:
            self._n_new += (state == TaskState.READY) - (self._states[number] == TaskState.READY)
        self._count[self._states[number]] -= 1
        self._count[state] += 1
        self._states[number] = state

    def _settle(self, galaxy: int) -> None:
        """Release, or drop, a galaxy's blocked tasks if what they wait for has ended."""
        first, n = self._first[galaxy], len(self._filters[galaxy])
        base = TaskState(self._states[first])
        if not base.ended or self._states.find(TaskState.BLOCKED, first, self._first[galaxy + 1]) < 0:
            return
        blocked = [p for p in range(self._first[galaxy + 1] - first) if self._states[first + p] == TaskState.BLOCKED]
        released = False
        for position in blocked:
            if base is TaskState.FAILED:
                self._move(galaxy, position, TaskState.DROPPED)
            elif position < n or all(TaskState(s).ended for s in self._states[first : first + n]):
                self._move(galaxy, position, TaskState.READY)
                released = True
        if released:
            self._push(galaxy)

    def _push(self, galaxy: int) -> None:
        heapq.heappush(self._begun, int(self._place[galaxy]))


def _first_states(plan: GalaxyPlan) -> bytes:
    """Return the states of a galaxy's tasks before anything is settled: only a base fit is ready."""
    known = plan.known or {}
    states = [TaskState.BLOCKED] * (len(plan.filters) + plan.photometry)
    states[0] = TaskState.READY
    if known:
        ends = [known.get(task) for task in plan.tasks()]
        states = [
            s if end is None else TaskState.DONE if end else TaskState.FAILED
            for s, end in zip(states, ends, strict=True)
        ]
    return bytes(states)

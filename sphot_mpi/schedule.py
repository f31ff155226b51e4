"""The task graph of a campaign and its priorities: pure, no file, no clock, no rank.

A galaxy is one base fit and, once that is done, one scale fit for each other
filter. Scale fits go before new base fits, so that galaxies are finished one
after another, and a stopped campaign holds few half-done ones.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class TaskKind(StrEnum):
    """What is to be done."""

    BASE = "base"
    SCALE = "scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One fit of one filter of one galaxy.

    Parameters
    ----------
    kind : TaskKind
        Base fit or scale fit.
    galaxy : int
        Index in the catalogue.
    filter : str
        Filter.
    """

    kind: TaskKind
    galaxy: int
    filter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GalaxyPlan:
    """What the schedule must know of a galaxy.

    Parameters
    ----------
    galaxy : int
        Index in the catalogue.
    filters : tuple of str
        Base filter first.
    priority : float
        Higher goes first.
    cost : float
        Guess of the work, in any unit; among equals the largest goes first.
    """

    galaxy: int
    filters: tuple[str, ...]
    priority: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How far a campaign is; `total` is the sum of all others."""

    total: int
    waiting: int
    running: int
    done: int
    failed: int
    dropped: int


class Schedule:
    """State machine: `next_task` hands out, `complete` and `fail` take back.

    Parameters
    ----------
    plans : sequence of GalaxyPlan
        One a galaxy.

    Notes
    -----
    The order of completion never changes what tasks there are, so results do not
    depend on the number of workers.
    """

    def __init__(self, plans: Sequence[GalaxyPlan]) -> None:
        self._plans = {plan.galaxy: plan for plan in plans}
        self._ready: list[tuple[float, int, float, int, int, Task]] = []
        self._running: set[Task] = set()
        self._left = {plan.galaxy: len(plan.filters) for plan in plans}
        self._done = self._failed = self._dropped = 0
        self._total = sum(self._left.values())
        for plan in plans:
            self._push(plan, 0)

    def _push(self, plan: GalaxyPlan, position: int) -> None:
        kind = TaskKind.SCALE if position else TaskKind.BASE
        task = Task(kind=kind, galaxy=plan.galaxy, filter=plan.filters[position])
        order = (-plan.priority, 0 if position else 1, -plan.cost, plan.galaxy, position, task)
        heapq.heappush(self._ready, order)

    def next_task(self) -> Task | None:
        """Return the most urgent task that can start now, or None; the caller owns it."""
        if not self._ready:
            return None
        task = heapq.heappop(self._ready)[-1]
        self._running.add(task)
        return task

    def complete(self, task: Task) -> None:
        """Take back a finished task; a base fit releases its galaxy's scale fits."""
        self._take_back(task)
        self._done += 1
        if task.kind is TaskKind.BASE:
            plan = self._plans[task.galaxy]
            for position in range(1, len(plan.filters)):
                self._push(plan, position)

    def fail(self, task: Task) -> tuple[Task, ...]:
        """Take back a failed task, and return those that can never start because of it."""
        self._take_back(task)
        self._failed += 1
        if task.kind is TaskKind.SCALE:
            return ()
        others = self._plans[task.galaxy].filters[1:]
        self._dropped += len(others)
        self._left[task.galaxy] -= len(others)
        return tuple(Task(kind=TaskKind.SCALE, galaxy=task.galaxy, filter=name) for name in others)

    def _take_back(self, task: Task) -> None:
        if task not in self._running:
            msg = f"{task} is not running"
            raise ValueError(msg)
        self._running.remove(task)
        self._left[task.galaxy] -= 1

    def galaxy_finished(self, galaxy: int) -> bool:
        """Whether nothing of a galaxy is left to do."""
        return self._left[galaxy] == 0

    @property
    def finished(self) -> bool:
        """Whether every task is done, failed or dropped."""
        return not self._ready and not self._running

    @property
    def counts(self) -> Counts:
        """How far the campaign is."""
        running = len(self._running)
        ended = self._done + self._failed + self._dropped
        return Counts(
            total=self._total,
            waiting=self._total - ended - running,
            running=running,
            done=self._done,
            failed=self._failed,
            dropped=self._dropped,
        )

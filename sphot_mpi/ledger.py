"""Where the outcome of every task stands, in a few bytes a task; the source of what is written to the results file."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcomes import Failure, Status, TaskOutcome
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import Schedule, Task, TaskState

#: How the message of a task begins that waited for one that failed.
NOT_STARTED = "not started"

_NOWHERE = -1


class Ledger:
    """The `RecordRef` of each task that has ended, by the task's number in the schedule.

    Parameters
    ----------
    n_tasks : int
        Number of tasks.
    """

    def __init__(self, n_tasks: int) -> None:
        self._file = array("i", [_NOWHERE]) * n_tasks
        self._offset = array("q", [0]) * n_tasks
        self._length = array("q", [0]) * n_tasks
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}

    def put(self, number: int, ref: RecordRef) -> None:
        """Note where a task's outcome stands."""
        if ref.file not in self._numbers:
            self._numbers[ref.file] = len(self._names)
            self._names.append(ref.file)
        self._file[number] = self._numbers[ref.file]
        self._offset[number], self._length[number] = ref.offset, ref.length

    def get(self, number: int) -> RecordRef | None:
        """Return where a task's outcome stands, or None."""
        file = self._file[number]
        return None if file == _NOWHERE else RecordRef(self._names[file], self._offset[number], self._length[number])


class Loader(Protocol):
    """Loads outcomes from wherever they stand."""

    def load(self, ref: RecordRef) -> KeptOutcome:
        """Return the outcome."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreSource:
    """Outcomes as the writer takes them; those of tasks that never started follow from the failed base fit.

    Parameters
    ----------
    store : loader
        Loads an outcome by its reference, as `outcome_store.OutcomeStore` does.
    schedule : Schedule
        What has ended, and how.
    ledger : Ledger
        Where it stands.
    """

    store: Loader
    schedule: Schedule
    ledger: Ledger

    def tasks(self, galaxy: int) -> Sequence[Task]:
        """Return a galaxy's ended tasks: base fit, then scale fits in the order of its filters, then photometry."""
        return [task for task in self.schedule.tasks(galaxy) if self.schedule.state(task).ended]

    def load(self, task: Task) -> KeptOutcome:
        """Load what one of them brought back.

        Raises
        ------
        OutputError
            If journal or results file cannot be read.
        """
        if self.schedule.state(task) is TaskState.DROPPED:
            base = self.load(self.schedule.tasks(task.galaxy)[0])
            return KeptOutcome(outcome=never_started(task, base.outcome), attempts=0)
        ref = self.ledger.get(self.schedule.number(task))
        if ref is None:
            msg = f"no outcome of {task} is known"
            raise ValueError(msg)
        kept = self.store.load(ref)
        # the row may have another index than when the outcome was written
        return replace(kept, outcome=replace(kept.outcome, task=task))


def never_started(task: Task, base: TaskOutcome) -> TaskOutcome:
    """Return the outcome of a task that could not start because its base fit failed."""
    timing = replace(base.timing, seconds=0.0, memory=0.0)
    message = f"{NOT_STARTED}, because the base fit ({base.task.filter}) failed"
    failure = Failure(stage="base", error="FitError", message=message)
    return TaskOutcome(task=task, status=Status.FAILED, timing=timing, failure=failure)

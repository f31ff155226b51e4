"""Run a task in a process of its own, so that the death of that process is the task's alone.

A task that was running when its process died is a suspect: a crash in compiled code or
a full memory would kill the next process as well. Many suspects are innocent, as a
killed job takes all running tasks with it; only the death of a process that runs one
task and nothing else proves which one it was.
"""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.codec import decode, encode, pack, unpack
from sphot_mpi.config import Config
from sphot_mpi.errors import ProcessDiedError
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.records import FilterFit
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.tasks import Fitters, TaskRunner

_LENGTH = struct.Struct("<Q")
#: The child's first word: all is read, the task begins.
_BEGUN = b"begun"

#: Seconds before a dead child's task is condemned: if the whole job is being killed, this process is next.
_SECOND_THOUGHTS = 2.0

#: What launchers leave in the environment; the child must not take itself for a rank.
_LAUNCHER = ("OMPI_", "PMI_", "PMIX_", "PMI2_", "MPI_", "HYDRA_", "HYDI_", "SLURM_", "PALS_", "MV2_")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IsolatedTask:
    """All that the child must know; the parameters are those of `Task`, `Galaxy` and `TaskRunner`."""

    config: str
    kind: TaskKind
    filter: str
    index: int
    name: str
    path: str
    psf: str
    filters: tuple[str, ...]
    forced: tuple[str, ...]
    rank: int
    fits: tuple[FilterFit, ...]


def run_isolated(
    config: Config,
    make_fitters: Callable[[], Fitters],
    rank: int,
    task: Task,
    galaxy: Galaxy,
    fits: Mapping[str, FilterFit],
) -> TaskOutcome:
    """Do one task in a child process.

    Parameters
    ----------
    config : Config
        The campaign's configuration.
    make_fitters : callable
        A function of a module; the child imports it.
    rank : int
        For the records.
    task : Task
        What to do.
    galaxy : Galaxy
        The galaxy's row.
    fits : mapping of str to FilterFit
        Fits that the task needs, by filter.

    Returns
    -------
    TaskOutcome
        What `TaskRunner.run` returns there.

    Raises
    ------
    ProcessDiedError
        If the child dies while it does the task.
    RuntimeError
        If it could not begin.
    """
    order = IsolatedTask(
        config=config.model_dump_json(by_alias=True),
        kind=task.kind,
        filter=task.filter,
        index=galaxy.index,
        name=galaxy.name,
        path=str(galaxy.path),
        psf=str(galaxy.psf),
        filters=galaxy.filters,
        forced=galaxy.forced,
        rank=rank,
        fits=tuple(fits.values()),
    )
    command = [sys.executable, "-m", "sphot_mpi.isolation", make_fitters.__module__, make_fitters.__name__]
    data = pack(order)
    # a session of its own: what a launcher or terminal sends to all processes of a rank must not look like a crash
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment(), start_new_session=True
    ) as child:
        try:
            answer = _converse(child, _LENGTH.pack(len(data)) + data)
        finally:  # also when a time limit strikes here
            child.kill()
    if answer is None:
        msg = f"a process of its own could not be started for the task (exit status {child.returncode})"
        raise RuntimeError(msg)
    if not answer:
        time.sleep(_SECOND_THOUGHTS)
        status = child.returncode
        end = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        msg = f"its process died again ({end}), alone in a process of its own; it is not tried a third time"
        raise ProcessDiedError(msg)
    return decode(answer)


def _converse(child: subprocess.Popen[bytes], data: bytes) -> bytes | None:
    """Send the order; return the answer, nothing (b"") if the child dies of the task, None if it dies before."""
    if child.stdin is None or child.stdout is None:
        msg = "the child has no pipes"
        raise ValueError(msg)
    with suppress(BrokenPipeError):
        # not closed, so that the child notices should this process die
        child.stdin.write(data)
        child.stdin.flush()
    begun = child.stdout.read(len(_BEGUN))
    head = child.stdout.read(_LENGTH.size)
    if len(head) == _LENGTH.size:
        length: int = _LENGTH.unpack(head)[0]
        answer = child.stdout.read(length)
        if len(answer) == length:
            return answer
    child.wait()
    return b"" if begun == _BEGUN else None


def _environment() -> dict[str, str]:
    """Return an environment without launcher and without MPI: h5py may load mpi4py, which must not begin."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
    return {**kept, "MPI4PY_RC_INITIALIZE": "0", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def main(module: str, function: str) -> None:
    """Be the child: read an order from standard input, do it, answer on standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the answer
    (length,) = _LENGTH.unpack(_read(_LENGTH.size))
    order = unpack(IsolatedTask, _read(length))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    galaxy = Galaxy(
        index=order.index,
        name=order.name,
        path=Path(order.path),
        psf=Path(order.psf),
        filters=order.filters,
        forced=order.forced,
    )
    fitters: Fitters = getattr(import_module(module), function)()
    runner = TaskRunner(Config.model_validate_json(order.config), fitters, order.rank)
    task = Task(kind=order.kind, galaxy=order.index, filter=order.filter)
    out.write(_BEGUN)
    out.flush()
    answer = encode(runner.run(task, galaxy, lambda: {fit.filter: fit for fit in order.fits}))
    out.write(_LENGTH.pack(len(answer)) + answer)
    out.flush()


def _read(length: int) -> bytes:
    data = sys.stdin.buffer.read(length)
    if len(data) < length:
        sys.exit("sphot-mpi: this process is started by another, never by hand")
    return data


def _die_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:3])

"""What the master costs, measured and extrapolated.

``python benchmarks/scale.py master`` starts itself under mpirun and sends tasks that do
nothing through the real master to two workers: seconds a task, and bytes a galaxy.
``python benchmarks/scale.py simulate`` drives the same master and conductor with simulated
workers, for 10 to 100,000 ranks: where one master saturates. Its table is in docs/scale.md.
"""

import argparse
import heapq
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sphot_mpi import mpi
from sphot_mpi.campaign import Limits
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.conductor import Conductor
from sphot_mpi.interrupts import Interrupts
from sphot_mpi.ledger import Ledger
from sphot_mpi.messages import Assignment, Report, Stop
from sphot_mpi.mpi_lead import Master, dismiss
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.outcomes import Status
from sphot_mpi.progress import Quiet
from sphot_mpi.schedule import GalaxyPlan, Schedule, Task, TaskKind

FILTERS = ("F150W", "F090W", "F277W", "F555W", "F814W", "F160W")

#: Seconds on one core, of the ten real galaxies of benchmarks/real.py in preset best: median and scatter (log-normal).
BASE_SECONDS, SCALE_SECONDS, SCATTER = 4.0, 1.5, 0.5
#: Seconds from one rank to another, of a small message on a usual network with the sleeping receiver on top.
LATENCY = 1e-3


class Galaxies:
    """A catalogue of any length that takes no memory: what is measured is the master."""

    def __getitem__(self, index: int) -> Galaxy:
        name = f"galaxy_{index:07d}"
        return Galaxy(
            index=index, name=name, path=Path(f"/data/{name}.h5"), psf=Path("/data/PSFdata.h5"), filters=FILTERS
        )


def make_conductor(n_galaxies: int, workers: int, seed: int = 0) -> Conductor:
    """Return the conductor of a campaign of six filters."""
    rng = np.random.default_rng(seed)
    sizes = rng.lognormal(0.0, SCATTER, n_galaxies)
    plans = (GalaxyPlan(galaxy=k, filters=FILTERS, cost=float(sizes[k])) for k in range(n_galaxies))
    schedule = Schedule(plans, workers)
    return Conductor(Galaxies(), schedule, Ledger(schedule.counts.total), Quiet(), {})


def peak_memory() -> int:
    """Peak memory of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- the real master, with workers that do nothing


def run_ranks(n_tasks: int) -> None:
    """Be one rank of the benchmark; rank 0 prints."""
    world = mpi.connect()
    if world is None:
        sys.exit("start this with mpirun -n 3")
    with world.guarded():
        if world.rank:
            serve_nothing(world)
            return
        n_galaxies = n_tasks // len(FILTERS)
        before = peak_memory()
        conductor = make_conductor(n_galaxies, world.size - 1)
        start, cpu = time.perf_counter(), time.process_time()
        with Interrupts(1.0) as interrupts:
            Master(world, conductor, interrupts, Limits()).run()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        dismiss(world)
        counts = conductor.counts
        if counts.done != counts.total:
            sys.exit(f"{counts.done} of {counts.total} tasks are done")
        grown = (peak_memory() - before) / n_galaxies
        print(
            f"{counts.done} tasks that do nothing, {world.size - 1} workers: {wall:.1f} s, "
            f"{1e3 * wall / counts.done:.3f} ms a task (master: {1e6 * cpu / counts.done:.0f} us of its core); "
            f"peak memory of the master grew by {grown:.0f} bytes a galaxy"
        )


def serve_nothing(world: mpi.World) -> None:
    """Report every assignment as done."""
    while True:
        found = world.receive()
        match found:
            case (_, Assignment() as assignment):
                ref = RecordRef(f"0001-{world.rank:06d}.journal", assignment.galaxy.index * 10_000, 10_000)
                world.send(Report(task=assignment.task, status=Status.DONE, ref=ref, rank=world.rank), 0)
            case (_, Stop()):
                return


def start_ranks(n_tasks: int, ranks: int) -> int:
    """Start this file under mpirun."""
    launcher = shutil.which(os.environ.get("MPIRUN", "mpirun.openmpi")) or shutil.which("mpirun")
    if launcher is None:
        sys.exit("there is no mpirun; make mpi installs it")
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    more = [] if "HYDRA" in version else ["--oversubscribe"]
    command = [launcher, *more, "-n", str(ranks), sys.executable, __file__, "rank", "--tasks", str(n_tasks)]
    return subprocess.run(command, check=False).returncode


# ---- the real master, with simulated workers on a simulated clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds: of the master for a message in and for one out, and of a message on its way."""

    receive: float
    send: float
    latency: float


class SimulatedWorld:
    """Ranks on a simulated clock; each message costs the master time."""

    threads = False

    def __init__(self, size: int, costs: Costs, seconds: "TaskSeconds") -> None:
        self.rank, self.size = 0, size
        self.now = 0.0
        self.busy = 0.0
        self.waited = 0.0
        self._costs = costs
        self._seconds = seconds
        self._free = np.zeros(size)
        self._coming: list[tuple[float, int, int, Report]] = []
        self._sent = 0

    def send(self, message: object, rank: int, *, urgent: bool = False) -> None:
        """Cost the master its time, and let the worker do the task when it is free."""
        self.now += self._costs.send
        if not isinstance(message, Assignment):
            return
        arrival = self.now + self._costs.latency
        begin = max(arrival, self._free[rank])
        seconds = self._seconds(message.task)
        self._free[rank] = begin + seconds
        self.busy += seconds
        self._sent += 1
        report = Report(task=message.task, status=Status.DONE, ref=RecordRef("0001-000001.journal", 0, 1), rank=rank)
        heapq.heappush(self._coming, (self._free[rank] + self._costs.latency, self._sent, rank, report))

    def receive(self, patience: float = float("inf")) -> tuple[int, Report] | None:
        """Return the next report; the clock moves on to it if the master is not late."""
        if not self._coming or self._coming[0][0] > self.now + patience:
            self.waited += patience
            self.now += patience
            return None
        arrival, _, rank, report = heapq.heappop(self._coming)
        self.waited += max(arrival - self.now, 0.0)
        self.now = max(arrival, self.now) + self._costs.receive
        return rank, report


class TaskSeconds:
    """Duration of each task: lg-normal, the same whoever does it."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._draws = np.random.default_rng(1).lognormal(0.0, SCATTER, 1 << 16)

    def __call__(self, task: Task) -> float:
        """Return the seconds that a task takes."""
        place = task.galaxy * len(FILTERS) + FILTERS.index(task.filter)
        median = BASE_SECONDS if task.kind is TaskKind.BASE else SCALE_SECONDS
        return self._factor * median * float(self._draws[place * 40503 % len(self._draws)])


def simulate(ranks: int, n_galaxies: int, factor: float, costs: Costs) -> tuple[float, float, float]:
    """Return wall time, efficiency of the workers and load of the master."""
    world = SimulatedWorld(ranks, costs, TaskSeconds(factor))
    conductor = make_conductor(n_galaxies, ranks - 1)
    Master(world, conductor, Interrupts(1.0), Limits(), clock=lambda: world.now).run()
    if not conductor.finished:
        sys.exit("the simulated campaign did not end")
    return world.now, world.busy / (world.now * (ranks - 1)), 1.0 - world.waited / world.now


def table(costs: Costs, largest: int) -> Iterator[str]:
    """Yield the lines of docs/scale.md."""
    yield "| ranks | galaxies | seconds a fit | wall, s | workers busy | master busy |"
    yield "|---:|---:|---:|---:|---:|---:|"
    sizes = [(10, 1_000), (100, 1_000), (1_000, 10_000), (1_000, 100_000), (10_000, 100_000), (100_000, 300_000)]
    for factor in (1.0, 0.1, 0.01):
        for ranks, n_galaxies in sizes:
            if ranks > largest:
                continue
            wall, efficiency, load = simulate(ranks, n_galaxies, factor, costs)
            mean = factor * (BASE_SECONDS + 5.0 * SCALE_SECONDS) / 6.0
            yield f"| {ranks:,} | {n_galaxies:,} | {mean:.3g} | {wall:.0f} | {efficiency:.1%} | {load:.1%} |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["master", "simulate", "rank"])
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--largest", type=int, default=100_000, help="simulated ranks")
    parser.add_argument("--message", type=float, default=100.0, help="us of the master a task: in, out, plan")
    options = parser.parse_args()
    if options.what == "rank":
        run_ranks(options.tasks)
    elif options.what == "master":
        sys.exit(start_ranks(options.tasks, options.ranks))
    else:
        half = 0.5e-6 * options.message
        for line in table(Costs(receive=half, send=half, latency=LATENCY), options.largest):
            print(line, flush=True)


if __name__ == "__main__":
    main()

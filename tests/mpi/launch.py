"""Start the command line with fits that cost nothing, alone or under mpirun."""

import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import h5py

from sphot_mpi.journal import journal_files
from sphot_mpi.journal_format import Losses, Opened, records

MPIRUN = shutil.which(os.environ.get("MPIRUN", "mpirun.openmpi")) or shutil.which("mpirun") or ""
#: The command line with fits that cost nothing, and with true ones.
FAKE = (str(Path(__file__).with_name("fake_cli.py")),)
TRUE = ("-m", "sphot_mpi")

#: What differs between two runs that bring the same results.
_PASSING = {
    "galaxies": ("host", "rank", "seconds", "attempts"),
    "sersic": ("seconds",),
    "failures": ("attempt",),
}


@cache
def oversubscribe():
    """Open MPI wants to be told that there may be more ranks than cores; MPICH does not know the word."""
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return () if "HYDRA" in version else ("--oversubscribe",)


def command(*arguments, ranks=0, program=FAKE):
    launcher = [MPIRUN, *oversubscribe(), "-n", str(ranks)] if ranks else []
    return [*launcher, sys.executable, *program, *map(str, arguments)]


def environment(**more):
    quiet = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**os.environ, **quiet, **more}


def start(folder, *arguments, ranks=0, program=FAKE, timeout=240, **more):
    """Run the command line to its end; a hang ends as a failure."""
    return subprocess.run(
        command(*arguments, ranks=ranks, program=program),
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Running:
    """The command line at work, in a process group of its own; whatever is left of it is killed at the end."""

    def __init__(self, folder, *arguments, ranks, program=FAKE, **more):
        self._log = (folder / "running.log").open("w+")
        self.process = subprocess.Popen(
            command(*arguments, ranks=ranks, program=program),
            cwd=folder,
            env=environment(**more),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, timeout=120):
        """Return exit status and output."""
        status = self.process.wait(timeout)
        self._log.seek(0)
        return status, self._log.read()

    def kill(self):
        """Kill launcher and ranks at one stroke."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.kill()
        self._log.close()


def pids(folder, start):
    """Process of each rank that has opened its journal in this start."""
    found = {}
    for path in journal_files(folder):
        with path.open("rb") as file:
            first = next(records(file.fileno(), path.name, Losses()), None)
        if first is not None and isinstance(first.head, Opened) and first.head.start == start:
            found[first.head.rank] = first.head.pid
    return found


def everything(path):
    """All datasets but provenance, as bytes; host, rank, times and attempts are no result."""
    content = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and not name.startswith("provenance"):
            values = node[:]
            if values.dtype.names and name in _PASSING:
                values = values[[n for n in values.dtype.names if n not in _PASSING[name]]]
            content[name] = values.tolist() if values.dtype.names else values.tobytes()
            content[f"{name} shape"] = values.shape

    with h5py.File(path) as file:
        file.visititems(visit)
        content["configuration"] = file.attrs["configuration"]
    return {name: repr(value) for name, value in content.items()}


def differences(one, other):
    """Names of the datasets that differ."""
    a, b = everything(one), everything(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))

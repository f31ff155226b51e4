"""A Slurm of three nodes on this machine, for as long as these tests run, and campaigns to submit to it."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from same_results import ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]
TESTBED = ROOT / "slurm" / "testbed"
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "mpirun.openmpi")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def reason_to_skip() -> str:
    """Why there can be no Slurm here; empty: there can."""
    if os.getuid() != 0:
        return "slurmd needs root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"Slurm is not installed: no {', '.join(missing)} (slurm/testbed/setup.sh, as root, with apt)"
    if find_spec("mpi4py") is None:
        return "needs mpi4py (make mpi)"
    return ""


@dataclass(frozen=True)
class Slurm:
    """The test Slurm, as a user on its login node sees it."""

    folder: Path
    environ: dict[str, str]

    def run(self, *command, folder, timeout=240.0, check=False, **environ):
        return subprocess.run(
            list(map(str, command)),
            cwd=folder,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )

    def sbatch(self, *arguments, folder, **environ) -> str:
        done = self.run("sbatch", "--parsable", *arguments, folder=folder, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job."""
        shown = self.run("scontrol", "-o", "show", "job", number, folder=self.folder).stdout
        return dict(word.split("=", 1) for word in shown.split("\n")[0].split() if "=" in word)

    def wait(self, number: str, *, until=ENDED, timeout=240.0) -> dict[str, str]:
        """Wait for a job to end, or for one of some states."""
        end = time.monotonic() + timeout
        while (job := self.job(number)).get("JobState") not in until:
            assert time.monotonic() < end, f"job {number} is still {job.get('JobState')} ({job.get('Reason')})"
            time.sleep(0.5)
        return job

    def daemon(self, name: str) -> int:
        """Process id of a daemon, such as slurmd-n2."""
        return int((self.folder / "run" / f"{name}.pid").read_text())


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    if why := reason_to_skip():
        # `make test-slurm` is asked for these tests, and is no success without them
        (pytest.fail if os.environ.get("SPHOT_TEST_SLURM") else pytest.skip)(why)
    folder = tmp_path_factory.mktemp("slurm")
    binaries = folder / "bin"
    binaries.mkdir()
    write_program(binaries / "sphot-mpi", "-m", "sphot_mpi")
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SPHOT", "PMI", "OMPI"))},
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "MPI4PY_MPIABI": "openmpi",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    # two runs of the tests on one machine do not meet, nor what the kernel gives to connections, from 32768 on
    port = str(16900 + 120 * (os.getpid() % 130))
    started = subprocess.run(
        [TESTBED / "start.sh", folder, "3", "pmix"],
        env={**environ, "SPHOT_TESTBED_PORT": port},
        # to a file: the daemons keep what they inherit open
        stdout=(folder / "start.log").open("w"),
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    try:
        assert started.returncode == 0, (folder / "start.log").read_text()
        yield Slurm(folder, environ)
    finally:
        subprocess.run([TESTBED / "stop.sh", folder], timeout=120, check=False)


def write_program(path: Path, *arguments: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {" ".join(arguments)} "$@"\n')
    path.chmod(0o755)


@pytest.fixture(scope="session")
def campaign(slurm, tmp_path_factory):
    """Two simulated galaxies in two filters, with the truth, and what a run without launcher makes of them."""
    folder = tmp_path_factory.mktemp("campaign")
    slurm.run("sphot-mpi", "simulate", folder, "-n", 2, "--seed", 5, "--kind", "easy", folder=folder, check=True)
    done = slurm.run("sphot-mpi", *ARGUMENTS, "-o", "alone.h5", folder=folder, timeout=290)
    assert done.returncode == 0, done.stderr
    (folder / "slurm").symlink_to(ROOT / "slurm")
    return folder

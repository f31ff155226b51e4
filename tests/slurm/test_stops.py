"""Jobs that are stopped halfway: by their time limit, by a person, by a lost node. The campaign goes on from there."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fakes import write_campaign
from same_results import same_results

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
GALAXIES = tuple(f"g{k:02d}" for k in range(40))
COMMAND = ("catalogue.csv", "--config", "config.toml", "--images", "none", "-o", "results.h5")


@pytest.fixture
def slow(slurm, tmp_path):
    """A campaign of 120 fits of a second each, and a program that notes each of them."""
    write_campaign(tmp_path, GALAXIES)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    program = tmp_path / "bin" / "sphot-mpi"
    program.parent.mkdir()
    # the limits below are short, and nothing is compiled for fits that cost nothing
    program.write_text(
        f'#!/bin/sh\n[ "$1" = warmup ] || exec {sys.executable} {Path(__file__).with_name("slow_cli.py")} "$@"\n'
    )
    program.chmod(0o755)
    return {
        "folder": tmp_path,
        "PATH": f"{program.parent}:{slurm.environ['PATH']}",
        # a process that runs one fit alone imports the fits from there
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'slurm'}",
        "SPHOT_TEST_FITS": str(tmp_path / "fits.txt"),
    }


def notes(folder, word):
    path = folder / "fits.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line.split(" ", 1)[1] for line in lines if line.startswith(word))


def wait_for_fits(folder, number, timeout=120.0):
    end = time.monotonic() + timeout
    while notes(folder, "end").total() < number:
        assert time.monotonic() < end, "no fit has ended"
        time.sleep(0.2)


def assert_complete(slurm, slow):
    """The numbers are those of one run alone."""
    folder = slow["folder"]
    alone = {**slow, "SPHOT_TEST_SECONDS": "0", "SPHOT_TEST_FITS": os.devnull}
    done = slurm.run("sphot-mpi", *COMMAND[:-1], "alone.h5", **alone)
    assert done.returncode == 0, done.stderr
    same_results(folder / "alone.h5", folder / "results.h5")


def test_a_time_limit_drains_and_the_job_goes_on_by_itself(slurm, slow):
    # Slurm looks at the clock every 30 s, and sends the signal early rather than late: 30 to 60 s from the start
    options = ("--nodes=3", "--ntasks-per-node=1", "--time=2", "--signal=USR1@60")
    number = slurm.sbatch(*options, "slurm/resubmit.sbatch", *COMMAND, **slow)
    job = slurm.wait(number, until=("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), timeout=800)
    log = Path(job["StdOut"]).read_text()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert int(job["Restarts"]) >= 1, log
    assert "status 75; back into the queue" in log
    begun, ended = notes(slow["folder"], "begin"), notes(slow["folder"], "end")
    assert len(ended) == 3 * len(GALAXIES)
    assert set(ended.values()) == {1}  # nothing twice
    assert begun == ended  # and nothing thrown away: a fit of a second is waited for
    assert_complete(slurm, slow)


def test_a_cancelled_job_is_taken_up_by_the_next(slurm, slow):
    options = ("--nodes=3", "--ntasks-per-node=1", "--time=10")
    number = slurm.sbatch(*options, "slurm/many-nodes.sbatch", *COMMAND, **slow)
    wait_for_fits(slow["folder"], 10)
    slurm.run("scancel", number, folder=slow["folder"])
    assert slurm.wait(number)["JobState"] == "CANCELLED"
    done = notes(slow["folder"], "end")
    assert 0 < len(done) < 3 * len(GALAXIES)
    number = slurm.sbatch(*options, "slurm/many-nodes.sbatch", *COMMAND, **slow)
    job = slurm.wait(number)
    assert job["ExitCode"] == "0:0", Path(job["StdOut"]).read_text()
    assert set(notes(slow["folder"], "end").values()) == {1}
    assert_complete(slurm, slow)


def processes_on(node):
    """Ranks on one of the nodes, which are all this machine, and the daemons over them."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"SLURMD_NODENAME={node}".encode() in (path / "environ").read_bytes().split(b"\0"):
                yield int(path.name)
                yield int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue


def test_a_lost_node_is_survived(slurm, slow):
    """The node of a worker dies, with all that is on it; Slurm puts the job on the nodes that are left."""
    options = ("--nodes=2", "--ntasks-per-node=1", "--time=10")
    number = slurm.sbatch(*options, "slurm/resubmit.sbatch", *COMMAND, **slow)
    wait_for_fits(slow["folder"], 5)
    nodes = slurm.run("scontrol", "show", "hostnames", slurm.job(number)["NodeList"], folder=slow["folder"])
    lost = nodes.stdout.split()[-1]  # the script and rank 0 are on the first
    ours = os.getpid()
    for process in {slurm.daemon(f"slurmd-{lost}"), *processes_on(lost)} - {0, 1, ours}:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    slurm.run("scontrol", "update", f"nodename={lost}", "state=down", "reason=test", folder=slow["folder"])
    try:
        job = slurm.wait(number, until=("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), timeout=600)
    finally:
        subprocess.run(["slurmd", "-N", lost], env=slurm.environ, check=True, timeout=60)
        slurm.run("scontrol", "update", f"nodename={lost}", "state=resume", folder=slow["folder"])
    log = Path(job["StdOut"]).read_text()
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log
    assert int(job["Restarts"]) >= 1, log
    assert set(notes(slow["folder"], "end").values()) == {1}
    assert_complete(slurm, slow)

"""Every job script of slurm/, submitted with sbatch as it is shipped, ends with the results of a run alone."""

import os
import shutil
import subprocess

import h5py
import pytest
from same_results import ARGUMENTS, close_results, same_results

from sphot_mpi.kernels._jit import CACHE

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

SMALL = ("--time=10", "--ntasks-per-node=1")
KERNELS = {"SPHOT_KERNELS": str(CACHE.folder.parent)} if CACHE.folder else {}


def log_of(job):
    path = job["StdOut"]
    return open(path).read() if os.path.exists(path) else f"no log {path}"  # noqa: PTH123, PTH110


def finished(slurm, number, status=0):
    job = slurm.wait(number, timeout=480)
    assert job["ExitCode"] == f"{status}:0", (job["JobState"], job["ExitCode"], log_of(job))
    return job


def test_one_node(slurm, campaign):
    options = ("--time=10", "--ntasks-per-node=2")
    number = slurm.sbatch(*options, "slurm/one-node.sbatch", *ARGUMENTS, "-o", "one.h5", folder=campaign, **KERNELS)
    job = finished(slurm, number)
    assert "1 nodes, 2 ranks, srun --mpi=pmix" in log_of(job)
    same_results(campaign / "alone.h5", campaign / "one.h5")


def test_many_nodes(slurm, campaign):
    options = ("--nodes=3", *SMALL)
    number = slurm.sbatch(*options, "slurm/many-nodes.sbatch", *ARGUMENTS, "-o", "many.h5", folder=campaign, **KERNELS)
    finished(slurm, number)
    same_results(campaign / "alone.h5", campaign / "many.h5")
    with h5py.File(campaign / "many.h5") as file:
        assert file.attrs["ranks"] == 3


def test_kernels_are_compiled_once_for_all_nodes(slurm, campaign):
    """As shipped, without a cache of ours: one rank compiles, the next job compiles nothing."""
    shutil.rmtree(campaign / ".sphot-kernels", ignore_errors=True)
    words = []
    for _ in range(2):
        arguments = ("slurm/many-nodes.sbatch", *ARGUMENTS, "-o", "cold.h5", "--overwrite")
        job = finished(slurm, slurm.sbatch("--nodes=2", *SMALL, *arguments, folder=campaign))
        words.append(log_of(job))
    assert " 0 compiled" not in words[0]
    assert " 0 compiled" in words[1]


def test_resubmit_that_need_not(slurm, campaign):
    options = ("--nodes=2", *SMALL)
    number = slurm.sbatch(*options, "slurm/resubmit.sbatch", *ARGUMENTS, "-o", "re.h5", folder=campaign, **KERNELS)
    job = finished(slurm, number)
    assert job["Restarts"] == "0"
    same_results(campaign / "alone.h5", campaign / "re.h5")


def test_array_and_merge(slurm, campaign):
    command = ("slurm/submit-array.sh", 2, *ARGUMENTS, "-o", "merged.h5")
    done = slurm.run(*command, folder=campaign, SPHOT_SBATCH=" ".join(("--ntasks-per-node=2", "--time=10")), **KERNELS)
    assert done.returncode == 0, done.stderr
    merge = done.stdout.split("; job ")[1].split()[0]
    finished(slurm, merge)
    same_results(campaign / "alone.h5", campaign / "merged.h5")


def test_a_mistake_is_the_status_of_the_job(slurm, campaign):
    """What the ranks end with gets through srun and the script to Slurm."""
    number = slurm.sbatch("--nodes=2", *SMALL, "slurm/resubmit.sbatch", "missing.csv", folder=campaign, **KERNELS)
    job = finished(slurm, number, status=2)
    assert job["Restarts"] == "0"
    assert "Error: " in log_of(job)


def test_submit_asks_for_the_time_that_the_estimate_names(slurm, campaign):
    command = ("slurm/submit.sh", "--nodes=2", "--ntasks-per-node=1", "--hold", "slurm/many-nodes.sbatch")
    done = slurm.run(*command, *ARGUMENTS, "-o", "held.h5", folder=campaign)
    assert done.returncode == 0, done.stderr
    estimate = done.stdout.split("--time=")[1].split()[0]
    number = done.stdout.split()[-1]
    assert slurm.job(number)["TimeLimit"] == estimate
    slurm.run("scancel", number, folder=campaign)


@pytest.fixture(scope="session")
def image():
    path = os.environ.get("SPHOT_IMAGE", "")
    if not path or shutil.which("apptainer") is None:
        pytest.skip("needs apptainer, and the image's file in SPHOT_IMAGE (make image)")
    return path


@pytest.mark.image
def test_apptainer(slurm, campaign, image):
    options = ("--nodes=2", *SMALL)
    number = slurm.sbatch(*options, "slurm/apptainer.sbatch", image, *ARGUMENTS, "-o", "box.h5", folder=campaign)
    finished(slurm, number)
    types = subprocess.run(["apptainer", "run", image, "launcher"], capture_output=True, text=True, check=True).stdout
    assert f"srun --mpi={types.split()[0]}" in log_of(slurm.job(number))
    close_results(campaign / "alone.h5", campaign / "box.h5")
    with h5py.File(campaign / "box.h5") as file:
        assert file.attrs["ranks"] == 2

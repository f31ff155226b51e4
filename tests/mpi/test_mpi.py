"""Real mpirun: the same numbers for any number of ranks, and an end for every kind of failure."""

import os
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import h5py
import pytest
from fakes import write_campaign

MPIRUN = shutil.which(os.environ.get("MPIRUN", "mpirun.openmpi")) or shutil.which("mpirun") or ""
SCRIPT = Path(__file__).with_name("fake_cli.py")

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIRUN or find_spec("mpi4py") is None, reason="needs mpirun and mpi4py (make mpi)"),
]


@cache
def oversubscribe():
    """Open MPI wants to be told that there may be more ranks than cores; MPICH does not know the word."""
    version = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    return () if "HYDRA" in version else ("--oversubscribe",)


def start(files, *arguments, ranks=0, script=SCRIPT, **environment):
    """Run the command line, under mpirun if `ranks`; a hang ends after 120 s as a failure."""
    launcher = [MPIRUN, *oversubscribe(), "-n", str(ranks)] if ranks else []
    quiet = {"OMP_NUM_THREADS": "1", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(
        [*launcher, sys.executable, str(script), *map(str, arguments)],
        cwd=files.folder,
        env={**os.environ, **quiet, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def everything(path):
    """All datasets but provenance, as bytes; host, rank and times are no result."""
    content = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and not name.startswith("provenance"):
            values = node[:]
            if name == "galaxies":
                values = values[[n for n in values.dtype.names if n not in ("host", "rank", "seconds")]]
            elif name == "sersic":
                values = values[[n for n in values.dtype.names if n != "seconds"]]
            content[name] = values.tolist() if values.dtype.names else values.tobytes()
            content[f"{name} shape"] = values.shape

    with h5py.File(path) as file:
        file.visititems(visit)
        content["configuration"] = file.attrs["configuration"]
    return {name: repr(value) for name, value in content.items()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_file(ranks, tmp_path):
    files = write_campaign(tmp_path, ("ga", "bad", "gc", "gd"))
    serial = start(files, "catalogue.csv", "--config", files.config, "-o", "serial.h5")
    parallel = start(files, "catalogue.csv", "--config", files.config, "-o", "parallel.h5", ranks=ranks)
    assert (serial.returncode, parallel.returncode) == (3, 3), parallel.stderr
    a, b = everything(tmp_path / "serial.h5"), everything(tmp_path / "parallel.h5")
    assert a.keys() == b.keys()
    assert not [name for name in a if a[name] != b[name]]
    assert "images/F150W/residual" in a
    with h5py.File(tmp_path / "parallel.h5") as file:
        assert file.attrs["ranks"] == ranks
        assert set(file["provenance"]["rank"]) == set(range(1, ranks))  # every worker has worked
    assert "3 failed" in parallel.stdout
    assert parallel.stdout.count("galaxies, fits") == 1


def test_more_ranks_than_tasks(tmp_path):
    files = write_campaign(tmp_path, ("ga",))
    done = start(files, "catalogue.csv", "--config", files.config, "--filters", "F150W", "--images", "none", ranks=3)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.partial"))


def test_a_bug_in_a_fit_is_a_failure_with_rank_task_and_traceback(tmp_path):
    files = write_campaign(tmp_path, ("ga", "bug", "gc"))
    done = start(files, "catalogue.csv", "--config", files.config, "--images", "none", ranks=3)
    assert done.returncode == 3, done.stderr
    line = next(line for line in done.stderr.splitlines() if "a bug in the base task" in line)
    assert "/3 ERROR: [base bug F150W] " in line
    assert "ZeroDivisionError: a bug in the fit" in done.stderr
    with h5py.File(tmp_path / "results.h5") as file:
        assert len(file["sersic"]) == 6  # the others went on
        assert b"in fake_base" in file["failures"]["traceback"][0]


def test_a_bug_outside_of_a_task_ends_the_job_with_rank_and_traceback(tmp_path):
    files = write_campaign(tmp_path)
    done = start(files, "catalogue.csv", "--config", files.config, ranks=3, SPHOT_TEST_BREAK="1")
    assert done.returncode == 1
    assert "unexpected error on rank" in done.stderr
    assert "ZeroDivisionError: a bug in a worker" in done.stderr
    assert not (tmp_path / "results.h5").exists()


def test_a_mistake_ends_all_ranks_with_one_sentence(tmp_path):
    files = write_campaign(tmp_path)
    (tmp_path / "results.h5").touch()
    done = start(files, "catalogue.csv", "--config", files.config, ranks=2)
    assert done.returncode == 1  # OutputError
    assert done.stderr.count("Error: ") == 1
    assert "--overwrite" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_is_reported_once(tmp_path):
    files = write_campaign(tmp_path)
    done = start(files, "catalogue.csv", "--wrong", ranks=2)
    assert done.returncode == 2
    assert done.stderr.count("No such option") == 1


@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "PMI_SIZE"])
def test_a_launcher_that_does_not_match_is_refused(variable, tmp_path):
    """As when another MPI's mpirun starts N copies that do not see each other."""
    files = write_campaign(tmp_path)
    done = start(files, "catalogue.csv", "--config", files.config, **{variable: "3"})
    assert done.returncode == 2
    assert f"{variable} announces 3 processes, but MPI" in done.stderr
    assert "finds 1" in done.stderr
    assert not (tmp_path / "results.h5").exists()

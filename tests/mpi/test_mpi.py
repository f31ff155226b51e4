"""Real mpirun: the same numbers for any number of ranks, and an end for every kind of failure."""

from importlib.util import find_spec

import h5py
import pytest
from fakes import write_campaign
from launch import MPIRUN, differences, everything, start

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIRUN or find_spec("mpi4py") is None, reason="needs mpirun and mpi4py (make mpi)"),
]


def test_any_number_of_ranks_and_any_order_give_the_same_file(tmp_path):
    """Fits take random times, so that they are completed in another order each time."""
    files = write_campaign(tmp_path, ("ga", "bad", "gc", "gd"))
    arguments = ("catalogue.csv", "--config", files.config, "--photometry", "-o")
    serial = start(tmp_path, *arguments, "1.h5")
    assert serial.returncode == 3, serial.stderr
    assert "images/F150W/residual" in everything(tmp_path / "1.h5")
    for ranks in (2, 3, 5):
        parallel = start(tmp_path, *arguments, f"{ranks}.h5", ranks=ranks, SPHOT_TEST_SECONDS="0.03")
        assert parallel.returncode == 3, parallel.stderr
        assert differences(tmp_path / "1.h5", tmp_path / f"{ranks}.h5") == []
        assert parallel.stdout.count("4 galaxies, tasks: 12 done, 4 failed") == 1
        with h5py.File(tmp_path / f"{ranks}.h5") as file:
            assert file.attrs["ranks"] == ranks
            assert set(file["provenance"]["rank"]) <= set(range(1, ranks))
            assert len(file["photometry"]) == 9


def test_more_ranks_than_tasks(tmp_path):
    files = write_campaign(tmp_path, ("ga",))
    done = start(tmp_path, "catalogue.csv", "--config", files.config, "--filters", "F150W", "--images", "none", ranks=3)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("*.partial"))


def test_a_bug_in_a_fit_is_a_failure_with_rank_task_and_traceback(tmp_path):
    files = write_campaign(tmp_path, ("ga", "bug", "gc"))
    done = start(tmp_path, "catalogue.csv", "--config", files.config, "--images", "none", ranks=3)
    assert done.returncode == 3, done.stderr
    line = next(line for line in done.stderr.splitlines() if "a bug in the base task" in line)
    assert "/3 ERROR: [base bug F150W] " in line
    assert "ZeroDivisionError: a bug in the fit" in done.stderr
    with h5py.File(tmp_path / "results.h5") as file:
        assert len(file["sersic"]) == 6  # the others went on
        assert b"in fake_base" in file["failures"]["traceback"][0]


def test_a_bug_outside_of_a_task_ends_the_job_with_rank_and_traceback(tmp_path):
    files = write_campaign(tmp_path)
    done = start(tmp_path, "catalogue.csv", "--config", files.config, ranks=3, SPHOT_TEST_BREAK="1")
    assert done.returncode == 1
    assert "unexpected error on rank" in done.stderr
    assert "ZeroDivisionError: a bug in a worker" in done.stderr
    assert not (tmp_path / "results.h5").exists()


def test_a_mistake_ends_all_ranks_with_one_sentence(tmp_path):
    files = write_campaign(tmp_path)
    (tmp_path / "results.h5").touch()
    done = start(tmp_path, "catalogue.csv", "--config", files.config, ranks=2)
    assert done.returncode == 1  # OutputError
    assert done.stderr.count("Error: ") == 1
    assert "--overwrite" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_option_is_reported_once(tmp_path):
    write_campaign(tmp_path)
    done = start(tmp_path, "catalogue.csv", "--wrong", ranks=2)
    assert done.returncode == 2
    assert done.stderr.count("No such option") == 1


@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "PMI_SIZE"])
def test_a_launcher_that_does_not_match_is_refused(variable, tmp_path):
    """As when another MPI's mpirun starts N copies that do not see each other."""
    files = write_campaign(tmp_path)
    done = start(tmp_path, "catalogue.csv", "--config", files.config, **{variable: "3"})
    assert done.returncode == 2
    assert f"{variable} announces 3 processes, but MPI" in done.stderr
    assert "finds 1" in done.stderr
    assert not (tmp_path / "results.h5").exists()

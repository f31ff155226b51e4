"""Real mpirun: whatever happens to a job, it ends, and the same command goes on to the same results."""

import os
import random
import signal
import time
from importlib.util import find_spec

import h5py
import pytest
from fakes import write_campaign
from launch import MPIRUN, TRUE, Running, differences, pids, start

from sphot_mpi.journal import journal_folder
from sphot_mpi.journal_index import scan
from sphot_mpi.simulate import simulate_campaign

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(not MPIRUN or find_spec("mpi4py") is None, reason="needs mpirun and mpi4py (make mpi)"),
]

NAMES = tuple(f"g{k}" for k in range(8))
OPTIONS = ("catalogue.csv", "--config", "config.toml", "--images", "residual", "--photometry")


@pytest.fixture
def files(tmp_path):
    """A campaign with one galaxy that cannot be fitted, and `whole.h5`, what an undisturbed run makes of it."""
    files = write_campaign(tmp_path, ("bad", *NAMES))
    whole = start(tmp_path, *OPTIONS, "-o", "whole.h5")
    assert whole.returncode == 3, whole.stderr
    return files


def wait_for(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "what was waited for has not come"
        time.sleep(0.02)


def kill_again_and_again(folder, options, kills, delay, seed, **more):
    """Start the same command so many times, and kill the job, a worker or the master each time."""
    rng = random.Random(seed)
    journal = journal_folder(folder / "results.h5")
    for number in range(1, kills + 1):
        ranks = rng.choice([2, 3])
        with Running(folder, *options, ranks=ranks, **more) as job:
            wait_for(lambda: len(pids(journal, number)) == ranks)  # noqa: B023
            time.sleep(rng.uniform(0.0, delay))
            assert job.process.poll() is None, (seed, job.wait())  # the last kill must not come too late
            victim = rng.choice(["job", "worker", "master"])
            if victim == "job":
                job.kill()
            else:
                rank = 0 if victim == "master" else rng.randrange(1, ranks)
                os.kill(pids(journal, number)[rank], signal.SIGKILL)
                status, output = job.wait()  # it ends by itself
                assert status not in (0, 3), (seed, output)
    assert not (folder / "results.h5").exists()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_gone_on_with_the_tables_are_the_same(kills, files, tmp_path):
    """SIGKILL for the whole job, one worker or the master, at a moment that no one chooses."""
    seed = random.randrange(10**6)
    kill_again_and_again(tmp_path, OPTIONS, kills, 1.0, seed, SPHOT_TEST_SECONDS="0.3")
    last = start(tmp_path, *OPTIONS, ranks=3)
    assert last.returncode == 3, (seed, last.stderr)
    assert differences(tmp_path / "whole.h5", tmp_path / "results.h5") == [], seed
    assert not journal_folder(tmp_path / "results.h5").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_true_fits_killed_and_gone_on_with_give_the_same_tables(tmp_path):
    """Simulated galaxies, with each fit by the pipelines, at several numbers of ranks."""
    # more work than the kills leave time for, so that none comes too late
    simulate_campaign(tmp_path, 16, 3, "easy")
    (tmp_path / "config.toml").write_text('[prep]\nfilters = ["F150W", "F277W"]\nPSF_file = "PSFdata.h5"\n')
    more = {"program": TRUE}
    whole = start(tmp_path, *OPTIONS, "-o", "whole.h5", timeout=900, **more)
    assert whole.returncode == 0, whole.stderr
    seed = random.randrange(10**6)
    kill_again_and_again(tmp_path, OPTIONS, 4, 1.5, seed, **more)
    last = start(tmp_path, *OPTIONS, ranks=3, timeout=900, **more)
    assert last.returncode == 0, (seed, last.stderr)
    assert differences(tmp_path / "whole.h5", tmp_path / "results.h5") == [], seed


@pytest.mark.parametrize("who", ["all", "worker"])
def test_a_signal_drains_the_job_and_the_same_command_goes_on(who, files, tmp_path):
    folder = journal_folder(tmp_path / "results.h5")
    with Running(tmp_path, *OPTIONS, ranks=3, SPHOT_TEST_SECONDS="0.3") as job:
        wait_for(lambda: len(pids(folder, 1)) == 3 and len(scan(folder)) > 2)
        # mpirun passes the signal on to all ranks; alone, a worker passes it on to the master
        os.kill(job.process.pid if who == "all" else pids(folder, 1)[2], signal.SIGUSR1)
        status, output = job.wait()
    assert status == 75, output
    assert "SIGUSR1: no new task begins" in output
    assert "give the same command to go on" in output
    with h5py.File(tmp_path / "results.h5") as file:
        assert 0 < len(file["provenance"]) < 36
        assert not file.attrs["complete"]
    assert not scan(folder).deaths  # nobody died
    again = start(tmp_path, *OPTIONS, ranks=2)
    assert again.returncode == 3, again.stderr
    assert "tasks are known" in again.stderr
    assert differences(tmp_path / "whole.h5", tmp_path / "results.h5") == []
    assert not folder.exists()


def test_running_fits_are_dropped_when_the_grace_is_over(tmp_path):
    write_campaign(tmp_path, ("sleepy", "gb"))
    folder = journal_folder(tmp_path / "results.h5")
    options = ("catalogue.csv", "--config", "config.toml", "--images", "none", "--grace", "0.5")
    with Running(tmp_path, *options, ranks=3) as job:
        wait_for(lambda: len(pids(folder, 1)) == 3 and len(scan(folder)) == 3)
        os.kill(pids(folder, 1)[0], signal.SIGTERM)  # the master alone
        status, output = job.wait(40)  # a fit of sleepy takes 60 s
    assert status == 75, output
    assert "[base sleepy F150W] dropped" in output
    with h5py.File(tmp_path / "results.h5") as file:
        assert len(file["sersic"]) == 3


def test_a_task_that_kills_its_process_is_found_out_and_not_tried_a_third_time(tmp_path):
    write_campaign(tmp_path, ("ga", "crash", "gc"))
    options = ("catalogue.csv", "--config", "config.toml", "--images", "none")
    first = start(tmp_path, *options, ranks=3)
    assert first.returncode not in (0, 3, 75)
    second = start(tmp_path, *options, ranks=3)
    assert second.returncode == 3, second.stderr
    with h5py.File(tmp_path / "results.h5") as file:
        assert len(file["sersic"]) == 6  # who ran beside it is innocent
        failure = file["failures"][0]
    assert (failure["name"], failure["error"]) == (b"crash", b"ProcessDiedError")
    assert b"signal SIGKILL" in failure["message"]
    assert "Nothing to do" in start(tmp_path, *options).stderr


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [("stop", ("--worker-timeout", "3"), "has been silent for"), ("hang", ("--task-timeout", "3"), "hangs")],
)
def test_a_worker_that_does_not_answer_ends_the_job_with_status_75(name, option, words, tmp_path):
    write_campaign(tmp_path, ("ga", name, "gc"))
    done = start(tmp_path, "catalogue.csv", "--config", "config.toml", "--images", "none", *option, ranks=3)
    assert done.returncode == 75, done.stderr
    assert words in done.stderr
    assert f"base {name} F150W" in done.stderr
    assert "give the same command to go on" in done.stderr
    assert len(scan(journal_folder(tmp_path / "results.h5"))) >= 3  # what was finished is there
    assert not (tmp_path / "results.h5").exists()

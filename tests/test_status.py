"""How far a campaign is: what `sphot-mpi status` says of one that runs, was stopped, was killed, or is finished."""

import json
import os
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from fakes import FILTERS
from small_campaign import step

from sphot_mpi.cli import main
from sphot_mpi.decisions import Rerun, Selection
from sphot_mpi.errors import UsageError
from sphot_mpi.journal import Journal, journal_files, journal_folder
from sphot_mpi.journal_format import Planned
from sphot_mpi.outcomes import TaskKey
from sphot_mpi.schedule import TaskKind
from sphot_mpi.status import PATIENCE, campaign_status

BASE, SCALE, PHOTOMETRY = TaskKind
FAILS = {TaskKey("ga", SCALE, FILTERS[1]): "FitError", TaskKey("gb", BASE, FILTERS[0]): "InputError"}


def dead_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.fixture
def output(files):
    return files.folder / "results.h5"


def test_a_finished_campaign_is_told_from_its_file(files, output):
    step(files, fails=FAILS)
    found = campaign_status(output)
    assert (found.state, found.total, found.ended, found.never) == ("finished", 9, {"done": 5, "failed": 2}, 2)
    assert {(f.error, f.count) for f in found.failures} == {("FitError", 1), ("InputError", 1)}
    assert found.running == ()


def test_a_stopped_campaign_is_told_from_its_journal(files, output):
    step(files, fails=FAILS, most=5, end="drained")
    found = campaign_status(output)
    assert (found.state, found.total) == ("stopped", 9)
    assert sum(found.ended.values()) == 5
    assert (found.ended["failed"], found.never) == (2, 2)
    assert {f.error for f in found.failures} == {"FitError", "InputError"}
    assert "the same command goes on" in found.text()
    step(files, most=1, end="drained")  # tries the failed fit once more, and it succeeds
    found = campaign_status(output)
    assert (found.starts, sum(found.ended.values()), found.never) == (2, 4, 0)


def test_a_killed_campaign_tells_what_it_was_doing(files, output, monkeypatch):
    monkeypatch.setattr("os.getpid", dead_pid)
    step(files, most=2, end="killed", ranks=2)
    found = campaign_status(output)
    assert (found.state, found.ended, found.ranks) == ("dead", {"done": 2}, 2)
    assert [(r.name, r.rank, r.attempt) for r in found.running] == [("ga", 0, 1), ("gb", 1, 1)]
    step(files, most=0, end="killed", ranks=1)
    found = campaign_status(output)
    assert [(r.name, r.attempt) for r in found.running] == [("ga", 2)]
    assert "One task was running more than once when a process died: ga" in found.text()


def test_a_campaign_that_runs(output):
    folder = journal_folder(output)
    with Journal(folder, 0, 1) as master, Journal(folder, 1, 1) as worker:
        master.planned(
            Planned(time=1.0, ranks=2, command_line="sphot-mpi c.csv", catalogue="c.csv", base=4, scale=8, done=3)
        )
        worker.started(TaskKey("g [1]", BASE, "F150W"), 1)
        found = campaign_status(output)
        assert (found.state, found.total, found.ended) == ("running", 12, {"done": 3})
        (running,) = found.running
        assert (running.name, running.rank, running.seconds < 60.0) == ("g [1]", 1, True)
        assert "base g [1] F150W (rank 1" in found.text()
        data = bytearray(worker.path.read_bytes())
        data[50] ^= 1  # its first record, which tells of the process
        worker.path.write_bytes(data)
        found = campaign_status(output)
        assert (found.state, found.running[0].host, found.running[0].rank) == ("running", "unknown", 1)


def test_without_a_sign_of_life_a_campaign_counts_as_dead(output, monkeypatch):
    folder = journal_folder(output)
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    with Journal(folder, 0, 1) as journal:
        monkeypatch.undo()
        seen = journal.path.stat().st_mtime
        assert campaign_status(output, seen + PATIENCE - 1.0).state == "running"
        assert campaign_status(output, seen + PATIENCE + 1.0).state == "dead"


def test_rank_0_shows_that_it_lives(output, monkeypatch):
    monkeypatch.setattr("sphot_mpi.journal.BEAT", 0.02)
    with Journal(journal_folder(output), 0, 1) as first, Journal(journal_folder(output), 1, 1) as second:
        for journal in (first, second):
            os.utime(journal.path, (1.0, 1.0))
        deadline = time.monotonic() + 30.0
        while first.path.stat().st_mtime < 2.0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first.path.stat().st_mtime > 2.0
        assert second.path.stat().st_mtime == 1.0
    os.utime(first.path, (1.0, 1.0))
    time.sleep(0.1)
    assert first.path.stat().st_mtime == 1.0  # a closed journal is silent


def test_a_rerun_counts_only_what_it_has_done(files, output):
    step(files)
    step(files, Selection(rerun=Rerun.ALL), most=4, end="drained")
    found = campaign_status(output)
    assert (found.total, found.ended) == (9, {"done": 4})
    step(files, Selection(rerun=Rerun.ALL), most=0, end="drained")
    assert campaign_status(output).ended == {"done": 4}


def test_all_tasks_ended_but_no_file_yet(files, output):
    step(files, write=False)
    assert campaign_status(output).state == "writing"


def test_a_torn_tail_and_damage_do_not_stop_the_report(files, output):
    step(files, most=4, end="killed", ranks=1)
    (path,) = journal_files(journal_folder(output))
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-10])
    assert campaign_status(output).ended == {"done": 4}
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert sum(campaign_status(output).ended.values()) >= 3


def test_nothing_there_is_a_mistake(output):
    with pytest.raises(UsageError, match="no journal results.h5.journal"):
        campaign_status(output)


def test_the_command(files, output):
    step(files, fails=FAILS, most=5, end="drained")
    done = CliRunner().invoke(main, ["status", str(output)])
    assert done.exit_code == 0
    first = dict(word.split("=") for word in done.output.splitlines()[0].split()[1:])
    assert (first["state"], first["total"], first["ended"], first["failed"], first["never"]) == (
        "stopped", "9", "5", "2", "2",
    )  # fmt: skip
    assert "1  FitError, as of ga F555W: it failed" in done.output
    values = json.loads(CliRunner().invoke(main, ["status", str(output), "--json"]).output)
    assert (values["state"], values["ended"]["failed"], values["left"]) == ("stopped", 2, None)
    missing = CliRunner().invoke(main, ["status", str(files.folder / "x.h5")])
    assert missing.exit_code == 2
    assert missing.output.startswith("Error: ")

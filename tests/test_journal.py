"""The journal: what was written is found again, whatever happens to the end, or the midst, of a file."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from random_outcomes import difference, random_outcome

from sphot_mpi import journal_format
from sphot_mpi.errors import JournalError
from sphot_mpi.journal import (
    Journal,
    journal_files,
    journal_folder,
    next_start,
    read_ended,
    remove_journal,
)
from sphot_mpi.journal_format import Closed, Ended, Losses, Opened, Planned, Started
from sphot_mpi.journal_index import heads, scan
from sphot_mpi.outcome_index import Found, OutcomeIndex, RecordRef
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.schedule import TaskKind
from sphot_mpi.storable import storable

DIGEST = "0123456789abcdef" * 3


def key(k, name=None):
    return TaskKey(name or f"g{k}", TaskKind.BASE, "F150W")


def outcome(k, status=Status.DONE):
    return storable(random_outcome(np.random.default_rng(k), TaskKind.BASE, status, index=k, galaxy=f"g{k}"))


def write(folder, numbers, start=1, rank=0, reason="", digest=DIGEST, status=Status.DONE):
    refs = []
    with Journal(folder, rank, start, sync=False) as journal:
        for k in numbers:
            journal.started(key(k), 1)
            refs.append(journal.append(f"g{k}", outcome(k, status), digest))
        journal.close(reason)
    return refs


def test_what_was_written_is_found_and_read_back(tmp_path):
    folder = journal_folder(tmp_path / "results.h5")
    assert folder.name == "results.h5.journal"
    with Journal(folder, 3, 1) as journal:
        journal.planned(Planned(time=1.0, ranks=4, command_line="x", catalogue="c.csv", base=1, scale=0))
        journal.started(key(0), 2)
        ref = journal.append("g0", outcome(0), DIGEST)
        journal.close("finished")
    index = scan(folder)
    assert index.find(key(0)) == Found(ref, DIGEST, Status.DONE, 1, 2, final=False)
    assert index.find(key(1)) is None
    assert (len(index), index.deaths, index.losses) == (1, {}, Losses())
    assert index.plans[0][1].catalogue == "c.csv"
    head, back = read_ended(folder, ref)
    assert difference(back, outcome(0)) == ""
    assert (head.attempt, head.flags) == (2, int(back.fit.flags))
    kinds = [type(framed.head) for _, framed in heads(folder, Losses())]
    assert kinds == [Opened, Planned, Started, Ended, Closed]


def test_an_outcome_is_on_the_disk_before_append_returns(tmp_path):
    """A process that is killed right after `append` has lost nothing, and what it had begun is known."""
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_journal import Journal, key, outcome, DIGEST
        journal = Journal(Path({str(tmp_path / "j")!r}), 0, 1)
        journal.started(key(0), 1)
        journal.append("g0", outcome(0), DIGEST)
        journal.started(key(1), 1)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    index = scan(tmp_path / "j")
    assert difference(read_ended(tmp_path / "j", index.find(key(0)).ref)[1], outcome(0)) == ""
    assert dict(index.deaths) == {key(1): 1}


def test_a_tail_torn_at_any_byte_loses_only_the_last_record(tmp_path):
    folder = tmp_path / "j"
    refs = write(folder, range(3), status=Status.MISSING)  # small: 700 lengths
    path = journal_files(folder)[0]
    whole = path.read_bytes()
    assert refs[-1].offset + refs[-1].length == len(whole)
    for length in range(refs[-1].offset, len(whole)):
        path.write_bytes(whole[:length])
        index = scan(folder)
        assert index.find(key(1)).ref == refs[1]
        assert index.find(key(2)) is None
        assert index.deaths[key(2)] == 1  # it had been begun
        torn = [] if length == refs[-1].offset else [(path.name, refs[-1].offset, length - refs[-1].offset)]
        assert (index.losses.torn, index.losses.damaged) == (torn, [])
        assert next_start(folder) == 2


def test_a_flipped_byte_loses_only_the_record_it_hits(tmp_path):
    """The body's checksum is looked at by `read_ended`, and by a scan that verifies; the head's by every scan."""
    folder = tmp_path / "j"
    refs = write(folder, range(3))
    path = journal_files(folder)[0]
    whole = path.read_bytes()
    hit = refs[1]
    rng = np.random.default_rng(1)
    for offset in sorted(
        {*range(hit.offset, hit.offset + 40), *rng.integers(hit.offset, hit.offset + hit.length, 150)}
    ):
        broken = bytearray(whole)
        broken[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with pytest.raises(JournalError, match=path.name):
            read_ended(folder, hit)
        index = scan(folder, verify=True)
        assert [index.find(key(k)) is not None for k in range(3)] == [True, False, True]
        assert sum(length for _, _, length in index.losses.damaged) == hit.length
        for k in (0, 2):
            assert difference(read_ended(folder, index.find(key(k)).ref)[1], outcome(k)) == ""


def test_many_damaged_bytes_never_yield_a_wrong_outcome(tmp_path):
    folder = tmp_path / "j"
    write(folder, range(6))
    path = journal_files(folder)[0]
    whole = path.read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(40):
        broken = bytearray(whole)
        begin = int(rng.integers(len(whole)))
        size = int(rng.integers(1, 6000))
        broken[begin : begin + size] = bytes(len(broken[begin : begin + size])) if rng.random() < 0.5 else b""
        path.write_bytes(broken)
        index = scan(folder, verify=True)
        assert len(index) < 7
        for k in range(6):
            found = index.find(key(k))
            assert found is None or difference(read_ended(folder, found.ref)[1], outcome(k)) == ""


def test_an_outcome_that_looks_like_a_record_is_none(tmp_path):
    """A record inside a traceback, as after a failure in this very module, must not be found as one."""
    folder = tmp_path / "j"
    inner = journal_format.frame(Started(name="ghost", kind=TaskKind.BASE, filter="", attempt=1, time=0.0))
    with Journal(folder, 0, 1, sync=False) as journal:
        journal._write(Ended(name="g0", kind=TaskKind.BASE, filter="F150W", digest=DIGEST, status=Status.DONE), inner)
        journal.append("g1", outcome(1), DIGEST)
    index = scan(folder)
    assert (len(index), dict(index.deaths)) == (2, {})


def test_the_last_end_counts_and_starts_without_an_end_are_counted(tmp_path):
    folder = tmp_path / "j"
    for start in (1, 2):  # two processes die in task 0
        with Journal(folder, 0, start, sync=False) as journal:
            journal.started(key(0), start)
    with Journal(folder, 1, 2, sync=False) as journal:  # this one leaves in order, with task 1 dropped
        journal.started(key(1), 1)
        journal.close("drained")
    assert dict(scan(folder).deaths) == {key(0): 2}
    with Journal(folder, 0, 3, sync=False) as journal:
        journal.started(key(0), 3)
        journal.append("g0", outcome(0, Status.FAILED), DIGEST)
        journal.started(key(0), 4)
        ref = journal.append("g0", outcome(0), DIGEST[::-1])
    index = scan(folder)
    assert index.find(key(0)) == Found(ref, DIGEST[::-1], Status.DONE, 3, 4, final=False)
    assert dict(index.deaths) == {}


def test_files_go_by_start_and_rank_as_numbers(tmp_path):
    folder = tmp_path / "j"
    for start, rank in ((2, 0), (1, 1_000_000), (10_000, 0), (1, 2), (9_999, 0)):
        write(folder, [0], start, rank)
    assert [p.name for p in journal_files(folder)] == [
        "0001-000002.journal",
        "0001-1000000.journal",
        "0002-000000.journal",
        "9999-000000.journal",
        "10000-000000.journal",
    ]
    assert next_start(folder) == 10_001


def test_two_runs_on_one_output_are_refused(tmp_path):
    with Journal(tmp_path, 0, 1), pytest.raises(JournalError, match="another run writes"):
        Journal(tmp_path, 0, 1)


def test_a_folder_that_cannot_be_written_is_our_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", 0, 1)


def test_a_full_disk_leaves_what_stood_there(tmp_path, monkeypatch):
    folder = tmp_path / "j"
    with Journal(folder, 0, 1, sync=False) as journal:
        first = journal.append("g0", outcome(0), DIGEST)
        real = os.write
        with monkeypatch.context() as patch:

            def half(descriptor, data, left=[1]):  # noqa: B006
                if not left:
                    raise OSError(28, "No space left on device")
                left.pop()
                return real(descriptor, bytes(data)[: len(data) // 2])

            patch.setattr(os, "write", half)
            with pytest.raises(JournalError, match="No space left"):
                journal.append("g1", outcome(1), DIGEST)
        third = journal.append("g2", outcome(2), DIGEST)
    assert third.offset == first.offset + first.length
    index = scan(folder)
    assert [index.find(key(k)) is not None for k in range(3)] == [True, False, True]
    assert index.losses == Losses()


def test_refs_that_lead_elsewhere_are_refused(tmp_path):
    write(tmp_path / "j", [0])
    for ref in (
        RecordRef("../x", 0, 10),
        RecordRef("0001-000000.journal", 0, 10),
        RecordRef("0009-000000.journal", 0, 9),
    ):
        with pytest.raises(JournalError):
            read_ended(tmp_path / "j", ref)
    opened = next(iter(heads(tmp_path / "j", Losses())))[1]
    with pytest.raises(JournalError, match="no outcome stands here"):
        read_ended(tmp_path / "j", RecordRef("0001-000000.journal", opened.offset, opened.length))


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    folder = tmp_path / "j"
    write(folder, [0])
    (folder / "notes.txt").write_text("mine")
    assert len(scan(folder)) == 1
    remove_journal(folder)
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    remove_journal(folder)
    assert not folder.exists()
    remove_journal(folder)
    assert len(scan(folder)) == 0


def test_a_file_that_grows_is_read_as_far_as_it_is_whole(tmp_path):
    folder = tmp_path / "j"
    with Journal(folder, 0, 1, sync=False) as journal:
        for k in range(3):
            journal.started(key(k), 1)
            journal.append(f"g{k}", outcome(k), DIGEST)
            assert len(scan(folder)) == k + 1


def test_a_scan_reads_heads_and_not_bodies(tmp_path, monkeypatch):
    """60,000 outcomes of 50 kB must not cost 3 GB: the bytes read per record do not grow with the body."""
    folder = tmp_path / "j"
    big = storable(random_outcome(np.random.default_rng(0), TaskKind.BASE, Status.DONE))
    with Journal(folder, 0, 1, sync=False) as journal:
        body = b"x" * 60_000
        for k in range(200):
            journal._write(Ended(name=f"g{k}", kind=TaskKind.BASE, filter="F", digest=DIGEST, status=Status.DONE), body)
        for k in range(1000):
            journal.started(key(k), 1)
        journal.append("g0", big, DIGEST)
    reads = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *a: reads.append(len(data := real(*a))) or data)
    assert len(scan(folder)) == 201
    assert len(reads) < 200 + 1000 // 10 + 10  # one a large record; small ones share
    assert sum(reads) < 1.6e6


def test_an_index_takes_little_memory():
    """Under 1 kB a galaxy of six filters with photometry, names included: 7 entries of 64 bytes and a name."""
    import tracemalloc

    tracemalloc.start()
    index = OutcomeIndex()
    for galaxy in range(2000):
        for k in range(7):
            task = TaskKey(f"galaxy-{galaxy:06d}", TaskKind.SCALE, f"F{k}")
            index.add(task, Found(RecordRef("0001-000001.journal", k, 9), DIGEST, Status.DONE, 1, 1, final=False))
    index.settle()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / 2000 < 1000
    assert len(index) == 14000
    assert index.find(TaskKey("galaxy-001999", TaskKind.SCALE, "F6")).ref.offset == 6
    assert set(index.keys()) >= {TaskKey("galaxy-000000", TaskKind.SCALE, "F0")}

"""Progress: a line that a script can parse, not more often than asked for, and a bar on a terminal."""

import io
import re

from rich.console import Console

from sphot_mpi.progress import Bar, Lines, Quiet, choose_progress
from sphot_mpi.schedule import Counts


def counts(done, failed=0, dropped=0, running=1):
    ended = done + failed + dropped
    return Counts(total=10, waiting=10 - ended - running, running=running, done=done, failed=failed, dropped=dropped)


def test_lines_are_key_value_pairs():
    stream = io.StringIO()
    Lines(stream, interval=0.0).update(counts(4, 1, 2))
    line = stream.getvalue()
    assert line.startswith("progress ")
    pairs = dict(re.findall(r"(\w+)=(\S+)", line))
    assert {key: int(pairs[key]) for key in ("done", "failed", "dropped", "running", "waiting", "total")} == {
        "done": 4, "failed": 1, "dropped": 2, "running": 1, "waiting": 2, "total": 10,
    }  # fmt: skip
    assert line.count("\n") == 1


def test_lines_keep_their_interval_but_tell_the_end():
    stream = io.StringIO()
    lines = Lines(stream, interval=3600.0)
    for done in range(1, 10):
        lines.update(counts(done))
    assert stream.getvalue() == ""
    lines.update(counts(9, 1, running=0))
    assert stream.getvalue().count("\n") == 1


def test_the_bar_shows_counts_and_failures():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bar(console) as bar:
        bar.update(counts(4, 1, 2))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "7/10" in text
    assert "3 failed" in text


def test_the_reporter_suits_the_output():
    terminal, file = Console(file=io.StringIO(), force_terminal=True), Console(file=io.StringIO())
    assert isinstance(choose_progress(terminal, quiet=False), Bar)
    assert isinstance(choose_progress(file, quiet=False), Lines)
    assert type(choose_progress(terminal, quiet=True)) is Quiet

"""Going on with a campaign: what is known stays, what is missing, failed or changed runs, and nothing else."""

import os
from collections import Counter

import numpy as np
import pytest
from fakes import FILTERS, write_campaign
from random_outcomes import difference
from small_campaign import step, table_bytes

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import load_config
from sphot_mpi.decisions import Anew, Reason, Rerun, Selection
from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.journal import journal_files, journal_folder
from sphot_mpi.known import known_outcomes
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.outcomes import TaskKey
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.schedule import Task, TaskKind

BASE, SCALE, PHOTOMETRY = TaskKind
NAMES = ("ga", "gb", "gc")


def keys(names=NAMES, filters=FILTERS, photometry=False):
    fits = {TaskKey(n, SCALE if FILTERS.index(f) else BASE, f) for n in names for f in filters}
    return fits | ({TaskKey(n, PHOTOMETRY, "") for n in names} if photometry else set())


def names_in(files):
    with ResultsReader(files.folder / "results.h5") as reader:
        return {(n, tuple(reader.filters(n))) for n in reader.names()}


def test_a_new_campaign_runs_everything_and_then_nothing_is_left(files):
    first = step(files)
    assert set(first.ran) == keys()
    assert first.work.reasons == {Reason.NEW: 9}
    assert not journal_folder(files.folder / "results.h5").exists()
    again = known_outcomes(files.folder / "results.h5")
    assert again.complete
    assert step(files, most=0).work.n_run == 0


@pytest.mark.parametrize("end", ["killed", "drained"])
def test_a_campaign_that_was_stopped_anywhere_goes_on_and_ends_the_same(files, tmp_path, end):
    (tmp_path / "whole").mkdir()
    whole = write_campaign(tmp_path / "whole")
    step(whole)
    expected = table_bytes(whole.folder / "results.h5")
    ran = []
    for most in (0, 1, 2, 1, 3, 0, 1, 0):
        ran += step(files, most=most, end=end, ranks=1 + most, write=most == 1).ran
    last = step(files)
    ran += last.ran
    assert Counter(ran) == Counter(keys())  # each once
    assert table_bytes(files.folder / "results.h5") == expected
    # the last task was begun in three starts, and killed in each
    assert sum(last.work.deaths.values()) == (0 if end == "drained" else 3)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_was_asked_for_and_killed_before_the_end_is_the_same(files, tmp_path, seed):
    """A random walk through selections, reruns, kills and failures, and then the plain command."""
    (tmp_path / "whole").mkdir()
    whole = write_campaign(tmp_path / "whole")
    step(whole, Selection(photometry=True))
    rng = np.random.default_rng(seed)
    for _ in range(7):
        selection = Selection(
            filters=tuple(f for f in FILTERS if rng.random() < 0.3),
            only=tuple(n for n in NAMES if rng.random() < 0.3),
            rerun=list(Rerun)[rng.integers(6)],
            anew=Anew.OVERWRITE if rng.random() < 0.15 else Anew.NO,
            photometry=[None, True, False][rng.integers(3)],
        )
        fails = {key: "FitError" for key in sorted(keys(photometry=True)) if rng.random() < 0.1}
        most, end = int(rng.integers(0, 9)), ["killed", "drained"][rng.integers(2)]
        step(files, selection, most=most, end=end, fails=fails, ranks=int(rng.integers(1, 4)), write=rng.random() < 0.3)
    step(files, Selection(photometry=True))
    last = step(files, Selection(photometry=True, rerun=Rerun.FAILED))  # if it was finished in between
    assert last.finished
    assert table_bytes(files.folder / "results.h5") == table_bytes(whole.folder / "results.h5")


def test_resume_against_the_file_equals_resume_against_the_journal(files, tmp_path):
    """Whatever changes: the same tasks run for the same reasons, from the same outcomes."""
    other = tmp_path / "other"
    other.mkdir()
    twin = write_campaign(other)
    photometry = Selection(photometry=True)
    step(files, photometry)
    step(twin, photometry, write=False)
    assert (files.folder / "results.h5").exists()
    assert not (other / "results.h5").exists()
    config = load_config(files.config)
    changes = [
        (Selection(), config),
        (Selection(), config.replaced({"core": {"scale_positions": {FILTERS[1]: "free"}}})),
        (Selection(), config.replaced({"seed": 3})),
        (Selection(), config.replaced({"aperture": {"petro": 0.3}})),
        (Selection(rerun=Rerun.SCALE, filters=(FILTERS[2],)), config),
        (Selection(rerun=Rerun.BASE, only=("gb",)), config),
    ]
    for selection, changed in changes:
        a, b = (step(f, selection, most=0, config=changed, write=False) for f in (files, twin))
        assert a.work.reasons == b.work.reasons
        assert a.work.n_kept == b.work.n_kept
        assert [a.work.plan(g).known for g in a.work.catalogue.galaxies] == [
            b.work.plan(g).known for g in b.work.catalogue.galaxies
        ]
    loaded = []
    for f in (files, twin):
        known = known_outcomes(f.folder / "results.h5")
        with OutcomeStore(journal_folder(f.folder / "results.h5"), f.folder / "results.h5") as store:
            kept = {key: store.load(known.index.find(key).ref) for key in keys(photometry=True)}
        loaded.append(kept)
    for key in keys(photometry=True):
        assert difference(loaded[0][key].outcome, loaded[1][key].outcome) == ""
        assert loaded[0][key].digest[:16] == loaded[1][key].digest[:16]
        assert loaded[0][key].digest[32:] == loaded[1][key].digest[32:]


def test_what_changed_runs_again_with_what_hangs_on_it(files):
    step(files, Selection(photometry=True))
    config = load_config(files.config).replaced({"core": {"scale_positions": {FILTERS[1]: "free"}}})
    second = step(files, config=config)
    assert set(second.ran) == keys(filters=(FILTERS[1],), photometry=True)
    assert second.work.reasons == {Reason.SETTINGS: 3, Reason.FITS: 3}
    third = step(files, config=config.replaced({"aperture": {"petro": 0.3}}))
    assert set(third.ran) == keys(filters=(), photometry=True)
    assert "3 because of another configuration" in third.work.summary()
    os.utime(files.galaxy("gb"), (5, 5))  # touched only
    config = config.replaced({"aperture": {"petro": 0.3}})
    assert step(files, config=config, most=0, write=False).work.n_run == 0
    files.galaxy("gb").write_bytes(files.galaxy("ga").read_bytes())
    fourth = step(files, config=config)
    assert set(fourth.ran) == keys(("gb",), photometry=True)
    # the base fit, the scale fits and photometry follow
    assert fourth.work.reasons == {Reason.FILES: 1, Reason.BASE: 2, Reason.FITS: 1}


def test_rows_are_added_and_moved(files):
    step(files)
    rows = files.catalogue.read_text().splitlines()
    files.galaxy("new").write_bytes(files.galaxy("ga").read_bytes())
    files.catalogue.write_text("\n".join([rows[0], "new,new.h5,9", *rows[:0:-1]]) + "\n")
    second = step(files)
    assert set(second.ran) == keys(("new",))
    with ResultsReader(files.folder / "results.h5") as reader:
        assert reader.names() == ["new", "gc", "gb", "ga"]
        assert [n.decode() for n in reader.array("sersic")["name"][::3]] == ["new", "gc", "gb", "ga"]


def test_a_catalogue_without_galaxies_of_the_file_is_refused(files):
    step(files)
    files.catalogue.write_text("name,path\nga,ga.h5\n")
    with pytest.raises(OutputError, match=r"2 galaxies that .*catalogue.csv has not \(gb, gc\)"):
        step(files)
    assert step(files, Selection(anew=Anew.OVERWRITE)).finished
    assert names_in(files) == {("ga", FILTERS)}


def test_a_selection_restricts_what_runs_and_never_what_stays(files):
    first = step(files, Selection(only=("gb",), filters=(FILTERS[2],)))
    assert set(first.ran) == keys(("gb",), (FILTERS[0], FILTERS[2]))
    assert names_in(files) == {("gb", (FILTERS[0], FILTERS[2]))}
    second = step(files, Selection(limit=1))
    assert set(second.ran) == keys(("ga",))
    assert names_in(files) == {("gb", (FILTERS[0], FILTERS[2])), ("ga", FILTERS)}
    third = step(files, Selection(filters=(FILTERS[1],)))
    assert set(third.ran) == keys(("gb",), (FILTERS[1],)) | keys(("gc",), FILTERS[:2])
    assert set(step(files).ran) == keys(("gc",), (FILTERS[2],))
    assert names_in(files) == {(n, FILTERS) for n in NAMES}


def test_what_is_not_selected_stays_although_it_is_stale(files):
    step(files)
    config = load_config(files.config).replaced({"seed": 8})
    second = step(files, Selection(only=("ga",)), config=config)
    assert set(second.ran) == keys(("ga",))
    assert second.work.n_stale == 6
    assert "6 of the known were made from other settings" in second.work.summary()
    assert names_in(files) == {(n, FILTERS) for n in NAMES}
    assert set(step(files, config=config).ran) == keys(("gb", "gc"))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(rerun=Rerun.ALL), keys(photometry=True)),
        (Selection(rerun=Rerun.BASE, only=("ga",)), keys(("ga",), photometry=True)),
        (Selection(rerun=Rerun.SCALE), keys(filters=FILTERS[1:], photometry=True)),
        (Selection(rerun=Rerun.SCALE, filters=(FILTERS[1],)), keys(filters=(FILTERS[1],), photometry=True)),
        (Selection(rerun=Rerun.ALL, filters=(FILTERS[1],)), keys(filters=(FILTERS[1],), photometry=True)),
        (Selection(rerun=Rerun.PHOTOMETRY, limit=2), keys(NAMES[:2], (), photometry=True)),
        (Selection(rerun=Rerun.FAILED), set()),
    ],
)
def test_rerun(files, selection, expected):
    step(files, Selection(photometry=True))
    assert set(step(files, selection).ran) == expected


def test_a_rerun_that_was_killed_goes_on_with_the_same_command(files):
    step(files)
    selection = Selection(rerun=Rerun.ALL)
    first = step(files, selection, most=4, end="killed")
    second = step(files, selection, most=2, end="drained", write=True)
    third = step(files, selection)
    assert Counter(first.ran + second.ran + third.ran) == Counter(keys())
    assert len(step(files, selection, most=1, end="killed").ran) == 1  # finished: the command now begins once more
    # another command in between: scale fits that are older than their base fit are not mixed with it
    other = step(files)
    assert {(k.name, k.kind) for k in other.ran} == {("ga", SCALE)}
    assert other.work.reasons == {Reason.BASE: 2}


def test_failures_are_tried_again_in_an_unfinished_campaign_and_on_demand_in_a_finished_one(files):
    scale = TaskKey("ga", SCALE, FILTERS[1])
    base = TaskKey("gb", BASE, FILTERS[0])
    fails = {scale: "FitError", base: "FitError"}
    first = step(files, fails=fails, most=6, end="drained")
    assert {scale, base} <= set(first.ran)
    second = step(files, fails=fails)
    assert {scale, base} <= set(second.ran)
    assert second.work.attempt(Task(kind=SCALE, galaxy=0, filter=FILTERS[1])) == 2
    assert step(files, most=0, write=False).work.n_run == 0
    again = step(files, Selection(rerun=Rerun.FAILED), most=0, write=False)
    # the scale fits of gb had never started
    assert again.work.reasons == {Reason.RERUN: 2, Reason.NEW: 2}
    last = step(files, Selection(rerun=Rerun.FAILED))
    assert set(last.ran) == {scale, *keys(("gb",))}
    assert names_in(files) == {(n, FILTERS) for n in NAMES}


def test_tasks_that_could_not_start_stay_in_the_file_whatever_is_selected(files):
    base = TaskKey("gb", BASE, FILTERS[0])
    photometry = Selection(photometry=True)
    step(files, photometry, fails={base: "FitError"})
    before = table_bytes(files.folder / "results.h5")
    second = step(files, Selection(rerun=Rerun.SCALE, only=("ga",), filters=(FILTERS[1],)))
    assert set(second.ran) == keys(("ga",), (FILTERS[1],), photometry=True)
    assert second.work.n_never == 3
    assert table_bytes(files.folder / "results.h5") == before
    with ResultsReader(files.folder / "results.h5") as reader:
        assert [f.decode() for f in reader.array("failures")["filter"]] == [*FILTERS, ""]


def test_a_task_that_killed_its_process_twice_is_not_tried_again_but_on_demand(files):
    scale = TaskKey("ga", SCALE, FILTERS[1])
    step(files, fails={scale: "ProcessDiedError"}, most=5, end="drained")
    assert scale not in step(files, most=2, end="drained").ran
    assert scale in step(files, Selection(rerun=Rerun.FAILED), most=2, end="drained").ran


def test_deaths_make_suspects(files):
    first = step(files, most=0, end="killed", ranks=2)
    second = step(files, most=0, end="killed", ranks=1)
    task = Task(kind=BASE, galaxy=0, filter=FILTERS[0])
    assert (first.work.deaths, second.work.deaths[task], len(second.work.deaths)) == ({}, 1, 2)
    assert second.work.attempt(task) == 2
    third = step(files, most=1)
    assert third.work.deaths[task] == 2
    assert task not in step(files, most=0).work.deaths


def test_overwrite_begins_anew_once_and_restart_always(files):
    step(files)
    overwrite = Selection(anew=Anew.OVERWRITE)
    first = step(files, overwrite, most=4, end="killed")
    second = step(files, overwrite, most=2, end="killed")
    third = step(files)  # without the option: what was there before does not come back
    assert Counter(first.ran + second.ran + third.ran) == Counter(keys())
    restart = Selection(anew=Anew.RESTART)
    assert len(step(files, restart, most=7, end="killed").ran) == 7
    assert set(step(files, restart).ran) == keys()


def test_photometry_is_kept_as_it_was_unless_it_is_asked_for_or_off(files):
    assert not any(step(files).work.photometry)
    assert set(step(files, Selection(photometry=True)).ran) == keys(filters=(), photometry=True)
    assert step(files, most=0).work.n_run == 0
    off = Selection(photometry=False)
    assert bytes(step(files, off, most=0).work.photometry) == b"\1\1\1"
    # a galaxy that is fitted again loses what cannot be measured again
    again = step(files, Selection(photometry=False, rerun=Rerun.BASE, only=("gb",)))
    assert set(again.ran) == keys(("gb",))
    assert bytes(again.work.photometry) == b"\1\0\1"


def test_a_damaged_base_fit_runs_again_with_its_scale_fits(files):
    step(files, most=6, end="drained")
    output = files.folder / "results.h5"
    found = known_outcomes(output).index.find(TaskKey("ga", BASE, FILTERS[0]))
    path = next(p for p in journal_files(journal_folder(output)) if p.name == found.ref.file)
    data = bytearray(path.read_bytes())
    data[found.ref.offset + found.ref.length - 3] ^= 4
    path.write_bytes(data)
    again = step(files)
    assert set(again.ran) == keys(("ga", "gc"))
    assert "1 damaged places of the journal" in again.work.summary()


def test_mistakes_are_named(files):
    with pytest.raises(UsageError, match="--filters F151W is a filter of no galaxy; the nearest is F150W"):
        step(files, Selection(filters=("F151W",)))
    with pytest.raises(UsageError, match="--only 'gx'"):
        step(files, Selection(only=("gx",)))
    (files.folder / "results.h5").write_text("mine")
    with pytest.raises(OutputError, match="give --overwrite"):
        step(files)
    assert step(files, Selection(anew=Anew.OVERWRITE)).finished


def test_a_galaxy_of_which_nothing_is_selected_or_known_is_not_in_the_campaign(files):
    work = step(files, Selection(only=("gc",)), most=0, write=False).work
    assert [g.name for g in work.catalogue.galaxies] == ["gc"]
    assert [g.index for g in work.catalogue.galaxies] == [0]
    assert list(work.catalogue.columns["name"]) == ["gc"]
    assert len(read_catalogue(files.catalogue, load_config(files.config)).galaxies) == 3

"""The command line: every mistake its sentence and exit status, and no traceback."""

import os
import signal
import subprocess
import sys

import h5py
import pytest
from click.testing import CliRunner
from fakes import FAKES, FILTERS, make_fakes

from sphot_mpi import cli, mpi
from sphot_mpi.errors import OutputError
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_schema import FORMAT_VERSION
from sphot_mpi.tasks import Fitters


@pytest.fixture
def call(files, monkeypatch):
    """Call the command line in the campaign's folder, with fits that cost nothing."""
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr(cli, "pipeline_fitters", lambda: FAKES)

    def run(*arguments):
        if arguments and arguments[0] in ("run", "check", "catalogue.csv", "ga.h5", "none.csv"):
            arguments = (*arguments, "--config", "config.toml")
        return CliRunner().invoke(cli.main, [str(a) for a in arguments], catch_exceptions=True)

    return run


def test_run_is_the_default_command(call, files):
    result = call("catalogue.csv", "--images", "none")
    assert result.exit_code == 0, result.output
    assert "3 galaxies, tasks: 9 done" in result.output
    assert "progress done=9 failed=0" in result.output
    with ResultsReader(files.folder / "results.h5") as reader:
        assert reader.names() == ["ga", "gb", "gc"]
        assert "images" not in reader.file


def test_a_single_galaxy_is_a_catalogue_of_one(call, files):
    result = call("ga.h5", "-o", "out/one.h5", "--quiet", "--images", "residual")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    assert "1 galaxy, tasks: 3 done" in call("ga.h5", "-o", "two.h5", "--images", "none").output
    with ResultsReader(files.folder / "out/one.h5") as reader:
        assert reader.names() == ["ga"]
        assert list(reader.file["images/F150W"]) == ["residual"]


def test_only_limit_filters_and_seed(call, files):
    result = call(
        "catalogue.csv", "--only", "gc,ga", "--limit", 1, "--filters", "F555W", "--seed", 5, "--images", "none"
    )
    assert result.exit_code == 0, result.output
    with ResultsReader(files.folder / "results.h5") as reader:
        assert reader.names() == ["ga"]
        assert reader.filters("ga") == ["F150W", "F555W"]  # scale fits need the base fit
        assert "seed = 5" in reader.file.attrs["configuration"]


def test_failures_give_status_3_and_the_rest_is_done(call, files):
    files.catalogue.write_text("name,path\nga,ga.h5\nbad,gb.h5\n")
    result = call("catalogue.csv", "--images", "none")
    assert result.exit_code == 3
    assert "3 done, 3 failed" in result.output
    assert "/failures" in result.output
    assert "bad F150W: fit failed: this galaxy cannot be fitted" in result.output
    info = call("info", "results.h5")
    assert "1 done, 1 failed" in info.output
    assert "this galaxy cannot be fitted" in info.output


def test_strict_counts_missing_filters(call, files):
    with h5py.File(files.galaxy("ga"), "r+") as file:
        del file["F277W"]
    assert call("catalogue.csv", "--images", "none").exit_code == 0
    assert call("catalogue.csv", "--images", "none", "--overwrite", "--strict").exit_code == 3


def test_a_bug_in_a_fit_fails_its_galaxy_and_is_shown(call, files):
    files.catalogue.write_text("name,path\nbug,ga.h5\ngb,gb.h5\n")
    result = call("catalogue.csv")
    assert result.exit_code == 3
    assert "3 done, 3 failed" in result.output
    assert "ZeroDivisionError: a bug in the fit" in result.output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["none.csv"], 2, "none.csv: there is no such file"),
        (["statsu", "results.h5"], 2, "statsu: there is no such command or file; the nearest command is status."),
        (["."], 2, ".: this is a folder; name the catalogue"),
        (["PSFdata.h5"], 2, "PSFdata.h5: this is a library of PSFs; name a catalogue"),
        (["catalogue.csv", "--only", "gx"], 2, "--only 'gx' is not in the catalogue"),
        (
            ["catalogue.csv", "--filters", "F150W,F556W"],
            2,
            "F556W is a filter of no galaxy; the nearest is F555W",
        ),
        (["check", "catalogue.csv", "--filters", "F555w"], 2, "F555w is a filter of no galaxy; the nearest is F555W"),
        (["catalogue.csv", "--shard", "3/2"], 2, "I from 1 to N"),
        (["catalogue.csv", "--shard", "17/40"], 2, "none of its 3 galaxies is in shard 17/40"),
        (["catalogue.csv", "--task-timeout", "0"], 2, "--task-timeout"),
        (["catalogue.csv", "--log-dir", "config.toml"], 2, "choose another --log-dir"),
        (["catalogue.csv", "--limit", "0"], 2, "--limit"),
        (["catalogue.csv", "--preset", "foo"], 2, "'best', 'sphot', 'sphot-calibrated'"),
        (["catalogue.csv", "--wrong"], 2, "No such option"),
        (["catalogue.csv", "-o", "."], 1, "this is a folder"),
        (["catalogue.csv", "-o", "config.toml"], 1, "the file exists, and cannot be gone on with"),
        (["catalogue.csv", "-o", "config.toml/x.h5"], 1, "cannot be written"),
        (["info", "config.toml"], 1, "cannot be read as HDF5"),
        (["info", "ga.h5"], 1, "no results file"),
        (["info", "none.h5"], 2, "there is no such file"),
        (["plot", "none.h5", "ga"], 2, "there is no such file"),
        (["truth", "none.h5", "none.ecsv"], 2, "none.ecsv: there is no such file"),
        (["truth", "PSFdata.h5", "ga.h5"], 2, "ga.h5: this cannot be read as a table"),
        (["inject", "--score", "ga.h5", "truth.ecsv"], 2, "ga.h5: this cannot be read as a table"),
        (["status", "none.h5"], 2, "none.h5: there is no such file, and no journal"),
        (["simulate", "sim", "--psf", "none.h5"], 2, "none.h5: there is no such file"),
        (["simulate", "sim", "--psf", "config.toml"], 2, "config.toml: this cannot be read as HDF5"),
        (["simulate", "sim", "-n", "0"], 2, "-n"),
        (["simulate", "sim", "--kind", "foo"], 2, "unknown kind 'foo'"),
    ],
)
def test_a_mistake_gets_its_sentence_and_status(arguments, status, words, call):
    result = call(*arguments)
    assert result.exit_code == status, result.output
    assert words in result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output


def test_a_wrong_configuration_is_status_2(call, files):
    files.config.write_text("[psf]\nth_mn = 3\n")
    result = call("catalogue.csv")
    assert result.exit_code == 2
    assert "config.toml: [psf] th_mn = 3 is not a known key; the nearest is th_min." in result.output


def test_the_configuration_in_this_folder_is_taken_and_said(files, monkeypatch):
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr(cli, "pipeline_fitters", lambda: FAKES)
    files.config.rename(files.folder / "sphot_config.toml")
    result = CliRunner().invoke(cli.main, ["ga.h5", "--images", "none"])
    assert result.exit_code == 0, result.output
    assert "sphot_config.toml in this folder" in result.output


def test_skip_invalid_runs_the_rest(call, files):
    files.catalogue.write_text("name,path\nga,ga.h5\ngb,none.h5\n")
    refused = call("catalogue.csv", "--images", "none")
    assert refused.exit_code == 2
    assert "row 2 (gb): there is no file" in refused.output
    result = call("catalogue.csv", "--images", "none", "--skip-invalid")
    assert result.exit_code == 0
    assert "left out: row 2 (gb)" in result.output


def test_check_says_what_would_run_and_runs_nothing(call, files):
    result = call("check", "catalogue.csv")
    assert result.exit_code == 0
    assert "3 galaxies, 9 fits" in result.output
    with h5py.File(files.galaxy("gb"), "r+") as file:
        del file["F150W"], file["F277W"]
    with h5py.File(files.psf, "r+") as file:
        del file["F555W"]
    files.galaxy("gc").write_text("broken")
    result = call("check", "catalogue.csv")
    assert result.exit_code == 3
    assert "gb.h5 has no base filter F150W (it holds F555W)" in result.output
    assert "no PSF for F555W" in result.output
    assert "gc.h5: this cannot be read as HDF5" in result.output
    assert not list(files.folder.glob("results*"))


def test_check_reads_all_of_a_header_and_of_every_filter(call, files):
    with h5py.File(files.galaxy("ga"), "r+") as file:
        file["F150W"].attrs["unit"] = "parrot"
        file["F555W"].attrs["pixel_scale"] = -1.0
        file["F277W"].attrs["wcs"] = "CTYPE1 = nonsense"
    with h5py.File(files.galaxy("gb"), "r+") as file:
        data = file["F555W"][:]
        del file["F555W"]
        file["F555W/data"], file["F555W/error"] = data, data[1:]
    checked = call("check", "catalogue.csv")
    assert checked.exit_code == 3
    for words in (
        "ga: ga.h5: the unit 'parrot' of 'F150W' is not known",
        "ga: ga.h5: pixel_scale of 'F555W' is",
        "ga: ga.h5: the WCS of 'F277W' cannot be read",
        "gb: gb.h5: the error of 'F555W' has shape (89, 110) but its data (90, 110)",
        "3 galaxies, 5 fits; 0 filters missing in the files; 4 problems.",
    ):
        assert words in checked.output
    assert call("catalogue.csv", "--images", "none").exit_code == 3


def test_check_reads_the_attributes_of_the_psfs(call, files):
    with h5py.File(files.psf, "r+") as file:
        file["F555W"].attrs["oversample"] = 2.5
    checked = call("check", "catalogue.csv")
    assert checked.exit_code == 3
    assert checked.output.count("PSFdata.h5: 'F555W' has oversample = ") == 3  # a problem of each galaxy


@pytest.mark.parametrize("command", [("check", "catalogue.csv"), ("catalogue.csv",)])
def test_a_galaxys_file_is_no_psf_library(command, call, files):
    files.catalogue.write_text("name,path,psf\nga,ga.h5,gb.h5\n")
    result = call(*command)
    assert result.exit_code == 2
    assert "row 1 (ga): the PSF of the base filter is unusable: gb.h5: 'F150W' has no attribute" in result.output


def test_info_of_a_galaxy(call):
    call("catalogue.csv", "--images", "none", "--quiet")
    result = call("info", "results.h5", "gb")
    assert result.exit_code == 0
    for word in (*FILTERS, "gb: done", "r_eff px", "5.00"):
        assert word in result.output
    unknown = call("info", "results.h5", "gx")
    assert unknown.exit_code == 2
    assert "no galaxy 'gx'; it holds ga, gb, gc" in unknown.output


def test_info_lists_all_that_is_stored_and_cuts_no_number(call, files):
    call("catalogue.csv", "--images", "none", "--quiet", "--psf", "--photometry")
    listed = call("info", "results.h5").output
    for name in ("galaxies", "sersic_covariance", "sky_covariance", "photometry_curve", *(f"psf/{f}" for f in FILTERS)):
        assert f"/{name} " in listed
    with h5py.File(files.folder / "results.h5", "r+") as file:
        rows = file["photometry"][:]
        rows["flux"] = 6458006123.456
        file["photometry"][:] = rows
    shown = call("info", "results.h5", "ga").output
    assert shown.count("6458006123.456") == len(FILTERS)
    assert "radius of Petrosian index 0.5 px" in shown


@pytest.mark.parametrize("command", [("results.h5",), ("check", "results.h5")])
def test_a_results_file_is_no_galaxys(command, call):
    call("catalogue.csv", "--images", "none", "--quiet")
    result = call(*command)
    assert result.exit_code == 2
    assert "results.h5: this is a results file; name the catalogue or the galaxy's file" in result.output


@pytest.mark.parametrize("command", ["info", "status", "export -o out", "plot ga", "report -o qa", "run"])
def test_a_file_of_a_later_format_is_refused_by_everything(command, call, files):
    assert call("catalogue.csv", "--images", "none", "--quiet").exit_code == 0
    with h5py.File(files.folder / "results.h5", "r+") as file:
        file.attrs["format_version"] = "9.0"
    before = (files.folder / "results.h5").read_bytes()
    name, *rest = command.split()
    result = call("catalogue.csv") if name == "run" else call(name, "results.h5", *rest)
    assert result.exit_code == 1, result.output
    assert "results.h5: " in result.output
    assert f"its format is version 9.0, and this sphot-mpi reads {FORMAT_VERSION} and older; " in result.output
    assert (files.folder / "results.h5").read_bytes() == before


def test_an_old_results_file_survives_a_run_that_dies(call, files, monkeypatch):
    call("catalogue.csv", "--images", "none", "--quiet")
    before = (files.folder / "results.h5").read_bytes()
    files.catalogue.write_text("name,path\nga,ga.h5\n")
    monkeypatch.setattr(cli, "pipeline_fitters", lambda: Fitters(lambda *a: sys.exit("gone"), None))
    assert call("catalogue.csv", "--overwrite").exit_code == 1
    assert (files.folder / "results.h5").read_bytes() == before


def test_names_do_not_get_into_paths(call, files, monkeypatch):
    files.catalogue.write_text("name,path\n../../evil name,ga.h5\n")
    call("catalogue.csv", "--images", "none", "--quiet")
    drawn = []
    monkeypatch.setattr("sphot_mpi.qa.plots.plot_galaxy", lambda *a, **k: drawn.append(a))
    result = call("plot", "results.h5", "../../evil name")
    assert result.exit_code == 0, result.output
    assert [str(a[2]) for a in drawn] == ["______evil_name.png"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "4"}, ("SLURM_NTASKS", 4)),
        ({"SLURM_NTASKS": "4", "OMPI_COMM_WORLD_SIZE": "2"}, ("OMPI_COMM_WORLD_SIZE", 2)),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, ("SLURM_STEP_NUM_TASKS", 1)),
        ({"PMI_SIZE": "nonsense"}, None),
    ],
)
def test_the_most_specific_announcement_counts(environ, expected):
    assert mpi.announced_size(environ) == expected


def test_one_announced_process_runs_alone(call, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # an import would fail
    assert call("ga.h5", "--images", "none").exit_code == 0


def test_a_launcher_that_tells_no_size_is_noticed(call, monkeypatch):
    monkeypatch.setenv("PALS_RANKID", "0")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    result = call("ga.h5")
    assert result.exit_code == 2
    assert "PALS_RANKID announces a launcher, but mpi4py cannot be loaded" in result.output


def test_several_announced_processes_without_mpi4py_are_refused(call, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "3")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    result = call("ga.h5")
    assert result.exit_code == 2
    assert "SLURM_NTASKS announces 3 processes, but mpi4py cannot be loaded" in result.output


class FakeComm:
    """Two ranks, of which one aborts."""

    def __init__(self):
        self.aborted = []

    def Get_rank(self):
        return 1

    def Get_size(self):
        return 2

    def Abort(self, status):
        self.aborted.append(status)


def test_an_error_on_a_rank_ends_all_ranks_unless_it_is_expected(capsys):
    comm = FakeComm()
    world = mpi.World(comm)
    with pytest.raises(OutputError), world.guarded(OutputError):
        raise OutputError("full")
    assert comm.aborted == []
    with pytest.raises(SystemExit), world.guarded():
        raise OutputError("full")
    assert comm.aborted == [1]
    assert "rank 1 of 2" in capsys.readouterr().err


def test_as_a_process_a_mistake_is_one_line_on_stderr(files):
    done = subprocess.run(
        [sys.executable, "-m", "sphot_mpi", "none.csv"],
        cwd=files.folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "Error: none.csv: there is no such file; name a catalogue or a galaxy file.\n"


def test_the_same_command_again_has_nothing_to_do(call, files):
    call("catalogue.csv", "--images", "none")
    before = (files.folder / "results.h5").read_bytes()
    again = call("catalogue.csv", "--images", "none")
    assert again.exit_code == 0
    assert again.output.startswith("Nothing to do")
    assert (files.folder / "results.h5").read_bytes() == before
    assert not (files.folder / "results.h5.journal").exists()


def test_only_what_is_new_or_changed_runs_and_the_reason_is_said(call, files):
    files.catalogue.write_text("name,path\nga,ga.h5\n")
    call("catalogue.csv", "--images", "none")
    files.catalogue.write_text("name,path\nga,ga.h5\ngb,gb.h5\n")
    added = call("catalogue.csv", "--images", "none")
    assert "3 tasks are known, 3 run: 3 not run yet" in added.output
    rerun = call("catalogue.csv", "--images", "none", "--rerun", "scale", "--only", "gb", "--filters", "F277W")
    assert "5 tasks are known, 1 run: 1 asked for with --rerun" in rerun.output
    assert "2 galaxies, tasks: 6 done" in rerun.output
    assert "6 tasks are known, 0 run" in call("catalogue.csv").output  # images are written, nothing is fitted


def test_shards_are_the_whole_catalogue_each_galaxy_once(call, files):
    names = []
    for number in (1, 2):
        assert call("catalogue.csv", "--images", "none", "--shard", f"{number}/2").exit_code == 0
        with ResultsReader(files.folder / f"results.{number}-of-2.h5") as reader:
            names += reader.names()
    assert sorted(names) == ["ga", "gb", "gc"]


def test_log_dir_gets_a_line_a_task_at_any_log_level(call, files):
    call("catalogue.csv", "--images", "none", "--log-dir", "logs", "--log-level", "error")
    lines = (files.folder / "logs" / "rank-000000.log").read_text().splitlines()
    tasks = [line for line in lines if "task galaxy=" in line]
    assert len(tasks) == 9
    assert "INFO: task galaxy=ga filter=F150W kind=base status=done seconds=" in tasks[0]


def test_a_task_over_its_limit_fails_and_the_others_go_on(call, files):
    files.catalogue.write_text("name,path\nsleepy,ga.h5\ngb,gb.h5\n")
    result = call("catalogue.csv", "--images", "none", "--task-timeout", 2)
    assert result.exit_code == 3, result.output
    with ResultsReader(files.folder / "results.h5") as reader:
        assert reader.filters("gb") == list(FILTERS)
        failure = reader.array("failures")[0]
    assert (failure["name"], failure["error"], failure["stage"]) == (b"sleepy", b"TaskTimeout", b"fit")


@pytest.mark.parametrize(("number", "times", "status"), [("SIGTERM", 1, 75), ("SIGINT", 1, 75), ("SIGINT", 2, 130)])
def test_a_signal_stops_a_run_in_order_and_the_same_command_goes_on(number, times, status, call, files, monkeypatch):
    def base(cutout, *arguments):
        if cutout.galaxy == "gb":
            for _ in range(times):
                signal.raise_signal(signal.Signals[number])
        return FAKES.base(cutout, *arguments)

    call("catalogue.csv", "--images", "none", "-o", "whole.h5")
    monkeypatch.setattr(cli, "pipeline_fitters", lambda: Fitters(base, FAKES.scaled))
    result = call("catalogue.csv", "--images", "none")
    assert result.exit_code == status, result.output
    assert "give the same command to go on" in result.output
    if status == 75:
        assert f"Stopped by {number}: 5 are left" in result.output
        with ResultsReader(files.folder / "results.h5") as reader:
            assert reader.ends() == {"done": 4}
    monkeypatch.setattr(cli, "pipeline_fitters", make_fakes)  # the process of a suspect imports it
    again = call("catalogue.csv", "--images", "none")
    assert again.exit_code == 0, again.output
    assert "tasks are known" in again.output
    with ResultsReader(files.folder / "results.h5") as one, ResultsReader(files.folder / "whole.h5") as other:
        assert one.array("sources").tobytes() == other.array("sources").tobytes()

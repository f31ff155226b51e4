"""The whole program on simulated galaxies: simulate, check, run, info, plot, truth, by the command line alone."""

import h5py
import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner

from sphot_mpi import cli
from sphot_mpi.results_reader import ResultsReader


def call(*arguments, status=0):
    result = CliRunner().invoke(cli.main, [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return result.output


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    call("simulate", folder, "-n", 1, "--seed", 3, "--kind", "easy")
    name = QTable.read(folder / "truth.ecsv")["name"][0]
    with h5py.File(folder / f"{name}.h5", "r+") as file:
        file["F814W"][:] = np.nan  # a filter that did not see the galaxy
    return folder, name


@pytest.fixture(scope="module")
def fitted(campaign):
    folder, _ = campaign
    output = folder / "results.h5"
    call("run", folder / "catalogue.csv", "-o", output, "--filters", "F150W,F277W,F814W")
    return output


def test_check_finds_no_problem(campaign):
    folder, _ = campaign
    assert "1 galaxy, 6 fits; 0 filters" in call("check", folder / "catalogue.csv")


def test_magnitudes_are_those_that_were_put_in(campaign, fitted):
    folder, _ = campaign
    truth = QTable.read(folder / "truth.ecsv")
    with ResultsReader(fitted) as reader:
        rows = reader.array("sersic")
    for row in rows[rows["filter"] != b"F814W"]:
        true = truth[truth["filter"] == row["filter"].decode()]
        # thirty stars and a bright galaxy: the median over such galaxies is to be 0.005
        assert abs(row["mag"] - float(true["magnitude"][0])) < 0.02


def test_a_filter_without_data_is_a_flagged_row_and_no_failure(fitted):
    with ResultsReader(fitted) as reader:
        rows, galaxy = reader.array("sersic"), reader.array("galaxies")[0]
        assert reader.array("failures").size == 0
    # the base filter first, then in the configuration's order
    assert [r.decode() for r in rows["filter"]] == ["F150W", "F814W", "F277W"]
    assert np.isnan(rows["total_flux"]).tolist() == [False, True, False]
    assert galaxy["status"] == b"done"
    assert galaxy["filters_done"] == b"F150W,F277W"


def test_the_residual_is_noise(campaign, fitted):
    _, name = campaign
    with ResultsReader(fitted) as reader:
        noise = reader.array("sersic")["noise"][0]
        residual = reader.images(name, "F150W").residual
    mad = 1.4826 * np.nanmedian(np.abs(residual - np.nanmedian(residual)))
    # the light of galaxy and stars adds its own noise, and faint stars are left
    assert 0.8 < mad / noise < 1.5


def test_info_truth_and_plot(campaign, fitted):
    folder, name = campaign
    assert "F277W" in call("info", fitted, name)
    assert name in call("truth", fitted, folder / "truth.ecsv")
    call("plot", fitted, name, "-o", folder / "x.png")
    assert (folder / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_warmup_fits_with_both_presets():
    assert "Kernels for this processor" in call("warmup")

"""The accuracy bench: its summary, its scores of a fit that is the truth, and a whole run."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sphot_mpi.records import SOURCE_DTYPE, Cutout, FilterFit, KernelFit
from sphot_mpi.scores import StarScores
from sphot_mpi.simulate_image import simulate_galaxy
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import total_flux

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("accuracy_tables")


@pytest.fixture
def accuracy(tables: ModuleType) -> ModuleType:
    return importlib.import_module("accuracy")


def stars(snr: np.ndarray, found: np.ndarray) -> StarScores:
    ones = np.ones(snr.size)
    return StarScores(snr=snr, found=found, ratio=ones, pull=np.linspace(-1, 1, snr.size), n_reported=10, n_reliable=9)


def test_summary_takes_medians_of_absolute_errors_and_pools_stars(tables: ModuleType) -> None:
    quantities = ("colour", "r_eff", "n", "ellip", "theta", "centre", "sky", "kernel", "chi2", "magnitude_pull", "cpu")
    results = [
        tables.GalaxyResult(
            name="g", numbers={"F150W": {"magnitude": error, **dict.fromkeys(quantities, 0.0)}},
            stars={"F150W": stars(np.array([12.0, 30.0, 7.0]), np.array([True, found, True]))},
            seconds=1.0, problems=[], flags=[],
        )
        for error, found in ((-0.004, True), (0.001, False), (0.5, True))
    ]  # fmt: skip
    run = tables.Run(title="t", base="F150W", results=results)
    lines = {line.label: line for line in tables.summary(run)}
    assert lines["total magnitude, F150W"].value == pytest.approx(0.004)
    assert lines["completeness, S/N > 10, F150W"].value == pytest.approx(5 / 6)
    assert lines["reliability, S/N > 5, F150W"].value == pytest.approx(0.9)
    assert "| ok |" in lines["total magnitude, F150W"].row()
    assert "**miss**" in lines["completeness, S/N > 10, F150W"].row()
    assert "too few" in lines["flux bias, S/N > 50, F150W"].row()
    assert "| F150W |" in tables.render_run(run)


def test_scores_of_the_truth_are_perfect(accuracy: ModuleType) -> None:
    library = {"F814W": synthetic_library()["F814W"]}
    galaxy = simulate_galaxy(library, 0, 3, "crowded", shape=(120, 151))
    image, field = galaxy.images["F814W"], galaxy.stars
    x0, y0 = 11, 5
    window = np.s_[y0 : y0 + 100, x0 : x0 + 130]
    data = image.data[window]
    cutout = Cutout(galaxy="g", filter="F814W", data=data, error=None, mask=np.isnan(data), origin=(x0, y0))
    sources = np.zeros(field.x.size, SOURCE_DTYPE)
    sources["x_fit"], sources["y_fit"], sources["flux_fit"] = field.x - x0, field.y - y0, field.flux["F814W"]
    sources["flux_err"] = field.flux["F814W"] / image.snr
    fit = FilterFit(
        galaxy="g", filter="F814W", covariance=np.eye(7), total_flux=total_flux(image.galaxy), total_flux_err=1.0,
        components=(replace(image.galaxy, x_0=image.galaxy.x_0 - x0, y_0=image.galaxy.y_0 - y0),), flux_in_cutout=1.0,
        sky=replace(image.plane, x_ref=image.plane.x_ref - x0, y_ref=image.plane.y_ref - y0),
        sky_covariance=np.eye(3), sources=sources, report=np.ones(sources.size, dtype=bool),
        kernel=KernelFit(values=(image.kernel_sigma,)),
    )  # fmt: skip
    numbers = accuracy.score_filter(galaxy, "F814W", cutout, fit)
    for key in ("magnitude", "r_eff", "n", "ellip", "theta", "centre", "kernel"):
        assert numbers[key] == pytest.approx(0.0, abs=1e-9)
    # the true plane is too low by the light of the stars that count as sky: a few hundredths of a sigma
    assert -0.2 < numbers["sky"] < 0.0
    scores = accuracy.score_field(galaxy, "F814W", cutout, fit)
    assert scores.completeness(3.0) == 1.0
    assert scores.reliability == 1.0
    usable = image.covered & (np.abs(field.x - 75.5) < 65) & (np.abs(field.y - 54.5) < 50)
    assert scores.snr.size == usable.sum()


@pytest.mark.slow
def test_bench_runs_and_writes_its_tables(accuracy: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "tables.md"
    assert accuracy.main(["--kind", "easy", "-n", "1", "--filters", "F150W", "--synthetic-psf", "-o", str(output)]) == 0
    text = output.read_text()
    assert "## easy, preset best, synthetic library PSFs, true PSF given (1 galaxies)" in text
    assert "Failed" not in text

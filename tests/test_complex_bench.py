"""The bench of galaxies that are no single Sersic: its truth is what is in its images."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sphot_mpi.flags import FitFlag
from sphot_mpi.simulate_psf import synthetic_library

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("complex_scenes")


@pytest.mark.parametrize("kind", ["nucleus", "ring", "dust lane", "moving centre", "other size"])
def test_the_true_total_is_the_light_in_the_image(scenes: ModuleType, kind: str) -> None:
    library = {"F814W": synthetic_library()["F814W"]}
    galaxy = scenes.complex_galaxy(library, kind, "typical", 0, 5)
    # a few per mille of a disk lie off the frame, more of a high n
    assert galaxy.light["F814W"].sum() == pytest.approx(galaxy.flux["F814W"], rel=0.03)
    assert not galaxy.others["F814W"].any()


def test_a_companion_is_not_of_the_galaxy_and_a_saturated_star_has_no_core(scenes: ModuleType) -> None:
    library = {"F814W": synthetic_library()["F814W"]}
    companion = scenes.complex_galaxy(library, "companion", "typical", 0, 5)
    share = companion.others["F814W"].sum() / companion.flux["F814W"]
    # 10 to 50 per cent, bluer or redder by up to half a mag
    assert 0.1 * 10.0**-0.2 < share < 0.5 * 10.0**0.2
    star = scenes.complex_galaxy(library, "saturated star", "typical", 0, 5)
    i, j = (round(float(values[-1])) for values in (star.stars_x, star.stars_y))
    assert np.isnan(star.cutouts["F814W"].data[j, i])


def test_what_is_bad_and_what_is_silent(scenes: ModuleType) -> None:
    bench = importlib.import_module("complex_galaxies")
    good = bench.Score(
        kind="ring", name="g", filter="F814W", magnitude=0.04, colour=-0.02, sigma=0.01, in_stars=1.0, residual=0.0,
        flags=FitFlag.DISPLACED, seconds=1.0,
    )  # fmt: skip
    assert not good.is_bad
    assert replace(good, magnitude=-0.06).is_bad
    assert replace(good, colour=float("nan")).is_bad
    assert good.is_silent
    assert not replace(good, flags=FitFlag.STAR_EXCESS).is_silent
    (row,) = [line for line in bench.table([good, replace(good, magnitude=-0.06)]).splitlines() if "ring" in line]
    assert "0.050 / -0.060" in row
    assert "| 1 of 2 | 1 |" in row

"""Dispatch by method, filters without data, and the flags that every fit gets."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sphot_mpi import pipeline, seed_pipeline
from sphot_mpi.config import load_config
from sphot_mpi.flags import FitFlag
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, SersicParams

SHAPE = (41, 60)
LIBRARY = LibraryPSF.from_array(np.ones((9, 9)), 4)
GALAXY = SersicParams(amplitude=1.0, r_eff=6.0, n=1.0, x_0=30.0, y_0=20.0, ellip=0.0, theta=0.0)


def cutout(mask=None, error=None):
    mask = np.zeros(SHAPE, dtype=bool) if mask is None else mask
    data = np.where(mask, np.nan, 1.0)
    return Cutout(galaxy="g", filter="F150W", data=data, error=error, mask=mask, full_shape=SHAPE)


def fit_of(image, **changes):
    return replace(pipeline.no_data(image), flags=FitFlag(0), components=(GALAXY,), chi2_reduced=1.0, **changes)


@pytest.mark.parametrize("preset", ["best", "sphot", "sphot-calibrated"])
def test_a_filter_without_data_is_a_result_not_an_exception(preset):
    config = load_config(preset=preset)
    empty = cutout(np.ones(SHAPE, dtype=bool))
    base = fit_of(cutout())
    for fit in (pipeline.fit_base(empty, LIBRARY, config), pipeline.fit_scaled(empty, LIBRARY, base, cutout(), config)):
        assert fit.flags == FitFlag.NO_DATA
        assert np.isnan([fit.total_flux, fit.sky.level, fit.chi2_reduced, fit.kernel.fwhm]).all()
        assert np.isnan(fit.covariance).all()
        assert fit.sources.size == fit.report.size == 0
        assert fit.components == ()
        assert fit.masked_fraction == 1.0
        assert (fit.galaxy, fit.filter) == ("g", "F150W")


@pytest.mark.parametrize(("preset", "family"), [("best", "joint"), ("sphot", "seed")])
def test_the_method_chooses_the_pipeline(monkeypatch, preset, family):
    def named(name):
        def fit(image, *_):
            return fit_of(image, messages=(name,))

        return fit

    for stage in ("base", "scaled"):
        for kind, module in (("joint", pipeline), ("seed", seed_pipeline)):
            monkeypatch.setattr(module, f"fit_{stage}_{kind}", named(f"{stage} {kind}"))
    config = load_config(preset=preset)
    image = cutout(error=np.ones(SHAPE))
    base = pipeline.fit_base(image, LIBRARY, config)
    assert base.messages == (f"base {family}",)
    assert pipeline.fit_scaled(image, LIBRARY, base, image, config).messages == (f"scaled {family}",)


def test_a_rank_of_the_default_method_imports_no_more_than_it_needs():
    """They are a third of the time that a rank takes to start, and most of the files that a thousand ranks read."""
    program = (
        "import sys, sphot_mpi.cli\n"
        "sphot_mpi.cli.pipeline_fitters()\n"
        "print(*sorted({'sphot_mpi.joint_pipeline', 'photutils', 'scipy.signal', 'scipy.stats'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["sphot_mpi.joint_pipeline"]


def test_flags_describe_the_data():
    clean = cutout(error=np.ones(SHAPE))
    assert pipeline.flagged(fit_of(clean), clean).flags == FitFlag(0)
    bare = cutout()
    assert pipeline.flagged(fit_of(bare), bare).flags == FitFlag.ERROR_ESTIMATED
    assert pipeline.flagged(replace(fit_of(clean), chi2_reduced=2.1), clean).flags == FitFlag.HIGH_CHI2
    old = replace(fit_of(clean), flags=FitFlag.STRUCTURED)
    assert pipeline.flagged(old, clean).flags == FitFlag.STRUCTURED


def test_few_pixels_and_an_uncovered_centre_are_different_things():
    edge = np.ones(SHAPE, dtype=bool)
    edge[10:31, 20:41] = False
    small = cutout(edge, error=np.ones(SHAPE))
    # 18 % of the cutout, but all of the galaxy
    assert pipeline.flagged(fit_of(small), small).flags == FitFlag.FEW_PIXELS
    hole = np.zeros(SHAPE, dtype=bool)
    hole[:, 28:36] = True
    holed = cutout(hole, error=np.ones(SHAPE))
    assert pipeline.flagged(fit_of(holed), holed).flags == FitFlag.CENTRE_UNCOVERED


def test_what_lies_off_the_image_is_not_covered():
    image = cutout(error=np.ones(SHAPE))
    at_edge = replace(fit_of(image), components=(replace(GALAXY, x_0=-2.0),))
    assert pipeline.flagged(at_edge, image).flags == FitFlag.CENTRE_UNCOVERED
    inside = replace(fit_of(image), components=(replace(GALAXY, x_0=3.0),))
    assert pipeline.flagged(inside, image).flags == FitFlag(0)

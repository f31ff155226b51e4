"""The kernel from anchors, on stars drawn from an analytic PSF."""

import numpy as np
import pytest
from scipy.special import erf

from sphot_mpi.calibrate import calibrate_anchors, choose_anchors, sound_sources
from sphot_mpi.config import load_config
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, SersicParams

SHAPE = (120, 151)
NOISE = 0.01
LIBRARY_SIGMA, KERNEL_SIGMA = 0.9, 1.1
CONFIG = load_config(preset="sphot-calibrated").psf_calib


def pixel_gaussian(offset, sigma):
    """A unit Gaussian integrated over one data pixel at `offset` from its centre."""
    scale = np.sqrt(2.0) * sigma
    return 0.5 * (erf((offset + 0.5) / scale) - erf((offset - 0.5) / scale))


def gaussian_library(sigma, size=81, oversample=4):
    offset = (np.arange(size) - (size - 1) / 2) / oversample
    row = pixel_gaussian(offset, sigma)
    return LibraryPSF.from_array(np.outer(row, row), oversample)


def star_scene(n_stars=220, seed=0):
    """Stars blurred by library and kernel, with noise, and the table that describes them."""
    rng = np.random.default_rng(seed)
    sources = np.zeros(n_stars, SOURCE_DTYPE)
    sources["id"] = np.arange(1, n_stars + 1)
    sources["x_fit"] = rng.uniform(-2, SHAPE[1] + 1, n_stars)
    sources["y_fit"] = rng.uniform(-2, SHAPE[0] + 1, n_stars)
    sources["flux_fit"] = 0.5 * (1.0 + rng.pareto(1.2, n_stars))
    sigma = np.hypot(LIBRARY_SIGMA, KERNEL_SIGMA)
    columns = pixel_gaussian(np.arange(SHAPE[1])[None, :] - sources["x_fit"][:, None], sigma)
    rows = pixel_gaussian(np.arange(SHAPE[0])[None, :] - sources["y_fit"][:, None], sigma)
    image = np.einsum("s,sy,sx->yx", sources["flux_fit"], rows, columns)
    return image + rng.normal(0.0, NOISE, SHAPE), np.full(SHAPE, NOISE**-2.0), sources


def calibrated(start=0.0, **changes):
    image, weight, sources = star_scene()
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (start,)))
    config = CONFIG.model_copy(update=changes)
    return calibrate_anchors(image, weight, sources, psf, None, config)


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({}, 0.0),
        ({}, 2.5),
        ({"calib_xy_bounds": None}, 1.0),
        ({"kernel_fit_objective": "single_source", "kernel_anchor_K": 60}, 1.0),
    ],
)
def test_gaussian_kernel_is_recovered(changes, start):
    result = calibrated(start, **changes)
    (sigma,), (error,) = result.fit.values, result.fit.errors
    # neighbours that a single source does not model blur it a little
    assert sigma == pytest.approx(KERNEL_SIGMA, abs=0.05 if "kernel_fit_objective" in changes else 0.01)
    assert 0.0 < error < 0.03
    assert result.kernel.values == result.fit.values
    assert result.flags == FitFlag(0)
    # FWHM of the pixel-integrated Gaussian: the pixel adds 1/12 px^2 to the variance
    total = np.sqrt(LIBRARY_SIGMA**2 + KERNEL_SIGMA**2 + 1.0 / 12.0)
    assert result.fit.fwhm == pytest.approx(2.3548 * total, rel=0.03)


def test_wrong_positions_are_measured_again():
    image, weight, sources = star_scene()
    rng = np.random.default_rng(1)
    sources["x_fit"] += rng.normal(0.0, 0.15, sources.size)
    sources["y_fit"] += rng.normal(0.0, 0.15, sources.size)
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (1.0,)))
    again = calibrate_anchors(image, weight, sources, psf, None, CONFIG).kernel.values[0]
    pinned = calibrate_anchors(
        image, weight, sources, psf, None, CONFIG.model_copy(update={"calib_xy_bounds": None})
    ).kernel.values[0]
    # a displaced anchor looks broad; neighbours stay displaced and cost a little
    assert again == pytest.approx(KERNEL_SIGMA, abs=0.03)
    assert abs(again - KERNEL_SIGMA) < abs(pinned - KERNEL_SIGMA)


def test_drizzle_family_contains_the_gaussian():
    result = calibrated(1.0, kernel_family="drizzle", kernel_anchor_K=12)
    width, sigma = result.fit.values
    # a box of width w adds w^2 / 12 to the variance
    assert np.hypot(sigma, width / np.sqrt(12.0)) == pytest.approx(KERNEL_SIGMA, abs=0.02)


def test_no_blur_is_a_kernel_like_any_other():
    image, weight, sources = star_scene()
    psf = PSF(gaussian_library(np.hypot(LIBRARY_SIGMA, KERNEL_SIGMA)), Kernel("gaussian", (1.0,)))
    result = calibrate_anchors(image, weight, sources, psf, None, CONFIG)
    # the blur adds in quadrature: 0.1 px of it is below 0.3 % of the width
    assert result.kernel.values[0] < 0.12
    assert result.flags == FitFlag(0)


def test_a_kernel_at_its_upper_bound_is_flagged():
    image, weight, sources = star_scene()
    psf = PSF(LibraryPSF.from_array(np.pad([[1.0]], 20), 4), Kernel("gaussian", (1.0,)))
    wide = np.einsum(
        "s,sy,sx->yx",
        sources["flux_fit"],
        pixel_gaussian(np.arange(SHAPE[0])[None, :] - sources["y_fit"][:, None], 6.0),
        pixel_gaussian(np.arange(SHAPE[1])[None, :] - sources["x_fit"][:, None], 6.0),
    )
    result = calibrate_anchors(wide, weight, sources, psf, None, CONFIG.model_copy(update={"calib_xy_bounds": None}))
    assert result.flags == FitFlag.KERNEL_AT_BOUND


def test_too_few_anchors_keep_the_kernel():
    image, weight, sources = star_scene()
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (0.7,)))
    result = calibrate_anchors(image, weight, sources[:2], psf, None, CONFIG)
    assert result.flags == FitFlag.KERNEL_FEW_ANCHORS
    assert result.kernel == psf.kernel
    assert np.isnan(result.fit.errors).all()
    nothing = calibrate_anchors(image, np.zeros(SHAPE), sources, psf, None, CONFIG)
    assert nothing.flags == FitFlag.KERNEL_FEW_ANCHORS


def test_anchors_are_bright_sound_and_outside_the_galaxy():
    _, _, sources = star_scene()
    sources["flags"][5] = int(SourceFlag.NEAR_BOUND)
    sources["flags"][6] = int(SourceFlag.CUT)
    sources["flux_fit"][7] = np.nan
    sources["flux_fit"][[5, 6]] = 1e3
    galaxy = SersicParams(amplitude=1.0, r_eff=20.0, n=1.0, x_0=75.0, y_0=60.0, ellip=0.5, theta=0.0)
    chosen = choose_anchors(sources, SHAPE, galaxy, CONFIG)
    assert chosen.size == CONFIG.kernel_anchor_K
    assert not np.isin([5, 6, 7], chosen).any()
    assert (np.diff(sources["flux_fit"][chosen]) <= 0.0).all()
    x, y = (
        np.clip(np.rint(sources["x_fit"]), 0, 150)[chosen] - 75.0,
        np.clip(np.rint(sources["y_fit"]), 0, 119)[chosen] - 60.0,
    )
    # 1.5 r_eff along the major axis, half of that across
    assert (np.hypot(x, y / 0.5) > 30.0).all()
    assert sound_sources(sources).sum() == sources.size - 3
    everywhere = choose_anchors(sources, SHAPE, galaxy, CONFIG.model_copy(update={"center_mask_r_in_galaxy_size": 0.0}))
    assert sources["flux_fit"][everywhere].sum() > sources["flux_fit"][chosen].sum()

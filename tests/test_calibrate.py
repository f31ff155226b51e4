"""The kernel from anchors, on stars drawn from an analytic PSF."""

import numpy as np
import pytest
from scipy.special import erf

from sphot_mpi.calibrate import calibrate_anchors, choose_anchors, sound_sources
from sphot_mpi.calibrate_stamps import common_step, cut_stamps, misfit
from sphot_mpi.config import load_config
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, SersicParams
from sphot_mpi.star_field import StarField

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


def test_the_light_of_stars_that_are_no_column_is_taken_off():
    every = calibrated(0.3).kernel.values[0]
    alone = calibrated(0.3, kernel_fit_max_neighbors=0).kernel.values[0]
    # all are measured; 0.02 px broader if their light stayed
    assert alone == pytest.approx(every, abs=0.005)


def test_errors_count_what_pulls_the_anchors_apart():
    rng = np.random.default_rng(2)
    y, x = (grid.ravel() for grid in np.mgrid[10:110:20, 10:150:20])
    sources = np.zeros(x.size, SOURCE_DTYPE)
    sources["x_fit"], sources["y_fit"], sources["flux_fit"] = x, y, 20.0
    blur = rng.normal(KERNEL_SIGMA, 0.03, x.size)
    image = rng.normal(0.0, NOISE, SHAPE)
    for place, sigma in zip(sources, np.hypot(LIBRARY_SIGMA, blur), strict=True):
        columns = pixel_gaussian(np.arange(SHAPE[1]) - place["x_fit"], sigma)
        image += place["flux_fit"] * pixel_gaussian(np.arange(SHAPE[0]) - place["y_fit"], sigma)[:, None] * columns
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (1.0,)))
    fit = calibrate_anchors(image, np.full(SHAPE, NOISE**-2.0), sources, psf, None, CONFIG).fit
    # the mean of so many that differ by 0.03 px; noise alone would be a fifth of that
    assert fit.errors[0] == pytest.approx(0.03 / np.sqrt(fit.n_anchors), rel=0.5)


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


def test_without_anchors_peaks_of_the_image_tell_the_blur():
    image, weight, sources = star_scene()
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (0.2,)))
    result = calibrate_anchors(image, weight, sources[:2], psf, None, CONFIG)
    assert result.flags == FitFlag.KERNEL_BOOTSTRAP
    # peaks are blended more than anchors among known neighbours: half a step of the grid
    assert result.kernel.values[0] == pytest.approx(KERNEL_SIGMA, abs=0.13)
    assert np.isnan(result.fit.errors).all()
    assert result.fit.n_anchors >= 3
    # what is far from any first guess is reached by widening the grid
    wide = PSF(LibraryPSF.from_array(np.pad([[1.0]], 20), 4), Kernel("gaussian", (0.2,)))
    broad = stars_under(lambda x, sigma: pixel_gaussian(x, sigma), 2.9) + np.random.default_rng(3).normal(
        0, NOISE, SHAPE
    )
    found = calibrate_anchors(broad, weight, sources[:0], wide, None, CONFIG).kernel.values[0]
    assert found == pytest.approx(2.9, abs=0.3)


def stars_under(profile, sigma):
    _, _, sources = star_scene()
    columns = profile(np.arange(SHAPE[1])[None, :] - sources["x_fit"][:, None], sigma)
    rows = profile(np.arange(SHAPE[0])[None, :] - sources["y_fit"][:, None], sigma)
    return np.einsum("s,sy,sx->yx", sources["flux_fit"], rows, columns)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_lumps_keep_the_kernel_and_say_so(seed):
    rng = np.random.default_rng(seed)
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (0.7,)))
    weight, none = np.full(SHAPE, NOISE**-2.0), np.zeros(0, SOURCE_DTYPE)
    result = calibrate_anchors(rng.normal(0.0, NOISE, SHAPE), weight, none, psf, None, CONFIG)
    assert result.flags == FitFlag.KERNEL_FEW_ANCHORS
    assert result.kernel == psf.kernel
    assert np.isnan(result.fit.errors).all()
    # lumps of 5 px are no stars under any kernel
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    lumps = rng.normal(0.0, NOISE, SHAPE)
    for x0, y0 in rng.uniform(30.0, 90.0, (12, 2)):
        lumps += 0.3 * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 5.0**2)
    result = calibrate_anchors(lumps, weight, none, psf, None, CONFIG)
    assert result.flags == FitFlag.KERNEL_FEW_ANCHORS or 0.0 <= result.kernel.values[0] <= 4.0
    # where they belong to the galaxy they are not even looked at
    galaxy = SersicParams(amplitude=1.0, r_eff=60.0, n=1.0, x_0=60.0, y_0=60.0, ellip=0.0, theta=0.0)
    within = calibrate_anchors(lumps, weight, none, psf, galaxy, CONFIG)
    assert within.flags == FitFlag.KERNEL_FEW_ANCHORS


def test_an_image_without_data_keeps_the_kernel():
    image, _, sources = star_scene()
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (0.7,)))
    nothing = calibrate_anchors(image, np.zeros(SHAPE), sources, psf, None, CONFIG)
    assert nothing.flags == FitFlag.KERNEL_FEW_ANCHORS
    assert nothing.kernel == psf.kernel


TRUTHS = {"gaussian": (1.1,), "moffat": (1.6, 2.8), "drizzle": (2.6, 0.5)}


def rendered_scene(kernel, seed=0):
    """The same stars under a library and any kernel."""
    _, weight, sources = star_scene(seed=seed)
    psf = PSF(gaussian_library(LIBRARY_SIGMA), kernel)
    image = StarField(psf, SHAPE, NOISE).render(
        *(np.ascontiguousarray(sources[c]) for c in ("x_fit", "y_fit", "flux_fit"))
    )
    return image + np.random.default_rng(seed).normal(0.0, NOISE, SHAPE), weight, sources


@pytest.mark.parametrize("family", ["moffat", "drizzle"])
def test_kernels_of_two_parameters_are_recovered_from_any_start(family):
    image, weight, sources = rendered_scene(Kernel(family, TRUTHS[family]))
    config = CONFIG.model_copy(update={"kernel_family": family})
    results = [
        calibrate_anchors(image, weight, sources, PSF(gaussian_library(LIBRARY_SIGMA), start), None, config)
        for start in (Kernel("gaussian", (0.3,)), Kernel("gaussian", (2.5,)))
    ]
    for result in results:
        pulls = np.subtract(result.kernel.values, TRUTHS[family]) / result.fit.errors
        # two parameters of two runs that share their noise, and a weak prior
        assert np.abs(pulls).max() < 3.5
        assert result.kernel.width == pytest.approx(Kernel(family, TRUTHS[family]).width, abs=0.03)
        assert result.flags == FitFlag(0)
    np.testing.assert_allclose(results[0].kernel.values, results[1].kernel.values, atol=0.05)


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("family", TRUTHS)
def test_a_wrong_family_does_no_worse_than_the_library(truth, family):
    image, weight, sources = rendered_scene(Kernel(truth, TRUTHS[truth]))
    library = PSF(gaussian_library(LIBRARY_SIGMA))
    config = CONFIG.model_copy(update={"kernel_family": family, "calib_xy_bounds": None})
    kernel = calibrate_anchors(image, weight, sources, library, None, config).kernel
    table = sources["x_fit"], sources["y_fit"], sources["flux_fit"]
    stamps = cut_stamps(image, weight, table, choose_anchors(sources, SHAPE, None, config), library, config)
    alone, fitted, right = (
        misfit(stamps, library.with_kernel(k), alone=False).value
        for k in (Kernel(), kernel, Kernel(truth, TRUTHS[truth]))
    )
    # nine tenths of what the true kernel gains, whatever the family
    assert alone - fitted > 0.9 * (alone - right) > 100.0


def test_calibrating_again_changes_nothing():
    for family in TRUTHS:
        image, weight, sources = rendered_scene(Kernel("gaussian", (1.1,)))
        config = CONFIG.model_copy(update={"kernel_family": family})
        psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (0.5,)))
        widths = []
        for _ in range(5):
            psf = psf.with_kernel(calibrate_anchors(image, weight, sources, psf, None, config).kernel)
            widths.append(psf.kernel.width)
        # neither climbs nor alternates
        assert np.ptp(widths[1:]) < 0.01


def stamps_with(**changes):
    image, weight, sources = star_scene()
    config = CONFIG.model_copy(update=changes)
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (1.0,)))
    table = sources["x_fit"], sources["y_fit"], sources["flux_fit"]
    return cut_stamps(image, weight, table, choose_anchors(sources, SHAPE, None, config), psf, config)


def test_stamps_are_those_of_the_configuration():
    assert len(stamps_with(kernel_anchor_K=12)) <= 12 < len(stamps_with())
    # 2 x 8 + 1, and 6 x sqrt(0.9^2 + 1^2 + 1 / 12) rounded up
    assert max(max(stamp.data.shape) for stamp in stamps_with()) == 17
    assert max(max(stamp.data.shape) for stamp in stamps_with(kernel_fit_stamp_half_min=11)) == 23
    assert max(max(stamp.data.shape) for stamp in stamps_with(kernel_fit_stamp_half_in_sigmaeff=6.0)) == 19
    assert max(stamp.x.size for stamp in stamps_with(kernel_fit_max_neighbors=2)) == 3
    assert all(stamp.x.size == 1 for stamp in stamps_with(kernel_fit_max_neighbors=0))
    near, far = (sum(s.x.size for s in stamps_with(kernel_fit_neighbor_pad_pix=p)) for p in (0.0, 8.0))
    assert near < far


def test_stars_displaced_together_are_put_back_whatever_is_in_some_windows():
    image, weight, sources = star_scene()
    psf = PSF(gaussian_library(LIBRARY_SIGMA), Kernel("gaussian", (KERNEL_SIGMA,)))
    chosen = choose_anchors(sources, SHAPE, None, CONFIG)
    # one of the brightest has a companion that is not known
    x, y = (int(sources[name][chosen[1]]) for name in ("x_fit", "y_fit"))
    image[y - 1 : y + 2, x + 2 : x + 4] += sources["flux_fit"][chosen[1]] / 6.0
    total = np.zeros(2)
    for _ in range(4):
        table = sources["x_fit"] + 0.5 - total[0], sources["y_fit"] - 0.3 - total[1], sources["flux_fit"]
        total -= common_step(cut_stamps(image, weight, table, chosen, psf, CONFIG), psf)
    np.testing.assert_allclose(total, (0.5, -0.3), atol=0.02)
    assert common_step([], psf) == (0.0, 0.0)


def test_the_misfits_slopes_are_its_derivatives():
    stamps = stamps_with(kernel_anchor_K=10)
    library = PSF(gaussian_library(LIBRARY_SIGMA))
    for family, values in TRUTHS.items():
        kernel = Kernel(family, values)
        for alone in (False, True):
            found = misfit(stamps, library.with_kernel(kernel), alone=alone)
            for k in range(kernel.coordinates.size):
                h = 1e-3 * np.eye(kernel.coordinates.size)[k]
                high, low = (
                    misfit(
                        stamps,
                        library.with_kernel(Kernel.from_coordinates(family, kernel.coordinates + s * h)),
                        alone=alone,
                    )
                    for s in (1, -1)
                )
                # half of the derivative
                assert found.gradient[k] == pytest.approx((high.value - low.value) / 4e-3, rel=1e-3)


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

"""The kernel of a scale fit in a filter too broad to tell its stars apart, from the base filter's positions."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars

from sphot_mpi.calibrate import sound_sources
from sphot_mpi.config import load_config
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.psf import PSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, Cutout, SersicParams
from sphot_mpi.seed_anchors import anchor_stars
from sphot_mpi.seed_kernel import recalibrate, with_kernel
from sphot_mpi.seed_stages import fit_stars, sersic_residual, start_state, with_galaxy

SHAPE, NOISE = (101, 111), 0.003
LIBRARY, BLUR = gaussian_library(2.4, (121, 121)), 2.0
SHIFT = (0.62, -0.41)
#: Too faint to matter; only its place counts.
GALAXY = SersicParams(amplitude=1e-9, r_eff=4.0, n=1.0, x_0=55.0, y_0=50.0, ellip=0.0, theta=0.0)
CONFIG = load_config(preset="sphot-calibrated").replaced({"prep": {"auto_crop": False}, "psf": {"th_min": 3.0}})


def scene(seed=0, mask=None):
    """Stars so dense, one in 50 px, that what the PSF shows are blends; the base filter's table; true fluxes."""
    rng = np.random.default_rng(seed)
    n = SHAPE[0] * SHAPE[1] // 50
    base = np.zeros(n, SOURCE_DTYPE)
    base["id"] = np.arange(1, n + 1)
    base["x_fit"], base["y_fit"] = rng.uniform(-1, SHAPE[1], n), rng.uniform(-1, SHAPE[0], n)
    base["flux_fit"] = 1.0 + rng.pareto(1.3, n)
    sigma = np.hypot(2.4, BLUR)
    # another colour for every star
    flux = base["flux_fit"] * rng.uniform(0.5, 2.0, n)
    image = gaussian_stars(SHAPE, base["x_fit"] + SHIFT[0], base["y_fit"] + SHIFT[1], flux, sigma)
    mask = np.zeros(SHAPE, bool) if mask is None else mask
    cutout = Cutout(
        galaxy="g", filter="F160W", data=image + rng.normal(0.0, NOISE, SHAPE), mask=mask, error=np.full(SHAPE, NOISE)
    )
    return with_galaxy(start_state(cutout, LIBRARY), (GALAXY,), CONFIG.psf), base, flux


def passes(state, count):
    """Widths of the kernel from pass to pass, and the last state."""
    widths = []
    for _ in range(count):
        state = fit_stars(state, CONFIG)
        state = with_kernel(*recalibrate(state, CONFIG))
        widths.append(state.psf.kernel.width)
    return widths, state


def test_a_broad_filters_kernel_neither_climbs_nor_takes_blends_for_stars():
    alone = []
    for seed in range(3):
        state, base, _ = scene(seed)
        widths, end = passes(replace(state, base_sources=base), 4)
        # 30 anchors know it to 0.02 px
        assert widths[-1] == pytest.approx(BLUR, abs=0.05)
        assert np.ptp(widths[1:]) < 0.05
        assert end.star_shift == pytest.approx(SHIFT, abs=0.1)
        assert not end.flags & (FitFlag.KERNEL_FEW_ANCHORS | FitFlag.KERNEL_BOOTSTRAP | FitFlag.KERNEL_AT_BOUND)
        alone.append(passes(state, 4)[0][-1])
    # without the base filter it is blends that are measured
    assert np.mean(alone) > BLUR + 0.1


def test_the_base_filters_stars_have_this_filters_fluxes():
    state, base, flux = scene()
    state = replace(state, base_sources=base)
    state = with_kernel(*recalibrate(state, CONFIG))
    state, stars = anchor_stars(state, state.cutout.data, CONFIG)
    anchored = (stars["flags"] & int(SourceFlag.ANCHORED)) != 0
    assert anchored.all()
    position = {int(number): k for k, number in enumerate(base["id"])}
    true = flux[[position[int(number)] for number in stars["id"]]]
    bright = true > 10.0
    assert bright.sum() > 5
    # positions are off by some hundredths of a pixel, and neighbours share their light
    np.testing.assert_allclose(stars["flux_fit"][bright], true[bright], rtol=0.2)
    # what is below the noise among its neighbours tells no kernel
    assert (stars["snr"][sound_sources(stars)] > 5.0).all()


def test_what_no_pixel_sees_is_no_star_and_own_stars_help_where_the_base_filter_has_none():
    mask = np.zeros(SHAPE, bool)
    mask[60:] = True
    state, base, _ = scene(mask=mask)
    own = base[base["x_fit"] > 80.0]
    own = np.array(own[own["y_fit"] < 55.0])
    for name, shift in zip(("x_fit", "y_fit"), SHIFT, strict=True):
        own[name] += shift
    near = base[base["x_fit"] < 70.0]
    state = replace(
        state, base_sources=near, sources=own, renderer=state.renderer.with_psf(PSF(LIBRARY, Kernel(values=(2.0,))))
    )
    _, stars = anchor_stars(state, sersic_residual(state), CONFIG)
    # a star so far from any usable pixel may have any flux
    assert stars["y_fit"].max() < 60.0 + state.psf.fwhm
    assert stars["flux_fit"].max() < 3.0 * base["flux_fit"].max()
    known = (stars["flags"] & int(SourceFlag.ANCHORED)) != 0
    assert known.any()
    assert (~known).sum() > 0.8 * own.size
    # they are neighbours, not anchors
    assert not sound_sources(stars)[~known].any()


def test_without_enough_of_them_a_filter_has_its_own_anchors():
    state, base, _ = scene()
    state = fit_stars(replace(state, base_sources=base[:2]), CONFIG)
    same, stars = anchor_stars(state, sersic_residual(state), CONFIG)
    assert same is state
    assert stars is state.sources
    # so it is where all of them lie where there are no data, and where none of them shines
    unseen = np.array(base)
    unseen["x_fit"] += 500.0
    assert anchor_stars(replace(state, base_sources=unseen), state.cutout.data, CONFIG)[1] is state.sources
    dark = replace(state, base_sources=base, cutout=replace(state.cutout, data=np.zeros(SHAPE)), sources=state.sources)
    assert anchor_stars(dark, np.zeros(SHAPE), CONFIG)[1] is dark.sources

"""The seed's pipelines on a scene drawn by GalSim (galaxy) and error functions (stars)."""

from dataclasses import replace
from types import SimpleNamespace

import galsim
import numpy as np
import pytest
from scipy.special import erf

from sphot_mpi import seed_kernel, seed_loop, seed_pipeline, seed_stages
from sphot_mpi.calibrate import Calibration
from sphot_mpi.config import load_config
from sphot_mpi.errors import FitError
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, Cutout, KernelFit, SersicParams
from sphot_mpi.seed_kernel import with_kernel
from sphot_mpi.seed_loop import alternate, parameter_change
from sphot_mpi.seed_pipeline import fit_base_seed, fit_scaled_seed, method_of_pass, star_density_ratio
from sphot_mpi.seed_stages import (
    psf_modelimg,
    psf_sub_data,
    residual,
    residual_masked,
    sersic_modelimg,
    sersic_residual,
    start_state,
    with_galaxy,
    with_sources,
)
from sphot_mpi.sersic import total_flux
from sphot_mpi.sersic_profile import elliptical_radius
from sphot_mpi.sersic_result import SersicFit

SHAPE = (101, 131)
NOISE = 0.01
SIGMA = {"F150W": 1.2, "F814W": 1.5}
TRUTH = SersicParams(amplitude=0.5, r_eff=8.0, n=1.5, x_0=66.3, y_0=49.6, ellip=0.35, theta=0.7)
CONFIG = load_config(preset="sphot").replaced({"core": {"sersic_method": "lm"}})


def pixel_gaussian(offset, sigma):
    scale = np.sqrt(2.0) * sigma
    return 0.5 * (erf((offset + 0.5) / scale) - erf((offset - 0.5) / scale))


def library(sigma):
    row = pixel_gaussian((np.arange(97) - 48) / 4, sigma)
    return LibraryPSF.from_array(np.outer(row, row), 4)


def galaxy_image(params, sigma):
    profile = galsim.Sersic(
        n=params.n, half_light_radius=params.r_eff * np.sqrt(1.0 - params.ellip), flux=total_flux(params)
    ).shear(q=1.0 - params.ellip, beta=params.theta * galsim.radians)
    profile = galsim.Convolve(profile, galsim.Gaussian(sigma=sigma))
    offset = (params.x_0 - (SHAPE[1] - 1) / 2, params.y_0 - (SHAPE[0] - 1) / 2)
    return profile.drawImage(nx=SHAPE[1], ny=SHAPE[0], scale=1.0, offset=offset).array.astype(np.float64)


def star_table(n=60, seed=3):
    """Stars of S/N 20 and more, none in the galaxy's core."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, SHAPE[1] - 1, 3 * n), rng.uniform(0, SHAPE[0] - 1, 3 * n)
    far = np.hypot(x - TRUTH.x_0, y - TRUTH.y_0) > 12.0
    return x[far][:n], y[far][:n], 1.0 + rng.pareto(1.5, n)


def star_image(x, y, flux, sigma):
    columns = pixel_gaussian(np.arange(SHAPE[1])[None, :] - x[:, None], sigma)
    rows = pixel_gaussian(np.arange(SHAPE[0])[None, :] - y[:, None], sigma)
    return np.einsum("s,sy,sx->yx", flux, rows, columns)


def scene(name="F150W", *, scale=1.0, shift=(0.0, 0.0), seed=0, extra=()):
    """One filter: galaxy, stars, a tilted sky, noise and a chip edge."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sx, sy, flux = star_table()
    for star in extra:
        sx, sy, flux = (np.append(values, value) for values, value in zip((sx, sy, flux), star, strict=True))
    moved = replace(TRUTH, amplitude=scale * TRUTH.amplitude, x_0=TRUTH.x_0 + shift[0], y_0=TRUTH.y_0 + shift[1])
    data = 0.4 + 2e-4 * (x - 65) - 3e-4 * (y - 50) + galaxy_image(moved, SIGMA[name])
    data += star_image(sx + shift[0], sy + shift[1], scale * flux, SIGMA[name])
    data += np.random.default_rng(seed).normal(0.0, NOISE, SHAPE)
    mask = x + y < 45
    data[mask] = np.nan
    return Cutout(galaxy="g", filter=name, data=data, error=np.full(SHAPE, NOISE), mask=mask, full_shape=SHAPE)


@pytest.fixture(scope="module")
def base():
    return fit_base_seed(scene(), library(SIGMA["F150W"]), CONFIG)


def found_stars(fit, x, y, radius=0.5):
    """Index of the reported source within `radius` px of each position; -1: none."""
    table = fit.sources[fit.report]
    distance = np.hypot(table["x_fit"][None, :] - x[:, None], table["y_fit"][None, :] - y[:, None])
    nearest = distance.argmin(axis=1)
    return np.where(distance[np.arange(x.size), nearest] < radius, nearest, -1), table


def test_base_fit_recovers_galaxy_and_sky(base):
    (galaxy,) = base.components
    # errors of a free fit are 0.3 %; the ladder's stamps and the alternation's sky leave about one error more
    assert base.total_flux == pytest.approx(total_flux(TRUTH), rel=0.01)
    assert galaxy.r_eff == pytest.approx(TRUTH.r_eff, rel=0.015)
    assert galaxy.n == pytest.approx(TRUTH.n, abs=0.05)
    assert galaxy.ellip == pytest.approx(TRUTH.ellip, abs=0.01)
    assert galaxy.theta == pytest.approx(TRUTH.theta, abs=0.02)
    assert np.hypot(galaxy.x_0 - TRUTH.x_0, galaxy.y_0 - TRUTH.y_0) < 0.03
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    np.testing.assert_allclose(base.sky.render(SHAPE), 0.4 + 2e-4 * (x - 65) - 3e-4 * (y - 50), atol=0.4 * NOISE)
    assert base.converged
    assert base.chi2_reduced < 1.15
    assert base.n_pix == (~scene().mask).sum()
    assert base.masked_fraction == pytest.approx(scene().mask.mean())
    assert not base.flags & (FitFlag.NOT_CONVERGED | FitFlag.AT_BOUND | FitFlag.STEP_FAILED | FitFlag.NO_SOURCES)
    assert base.covariance.shape == (7, 7)
    assert 0.0 < base.total_flux_err < 0.02 * base.total_flux
    assert np.isfinite(base.sky_covariance).all()
    assert 0.9 * base.total_flux < base.flux_in_cutout < base.total_flux


def test_base_fit_recovers_the_stars(base):
    x, y, flux = star_table()
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    alone = np.partition(distance, 1, axis=1)[:, 1] > 5.0
    inside = (x + y > 52) & (np.minimum(x, SHAPE[1] - 1 - x) > 4) & (np.minimum(y, SHAPE[0] - 1 - y) > 4)
    good = alone & inside & (flux > 1.5)
    assert good.sum() > 10
    index, table = found_stars(base, x[good], y[good])
    # stars of S/N 30 and more; cuts at 3 sigma of the population may take one or two of a few dozen
    assert (index >= 0).mean() > 0.85
    ratio = table["flux_fit"][index[index >= 0]] / flux[good][index >= 0]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    core = elliptical_radius(SHAPE, base.components[0])
    column, row = (np.rint(base.sources[c]).astype(int) for c in ("x_fit", "y_fit"))
    inside = core[np.clip(row, 0, SHAPE[0] - 1), np.clip(column, 0, SHAPE[1] - 1)] < base.components[0].r_eff
    assert ((base.sources["flags"] & int(SourceFlag.IN_GALAXY)) > 0).tolist() == inside.tolist()


@pytest.mark.slow
def test_the_seeds_searches_end_where_levenberg_marquardt_does(base):
    config = load_config(preset="sphot").replaced({"core": {"iter_basefit": 4}})
    fit = fit_base_seed(scene(), library(SIGMA["F150W"]), config)
    # both stop when the Sersic moves by less than 1e-3
    assert parameter_change(fit.components, base.components) < 5e-3


def test_two_components_are_fitted_where_wanted():
    config = CONFIG.replaced({"core": {"fit_complex_model": True, "iter_basefit": 2, "use_final_polish": False}})
    fit = fit_base_seed(scene(), library(SIGMA["F150W"]), config)
    assert len(fit.components) == 2
    assert fit.flags & FitFlag.SECOND_COMPONENT
    assert fit.components[0].r_eff >= fit.components[1].r_eff
    assert fit.total_flux == pytest.approx(total_flux(TRUTH), rel=0.03)


def test_kernel_is_calibrated_in_the_main_loop():
    config = load_config(preset="sphot-calibrated").replaced({"core": {"sersic_method": "lm", "iter_basefit": 4}})
    fit = fit_base_seed(scene(), library(0.8), config)
    # the kernel that turns 0.8 into 1.2 px; sources below the ladder's threshold blur it
    assert fit.kernel.values[0] == pytest.approx(np.sqrt(1.2**2 - 0.8**2), abs=0.04)
    assert fit.kernel.n_anchors > 10
    assert fit.total_flux == pytest.approx(total_flux(TRUTH), rel=0.02)


def test_a_fit_starts_from_the_library_alone():
    """`prep.blur_psf` was put on the library when it was read; a second time would blur twice."""
    assert start_state(scene(), library(0.8)).psf.kernel.values == (0.0,)


@pytest.mark.parametrize("mode", ["free", "forced", "anchored"])
def test_scale_fit_pins_the_shape_and_finds_brightness_and_offset(base, mode):
    extra = ((110.0, 20.0, 8.0),)
    cutout = scene("F814W", scale=0.6, shift=(0.25, -0.15), seed=1, extra=extra)
    config = CONFIG.replaced({"core": {"scale_positions": mode}})
    fit = fit_scaled_seed(cutout, library(SIGMA["F814W"]), base, scene(), config)
    (galaxy,), (reference,) = fit.components, base.components
    assert (galaxy.r_eff, galaxy.n, galaxy.ellip, galaxy.theta) == (
        reference.r_eff, reference.n, reference.ellip, reference.theta,
    )  # fmt: skip
    assert fit.total_flux == pytest.approx(0.6 * total_flux(TRUTH), rel=0.01 if mode == "free" else 0.02)
    # the base filter's own error of the centre is 0.01 px
    np.testing.assert_allclose(fit.shift, (0.25, -0.15), atol=0.05)
    red, _ = found_stars(fit, np.array([110.25]), np.array([19.85]))
    assert (red[0] >= 0) == (mode != "forced")
    assert bool(fit.flags & FitFlag.FORCED) == (mode == "forced")
    anchored = fit.sources["base_id"] > 0
    assert anchored.any() == (mode != "free")
    if mode != "free":
        sound = base.sources[base.report]
        assert fit.sources["base_id"][anchored].tolist() == sound["id"].tolist()
        # pinned to the base filter's stars, moved as a whole
        np.testing.assert_allclose(fit.sources["x_fit"][anchored] - sound["x_fit"], 0.25, atol=0.03)
        np.testing.assert_allclose(fit.sources["y_fit"][anchored] - sound["y_fit"], -0.15, atol=0.03)
        assert np.unique(fit.sources["id"]).size == fit.sources.size


def test_scale_fit_with_refit_frees_the_shape(base):
    other = replace(TRUTH, amplitude=0.8, r_eff=6.0)
    cutout = scene("F814W")
    data = cutout.data - galaxy_image(TRUTH, SIGMA["F814W"]) + galaxy_image(other, SIGMA["F814W"])
    config = CONFIG.replaced({"core": {"allow_refit": True}})
    fit = fit_scaled_seed(replace(cutout, data=data), library(SIGMA["F814W"]), base, scene(), config)
    assert fit.components[0].r_eff == pytest.approx(6.0, rel=0.02)


def test_scale_fit_reads_positions_through_the_origins(base):
    cutout = scene("F814W", seed=1)
    cropped = replace(
        cutout, data=cutout.data[5:, 9:], error=cutout.error[5:, 9:], mask=cutout.mask[5:, 9:], origin=(9, 5)
    )
    fit = fit_scaled_seed(cropped, library(SIGMA["F814W"]), base, scene(), CONFIG)
    assert fit.components[0].x_0 == pytest.approx(base.components[0].x_0 - 9, abs=0.05)
    assert fit.components[0].y_0 == pytest.approx(base.components[0].y_0 - 5, abs=0.05)


def test_scale_fit_without_a_base_galaxy_is_an_error(base):
    with pytest.raises(FitError, match="F150W has no galaxy"):
        fit_scaled_seed(scene("F814W"), library(1.5), replace(base, components=()), scene(), CONFIG)


def test_residuals_are_derived_from_the_state():
    state = with_galaxy(start_state(scene(), library(1.2)), (TRUTH,), CONFIG.psf)
    x, y, flux = star_table()
    sources = np.zeros(x.size, SOURCE_DTYPE)
    sources["x_fit"], sources["y_fit"], sources["flux_fit"] = x, y, flux
    state = with_sources(state, sources, CONFIG.psf)
    data, stars, galaxy = state.cutout.data, psf_modelimg(state), sersic_modelimg(state)
    sky = state.sky_stars.render(SHAPE)
    np.testing.assert_array_equal(sersic_residual(state), data - galaxy - state.sky_galaxy.render(SHAPE))
    np.testing.assert_array_equal(psf_sub_data(state), data - stars - sky)
    np.testing.assert_allclose(residual(state), data - stars - galaxy - sky, atol=1e-12)
    masked = residual_masked(state, CONFIG.psf)
    assert np.isnan(masked[state.cutout.mask]).all()
    # with everything true, noise is left: 11,000 pixels give its width to 1 %
    assert np.nanstd(masked) == pytest.approx(NOISE, rel=0.03)
    assert abs(np.nanmean(masked)) < 0.05 * NOISE


class Steps:
    """A galaxy whose r_eff follows a script, and stars that are never found."""

    def __init__(self, monkeypatch, radii):
        self.radii, self.passes = radii, []
        # photometry and sky are not what is tested
        monkeypatch.setattr(seed_loop, "with_galaxy", lambda state, parts, _: replace(state, components=parts))

    def galaxy(self, state, image, index):
        self.passes.append(index)
        components = (replace(TRUTH, r_eff=self.radii[min(index, len(self.radii) - 1)]),)
        return SersicFit(
            components=components, covariance=np.zeros((7, 7)), total_flux=1.0, total_flux_err=1.0,
            sky=state.sky_stars, sky_covariance=np.zeros((3, 3)), chi2=1.0, n_pix=1, converged=True,
            n_evaluations=1, at_bound=False, method="lm",
        )  # fmt: skip

    def run(self, limit, **core):
        config = CONFIG.replaced({"core": {"mainloop_convergence_atol": 1e-3, **core}})
        state = replace(start_state(scene(), library(1.2)), components=(TRUTH,))
        return alternate(state, self.galaxy, lambda state: state, limit, config)


def test_the_loop_needs_patience(monkeypatch):
    steps = Steps(monkeypatch, [9.0, 9.0, 8.0, 8.001, 8.002, 7.0])
    end = steps.run(10, mainloop_convergence_patience=2, mainloop_min_iter=0)
    # quiet are the passes 1, 3 and 4: a single quiet one does not end it
    assert steps.passes == [0, 1, 2, 3, 4]
    assert end.converged
    assert end.passes == 5


def test_the_loop_has_a_floor_and_a_limit(monkeypatch):
    steps = Steps(monkeypatch, [8.0])
    assert steps.run(10, mainloop_convergence_patience=1, mainloop_min_iter=4).passes == 4
    restless = Steps(monkeypatch, [9.0, 8.0, 9.0, 8.0])
    end = restless.run(3, mainloop_convergence_patience=1, mainloop_min_iter=0)
    assert (end.passes, end.converged) == (3, False)


def test_parameter_change_has_no_units():
    scaled = replace(TRUTH, amplitude=TRUTH.amplitude * 1.01)
    assert parameter_change((TRUTH,), (scaled,)) == pytest.approx(np.log(1.01))
    moved = replace(TRUTH, x_0=TRUTH.x_0 + 0.08)
    assert parameter_change((TRUTH,), (moved,)) == pytest.approx(0.01)
    # half a turn is the same ellipse
    assert parameter_change((TRUTH,), (replace(TRUTH, theta=TRUTH.theta + np.pi),)) < 1e-12
    assert parameter_change((TRUTH,), (TRUTH, TRUTH)) == float("inf")


def test_methods_of_the_passes_are_the_seeds():
    seed = load_config(preset="sphot").core
    assert [method_of_pass(seed, i) for i in (-1, 0, 1)] == ["iterative_NM", "dual_annealing", "iterative_NM"]
    calm = load_config(preset="sphot").replaced({"core": {"use_dual_annealing": False}}).core
    assert method_of_pass(calm, 0) == "iterative_NM"
    assert method_of_pass(CONFIG.core, 0) == "lm"


def test_chi2_is_counted_a_pixel_as_in_the_joint_fits():
    image = replace(scene(), data=np.full(SHAPE, 2.0 * NOISE), mask=np.arange(SHAPE[0])[:, None] + np.zeros(SHAPE) > 0)
    state = start_state(image, library(1.2))
    fit = SimpleNamespace(covariance=np.zeros((0, 0)), total_flux_err=0.0, at_bound=False)
    end = seed_loop.Alternation(state=state, fit=fit, passes=1, converged=True)
    found = seed_pipeline._result(end, 0.0)
    assert (found.n_pix, found.chi2_reduced) == (SHAPE[1], pytest.approx(4.0))


def test_star_density_ratio_compares_light_per_area():
    state = replace(start_state(scene(), library(1.2)), components=(TRUTH,))
    radius = elliptical_radius(SHAPE, TRUTH)
    rows, columns = np.nonzero(~state.cutout.mask)
    sources = np.zeros(rows.size, SOURCE_DTYPE)
    sources["x_fit"], sources["y_fit"], sources["flux_fit"] = columns, rows, 1.0
    assert star_density_ratio(replace(state, sources=sources)) == pytest.approx(1.0)
    sources["flux_fit"][radius[rows, columns] < TRUTH.r_eff] = 3.0
    assert star_density_ratio(replace(state, sources=sources)) == pytest.approx(3.0)
    assert np.isnan(star_density_ratio(state))


CALIBRATED = load_config(preset="sphot-calibrated").replaced(
    {"core": {"sersic_method": "lm", "iter_basefit": 1, "iter_scalefit": 1}, "psf": {"th_min": 5.0, "th_iter": 4}}
)


@pytest.mark.parametrize("polish", [True, False])
@pytest.mark.parametrize("mode", [None, "free", "forced", "anchored"])
def test_what_is_saved_was_measured_under_the_saved_kernel(base, monkeypatch, mode, polish):
    used = []
    for name in ("fit_ladder", "forced_photometry"):
        original = getattr(seed_stages, name)

        def spy(image, error, mask, psf, *args, original=original, **kwargs):
            used.append(psf.kernel)
            return original(image, error, mask, psf, *args, **kwargs)

        monkeypatch.setattr(seed_stages, name, spy)
    config = CALIBRATED.replaced({"core": {"use_final_polish": polish, "scale_positions": mode or "free"}})
    if mode is None:
        fit = fit_base_seed(scene(), library(0.8), config)
    else:
        fit = fit_scaled_seed(scene("F814W", seed=1), library(0.9), base, scene(), config)
    assert (used[-1].family, used[-1].values) == (fit.kernel.family, fit.kernel.values)
    # and the kernel was not there from the start
    assert used[0] != used[-1]


def calibrated_state(*sigmas):
    """A state that has been through kernels of the given sigmas."""
    state = with_galaxy(start_state(scene(), library(0.8)), (TRUTH,), CALIBRATED.psf)
    for sigma in sigmas:
        kernel = Kernel("gaussian", (sigma,))
        fit = KernelFit(values=kernel.values, fwhm=state.psf.with_kernel(kernel).fwhm)
        state = with_kernel(state, Calibration(kernel=kernel, fit=fit, flags=FitFlag.KERNEL_BOOTSTRAP))
    return state


def test_a_kernel_that_would_alternate_is_put_halfway():
    state = calibrated_state(1.0, 1.4, 1.0)
    # halfway in variance, in which the PSF is nearly linear
    assert state.psf.kernel.values[0] == pytest.approx(np.sqrt(0.5 * (1.0 + 1.4**2)))
    assert state.kernel.values == state.psf.kernel.values
    assert state.kernel.fwhm == pytest.approx(state.psf.fwhm)
    # one that goes on, or only trembles, is taken as it is
    assert calibrated_state(1.0, 1.2, 1.3).psf.kernel.values == (1.3,)
    assert calibrated_state(1.0, 1.01, 1.0).psf.kernel.values == (1.0,)
    # flags are those of the last calibration
    done = Calibration(kernel=state.psf.kernel, fit=state.kernel, flags=FitFlag(0))
    assert state.flags & FitFlag.KERNEL_BOOTSTRAP
    assert not with_kernel(state, done).flags & FitFlag.KERNEL_BOOTSTRAP


def test_the_loop_waits_for_the_kernel(monkeypatch):
    steps = Steps(monkeypatch, [8.0])
    config = CONFIG.replaced({"core": {"mainloop_convergence_patience": 1, "mainloop_min_iter": 0}})
    state = replace(start_state(scene(), library(1.2)), components=(TRUTH,))
    sigmas = iter([0.5, 1.0, 1.5, 1.5, 1.5])

    def star_step(state):
        kernel = Kernel("gaussian", (next(sigmas),))
        return with_kernel(state, Calibration(kernel=kernel, fit=state.kernel, flags=FitFlag(0)))

    end = alternate(state, steps.galaxy, star_step, 10, config)
    # the galaxy is quiet from the second pass on, the kernel in the fourth
    assert (end.passes, end.converged) == (4, True)


def test_the_matched_filter_is_scanned_where_wanted(monkeypatch):
    scans = []
    monkeypatch.setattr(seed_kernel, "scan_fwhm", lambda *_: scans.append(1) or 1.3)
    state = replace(calibrated_state(1.0, 1.1), dao_fwhm_factor=0.9)
    same, other = state.psf.kernel, Kernel("gaussian", (1.0,))

    def after(old, **changes):
        scans.clear()
        config = CALIBRATED.replaced({"psf-calib": changes})
        return seed_kernel.with_matched_filter(state, old, config).dao_fwhm_factor, len(scans)

    skip = {"fwhm_method": "scan", "kernel_fit_skip_on_convergence": True}
    assert after(same, fwhm_method="empirical") == (1.0, 0)
    assert after(same, fwhm_method="scan") == (1.3, 1)
    assert after(same, **skip) == (0.9, 0)
    assert after(other, **skip) == (1.3, 1)
    # kernels of 1.0 and 1.1 px differ by 0.14 of their RMS
    assert after(other, **skip, kernel_skip_threshold=0.2) == (0.9, 0)


def test_the_next_ladder_takes_the_scanned_filter(monkeypatch):
    factors = []
    original = seed_stages.fit_ladder

    def spy(*args, fwhm_factor, **kwargs):
        factors.append(fwhm_factor)
        return original(*args, fwhm_factor=fwhm_factor, **kwargs)

    monkeypatch.setattr(seed_stages, "fit_ladder", spy)
    state = replace(calibrated_state(1.0), dao_fwhm_factor=0.7)
    narrow = seed_stages.fit_stars(state, CALIBRATED).sources
    wide = seed_stages.fit_stars(replace(state, dao_fwhm_factor=1.6), CALIBRATED).sources
    assert factors == [0.7, 1.6]
    assert narrow.size != wide.size or not np.array_equal(narrow["x_fit"], wide["x_fit"])


def test_the_kernel_keeps_out_of_the_loop_unless_wanted():
    state = calibrated_state(0.5)
    off = CALIBRATED.replaced({"psf-calib": {"in_mainloop": False}})
    assert seed_loop.calibrated(state, off) is state
    x, y, flux = star_table()
    sources = np.zeros(x.size, SOURCE_DTYPE)
    sources["x_fit"], sources["y_fit"], sources["flux_fit"] = x, y, flux
    on = seed_loop.calibrated(with_sources(state, sources, CALIBRATED.psf), CALIBRATED)
    # the kernel that turns 0.8 into 1.2 px, from the true sources
    assert on.psf.kernel.values[0] == pytest.approx(np.sqrt(1.2**2 - 0.8**2), abs=0.03)

"""The threshold ladder, its final refits, the quality cuts and forced photometry."""

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from analytic import gaussian_library
from scipy import ndimage, optimize
from scipy.spatial import cKDTree

from sphot_mpi import ladder_refit
from sphot_mpi.config import load_config
from sphot_mpi.errors import FitError
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.flux_solve import solve_joint, solve_pinned
from sphot_mpi.forced import forced_photometry
from sphot_mpi.ladder import fit_ladder
from sphot_mpi.ladder_refit import unrelated
from sphot_mpi.point_render import render_sources
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, SersicParams
from sphot_mpi.source_cuts import mark_cut, quality_cuts, quality_passing

SHAPE = (120, 141)
REAL = Path(os.environ.get("SPHOT_REAL_DATA", Path(__file__).parents[2] / "shared" / "data" / "real"))
GALAXY = SersicParams(amplitude=1.0, r_eff=9.0, n=1.0, x_0=70.0, y_0=60.0, ellip=0.3, theta=0.4)


def config_with(preset="sphot", **changes):
    return load_config(preset=preset).replaced({"psf": changes}).psf


@pytest.fixture(scope="module")
def psf():
    """A Moffat with wings, FWHM 2 px."""
    y, x = (np.mgrid[:161, :161] - 80.0) / 4
    return PSF(LibraryPSF.from_array((1.0 + (y**2 + 1.2 * x**2) / 1.3**2) ** -2.5, 4), Kernel("gaussian", (0.5,)))


class Field:
    """Stars of many fluxes under noise; a hole of NaN."""

    def __init__(self, psf, seed=0, n=140, faintest=60.0):
        rng = np.random.default_rng(seed)
        self.x, self.y = rng.uniform(0, SHAPE[1] - 1, n), rng.uniform(0, SHAPE[0] - 1, n)
        self.flux = np.minimum(faintest * rng.uniform(size=n) ** -1.0, 2e4)
        light = render_sources(SHAPE, psf, self.x, self.y, self.flux)
        self.error = np.sqrt(1.0 + 0.02 * light)
        self.image = light + rng.normal(size=SHAPE) * self.error
        self.image[20:40, 100:125] = np.nan
        self.mask = np.zeros(SHAPE, bool)
        self.mask[:, :3] = True
        usable = np.isfinite(self.image) & ~self.mask
        self.inside = usable[np.rint(self.y).astype(int), np.rint(self.x).astype(int)]

    def fit(self, psf, config, **changes):
        arguments = {"centre": None, "galaxy": None, "background_std": 1.1} | changes
        return fit_ladder(self.image, self.error, self.mask, psf, config, **arguments)

    def match(self, sources, radius=0.7):
        """Row of the table for each star, -1 where there is none."""
        distance, row = cKDTree(np.column_stack((sources["x_fit"], sources["y_fit"]))).query(
            np.column_stack((self.x, self.y))
        )
        return np.where(distance < radius, row, -1)


@pytest.fixture(scope="module")
def field(psf):
    return Field(psf)


@pytest.mark.parametrize("method", ["none", "iterative", "nnls"])
def test_bright_stars_are_found_and_unbiased(psf, field, method):
    result = field.fit(psf, config_with(final_refit_method=method))
    row = field.match(result.sources)
    bright = field.inside & (field.flux > 500.0)
    assert bright.sum() >= 12
    assert (row[bright] >= 0).all()
    ratio = result.sources["flux_fit"][row[bright]] / field.flux[bright]
    # the seed's fluxes are 2 to 5 % low; single errors here are 2 % and less
    assert abs(np.median(ratio) - 1.0) < 0.01
    medium = field.inside & (field.flux > 150.0)
    assert (row[medium] >= 0).mean() > 0.9


def test_residual_of_the_final_refits_is_noise(psf, field):
    for method in ("iterative", "nnls"):
        result = field.fit(psf, config_with(final_refit_method=method, th_min=2.0))
        # noise of 1 plus the photon noise of stars, over most of the pixels
        assert 0.9 < result.residual_mad < 1.1
        assert result.flags == FitFlag(0)


def test_model_is_the_light_of_the_table(psf, field):
    config = config_with(modelimg_render_shape=[17, 17])
    result = field.fit(psf, config)
    expected = render_sources(SHAPE, psf, *(result.sources[name] for name in ("x_fit", "y_fit", "flux_fit")), 8)
    assert np.allclose(result.model, expected, atol=1e-12)
    good = np.isfinite(field.image) & ~field.mask
    residual = (field.image - result.model)[good]
    assert result.residual_mad == pytest.approx(1.482602 * np.median(np.abs(residual - np.median(residual))), rel=1e-6)


def test_table_is_complete_and_sound(psf, field):
    sources = field.fit(psf, config_with(), galaxy=GALAXY).sources
    assert sources["id"].tolist() == list(range(1, sources.size + 1))
    assert quality_passing(sources).all()
    for name in ("flux_err", "x_err", "y_err", "qfit", "snr"):
        assert np.isfinite(sources[name]).all(), name
    assert np.isfinite(sources["reduced_chi2"][sources["n_pixels_fit"] > 3]).all()
    assert np.allclose(sources["snr"], sources["flux_fit"] / sources["flux_err"])
    assert np.array_equal(sources["group_size"], np.bincount(sources["group_id"])[sources["group_id"]])
    near = np.hypot(sources["x_fit"] - GALAXY.x_0, sources["y_fit"] - GALAXY.y_0)
    in_galaxy = (sources["flags"] & int(SourceFlag.IN_GALAXY)) > 0
    assert in_galaxy[near < 0.6 * GALAXY.r_eff].all()
    assert not in_galaxy[near > GALAXY.r_eff + 1.0].any()


def test_ladder_goes_down_geometrically_and_brightest_first(psf, field):
    config = config_with(th_min=3.0, th_max=48.0, th_iter=5, final_refit_method="none")
    result = field.fit(psf, config)
    assert np.allclose([s.threshold for s in result.steps], [48.0, 24.0, 12.0, 6.0, 3.0])
    assert sum(s.n_added for s in result.steps) == result.sources.size
    ends = np.cumsum([s.n_added for s in result.steps])
    medians = [np.median(part["flux_fit"]) for part in np.split(result.sources, ends[:-1])]
    assert np.all(np.diff(medians) < 0.0)


def test_ladder_stops_after_empty_steps(psf, field):
    config = config_with(th_max=1e6, th_min=1e5, th_iter=8, th_max_consec_empty=2, final_refit_method="none")
    result = field.fit(psf, config)
    assert len(result.steps) == 2
    assert result.flags == FitFlag.NO_SOURCES
    assert result.sources.size == 0
    assert np.all(result.model == 0.0)


def test_background_sigma_has_a_floor(psf, field):
    free = field.fit(psf, config_with(bkg_floor_factor=0.0), background_std=3.0)
    held = field.fit(psf, config_with(bkg_floor_factor=0.8), background_std=3.0)
    assert free.background_std < 1.5
    assert held.background_std == pytest.approx(2.4)
    assert all(s.background_std == 3.0 for s in field.fit(psf, config_with(bkg_refit_per_iteration=False),
                                                          background_std=3.0).steps)  # fmt: skip


def test_no_source_in_the_centre_or_where_there_is_no_datum(psf, field):
    one = np.flatnonzero(field.inside)[np.argmax(field.flux[field.inside])]
    centre = (field.x[one], field.y[one])
    result = field.fit(psf, config_with(center_mask_r_in_fwhm=3.0), centre=centre)
    distance = np.hypot(result.sources["x_fit"] - centre[0], result.sources["y_fit"] - centre[1])
    assert distance.min() >= 3.0 * psf.fwhm - 0.71  # a pixel belongs to the mask by its centre
    y, x = (np.rint(result.sources[name]).astype(int) for name in ("y_fit", "x_fit"))
    assert np.isfinite(field.image[y, x]).all()
    assert not field.mask[y, x].any()


def test_outliers_are_masked_outside_the_galaxy_only(psf, field):
    spoiled = Field(psf)
    spoiled.image[60, 74] = spoiled.image[100, 20] = -500.0  # a hole is no star
    result = spoiled.fit(psf, config_with(mask_aper_size_in_r_eff=2.0, th_min=20.0), galaxy=GALAXY)
    assert result.outliers[100, 20]
    assert not result.outliers[60, 74]
    assert result.outliers[~np.isfinite(spoiled.image)].all()


def test_input_is_left_alone(psf, field):
    image, error, mask = field.image.copy(), field.error.copy(), field.mask.copy()
    field.fit(psf, config_with(preset="sphot-calibrated"), galaxy=GALAXY, centre=(70.0, 60.0))
    assert np.array_equal(field.image, image, equal_nan=True)
    assert np.array_equal(field.error, error)
    assert np.array_equal(field.mask, mask)


@pytest.mark.parametrize("shape", [(3, 3), (1, 30), (5, 60)])
@pytest.mark.parametrize("value", [0.0, np.nan])
@pytest.mark.parametrize("background_std", [0.0, 1.0, np.nan])
def test_images_without_anything_give_an_empty_table(psf, shape, value, background_std):
    image, error = np.full(shape, value), np.ones(shape)
    result = fit_ladder(image, error, np.zeros(shape, bool), psf, config_with(), centre=(1.0, 0.0), galaxy=None,
                        background_std=background_std)  # fmt: skip
    assert result.sources.size == 0
    assert result.flags == FitFlag.NO_SOURCES
    assert result.model.shape == shape


def test_unknown_background_sigma_is_measured(psf, field):
    unknown = field.fit(psf, config_with(final_refit_method="none"), background_std=np.nan)
    assert unknown.steps[0].background_std > 0.9
    assert unknown.sources.size > 60


def test_failed_refit_is_recorded_or_raised(psf, field, monkeypatch):
    def unfinished(*args, **kwargs):
        solution = solve_pinned(*args, **kwargs)
        return replace(solution, converged=np.zeros(solution.flux.size, bool))

    monkeypatch.setattr(ladder_refit, "solve_pinned", unfinished)
    result = field.fit(psf, config_with(final_refit_method="nnls"))
    assert result.flags == FitFlag.STEP_FAILED
    assert "did not converge" in result.messages[0]
    assert result.sources.size > 50  # the ladder's own
    with pytest.raises(FitError, match="did not converge"):
        field.fit(psf, config_with(final_refit_method="nnls", raise_error=True))


# every key of the section that the ladder reads, with a value that must change the result; some need company
EFFECTS = [
    ("th_min", 12.0, {}),
    ("th_max", 8.0, {"final_refit_method": "none"}),
    ("th_iter", 3, {"final_refit_method": "none"}),
    ("th_max_consec_empty", 1, {"th_max": 8e3, "final_refit_method": "none"}),
    ("bkg_refit_per_iteration", False, {"final_refit_method": "none"}),
    ("bkg_floor_factor", 3.0, {"final_refit_method": "none"}),
    ("ladder_dedup_psfsigma", 8.0, {"final_refit_method": "none", "th_min": 2.0}),
    ("final_refit_method", "nnls", {}),
    ("final_joint_refit", False, {}),
    ("final_refit_xy_bounds", 0.2, {}),
    ("final_refit_iterations", 1, {}),
    ("final_refit_detect_th", 9.0, {}),
    ("final_refit_dedup_psfsigma", 12.0, {}),
    ("final_refit_residual_tol", 0.5, {"final_refit_detect_th": 3.0, "th_min": 20.0}),
    ("final_refit_catastrophic_flux_factor", 0.9, {}),
    ("final_refit_fit_shape", [5, 7], {}),
    ("leftover_max_iterations", 0, {"final_refit_method": "nnls"}),
    ("leftover_detect_k_sigma", 3.0, {"final_refit_method": "nnls"}),
    ("leftover_dedup_psfsigma", 12.0, {"final_refit_method": "nnls", "leftover_detect_k_sigma": 3.0}),
    ("leftover_box_size", 15, {"final_refit_method": "nnls", "leftover_detect_k_sigma": 3.0}),
    ("mask_aper_size_in_r_eff", 0.1, {"th_min": 20.0, "residual_clip_sigma": 5.0, "final_refit_method": "none"}),
    ("residual_clip_sigma", 3.0, {}),
    ("finder_kwargs", {"roundness_range": [-0.1, 0.1]}, {}),
    ("finder_kwargs", {"sharpness_range": [0.6, 1.0]}, {}),
    ("grouper_separation_in_psfsigma", 8.0, {}),
    ("bkg_sigma_clip", 1.5, {"final_refit_method": "none"}),
    ("bkg_box_size", [40, 20], {"final_refit_method": "none"}),
    ("bkg_filter_size", [1, 1], {"final_refit_method": "none"}),
    ("localbkg_bounds_in_psfsigma", [4.0, 9.0], {"final_refit_method": "none"}),
    ("center_mask_r_in_fwhm", 6.0, {}),
    ("PSFPhotometry_aperture_radius", 1.0, {}),
    ("PSFPhotometry_fitter_maxiters", 1, {"final_refit_method": "none"}),
    ("PSFPhotometry_fit_shape_in_fwhm", 4.0, {}),
    ("modelimg_render_shape", [9, 9], {}),
    ("PSFPhotometry_group_warning_threshold", 1, {"grouper_separation_in_psfsigma": 12.0}),
    ("cuts_pos_err_max", 0.01, {}),
    ("cuts_res_cen_sigma_clip", 0.5, {}),
    ("cuts_cfit_sigma_clip", 0.5, {}),
    ("cuts_chi2dof_median_factor", 1.0, {}),
    ("cuts_pos_diff_median_factor", 1.0, {}),
    ("cuts_flux_SNR_min", 50.0, {}),
]


@pytest.mark.parametrize(("key", "value", "company"), EFFECTS, ids=[f"{k}-{v}" for k, v, _ in EFFECTS])
def test_every_key_takes_effect(psf, field, key, value, company):
    def outcome(changes):
        result = field.fit(psf, config_with(**changes), galaxy=GALAXY, centre=(70.0, 60.0))
        # steps tell thresholds and background sigmas, but a bare change of the list is no effect yet
        return result.sources.tobytes(), result.outliers.tobytes(), result.background_std

    assert outcome(company) != outcome(company | {key: value})


def test_the_list_of_effects_is_complete():
    other_methods = {"method", "snr_ladder", "keep_snr", "report_snr", "colour_prior"}
    covered = {key for key, _, _ in EFFECTS} | {"raise_error"}  # which has its own test
    assert set(type(config_with()).model_fields) - other_methods == covered


def test_fwhm_factor_changes_the_finder(psf, field):
    config = config_with(final_refit_method="none")
    found = [field.fit(psf, config, fwhm_factor=factor).sources.size for factor in (1.0, 3.0)]
    assert found[1] < 0.8 * found[0]


@pytest.mark.parametrize("method", ["iterative", "nnls"])
def test_no_level_makes_up_for_leftovers_that_came_out_far_too_bright(monkeypatch, method):
    # where a star is as wide as a box of the background, a pit of the level looks like its light
    broad = PSF(gaussian_library(2.7, (121, 121)), Kernel("gaussian", (2.0,)))
    rng = np.random.default_rng(9)
    x, y, flux = rng.uniform(5, 105, 60), rng.uniform(5, 95, 60), 0.3 * (1.0 + rng.pareto(1.3, 60))
    light = render_sources((101, 111), broad, x, y, flux, 25)
    error, mask = np.full(light.shape, 0.003), np.zeros(light.shape, bool)
    image = light + rng.normal(0.0, 0.003, light.shape)
    changes = {"th_min": 25.0, "leftover_max_iterations": 1, "final_refit_iterations": 2}
    config = config_with("sphot-calibrated", final_refit_method=method, **changes)
    arguments = {"centre": None, "galaxy": None, "background_std": np.nan}
    honest = fit_ladder(image, error, mask, broad, config, **arguments).model.sum()
    fit = ladder_refit.fit_points
    spoiled = []

    def halves_of_pairs(*args):
        found = fit(*args)
        found["flux_fit"] *= 1000.0
        spoiled.append(found.size)
        return found

    monkeypatch.setattr(ladder_refit, "fit_points", halves_of_pairs)
    result = fit_ladder(image, error, mask, broad, config, **arguments)
    assert max(spoiled) > 0
    assert result.model.sum() == pytest.approx(honest, rel=0.02)


def table(n, **columns):
    sources = np.zeros(n, SOURCE_DTYPE)
    sources["flux_fit"], sources["snr"] = 1.0, 100.0
    for name, values in columns.items():
        sources[name] = values
    return sources


def test_unrelated_keeps_the_brighter_of_a_pair():
    old = table(1, x_fit=[10.0], y_fit=[10.0])
    new = table(4, x_fit=[10.5, 30.0, 30.4, 50.0], y_fit=[10.0, 20.0, 20.0, 5.0], flux_fit=[9.0, 2.0, 3.0, 1.0])
    assert unrelated(new, old, 1.0)["x_fit"].tolist() == [30.4, 50.0]
    assert unrelated(new, old, 0.1).size == 4
    assert unrelated(new[:0], old, 1.0).size == 0
    assert unrelated(new, old[:0], 1.0).size == 3


@pytest.mark.parametrize("bit", [2, 4, 32, 64, 128, 256])
def test_quality_filter_knows_the_bad_bits(bit):
    sources = table(3, flags=[bit, bit | 1, 1 | 8 | 16])
    assert quality_passing(sources).tolist() == [False, False, True]


def test_quality_filter_wants_light_and_numbers():
    sources = table(4, flux_fit=[0.0, np.nan, 1.0, 1.0], x_fit=[1.0, 1.0, np.inf, 1.0])
    assert quality_passing(sources).tolist() == [False, False, False, True]


def test_each_cut_takes_what_it_names():
    rng = np.random.default_rng(1)
    n = 50
    y, x = np.arange(n) // 10 * 4 + 2.0, np.arange(n) % 10 * 4 + 2.0
    sources = table(
        n, x_fit=x, y_fit=y, x_init=x + rng.uniform(0.05, 0.15, n), y_init=y, x_err=0.1, y_err=0.1,
        cfit=rng.normal(scale=0.01, size=n), reduced_chi2=rng.uniform(0.8, 1.2, n),
    )  # fmt: skip
    residual = rng.uniform(0.2, 1.0, (25, 45))
    sources["x_err"][1] = 2.1
    residual[int(y[2]), int(x[2])] = -30.0
    sources["cfit"][3] = 0.2
    sources["reduced_chi2"][4] = 3.5
    sources["x_init"][5] = x[5] + 0.5
    sources["snr"][6] = 0.9
    config = config_with()
    cuts = quality_cuts(sources, residual, np.ones(residual.shape), config)
    expected = {
        "cuts_pos_err_max": 1, "cuts_res_cen_sigma_clip": 2, "cuts_cfit_sigma_clip": 3,
        "cuts_chi2dof_median_factor": 4, "cuts_pos_diff_median_factor": 5, "cuts_flux_SNR_min": 6,
    }  # fmt: skip
    assert {key: np.flatnonzero(mask).tolist() for key, mask in cuts.items()} == {k: [v] for k, v in expected.items()}
    marked = mark_cut(sources, residual, np.ones(residual.shape), config)
    assert np.flatnonzero(marked["flags"] & int(SourceFlag.CUT)).tolist() == [1, 2, 3, 4, 5, 6]


def test_pinned_or_unknown_values_are_not_cut():
    sources = table(5, x_err=np.nan, y_err=np.nan, reduced_chi2=np.nan, cfit=0.0, snr=np.nan)
    cuts = quality_cuts(sources, np.zeros((5, 5)), np.zeros((5, 5)), config_with())
    assert not any(mask.any() for mask in cuts.values())


def test_pinned_solve_equals_scipy_and_its_errors_the_dense_inverse(psf):
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-2, 42, 60), rng.uniform(-2, 32, 60)
    shape = (30, 40)
    image = render_sources(shape, psf, x, y, rng.exponential(50.0, 60), 12) + rng.normal(size=shape)
    weight = rng.uniform(0.5, 1.5, shape) * (rng.uniform(size=shape) > 0.1)
    design = np.array(
        [render_sources(shape, psf, x[i : i + 1], y[i : i + 1], np.ones(1), 12).ravel() for i in range(60)]
    )
    root = np.sqrt(weight.ravel())
    expected, _ = optimize.nnls((design * root).T, image.ravel() * root, maxiter=10_000)
    solution = solve_pinned(image, weight, psf, x, y, radius=12)
    assert np.allclose(solution.flux, expected, atol=1e-8 * expected.max())
    signed = solve_pinned(image, weight, psf, x, y, radius=12, signed=True)
    gram = (design * weight.ravel()) @ design.T
    assert np.allclose(signed.flux, np.linalg.solve(gram, design @ (weight * image).ravel()), rtol=1e-5, atol=1e-3)
    # errors come from the 20 strongest neighbours
    assert np.allclose(signed.flux_err, np.sqrt(np.diag(np.linalg.inv(gram))), rtol=0.05)


@pytest.mark.parametrize("xy_bound", [0.0, 0.5])
def test_joint_solve_finds_blended_stars(psf, xy_bound):
    rng = np.random.default_rng(3)
    x, y = rng.uniform(5, 75, 60), rng.uniform(5, 55, 60)
    flux = rng.uniform(300.0, 3000.0, 60)
    shape = (61, 80)
    image = render_sources(shape, psf, x, y, flux, 12) + rng.normal(size=shape)
    offset = rng.uniform(-0.2, 0.2, (2, 60)) if xy_bound else np.zeros((2, 60))
    solution = solve_joint(image, np.ones(shape), psf, 0.8 * flux, x + offset[0], y + offset[1], fit_shape=(11, 11),
                           radius=12, xy_bound=xy_bound)  # fmt: skip
    assert solution.converged.all()
    assert np.abs(solution.x - x - offset[0]).max() <= xy_bound + 1e-12
    pull = (solution.flux - flux) / solution.flux_err
    # 60 stars: the standard deviation is good to 0.1
    assert 0.75 < np.std(pull) < 1.3
    if xy_bound:
        assert 0.75 < np.std((solution.x - x) / solution.x_err) < 1.3


def forced_scene(psf, seed=4):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, 140, 150), rng.uniform(0, 119, 150)
    flux = np.where(np.arange(150) < 75, rng.uniform(200.0, 3000.0, 150), 0.0)
    image = render_sources(SHAPE, psf, x, y, flux) + rng.normal(size=SHAPE)
    return x, y, flux, image


def test_forced_photometry_pins_positions_and_keeps_the_order(psf):
    x, y, flux, image = forced_scene(psf)
    result = forced_photometry(image, np.ones(SHAPE), np.zeros(SHAPE, bool), psf, x, y, flux, config_with())
    assert np.array_equal(result.sources["x_fit"], x)
    assert np.array_equal(result.sources["y_fit"], y)
    assert result.sources["base_id"].tolist() == list(range(1, 151))
    assert result.flags == FitFlag.FORCED
    assert (result.sources["flux_fit"] >= 0.0).all()
    assert ((result.sources["flags"] & int(SourceFlag.ANCHORED)) > 0).all()
    zero = result.sources["flux_fit"] == 0.0
    assert 10 < zero.sum() < 75  # about half of the sources without light
    assert ((result.sources["flags"] & int(SourceFlag.NEGATIVE)) > 0).tolist() == zero.tolist()


def test_signed_forced_fluxes_are_unbiased_where_there_is_no_light(psf):
    x, y, flux, image = forced_scene(psf)
    arguments = (image, np.ones(SHAPE), np.zeros(SHAPE, bool), psf, x, y, flux, config_with())
    signed = forced_photometry(*arguments, signed=True).sources
    pull = (signed["flux_fit"] - flux) / signed["flux_err"]
    # 150 sources: the mean is good to 0.08, the standard deviation to 0.06
    assert abs(pull.mean()) < 0.3
    assert 0.8 < pull.std() < 1.2
    dark = flux == 0.0
    assert forced_photometry(*arguments).sources["flux_fit"][dark].mean() > signed["flux_fit"][dark].mean()


def test_forced_photometry_off_the_image_or_under_the_mask(psf):
    x, y = np.array([50.0, 300.0, 20.0]), np.array([50.0, -90.0, 80.0])
    image = render_sources(SHAPE, psf, x, y, np.full(3, 1000.0))
    mask = np.zeros(SHAPE, bool)
    mask[60:, :50] = True
    sources = forced_photometry(image, np.ones(SHAPE), mask, psf, x, y, np.ones(3), config_with()).sources
    assert sources["flux_fit"][0] == pytest.approx(1000.0, rel=5e-3)  # stamps of 25 px
    assert sources["flux_fit"][1:].tolist() == [0.0, 0.0]
    assert np.isnan(sources["flux_err"][1:]).all()
    assert sources["flags"][1] & int(SourceFlag.NO_OVERLAP)
    assert sources["flags"][2] & int(SourceFlag.FULLY_MASKED)
    assert quality_passing(sources).tolist() == [True, False, False]


def test_forced_photometry_of_nothing_and_of_nowhere(psf):
    none = np.zeros(0)
    blank, good = np.zeros(SHAPE), np.zeros(SHAPE, bool)
    result = forced_photometry(blank, np.ones(SHAPE), good, psf, none, none, none, config_with())
    assert result.sources.size == 0
    with pytest.raises(FitError, match="finite positions"):
        forced_photometry(blank, np.ones(SHAPE), good, psf, np.array([np.nan]), np.ones(1), np.ones(1), config_with())


@pytest.mark.skipif(not (REAL / "g260.h5").exists(), reason="no real data")
def test_ladder_behaves_on_a_real_field():
    with h5py.File(REAL / "g260.h5") as file, h5py.File(REAL / "PSFdata.h5") as library:
        data = np.array(file["F150W"], dtype=float)
        psf = PSF(
            LibraryPSF.from_array(np.array(library["F150W"]), int(library.attrs["oversample"])),
            Kernel("gaussian", (1.0,)),
        )
    mask = ~np.isfinite(data) | (data == 0.0)
    filled = np.where(mask, np.median(data[~mask]), data)
    image = data - ndimage.median_filter(filled, 25)  # takes galaxy and sky off, well enough for this
    before = 1.4826 * np.median(np.abs(image[~mask]))
    result = fit_ladder(image, np.full(data.shape, 0.011), mask, psf, config_with(), centre=(127.0, 127.0), galaxy=None,
                        background_std=before)  # fmt: skip
    assert 300 < result.sources.size < 1500
    assert result.residual_mad < 0.75 * before
    assert np.isfinite(result.model).all()

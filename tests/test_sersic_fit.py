"""Sersic fits: recovery, the seed's methods against `lm`, covariances, bounds and refusals."""

from dataclasses import replace

import numpy as np
import pytest

from sphot_mpi.errors import FitError
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SERSIC_PARAMETERS, SersicParams
from sphot_mpi.sersic import SersicRenderer, from_vector, to_vector, total_flux
from sphot_mpi.sersic_fit import fit_sersic, guess_sersic
from sphot_mpi.sersic_problem import SersicBounds, SersicProblem, join_theta
from sphot_mpi.sersic_scale import fit_scale
from sphot_mpi.sersic_search import METHODS, Coordinates, Objective

SHAPE = (71, 84)


@pytest.fixture(scope="module")
def renderer():
    """An even-sized PSF, whose array is not symmetric about a pixel."""
    y, x = ((np.arange(60) - 29.5) / 4 for _ in range(2))
    array = np.exp(-0.5 * (x**2 + y[:, None] ** 2) / 0.8**2) + 0.02 * np.exp(
        -0.5 * (x**2 + (y[:, None] - 0.2) ** 2) / 4
    )
    return SersicRenderer(PSF(LibraryPSF.from_array(array, 4), Kernel(values=(0.5,))), SHAPE)


def vector_of(**values):
    base = {"amplitude": 1.0, "r_eff": 6.0, "n": 2.0, "x_0": 43.3, "y_0": 34.6, "ellip": 0.4, "theta": 0.7}
    return to_vector(SersicParams(**(base | values)))


def make_image(renderer, vectors, fluxes, rng, *, masked=0.1, noise=1.0):
    """Galaxy, tilted sky, noise; masked pixels hold NaN and infinities that must not matter."""
    data = sum(f * renderer.render(v) for v, f in zip(vectors, fluxes, strict=True))
    y, x = np.indices(SHAPE)
    data = data + 3.0 + 0.01 * (x - 41.5) - 0.02 * (y - 35.0) + rng.normal(0.0, noise, SHAPE)
    weight = np.full(SHAPE, noise**-2)
    bad = rng.uniform(size=SHAPE) < masked
    bad |= np.hypot(x - 60, y - 20) < 5
    data[bad] = rng.choice([np.nan, np.inf, 1e9], bad.sum())
    weight[bad] = 0.0
    return data, weight


def flux_for(renderer, vector, snr):
    """Total flux that makes a galaxy of this S/N under unit noise."""
    return snr / np.sqrt((renderer.render(vector) ** 2).sum())


def random_case(renderer, rng, snr_range=(30, 2000)):
    """A galaxy and a poor start: r_eff off by a factor 1.6 to 3.3, centre by 3 px, shape random."""
    vector = vector_of(
        n=rng.uniform(0.5, 7.0), r_eff=np.exp(rng.uniform(np.log(1.5), np.log(14.0))), ellip=rng.uniform(0.0, 0.8),
        theta=rng.uniform(0.0, np.pi), x_0=42 + rng.normal(0, 4), y_0=35 + rng.normal(0, 4),
    )  # fmt: skip
    flux = flux_for(renderer, vector, np.exp(rng.uniform(*np.log(snr_range))))
    start = vector.copy()
    start[:2] += rng.normal(0.0, 3.0, 2)
    start[2] += rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
    start[3] = np.log(rng.uniform(0.7, 4.0))
    start[4:] = rng.normal(0.0, 0.3, 2)
    data, weight = make_image(renderer, [vector], [flux], rng)
    return data, weight, vector, flux, from_vector(start, flux * rng.uniform(0.5, 2.0))


def assert_reaches_the_truth_minimum(renderer, seed):
    data, weight, vector, flux, start = random_case(renderer, np.random.default_rng(seed))
    found = fit_sersic(data, weight, renderer, start=start)
    # what a fit started from the truth finds; 1 in chi2 is far below any 1-sigma change
    best = fit_sersic(data, weight, renderer, start=from_vector(vector, flux), retry=False)
    assert found.converged
    assert found.chi2 < best.chi2 + 1.0
    assert 0.9 < found.chi2 / found.n_pix < 1.1


@pytest.mark.parametrize("seed", range(6))
def test_poor_starts_reach_the_truth_minimum(renderer, seed):
    assert_reaches_the_truth_minimum(renderer, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 60))
def test_more_poor_starts_reach_the_truth_minimum(renderer, seed):
    assert_reaches_the_truth_minimum(renderer, seed)


def test_noise_free_galaxy_is_returned(renderer):
    vector = vector_of()
    data, weight = make_image(renderer, [vector], [1e5], np.random.default_rng(0), noise=1e-3)
    fit = fit_sersic(data, weight, renderer)
    truth = from_vector(vector, 1e5)
    for name in SERSIC_PARAMETERS:
        # S/N 1e7: what is left is single precision and the step at which chi2 is quiet
        np.testing.assert_allclose(getattr(fit.components[0], name), getattr(truth, name), rtol=2e-5)
    np.testing.assert_allclose(fit.total_flux, 1e5, rtol=2e-5)
    sky = fit.sky.render(SHAPE)
    np.testing.assert_allclose([sky[35, 41], sky[35, 42] - sky[35, 41]], [3.0 - 0.005, 0.01], atol=1e-3)
    assert not fit.at_bound


def test_without_a_start_the_galaxy_is_found(renderer):
    vector = vector_of(n=1.2, x_0=20.0, y_0=50.0, ellip=0.7)
    data, weight = make_image(renderer, [vector], [flux_for(renderer, vector, 200)], np.random.default_rng(5))
    fit = fit_sersic(data, weight, renderer)
    p = fit.components[0]
    assert np.hypot(p.x_0 - 20.0, p.y_0 - 50.0) < 0.3
    assert abs(p.ellip - 0.7) < 0.05
    assert fit.n_evaluations < 30


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", [0, 1])
def test_lm_is_not_above_the_seed_methods(renderer, method, seed):
    data, weight, _, _, start = random_case(renderer, np.random.default_rng(seed), (100, 500))
    lm = fit_sersic(data, weight, renderer, start=start)
    other = fit_sersic(data, weight, renderer, start=start, method=method, max_evaluations=500)
    begin = fit_sersic(data, weight, renderer, start=start, max_evaluations=1, retry=False)
    # lm stops once a step gains less than 1e-3
    assert lm.chi2 < other.chi2 + 2e-3
    assert other.chi2 < begin.chi2
    assert lm.n_evaluations < other.n_evaluations
    assert other.method == method


@pytest.mark.parametrize("method", ["iterative_NM", "lbfgsb_polish", "BFGS"])
def test_seed_methods_reach_the_minimum(renderer, method):
    # from a start that points the wrong way; each ends within a tenth of chi2 of lm
    vector = vector_of(theta=0.2, ellip=0.3)
    data, weight = make_image(renderer, [vector], [flux_for(renderer, vector, 100)], np.random.default_rng(2))
    start = from_vector(vector_of(theta=1.7, ellip=0.2, r_eff=9.0, x_0=44.5), 1.5 * flux_for(renderer, vector, 100))
    lm = fit_sersic(data, weight, renderer, start=start)
    other = fit_sersic(data, weight, renderer, start=start, method=method)
    assert other.converged
    assert abs(other.chi2 - lm.chi2) < 0.1


def test_annealing_is_repeatable(renderer):
    data, weight, _, _, start = random_case(renderer, np.random.default_rng(3), (100, 300))
    fits = [
        fit_sersic(data, weight, renderer, start=start, method="dual_annealing", max_evaluations=150, seed=s)
        for s in (7, 7)
    ]
    assert fits[0].components == fits[1].components
    assert fits[0].chi2 == fits[1].chi2


@pytest.mark.parametrize("ellip", [0.05, 0.5])
def test_search_derivative_equals_finite_differences(renderer, ellip):
    vectors = [vector_of(ellip=ellip), vector_of(r_eff=2.0, n=3.0, ellip=0.1)]
    data, weight = make_image(renderer, vectors, [3000.0, 1000.0], np.random.default_rng(1))
    components = [from_vector(v, f) for v, f in zip(vectors, (2800.0, 1100.0), strict=True)]
    objective = Objective(SersicProblem(data, weight, renderer), Coordinates(components, SersicBounds(), SHAPE))
    # the second component's ellipticity is below zero here
    z = np.array([0.1, -0.2, 0.1, 0.2, -0.3, 0.2, 0.5, -0.1, 0.1, 0.2, -2.0, 0.3])
    slope = objective.value_and_slope(z)[1]
    h = 1e-3
    for k in range(z.size):
        step = np.zeros(z.size)
        step[k] = h
        finite = (objective.value(z + step) - objective.value(z - step)) / (2 * h)
        np.testing.assert_allclose(slope[k], finite, rtol=1e-3, atol=1e-4 * np.abs(slope).max())


def test_two_components_are_told_apart(renderer):
    disk, bulge = vector_of(r_eff=12.0, n=1.0, ellip=0.5), vector_of(r_eff=2.0, n=2.5, ellip=0.1)
    data, weight = make_image(renderer, [disk, bulge], [8000.0, 3000.0], np.random.default_rng(4))
    one = fit_sersic(data, weight, renderer)
    two = fit_sersic(data, weight, renderer, n_components=2)
    truth = fit_sersic(
        data, weight, renderer, n_components=2, start=[from_vector(disk, 1.0), from_vector(bulge, 1.0)], retry=False
    )
    assert two.chi2 < one.chi2 - 50.0
    assert two.chi2 < truth.chi2 + 1.0
    first, second = two.components
    assert first.r_eff >= second.r_eff
    assert (first.x_0, first.y_0) == (second.x_0, second.y_0)
    assert two.covariance.shape == (14, 14)
    # within five of its own sigma
    assert abs(two.total_flux - 11000.0) < 5.0 * two.total_flux_err
    # one centre: their positions are one number
    np.testing.assert_allclose(two.covariance[3, 10], two.covariance[3, 3])


def test_two_components_are_ordered_whatever_the_start(renderer):
    disk, bulge = vector_of(r_eff=12.0, n=1.0), vector_of(r_eff=2.0, n=2.5)
    data, weight = make_image(renderer, [disk, bulge], [8000.0, 3000.0], np.random.default_rng(4))
    fits = [
        fit_sersic(data, weight, renderer, n_components=2, start=[from_vector(v, 1.0) for v in pair])
        for pair in ((disk, bulge), (bulge, disk))
    ]
    assert fits[0].components[0].r_eff > fits[0].components[1].r_eff
    for name in SERSIC_PARAMETERS:
        for a, b in zip(fits[0].components, fits[1].components, strict=True):
            # two stops of a fit that is quiet to 1e-3 in chi2: 0.03 sigma
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=2e-2)
    errors = [np.sqrt(np.diag(f.covariance)) for f in fits]
    np.testing.assert_allclose(errors[0], errors[1], rtol=5e-2)


def assert_finds_disk_and_bulge(renderer, seed):
    rng = np.random.default_rng(seed)
    disk = vector_of(
        r_eff=rng.uniform(6, 12), n=rng.uniform(0.6, 1.6), ellip=rng.uniform(0, 0.7), theta=rng.uniform(0, 3)
    )
    bulge = vector_of(
        r_eff=rng.uniform(1, 3), n=rng.uniform(0.8, 4), ellip=rng.uniform(0, 0.3), theta=rng.uniform(0, 3)
    )
    share = rng.uniform(0.1, 0.6)
    flux = rng.uniform(200, 1500) / np.sqrt(
        ((share * renderer.render(bulge) + (1 - share) * renderer.render(disk)) ** 2).sum()
    )
    data, weight = make_image(renderer, [disk, bulge], [(1 - share) * flux, share * flux], rng)
    two = fit_sersic(data, weight, renderer, n_components=2)
    truth = fit_sersic(
        data, weight, renderer, n_components=2, start=[from_vector(disk, 1.0), from_vector(bulge, 1.0)], retry=False
    )
    assert two.chi2 < truth.chi2 + 1.0


@pytest.mark.parametrize("seed", range(2))
def test_disk_and_bulge_reach_the_truth_minimum(renderer, seed):
    assert_finds_disk_and_bulge(renderer, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 30))
def test_more_disks_and_bulges_reach_the_truth_minimum(renderer, seed):
    assert_finds_disk_and_bulge(renderer, seed)


def test_component_that_would_be_negative_has_no_light(renderer):
    # a galaxy with a hole: a second, smaller component could only be negative
    wide, hole = vector_of(r_eff=10.0, n=0.5, ellip=0.0), vector_of(r_eff=3.0, n=0.5, ellip=0.0)
    data, weight = make_image(renderer, [wide, hole], [20000.0, -1500.0], np.random.default_rng(2))
    starts = [from_vector(wide, 1.0), from_vector(hole, 1.0)]
    fit = fit_sersic(data, weight, renderer, n_components=2, start=starts, retry=False)
    fluxes = [total_flux(p) for p in fit.components]
    assert min(fluxes) == 0.0
    assert fit.at_bound
    assert np.isfinite(fit.total_flux_err)
    # of the one with light the errors are known, of the other they are not
    lit = int(np.argmax(fluxes))
    errors = np.sqrt(np.diag(fit.covariance)).reshape(2, 7)
    assert np.isfinite(errors[lit]).all()
    assert np.isnan(errors[1 - lit, 1:3]).all()
    polished = fit_sersic(data, weight, renderer, n_components=2, start=starts, method="lbfgsb_polish")
    assert min(total_flux(p) for p in polished.components) > 0.0


def test_bounds_hold_and_are_reported(renderer):
    vector = vector_of(n=4.0, ellip=0.8)
    data, weight = make_image(renderer, [vector], [flux_for(renderer, vector, 500)], np.random.default_rng(6))
    bounds = SersicBounds(n=(0.5, 2.0), ellip=(0.0, 0.5), r_eff=(0.5, 4.0))
    for method in ("lm", "lbfgsb_polish", "iterative_NM"):
        fit = fit_sersic(data, weight, renderer, bounds=bounds, method=method, max_evaluations=400)
        p = fit.components[0]
        assert fit.at_bound
        assert p.n <= 2.0 + 1e-9
        assert p.ellip <= 0.5 + 1e-9
        assert p.r_eff <= 4.0 + 1e-9
    assert not fit_sersic(data, weight, renderer).at_bound


def test_bounded_minimum_is_stationary(renderer):
    # at the ellipticity's bound, chi2 may fall only outwards
    vector = vector_of(ellip=0.8)
    data, weight = make_image(renderer, [vector], [flux_for(renderer, vector, 500)], np.random.default_rng(6))
    bounds = SersicBounds(ellip=(0.0, 0.5))
    fit = fit_sersic(data, weight, renderer, bounds=bounds)
    problem, theta = SersicProblem(data, weight, renderer), join_theta(fit.components)
    for k, h in enumerate([0.01, 0.01, 0.003, 0.01, 0.003, 0.003]):
        for sign in (-1, 1):
            trial = theta.copy()
            trial[k] += sign * h
            assert problem.evaluate(bounds.project(trial, SHAPE)).chi2 > fit.chi2 - 2e-3


def test_sky_may_be_left_out(renderer):
    vector = vector_of()
    data, weight = make_image(renderer, [vector], [5000.0], np.random.default_rng(8))
    y, x = np.indices(SHAPE)
    flat = data - (3.0 + 0.01 * (x - 41.5) - 0.02 * (y - 35.0))
    fit = fit_sersic(flat, weight, renderer, fit_sky=False)
    assert fit.sky.level == 0.0
    assert np.isnan(fit.sky_covariance).all()
    assert abs(fit.total_flux - 5000.0) < 5.0 * fit.total_flux_err
    # a free sky costs precision
    assert fit.total_flux_err < fit_sersic(data, weight, renderer).total_flux_err


def test_units_scale_through(renderer):
    data, weight = make_image(renderer, [vector_of()], [5000.0], np.random.default_rng(9))
    one, other = fit_sersic(data, weight, renderer), fit_sersic(1e-4 * data, 1e8 * weight, renderer)
    np.testing.assert_allclose(other.total_flux, 1e-4 * one.total_flux, rtol=1e-6)
    np.testing.assert_allclose(other.total_flux_err, 1e-4 * one.total_flux_err, rtol=1e-6)
    np.testing.assert_allclose(other.components[0].r_eff, one.components[0].r_eff, rtol=1e-6)


def test_scale_fit_is_the_linear_solution(renderer):
    disk, bulge = vector_of(r_eff=12.0, n=1.0), vector_of(r_eff=2.0, n=2.5)
    data, weight = make_image(renderer, [disk, bulge], [4000.0, 1500.0], np.random.default_rng(4))
    components = [from_vector(disk, 8000.0), from_vector(bulge, 3000.0)]
    fit = fit_scale(data, weight, renderer, components)
    # an independent least-squares solve
    y, x = np.indices(SHAPE)
    good = weight > 0
    model = renderer.render_params(components)
    columns = np.stack([image[good] for image in (model, np.ones(SHAPE), x - 41.5, y - 35.0)], axis=1)
    solution = np.linalg.lstsq(columns, data[good])[0]
    covariance = np.linalg.inv(columns.T @ columns)
    np.testing.assert_allclose(fit.total_flux, solution[0] * 11000.0, rtol=1e-9)
    np.testing.assert_allclose(fit.total_flux_err, np.sqrt(covariance[0, 0]) * 11000.0, rtol=1e-9)
    np.testing.assert_allclose([fit.sky.level, fit.sky.slope_x, fit.sky.slope_y], solution[1:], rtol=1e-8)
    np.testing.assert_allclose(fit.sky_covariance, covariance[1:, 1:], rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(fit.chi2, ((data[good] - columns @ solution) ** 2).sum(), rtol=1e-10)
    assert fit.components[0].r_eff == components[0].r_eff
    assert np.isnan(fit.covariance[1, 1])
    assert fit.covariance[0, 0] > 0
    simplex = fit_scale(data, weight, renderer, components, method="iterative_NM")
    np.testing.assert_allclose(simplex.total_flux, fit.total_flux, rtol=1e-5)


def test_scale_fit_finds_the_shift(renderer):
    vector = vector_of(x_0=43.9, y_0=34.1)
    data, weight = make_image(renderer, [vector], [5000.0], np.random.default_rng(3))
    start = from_vector(vector_of(), 3000.0)
    fit = fit_scale(data, weight, renderer, [start], free_shift=True)
    errors = np.sqrt(np.diag(fit.covariance))
    assert fit.converged
    assert abs(fit.components[0].x_0 - 43.9) < 5.0 * errors[3]
    assert abs(fit.components[0].y_0 - 34.1) < 5.0 * errors[4]
    assert abs(fit.total_flux - 5000.0) < 5.0 * fit.total_flux_err
    # a galaxy that is not there does not move
    empty = data - 5000.0 * renderer.render(vector)
    still = fit_scale(empty, weight, renderer, [start], free_shift=True)
    assert still.components[0].x_0 == start.x_0
    assert abs(still.total_flux) < 5.0 * still.total_flux_err


def test_simplex_scale_stays_in_its_range(renderer):
    vector = vector_of()
    data, weight = make_image(renderer, [vector], [5000.0], np.random.default_rng(3))
    high = fit_scale(data, weight, renderer, [from_vector(vector, 100.0)], method="iterative_NM")
    np.testing.assert_allclose(high.total_flux, 1000.0, rtol=1e-5)
    assert high.at_bound
    low = fit_scale(-data, weight, renderer, [from_vector(vector, 100.0)], method="iterative_NM")
    np.testing.assert_allclose(low.total_flux, 0.0, atol=1e-4)


def test_hopeless_input_is_refused(renderer):
    rng = np.random.default_rng(0)
    data, weight = make_image(renderer, [vector_of()], [5000.0], rng)
    start = from_vector(vector_of(), 1.0)
    with pytest.raises(FitError, match="pixels are usable"):
        fit_sersic(data, np.zeros(SHAPE), renderer)
    with pytest.raises(FitError, match="pixels are usable"):
        fit_sersic(np.full(SHAPE, np.nan), np.ones(SHAPE), renderer, start=start)
    with pytest.raises(FitError, match="no light rises"):
        fit_sersic(np.full(SHAPE, 2.0), np.ones(SHAPE), renderer)
    with pytest.raises(FitError, match="positive flux"):
        fit_sersic(np.full(SHAPE, 2.0) - 5000.0 * renderer.render(vector_of()), np.ones(SHAPE), renderer, start=start)
    with pytest.raises(FitError, match="one shape"):
        fit_sersic(data[:-1], weight[:-1], renderer)
    with pytest.raises(FitError, match="pixels are usable"):
        fit_scale(data, np.zeros(SHAPE), renderer, [start])
    with pytest.raises(ValueError, match="unknown method"):
        fit_sersic(data, weight, renderer, method="newton")


def test_guess_lies_on_the_galaxy(renderer):
    vector = vector_of(x_0=60.0, y_0=20.0, r_eff=8.0)
    data, weight = make_image(renderer, [vector], [20000.0], np.random.default_rng(1))
    p = guess_sersic(data, weight)
    # a start: within 2 px though its core is masked, and a factor 2
    assert np.hypot(p.x_0 - 60.0, p.y_0 - 20.0) < 4.0
    assert 4.0 < p.r_eff < 16.0
    assert 0.4 < total_flux(p) / 20000.0 < 2.0


@pytest.mark.slow
@pytest.mark.parametrize(("n", "snr"), [(1.0, 100.0), (4.0, 400.0)])
def test_pulls_are_normal(renderer, n, snr):
    # 600 draws: the sampling error of a pull's mean is 0.04, of its deviation 0.03; 3.5 of them are allowed
    vector = vector_of(n=n)
    flux = flux_for(renderer, vector, snr)
    truth = from_vector(vector, flux)
    pulls = []
    for seed in range(600):
        data, weight = make_image(renderer, [vector], [flux], np.random.default_rng([seed, int(10 * n)]))
        fit = fit_sersic(data, weight, renderer, start=replace(truth, r_eff=1.3 * truth.r_eff))
        errors = np.sqrt(np.diag(fit.covariance))
        off = [
            (getattr(fit.components[0], name) - getattr(truth, name)) / e
            for name, e in zip(SERSIC_PARAMETERS, errors, strict=True)
        ]
        level = (fit.sky.render(SHAPE)[35, 41] - (3.0 - 0.005)) / np.sqrt(fit.sky_covariance[0, 0])
        pulls.append([*off, (fit.total_flux - flux) / fit.total_flux_err, level])
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.15
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=0.1)

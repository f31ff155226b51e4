"""One joint step: its kernels, its columns, and the Schur solution against dense linear algebra."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars
from scipy import sparse

from sphot_mpi.errors import FitError
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, Optics, Scene, Stars, sky_basis
from sphot_mpi.joint_solve import (
    GALAXY_DAMPING,
    STAR_DAMPING,
    VARIANCE_MAX,
    Freedom,
    render_columns,
    render_galaxy,
    render_sky,
    render_stars,
    solve_step,
)
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.records import SersicParams

SHAPE = (75, 92)
NOISE = 0.01
LIBRARY, LIBRARY_SIGMA = gaussian_library(0.9, (90, 101)), 0.9
KERNEL = 1.0
COMPONENT = SersicParams(amplitude=0.4, r_eff=7.0, n=1.4, x_0=44.3, y_0=36.1, ellip=0.35, theta=0.6)
EVERYTHING = Freedom(kernel=True, galaxy_flux=True, galaxy_shape=True)


def frame_of(data, error=NOISE, mask=None):
    mask = np.zeros(data.shape, bool) if mask is None else mask
    return Frame.from_image(data, np.broadcast_to(error, data.shape), mask, NOISE, 1.0)


def true_scene(n_stars=12, seed=0, *, galaxy=True, spread=None):
    """Stars in frame coordinates, some in the margin; a galaxy; a tilted sky."""
    rng = np.random.default_rng(seed)
    if spread is None:
        x, y = rng.uniform(PAD - 2, PAD + SHAPE[1] + 1, n_stars), rng.uniform(PAD - 2, PAD + SHAPE[0] + 1, n_stars)
    else:
        x, y = rng.uniform(PAD + 20, PAD + 20 + spread, n_stars), rng.uniform(PAD + 15, PAD + 15 + spread, n_stars)
    flux = 0.3 * (1.0 + rng.pareto(1.0, n_stars))
    return Scene(
        stars=Stars.new(x, y, flux),
        galaxy=galaxy_of((COMPONENT,)) if galaxy else None,
        sky=np.array([0.5, 0.01, -0.02]),
    )


def optics_on(frame, sigma=KERNEL):
    return Optics.start(LIBRARY, sigma, frame)


def model_of(scene, sigma=KERNEL):
    optics = optics_on(frame_of(np.zeros(SHAPE)), sigma)
    model = render_stars(scene.stars, optics) + render_galaxy(scene.galaxy, optics)
    return model + render_sky(scene.sky, optics.frame.shape)


def observed(scene, *, seed=None, mask=None, error=NOISE):
    data = model_of(scene)[PAD:-PAD, PAD:-PAD].copy()
    if seed is not None:
        data += np.random.default_rng(seed).normal(0.0, 1.0, SHAPE) * error
    return frame_of(data, error, mask)


# --- kernels


def random_stamps(columns=3, n=30, side=7, seed=0):
    rng = np.random.default_rng(seed)
    stamps = rng.normal(size=(n, columns, side, side))
    corner_y, corner_x = rng.integers(-9, SHAPE[0] + 3, n), rng.integers(-9, SHAPE[1] + 3, n)
    weight = rng.uniform(0.5, 2.0, SHAPE) * (rng.uniform(size=SHAPE) > 0.3)
    return stamps, corner_y, corner_x, weight


def on_frame(stamp, corner_y, corner_x, shape=SHAPE):
    """A stamp on an empty image."""
    pad, side = 20, stamp.shape[0]
    image = np.zeros((shape[0] + 2 * pad, shape[1] + 2 * pad))
    image[corner_y + pad : corner_y + pad + side, corner_x + pad : corner_x + pad + side] = stamp
    return image[pad:-pad, pad:-pad]


@pytest.mark.parametrize("columns", [1, 3])
def test_cross_products_are_those_of_whole_images(columns):
    stamps, corner_y, corner_x, weight = random_stamps()
    dense = np.random.default_rng(1).normal(size=(*SHAPE, 5))
    out = np.full((30, columns, 5), np.nan)
    kernels.cross_products(out, stamps, corner_y, corner_x, weight, dense)
    for s in range(30):
        for c in range(columns):
            image = on_frame(stamps[s, c], corner_y[s], corner_x[s]) * weight
            np.testing.assert_allclose(out[s, c], np.tensordot(image, dense, 2), atol=1e-12)


def test_good_fraction_and_quality_are_sums_over_usable_pixels():
    stamps, corner_y, corner_x, weight = random_stamps()
    residual = np.random.default_rng(2).normal(size=SHAPE)
    fraction = kernels.good_fraction(stamps, corner_y, corner_x, weight)
    quality = kernels.stamp_quality(stamps[:, 0].copy(), corner_y, corner_x, residual, weight)
    for s in range(30):
        squared = on_frame(stamps[s, 0] ** 2, corner_y[s], corner_x[s])
        assert fraction[s] == pytest.approx(squared[weight > 0].sum() / (stamps[s, 0] ** 2).sum())
        here = (on_frame(np.ones((7, 7)), corner_y[s], corner_x[s]) > 0) & (weight > 0)
        centre = on_frame(np.pad([[1.0]], 3), corner_y[s], corner_x[s]) * (weight > 0)
        want = [here.sum(), np.abs(residual[here]).sum(), (centre * residual).sum(), (weight * residual**2)[here].sum()]
        np.testing.assert_allclose(quality[s], want, atol=1e-12)
    assert (fraction == 0).any()
    assert ((fraction > 0) & (fraction < 1)).any()


@pytest.mark.parametrize(("reach", "count"), [(4.0, 3), (12.0, 12), (200.0, 5), (0.5, 2)])
def test_nearest_neighbours_are_those_of_brute_force(reach, count):
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-20, 90, 120), rng.uniform(30, 70, 120)
    got = kernels.nearest_neighbours(x, y, reach, count)
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    np.fill_diagonal(distance, np.inf)
    for i in range(120):
        order = np.argsort(distance[i])
        want = order[distance[i][order] <= reach][:count]
        np.testing.assert_array_equal(got[i], np.concatenate((want, np.full(count - want.size, -1))))


def test_a_lone_star_has_no_neighbour():
    one = np.zeros(1)
    np.testing.assert_array_equal(kernels.nearest_neighbours(one, one, 5.0, 2), [[-1, -1]])


def test_variances_with_all_neighbours_are_the_inverse():
    rng = np.random.default_rng(4)
    width = np.array([3, 1, 3, 3, 1, 3])
    first = np.concatenate(([0], np.cumsum(width)[:-1]))
    design = rng.normal(size=(60, width.sum()))
    matrix = design.T @ design
    matrix[first[0] : first[0] + 3, first[5] : first[5] + 3] = 0.0
    matrix[first[5] : first[5] + 3, first[0] : first[0] + 3] = 0.0
    csc = sparse.csc_array(matrix)
    csc.sort_indices()
    arguments = csc.indptr.astype(np.int64), csc.indices.astype(np.int64), csc.data, first, width
    everyone = np.array([[t for t in range(6) if t != s] for s in range(6)])
    variance = kernels.local_variances(*arguments, everyone)
    inverse = np.diag(np.linalg.inv(matrix))
    for s in range(6):
        np.testing.assert_allclose(variance[s, : width[s]], inverse[first[s] : first[s] + width[s]], rtol=1e-10)
        assert np.isnan(variance[s, width[s] :]).all()
    # the fewer parameters are free, the smaller a variance
    alone = kernels.local_variances(*arguments, np.full((6, 2), -1))
    for s in range(6):
        block = matrix[first[s] : first[s] + width[s], first[s] : first[s] + width[s]]
        np.testing.assert_allclose(alone[s, : width[s]], np.diag(np.linalg.inv(block)), rtol=1e-10)
        assert (alone[s, : width[s]] <= variance[s, : width[s]]).all()


def test_a_singular_neighbourhood_has_no_variance():
    csc = sparse.csc_array(np.array([[1.0, 2.0], [2.0, 1.0]]))
    variance = kernels.local_variances(
        csc.indptr.astype(np.int64),
        csc.indices.astype(np.int64),
        csc.data,
        np.array([0, 1]),
        np.array([1, 1]),
        np.array([[1], [0]]),
    )
    assert np.isnan(variance).all()


# --- records


def test_a_frame_is_the_image_with_a_blind_margin():
    rng = np.random.default_rng(5)
    data, error = rng.normal(size=SHAPE), rng.uniform(0.5, 2.0, SHAPE)
    data[3, 4], error[5, 6], error[7, 8] = np.nan, 0.0, np.nan
    mask = rng.uniform(size=SHAPE) > 0.9
    frame = Frame.from_image(data, error, mask, 0.5, 1.2)
    assert frame.shape == (SHAPE[0] + 2 * PAD, SHAPE[1] + 2 * PAD)
    good = ~mask
    good[3, 4] = good[5, 6] = good[7, 8] = False
    np.testing.assert_array_equal(frame.interior(frame.good), good)
    assert frame.good.sum() == good.sum()
    np.testing.assert_array_equal(frame.interior(frame.data)[good], data[good])
    np.testing.assert_allclose(frame.interior(frame.weight)[good], error[good] ** -2.0)
    assert not frame.data[~frame.good].any()
    assert not frame.weight[~frame.good].any()


def test_stars_are_taken_and_joined_field_by_field():
    stars = true_scene(7).stars
    marked = replace(stars, base_id=np.arange(7), anchor_sigma=np.where(np.arange(7) % 2, 0.1, np.inf))
    np.testing.assert_array_equal(marked.anchored, [False, True] * 3 + [False])
    both = marked.take(marked.anchored).join(marked.take(~marked.anchored))
    np.testing.assert_array_equal(both.base_id, [1, 3, 5, 0, 2, 4, 6])
    np.testing.assert_array_equal(both.flux, stars.flux[both.base_id])
    known = replace(stars, variance=np.full((7, 3), 4.0))
    np.testing.assert_allclose(known.snr(1.5), stars.flux / 3.0)
    # an unknown error says nothing
    np.testing.assert_array_equal(stars.snr(1.0), 0.0)


def test_elliptical_radius_is_one_on_the_half_light_ellipse():
    galaxy = galaxy_of((COMPONENT,))
    assert galaxy.half_light_radius() == pytest.approx(COMPONENT.r_eff)
    t = np.linspace(0, 2 * np.pi, 20)
    along, across = COMPONENT.r_eff * np.cos(t), COMPONENT.r_eff * (1 - COMPONENT.ellip) * np.sin(t)
    c, s = np.cos(COMPONENT.theta), np.sin(COMPONENT.theta)
    x, y = COMPONENT.x_0 + along * c - across * s, COMPONENT.y_0 + along * s + across * c
    np.testing.assert_allclose(galaxy.elliptical_radius(x, y), 1.0, rtol=1e-12)
    two = Galaxy(centre=galaxy.centre, shapes=np.repeat(galaxy.shapes, 2, axis=0), fluxes=np.array([1.0, 3.0]))
    assert two.half_light_radius() == pytest.approx(COMPONENT.r_eff)


def test_the_sky_basis_is_a_plane_about_the_middle():
    basis = sky_basis((21, 34))
    for image in basis[1:]:
        assert image.sum() == pytest.approx(0.0, abs=1e-10)
    y, x = np.mgrid[:21, :34]
    np.testing.assert_allclose(
        render_sky(np.array([1.0, 2.0, 3.0]), (21, 34)), 1 + 2 * (x - 16.5) / 17 + 3 * (y - 10) / 10.5
    )


# --- columns


def perturbed(scene, sigma, name, h):
    """The model with one dense unknown changed by `h`."""
    galaxy, stars, variance = scene.galaxy, scene.stars, sigma**2
    if name.startswith("sky"):
        scene = replace(scene, sky=scene.sky + h * np.eye(3)[int(name[3])])
    elif name == "kernel":
        variance += h
    elif name in ("shift_x", "shift_y", "x_0", "y_0"):
        step = h * np.array([name.endswith(("shift_x", "x_0")), name.endswith(("shift_y", "y_0"))])
        scene = replace(scene, galaxy=replace(galaxy, centre=galaxy.centre + step))
        if name.startswith("shift"):
            scene = replace(scene, stars=replace(stars, x=stars.x + step[0], y=stars.y + step[1]))
    elif name == "scale":
        scene = replace(scene, galaxy=replace(galaxy, fluxes=galaxy.fluxes * (1 + h / galaxy.fluxes.sum())))
    elif name.endswith("flux"):
        fluxes = galaxy.fluxes.copy()
        fluxes[int(name[0])] += h
        scene = replace(scene, galaxy=replace(galaxy, fluxes=fluxes))
    else:
        shapes = galaxy.shapes.copy()
        shapes[int(name[0]), ["ln_r", "ln_n", "eta_1", "eta_2"].index(name[2:])] += h
        scene = replace(scene, galaxy=replace(galaxy, shapes=shapes))
    return model_of(scene, np.sqrt(variance))


@pytest.mark.parametrize(
    "freedom",
    [EVERYTHING, Freedom(kernel=True, shift=True, galaxy_scale=True), Freedom(galaxy_flux=True), Freedom()],
)
def test_columns_are_the_derivatives_of_the_model(freedom):
    scene = true_scene()
    disk = scene.galaxy
    bulge = np.array([np.log(3.0), np.log(2.0), 0.1, -0.2])
    scene = replace(
        scene,
        galaxy=Galaxy(
            centre=disk.centre, shapes=np.array([disk.shapes[0], bulge]), fluxes=disk.fluxes[0] * np.array([1, 0.3])
        ),
    )
    optics = optics_on(frame_of(np.zeros(SHAPE)))
    rendered = render_columns(scene, optics, freedom)
    model = model_of(scene)
    np.testing.assert_allclose(rendered.stars + rendered.galaxy + rendered.sky, model, atol=1e-5 * model.max())
    inside = slice(PAD, -PAD), slice(PAD, -PAD)
    h = 1e-3
    for k, name in enumerate(rendered.names):
        got = rendered.columns[..., k][inside]
        want = (perturbed(scene, KERNEL, name, h) - perturbed(scene, KERNEL, name, -h))[inside] / (2 * h)
        # stamps cut at 3 % of the noise, single precision in the galaxy's columns, h^2 in the difference
        np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max() + 0.1 * NOISE, err_msg=name)
    count = 3 + freedom.kernel + 2 * freedom.shift + freedom.galaxy_scale + 2 * freedom.galaxy_flux
    assert len(rendered.names) == len(set(rendered.names)) == count + 10 * freedom.galaxy_shape


def test_kernel_and_shift_are_measured_in_the_anchored_area_only():
    scene = true_scene()
    frame = observed(scene)
    area = np.zeros(frame.shape, bool)
    area[:, :50] = True
    rendered = render_columns(
        scene, optics_on(replace(frame, anchored_area=area)), Freedom(kernel=True, shift=True, galaxy_scale=True)
    )
    for name in ("kernel", "shift_x", "shift_y"):
        column = rendered.columns[..., rendered.names.index(name)]
        assert not column[:, 50:].any()
        assert column[:, :50].any()
    assert rendered.columns[..., rendered.names.index("scale")][:, 50:].any()


# --- the step against dense linear algebra


class DenseProblem:
    """The same linear problem as a full design matrix with one row a pixel and one a prior."""

    def __init__(self, scene, optics, freedom):
        frame, stars = optics.frame, scene.stars
        rendered = render_columns(scene, optics, freedom)
        residual = (frame.data - rendered.stars - rendered.galaxy - rendered.sky)[frame.good]
        root = np.sqrt(frame.weight[frame.good])
        stamps, corner_y, corner_x = optics.stars.stamps(stars.x, stars.y, optics.core_radius)
        columns, rows = [], []
        for s in range(stars.size):
            scale = (1.0, stars.flux[s], stars.flux[s]) if stars.free[s] else (1.0,)
            for c, factor in enumerate(scale):
                image = on_frame(factor * stamps[s, c], corner_y[s], corner_x[s], frame.shape)
                k = len(columns)
                columns.append(image[frame.good] * root)
                sigma = stars.prior_sigma[s] if c == 0 else stars.anchor_sigma[s]
                pull = [
                    stars.prior_flux[s] - stars.flux[s],
                    stars.anchor_x[s] - stars.x[s],
                    stars.anchor_y[s] - stars.y[s],
                ]
                rows.append((k, 1.0 / sigma, pull[c]))
                if c > 0:
                    rows.append((k, 1.0 / STAR_DAMPING, 0.0))
        self.n_stars = len(columns)
        for k in range(len(rendered.names)):
            columns.append(rendered.columns[..., k][frame.good] * root)
        self.names = rendered.names
        self.design = np.column_stack(columns)
        self.rhs = root * residual
        self.star_rows = self._rows(rows)
        damping = [
            (self.n_stars + k, 1.0 / GALAXY_DAMPING.get(name.split(".")[-1], np.inf), 0.0)
            for k, name in enumerate(self.names)
        ]
        self.dense_rows = self._rows(damping)

    def _rows(self, rows):
        matrix, rhs = np.zeros((len(rows), self.design.shape[1])), np.zeros(len(rows))
        for r, (k, weight, pull) in enumerate(rows):
            matrix[r, k], rhs[r] = weight, weight * pull
        return matrix, rhs

    def solution(self):
        parts = (self.design, self.rhs), self.star_rows, self.dense_rows
        full, rhs = np.vstack([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        scale = np.linalg.norm(full, axis=0)  # columns differ by many orders of magnitude
        return np.linalg.lstsq(full / scale, rhs, rcond=1e-14)[0] / scale

    def covariance(self):
        """Inverse normal matrix of data and the stars' priors; the galaxy's damping is no information."""
        full = np.vstack((self.design, self.star_rows[0]))
        scale = np.linalg.norm(full, axis=0)
        inverse = np.linalg.inv((full / scale).T @ (full / scale))
        return inverse / scale / scale[:, None]


def nearby(scene, seed=9, size=1.0):
    """A scene a small step away."""
    rng = np.random.default_rng(seed)
    stars, n = scene.stars, scene.stars.size
    moved = replace(
        stars,
        x=stars.x + size * rng.normal(0, 0.03, n),
        y=stars.y + size * rng.normal(0, 0.03, n),
        flux=stars.flux * (1 + size * rng.normal(0, 0.05, n)),
    )
    galaxy = scene.galaxy
    if galaxy is not None:
        galaxy = replace(
            galaxy,
            centre=galaxy.centre + size * 0.05,
            shapes=galaxy.shapes + size * np.array([0.02, -0.03, 0.02, 0.01]),
            fluxes=galaxy.fluxes * (1 - size * 0.03),
        )
    return replace(scene, stars=moved, galaxy=galaxy, sky=scene.sky + size * 0.002)


def dense_values(scene, variance, names):
    """Values of the dense unknowns of a scene."""
    values = {f"sky{k}": scene.sky[k] for k in range(3)} | {"kernel": variance}
    values |= {"shift_x": scene.shift[0], "shift_y": scene.shift[1]}
    if scene.galaxy is not None:
        galaxy = scene.galaxy
        values |= {"x_0": galaxy.centre[0], "y_0": galaxy.centre[1], "scale": galaxy.fluxes.sum()}
        for c in range(galaxy.size):
            values[f"{c}.flux"] = galaxy.fluxes[c]
            for k, name in enumerate(("ln_r", "ln_n", "eta_1", "eta_2")):
                values[f"{c}.{name}"] = galaxy.shapes[c, k]
    return np.array([values[name] for name in names])


def with_priors(scene):
    """Half of the stars anchored, of which some are pinned; two with a flux prior."""
    stars, n = scene.stars, scene.stars.size
    index = np.arange(n)
    return replace(
        scene,
        stars=replace(
            stars,
            anchor_sigma=np.where(index % 2, 0.05, np.inf),
            anchor_x=stars.x + 0.02,
            anchor_y=stars.y - 0.03,
            free=index % 4 != 1,
            prior_sigma=np.where(index < 2, 0.05, np.inf),
            prior_flux=1.1 * stars.flux,
        ),
    )


CASES = {
    "all": (EVERYTHING, True, False, 12),
    "priors": (EVERYTHING, True, True, 12),
    "pinned shape": (Freedom(kernel=True, shift=True, galaxy_scale=True), True, True, 12),
    "no galaxy": (Freedom(kernel=True), False, False, 12),
    "no stars": (Freedom(galaxy_flux=True, galaxy_shape=True), True, False, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_dense_least_squares_solution(case):
    freedom, has_galaxy, priors, n_stars = CASES[case]
    truth = true_scene(n_stars, galaxy=has_galaxy, spread=9.0)
    mask = np.random.default_rng(6).uniform(size=SHAPE) > 0.95
    error = np.random.default_rng(7).uniform(0.8, 1.5, SHAPE) * NOISE
    frame = observed(truth, seed=8, mask=mask, error=error)
    start = nearby(truth)
    start = with_priors(start) if priors else start
    optics = optics_on(frame)
    step = solve_step(start, optics, freedom)
    problem = DenseProblem(start, optics, freedom)
    solution, covariance = problem.solution(), problem.covariance()
    assert step.names == problem.names
    n = problem.n_stars
    # no step is limited here, or this would compare limits
    assert np.abs(solution[:n]).max(initial=0.0) < 0.7
    moved = dense_values(step.scene, step.variance, step.names) - dense_values(start, KERNEL**2, step.names)
    error_bars = np.sqrt(np.diag(covariance))
    # 1e-6 of an error bar: the condition number of the normal equations is the square of the design's
    np.testing.assert_allclose(moved / error_bars[n:], solution[n:] / error_bars[n:], atol=1e-5)
    np.testing.assert_allclose(
        step.covariance / error_bars[n:] / error_bars[n:, None],
        covariance[n:, n:] / error_bars[n:] / error_bars[n:, None],
        atol=1e-6,
    )
    shift = step.scene.shift
    after, before, k = step.scene.stars, start.stars, 0
    for s in range(n_stars):
        got = [after.flux[s] - before.flux[s], after.x[s] - before.x[s] - shift[0], after.y[s] - before.y[s] - shift[1]]
        width = 3 if before.free[s] else 1
        np.testing.assert_allclose(
            got[:width] / error_bars[k : k + width], solution[k : k + width] / error_bars[k : k + width], atol=1e-5
        )
        np.testing.assert_allclose(got[width:], 0.0, atol=1e-12)
        # all 12 stars are each other's neighbours here, so the marginal error of a flux is exact
        assert after.variance[s, 0] == pytest.approx(covariance[k, k], rel=1e-6)
        k += width
    assert step.chi2 == pytest.approx((problem.rhs**2).sum(), rel=1e-12)


def test_the_true_scene_is_a_fixed_point():
    truth = true_scene(25)
    step = solve_step(truth, optics_on(observed(truth)), EVERYTHING)
    error = np.sqrt(np.diag(step.covariance))
    moved = dense_values(step.scene, step.variance, step.names) - dense_values(truth, KERNEL**2, step.names)
    # the galaxy's image with derivatives is in single precision: some 1e-4 of an error bar
    assert np.abs(moved / error).max() < 0.02
    stars = step.scene.stars
    assert (np.abs(stars.flux - truth.stars.flux) < 0.02 * np.sqrt(stars.variance[:, 0])).all()


def test_errors_are_those_of_the_scatter():
    truth = true_scene(40, seed=2)
    clean = observed(truth)
    pulls, dense_pulls = [], []
    for seed in range(12):
        noise = np.pad(np.random.default_rng(100 + seed).normal(0.0, NOISE, SHAPE), PAD)
        frame = replace(clean, data=clean.data + noise)
        step = solve_step(truth, optics_on(frame), EVERYTHING)
        moved = dense_values(step.scene, step.variance, step.names) - dense_values(truth, KERNEL**2, step.names)
        damped = np.array([name.startswith(("sky", "kernel")) or name.endswith("flux") for name in step.names])
        dense_pulls.append((moved / np.sqrt(np.diag(step.covariance)))[damped])
        seen = np.isfinite(step.scene.stars.variance[:, 0])
        pulls.append(((step.scene.stars.flux - truth.stars.flux) / np.sqrt(step.scene.stars.variance[:, 0]))[seen])
    pulls, dense_pulls = np.concatenate(pulls), np.concatenate(dense_pulls)
    # 480 pulls scatter by 3 % about 1, 60 by 9 %: four of those; positions' damping makes errors of the faintest smaller
    assert np.sqrt((pulls**2).mean()) == pytest.approx(1.0, abs=0.13)
    assert np.sqrt((dense_pulls**2).mean()) == pytest.approx(1.0, abs=0.36)
    assert np.abs(pulls).max() < 5.0


def test_steps_lead_from_a_wrong_scene_to_the_true_one():
    truth = true_scene(20, seed=4)
    frame = observed(truth)
    scene, optics = nearby(truth, size=3.0), optics_on(frame, 1.4)
    for _ in range(12):
        step = solve_step(scene, optics, EVERYTHING)
        scene, optics = step.scene, optics.with_variance(step.variance)
    assert np.sqrt(step.variance) == pytest.approx(KERNEL, abs=1e-3)
    error = np.sqrt(np.diag(step.covariance))
    moved = dense_values(scene, step.variance, step.names) - dense_values(truth, KERNEL**2, step.names)
    assert np.abs(moved / error).max() < 0.1
    # without noise chi2 is that of the rendering alone
    assert step.chi2 < 1.0


def test_masked_pixels_have_no_influence_whatever_they_hold():
    truth = true_scene()
    mask = np.zeros(SHAPE, bool)
    mask[20:45, 30:70] = True
    data = observed(truth, seed=1).interior(observed(truth, seed=1).data)
    steps = []
    for value in (np.nan, 1e30, 0.0, -np.inf):
        frame = frame_of(np.where(mask, value, data), mask=mask)
        steps.append(solve_step(truth, optics_on(frame), EVERYTHING))
    for step in steps[1:]:
        np.testing.assert_array_equal(step.covariance, steps[0].covariance)
        np.testing.assert_array_equal(step.scene.stars.flux, steps[0].scene.stars.flux)
        np.testing.assert_array_equal(step.scene.galaxy.shapes, steps[0].scene.galaxy.shapes)
        assert step.chi2 == steps[0].chi2
    assert np.isfinite(steps[0].covariance).all()


def test_a_star_without_data_stays_as_it_is():
    truth = true_scene(6, spread=30.0)
    x, y = truth.stars.x - PAD, truth.stars.y - PAD
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    mask = np.hypot(xx - x[2], yy - y[2]) < 25.0
    step = solve_step(truth, optics_on(observed(truth, seed=1, mask=mask)), Freedom(galaxy_flux=True))
    assert step.scene.stars.flux[2] == pytest.approx(truth.stars.flux[2])
    assert step.scene.stars.x[2] == truth.stars.x[2]
    assert np.isfinite(step.scene.stars.flux).all()


def test_nothing_to_fit_is_an_error():
    truth = true_scene()
    blind = frame_of(np.zeros(SHAPE), mask=np.ones(SHAPE, bool))
    with pytest.raises(FitError, match="no usable pixel"):
        solve_step(truth, optics_on(blind), EVERYTHING)


def test_the_kernel_stays_within_its_range():
    sharp = true_scene(30, seed=5)
    sky = Scene(stars=sharp.stars, galaxy=None, sky=sharp.sky)
    # data sharper than the library allows: the variance wants to be negative
    data = gaussian_stars(SHAPE, sky.stars.x - PAD, sky.stars.y - PAD, sky.stars.flux, 0.5) + 0.5
    step = solve_step(sky, optics_on(frame_of(data), 0.1), Freedom(kernel=True))
    assert step.variance == 0.0
    wide = gaussian_stars(SHAPE, sky.stars.x - PAD, sky.stars.y - PAD, sky.stars.flux, 12.0) + 0.5
    step = solve_step(sky, optics_on(frame_of(wide), 3.95), Freedom(kernel=True))
    assert 0.0 < step.variance <= VARIANCE_MAX


def test_a_shift_moves_galaxy_stars_and_anchors_alike():
    truth = true_scene(20, seed=6)
    stars = replace(truth.stars, free=np.zeros(20, bool), anchor_sigma=np.full(20, 0.1))
    start = replace(
        truth,
        stars=replace(stars, x=stars.x - 0.3, y=stars.y + 0.2, anchor_x=stars.x - 0.3, anchor_y=stars.y + 0.2),
        galaxy=replace(truth.galaxy, centre=truth.galaxy.centre + np.array([-0.3, 0.2])),
    )
    scene, optics = start, optics_on(observed(truth))
    for _ in range(4):
        scene = solve_step(scene, optics, Freedom(shift=True, galaxy_scale=True)).scene
    np.testing.assert_allclose(scene.shift, [0.3, -0.2], atol=2e-3)
    np.testing.assert_allclose(scene.stars.x - start.stars.x, scene.shift[0], atol=1e-12)
    np.testing.assert_allclose(scene.stars.anchor_y - start.stars.anchor_y, scene.shift[1], atol=1e-12)
    np.testing.assert_allclose(scene.galaxy.centre - start.galaxy.centre, scene.shift, atol=1e-12)


def test_a_scaled_galaxy_keeps_its_shape_and_sign():
    truth = true_scene(0)
    optics = optics_on(observed(truth))
    brighter = replace(truth, galaxy=replace(truth.galaxy, fluxes=3.0 * truth.galaxy.fluxes))
    step = solve_step(brighter, optics, Freedom(galaxy_scale=True))
    # linear: one step is enough
    np.testing.assert_allclose(step.scene.galaxy.fluxes, truth.galaxy.fluxes, rtol=1e-6)
    np.testing.assert_array_equal(step.scene.galaxy.shapes, truth.galaxy.shapes)
    hole = replace(truth, galaxy=replace(truth.galaxy, fluxes=-truth.galaxy.fluxes))
    dark = observed(hole)
    assert solve_step(truth, optics_on(dark), Freedom(galaxy_scale=True)).scene.galaxy.fluxes[0] > 0.0


def test_steps_are_limited_but_fluxes_follow_the_limited_step():
    truth = true_scene(1, galaxy=False, spread=20.0)
    stars = truth.stars
    start = replace(truth, stars=replace(stars, x=stars.x + 2.5))
    optics = optics_on(observed(truth))
    scene = start
    for _ in range(15):
        new = solve_step(scene, optics, Freedom()).scene
        # 0.7 px is the longest step
        assert abs(new.stars.x[0] - scene.stars.x[0]) <= 0.7 + 1e-12
        scene = new
    assert scene.stars.x[0] == pytest.approx(stars.x[0], abs=1e-3)
    assert scene.stars.flux[0] == pytest.approx(stars.flux[0], rel=1e-3)


def test_a_step_is_the_same_twice():
    truth = true_scene(30, seed=7)
    frame = observed(truth, seed=3)
    first, second = (solve_step(nearby(truth), optics_on(frame), EVERYTHING) for _ in range(2))
    np.testing.assert_array_equal(first.scene.stars.flux, second.scene.stars.flux)
    np.testing.assert_array_equal(first.covariance, second.covariance)
    np.testing.assert_array_equal(first.residual, second.residual)

"""One joint step: its kernels, its columns, and the Schur solution against dense linear algebra."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars, stamp_on

from sphot_mpi.errors import FitError
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_kernel import KERNEL_NAMES
from sphot_mpi.joint_render import Freedom, render_columns, render_galaxy, render_sky, render_stars
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, Optics, Scene
from sphot_mpi.joint_solve import GALAXY_DAMPING, displacement_share, solve_step
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.joint_stars import STAR_DAMPING
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SersicParams
from sphot_mpi.star_field import STAMP_EDGE

SHAPE = (75, 92)
NOISE = 0.01
LIBRARY, LIBRARY_SIGMA = gaussian_library(0.9, (90, 101)), 0.9
KERNEL = 1.0
TRUE_KERNEL = Kernel(values=(KERNEL,))
COMPONENT = SersicParams(amplitude=0.4, r_eff=7.0, n=1.4, x_0=44.3, y_0=36.1, ellip=0.35, theta=0.6)
EVERYTHING = Freedom(kernel=True, galaxy_flux=True, galaxy_shape=True)


def frame_of(data, error=NOISE, mask=None):
    mask = np.zeros(data.shape, bool) if mask is None else mask
    frame = Frame.from_image(data, np.broadcast_to(error, data.shape), mask, NOISE, 1.0)
    # all stars are known: none hides beside another
    return replace(frame, found_fwhm=0.0)


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


# --- columns


def perturbed(scene, sigma, name, h):
    """The model with one dense unknown changed by `h`."""
    galaxy, stars, variance = scene.galaxy, scene.stars, sigma**2
    if name.startswith("sky"):
        scene = replace(scene, sky=scene.sky + h * np.eye(3)[int(name[3])])
    elif name == "kernel":
        variance += h
    elif name in ("shift_x", "shift_y"):
        step = h * np.array([name == "shift_x", name == "shift_y"])
        scene = replace(scene, galaxy=replace(galaxy, centres=galaxy.centres + step))
        scene = replace(scene, stars=replace(stars, x=stars.x + step[0], y=stars.y + step[1]))
    elif name.endswith(("x_0", "y_0")):
        centres = galaxy.centres.copy()
        centres[int(name[0]), ["x_0", "y_0"].index(name[2:])] += h
        scene = replace(scene, galaxy=replace(galaxy, centres=centres))
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
            centres=disk.centres + np.array([[0.0, 0.0], [0.4, -0.3]]),
            shapes=np.array([disk.shapes[0], bulge]),
            fluxes=disk.fluxes[0] * np.array([1, 0.3]),
        ),
    )
    optics = optics_on(frame_of(np.zeros(SHAPE)))
    rendered = render_columns(scene, optics, freedom)
    model = model_of(scene)
    np.testing.assert_allclose(rendered.residual, optics.frame.residual(model), atol=1e-5 * model.max())
    inside = slice(PAD, -PAD), slice(PAD, -PAD)
    h = 0.01  # the renderer is good to 1e-5 of the peak, and so the difference to 1e-5 / h
    for k, name in enumerate(rendered.names):
        got = rendered.columns[k][inside]
        want = (perturbed(scene, KERNEL, name, h) - perturbed(scene, KERNEL, name, -h))[inside] / (2 * h)
        # stamps end where a star is a tenth of the noise
        np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max() + STAMP_EDGE * NOISE, err_msg=name)
    count = 3 + freedom.kernel + 2 * freedom.shift + freedom.galaxy_scale + 2 * freedom.galaxy_flux
    assert len(rendered.names) == len(set(rendered.names)) == count + 12 * freedom.galaxy_shape


def test_kernel_and_shift_are_measured_in_the_anchored_area_only():
    scene = true_scene()
    frame = observed(scene)
    area = np.zeros(frame.shape, bool)
    area[:, :50] = True
    rendered = render_columns(
        scene, optics_on(replace(frame, anchored_area=area)), Freedom(kernel=True, shift=True, galaxy_scale=True)
    )
    for name in ("kernel", "shift_x", "shift_y"):
        column = rendered.tests[rendered.told.index(rendered.names.index(name))]
        assert not column[:, 50:].any()
        assert column[:, :50].any()
    assert rendered.columns[rendered.names.index("scale")][:, 50:].any()


# --- the step against dense linear algebra


class DenseProblem:
    """The same linear problem as a full design matrix with one row a pixel and one a prior."""

    def __init__(self, scene, optics, freedom):
        frame, stars = optics.frame, scene.stars
        rendered = render_columns(scene, optics, freedom)
        residual = rendered.residual[frame.good]
        root = np.sqrt(frame.weight[frame.good])
        stamps, corner_y, corner_x = optics.stars.stamps(stars.x, stars.y, optics.core_radius)
        columns, rows = [], []
        for s in range(stars.size):
            scale = (1.0, stars.flux[s], stars.flux[s]) if stars.free[s] else (1.0,)
            for c, factor in enumerate(scale):
                image = stamp_on(frame.shape, factor * stamps[s, c], corner_y[s], corner_x[s])
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
            columns.append(rendered.columns[k][frame.good] * root)
        self.names = rendered.names
        self.design = np.column_stack(columns)
        self.rhs = root * residual
        self.star_rows = self._rows(rows)
        damping = [
            (self.n_stars + k, 1.0 / GALAXY_DAMPING.get(name.rpartition(".")[2], np.inf), 0.0)
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
            centres=galaxy.centres + size * 0.05,
            shapes=galaxy.shapes + size * np.array([0.02, -0.03, 0.02, 0.01]),
            fluxes=galaxy.fluxes * (1 - size * 0.03),
        )
    return replace(scene, stars=moved, galaxy=galaxy, sky=scene.sky + size * 0.002)


def dense_values(scene, kernel, names):
    """Values of the dense unknowns of a scene."""
    values = {f"sky{k}": scene.sky[k] for k in range(3)} | dict(zip(KERNEL_NAMES, kernel.coordinates, strict=False))
    values |= {"shift_x": scene.shift[0], "shift_y": scene.shift[1]}
    if scene.galaxy is not None:
        galaxy = scene.galaxy
        values["scale"] = galaxy.fluxes.sum()
        for c in range(galaxy.size):
            values[f"{c}.flux"] = galaxy.fluxes[c]
            values[f"{c}.x_0"], values[f"{c}.y_0"] = galaxy.centres[c]
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


def test_a_star_whose_flux_was_wrong_is_at_its_place_after_one_step():
    truth = true_scene(1, galaxy=False, spread=9.0)
    # so bright that nothing damps the step
    truth = replace(truth, stars=replace(truth.stars, flux=np.array([100.0])))
    frame = observed(truth)
    for factor in (0.5, 0.8, 1.5):
        stars = replace(truth.stars, x=truth.stars.x + 0.1, flux=factor * truth.stars.flux, free=np.ones(1, bool))
        step = solve_step(replace(truth, stars=stars), optics_on(frame), Freedom())
        # of second order in the displacement, 0.1 of a sigma of 1.3 px; solved for was the displacement over the factor
        assert step.scene.stars.x == pytest.approx(truth.stars.x, abs=0.01)


def test_displacements_are_shared_out_by_the_new_flux_but_for_dark_and_anchored_stars():
    stars = Stars.new(np.zeros(6), np.zeros(6), np.array([1.0, 1.0, 1.0, -1.0, 0.0, 1.0]))
    stars = replace(stars, anchor_sigma=np.array([np.inf] * 5 + [0.1]))
    share = displacement_share(stars, np.array([4.0, 0.8, 0.1, 2.0, 2.0, 4.0]))
    assert share == pytest.approx([0.25, 1.25, 2.0, 1.0, 1.0, 1.0])
    assert displacement_share(stars, -np.ones(6)) == pytest.approx(np.ones(6))


def test_stars_that_are_not_solved_for_stay_and_the_others_step_as_beside_a_model_with_those_held():
    truth = true_scene(20, seed=3)
    start, optics = nearby(truth), optics_on(observed(truth, seed=8))
    near = np.zeros(optics.frame.shape, bool)
    near[:, : near.shape[1] // 2] = True
    chosen = at(near, start.stars)
    assert 3 < chosen.sum() < 17
    step = solve_step(start, optics, Freedom(galaxy_flux=True, stars=near))
    far = render_stars(start.stars.take(~chosen), optics)
    beside = optics.on(replace(optics.frame, data=np.where(optics.frame.good, optics.frame.data - far, 0.0)))
    alone = solve_step(replace(start, stars=start.stars.take(chosen)), beside, Freedom(galaxy_flux=True))
    for name in Stars.__dataclass_fields__:
        got, expected = getattr(step.scene.stars, name), getattr(alone.scene.stars, name)
        np.testing.assert_array_equal(got[~chosen], getattr(start.stars, name)[~chosen])
        # the same images, rendered together or apart: 3e-6 of a star
        np.testing.assert_allclose(got[chosen], expected, rtol=1e-4, atol=1e-4)
    assert np.abs(step.scene.stars.flux - start.stars.flux)[chosen].max() > NOISE
    np.testing.assert_allclose(step.scene.galaxy.fluxes, alone.scene.galaxy.fluxes, rtol=1e-5)
    np.testing.assert_allclose(step.covariance, alone.covariance, rtol=1e-6)


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
    moved = dense_values(step.scene, step.kernel, step.names) - dense_values(
        start, Kernel(values=(KERNEL,)), step.names
    )
    error_bars = np.sqrt(np.diag(covariance))
    # 1e-5 of an error bar: the condition number of the normal equations is the square of the design's
    np.testing.assert_allclose(moved / error_bars[n:], solution[n:] / error_bars[n:], atol=1e-5)
    np.testing.assert_allclose(
        step.covariance / error_bars[n:] / error_bars[n:, None],
        covariance[n:, n:] / error_bars[n:] / error_bars[n:, None],
        atol=1e-6,
    )
    shift = step.scene.shift
    after, before, k = step.scene.stars, start.stars, 0
    for s in range(n_stars):
        # what is solved for is the old flux times the displacement; the image changes by the new flux times it
        share = 1.0 if before.anchored[s] else before.flux[s] / after.flux[s]
        moved_x, moved_y = ((after.x - before.x)[s] - shift[0]) / share, ((after.y - before.y)[s] - shift[1]) / share
        got = [after.flux[s] - before.flux[s], moved_x, moved_y]
        width = 3 if before.free[s] else 1
        rows = slice(k, k + width)
        np.testing.assert_allclose(got[:width] / error_bars[rows], solution[rows] / error_bars[rows], atol=1e-5)
        np.testing.assert_allclose(got[width:], 0.0, atol=1e-12)
        # stars beyond 2.5 FWHM are not free in a star's error: that much of its variance
        assert after.variance[s, 0] == pytest.approx(covariance[k, k], rel=3e-3)
        k += width
    assert step.chi2 == pytest.approx((problem.rhs**2).sum(), rel=1e-12)


def test_stars_move_only_where_they_may():
    truth = true_scene(12)
    start = replace(nearby(truth), stars=replace(nearby(truth).stars, free=np.ones(12, bool)))
    optics = optics_on(observed(truth, seed=3))
    left = np.zeros(optics.frame.shape, bool)
    left[:, : optics.frame.shape[1] // 2] = True
    there = left[0, np.clip(np.rint(start.stars.x).astype(int), 0, left.shape[1] - 1)]
    held = replace(start, stars=replace(start.stars, free=there))
    step, same = (solve_step(*a).scene.stars for a in (
        (start, optics, replace(EVERYTHING, places=left)), (held, optics, EVERYTHING)))  # fmt: skip
    for name in ("x", "y", "flux"):
        np.testing.assert_array_equal(getattr(step, name), getattr(same, name))
    assert (step.x != start.stars.x).tolist() == there.tolist()
    assert 0 < there.sum() < 12
    # they may again in the next step
    assert step.free.all()


def test_the_true_scene_is_a_fixed_point():
    truth = true_scene(25)
    step = solve_step(truth, optics_on(observed(truth)), EVERYTHING)
    error = np.sqrt(np.diag(step.covariance))
    moved = dense_values(step.scene, step.kernel, step.names) - dense_values(
        truth, Kernel(values=(KERNEL,)), step.names
    )
    # the galaxy's image with derivatives is in single precision: some 1e-4 of an error bar
    assert np.abs(moved / error).max() < 0.02
    stars = step.scene.stars
    assert (np.abs(stars.flux - truth.stars.flux) < 0.02 * np.sqrt(stars.variance[:, 0])).all()


def test_a_faint_star_s_place_is_as_uncertain_as_its_pixels_say():
    # its place is known worse than what damps its steps
    star = Stars.new(np.array([30.0 + PAD]), np.array([30.0 + PAD]), np.array([0.13]))
    truth = replace(true_scene(), stars=replace(star, free=np.ones(1, bool)), galaxy=None)
    frame = observed(truth)
    optics = optics_on(frame)
    x_err, y_err = np.sqrt(solve_step(truth, optics, Freedom()).scene.stars.variance[0, 1:])
    stamps, _, _ = optics.stars.stamps(star.x, star.y, optics.core_radius)
    # Cramer & Rao: the inverse of the information that the slopes hold
    information = star.flux[0] ** 2 * (stamps[0, 1:] ** 2).sum(axis=(1, 2)) / NOISE**2
    assert (x_err, y_err) == pytest.approx(tuple(1.0 / np.sqrt(information)), rel=1e-3)
    assert x_err > STAR_DAMPING


def test_errors_are_those_of_the_scatter():
    truth = true_scene(40, seed=2)
    clean = observed(truth)
    pulls, dense_pulls = [], []
    for seed in range(12):
        noise = np.pad(np.random.default_rng(100 + seed).normal(0.0, NOISE, SHAPE), PAD)
        frame = replace(clean, data=clean.data + noise)
        step = solve_step(truth, optics_on(frame), EVERYTHING)
        moved = dense_values(step.scene, step.kernel, step.names) - dense_values(
            truth, Kernel(values=(KERNEL,)), step.names
        )
        undamped = np.array([name.startswith(("sky", "kernel")) or name.endswith("flux") for name in step.names])
        dense_pulls.append((moved / np.sqrt(np.diag(step.covariance)))[undamped])
        seen = np.isfinite(step.scene.stars.variance[:, 0])
        pulls.append(((step.scene.stars.flux - truth.stars.flux) / np.sqrt(step.scene.stars.variance[:, 0]))[seen])
    pulls, dense_pulls = np.concatenate(pulls), np.concatenate(dense_pulls)
    # 480 pulls scatter by 3 % about 1, 60 by 9 %: four of those
    assert np.sqrt((pulls**2).mean()) == pytest.approx(1.0, abs=0.13)
    assert np.sqrt((dense_pulls**2).mean()) == pytest.approx(1.0, abs=0.36)
    assert np.abs(pulls).max() < 5.0


def test_steps_lead_from_a_wrong_scene_to_the_true_one():
    truth = true_scene(20, seed=4)
    frame = observed(truth)
    scene, optics = nearby(truth, size=3.0), optics_on(frame, 1.4)
    for _ in range(12):
        step = solve_step(scene, optics, EVERYTHING)
        scene, optics = step.scene, optics.with_kernel(step.kernel)
    assert step.kernel.values[0] == pytest.approx(KERNEL, abs=1e-3)
    error = np.sqrt(np.diag(step.covariance))
    moved = dense_values(scene, step.kernel, step.names) - dense_values(truth, TRUE_KERNEL, step.names)
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
    assert step.kernel.values == (0.0,)
    wide = gaussian_stars(SHAPE, sky.stars.x - PAD, sky.stars.y - PAD, sky.stars.flux, 12.0) + 0.5
    step = solve_step(sky, optics_on(frame_of(wide), 3.95), Freedom(kernel=True))
    assert 0.0 < step.kernel.values[0] <= 4.0


def test_a_shift_moves_galaxy_stars_and_anchors_alike():
    truth = true_scene(20, seed=6)
    stars = replace(truth.stars, free=np.zeros(20, bool), anchor_sigma=np.full(20, 0.1))
    start = replace(
        truth,
        stars=replace(stars, x=stars.x - 0.3, y=stars.y + 0.2, anchor_x=stars.x - 0.3, anchor_y=stars.y + 0.2),
        galaxy=replace(truth.galaxy, centres=truth.galaxy.centres + np.array([-0.3, 0.2])),
    )
    scene, optics = start, optics_on(observed(truth))
    for _ in range(4):
        scene = solve_step(scene, optics, Freedom(shift=True, galaxy_scale=True)).scene
    np.testing.assert_allclose(scene.shift, [0.3, -0.2], atol=2e-3)
    np.testing.assert_allclose(scene.stars.x - start.stars.x, scene.shift[0], atol=1e-12)
    np.testing.assert_allclose(scene.stars.anchor_y - start.stars.anchor_y, scene.shift[1], atol=1e-12)
    np.testing.assert_allclose(scene.galaxy.centres[0] - start.galaxy.centres[0], scene.shift, atol=1e-12)


def test_a_scaled_galaxy_keeps_its_shape_and_may_be_negative():
    truth = true_scene(0)
    optics = optics_on(observed(truth))
    brighter = replace(truth, galaxy=replace(truth.galaxy, fluxes=3.0 * truth.galaxy.fluxes))
    step = solve_step(brighter, optics, Freedom(galaxy_scale=True))
    # linear: one step is enough
    np.testing.assert_allclose(step.scene.galaxy.fluxes, truth.galaxy.fluxes, rtol=1e-6)
    np.testing.assert_array_equal(step.scene.galaxy.shapes, truth.galaxy.shapes)
    hole = replace(truth, galaxy=replace(truth.galaxy, fluxes=-truth.galaxy.fluxes))
    dark = observed(hole)
    # forced photometry is signed: a galaxy that is not there scatters about zero
    fluxes = solve_step(truth, optics_on(dark), Freedom(galaxy_scale=True)).scene.galaxy.fluxes
    np.testing.assert_allclose(fluxes, -truth.galaxy.fluxes, rtol=1e-6)


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
    assert first.chi2 == second.chi2

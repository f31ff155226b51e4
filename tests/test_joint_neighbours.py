"""Neighbours that nobody can find broaden bright stars; the kernel must not be broadened by them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize
from test_joint_kernel import GALAXY, SHAPE, far_apart, kernels_of, observed, started

from sphot_mpi.joint import KERNEL_TOLERANCE
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_neighbours import HIDDEN_FWHM, hidden_broadening
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_scene import PAD
from sphot_mpi.joint_sources import Stars
from sphot_mpi.psf_kernel import Kernel

TRUTH, FAINT, N_FAINT = 1.1, 3.0, 200
FIELDS = 24


def gaussian_image(x, y, variance):
    at_y, at_x = np.mgrid[-25.0:26.0, -25.0:26.0]
    return np.exp(-0.5 * ((at_x - x) ** 2 + (at_y - y) ** 2) / variance) / (2.0 * np.pi * variance)


def fitted_variance(image, variance):
    """Variance of one Gaussian star with free flux that fits an image best."""

    def left(trial):
        star = gaussian_image(0.0, 0.0, trial)
        return float(((image - (image * star).sum() / (star**2).sum() * star) ** 2).sum())

    return optimize.minimize_scalar(left, bounds=(0.8 * variance, 1.2 * variance), options={"xatol": 1e-9}).x


@pytest.mark.parametrize("distance", [0.5, 1.5, 2.5, 4.0])
def test_a_neighbour_broadens_a_star_as_the_formula_says(distance):
    variance, part = 3.0, 1e-3
    # a ring of neighbours: one would move the star as well
    turns = 2.0 * np.pi * np.arange(8) / 8.0
    ring = [gaussian_image(distance * np.cos(t), distance * np.sin(t), variance) for t in turns]
    found = fitted_variance(gaussian_image(0.0, 0.0, variance) + part * np.mean(ring, axis=0), variance)
    want = part * 0.5 * distance**2 * np.exp(-(distance**2) / (4.0 * variance))
    # of first order in the neighbour's part; pixels of one px and the minimiser leave a few 1e-6
    assert found - variance == pytest.approx(want, rel=0.02, abs=1e-5)


def crowded(seed):
    """Bright stars on a grid in a field of faint ones, and which of these are too near a bright one to be found."""
    rng, bright = np.random.default_rng(seed), far_apart()
    y, x = (PAD + rng.uniform(-0.5, side - 0.5, N_FAINT) for side in SHAPE)
    faint = Stars.new(x, y, np.full(N_FAINT, FAINT))
    nearest = np.hypot(x[:, None] - bright.stars.x, y[:, None] - bright.stars.y).min(axis=1)
    return bright, faint, nearest


@pytest.mark.parametrize("with_galaxy", [False, True])
def test_hidden_neighbours_do_not_broaden_the_kernel(with_galaxy):
    # steep: its core tells the kernel as well, but no neighbour hides there
    galaxy = galaxy_of((replace(GALAXY, n=3.0, amplitude=0.2),)) if with_galaxy else None
    freedom = Freedom(kernel=True, galaxy_flux=with_galaxy)
    right, wrong = [], []
    for seed in range(FIELDS):
        bright, faint, nearest = crowded(seed)
        bright = replace(bright, galaxy=galaxy)
        frame = observed(replace(bright, stars=bright.stars.join(faint)), Kernel(values=(TRUTH,)), seed)
        fwhm = started(bright, frame, "gaussian", TRUTH).optics.fwhm
        known = replace(bright, stars=bright.stars.join(faint.take(nearest > HIDDEN_FWHM * fwhm)))
        for found_fwhm, errors in ((np.inf, right), (0.0, wrong)):
            state = started(known, replace(frame, found_fwhm=found_fwhm), "gaussian")
            state, _ = kernels_of(state, 5, freedom)
            errors.append(state.optics.kernel.values[0] ** 2 - TRUTH**2)
    scatter = np.std(right, ddof=1) / np.sqrt(FIELDS)
    # if all neighbours counted as found it would be wrong by many errors; second order in their flux is left out
    assert np.mean(wrong) > 4.0 * scatter
    assert abs(np.mean(right)) < 0.15 * np.mean(wrong) + 2.0 * scatter


def test_what_neighbours_add_is_taken_off_the_kernel_and_nothing_else():
    bright, faint, _ = crowded(0)
    scene = replace(bright, stars=bright.stars.join(faint))
    frame = observed(scene, Kernel(values=(TRUTH,)))
    ends = []
    for found_fwhm in (np.inf, 0.0):
        state, _ = kernels_of(started(scene, replace(frame, found_fwhm=found_fwhm), "gaussian"), 8)
        ends.append(state)
    added = hidden_broadening(ends[0].scene.stars, ends[0].optics, ends[0].scene.stars.flux > 2.0 * FAINT)
    (with_it,), (without,) = (end.optics.kernel.values for end in ends)
    # a kernel is renewed when it has moved by 0.003 px
    assert without**2 - with_it**2 == pytest.approx(added, rel=0.1, abs=2.0 * TRUTH * KERNEL_TOLERANCE)
    assert ends[0].scene.sky == pytest.approx(ends[1].scene.sky, abs=1e-3)


def test_stars_found_in_a_sharper_image_hide_fewer_neighbours():
    bright, faint, _ = crowded(0)
    scene = replace(bright, stars=bright.stars.join(faint))
    optics = started(scene, observed(scene, Kernel(values=(TRUTH,))), "gaussian", TRUTH).optics
    telling = scene.stars.flux > 2.0 * FAINT
    alone, sharper = (
        hidden_broadening(scene.stars, optics.on(replace(optics.frame, found_fwhm=fwhm)), telling)
        for fwhm in (np.inf, 0.5 * optics.fwhm)
    )
    # light within r broadens by r^2: the integral goes with the radius to the fourth, less the star's own fall-off
    assert 2.0**-4 < sharper / alone < 1.5 * 2.0**-4


def test_nothing_hides_beside_stars_that_nothing_is_fainter_than():
    scene = far_apart()
    optics = started(scene, observed(scene, Kernel(values=(TRUTH,))), "gaussian", TRUTH).optics
    assert hidden_broadening(scene.stars, optics, np.ones(scene.stars.size, bool)) == 0.0
    assert hidden_broadening(scene.stars, optics, np.zeros(scene.stars.size, bool)) == 0.0

"""The light of stars on the galaxy that only the field shows."""

from dataclasses import replace

import numpy as np
import pytest
from joint_states import GALAXY, NEVER, SKY, noise, state_of

from sphot_mpi.faint_stars import with_faint_stars
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_sources import Stars
from sphot_mpi.unseen_light import faint_light


def field_with_hole(n_inside, seed=0):
    """Stars of one flux: 0.1 a pixel off the galaxy, `n_inside` of them within 2.5 r_eff of it."""
    rng = np.random.default_rng(seed)
    state = state_of(SKY + noise(), galaxy=galaxy_of((GALAXY,)))
    radius = galaxy_radius(state.scene.galaxy, NEVER.shape)
    y, x = (v.ravel() for v in np.indices(NEVER.shape))
    chosen = []
    for area, n in ((state.optics.frame.good & (radius > 2.5), None), (radius < 2.5, n_inside)):
        pixels = np.flatnonzero(area)
        chosen.append(rng.choice(pixels, pixels.size // 10 if n is None else n, replace=False))
    index = np.concatenate(chosen)
    stars = Stars.new(x[index].astype(float), y[index].astype(float), np.ones(index.size))
    return replace(state, scene=state.scene.with_stars(stars)), radius


def test_the_light_of_stars_that_only_the_field_shows_is_expected_on_the_galaxy_too():
    state, radius = field_with_hole(0)
    faint = with_faint_stars(state, (np.inf,) * 5).optics.frame.faint
    # all of it, but for the part that chance could have made: one over the number of stars expected
    expected = 0.1 * (radius < 2.5).sum()
    assert faint.sum() == pytest.approx(expected, rel=0.1)
    assert faint.sum() < expected
    # the outermost annulus' light falls to 0 as far beyond its edge as its middle is before it
    assert not faint[radius > 2.75].any()
    # stars that would be found even on the galaxy are not missing there, but absent
    assert not with_faint_stars(state, (0.5,) * 5).optics.frame.faint.any()


def test_faint_light_has_no_step_and_an_annulus_spreads_all_of_its_light():
    radius = np.hypot(*np.mgrid[-150:151, -150:151]) / 50.0
    for k in range(1, 5):
        image = faint_light(np.eye(5)[k], radius)
        annulus = (radius >= 0.5 * k) & (radius < 0.5 * (k + 1))
        # linear to both sides of its middle, so symmetric about it: pixels on the edges are all that differs
        assert image.sum() == pytest.approx(annulus.sum(), rel=0.01)
        # a pixel is 1/50 of r_eff, and half of one lies between two middles
        assert np.abs(np.diff(image, axis=0)).max() <= 0.04 + 1e-12


def test_chance_takes_no_light_off_the_galaxy():
    inside = int((field_with_hole(0)[1] < 2.5).sum())
    means = []
    for seed in range(30):
        state, radius = field_with_hole(np.random.default_rng(seed).poisson(0.1 * inside), seed)
        means.append(with_faint_stars(state, (np.inf,) * 5).optics.frame.faint[radius < 2.5].mean())
    # cut off at zero instead of shrunk, the mean would be 0.4 of an annulus' scatter (0.4 x 0.015)
    assert np.mean(means) < 0.003

"""Solving without detection until all has come to rest."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from joint_states import GALAXY, SKY, galaxy_image, image_of, noise, stars_at, state_of

from sphot_mpi.joint import Keep, solve
from sphot_mpi.joint_galaxy import galaxy_of
from sphot_mpi.joint_render import Freedom
from sphot_mpi.joint_settle import WHOLE_PASSES, settle, settle_stars
from sphot_mpi.joint_sources import Stars, at

KEEP = Keep(3.0, 3.0)


def blends(seed=0):
    """A state of twenty stars, three of which are blends that begin with the wrong places."""
    lone = stars_at(20, seed=seed, low=2.0)
    second = Stars.new(lone.x[:3] + 1.6, lone.y[:3] - 0.4, 0.7 * lone.flux[:3])
    data = SKY + image_of(lone) + image_of(second) + noise(seed)
    return state_of(data, lone.join(replace(second, x=second.x + 1.0, y=second.y - 1.0)))


def test_stars_at_rest_are_solved_for_no_more(monkeypatch):
    state, solved = blends(), []

    def counted(state, freedom):
        stars = state.scene.stars
        solved.append(stars.size if freedom.stars is None else int(at(freedom.stars, stars).sum()))
        return solve(state, freedom)

    monkeypatch.setattr("sphot_mpi.joint_settle.solve", counted)
    freedom = Freedom(kernel=True)
    settled, quiet = settle_stars(state, freedom, KEEP, most=20)
    assert quiet
    assert solved[:WHOLE_PASSES] == [23] * WHOLE_PASSES
    # at last only the three blends are
    assert all(later <= earlier for earlier, later in pairwise(solved))
    assert solved[-1] <= 6
    # what is known of the kernel is what all stars have told
    assert "kernel" in settled.step.names
    whole, _ = settle(state, freedom, KEEP, most=20)
    stars, expected = settled.scene.stars, whole.scene.stars
    assert stars.size == expected.size == 23
    error = np.sqrt(expected.variance)
    for got, want, sigma in zip(
        (stars.flux, stars.x, stars.y), (expected.flux, expected.x, expected.y), error.T, strict=True
    ):
        # both stop a little before the minimum, steps shrinking from there on
        assert (np.abs(got - want) < 0.3 * sigma).all()


def test_no_star_at_all_is_at_rest():
    settled, quiet = settle_stars(state_of(SKY + noise()), Freedom(), KEEP, most=6)
    assert quiet
    assert settled.scene.stars.size == 0


@pytest.mark.parametrize(("too_long", "most"), [(2.0, 5), (4.0, 8), (7.0, 12)])
def test_a_galaxy_whose_steps_are_too_long_settles(monkeypatch, too_long, most):
    state = state_of(SKY + galaxy_image(GALAXY) + noise(), galaxy=galaxy_of((GALAXY,)))
    real = solve(state, Freedom(galaxy_shape=True))
    aim, error = real.scene.galaxy.centres, 0.05

    def overshooting(state, freedom):
        step = too_long * (aim - state.scene.galaxy.centres)
        galaxy = replace(state.scene.galaxy, centres=state.scene.galaxy.centres + step)
        done = replace(real.step, moved=float(np.abs(step).max() / error), chi2=1.0)
        return replace(state, scene=replace(state.scene, galaxy=galaxy), step=done)

    monkeypatch.setattr("sphot_mpi.joint_settle.solve", overshooting)
    start = replace(real.scene.galaxy, centres=aim + [[0.4, -0.3]])
    start = replace(real, scene=replace(real.scene, galaxy=start))
    settled, quiet = settle(start, Freedom(galaxy_shape=True), KEEP, most=most)
    # by themselves the steps lead to and fro for ever, or farther and farther away
    assert quiet
    np.testing.assert_allclose(settled.scene.galaxy.centres, aim, atol=error)


def test_a_swinging_shift_takes_the_galaxy_with_it(monkeypatch):
    state = solve(state_of(SKY + galaxy_image(GALAXY) + noise(), galaxy=galaxy_of((GALAXY,))), Freedom())
    swings = iter([0.2, -0.19, 0.18, -0.17])

    def swinging(state, freedom):
        scene, step = state.scene, np.array([next(swings), 0.0])
        galaxy = replace(scene.galaxy, centres=scene.galaxy.centres + step)
        moved = replace(state.step, moved=9.0)
        return replace(state, scene=replace(scene, galaxy=galaxy, shift=scene.shift + step), step=moved)

    monkeypatch.setattr("sphot_mpi.joint_settle.solve", swinging)
    settled, _ = settle(state, Freedom(shift=True), KEEP, most=4)
    # stars and anchors have made the whole of every step
    shift = settled.scene.galaxy.centres[0] - state.scene.galaxy.centres[0]
    np.testing.assert_allclose(shift, settled.scene.shift, atol=1e-12)

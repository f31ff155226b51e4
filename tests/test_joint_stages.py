"""The stages of a joint fit one by one: finding, pruning, settling, the galaxy alone, its components."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import gaussian_stars
from joint_states import (
    BULGE,
    EVERYWHERE,
    GALAXY,
    NEVER,
    NOISE,
    SHAPE,
    SIGMA,
    SKY,
    frame_of,
    galaxy_image,
    image_of,
    noise,
    optics_on,
    stars_at,
    state_of,
)

from sphot_mpi.joint import Keep, add_stars, merge_dark, prune, solve
from sphot_mpi.joint_core import without_needless_component, without_stars_at_centres
from sphot_mpi.joint_galaxy import (
    clipped,
    components_of,
    fit_smooth,
    galaxy_of,
    local_median,
    second_component,
    sky_vector,
    start_galaxy,
)
from sphot_mpi.joint_regions import centre_distance, galaxy_radius, star_reach
from sphot_mpi.joint_render import Freedom, render_sky
from sphot_mpi.joint_scene import PAD
from sphot_mpi.joint_settle import settle
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.records import SersicParams, SkyPlane
from sphot_mpi.sersic import total_flux
from sphot_mpi.unseen_light import half_light_distance, half_light_distance_at

# --- finding, pruning, settling


def test_stars_without_data_leave_the_scene_while_a_fit_settles():
    # stars that have wandered off the data take up what the edge lacks, and broaden the kernel
    mask = np.indices(SHAPE)[1] > 100
    x, y = np.array([60.0, 120.0]) + PAD, np.array([30.0, 30.0]) + PAD
    stars = replace(Stars.new(x, y, np.full(2, 9.0)), variance=np.full((2, 3), 1e-4))
    state = prune(state_of(SKY + noise(), stars, mask=mask), Keep(3.0, 3.0), merge=False)
    np.testing.assert_array_equal(state.scene.stars.x, x[:1])


def test_settling_waits_for_what_is_newly_free():
    galaxy = galaxy_of((GALAXY,))
    state = state_of(SKY + galaxy_image(GALAXY) + noise(), galaxy=replace(galaxy, fluxes=0.9 * galaxy.fluxes))
    # with the flux held there is nothing to do, and chi2 does not change any more
    state, quiet = settle(state, Freedom(), Keep(3.0, 3.0), most=5)
    assert quiet
    state, quiet = settle(state, Freedom(galaxy_scale=True), Keep(3.0, 3.0), most=5)
    assert quiet
    assert state.step.chi2 == pytest.approx(SHAPE[0] * SHAPE[1], rel=0.05)
    # the last step starts where the flux is right already, so that its covariance belongs there
    assert state.scene.galaxy.fluxes[0] == pytest.approx(galaxy.fluxes[0], rel=0.01)


def test_stars_are_found_and_solved():
    truth = stars_at()
    state = state_of(SKY + image_of(truth) + noise())
    state = add_stars(state, 10.0, 0.0, EVERYWHERE)
    assert state.scene.stars.size == truth.size
    state, quiet = settle(state, Freedom(), Keep(3.0, 3.0), most=20)
    assert quiet
    stars = state.scene.stars
    distance = np.hypot(stars.x[:, None] - truth.x, stars.y[:, None] - truth.y)
    nearest = distance.argmin(axis=1)
    assert np.unique(nearest).size == truth.size
    pull = (stars.flux - truth.flux[nearest]) / np.sqrt(stars.variance[:, 0])
    # 25 pulls: 14 % of scatter about 1
    assert np.abs(pull).max() < 4.5
    assert np.sqrt((pull**2).mean()) < 1.6
    assert state.residual[state.optics.frame.good].std() == pytest.approx(NOISE, rel=0.03)
    # nothing is left to find
    assert add_stars(state, 6.0, 0.0, EVERYWHERE).scene.stars.size == truth.size


def test_no_star_is_added_where_it_may_not_be():
    state = state_of(SKY + image_of(stars_at()) + noise())
    assert add_stars(state, 5.0, 0.0, NEVER).scene.stars.size == 0
    left = np.where(np.arange(NEVER.shape[1])[None, :] < 80, EVERYWHERE, np.inf)
    found = add_stars(state, 10.0, 0.0, left).scene.stars
    assert 0 < found.size < 25
    assert found.x.max() < 80.5


def test_twins_merge_faint_stars_go_and_anchors_stay():
    truth = stars_at(6)
    x, y = truth.x, truth.y
    fwhm = state_of(SKY + noise()).optics.fwhm
    faint = Stars.new(np.array([x[0] + 11.0, x[1] + 11.0]), np.array([y[0], y[1]]), np.full(2, 0.01))
    twin = Stars.new(x[2:3] + 0.2 * fwhm, y[2:3], np.array([0.3]))
    beyond = Stars.new(np.array([-3.0]), np.array([50.0]), np.array([9.0]))
    stars = replace(truth, flux=truth.flux + 1.0).join(faint).join(twin).join(beyond)
    anchor = np.full(stars.size, np.inf)
    anchor[7] = 0.1  # the second faint one
    stars = replace(stars, anchor_sigma=anchor, variance=np.full((stars.size, 3), 0.02**2))
    pruned = prune(state_of(SKY + noise(), stars), Keep(1.5, 5.0)).scene.stars
    np.testing.assert_allclose(np.sort(pruned.x), np.sort(np.append(x, x[1] + 11.0)))
    assert pruned.anchored.sum() == 1
    # without an error there is no significance
    unknown = replace(stars, variance=np.full((stars.size, 3), np.inf))
    assert prune(state_of(SKY + noise(), unknown), Keep(1.5, 5.0)).scene.stars.size == 1


def test_settling_merges_nothing_and_a_measured_star_always_stays():
    truth = stars_at(6, low=4.0)
    state = state_of(SKY + image_of(truth) + noise())
    # a real pair, nearer than detection would allow
    pair = Stars.new(truth.x[:1] + 0.28 * state.optics.fwhm, truth.y[:1], np.array([60.0]))
    both = replace(truth, flux=20.0 * truth.flux).join(pair)
    state = state_of(SKY + image_of(both) + noise(), both)
    settled, _ = settle(state, Freedom(), Keep(3.0, 3.0), most=5)
    assert settled.scene.stars.size == 7
    assert prune(settled, Keep(3.0, 3.0)).scene.stars.size == 6
    # what the galaxy was measured with is kept for the other filters, however faint a deeper fit makes it
    dim = replace(settled.scene.stars, flux=np.full(7, 1e-3), base_flux=np.array([1.0, 0, 0, 0, 0, 0, 1.0]))
    kept = prune(replace(settled, scene=settled.scene.with_stars(dim)), Keep(3.0, 3.0)).scene.stars
    assert (kept.base_flux > 0.0).sum() == 2
    assert kept.size == 2


def test_values_at_stars_are_those_of_the_nearest_pixel():
    image = np.arange(20.0).reshape(4, 5)
    stars = Stars.new(np.array([1.4, 2.6, -9.0, 99.0]), np.array([0.6, 2.4, 1.0, 99.0]), np.ones(4))
    np.testing.assert_array_equal(at(image, stars), [image[1, 1], image[2, 3], image[1, 0], image[3, 4]])


def test_solving_renews_the_kernel_and_its_filter():
    truth = stars_at(low=3.0, high=20.0)
    wide = gaussian_stars(SHAPE, truth.x - PAD, truth.y - PAD, truth.flux, np.hypot(SIGMA, 1.5))
    state = state_of(SKY + wide + noise(), truth)
    start = state.optics.matched
    for _ in range(6):
        state = solve(state, Freedom(kernel=True))
    assert state.optics.kernel.values[0] == pytest.approx(1.5, abs=0.02)
    assert state.passes == 6
    assert state.optics.matched is not start
    # a wider PSF collects more noise
    assert state.optics.matched.precision.max() < start.precision.max()


# --- the galaxy alone


def test_sky_vector_is_the_plane_in_the_cutout():
    plane = SkyPlane(level=0.3, slope_x=1e-3, slope_y=-2e-3, x_ref=20.0, y_ref=70.0)
    frame = frame_of(np.zeros(SHAPE))
    image = frame.interior(render_sky(sky_vector(plane, frame.shape), frame.shape))
    np.testing.assert_allclose(image, plane.render(SHAPE), atol=1e-12)


def test_galaxy_and_components_are_the_same_thing():
    two = components_of(galaxy_of((GALAXY, BULGE)))
    for got, want in zip(two, (GALAXY, BULGE), strict=True):
        for name in ("amplitude", "r_eff", "n", "x_0", "y_0", "ellip", "theta"):
            assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-9)


def test_galaxy_radius_is_one_on_the_half_light_ellipse_and_capped():
    shape = (100 + 2 * PAD, 120 + 2 * PAD)
    disk = SersicParams(amplitude=1.0, r_eff=10.0, n=1.0, x_0=50.0, y_0=40.0, ellip=0.5, theta=np.pi / 2)
    radius = galaxy_radius(galaxy_of((disk,)), shape)
    assert radius[PAD + 50, PAD + 50] == pytest.approx(1.0)
    assert radius[PAD + 40, PAD + 55] == pytest.approx(1.0)
    # a galaxy counts as no larger than a quarter of the image
    large = galaxy_radius(galaxy_of((replace(disk, r_eff=80.0),)), shape)
    assert large[PAD + 65, PAD + 50] == pytest.approx(1.0)
    # of every third row and column, and of points, it is the same
    np.testing.assert_allclose(half_light_distance((disk,), shape, PAD, every=3), radius[::3, ::3], rtol=1e-12)
    x, y = np.array([0, 71, 143]), np.array([5, 0, 123])
    np.testing.assert_allclose(half_light_distance_at((disk,), shape, PAD, x, y), radius[y, x], rtol=1e-12)
    # it hangs on the ellipse, not on its light
    brighter = galaxy_radius(galaxy_of((replace(disk, amplitude=2.0, n=3.0),)), shape)
    np.testing.assert_allclose(brighter, radius, rtol=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        radius[0, 0] = 0.0


def test_stars_within_reach_are_those_whose_images_lie_on_the_light():
    state = state_of(SKY + noise(), galaxy=galaxy_of((GALAXY,)))
    galaxy, optics = state.scene.galaxy, state.optics
    near = star_reach(galaxy, optics, 2.0)
    # along the major axis it ends 1.5 FWHM beyond 2 r_eff
    away = 2.0 * GALAXY.r_eff + 1.5 * optics.fwhm
    for part, expected in ((0.97, True), (1.03, False)):
        x, y = (
            c + PAD + part * away * t
            for c, t in ((GALAXY.x_0, np.cos(GALAXY.theta)), (GALAXY.y_0, np.sin(GALAXY.theta)))
        )
        assert near[round(y), round(x)] == expected


def test_local_median_is_smooth_light_without_stars():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    plane = 1.0 + 0.01 * x - 0.02 * y
    stars = image_of(stars_at(high=50.0))
    got = local_median(plane + stars, np.ones(SHAPE, bool))
    inner = got[9:-9, 9:-9]
    # a star covers a third of a block, which moves the median along the block's gradient of 0.2
    assert np.abs(inner - plane[9:-9, 9:-9]).max() < 0.2
    np.testing.assert_allclose(local_median(plane, np.ones(SHAPE, bool))[9:-13, 9:-13], plane[9:-13, 9:-13], atol=1e-9)
    # blocks without data take their neighbours' value, and nothing at all is 0
    good = np.ones(SHAPE, bool)
    good[:, :60] = False
    assert np.isfinite(local_median(np.where(good, plane, np.nan), good)).all()
    np.testing.assert_array_equal(local_median(plane, ~np.ones(SHAPE, bool)), 0.0)


def test_stars_are_clipped_and_the_galaxy_is_not():
    stars = stars_at(high=30.0)
    frame = frame_of(SKY + galaxy_image(GALAXY) + image_of(stars) + noise())
    optics = optics_on(frame)
    sky = np.array([SKY, 0.0, 0.0])
    smooth = fit_smooth(frame_of(SKY + galaxy_image(GALAXY) + noise()), optics, (GALAXY,), most=5)
    assert smooth.sky == pytest.approx(sky, abs=0.002)
    kept = clipped(frame, optics, smooth)
    far = centre_distance(smooth.galaxy, frame.shape) > 20.0
    assert not kept.good[np.rint(stars.y).astype(int), np.rint(stars.x).astype(int)][
        at(far, stars) & (stars.flux > 3.0)
    ].any()
    lost = frame.good & ~kept.good
    assert lost.sum() < 0.2 * frame.good.sum()
    assert not lost[centre_distance(smooth.galaxy, frame.shape) < 2.0].any()
    # a galaxy that is modelled twice too faint is not taken for stars
    half = replace(smooth, galaxy=replace(smooth.galaxy, fluxes=0.5 * smooth.galaxy.fluxes))
    calm = frame_of(SKY + galaxy_image(GALAXY) + noise())
    inside = galaxy_radius(smooth.galaxy, frame.shape) < 1.5
    assert clipped(calm, optics, half).good[inside].mean() > 0.6


def test_the_first_galaxy_is_near_the_true_one_among_many_stars():
    frame = frame_of(SKY + galaxy_image(GALAXY) + image_of(stars_at(36, high=30.0)) + noise())
    smooth = start_galaxy(frame, optics_on(frame))
    (got,) = components_of(smooth.galaxy)
    # stars are masked, not fitted: a start, to be good to a tenth of a magnitude
    assert smooth.galaxy.fluxes.sum() == pytest.approx(total_flux(GALAXY), rel=0.1)
    assert (got.x_0, got.y_0) == pytest.approx((GALAXY.x_0, GALAXY.y_0), abs=0.2)
    assert got.r_eff == pytest.approx(GALAXY.r_eff, rel=0.15)


@pytest.mark.parametrize("two", [True, False])
def test_a_second_component_is_given_to_those_who_need_it(two):
    components = (GALAXY, BULGE) if two else (GALAXY,)
    for seed in range(3):
        frame = frame_of(SKY + galaxy_image(*components) + noise(seed))
        optics = optics_on(frame)
        smooth = start_galaxy(frame, optics)
        found = second_component(frame, optics, np.zeros(frame.shape), smooth)
        if not two:
            assert found is None
            continue
        assert found.galaxy.size == 2
        assert found.chi2 / frame.good.sum() == pytest.approx(1.0, abs=0.05)
        assert found.galaxy.fluxes.sum() == pytest.approx(total_flux(GALAXY) + total_flux(BULGE), rel=0.02)


# --- components and stars at centres


@pytest.mark.parametrize("two", [False, True])
def test_a_component_goes_when_the_stars_explain_its_light(two):
    # the true galaxy, and one more component that may be right or a piece of it
    components = (GALAXY, BULGE) if two else (GALAXY,)
    stars = stars_at(20)
    data = SKY + image_of(stars) + galaxy_image(*components) + noise()
    first = galaxy_of((GALAXY, BULGE) if two else (GALAXY, replace(GALAXY, amplitude=0.1, r_eff=4.0)))
    state = state_of(data, stars, first)
    free = Freedom(galaxy_flux=True, galaxy_shape=True)
    for _ in range(3):
        state = solve(state, free)
    state = without_needless_component(state, free, Keep(3.0, 5.0))
    galaxy = state.scene.galaxy
    assert galaxy.size == 1 + two
    # the noise of the data is 0.3 % of the flux
    assert galaxy.fluxes.sum() == pytest.approx(sum(total_flux(c) for c in components), rel=0.02)


def test_a_star_on_a_components_centre_is_its_nucleus():
    state = state_of(SKY + galaxy_image(GALAXY) + noise(), galaxy=galaxy_of((GALAXY,)))
    fwhm = state.optics.fwhm
    x = GALAXY.x_0 + PAD + fwhm * np.array([0.2, 1.5, 5.0])
    stars = Stars.new(x, np.full(3, GALAXY.y_0 + PAD), np.ones(3))
    state = replace(state, scene=state.scene.with_stars(stars))
    np.testing.assert_array_equal(without_stars_at_centres(state).scene.stars.x, x[1:])
    # those of another filter's list are known to be there
    anchored = replace(stars, anchor_sigma=np.full(3, 0.1))
    state = replace(state, scene=state.scene.with_stars(anchored))
    assert without_stars_at_centres(state) is state


def test_a_dark_anchor_and_the_star_beside_it_are_one_star_off_its_anchor():
    place = np.array([60.0]), np.array([70.0])
    anchor = replace(Stars.new(*place, np.array([-1.0])), anchor_sigma=np.array([0.02]))
    pair = anchor.join(Stars.new(place[0] + 0.2, place[1] - 0.1, np.array([4.0])))
    far = anchor.join(Stars.new(place[0] + 5.0, place[1], np.array([4.0])))
    (x,), (y,), (flux,) = (getattr(merge_dark(pair, 1.0, 0.1), name) for name in ("x", "y", "flux"))
    # the centroid, away from the dark one
    assert (x, y, flux) == pytest.approx((60.0 + 0.2 * 4.0 / 3.0, 70.0 - 0.1 * 4.0 / 3.0, 3.0))
    assert merge_dark(far, 1.0, 0.1).size == 2
    one, two = (image_of(stars) for stars in (merge_dark(pair, 1.0, 0.1), pair))
    # alike to first order in the distance over the width; the second order is (0.22 / 1.5)^2 of a third of the light
    assert np.abs(one - two).max() < 0.02 * two.max()
    named = replace(pair, base_id=np.array([7, 0]), base_flux=np.array([2.0, 0.0]))
    merged = merge_dark(named, 1.0, 0.1)
    # it is the base filter's star, at a place of its own
    assert (merged.base_id[0], merged.base_flux[0], merged.anchored[0]) == (7, 2.0, False)
    # nothing is left of a star that is dark as a whole, and the anchor goes with it
    assert merge_dark(replace(pair, flux=np.array([-4.0, 1.0])), 1.0, 0.1).size == 0
    bright = replace(pair, flux=np.array([1.0, 4.0]))
    assert merge_dark(bright, 1.0, 0.1).size == 2


def test_a_star_off_its_anchor_is_found_once():
    truth = stars_at(6, low=4.0)
    off = replace(truth, x=truth.x + 0.5, flux=30.0 * truth.flux)
    state = state_of(SKY + image_of(off) + noise(), replace(truth, anchor_sigma=np.full(6, 0.02)))
    state = replace(state, scene=state.scene.with_stars(replace(state.scene.stars, flux=off.flux.copy())))
    state = add_stars(solve(state, Freedom()), 5.0, 0.02, EVERYWHERE)
    settled, quiet = settle(state, Freedom(), Keep(3.0, 3.0), most=12)
    stars = settled.scene.stars
    assert quiet
    # in all places there is as much light as there was, where it was
    for x, y, flux in zip(off.x, off.y, off.flux, strict=True):
        here = np.hypot(stars.x - x, stars.y - y) < 2.0
        assert (stars.flux[here] > 0.0).all()
        assert stars.flux[here].sum() == pytest.approx(flux, rel=0.02)
        assert np.average(stars.x[here], weights=stars.flux[here]) == pytest.approx(x, abs=0.05)

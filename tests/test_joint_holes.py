"""A saturated star is found by the light around the hole that it leaves; other holes are no stars."""

from dataclasses import replace

import numpy as np
import pytest
from test_joint_fit import (
    BASE,
    BULGE,
    CONFIG,
    DISK,
    GALAXY,
    GALAXY_COLOUR,
    OTHER,
    crowded,
    library,
    magnitude_error,
    make_cutout,
)
from test_joint_glare import PLACE, with_bright_star

from sphot_mpi.joint import Keep
from sphot_mpi.joint_base import KERNEL_START
from sphot_mpi.joint_glare import start_state
from sphot_mpi.joint_holes import PLACE_SIGMA, stars_in_holes
from sphot_mpi.joint_pipeline import fit_base_joint, fit_scaled_joint, make_frame
from sphot_mpi.joint_render import kernel_stars
from sphot_mpi.joint_scene import PAD, Optics
from sphot_mpi.joint_sources import Stars
from sphot_mpi.simulate_render import total_flux

#: Radius, px, of the hole in a saturated star.
HOLE = 3.0


def with_hole(cutout, x, y, radius=HOLE):
    """The cutout without its data around a point."""
    iy, ix = np.indices(cutout.shape)
    hole = np.hypot(ix - x, iy - y) <= radius
    return replace(cutout, data=np.where(hole, np.nan, cutout.data), mask=cutout.mask | hole)


def optics_of(cutout, filt=BASE):
    frame = make_frame(cutout, library(filt))
    return Optics.start(library(filt), KERNEL_START, frame)


def saturated():
    field, flux = with_bright_star()
    return field, flux, with_hole(make_cutout(field, with_error=True), *PLACE)


def test_a_saturated_star_is_found_by_its_wings():
    _, flux, cutout = saturated()
    stars = stars_in_holes(optics_of(cutout))
    assert stars.size == 1
    # the hole's middle is the star's place to a pixel, and the kernel is a guess
    assert np.hypot(stars.x[0] - PAD - PLACE[0], stars.y[0] - PAD - PLACE[1]) < PLACE_SIGMA
    assert stars.flux[0] == pytest.approx(flux, rel=0.3)
    assert stars.free.all()
    # held in the scene although there is no data under it
    assert stars.anchored.all()


@pytest.mark.parametrize("components", [(GALAXY,), (DISK, BULGE)])
@pytest.mark.parametrize("place", [(GALAXY.x_0, GALAXY.y_0), (70.0, 20.0)])
def test_a_hole_in_galaxy_or_field_hides_no_star(components, place):
    cutout = make_cutout(replace(crowded(), components=components), with_error=True)
    optics = optics_of(with_hole(cutout, *place))
    # the light around a hole in a bulge looks like a star's, but without it no galaxy is left elsewhere
    assert start_state(optics.frame, optics, Keep.beside_free_galaxy(3.0)).scene.stars.size == 0


def test_single_bad_pixels_and_gaps_at_the_edge_are_no_stars():
    field, _ = with_bright_star()
    cutout = with_hole(make_cutout(field, with_error=True), *np.rint(PLACE), radius=0.5)
    assert stars_in_holes(optics_of(cutout)).size == 0
    cutout = make_cutout(field, with_error=True)
    gap = np.indices(cutout.shape)[1] > PLACE[0]
    cutout = replace(cutout, data=np.where(gap, np.nan, cutout.data), mask=gap)
    assert stars_in_holes(optics_of(cutout)).size == 0


def test_the_galaxy_beside_a_saturated_star_is_measured_in_all_filters():
    field, flux, cutout = saturated()
    base = fit_base_joint(cutout, library(BASE), CONFIG)
    # the star's wings leave as much doubt as the star field does elsewhere
    assert abs(magnitude_error(base, total_flux(GALAXY))) < 0.03
    star = base.sources[np.argmax(base.sources["flux_fit"])]
    assert np.hypot(star["x_fit"] - PLACE[0], star["y_fit"] - PLACE[1]) < 0.1
    # wings of a PSF whose kernel is found from fainter stars
    assert star["flux_fit"] == pytest.approx(flux, rel=0.05)
    other = with_hole(make_cutout(field, OTHER, with_error=True), *PLACE)
    fit = fit_scaled_joint(other, library(OTHER), base, cutout, CONFIG)
    assert abs(magnitude_error(fit, 10.0 ** (-0.4 * GALAXY_COLOUR) * total_flux(GALAXY))) < 0.03


def test_a_star_without_its_core_does_not_tell_the_kernel():
    _, flux, cutout = saturated()
    optics = optics_of(cutout)
    x, y = np.array([PLACE[0], 30.0]) + PAD, np.array([PLACE[1], 30.0]) + PAD
    stars = Stars.new(x, y, np.array([flux, 0.5 * flux]))
    np.testing.assert_array_equal(kernel_stars(stars, optics), [False, True])

"""A star brighter than the galaxy is not taken for it; a galaxy with a bright core is not taken for a star."""

from dataclasses import replace

import numpy as np
import pytest
from test_joint_fit import BASE, BULGE, CONFIG, DISK, GALAXY, crowded, library, magnitude_error, make_cutout

from sphot_mpi.joint import Keep
from sphot_mpi.joint_base import KERNEL_START
from sphot_mpi.joint_glare import start_state
from sphot_mpi.joint_pipeline import fit_base_joint, make_frame
from sphot_mpi.joint_scene import PAD, Optics
from sphot_mpi.simulate_render import total_flux

#: Place of the star, 2 to 3 r_eff from the galaxy, and its light over the galaxy's.
PLACE, BRIGHT = (GALAXY.x_0 + 16.0, GALAXY.y_0 + 14.3), 8.0


def with_bright_star(components=(GALAXY,)):
    field = crowded()
    flux = BRIGHT * sum(total_flux(c) for c in components)
    x, y = np.append(field.x, PLACE[0]), np.append(field.y, PLACE[1])
    fluxes, ratio = np.append(field.flux, flux), np.append(field.ratio, 1.0)
    return replace(field, x=x, y=y, flux=fluxes, ratio=ratio, components=components), flux


def started(field):
    frame = make_frame(make_cutout(field, with_error=True), library(BASE))
    return start_state(frame, Optics.start(library(BASE), KERNEL_START, frame), Keep.beside_free_galaxy(3.0))


def test_a_star_brighter_than_the_galaxy_stays_a_star():
    field, flux = with_bright_star()
    fit = fit_base_joint(make_cutout(field, with_error=True), library(BASE), CONFIG)
    # the star's wings leave as much doubt as the star field does elsewhere
    assert abs(magnitude_error(fit, total_flux(GALAXY))) < 0.03
    star = fit.sources[np.argmax(fit.sources["flux_fit"])]
    assert np.hypot(star["x_fit"] - PLACE[0], star["y_fit"] - PLACE[1]) < 0.05
    # a PSF is trusted to one per cent
    assert star["flux_fit"] == pytest.approx(flux, rel=0.01)


def test_the_galaxy_is_found_beside_the_star_before_anything_else_is():
    state = started(with_bright_star()[0])
    assert state.scene.stars.size == 1
    assert np.hypot(state.scene.stars.x[0] - PAD - PLACE[0], state.scene.stars.y[0] - PAD - PLACE[1]) < 0.2
    (centre,) = state.scene.galaxy.centres
    assert np.hypot(centre[0] - GALAXY.x_0, centre[1] - GALAXY.y_0) < 2.0


@pytest.mark.parametrize("components", [(GALAXY,), (DISK, BULGE), (replace(GALAXY, r_eff=2.0, n=4.0, amplitude=9.0),)])
def test_a_galaxy_with_a_bright_core_is_no_star(components):
    assert started(replace(crowded(), components=components)).scene.stars.size == 0

"""A bulge beside the centre of the light is a component of the galaxy; a cluster of stars is not."""

from dataclasses import replace

import numpy as np
import pytest
from test_joint_fit import BASE, CONFIG, GALAXY, base_fit, crowded, library, lone_error, make_cutout

from sphot_mpi.flags import FitFlag
from sphot_mpi.joint_base import fit_base_scene
from sphot_mpi.joint_galaxy import components_of, galaxy_of
from sphot_mpi.joint_offset import brightest_crowd, with_component
from sphot_mpi.joint_pipeline import fit_base_joint, make_frame
from sphot_mpi.joint_result import base_result
from sphot_mpi.joint_scene import PAD
from sphot_mpi.joint_sources import Stars
from sphot_mpi.simulate_render import total_flux

#: A flat disk, and a bulge at 0.8 r_eff from its centre that is far brighter than it there.
DISK = replace(GALAXY, amplitude=0.25, r_eff=13.0, n=0.4, ellip=0.2)
BULGE = replace(GALAXY, amplitude=1.5, r_eff=3.5, n=0.8, ellip=0.2, x_0=GALAXY.x_0 - 2.0, y_0=GALAXY.y_0 - 10.0)


def fit_of(field):
    return fit_base_joint(make_cutout(field, with_error=True), library(BASE), CONFIG)


def test_a_bulge_beside_the_centre_is_a_component_and_no_heap_of_stars():
    fit = fit_of(replace(crowded(), components=(DISK, BULGE)))
    assert FitFlag.SECOND_COMPONENT in fit.flags
    small = min(fit.components, key=lambda c: c.r_eff)
    assert np.hypot(small.x_0 - BULGE.x_0, small.y_0 - BULGE.y_0) < 0.2
    # an amplitude of three times the disk's leaves a per cent of doubt on the light of both, and the star field as much
    assert fit.total_flux == pytest.approx(total_flux(DISK) + total_flux(BULGE), rel=0.03)
    assert total_flux(small) == pytest.approx(total_flux(BULGE), rel=0.1)


def test_a_core_beside_the_centre_is_a_component():
    # nearer to it than stars are looked for, so that it leaves a peak on one side and a dip on the other
    disk = replace(GALAXY, amplitude=0.6, r_eff=14.0, n=0.7)
    core = replace(GALAXY, amplitude=1.0, r_eff=3.0, n=1.0, ellip=0.1, y_0=GALAXY.y_0 + 3.0)
    fit = fit_of(replace(crowded(), components=(disk, core)))
    assert FitFlag.SECOND_COMPONENT in fit.flags
    large, small = sorted(fit.components, key=lambda c: -c.r_eff)
    # the light of a tenth of the galaxy tells its place to the pixels' noise over its slope; one component is 1 px off
    assert np.hypot(small.x_0 - core.x_0, small.y_0 - core.y_0) < 0.5
    assert np.hypot(large.x_0 - disk.x_0, large.y_0 - disk.y_0) < 0.3
    assert fit.total_flux == pytest.approx(total_flux(disk) + total_flux(core), rel=0.01)
    assert total_flux(small) == pytest.approx(total_flux(core), rel=0.2)


def test_a_component_as_far_off_as_another_galaxy_is_told():
    cutout = make_cutout(replace(crowded(), components=(DISK, BULGE)), with_error=True)
    fit = fit_base_scene(make_frame(cutout, library(BASE)), library(BASE), CONFIG)
    galaxy = fit.state.scene.galaxy
    for distance, told in ((0.8, False), (1.0, True)):
        centres = galaxy.centres.copy()
        centres[1 - galaxy.main] = centres[galaxy.main] + [0.0, distance * max(c.r_eff for c in components_of(galaxy))]
        moved = replace(galaxy, centres=centres)
        assert moved.separation == pytest.approx(distance)
        state = replace(fit.state, scene=replace(fit.state.scene, galaxy=moved))
        record = base_result(replace(fit, state=state), cutout, CONFIG, 0.0)
        assert (FitFlag.COMPANION in record.flags) == told


def test_a_cluster_of_stars_on_the_galaxy_stays_stars():
    field, flux = crowded(), 150.0 * lone_error(BASE)
    x, y = GALAXY.x_0 + np.array([-4.0, -1.0, 2.0, -2.5, 0.5]), GALAXY.y_0 + np.array([6.0, 7.0, 6.0, 9.0, 10.0])
    # stars as bright together as a component may be, nearer to each other than a crowd is wide
    assert 5 * flux > 0.1 * total_flux(GALAXY)
    with_cluster = replace(
        field, x=np.append(field.x, x), y=np.append(field.y, y), flux=np.append(field.flux, np.full(5, flux)),
        ratio=np.append(field.ratio, np.ones(5)),
    )  # fmt: skip
    fit = fit_of(with_cluster)
    assert FitFlag.SECOND_COMPONENT not in fit.flags
    # as without the cluster, but for the errors of five fluxes
    assert sum(total_flux(c) for c in fit.components) == pytest.approx(base_fit().total_flux, rel=0.03)
    # so many so bright so near are the galaxy's own in all likelihood: the total says so, and by how much
    assert fit.excess.flux == pytest.approx(5 * flux, rel=0.3)


def test_the_crowd_is_where_stars_are_brightest_together():
    galaxy = galaxy_of((replace(GALAXY, r_eff=10.0),))
    x = np.array([0.0, 1.0, 2.0, 20.0, 21.0, 22.0]) + PAD
    stars = Stars.new(x, np.zeros(6), np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]))
    np.testing.assert_array_equal(brightest_crowd(stars, galaxy, np.ones(6, bool)), x > PAD + 10.0)
    # only candidates are asked
    near = x < PAD + 10.0
    np.testing.assert_array_equal(brightest_crowd(stars, galaxy, near), near)
    assert not brightest_crowd(stars, galaxy, np.zeros(6, bool)).any()


def test_a_component_takes_place_and_light_of_its_crowd():
    crowd = Stars.new(np.array([10.0, 14.0]) + PAD, np.array([20.0, 20.0]) + PAD, np.array([3.0, 1.0]))
    galaxy = with_component(galaxy_of((GALAXY,)), crowd)
    assert galaxy.size == 2
    np.testing.assert_allclose(galaxy.centres[1], (11.0, 20.0))
    assert galaxy.fluxes[1] == 4.0

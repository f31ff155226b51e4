"""Ellipses on pixels, and ellipses that follow isophotes."""

import numpy as np
import pytest
from analytic import gaussian_library
from aperture_scenes import galaxy

from sphot_mpi.ellipses import Ellipse, isophote_family
from sphot_mpi.psf import PSF
from sphot_mpi.sersic import SersicRenderer

SHAPE = (141, 163)
CENTRE = (80.3, 69.6)


def image_of(*components, sigma=1.2):
    return SersicRenderer(PSF(gaussian_library(sigma)), SHAPE).render_params(components)


def traced(image, total=1000.0, levels=(0.05, 0.95)):
    return isophote_family(image, CENTRE, total, levels, 69.0)


@pytest.mark.parametrize(("ellip", "theta"), [(0.0, 0.0), (0.5, 0.0), (0.7, 0.8), (0.4, 2.9)])
def test_isophotes_of_a_wide_galaxy_have_its_shape(ellip, theta):
    family = traced(image_of(galaxy(1.0, 14.0, ellip, theta, CENTRE)))
    ellipse = family.at(20.0)
    # the PSF rounds the ellipses by (sigma / minor axis)^2 / 2 or so
    assert ellipse.ellip == pytest.approx(ellip, abs=0.02)
    if ellip:
        assert np.cos(2.0 * (ellipse.theta - theta)) > 0.999


def test_the_area_inside_an_isophote_is_that_of_the_pixels_above_its_level():
    image = image_of(galaxy(2.0, 9.0, 0.5, 0.6, CENTRE))
    for radius in (6.0, 12.0, 25.0):
        ellipse = traced(image).at(radius)
        y, x = np.indices(SHAPE)
        edge = np.abs(ellipse.distance(SHAPE) - 1.0) < 0.5 / radius
        # the image is one level all along the ellipse
        assert np.ptp(image[edge]) < 0.35 * image[edge].mean(), (x.size, y.size)
        above = np.count_nonzero(image > np.median(image[edge]))
        assert above == pytest.approx(ellipse.area, rel=0.04)


def test_the_psf_rounds_the_inner_isophotes():
    family = traced(image_of(galaxy(1.0, 5.0, 0.7, 0.3, CENTRE), sigma=2.5))
    assert family.at(4.0).ellip < family.at(15.0).ellip - 0.1


def test_ellipses_turn_from_bulge_to_disk():
    bulge, disk = galaxy(1.0, 3.0, 0.4, 0.2, CENTRE, 700.0), galaxy(1.0, 15.0, 0.5, 1.4, CENTRE, 1300.0)
    family = traced(image_of(bulge, disk), total=2000.0)
    inner, outer = family.at(3.0), family.at(30.0)
    assert np.cos(2.0 * (inner.theta - 0.2)) > 0.9
    assert np.cos(2.0 * (outer.theta - 1.4)) > 0.99


def test_an_image_without_a_peak_has_no_isophotes():
    assert traced(np.zeros(SHAPE)) is None


@pytest.mark.parametrize("ellipse", [Ellipse(x=40.2, y=30.7, radius=r, ellip=0.4, theta=0.7) for r in (0.6, 5.3, 25.0)])
def test_coverage_is_exact(ellipse):
    window, part = ellipse.coverage((70, 90))
    assert part.sum() == pytest.approx(ellipse.area, rel=1e-9)
    assert part.min() >= 0.0
    assert part.max() <= 1.0 + 1e-12
    if ellipse.radius < 5.0:
        return  # four pixels' centres do not tell a centroid
    y, x = np.mgrid[window]
    assert (part * x).sum() / part.sum() == pytest.approx(ellipse.x, abs=0.02)
    assert (part * y).sum() / part.sum() == pytest.approx(ellipse.y, abs=0.02)


def test_what_lies_off_the_image_is_not_covered():
    assert Ellipse(x=-0.5, y=20.0, radius=8.0, ellip=0.0, theta=0.0).sum(np.ones((41, 50))) == pytest.approx(
        32.0 * np.pi
    )
    assert Ellipse(x=-30.0, y=20.0, radius=8.0, ellip=0.0, theta=0.0).sum(np.ones((41, 50))) == 0.0

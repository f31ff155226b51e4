"""Growth curves with an index known in closed form."""

import numpy as np
import pytest

from sphot_mpi.ellipses import Ellipse
from sphot_mpi.petrosian import GrowthCurve, growth_curves, measure_sizes

RADIUS = np.geomspace(1.0, 80.0, 48)


def curve(flux):
    return GrowthCurve(radius=RADIUS, area=np.pi * RADIUS**2, flux=np.asarray(flux, dtype=np.float64))


@pytest.mark.parametrize("power", [2.0, 1.2, 0.3])
def test_a_power_law_has_a_constant_index(power):
    # F ~ a^p: dF/dA A/F = p / 2
    index = curve(7.0 * RADIUS**power).index()
    assert index == pytest.approx(np.full(RADIUS.size, power / 2.0), rel=2e-3)


def test_the_index_does_not_hang_on_the_flux_scale():
    flux = 1.0 - np.exp(-RADIUS / 5.0) * (1.0 + RADIUS / 5.0)
    assert curve(1e-8 * flux).index() == pytest.approx(curve(1e8 * flux).index(), rel=1e-9)


def test_gaussian_radii():
    """The light inside r of a Gaussian is 1 - exp(-x), x = r^2 / 2 s^2, and the index x / (exp(x) - 1)."""
    s = 6.0
    x = RADIUS**2 / (2.0 * s**2)
    sizes = measure_sizes(curve(-np.expm1(-x)), 0.5)
    assert sizes.petro_radius == pytest.approx(s * np.sqrt(2.0 * 1.25643), rel=2e-3)
    # index 0.2 at x = 2.6604; 1.5 x that radius holds all the light
    for got, part in ((sizes.r20, 0.2), (sizes.r50, 0.5), (sizes.r80, 0.8)):
        assert got == pytest.approx(s * np.sqrt(-2.0 * np.log1p(-part * -np.expm1(-2.25 * 2.6604))), rel=2e-3)
    assert sizes.concentration == pytest.approx(5.0 * np.log10(sizes.r80 / sizes.r20))


def test_a_curve_that_never_flattens_has_no_petrosian_radius():
    sizes = measure_sizes(curve(RADIUS**1.9), 0.5)
    assert np.isnan([sizes.petro_radius, sizes.r20, sizes.r50, sizes.r80]).all()
    assert not sizes.known


def test_no_light_no_index():
    assert np.isnan(curve(-(RADIUS**1.0)).index()).all()
    assert np.isnan(curve(np.full(RADIUS.size, np.nan)).index()).all()
    assert np.isnan(curve(-(RADIUS**1.0)).petrosian_radius(0.5))


def test_light_and_radius_are_inverse():
    some = curve(1.0 - np.exp(-RADIUS / 5.0) * (1.0 + RADIUS / 5.0))
    for radius in (0.5, 1.0, 3.3, 20.0):
        assert some.radius_holding(some.flux_within(radius)) == pytest.approx(radius, rel=1e-3)
    assert np.isnan(some.flux_within(81.0))
    assert np.isnan(some.radius_holding(2.0))
    assert np.isnan(some.radius_holding(-1.0))


def test_small_ellipses_see_no_pixels():
    """Of a Gaussian sampled at pixel centres a small circle holds the light of that Gaussian, not of a wider one."""
    s, x_0, y_0 = 1.6, 30.3, 30.6
    y, x = np.mgrid[:61, :61]
    image = np.exp(-0.5 * ((x - x_0) ** 2 + (y - y_0) ** 2) / s**2) / (2.0 * np.pi * s**2)
    ellipses = [Ellipse(x=x_0, y=y_0, radius=float(r), ellip=0.0, theta=0.0) for r in np.geomspace(1.0, 25.0, 30)]
    (got,) = growth_curves((image,), ellipses)
    # sub-pixels of a third smooth by s^2 + 1/108: 0.4 %
    assert got.flux == pytest.approx(-np.expm1(-(got.radius**2) / (2.0 * s**2)), rel=6e-3)

"""Modes of a galaxy's light: Zernike polynomials on its ellipse."""

from dataclasses import replace

import numpy as np
import pytest

from sphot_mpi.galaxy_modes import (
    CORE,
    CORE_FORM,
    DEGREE,
    MOST_MODES,
    N_MODES,
    REACH,
    WHOLE,
    WIDE,
    WIDE_DEGREE,
    WIDE_FOCUS,
    WIDE_FORM,
    Disc,
    Form,
    discs_of,
    fill_mode_images,
    galaxy_modulation,
    mode_light,
    modulation,
    orders_to,
    whole_modes,
)
from sphot_mpi.records import SersicParams

SHAPE, FWHM = (90, 110), 3.2
DISC = Disc(x=52.3, y=41.8, theta=0.6, major=33.0, minor=20.0)
DISK = SersicParams(amplitude=0.1, r_eff=12.0, n=1.0, x_0=50.0, y_0=40.0, ellip=0.4, theta=0.5)


def mode_images(disc, light):
    images = np.zeros((len(disc.orders), *light.shape))
    fill_mode_images(images, disc, light)
    return images


def window(disc, shape):
    """(1 - rho^2)^2 on the disc, written out."""
    y, x = np.indices(shape)
    along = (x - disc.x) * np.cos(disc.theta) + (y - disc.y) * np.sin(disc.theta)
    across = (y - disc.y) * np.cos(disc.theta) - (x - disc.x) * np.sin(disc.theta)
    square = (along / disc.major) ** 2 + (across / disc.minor) ** 2
    return np.where(square < 1.0, (1.0 - square) ** 2, 0.0)


@pytest.mark.parametrize("degree", [DEGREE, WIDE_DEGREE])
def test_modes_are_orthogonal_zernike_polynomials_under_a_window(degree):
    """Products over the disc are pi / (n + 1), half of that for m != 0 (Noll 1976, before his normalisation)."""
    disc = Disc(x=300.2, y=299.7, theta=0.4, major=290.0, minor=230.0, degree=degree)
    shade = window(disc, (600, 600))
    inside = shade > 1e-6
    values = mode_images(disc, np.ones((600, 600)))[:, inside] / shade[inside]
    products = values @ values.T / (disc.major * disc.minor)
    expected = np.diag([np.pi / (n + 1) * (0.5 if m else 1.0) for n, m in orders_to(degree)])
    # the disc has 2e5 pixels; those along its edge are cut through
    np.testing.assert_allclose(products, expected, atol=0.02)


def test_modes_follow_the_ellipse():
    images = mode_images(Disc(x=50.0, y=40.0, theta=np.pi / 2.0, major=20.0, minor=10.0), np.ones(SHAPE))
    tilt = images[orders_to(DEGREE).index((1, 1))]
    # cos(phi) rho along the major axis, which points up; nothing along the minor one
    assert tilt[50, 50] == pytest.approx(0.5 * (1.0 - 0.25) ** 2, rel=1e-12)
    assert tilt[40, 55] == pytest.approx(0.0, abs=1e-12)
    across = images[orders_to(DEGREE).index((1, -1))]
    assert across[40, 45] == pytest.approx(0.5 * (1.0 - 0.25) ** 2, rel=1e-12)


@pytest.mark.parametrize("focus", [0.5, WIDE_FOCUS])
def test_a_focus_stretches_radii_and_leaves_angles_and_the_window(focus):
    """Along the major axis, with the polynomials written out (Noll 1976, table 1)."""
    disc = Disc(x=60.0, y=45.0, theta=0.0, major=50.0, minor=40.0, degree=4, focus=focus)
    rho = (np.arange(SHAPE[1]) - disc.x) / disc.major
    images, shade = mode_images(disc, np.ones(SHAPE))[:, 45], window(disc, SHAPE)[45]
    there = np.arcsinh(focus * rho) / np.arcsinh(focus)
    for (n, m), polynomial in {
        (0, 0): there**0,
        (1, 1): there,
        (3, 1): 3.0 * there**3 - 2.0 * there,
        (4, 2): 4.0 * there**4 - 3.0 * there**2,
        (4, -2): 0.0 * there,
    }.items():
        np.testing.assert_allclose(images[disc.orders.index((n, m))], polynomial * shade, atol=1e-14)


@pytest.mark.parametrize("degree", [DEGREE, WIDE_DEGREE])
def test_a_modulation_is_the_sum_of_its_modes_and_leaves_what_is_beyond(degree):
    disc = replace(DISC, degree=degree)
    amplitudes = np.random.default_rng(2).normal(0.0, 0.2, len(orders_to(degree)))
    images = mode_images(disc, np.ones(SHAPE))
    np.testing.assert_allclose(
        modulation(amplitudes, disc, SHAPE), 1.0 + np.tensordot(amplitudes, images, 1), atol=1e-12
    )
    beyond = window(disc, SHAPE) == 0.0
    assert (modulation(amplitudes, disc, SHAPE)[beyond] == 1.0).all()


def test_a_galaxy_has_modes_on_its_own_ellipse_on_its_cores_and_beyond():
    bulge = replace(DISK, r_eff=4.0, amplitude=2.0, ellip=0.1, theta=1.2, x_0=51.0)
    amplitudes = np.random.default_rng(3).normal(0.0, 0.2, MOST_MODES)
    for pair in ((DISK, bulge), (bulge, DISK)):
        core = Disc.of((bulge,), CORE_FORM, FWHM)
        discs = ((WHOLE, Disc.of(pair)), (CORE, core), (WIDE, Disc.of(pair, WIDE_FORM)))
        assert discs_of(pair, FWHM) == list(discs)
        for most in range(len(discs) + 1):
            total = sum((modulation(amplitudes[own], disc, SHAPE) - 1.0 for own, disc in discs[:most]), start=1.0)
            given = amplitudes[: discs[most - 1][0].stop] if most else ()
            np.testing.assert_allclose(galaxy_modulation(given, pair, FWHM, SHAPE), total, atol=1e-13)
    # a single component's core is the inner half of it
    core = dict((own.start, disc) for own, disc in discs_of((DISK,), FWHM))[CORE.start]
    assert core == Disc.of((replace(DISK, r_eff=0.5 * DISK.r_eff),), CORE_FORM, FWHM)


def test_a_cores_disc_is_as_wide_as_its_image():
    """Its own reach and 1.5 FWHM in quadrature, along both axes."""
    for r_eff in (0.01, 3.0, 300.0):
        disc = Disc.of((replace(DISK, r_eff=r_eff),), CORE_FORM, FWHM)
        assert disc.major == pytest.approx(np.hypot(1.5 * r_eff, 1.5 * FWHM))
        assert disc.minor == pytest.approx(np.hypot(1.5 * 0.6 * r_eff, 1.5 * FWHM))
    assert Disc.of((DISK,), WIDE_FORM, FWHM) == Disc.of((DISK,), WIDE_FORM)


@pytest.mark.parametrize(
    ("most", "wide"), [(56, None), (122, Form(2.5, 10)), (246, Form(2.5, 18)), (287, Form(3.5, 20, 3.0))]
)
def test_amplitudes_from_older_files_have_the_discs_that_they_had(most, wide):
    """The core's to degree 6, unstretched, and the wider one to these degrees, reaches and focus."""
    (_, whole), (own, core), *rest = discs_of((DISK,), FWHM, most)
    inner = replace(DISK, r_eff=0.5 * DISK.r_eff)
    assert (whole, core) == (Disc.of((DISK,)), Disc.of((inner,), Form(1.5, 6)))
    assert (own.start, own.stop) == (28, 56)
    assert rest == ([(slice(56, most), Disc.of((DISK,), wide))] if wide else [])


def test_amplitudes_of_a_core_alone_are_none_of_the_whole_galaxy():
    whole, core = tuple(np.linspace(0.0, 1.0, N_MODES)), (0.5,) * N_MODES
    assert whole_modes(()) == whole_modes((0.0,) * N_MODES + core) == ()
    assert whole_modes(whole) == whole_modes(whole + core) == whole_modes(whole + core + (0.1,) * 66) == whole


@pytest.mark.parametrize("x", [-15.0, 4.0, 107.0, 160.0])
def test_a_disc_may_lie_off_the_image(x):
    disc, padded = replace(DISC, x=x), (SHAPE[0], SHAPE[1] + 120)
    image = np.random.default_rng(5).normal(size=SHAPE)
    there = mode_images(replace(disc, x=x + 60.0), np.ones(padded))[:, :, 60:-60]
    np.testing.assert_allclose(mode_light(disc, image), np.tensordot(there, image, 2), atol=1e-12)
    np.testing.assert_allclose(mode_images(disc, np.ones(SHAPE)), there, atol=1e-13)


def test_the_disc_is_that_of_the_half_light_ellipse():
    bulge = replace(DISK, r_eff=3.0, amplitude=1e-6)
    disc = Disc.of((DISK, bulge))
    assert (disc.x, disc.y, disc.theta) == (DISK.x_0, DISK.y_0, DISK.theta)
    assert disc.major == pytest.approx(REACH * DISK.r_eff, rel=1e-4)
    assert disc.minor == pytest.approx(0.6 * disc.major, rel=1e-12)

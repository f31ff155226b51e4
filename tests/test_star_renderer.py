"""All stars at once in Fourier space, against analytic and exact images."""

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars, ringed_psf, telescope_psfs

from sphot_mpi.point_render import sampled_star, star_stamps
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.simulate_render import render_stars
from sphot_mpi.star_renderer import BAND_TOLERANCE, MARGIN, MOST_DIRECT, StarRenderer

KERNEL = 0.9
SHAPES = [(111, 140), (90, 61)]


@pytest.fixture(scope="module")
def psf():
    return ringed_psf(KERNEL)


def crowd(shape, n=300, seed=0):
    """Stars of fluxes over three decades, in the image and as far around it as they count."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-MARGIN, shape[1] - 1 + MARGIN, n)
    y = rng.uniform(-MARGIN, shape[0] - 1 + MARGIN, n)
    return x, y, np.minimum(1.0 + rng.pareto(0.7, n), 1000.0)


@pytest.mark.parametrize("shape", SHAPES)
# one by one, and on the lattice
@pytest.mark.parametrize("n", [MOST_DIRECT, 300])
def test_a_crowd_is_exact_wings_and_all(psf, shape, n):
    x, y, flux = crowd(shape, n)
    exact = render_stars(shape, telescope_psfs()["F150W"].blurred(KERNEL), x, y, flux)
    difference = StarRenderer(psf, shape).render(x, y, flux) - exact
    # the cut band leaves out that part of each star; the spreading and single precision are better
    assert np.sqrt((difference**2).sum() / (exact**2).sum()) < 2.0 * BAND_TOLERANCE
    assert abs(difference.mean()) < 1e-5 * exact.mean()


def test_one_star_keeps_its_flux_and_nothing_wraps(psf):
    shape = (230, 241)
    renderer = StarRenderer(psf, shape)
    for x, y in [(120.0, 115.0), (119.27, 115.33)]:
        assert renderer.render(np.array([x]), np.array([y]), np.ones(1)).sum() == pytest.approx(1.0, abs=2e-5)
    # a star at one edge is not seen at the other
    image = renderer.render(np.array([-MARGIN + 1.0]), np.array([115.0]), np.ones(1))
    assert np.abs(image[:, 130:]).max() < 1e-6


@pytest.mark.parametrize("unit", [1e-33, 1e30])
def test_any_unit_of_the_data_will_do(psf, unit):
    x, y, flux = crowd(SHAPES[1], 20)
    renderer, telling = StarRenderer(psf, SHAPES[1]), flux > 2.0
    one, other = (
        renderer.render_with_derivatives(x, y, scale * flux, shift=True, kernel=telling) for scale in (1.0, unit)
    )
    for got, expected in ((other.model, one.model), (other.shift, one.shift), (other.kernel, one.kernel)):
        np.testing.assert_allclose(got / unit, expected, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_convolved_is_the_light_of_stars_on_its_pixels(psf, shape):
    rng = np.random.default_rng(6)
    fluxes = rng.uniform(size=shape) * (rng.uniform(size=shape) < 0.02)
    # at the corners, from where light would wrap
    fluxes[0, 0] = fluxes[0, -1] = fluxes[-1, 0] = fluxes[-1, -1] = 1.0
    y, x = np.nonzero(fluxes)
    # a PSF that is another one when it is turned around
    lopsided = psf.library.array + 0.5 * np.roll(psf.library.array, (4, 9), (0, 1))
    renderer = StarRenderer(PSF(LibraryPSF.from_array(lopsided, psf.oversample), psf.kernel), shape)
    stars = renderer.render(x.astype(float), y.astype(float), fluxes[y, x])
    # both have the same band; the spreading is good to 3e-6 of a star's light, its transform in single precision
    np.testing.assert_allclose(renderer.convolve(fluxes), stars, atol=1e-5 * stars.max())
    # where the field has no edge near it, all of each star's light is there
    y, x = (index.ravel().astype(float) for index in np.indices(shape))
    everywhere = render_stars(shape, telescope_psfs()["F150W"].blurred(KERNEL), x, y, np.ones(x.size))
    np.testing.assert_allclose(StarRenderer(psf, shape).convolve(np.ones(shape, bool)), everywhere, atol=3e-4)


def test_stars_out_of_reach_are_left_out(psf):
    image = StarRenderer(psf, SHAPES[0]).render(np.array([-1e4, 1e7]), np.array([50.0, -1e8]), np.array([1.0, 1e3]))
    assert not image.any()


def test_no_stars_are_a_black_image(psf):
    none = np.zeros(0)
    renderer = StarRenderer(psf, SHAPES[0])
    assert renderer.render(none, none, none).shape == SHAPES[0]
    images = renderer.render_with_derivatives(none, none, none, shift=True, kernel=none > 0.0)
    for image in (images.model, *images.shift, *images.kernel):
        assert image.shape == SHAPES[0]
        assert not image.any()
    assert (len(images.shift), len(images.kernel)) == (2, 1)
    # where nothing was fitted the kernel is unknown
    unknown = psf.with_kernel(Kernel("gaussian", (np.nan,)))
    assert not StarRenderer(unknown, SHAPES[0]).render(none, none, none).any()


@pytest.mark.parametrize("n", [40, 300])
def test_what_was_rendered_before_changes_nothing(psf, n):
    x, y, flux = crowd(SHAPES[1], n)
    telling = flux > 2.0

    def rendered(renderer, shift=True):
        images = renderer.render_with_derivatives(x, y, flux, shift=shift, kernel=telling)
        return images.model, *images.shift, *images.kernel

    fresh, used = rendered(StarRenderer(psf, SHAPES[1])), StarRenderer(psf, SHAPES[1])
    model = used.render(x, y, flux)
    for _ in range(2):
        for got, expected in zip(rendered(used), fresh, strict=True):
            np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(rendered(used, shift=False)[0], model)
        # others in between
        other = used.render(x, y, 2.0 * flux)
        np.testing.assert_allclose(other, 2.0 * model, atol=1e-6 * model.max())


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_central_differences(shape):
    library, v = gaussian_library(0.8, (101, 90)), 1.1
    psf = PSF(library, Kernel("gaussian", (np.sqrt(v),)))
    x, y, flux = crowd(shape, 40, seed=3)
    renderer, telling, everyone = StarRenderer(psf, shape), flux > 2.0, flux > 0.0
    images = renderer.render_with_derivatives(x, y, flux, shift=True, kernel=telling)
    np.testing.assert_allclose(images.model, renderer.render(x, y, flux), atol=1e-6 * flux.max())

    def exact(some, dx=0.0, dy=0.0, dv=0.0):
        return gaussian_stars(shape, x[some] + dx, y[some] + dy, flux[some], np.sqrt(0.8**2 + v + dv))

    h = 1e-4
    steps = {"dx": (images.shift[0], everyone), "dy": (images.shift[1], everyone), "dv": (images.kernel[0], telling)}
    for name, (got, some) in steps.items():
        step = {name: h}
        difference = (exact(some, **step) - exact(some, **{k: -s for k, s in step.items()})) / (2 * h)
        # high frequencies, where the band is cut, weigh more in a derivative than in the star
        np.testing.assert_allclose(got, difference, atol=20.0 * BAND_TOLERANCE * np.abs(difference).max())


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("kernel", [False, True])
def test_only_what_is_wanted_is_rendered(psf, shift, kernel):
    x, y, flux = crowd(SHAPES[1], 20)
    renderer = StarRenderer(psf, SHAPES[1])
    everyone = flux > 0.0
    images = renderer.render_with_derivatives(x, y, flux, shift=shift, kernel=everyone if kernel else None)
    every = renderer.render_with_derivatives(x, y, flux, shift=True, kernel=everyone)
    assert (len(images.shift), len(images.kernel)) == (2 * shift, 1 * kernel)
    for got, expected in zip((images.shift, images.kernel), (every.shift, every.kernel), strict=True):
        if len(got):
            np.testing.assert_array_equal(got, expected)


def test_both_coordinates_of_a_kernel_with_a_shape_have_a_derivative(psf):
    moffat = psf.with_kernel(Kernel.of_width("moffat", KERNEL))
    x, y, flux = np.array([60.2]), np.array([50.6]), np.ones(1)
    images = StarRenderer(moffat, SHAPES[0]).render_with_derivatives(x, y, flux, shift=False, kernel=np.array([True]))
    for k, step in enumerate((1e-3, 1e-4)):
        axis = step * np.eye(2)[k]
        kernels = [Kernel.from_coordinates("moffat", moffat.kernel.coordinates + sign * axis) for sign in (1.0, -1.0)]
        moved = [StarRenderer(psf.with_kernel(kernel), SHAPES[0]).render(x, y, flux) for kernel in kernels]
        difference = (moved[0] - moved[1]) / (2.0 * step)
        # differences of images in single precision: 1e-7 of a star's peak over the step
        np.testing.assert_allclose(images.kernel[k], difference, atol=1e-2 * np.abs(difference).max())


def test_the_core_is_that_of_the_whole_psf(psf):
    renderer = StarRenderer(psf, (31, 45))
    x, y = np.array([22.2, 3.4]), np.array([14.7, 20.1])
    for got, expected in zip(renderer.stamps(x, y, 9), star_stamps(psf, x, y, 9), strict=True):
        # cut 10 px beyond the largest stamp: what the kernel brings in from there
        np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(renderer.sampled(9), sampled_star(psf, 9), atol=1e-6)


def test_a_narrow_library_needs_no_cut():
    psf = PSF(gaussian_library(1.0, (41, 50)))
    np.testing.assert_allclose(StarRenderer(psf, (30, 30)).sampled(4), sampled_star(psf, 4), atol=1e-12)

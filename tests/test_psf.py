"""Library PSF, kernel and spline: against closed forms, SciPy and brute force."""

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars, pixel_gaussian
from scipy import integrate, interpolate, ndimage, optimize, special

from sphot_mpi.errors import InputError
from sphot_mpi.kernels import psf as kernels
from sphot_mpi.point_render import sampled_star, star_stamps
from sphot_mpi.psf import FWHM_PER_SIGMA, PSF, LibraryPSF
from sphot_mpi.psf_kernel import FAMILIES, Kernel, kernel_distance

SHAPE = (61, 74)
SIDES = [(81, 81), (80, 80), (81, 90), (84, 77)]
EXAMPLES = {"gaussian": (1.1,), "moffat": (1.5, 3.0), "drizzle": (1.3, 0.6)}


def star_image(psf, x, y, flux=1.0, shape=SHAPE):
    """One star, rendered over the whole PSF."""
    image = np.zeros(shape)
    point = np.array([x]), np.array([y]), np.array([flux])
    kernels.render_stars(image, psf.planes, psf.oversample, *psf.origin, *point, np.array([psf.radius]))
    return image


@pytest.mark.parametrize("shape", SIDES)
@pytest.mark.parametrize("scale", [1.0, 16.0, 1e-7])
@pytest.mark.parametrize("dtype", [">f8", "<f8", ">f4"])
def test_a_library_psf_has_unit_sum_whatever_its_norm_and_byte_order(shape, scale, dtype):
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - n / 2) / 9.0) ** 2) for n in shape)
    given = (scale * np.outer(rows, columns)).astype(dtype)
    library = LibraryPSF.from_array(given, 4)
    assert library.array.sum() == pytest.approx(1.0, abs=1e-12)
    assert library.array.dtype == np.dtype("=f8")
    # single precision holds 7 digits
    np.testing.assert_allclose(library.array * given.astype("=f8").sum(), given.astype("=f8"), rtol=1e-6)
    assert library.oversample == 4


@pytest.mark.parametrize(
    "array",
    [
        np.ones(9),
        np.ones((2, 9)),
        np.zeros((9, 9)),
        -np.ones((9, 9)),
        np.where(np.eye(9), np.nan, 1.0),
        np.full((9, 9), np.inf),
    ],
)
def test_an_array_that_is_no_psf_is_refused(array):
    with pytest.raises(InputError, match="PSF"):
        LibraryPSF.from_array(array, 4)


@pytest.mark.parametrize("shape", [*SIDES, (161, 30), (30, 160)])
@pytest.mark.parametrize("family", EXAMPLES)
def test_a_star_at_all_pixels_is_the_one_that_the_spline_gives(shape, family):
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - 0.49 * n) / 5.0) ** 2) for n in shape)
    psf = PSF(LibraryPSF.from_array(np.outer(rows, columns), 4), Kernel(family, EXAMPLES[family]))
    image = psf.pixel_image()
    half = image.shape[0] // 2
    assert image.shape == (2 * half + 1, 2 * half + 1)
    assert half == max(shape) // 8
    # odd sides have samples at the pixels' centres; under even ones the spline interpolates to a few 1e-5
    inner = min(half, min(psf.padded_shape) // 8 - 1)
    middle = np.s_[half - inner : half + inner + 1]
    expected = sampled_star(psf, inner)
    exact = all(n % 2 for n in shape)
    np.testing.assert_allclose(
        image[middle, middle], expected, rtol=0.0, atol=(1e-10 if exact else 1e-4) * expected.max()
    )
    # what a Gaussian of 1.25 px leaves beyond 15 px is nothing; a moffat's wings hold a few per mille there
    assert image.sum() == pytest.approx(1.0, abs=0.02 if family == "moffat" else 1e-6)
    for axis, n in enumerate(psf.padded_shape):
        beyond = np.abs(np.arange(-half, half + 1)) > (n // 4 - 1) // 2
        assert not image.take(np.flatnonzero(beyond), axis=axis).any()


@pytest.mark.parametrize("shape", SIDES)
def test_the_detector_pixel_is_put_in_where_it_is_missing(shape):
    sigma = 0.9
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (4 * sigma)) ** 2) for n in shape)
    bare = LibraryPSF.from_array(np.outer(rows, columns), 4, pixel_response=False)
    assert bare.array.shape == (shape[0] + 8, shape[1] + 8)
    # the Gaussian is cut at 9.5 px, ten sigma
    np.testing.assert_allclose(bare.array, gaussian_library(sigma, bare.array.shape).array, atol=1e-12)
    assert LibraryPSF.from_array(np.outer(rows, columns), 4).array.shape == shape


@pytest.mark.parametrize("shape", SIDES)
@pytest.mark.parametrize("kernel", [0.0, 1.2])
def test_a_star_is_where_it_was_put_and_has_its_flux(shape, kernel):
    psf = PSF(gaussian_library(0.9, shape), Kernel("gaussian", (kernel,)))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for px, py in [(35.0, 30.0), (35.5, 29.5), (35.13, 30.87), (34.499, 30.501)]:
        image = star_image(psf, px, py, 7.0)
        # band-limited to better than 1e-7 (Gaussian of 0.9 px), and cut at ten sigma
        assert image.sum() == pytest.approx(7.0, rel=1e-6)
        assert (image * x).sum() / image.sum() == pytest.approx(px, abs=1e-3)
        assert (image * y).sum() / image.sum() == pytest.approx(py, abs=1e-3)
        exact = gaussian_stars(SHAPE, [px], [py], [7.0], np.hypot(0.9, kernel))
        # a cubic spline of a Gaussian sampled at 0.26 sigma is good to 1e-4 of the peak
        np.testing.assert_allclose(image, exact, atol=1e-4 * exact.max())


@pytest.mark.parametrize("oversample", [1, 2, 3, 5])
def test_any_whole_oversampling_renders_the_same_star(oversample):
    sigma = 1.6
    psf = PSF(gaussian_library(sigma, (20 * oversample + 1, 21 * oversample), oversample))
    image = star_image(psf, 30.3, 28.6)
    # at one sample a px the spline through a Gaussian of 1.6 px is good to 3e-3 of the peak
    exact = gaussian_stars(SHAPE, [30.3], [28.6], [1.0], sigma)
    np.testing.assert_allclose(image, exact, atol=3e-3 * exact.max())


def test_a_star_off_the_image_lights_it_as_it_would_a_larger_one():
    psf = PSF(gaussian_library(1.5, (120, 121)), Kernel("gaussian", (1.0,)))
    large = star_image(psf, 14.3, 9.2, shape=(60, 70))
    # the same star beyond the corner (0, 0) of the part that is looked at
    np.testing.assert_array_equal(star_image(psf, 14.3 - 16, 9.2 - 16, shape=(44, 54)), large[16:, 16:])
    far = star_image(psf, -300.0, 500.0)
    assert not far.any()


@pytest.mark.parametrize("shape", SIDES)
def test_stamps_and_their_derivatives_are_those_of_the_star(shape):
    psf = PSF(gaussian_library(0.9, shape), Kernel("gaussian", (0.7,)))
    x, y = np.array([20.3, 33.5, -2.4]), np.array([30.8, 11.5, 70.2])
    stamps, corner_y, corner_x = star_stamps(psf, x, y, 6)
    step = 1e-5
    for s in range(3):
        inside = slice(corner_y[s], corner_y[s] + 13), slice(corner_x[s], corner_x[s] + 13)
        assert abs(corner_x[s] + 6 - x[s]) <= 0.5
        assert abs(corner_y[s] + 6 - y[s]) <= 0.5
        if s == 2:
            continue  # off the image: only its corner can be told

        def rendered(dx, dy, s=s, inside=inside):
            return star_image(psf, x[s] + dx, y[s] + dy)[inside]

        np.testing.assert_allclose(stamps[s, 0], rendered(0, 0), atol=1e-14)
        # central differences: third derivative x step^2 = 1e-10, rounding 1e-16 / step = 1e-11
        along_x = (rendered(step, 0) - rendered(-step, 0)) / (2 * step)
        along_y = (rendered(0, step) - rendered(0, -step)) / (2 * step)
        np.testing.assert_allclose(stamps[s, 1], along_x, atol=1e-8)
        np.testing.assert_allclose(stamps[s, 2], along_y, atol=1e-8)


def test_spline_weights_are_the_cubic_b_spline():
    spline = interpolate.BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    w, d = np.empty(4), np.empty(4)
    for t in [0.0, 0.2, 0.5, 0.999]:
        kernels.spline_weights(t, w, d)
        distance = t - np.array([-1.0, 0.0, 1.0, 2.0])
        np.testing.assert_allclose(w, np.nan_to_num(spline(distance)), atol=1e-14)
        np.testing.assert_allclose(d, np.nan_to_num(spline.derivative()(distance)), atol=1e-14)
        assert w.sum() == pytest.approx(1.0, abs=1e-14)


def test_sharing_among_nodes_keeps_sum_and_centroid():
    rng = np.random.default_rng(0)
    u, v, value = rng.uniform(0, 13, 40), rng.uniform(0, 8, 40), rng.normal(size=40)
    grid = np.zeros((10, 15))
    kernels.spread(grid, u, v, value)
    y, x = np.mgrid[:10, :15]
    assert grid.sum() == pytest.approx(value.sum())
    assert (grid * x).sum() == pytest.approx((value * u).sum())
    assert (grid * y).sum() == pytest.approx((value * v).sum())


def test_enlarging_a_plane_gives_the_plane():
    factor, offset, shape = 4, 3, (21, 34)
    y, x = np.mgrid[:14, :17]
    # the centre of node m lies at factor * (m - offset) + (factor - 1) / 2
    coarse = 2.0 + 0.3 * (factor * (x - offset) + 1.5) - 0.7 * (factor * (y - offset) + 1.5)
    image = np.empty(shape)
    kernels.enlarge(image, coarse, factor, offset)
    y, x = np.mgrid[: shape[0], : shape[1]]
    np.testing.assert_allclose(image, 2.0 + 0.3 * x - 0.7 * y, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_are_normalised_and_centred(family):
    spec = FAMILIES[family]
    assert len(spec.parameter_names) == len(spec.ranges) == len(spec.steps) == len(EXAMPLES[family])
    corners = [Kernel.from_coordinates(family, np.array(ends)).values for ends in zip(*spec.ranges, strict=True)]
    fx, fy = np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 7))
    for values in (EXAMPLES[family], Kernel.of_width(family, 1.0).values, *corners):
        kernel = Kernel(family, values)
        assert kernel.transform(np.zeros(1), np.zeros(1))[0] == 1.0
        transform = kernel.transform(fx, fy)
        assert np.isrealobj(transform)
        assert np.isfinite(transform).all()
        # real and even in Fourier space: even in the image, so it moves no star
        np.testing.assert_allclose(transform, kernel.transform(-fx, -fy), atol=1e-15)
        assert np.abs(transform).max() <= 1.0 + 1e-12


def test_gaussian_transform_is_the_convolution_by_scipy():
    library = gaussian_library(0.8, (90, 101))
    psf = PSF(library, Kernel("gaussian", (1.1,)))
    ny, nx = psf.padded_shape
    y0, x0 = (ny - 90) // 2, (nx - 101) // 2
    padded = np.zeros((ny, nx))
    padded[y0 : y0 + 90, x0 : x0 + 101] = library.array
    # sampled at 4.4 a sigma, the kernel's aliasing is below 1e-14; it is cut at 9 sigma
    np.testing.assert_allclose(psf.array, ndimage.gaussian_filter(padded, 4 * 1.1, truncate=9.0), atol=1e-13)
    assert psf.array.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("values", [(1.5, 3.0), (0.4, 1.6), (3.0, 12.0), (2.0, 2.0)])
def test_moffat_transform_is_the_integral_over_its_profile(values):
    gamma, beta = values

    # a Moffat is a mixture of Gaussians: (1 + r^2)^-beta = int t^(beta-1) exp(-t (1 + r^2)) dt / Gamma(beta)
    def mixture(f):
        def part(t):
            return np.exp((beta - 2.0) * np.log(t) - t - (np.pi * f * gamma) ** 2 / t - special.gammaln(beta - 1.0))

        return integrate.quad(part, 0.0, 1.0)[0] + integrate.quad(part, 1.0, np.inf)[0]

    f = np.array([0.0, 0.01, 0.1, 0.3, 0.8])
    got = Kernel("moffat", values).transform(f, 0.0 * f)
    np.testing.assert_allclose(got, [1.0] + [mixture(v) for v in f[1:]], atol=1e-8)
    # radial: a direction does not matter
    np.testing.assert_allclose(Kernel("moffat", values).transform(0.6 * f, 0.8 * f), got, atol=1e-12)


def test_moffat_transform_is_the_hankel_integral():
    gamma, beta = 1.5, 4.0

    def hankel(f):
        def part(r):
            return 2.0 * r * special.j0(2.0 * np.pi * f * r) * (beta - 1.0) / gamma**2 * (1 + (r / gamma) ** 2) ** -beta

        return integrate.quad(part, 0.0, 120.0, limit=1000)[0]

    f = np.array([0.05, 0.2, 0.5])
    # what lies beyond 80 gamma is 80^-6 of the light
    np.testing.assert_allclose(Kernel("moffat", (gamma, beta)).transform(0 * f, f), [hankel(v) for v in f], atol=1e-9)


def test_drizzle_kernel_is_a_box_convolved_with_a_gaussian():
    width, sigma, os = 1.3, 0.6, 8
    offset = (np.arange(160) - 80) / os
    profile = width * pixel_gaussian(offset / width, sigma / width) / width**2
    fx = np.fft.rfftfreq(160, 1.0 / os)[None, :]
    fy = np.fft.fftfreq(160, 1.0 / os)[:, None]
    image = np.fft.fftshift(np.fft.irfft2(Kernel("drizzle", (width, sigma)).transform(fx, fy), (160, 160))) * os**2
    np.testing.assert_allclose(image, np.outer(profile, profile), atol=1e-9)
    # without width it is the Gaussian, without sigma the box
    gaussian = Kernel("gaussian", (sigma,)).transform(fx, fy)
    np.testing.assert_array_equal(Kernel("drizzle", (0.0, sigma)).transform(fx, fy), gaussian)


@pytest.mark.parametrize("size", [11, 90])  # point by point, and from a table
@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_the_derivatives_by_the_coordinates(family, size):
    kernel = Kernel(family, EXAMPLES[family])
    fy, fx = np.linspace(-0.6, 0.6, size)[:, None], np.linspace(0.0, 0.6, size)[None, :]
    slopes = kernel.slopes(fx, fy)
    assert len(slopes) == kernel.coordinates.size
    for k, slope in enumerate(slopes):
        step = np.eye(len(slopes))[k] * 1e-4
        high, low = (Kernel.from_coordinates(family, kernel.coordinates + s * step).transform(fx, fy) for s in (1, -1))
        want = (high - low) / 2e-4
        got = kernel.transform(fx, fy) * slope
        # the difference's own error is the step squared, the table's 1e-9 over the step
        np.testing.assert_allclose(got, want, atol=3e-5 * np.abs(want).max() + 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_psf_is_nearly_linear_in_the_coordinates(family):
    kernel, psf = Kernel(family, EXAMPLES[family]), PSF(gaussian_library(0.9, (70, 81)))
    for k, length in enumerate(FAMILIES[family].steps):
        step = 0.2 * length * np.eye(len(EXAMPLES[family]))[k]
        moved = psf.with_kernel(Kernel.from_coordinates(family, kernel.coordinates + step))
        change = moved.planes - psf.with_kernel(kernel).planes
        predicted = np.tensordot(step, psf.with_kernel(kernel).kernel_planes, 1)
        # a fifth of the longest step: what is left is a third of it at most, so that Gauss-Newton contracts
        assert np.abs(change - predicted).max() < 0.35 * np.abs(change).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_coordinates_and_values_are_the_same_kernel(family):
    kernel = Kernel(family, EXAMPLES[family])
    again = Kernel.from_coordinates(family, kernel.coordinates)
    np.testing.assert_allclose(again.values, kernel.values, rtol=1e-12)
    assert not kernel.at_bound()
    assert kernel_distance(kernel, again) < 1e-12
    # a member is as wide as its Gaussian: halfway down for a Moffat, in variance for a top-hat
    assert Kernel.of_width(family, 1.3).width == pytest.approx(1.3)
    none = Kernel.of_width(family, 0.0)
    f = np.linspace(0.0, 2.0, 9)
    np.testing.assert_allclose(none.transform(f, f), 1.0, atol=1e-12)
    assert not none.at_bound()
    assert Kernel.from_coordinates(family, np.full(kernel.coordinates.size, 1e3)).at_bound()


def test_a_top_hat_is_never_wider_than_its_kernel():
    width, sigma = Kernel.from_coordinates("drizzle", np.array([0.25, 200.0])).values
    assert (width**2 / 12.0, sigma) == pytest.approx((0.25, 0.0))


def test_the_distance_of_kernels_is_relative_and_symmetric_to_first_order():
    near = kernel_distance(Kernel(values=(1.0,)), Kernel(values=(1.001,)))
    # the norm of a Gaussian's derivative by ln sigma over its own is sqrt(2) in two dimensions
    assert near == pytest.approx(np.sqrt(2.0) * 1e-3, rel=0.02)
    assert kernel_distance(Kernel(values=(1.0,)), Kernel(values=(3.0,))) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_another_kernel_starts_from_the_library(family):
    library = gaussian_library(0.9, (70, 81))
    kernel = Kernel(family, EXAMPLES[family])
    chained = PSF(library, Kernel("gaussian", (2.0,))).with_kernel(kernel)
    np.testing.assert_array_equal(chained.planes, PSF(library, kernel).planes)
    np.testing.assert_array_equal(chained.array, PSF(library, kernel).array)
    assert chained.library is library


@pytest.mark.parametrize("shape", SIDES)
@pytest.mark.parametrize("kernel", [0.0, 0.9, 2.0])
def test_fwhm_is_that_of_the_gaussian_in_the_pixel(shape, kernel):
    sigma = np.hypot(0.8, kernel)
    psf = PSF(gaussian_library(0.8, shape), Kernel("gaussian", (kernel,)))
    half = optimize.brentq(lambda r: pixel_gaussian(r, sigma) - 0.5 * pixel_gaussian(0.0, sigma), 0.1, 9.0)
    # read off an azimuthal mean with steps of 1 / 4 px
    assert psf.fwhm == pytest.approx(2.0 * half, rel=0.02)
    assert psf.sigma == pytest.approx(psf.fwhm / FWHM_PER_SIGMA)


@pytest.mark.parametrize("sigma", [2.0, 4.0])
@pytest.mark.parametrize("kernel", [0.0, 2.0, 3.5, 4.0])
def test_fwhm_of_the_widest_psfs(sigma, kernel):
    # half of it may lie beyond the part of the array that is looked at first
    psf = PSF(gaussian_library(sigma, (161, 160)), Kernel(values=(kernel,)))
    # the detector's pixel adds 1/12 px^2 of variance
    assert psf.fwhm == pytest.approx(FWHM_PER_SIGMA * np.sqrt(sigma**2 + kernel**2 + 1.0 / 12.0), rel=0.02)

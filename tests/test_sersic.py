"""Rendered Sersic profiles against GalSim, quadrature, series and their own laws."""

import os
from pathlib import Path

import galsim
import h5py
import numpy as np
import pytest
from scipy import integrate, signal, special

from sphot_mpi.kernels.psf import render_stars
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SersicParams
from sphot_mpi.sersic import (
    SersicRenderer,
    b_n,
    from_vector,
    params_jacobian,
    required_size,
    to_vector,
    total_flux,
)
from sphot_mpi.sersic_hankel import hankel_table

ORDER = ("amplitude", "r_eff", "n", "x_0", "y_0", "ellip", "theta")


def make_library(side=(101, 101), oversample=4, offset=(0.0, 0.0)):
    """A round core of FWHM 2 px on a wider, flattened halo, `offset` px from the array's centre."""
    y, x = (
        (np.arange(n) - (n - 1) / 2) / oversample - shift for n, shift in zip(side, (offset[1], offset[0]), strict=True)
    )
    y = y[:, None]
    array = np.exp(-0.5 * (x**2 + y**2) / 0.85**2) + 0.03 * np.exp(-0.5 * (x**2 / 2.0**2 + (y - 0.2) ** 2 / 1.5**2))
    return LibraryPSF.from_array(array, oversample)


def params(**values):
    base = {"amplitude": 1.0, "r_eff": 5.0, "n": 2.0, "x_0": 45.3, "y_0": 38.6, "ellip": 0.4, "theta": 0.7}
    return SersicParams(**(base | values))


def galsim_image(library, p, shape, *, tight):
    """Unit-flux image by GalSim; below n = 1 and wide it needs its accuracy raised (6.8e-3 of the peak otherwise)."""
    accuracy = galsim.GSParams(
        maxk_threshold=1e-7 if tight else 1e-5,
        kvalue_accuracy=1e-8 if tight else 1e-7,
        folding_threshold=1e-4,
        maximum_fft_size=16384,
    )
    q = 1.0 - p.ellip
    galaxy = galsim.Sersic(n=p.n, half_light_radius=p.r_eff * np.sqrt(q), flux=1.0, gsparams=accuracy)
    galaxy = galaxy.shear(q=q, beta=p.theta * galsim.radians)
    image = galsim.Image(library.array, scale=1.0 / library.oversample)
    epsf = galsim.InterpolatedImage(image, x_interpolant="lanczos15", flux=1.0, gsparams=accuracy)
    ny, nx = shape
    offset = (p.x_0 - (nx - 1) / 2, p.y_0 - (ny - 1) / 2)
    scene = galsim.Convolve([galaxy, epsf], gsparams=accuracy)
    # the detector pixel is in the ePSF already
    return scene.drawImage(nx=nx, ny=ny, scale=1.0, method="no_pixel", offset=offset, dtype=float).array


def assert_matches_galsim(library, p, shape, peak=1e-4, flux=5e-5):
    ours = SersicRenderer(PSF(library), shape).render(to_vector(p))
    reference = galsim_image(library, p, shape, tight=p.n < 1.0 and p.r_eff > 10.0)
    difference = ours - reference
    assert np.abs(difference).max() < peak * reference.max()
    assert abs(difference.sum()) < flux


def direct_image(p, shape, fine=8, pad=40):
    """Unit-flux image by the trapezoid rule in real space, for smooth profiles; the PSF is that of `make_library`."""
    ny, nx = shape
    y = (np.arange((ny + 2 * pad) * fine) / fine - pad)[:, None] - p.y_0
    x = np.arange((nx + 2 * pad) * fine) / fine - pad - p.x_0
    along = (x * np.cos(p.theta) + y * np.sin(p.theta)) / p.r_eff
    across = (y * np.cos(p.theta) - x * np.sin(p.theta)) / (p.r_eff * (1.0 - p.ellip))
    profile = np.exp(-b_n(p.n) * ((along**2 + across**2) ** (0.5 / p.n) - 1.0)) / total_flux(p)
    psf = make_library((26 * fine + 1,) * 2, fine).array
    image = signal.fftconvolve(profile, psf, mode="same")
    return image[pad * fine : (pad + ny) * fine : fine, pad * fine : (pad + nx) * fine : fine]


@pytest.mark.parametrize(("n", "r_eff", "ellip"), [(0.3, 25.0, 0.95), (0.5, 25.0, 0.95), (0.5, 3.0, 0.0)])
def test_image_equals_real_space_quadrature(n, r_eff, ellip):
    # the trapezoid rule at 1/8 px is exact to 1e-8 here; 2e-5 is twice our cut-off's tolerance
    p = params(n=n, r_eff=r_eff, ellip=ellip)
    ours = SersicRenderer(PSF(make_library()), (81, 92)).render(to_vector(p))
    reference = direct_image(p, (81, 92))
    assert np.abs(ours - reference).max() < 2e-5 * reference.max()


# the extremes of n, r_eff and ellip that GalSim draws within a second or so
FAST = [
    (0.3, 0.5, 0.0, 0.0),
    (0.3, 25.0, 0.95, 0.7),
    (0.5, 8.0, 0.5, 3.0),
    (1.0, 0.5, 0.95, 1.2),
    (1.0, 12.0, 0.3, 2.0),
    (2.0, 5.0, 0.8, 0.3),
    (4.0, 0.5, 0.5, 1.0),
    (4.0, 3.0, 0.95, 2.6),
    (6.2, 0.5, 0.0, 0.0),
    (6.2, 2.0, 0.5, 1.5),
]


@pytest.mark.parametrize(("n", "r_eff", "ellip", "theta"), FAST)
def test_image_equals_galsim(n, r_eff, ellip, theta):
    # 1e-4 of the peak and 5e-5 of the flux are the design's; the shape is not square
    p = params(n=n, r_eff=r_eff, ellip=ellip, theta=theta)
    assert_matches_galsim(make_library(), p, (81, 92))


@pytest.mark.parametrize(("side", "oversample"), [((100, 100), 4), ((27, 31), 1), ((64, 61), 2), ((140, 137), 5)])
def test_image_equals_galsim_for_any_psf_grid(side, oversample):
    # a FWHM of 2 px is barely sampled at 1 px, where interpolants differ: compare at 3e-3 there
    p = params(x_0=40.17, y_0=44.9, n=1.3)
    library = make_library(side, oversample, offset=(0.3, -0.4))
    assert_matches_galsim(library, p, (81, 92), peak=3e-3 if oversample == 1 else 1e-4)


def test_galaxy_beyond_the_edge_equals_galsim():
    # light from outside the cutout, and no periodic image from the other side
    assert_matches_galsim(make_library(), params(x_0=-6.4, y_0=75.0, n=1.0, r_eff=6.0), (81, 92))


@pytest.mark.parametrize(("n", "ellip"), [(1.0, 0.95), (1.0, 0.0), (0.6, 0.5)])
def test_huge_galaxy_equals_galsim(n, ellip):
    # r_eff above a third of the cutout: 1e-3, the design's
    assert_matches_galsim(make_library(), params(n=n, r_eff=100.0, ellip=ellip), (121, 111), peak=1e-3, flux=1e-3)


@pytest.mark.parametrize(
    "band", ["F160W", "F277W", *(pytest.param(b, marks=pytest.mark.slow) for b in ("F090W", "F150W", "F555W", "F814W"))]
)
def test_image_under_real_psfs_equals_galsim(band):
    # a point-like galaxy shows all of the band, and the PSFs keep 1e-4 of their power to its end
    folder = Path(os.environ.get("SPHOT_REAL_DATA", Path(__file__).parents[1] / "../shared/data/real"))
    if not (folder / "PSFdata.h5").exists():
        pytest.skip("the real PSFs are not here")
    with h5py.File(folder / "PSFdata.h5") as file:
        library = LibraryPSF.from_array(file[band][:], int(file.attrs["oversample"]))
    for values in ({"n": 4.0, "r_eff": 0.5, "ellip": 0.95}, {"n": 1.0, "r_eff": 3.0, "ellip": 0.5}):
        assert_matches_galsim(library, params(**values), (81, 92))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(60))
def test_random_galaxies_equal_galsim(seed):
    rng = np.random.default_rng(seed)
    n = rng.uniform(0.3, 6.2)
    # GalSim needs minutes for wide galaxies of high index
    widest = 100.0 if n < 1.5 else 25.0 if n < 3.0 else 12.0
    p = params(
        n=n,
        r_eff=np.exp(rng.uniform(np.log(0.5), np.log(widest))),
        ellip=rng.uniform(0.0, 0.95),
        theta=rng.uniform(0.0, np.pi),
        x_0=80.0 + rng.uniform(-20, 20),
        y_0=70.0 + rng.uniform(-20, 20),
    )
    side = (100 + int(rng.integers(3)), 100 + int(rng.integers(3)))
    wide = p.r_eff > 141 / 3
    limits = {"peak": 1e-3, "flux": 1e-3} if wide else {}
    assert_matches_galsim(make_library(side, 4, (0.2, 0.1)), p, (141, 161), **limits)


def test_transform_equals_the_closed_forms():
    # Gaussian at n = 1/2, (1 + kappa^2/b^2)^(-3/2) at n = 1; 3e-8: the table's cubic cells
    for n, form in ((0.5, lambda u, b: np.exp(-u / (4 * b))), (1.0, lambda u, b: (1 + u / b**2) ** -1.5)):
        u = np.geomspace(1e-6, 1e5, 400)
        np.testing.assert_allclose(transform(n, u)[0], form(u, b_n(n)), atol=3e-8)


@pytest.mark.parametrize("n", [0.3, 0.7, 2.2, 4.0, 8.0])
def test_transform_equals_quadrature(n):
    b = b_n(n)
    norm = n * b ** (-2 * n) * special.gamma(2 * n)
    # in t = x^(1/n) cusps are smooth, in x flat cores are; beyond t = 80 / b nothing is left
    m = max(n, 1.0)
    for kappa in (0.05, 0.7, 3.0, 8.0):
        value = integrate.quad(
            lambda t, k=kappa: m * t ** (2 * m - 1) * np.exp(-b * t ** (m / n)) * special.j0(k * t**m),
            0.0, (80.0 / b) ** (n / m), limit=4000, epsabs=1e-10 * norm,
        )[0]  # fmt: skip
        np.testing.assert_allclose(transform(n, np.array([kappa**2]))[0], value / norm, atol=3e-8)


@pytest.mark.parametrize("n", [1.5, 3.0, 6.5, 8.0])
def test_transform_equals_the_series_at_large_kappa(n):
    # term by term Hankel transform of the Taylor series of the exponential: converges for n > 1
    b, kappa = b_n(n), np.array([40.0, 200.0, 900.0])
    k = np.arange(1, 90)[:, None]
    log_term = (
        k * np.log(b) - special.gammaln(k + 1) + (1 + k / n) * np.log(2) - (2 + k / n) * np.log(kappa)
        + special.gammaln(1 + k / (2 * n))
    )  # fmt: skip
    series = ((-1.0) ** k * np.exp(log_term) * special.rgamma(-k / (2 * n))).sum(axis=0)
    expected = series / (n * b ** (-2 * n) * special.gamma(2 * n))
    # relative: the interpolation over n leaves about 1e-9 absolute
    np.testing.assert_allclose(transform(n, kappa**2)[0], expected, rtol=1e-4, atol=2e-10)


def transform(n, u):
    """F and dF/d ln n at u, from the table's cells."""
    table = hankel_table()
    cells = table.cells(n)
    c = np.clip((u.view(np.int64) >> table.shift) - table.first, 0, table.edges.size - 1)
    d = u - table.edges[c]
    return [np.sum(cells[c, k : k + 4] * d[:, None] ** np.arange(4), axis=1) for k in (0, 4)]


def test_total_flux_and_half_light_radius_equal_quadrature():
    for n in (0.3, 1.0, 4.0, 8.0):
        p = params(amplitude=3.0, n=n, r_eff=7.0, ellip=0.3)
        b, q = b_n(n), 0.7

        def light(t, n=n, b=b):
            return n * t ** (2 * n - 1) * np.exp(-b * (t - 1.0))

        whole = integrate.quad(light, 0.0, 60.0, epsrel=1e-11, limit=400)[0]
        half = integrate.quad(light, 0.0, 1.0, epsrel=1e-11)[0]
        np.testing.assert_allclose(total_flux(p), 3.0 * 2.0 * np.pi * 49.0 * q * whole, rtol=1e-8)
        np.testing.assert_allclose(half / whole, 0.5, rtol=1e-8)


@pytest.mark.parametrize("theta", [0.0, 0.3, np.pi / 2, 3.1])
def test_vector_returns_the_parameters(theta):
    p = params(amplitude=2.5, n=1.7, theta=theta)
    back = from_vector(to_vector(p), total_flux(p))
    for name in ORDER:
        np.testing.assert_allclose(getattr(back, name), getattr(p, name), rtol=1e-12, atol=1e-12)


def test_theta_is_canonical():
    for theta in (-0.3, np.pi, 7.0, -1e-18):
        found = from_vector(to_vector(params(theta=theta)), 1.0).theta
        assert 0.0 <= found < np.pi
        np.testing.assert_allclose(np.sin(2 * found), np.sin(2 * theta), atol=1e-12)


@pytest.mark.parametrize("ellip", [0.05, 0.6])
def test_parameter_jacobian_equals_finite_differences(ellip):
    p = params(amplitude=2.5, n=1.7, ellip=ellip, theta=2.0)
    point = np.concatenate([[total_flux(p)], to_vector(p)])
    jacobian = params_jacobian(point[1:], point[0])
    for k in range(7):
        step = np.zeros(7)
        step[k] = 1e-5 * max(1.0, abs(point[k]))
        high, low = (from_vector((point + s * step)[1:], (point + s * step)[0]) for s in (1, -1))
        slope = [(getattr(high, name) - getattr(low, name)) / (2 * step[k]) for name in ORDER]
        np.testing.assert_allclose(jacobian[:, k], slope, rtol=1e-6, atol=1e-8)


SHAPES = [
    params(),
    params(n=0.6, r_eff=14.0, ellip=0.0),
    params(n=5.0, r_eff=1.5, ellip=0.9),
    params(x_0=3.0, r_eff=20),
]


@pytest.mark.parametrize("p", SHAPES)
def test_derivatives_equal_finite_differences(p):
    # 1e-5 of each image's maximum: single precision (1e-7) and the five-point rule (1e-8) leave room
    psf, vector = PSF(make_library(), Kernel(values=(0.6,))), to_vector(p)
    images = SersicRenderer(psf, (81, 92), size=240).jacobian(vector)
    # one that has no derivatives to move a galaxy by
    renderer = SersicRenderer(psf, (81, 92), size=240)
    np.testing.assert_allclose(images[0], renderer.render(vector), atol=1e-6 * images[0].max())
    h = 2e-3
    for k in range(6):
        step = np.zeros(6)
        step[k] = h
        near = renderer.render(vector + step) - renderer.render(vector - step)
        far = renderer.render(vector + 2 * step) - renderer.render(vector - 2 * step)
        slope = (8.0 * near - far) / (12.0 * h)
        assert np.abs(images[k + 1] - slope).max() < 1e-5 * np.abs(slope).max()


def test_last_image_is_the_derivative_by_the_kernel_variance():
    library, vector = make_library(), to_vector(params(r_eff=1.0))
    psf = PSF(library, Kernel(values=(0.7,)))
    renderer = SersicRenderer(psf, (81, 92), kernel_slopes=True)
    images = renderer.jacobian(vector)
    assert images.shape == (8, 81, 92)
    h = 1e-3
    high, low = (
        renderer.with_psf(psf.with_kernel(Kernel(values=(np.sqrt(0.49 + s * h),)))).render(vector) for s in (1, -1)
    )
    slope = (high - low) / (2 * h)
    # the central difference's own error is 1e-6 of it
    assert np.abs(images[7] - slope).max() < 1e-5 * np.abs(slope).max()
    # fewer derivatives are the same ones
    np.testing.assert_array_equal(renderer.jacobian(vector, shape=False), images[[0, 1, 2, 7]])
    np.testing.assert_array_equal(renderer.jacobian(vector, shape=False, place=False), images[[0, 7]])


@pytest.mark.parametrize("size", [242, 301, 384])
def test_image_does_not_depend_on_the_period(size):
    # a PSF of sigma 1/3 px keeps power beyond 1.5 cycles per px: columns fold several times; also an odd period
    y, x = np.indices((33, 33)) - 16.0
    sharp = LibraryPSF.from_array(np.exp(-0.5 * (x**2 + y**2) / 1.35**2), 4)
    vector = to_vector(params(r_eff=1.2, n=1.0))
    images = [SersicRenderer(PSF(sharp), (81, 92), size=s, tolerance=1e-7).render(vector) for s in (size, 320)]
    assert np.abs(images[0] - images[1]).max() < 1e-6 * images[1].max()


@pytest.mark.parametrize(
    ("n", "r_eff", "ellip", "x_0"), [(8, 3, 0.5, 45), (8, 15, 0, 45), (7, 8, 0.9, 5), (4, 20, 0.3, 30)]
)
def test_chosen_period_is_large_enough(n, r_eff, ellip, x_0):
    # heavy wings beyond GalSim's range, against twenty times the cutout
    p = params(n=n, r_eff=r_eff, ellip=ellip, x_0=x_0)
    psf = PSF(make_library())
    own = SersicRenderer(psf, (81, 92)).render(to_vector(p))
    wide = SersicRenderer(psf, (81, 92), size=1800).render(to_vector(p))
    assert np.abs(own - wide).max() < 2e-5 * wide.max()
    assert abs((own - wide).sum()) < 5e-5


def test_period_grows_with_the_galaxy_and_its_offset():
    small = required_size(to_vector(params(r_eff=3.0)), (81, 92))
    assert small[0] < 2 * 81
    assert min(np.subtract(required_size(to_vector(params(r_eff=40.0)), (81, 92)), small)) > 30
    assert required_size(to_vector(params(x_0=0.0)), (81, 92))[1] > small[1]
    # nor do the wings of a periodic image's PSF reach the cutout
    assert min(required_size(to_vector(params(r_eff=3.0)), (81, 92), reach=150.0)) > 40 + 150


@pytest.mark.parametrize(("side", "oversample"), [((101, 101), 4), ((100, 100), 4), ((25, 26), 1), ((76, 77), 3)])
def test_centroid_is_the_centre(side, oversample):
    # 0.01 px for even and odd PSFs; the symmetric PSF has its centroid at the array's centre
    y, x = ((np.arange(n) - (n - 1) / 2) / oversample for n in side)
    library = LibraryPSF.from_array(np.exp(-0.5 * (x**2 + y[:, None] ** 2) / 1.0**2), oversample)
    p = params(n=0.7, r_eff=3.0, x_0=45.27, y_0=38.61)
    image = SersicRenderer(PSF(library), (81, 92)).render(to_vector(p))
    iy, ix = np.indices(image.shape)
    centroid = np.array([(ix * image).sum(), (iy * image).sum()]) / image.sum()
    np.testing.assert_allclose(centroid, [p.x_0, p.y_0], atol=0.01)


def test_tiny_galaxy_is_a_star():
    # the same origin and normalisation as the point sources; 2e-3: their cubic spline against our sinc
    psf = PSF(make_library((100, 101), offset=(0.5, -0.3)), Kernel(values=(0.4,)))
    image = SersicRenderer(psf, (31, 40)).render(to_vector(params(n=0.5, r_eff=1e-3, ellip=0.0, x_0=20.3, y_0=14.8)))
    star = np.zeros((31, 40))
    render_stars(
        star, psf.planes, psf.oversample, *psf.origin, np.array([20.3]), np.array([14.8]), np.ones(1),
        np.array([psf.radius]),
    )  # fmt: skip
    assert np.abs(image - star).max() < 2e-3 * star.max()
    np.testing.assert_allclose(image.sum(), star.sum(), atol=1e-4)


def test_cutout_is_a_part_of_a_larger_one():
    psf = PSF(make_library())
    p = params(n=3.0, r_eff=9.0)
    whole = SersicRenderer(psf, (121, 150)).render(to_vector(p))
    inner = params(n=3.0, r_eff=9.0, x_0=p.x_0 - 40, y_0=p.y_0 - 30)
    part = SersicRenderer(psf, (61, 70)).render(to_vector(inner))
    assert np.abs(part - whole[30:91, 40:110]).max() < 1e-5 * whole.max()


def test_components_add_up():
    renderer = SersicRenderer(PSF(make_library()), (81, 92))
    one, two = params(amplitude=3.0), params(amplitude=40.0, r_eff=1.5, n=4.0)
    both = renderer.render_params([one, two])
    np.testing.assert_allclose(both, renderer.render_params([one]) + renderer.render_params([two]), atol=1e-12)
    # all but the wings beyond the cutout
    assert 0.95 < both.sum() / (total_flux(one) + total_flux(two)) < 1.0


def test_kernel_change_equals_a_fresh_renderer():
    psf, vector = PSF(make_library()), to_vector(params())
    renderer = SersicRenderer(psf, (81, 92))
    renderer.render(vector)
    changed = psf.with_kernel(Kernel("moffat", (1.5, 3.0)))
    reused = renderer.with_psf(changed).render(vector)
    fresh = SersicRenderer(changed, (81, 92)).render(vector)
    np.testing.assert_allclose(reused, fresh, atol=1e-9 * fresh.max())
    assert reused.max() < renderer.render(vector).max()


def test_a_galaxy_that_is_asked_for_again_is_rendered_once():
    renderer = SersicRenderer(PSF(make_library(), Kernel("gaussian", (0.8,))), (81, 92), kernel_slopes=True)
    vector = to_vector(params())
    whole = renderer.jacobian(vector)
    assert renderer.jacobian(vector.copy()) is whole
    assert not whole.flags.writeable
    # what else is wanted is made, and so is another galaxy
    assert renderer.jacobian(vector, shape=False).shape[0] == whole.shape[0] - 4
    assert renderer.jacobian(vector, kernel_slopes=False).shape[0] == whole.shape[0] - 1
    other = vector + 1e-6
    assert np.abs(renderer.jacobian(other) - whole).max() > 0.0
    for step in range(1, 9):
        renderer.jacobian(vector + 1e-3 * step)
    # the last few are kept, no more
    assert renderer.jacobian(vector) is not whole
    np.testing.assert_array_equal(renderer.jacobian(vector), whole)


@pytest.mark.parametrize("p", SHAPES)
def test_a_galaxy_that_hardly_moves_is_moved_by_its_slopes(p):
    psf = PSF(make_library(), Kernel(values=(0.6,)))
    renderer, fresh = (SersicRenderer(psf, (81, 92), kernel_slopes=True) for _ in range(2))
    vector = to_vector(p)
    still = renderer.jacobian(vector, shape=False)
    for step in ([0.0029, 0.0], [-0.002, 0.0029]):
        near = vector + np.append(step, np.zeros(4))
        exact, moved = fresh.render(near), renderer.jacobian(near, shape=False)
        # half a step squared times a curvature of 1 / px^2 of the peak, along both axes
        assert np.abs(moved[0] - exact).max() < 1e-5 * exact.max()
        np.testing.assert_array_equal(renderer.render(near), moved[0])
        # the slopes stay, and what they were moved from
        np.testing.assert_array_equal(moved[1:], still[1:])
        assert np.abs(still[0] - exact).max() > 1e-4 * exact.max()
        assert renderer.jacobian(vector, shape=False) is still
    # farther off it is made anew, and so is one without slopes by its place: those by the kernel are others
    far = vector + np.array([0.0031, 0.0, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(renderer.jacobian(far, shape=False), fresh.jacobian(far, shape=False))
    alone = renderer.jacobian(vector, shape=False, place=False)
    near = vector + np.array([0.001, 0.001, 0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(renderer.jacobian(near, shape=False, place=False), fresh.jacobian(near)[[0, 7]])
    assert alone.shape[0] == 2


def test_index_off_the_table_is_refused():
    renderer = SersicRenderer(PSF(make_library()), (81, 92))
    for n in (0.2, 9.0, np.nan):
        with pytest.raises(ValueError, match="Sersic index"):
            renderer.render(to_vector(params(n=n)))

"""The picture of the PSF kernel: stars that were made with a kernel, against the PSF with it and without."""

import numpy as np
import pytest
from fakes import gaussian_psf
from scipy import integrate

from sphot_mpi.config import load_config
from sphot_mpi.model_images import ModelImages
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.qa.kernel_check import KernelCheck, check_kernel
from sphot_mpi.records import SOURCE_DTYPE, FilterFit, KernelFit, SersicParams, SkyPlane
from sphot_mpi.star_field import StarField

SHAPE = (170, 150)
NOISE = 0.002
KERNEL = Kernel("gaussian", (1.2,))
LIBRARY = LibraryPSF.from_array(gaussian_psf(61, 3.0), 3)
GALAXY = SersicParams(amplitude=1.0, r_eff=8.0, n=1.0, x_0=75.0, y_0=85.0, ellip=0.2, theta=0.0)


def checked(kernel: Kernel, n_stars: int = 20, *, gap: bool = False) -> KernelCheck:
    """A field of stars made with `KERNEL`, and a fit that believes in `kernel`."""
    rng = np.random.default_rng(3)
    sources = np.zeros(n_stars, SOURCE_DTYPE)
    sources["x_fit"], sources["y_fit"] = rng.uniform(0, SHAPE[1], n_stars), rng.uniform(0, SHAPE[0], n_stars)
    sources["flux_fit"] = rng.uniform(5.0, 20.0, n_stars)
    x, y, flux = (np.ascontiguousarray(sources[key]) for key in ("x_fit", "y_fit", "flux_fit"))
    true, believed = (StarField(PSF(LIBRARY, k), SHAPE, 1e-6).render(x, y, flux) for k in (KERNEL, kernel))
    data = 0.7 + true + rng.normal(0.0, NOISE, SHAPE)
    if gap:
        data[:, :60] = np.nan
    fit = FilterFit(
        galaxy="g", filter="F", components=(GALAXY,), covariance=np.eye(7), total_flux=1.0, total_flux_err=1.0,
        flux_in_cutout=1.0, sky=SkyPlane(level=0.7), sky_covariance=np.eye(3), sources=sources,
        report=np.ones(n_stars, bool), kernel=KernelFit(values=kernel.values, n_anchors=n_stars),
    )  # fmt: skip
    model = ModelImages(sersic=np.zeros(SHAPE), sources=believed, sky=np.full(SHAPE, 0.7))
    return check_kernel(fit, data, model, LIBRARY, load_config().psf_calib)


def test_right_kernel_leaves_noise_and_the_library_does_not() -> None:
    check = checked(KERNEL)
    assert check.x.size >= 8
    # noise of a median of 8 stars or more of flux 5 and more, in percent of the peak of 0.1 per flux
    assert np.sqrt(np.nanmean(check.after**2)) < 0.5
    assert np.nanmax(np.abs(check.before)) > 10.0
    np.testing.assert_allclose(check.before.shape, check.after.shape)


def test_star_light_follows_the_psf_it_was_made_with() -> None:
    check = checked(KERNEL)
    expected = np.interp(check.radius, check.psf_radius, check.psf_working)
    # a bin of half a pixel on a falling PSF
    np.testing.assert_allclose(check.light, expected, atol=0.02 * check.working.max())
    assert (check.light_low <= check.light).all()
    assert (check.light <= check.light_high).all()


def test_psf_images_and_profiles_are_of_flux_one() -> None:
    check = checked(KERNEL)
    # both are Gaussian: sigma 1 px and hypot(1, 1.2) px; the window holds all but the far wings
    assert check.library_fwhm == pytest.approx(2.355, rel=0.02)
    assert check.working_fwhm == pytest.approx(2.355 * np.hypot(1.0, 1.2), rel=0.02)
    assert check.library.sum() == pytest.approx(1.0, abs=1e-3)
    assert check.working.sum() == pytest.approx(1.0, abs=1e-3)
    light = integrate.trapezoid(2.0 * np.pi * check.psf_radius * check.psf_working, check.psf_radius)
    assert light == pytest.approx(1.0, abs=0.01)


def test_wrong_kernel_shows_in_the_stack_after() -> None:
    wrong = checked(Kernel("gaussian", (0.3,)))
    assert np.nanmax(np.abs(wrong.after)) > 10.0 * np.nanmax(np.abs(checked(KERNEL).after))


def test_anchors_keep_out_of_galaxy_and_gaps() -> None:
    check = checked(KERNEL, 60, gap=True)
    assert check.x.size
    assert check.x.min() > 60.0
    assert np.hypot(check.x - 75.0, (check.y - 85.0) / 0.8).min() > 8.0


def test_no_star_is_no_anchor() -> None:
    check = checked(KERNEL, 0)
    assert check.x.size == check.radius.size == 0
    assert np.isnan(check.before).all()
    assert check.working_fwhm > check.library_fwhm

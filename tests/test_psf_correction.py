"""Light inside apertures, its errors, and the correction from PSF to PSF."""

from dataclasses import replace

import numpy as np
import pytest
from analytic import gaussian_library
from aperture_scenes import galaxy, scene

from sphot_mpi.psf_correction import (
    ShapeErrors,
    View,
    colour_variance,
    light_inside,
    psf_correction,
    total_light,
    vector_covariance,
)
from sphot_mpi.records import KernelFit, SersicParams
from sphot_mpi.sersic import from_vector, params_jacobian, to_vector

SHAPE = (101, 99)
SHARP, BROAD = gaussian_library(1.0), gaussian_library(2.5)
GALAXY = galaxy(1.7, 7.0, 0.3, 0.7, (49.3, 50.2))
DISK = (galaxy(1.0, 12.0, 0.4, 0.5, (49.3, 50.2), 700.0), galaxy(2.5, 4.0, 0.1, 0.0, (49.3, 50.2), 300.0))
#: Covariance of (flux, x, y, ln r, ln n, eta_1, eta_2): flux, size and index hang together as in a real fit.
ROOT = np.diag([9.0, 0.02, 0.02, 0.02, 0.03, 0.01, 0.01]) + 0.0
ROOT[0, 3], ROOT[3, 4], ROOT[4, 3] = 12.0, 0.01, 0.01
VECTOR_COVARIANCE = ROOT @ ROOT.T


def disc(radius):
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (np.hypot(x - 49.3, y - 50.2) < radius).astype(float)


def fit_of(components=GALAXY, library=SHARP, name="F150W", scale=1.0, own=0.0, kernel_error=0.0):
    """A fit with the covariance above for its first component, or one that takes over such a fit's shape."""
    components = (components,) if isinstance(components, SersicParams) else components
    scaled = tuple(replace(c, amplitude=scale * c.amplitude) for c in components)
    fit, _, _ = scene(scaled, library, name, shape=SHAPE)
    covariance = np.zeros((7 * len(components),) * 2)
    jacobian = params_jacobian(to_vector(components[0]), total_light(components[:1]).flux)
    covariance[:7, :7] = jacobian @ VECTOR_COVARIANCE @ jacobian.T
    covariance[0, :] *= scale
    covariance[:, 0] *= scale
    total_err = scale * np.hypot(np.sqrt(VECTOR_COVARIANCE[0, 0]), own)
    kernel = KernelFit(values=fit.kernel.values, errors=(kernel_error,), fwhm=fit.kernel.fwhm)
    return replace(fit, covariance=covariance, total_flux_err=total_err, kernel=kernel)


def view(fit, library):
    return View.of(fit, library, SHAPE)


def test_everything_inside_is_the_total():
    (light,) = light_inside((galaxy(1.0, 2.0, centre=(49.3, 50.2)),), view(fit_of(), SHARP).renderer, (np.ones(SHAPE),))
    assert light.flux == pytest.approx(1000.0, rel=1e-5)


@pytest.mark.parametrize("components", [(GALAXY,), DISK])
def test_gradients_are_differences(components):
    renderer, weight = view(fit_of(components), SHARP).renderer, disc(6.0)
    (light,) = light_inside(components, renderer, (weight,))
    for c, component in enumerate(components):
        flux = total_light((component,)).flux
        for k in range(7):
            step = np.zeros(6)
            if k:
                step[k - 1] = 1e-3
            grow = 1.0 if k else 1.001
            moved = [
                sum(
                    (renderer.render_params([p]) * weight).sum()
                    for p in (*components[:c], from_vector(to_vector(component) + s * step, f), *components[c + 1 :])
                )
                for s, f in ((1.0, flux * grow), (-1.0, flux / grow))
            ]
            difference = (moved[0] - moved[1]) / (flux * (grow - 1.0 / grow) if k == 0 else 2e-3)
            assert light.gradient[7 * c + k] == pytest.approx(difference, abs=1e-4 * abs(light.flux) + 1e-5)


def test_the_covariance_of_the_vector_comes_back():
    assert vector_covariance(fit_of()) == pytest.approx(VECTOR_COVARIANCE, rel=1e-6, abs=1e-12)


def test_errors_of_light_are_those_of_galaxies_drawn_from_the_covariance():
    fit = fit_of()
    renderer, weight = view(fit, SHARP).renderer, disc(6.0)
    (light,) = light_inside(fit.components, renderer, (weight,))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        change = ROOT @ rng.normal(size=7)
        moved = from_vector(to_vector(GALAXY) + change[1:], 1000.0 + change[0])
        drawn.append((renderer.render_params([moved]) * weight).sum())
    # 400 draws tell a deviation to 3.5 %
    assert ShapeErrors(fit, fit).flux_err(light) == pytest.approx(np.std(drawn), rel=0.12)


def test_the_error_of_the_common_shape_cancels_in_a_colour():
    base = fit_of()
    other = fit_of(library=SHARP, name="F277W", scale=0.4, own=2.0)
    base_errors, errors = ShapeErrors(base, base), ShapeErrors(other, base)
    light, base_light = total_light(other.components), total_light(base.components)
    variance = colour_variance(light, errors, base_light, base_errors)
    # what is left: each filter's error of the flux at a fixed shape
    held = 1.0 / np.linalg.inv(VECTOR_COVARIANCE)[0, 0] / 1000.0**2
    assert base_errors.scale_variance() == pytest.approx(held, rel=1e-6)
    assert errors.own == pytest.approx((2.0 / 1000.0) ** 2, rel=1e-6)
    assert variance == pytest.approx(held + (2.0 / 1000.0) ** 2, rel=1e-6)
    assert variance < 0.5 * (errors.relative_variance(light) + base_errors.relative_variance(base_light))


def test_shapes_that_were_fitted_apart_do_not_cancel():
    base = fit_of()
    other = fit_of(galaxy(1.9, 7.0, 0.3, 0.7, (49.3, 50.2)), name="F277W")
    base_errors, errors = ShapeErrors(base, base), ShapeErrors(other, base)
    light, base_light = total_light(other.components), total_light(base.components)
    expected = errors.relative_variance(light) + base_errors.relative_variance(base_light)
    assert colour_variance(light, errors, base_light, base_errors) == pytest.approx(expected)


def test_a_covariance_that_is_not_known_gives_no_error():
    fit = fit_of()
    fit = replace(fit, covariance=np.full((7, 7), np.nan))
    assert np.isnan(ShapeErrors(fit, fit).flux_err(total_light(fit.components)))


def test_the_correction_is_one_for_the_reference_and_undone_by_its_inverse():
    base, other = fit_of(), fit_of(library=BROAD, name="F277W")
    sharp, broad = view(base, SHARP), view(other, BROAD)
    weight, errors = disc(5.0), ShapeErrors(base, base)
    there = psf_correction(sharp, broad, base.components, weight, errors)
    back = psf_correction(broad, sharp, other.components, weight, ShapeErrors(other, base))
    same = psf_correction(sharp, sharp, base.components, weight, errors)
    assert there.value * back.value == pytest.approx(1.0, rel=1e-6)
    assert there.value < 1.0  # the broad PSF leaves less
    assert (same.value, same.error) == (1.0, 0.0)
    assert same.fraction == pytest.approx(there.fraction)
    assert 0.0 < there.error < 0.02


def test_an_uncertain_kernel_makes_the_correction_uncertain():
    base, other = fit_of(), fit_of(library=BROAD, name="F277W")
    free = replace(other, kernel=KernelFit(values=(1.0,), errors=(0.2,), fwhm=other.kernel.fwhm))
    held = replace(other, kernel=KernelFit(values=(1.0,), errors=(float("nan"),), fwhm=other.kernel.fwhm))
    weight, found = disc(5.0), []
    for fit in (free, held):
        found.append(
            psf_correction(view(fit, BROAD), view(base, SHARP), fit.components, weight, ShapeErrors(fit, base))
        )
    wider = replace(other, kernel=KernelFit(values=(1.2,), errors=(0.0,), fwhm=other.kernel.fwhm))
    moved = psf_correction(
        view(wider, BROAD), view(base, SHARP), wider.components, weight, ShapeErrors(wider, base)
    )  # fmt: skip
    extra = np.sqrt(found[0].error ** 2 - found[1].error ** 2)
    assert extra == pytest.approx(abs(moved.value - found[0].value), rel=0.05)


def test_a_galaxy_without_light_has_no_correction():
    dark = fit_of(scale=0.0, name="F277W")
    with np.errstate(all="raise"):
        found = psf_correction(
            view(dark, BROAD), view(fit_of(), SHARP), dark.components, disc(5.0), ShapeErrors(fit_of(), fit_of())
        )
    assert np.isnan([found.fraction, found.value, found.error]).all()

"""The model galaxy's light inside an aperture, its dependence on shape and PSF, and what follows from that.

An aperture holds less of a galaxy the wider the PSF is. The model of a filter, seen through its own working PSF and
through that of a reference filter, tells by how much: ``correction = fraction_reference / fraction_own``. Errors come
from the base fit's covariance. All filters share the base filter's shape, hence what the shape's error does to all
alike cancels in a colour, and only the difference of the gradients remains.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sphot_mpi.flags import FitFlag
from sphot_mpi.model_images import working_psf
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SERSIC_PARAMETERS, FilterFit, Image, SersicParams, Vector
from sphot_mpi.sersic import SersicRenderer, params_jacobian, to_vector, total_flux

K = len(SERSIC_PARAMETERS)
NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Light:
    """Light of a model and its derivatives.

    Parameters
    ----------
    flux : float
        Data unit * px.
    gradient : (7 c,) float64 ndarray
        By the total flux and the shape vector of each component, see `sphot_mpi.sersic_profile`.
    """

    flux: float
    gradient: Vector

    @property
    def relative(self) -> Vector:
        """Gradient of ln(flux); NaN where there is no light."""
        return self.gradient / (self.flux if self.flux != 0.0 else NAN)

    def of_flux(self, flux: float) -> "Light":
        """Return the same light with another flux, known as well: what modes make of it."""
        return Light(flux=flux, gradient=flux * self.relative)


def light_inside(
    components: Sequence[SersicParams], renderer: SersicRenderer, weights: Sequence[Image]
) -> tuple[Light, ...]:
    """Return the light of a model galaxy under each of some weight images.

    Parameters
    ----------
    components : sequence of SersicParams
        In the pixel frame of the weights.
    renderer : SersicRenderer
        With the PSF; its images have the shape of the weights.
    weights : sequence of (ny, nx) float64 ndarray
        Part of each pixel that counts.

    Returns
    -------
    tuple of Light
        One a weight image.
    """
    values = np.zeros(len(weights))
    gradients = np.zeros((len(weights), K * len(components)))
    for c, component in enumerate(components):
        flux = total_flux(component)
        unit = renderer.jacobian(to_vector(component))[:K].reshape(K, -1)
        for w, weight in enumerate(weights):
            sums = unit @ weight.ravel()
            values[w] += flux * sums[0]
            gradients[w, K * c : K * c + K] = flux * sums
            gradients[w, K * c] = sums[0]
    return tuple(Light(flux=float(v), gradient=g) for v, g in zip(values, gradients, strict=True))


def total_light(components: Sequence[SersicParams]) -> Light:
    """Return the total light, to infinity."""
    gradient = np.zeros(K * len(components))
    gradient[::K] = 1.0
    return Light(flux=sum(total_flux(c) for c in components), gradient=gradient)


def vector_covariance(fit: FilterFit) -> Image:
    """Covariance of total flux and shape vector of each component, (7 c, 7 c), from that of the parameters."""
    inverse = np.zeros((K * len(fit.components),) * 2)
    for c, component in enumerate(fit.components):
        block = slice(K * c, K * c + K)
        inverse[block, block] = np.linalg.inv(params_jacobian(to_vector(component), total_flux(component)))
    return np.asarray(inverse @ fit.covariance @ inverse.T)


class ShapeErrors:
    """Errors of a filter's model light, alone and against the base filter's.

    Parameters
    ----------
    fit : FilterFit
        The filter's fit.
    base : FilterFit
        The base filter's; the same record for the base filter itself.
    """

    def __init__(self, fit: FilterFit, base: FilterFit) -> None:
        self.shared = fit is not base and _share_shape(fit, base)
        self._origin = base if self.shared else fit
        self._covariance = vector_covariance(self._origin)
        self.ratio = np.ones(K * len(fit.components))
        self.own = 0.0
        if self.shared:
            self.ratio[::K] = [
                total_flux(c) / (total_flux(b) or NAN) for c, b in zip(fit.components, base.components, strict=True)
            ]
            self.own = _own_variance(fit, base)

    def in_base(self, light: Light) -> Vector:
        """Gradient of ln(flux) by the parameters whose covariance is used."""
        return light.relative * self.ratio

    def relative_variance(self, light: Light) -> float:
        """Variance of ln(flux) of `light`."""
        return self.own + self.variance_of(self.in_base(light))

    def variance_of(self, gradient: Vector) -> float:
        """Variance of a quantity whose gradient by shape and flux this is."""
        # rounding may leave a tiny negative number where gradients cancel
        value = float(gradient @ self._covariance @ gradient)
        return max(value, 0.0) if np.isfinite(value) else NAN

    def flux_err(self, light: Light) -> float:
        """1-sigma error of `light`."""
        return float(abs(light.flux) * np.sqrt(self.relative_variance(light)))

    def scale_variance(self) -> float:
        """Variance of ln(flux) with the shape, and the components' flux ratio, held fixed."""
        if self.shared:
            return self.own
        along = np.zeros(self.ratio.size)
        along[::K] = [total_flux(c) for c in self._origin.components]
        if not np.isfinite(self._covariance).all():
            return NAN
        spread = np.sqrt(np.maximum(np.diagonal(self._covariance), 1e-300))
        precision = np.linalg.pinv(self._covariance / spread / spread[:, None], rcond=1e-10, hermitian=True)
        information = float((along / spread) @ precision @ (along / spread))
        return 1.0 / information if information > 0.0 else NAN


def colour_variance(light: Light, errors: ShapeErrors, base_light: Light, base_errors: ShapeErrors) -> float:
    """Variance of ln(flux / base flux) of model light.

    Parameters
    ----------
    light, base_light : Light
        Of the filter and of the base filter.
    errors, base_errors : ShapeErrors
        Of the same.

    Returns
    -------
    float
        With the common shape's error cancelled; the plain sum where the shapes were fitted apart.
    """
    if not errors.shared:
        return errors.relative_variance(light) + base_errors.relative_variance(base_light)
    difference = errors.in_base(light) - base_errors.in_base(base_light)
    return errors.own + base_errors.scale_variance() + base_errors.variance_of(difference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Enclosed fractions under a filter's own and the reference PSF, and their ratio with its error."""

    fraction: float
    fraction_reference: float
    value: float
    error: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """How a filter sees a galaxy: its fit, the working PSF, and a renderer of the image on which light is summed."""

    fit: FilterFit
    psf: PSF
    renderer: SersicRenderer

    @classmethod
    def of(cls, fit: FilterFit, library: LibraryPSF, shape: tuple[int, int]) -> "View":
        """Return the view of a fit on an image of `shape` (ny, nx)."""
        psf = working_psf(fit, library)
        return cls(fit=fit, psf=psf, renderer=SersicRenderer(psf, shape))


def psf_correction(
    own: View, reference: View, components: Sequence[SersicParams], weight: Image, errors: ShapeErrors
) -> Correction:
    """Return what turns a filter's aperture flux into that under the reference filter's PSF.

    Parameters
    ----------
    own, reference : View
        Of the filter, and of the filter whose PSF is the reference.
    components : sequence of SersicParams
        The filter's galaxy in the pixel frame of `weight`.
    weight : (ny, nx) float64 ndarray
        Part of each pixel inside the aperture.
    errors : ShapeErrors
        Of the filter.

    Returns
    -------
    Correction
        1 without error for the reference filter itself; NaN where the model has no light.
    """
    total = total_light(components).flux or NAN
    (inside,) = light_inside(components, own.renderer, (weight,))
    fraction = inside.flux / total
    if own.fit.filter == reference.fit.filter:
        return Correction(fraction=fraction, fraction_reference=fraction, value=fraction / (fraction or NAN), error=0.0)
    (other,) = light_inside(components, reference.renderer, (weight,))
    ratio = other.flux / (inside.flux or NAN)
    variance = errors.variance_of(errors.in_base(other) - errors.in_base(inside))
    variance += sum(_kernel_variance(view, components, weight) for view in (own, reference))
    return Correction(
        fraction=fraction,
        fraction_reference=other.flux / total,
        value=ratio,
        error=float(abs(ratio) * np.sqrt(variance)),
    )


def _kernel_variance(view: View, components: Sequence[SersicParams], weight: Image) -> float:
    """Variance of ln(light inside) from the errors of the kernel's parameters, one by one; unknown errors count 0."""
    kernel = view.fit.kernel
    plain = float((view.renderer.render_params(components) * weight).sum())
    variance, at_bound = 0.0, Kernel(kernel.family, kernel.values).at_bound()
    for k, error in enumerate(kernel.errors):
        if not (np.isfinite(error) and error > 0.0) or plain == 0.0:
            continue
        values = list(kernel.values)
        # at the end of the range the step goes down
        values[k] += -min(error, values[k]) if at_bound else error
        moved = view.renderer.with_psf(view.psf.with_kernel(Kernel(kernel.family, tuple(values))))
        variance += (float((moved.render_params(components) * weight).sum()) / plain - 1.0) ** 2
    return variance


def _share_shape(fit: FilterFit, base: FilterFit) -> bool:
    """Whether two models have the same shapes, up to a displacement and their fluxes, or one is told by the other's."""
    pairs = zip(fit.components, base.components, strict=False)
    return len(fit.components) == len(base.components) and (
        FitFlag.SHAPE_WEIGHED in fit.flags
        or all(np.allclose(to_vector(c)[2:], to_vector(b)[2:], rtol=1e-6, atol=1e-9) for c, b in pairs)
    )


def _own_variance(fit: FilterFit, base: FilterFit) -> float:
    """Variance of ln(flux) at the base filter's shape, or in relation to it.

    Where a covariance of the shape is given with the fit, its total's error contains the base filter's relative error.
    """
    own = fit.model_variance
    if np.isfinite(np.diagonal(fit.covariance)[1]) and np.isfinite(base.model_variance):
        own -= base.model_variance
    return max(own, 0.0) if np.isfinite(own) else NAN

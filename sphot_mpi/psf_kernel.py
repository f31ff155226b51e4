"""Families of the kernel that blurs the library PSF into the field's PSF.

A family is known by its Fourier transform: normalised (1 at frequency 0),
real and symmetric, hence centred. Frequencies are in cycles per data pixel.

For fits a family has *coordinates*, in which the PSF is nearly linear. The first
is a size squared, px^2, the same for all families to within their shapes; a
second one, if any, is the kernel's shape at that size:

========  ============================================  ================================
family    size                                          shape
========  ============================================  ================================
gaussian  sigma^2
moffat    (half width at half maximum)^2                1 / beta, weight of the wings
drizzle   variance per axis, sigma^2 + width^2 / 12     width^4, its fourth cumulant x 120
========  ============================================  ================================
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import interpolate, special

from sphot_mpi.records import Array

HALF_WIDTH_PER_SIGMA = float(np.sqrt(2.0 * np.log(2.0)))

#: Below this size, px, a kernel's slopes are those at it: some families have none at no size.
_SMALLEST_SIZE = 0.05
#: Radii of a table, from this argument of the Bessel function on; smaller arrays are computed point by point.
_TABLE_SIZE, _TABLE_START = 800, 1e-6
#: Step of the central difference in 1 / beta.
_SHAPE_STEP = 1e-4


def _gaussian(fx: Array, fy: Array, values: tuple[float, ...]) -> Array:
    """Transform of a round Gaussian of standard deviation sigma."""
    (sigma,) = values
    # the product of two exponentials of vectors costs less than one of a matrix
    return np.exp(-2.0 * np.pi**2 * sigma**2 * fx**2) * np.exp(-2.0 * np.pi**2 * sigma**2 * fy**2)


def _gaussian_slopes(fx: Array, fy: Array, values: tuple[float, ...]) -> tuple[Array, ...]:
    """Logarithmic derivative by the variance, the same for every variance."""
    del values
    return (-2.0 * np.pi**2 * (fx**2 + fy**2),)


def _tabulated(function: Callable[[Array], Array], x: Array) -> Array:
    """Evaluate a function of x >= 0 that is smooth in ln x and 0 at 0, on a large array by cubic interpolation."""
    top = float(x.max(initial=0.0))
    out = np.zeros(x.shape)
    seen = x > _TABLE_START
    if x.size <= 2 * _TABLE_SIZE or top <= _TABLE_START:
        out[seen] = function(x[seen])
        return out
    log_x = np.linspace(np.log(_TABLE_START), np.log(top) + 1e-9, _TABLE_SIZE)
    out[seen] = interpolate.CubicSpline(log_x, function(np.exp(log_x)))(np.log(x[seen]))
    return out


def _moffat_log(x: Array, beta: float) -> Array:
    r"""Logarithm of the transform of a Moffat profile, ``(1 + r^2/gamma^2)^-beta``.

    Its Hankel transform is :math:`2 (x/2)^\nu K_\nu(x) / \Gamma(\nu)` with
    :math:`x = 2\pi f\gamma` and :math:`\nu = \beta - 1` (Gradshteyn & Ryzhik 6.565.4).
    """
    nu = beta - 1.0
    log_scale = nu * np.log(x / 2.0) - special.gammaln(nu) + np.log(2.0) - x
    return np.asarray(log_scale + np.log(special.kve(nu, x)))


def _moffat_gamma(half_width: float, inverse_beta: float) -> float:
    return half_width / float(np.sqrt(2.0**inverse_beta - 1.0))


def _moffat(fx: Array, fy: Array, values: tuple[float, ...]) -> Array:
    """Transform of a Moffat profile of core radius gamma and exponent beta."""
    gamma, beta = values
    x = 2.0 * np.pi * gamma * np.hypot(fx, fy)
    return np.exp(_tabulated(lambda part: _moffat_log(part, beta), x))


def _moffat_slopes(fx: Array, fy: Array, values: tuple[float, ...]) -> tuple[Array, ...]:
    r"""Logarithmic derivatives by size and shape.

    By the size it is :math:`-x K_{\nu-1}(x) / K_\nu(x)` (Gradshteyn & Ryzhik 8.486.12) over twice the size; Bessel
    functions have no closed derivative by their order, hence a central difference there.
    """
    size, shape = _moffat_coordinates(values)
    half_width = max(float(np.sqrt(size)), _SMALLEST_SIZE)
    f = np.hypot(fx, fy)
    nu = 1.0 / shape - 1.0
    scale = 2.0 * np.pi * _moffat_gamma(half_width, shape)
    by_log_x = _tabulated(lambda x: -x * special.kve(nu - 1.0, x) / special.kve(nu, x), scale * f)

    def shape_difference(x: Array) -> Array:
        high, low = (
            _moffat_log(x * _moffat_gamma(half_width, p) / _moffat_gamma(half_width, shape), 1.0 / p)
            for p in (shape + _SHAPE_STEP, shape - _SHAPE_STEP)
        )
        return (high - low) / (2.0 * _SHAPE_STEP)

    return by_log_x / (2.0 * half_width**2), _tabulated(shape_difference, scale * f)


def _moffat_coordinates(values: tuple[float, ...]) -> tuple[float, ...]:
    gamma, beta = values
    return gamma**2 * (2.0 ** (1.0 / beta) - 1.0), 1.0 / beta


def _moffat_values(coordinates: tuple[float, ...]) -> tuple[float, ...]:
    size, shape = coordinates
    return _moffat_gamma(float(np.sqrt(size)), shape), 1.0 / shape


def _drizzle(fx: Array, fy: Array, values: tuple[float, ...]) -> Array:
    """Transform of a square top-hat of the given width convolved with a Gaussian."""
    width, sigma = values
    return np.sinc(width * fx) * np.sinc(width * fy) * _gaussian(fx, fy, (sigma,))


def _drizzle_slopes(fx: Array, fy: Array, values: tuple[float, ...]) -> tuple[Array, ...]:
    """Logarithmic derivatives by size and shape.

    With z = pi width f, ln sinc has the derivative (z cot z - 1) / width by the width, and -z^2 / 3 of that is
    what the variance already knows.
    """
    width = max(values[0], _SMALLEST_SIZE)

    def along(f: Array) -> Array:
        z = np.pi * width * f
        near = np.abs(z) < 0.1
        safe = np.where(near, 1.0, z)
        series = -(z**4) * (1.0 / 45.0 + z**2 * (2.0 / 945.0 + z**2 / 4725.0))
        return np.where(near, series, safe / np.tan(safe) - 1.0 + safe**2 / 3.0) / (4.0 * width**4)

    return (*_gaussian_slopes(fx, fy, ()), along(fx) + along(fy))


def _drizzle_coordinates(values: tuple[float, ...]) -> tuple[float, ...]:
    width, sigma = values
    return sigma**2 + width**2 / 12.0, width**4


def _drizzle_values(coordinates: tuple[float, ...]) -> tuple[float, ...]:
    # a top-hat cannot be wider than the whole kernel
    width2 = min(float(np.sqrt(coordinates[1])), 12.0 * coordinates[0])
    return float(np.sqrt(width2)), float(np.sqrt(max(coordinates[0] - width2 / 12.0, 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFamily:
    """A family: its parameters, its Fourier transform, and the coordinates in which it is fitted.

    Parameters
    ----------
    name : str
        Its name in configuration and results.
    parameter_names : tuple of str
        What a kernel's `values` are.
    transform : callable
        (fx, fy, values) to the Fourier transform.
    slopes : callable
        (fx, fy, values) to the logarithmic derivatives of the transform by each coordinate.
    to_coordinates, to_values : callable
        From values to coordinates, and back for coordinates within their range.
    ranges : tuple of (float, float)
        Range of each coordinate. A size of 0 is no blur.
    steps : tuple of float
        Longest step of each coordinate in one solve; beyond it the PSF is not linear.
    prior : (float, float) or None
        Mean and standard deviation of the shape: where the data do not tell it, it stays within them.
    size_per_variance : float
        Size of the member that is as wide as a Gaussian of variance 1 px^2.
    shape_tolerance : float
        Change of the shape that counts as little as one of 0.003 px in the width.
    """

    name: str
    parameter_names: tuple[str, ...]
    transform: Callable[[Array, Array, tuple[float, ...]], Array]
    slopes: Callable[[Array, Array, tuple[float, ...]], tuple[Array, ...]]
    to_coordinates: Callable[[tuple[float, ...]], tuple[float, ...]]
    to_values: Callable[[tuple[float, ...]], tuple[float, ...]]
    ranges: tuple[tuple[float, float], ...]
    steps: tuple[float, ...]
    prior: tuple[float, float] | None = None
    size_per_variance: float = 1.0
    shape_tolerance: float = 0.0

    def within(self, coordinates: Array) -> Array:
        """Coordinates clipped to their ranges."""
        low, high = np.array(self.ranges).T
        return np.asarray(np.clip(coordinates, low, high))


FAMILIES: dict[str, KernelFamily] = {
    family.name: family
    for family in (
        KernelFamily(
            name="gaussian",
            parameter_names=("sigma",),
            transform=_gaussian,
            slopes=_gaussian_slopes,
            to_coordinates=lambda values: (values[0] ** 2,),
            to_values=lambda coordinates: (float(np.sqrt(coordinates[0])),),
            ranges=((0.0, 16.0),),
            steps=(1.5,),
        ),
        KernelFamily(
            name="moffat",
            parameter_names=("gamma", "beta"),
            transform=_moffat,
            slopes=_moffat_slopes,
            to_coordinates=_moffat_coordinates,
            to_values=_moffat_values,
            ranges=((0.0, 22.0), (1.0 / 12.0, 1.0 / 1.6)),
            steps=(2.0, 0.1),
            prior=(1.0 / 3.0, 0.15),
            size_per_variance=HALF_WIDTH_PER_SIGMA**2,
            shape_tolerance=0.003,
        ),
        KernelFamily(
            name="drizzle",
            parameter_names=("width", "sigma"),
            transform=_drizzle,
            slopes=_drizzle_slopes,
            to_coordinates=_drizzle_coordinates,
            to_values=_drizzle_values,
            ranges=((0.0, 16.0), (0.0, 256.0)),
            steps=(1.5, 16.0),
            prior=(1.0, 20.0),
            shape_tolerance=0.2,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One member of a family; parameters in px."""

    family: str = "gaussian"
    values: tuple[float, ...] = (0.0,)

    @classmethod
    def from_coordinates(cls, family: str, coordinates: NDArray[np.floating]) -> "Kernel":
        """Member of a family at the given coordinates, which are clipped to their ranges."""
        spec = FAMILIES[family]
        inside = spec.within(np.asarray(coordinates, dtype=np.float64))
        return cls(family, spec.to_values(tuple(float(u) for u in inside)))

    @classmethod
    def of_width(cls, family: str, sigma: float) -> "Kernel":
        """Member of a family, of its most usual shape, that is as wide as a Gaussian of `sigma` px."""
        spec = FAMILIES[family]
        if len(spec.ranges) == 1:
            return cls(family, (sigma,))
        assert spec.prior is not None
        return cls.from_coordinates(family, np.array([spec.size_per_variance * sigma**2, spec.prior[0]]))

    def transform(self, fx: Array, fy: Array) -> Array:
        """Fourier transform at frequencies `fx`, `fy` (cycles per px, broadcast)."""
        return FAMILIES[self.family].transform(fx, fy, self.values)

    def slopes(self, fx: Array, fy: Array) -> tuple[Array, ...]:
        """Derivatives of the transform's logarithm by each coordinate, at frequencies `fx`, `fy`."""
        return FAMILIES[self.family].slopes(fx, fy, self.values)

    @property
    def coordinates(self) -> Array:
        """Where the kernel stands in its family's coordinates."""
        return np.array(FAMILIES[self.family].to_coordinates(self.values))

    @property
    def width(self) -> float:
        """Sigma, px, of the Gaussian that is as wide."""
        if self.family == "gaussian":
            return self.values[0]
        return float(np.sqrt(self.coordinates[0] / FAMILIES[self.family].size_per_variance))

    def errors(self, covariance: NDArray[np.floating]) -> tuple[float, ...]:
        """Errors of the values from the covariance of the coordinates.

        A width of zero has no derivative by its square: for a Gaussian the error is then that of the root, else half
        of the difference between the kernels on both sides along each principal axis.
        """
        if self.family == "gaussian":
            sigma, spread = self.values[0], float(np.sqrt(covariance[0, 0]))
            return (spread / (2.0 * sigma) if sigma**2 > spread else float(np.sqrt(spread)),)
        variances, axes = np.linalg.eigh(covariance)
        total = np.zeros(len(self.values))
        for axis in (axes * np.sqrt(np.maximum(variances, 0.0))).T:
            ahead, behind = (
                np.array(Kernel.from_coordinates(self.family, self.coordinates + sign * axis).values)
                for sign in (1.0, -1.0)
            )
            total += (0.5 * (ahead - behind)) ** 2
        return tuple(float(error) for error in np.sqrt(total))

    def at_bound(self) -> bool:
        """Whether a coordinate lies within 1 % of its range of a bound; no blur at all is none."""
        return any(
            value >= high - 0.01 * (high - low) or (low > 0.0 and value <= low + 0.01 * (high - low))
            for value, (low, high) in zip(self.coordinates, FAMILIES[self.family].ranges, strict=True)
        )

    def differs(self, other: "Kernel", tolerance: float) -> bool:
        """Whether another kernel is of another family, its width by more than `tolerance` px or its shape another."""
        if self.family != other.family or abs(self.width - other.width) > tolerance:
            return True
        change = np.abs(self.coordinates[1:] - other.coordinates[1:])
        return bool((change > FAMILIES[self.family].shape_tolerance * tolerance / 0.003).any())


def kernel_distance(first: Kernel, second: Kernel, extent: float = 0.5, samples: int = 33) -> float:
    """RMS difference of two kernels over the RMS of the first, of all that a pixel grid can show of them.

    Parameters
    ----------
    first, second : Kernel
        Of any families.
    extent : float
        Highest frequency along each axis, cycles per px.
    samples : int
        Frequencies along each axis.
    """
    # by Parseval's theorem the images' difference is that of the transforms
    f = np.linspace(-extent, extent, samples)
    images = [kernel.transform(f[None, :], f[:, None]) for kernel in (first, second)]
    return float(np.sqrt(((images[0] - images[1]) ** 2).mean() / (images[0] ** 2).mean()))

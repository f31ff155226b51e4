"""Families of the kernel that blurs the library PSF into the field's PSF.

A family is known by its Fourier transform: normalised (1 at frequency 0),
real and symmetric, hence centred. Frequencies are in cycles per data pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]


def _gaussian(fx: Array, fy: Array, values: tuple[float, ...]) -> Array:
    """Transform of a round Gaussian of standard deviation sigma."""
    (sigma,) = values
    # the product of two exponentials of vectors costs less than one of a matrix
    return np.exp(-2.0 * np.pi**2 * sigma**2 * fx**2) * np.exp(-2.0 * np.pi**2 * sigma**2 * fy**2)


def _moffat(fx: Array, fy: Array, values: tuple[float, ...]) -> Array:
    r"""Transform of a Moffat profile, ``(1 + r^2/gamma^2)^-beta``.

    Its Hankel transform is :math:`2 (x/2)^\nu K_\nu(x) / \Gamma(\nu)` with
    :math:`x = 2\pi f\gamma` and :math:`\nu = \beta - 1` (Gradshteyn & Ryzhik 6.565.4).
    """
    gamma, beta = values
    x = 2.0 * np.pi * gamma * np.hypot(fx, fy)
    nu = beta - 1.0
    safe = np.where(x > 1e-9, x, 1.0)
    log_scale = nu * np.log(safe / 2.0) - special.gammaln(nu) + np.log(2.0) - safe
    return np.where(x > 1e-9, np.exp(log_scale) * special.kve(nu, safe), 1.0)


def _drizzle(fx: Array, fy: Array, values: tuple[float, ...]) -> Array:
    """Transform of a square top-hat of the given width convolved with a Gaussian."""
    width, sigma = values
    return np.sinc(width * fx) * np.sinc(width * fy) * _gaussian(fx, fy, (sigma,))


@dataclass(frozen=True, slots=True)
class KernelFamily:
    """A family: its parameters, their range and its Fourier transform."""

    name: str
    parameter_names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    start: tuple[float, ...]
    transform: Callable[[Array, Array, tuple[float, ...]], Array]


FAMILIES: dict[str, KernelFamily] = {
    family.name: family
    for family in (
        KernelFamily("gaussian", ("sigma",), (0.0,), (4.0,), (1.0,), _gaussian),
        KernelFamily("moffat", ("gamma", "beta"), (0.1, 1.6), (8.0, 12.0), (1.5, 3.0), _moffat),
        KernelFamily("drizzle", ("width", "sigma"), (0.0, 0.0), (4.0, 4.0), (1.0, 0.7), _drizzle),
    )
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One member of a family; parameters in px."""

    family: str = "gaussian"
    values: tuple[float, ...] = (0.0,)

    def transform(self, fx: Array, fy: Array) -> Array:
        """Fourier transform at frequencies `fx`, `fy` (cycles per px, broadcast)."""
        return FAMILIES[self.family].transform(fx, fy, self.values)

    def variance(self) -> float:
        """Square of a Gaussian kernel's sigma, px^2: the parameter in which the PSF is nearly linear.

        Raises
        ------
        ValueError
            If the family is not "gaussian".
        """
        if self.family != "gaussian":
            msg = f"only a gaussian kernel is described by its variance, not a {self.family!r} one"
            raise ValueError(msg)
        return self.values[0] ** 2


def gaussian_factor(fx: Array, fy: Array) -> Array:
    """Logarithmic derivative of a Gaussian kernel's transform by its variance."""
    return -2.0 * np.pi**2 * (fx**2 + fy**2)

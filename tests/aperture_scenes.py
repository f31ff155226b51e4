"""Noise-free galaxies with their fits, as aperture photometry takes them, and what is known of them in closed form."""

from dataclasses import replace
from functools import cache

import numpy as np
from scipy import optimize, special

from sphot_mpi.flags import FitFlag
from sphot_mpi.pipeline import no_data, photometry
from sphot_mpi.psf import PSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Cutout, KernelFit, SersicParams, SkyPlane
from sphot_mpi.sersic import SersicRenderer, b_n, total_flux


def galaxy(n=1.0, r_eff=12.0, ellip=0.0, theta=0.0, centre=(80.3, 79.6), flux=1000.0):
    """A component of this total flux."""
    unit = SersicParams(amplitude=1.0, r_eff=r_eff, n=n, x_0=centre[0], y_0=centre[1], ellip=ellip, theta=theta)
    return replace(unit, amplitude=flux / total_flux(unit))


def scene(components, library, name="F150W", *, shape=(161, 163), kernel=0.0, error=1e-3, extra=0.0, image=None):
    """Fit, cutout and library of a galaxy on an empty sky, without noise; `extra` is added to the data."""
    components = (components,) if isinstance(components, SersicParams) else tuple(components)
    psf = PSF(library, Kernel("gaussian", (kernel,)))
    image = SersicRenderer(psf, shape).render_params(components) if image is None else image
    cutout = Cutout(
        galaxy="g", filter=name, data=image + extra, error=np.full(shape, error), mask=np.zeros(shape, dtype=bool),
        full_shape=shape,
    )  # fmt: skip
    flux = sum(total_flux(c) for c in components)
    fit = replace(
        no_data(cutout),
        flags=FitFlag(0),
        components=components,
        covariance=np.zeros((7 * len(components),) * 2),
        total_flux=flux,
        total_flux_err=0.0,
        flux_in_cutout=float(image.sum()),
        sky=SkyPlane(),
        sky_covariance=np.zeros((3, 3)),
        kernel=KernelFit(values=(kernel,), errors=(0.0,), fwhm=psf.fwhm),
        noise=error,
        masked_fraction=0.0,
    )
    return fit, cutout, library


def measured(scenes, config):
    """Photometry of (fit, cutout, library) scenes, by filter."""
    fits, cutouts, libraries = ({s[0].filter: s[k] for s in scenes} for k in range(3))
    return {record.filter: record for record in photometry(fits, cutouts, libraries, config)}


class RoundProfile:
    """A round Sersic of unit flux under a Gaussian PSF of `sigma` px: light inside a radius, by quadrature.

    The light inside a circle of a convolved profile is the profile's mean of the PSF's light inside the circle about
    each of its points, which is a non-central chi-squared probability.
    """

    def __init__(self, n, r_eff, sigma):
        # points of equal light, dense where the light is
        part = (np.arange(4000) + 0.5) / 4000
        self.points = r_eff * (special.gammaincinv(2.0 * n, part) / b_n(n)) ** n
        self.sigma = sigma

    @cache  # noqa: B019
    def inside(self, radius):
        near = np.minimum(self.points, radius + 30.0 * self.sigma)  # beyond, the probability is zero
        return float(special.chndtr((radius / self.sigma) ** 2, 2.0, (near / self.sigma) ** 2).mean())

    def index(self, radius):
        """Petrosian index: half the logarithmic slope of the light inside."""
        step = 1e-3
        slope = np.log(self.inside(radius * np.exp(step)) / self.inside(radius * np.exp(-step))) / (2.0 * step)
        return 0.5 * slope

    def petrosian_radius(self, index):
        return optimize.brentq(lambda r: self.index(r) - index, 0.3, 300.0, rtol=1e-6)

    def radius_holding(self, light):
        return optimize.brentq(lambda r: self.inside(r) - light, 1e-3, 1000.0, rtol=1e-6)

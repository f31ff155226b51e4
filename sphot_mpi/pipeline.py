"""Dispatch: one galaxy, one filter, by the configured method.

What only some campaigns need (photutils and half of scipy come with it) is imported when it is asked for: a thousand
ranks read it from one file system before the first of them fits.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from sphot_mpi.config import Config
from sphot_mpi.flags import FitFlag
from sphot_mpi.joint_pipeline import fit_base_joint, fit_scaled_joint
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import SOURCE_DTYPE, Cutout, FilterFit, KernelFit, SkyPlane
from sphot_mpi.sersic_profile import elliptical_radius

FEW_PIXELS_FRACTION, UNCOVERED_FRACTION, HIGH_CHI2 = 0.25, 0.5, 2.0


def fit_base(cutout: Cutout, library: LibraryPSF, config: Config) -> FilterFit:
    """Fit the base filter of a galaxy.

    Parameters
    ----------
    cutout : Cutout
        Its cropped image.
    library : LibraryPSF
        Its PSF.
    config : Config
        The configuration; ``psf.method`` chooses the pipeline.

    Returns
    -------
    FilterFit
        With flag NO_DATA and NaN numbers if no pixel is usable.

    Raises
    ------
    FitError
        If the fit could not be done.
    """
    if cutout.mask.all():
        return no_data(cutout)
    if config.psf.method == "joint":
        return flagged(fit_base_joint(cutout, library, config), cutout)
    from sphot_mpi.seed_pipeline import fit_base_seed

    return flagged(fit_base_seed(cutout, library, config), cutout)


def fit_scaled(cutout: Cutout, library: LibraryPSF, base: FilterFit, base_cutout: Cutout, config: Config) -> FilterFit:
    """Fit another filter with the shape of the base filter's galaxy.

    Parameters
    ----------
    cutout : Cutout
        Cropped image of this filter.
    library : LibraryPSF
        Its PSF.
    base : FilterFit
        Result of the base filter.
    base_cutout : Cutout
        Cropped image of the base filter.
    config : Config
        The configuration.

    Returns
    -------
    FilterFit
        With flag NO_DATA and NaN numbers if no pixel is usable.

    Raises
    ------
    FitError
        If the base filter has no galaxy, or the fit could not be done.
    """
    if cutout.mask.all():
        return no_data(cutout)
    if config.psf.method == "joint":
        return flagged(fit_scaled_joint(cutout, library, base, base_cutout, config), cutout)
    from sphot_mpi.seed_pipeline import fit_scaled_seed

    return flagged(fit_scaled_seed(cutout, library, base, base_cutout, config), cutout)


def photometry(
    fits: Mapping[str, FilterFit],
    cutouts: Mapping[str, Cutout],
    libraries: Mapping[str, LibraryPSF],
    config: Config,
) -> tuple[AperturePhotometry, ...]:
    """Measure all fitted filters of a galaxy in one common aperture.

    Parameters
    ----------
    fits : mapping of str to FilterFit
        The galaxy's fits by filter; filters whose fit failed are left out.
    cutouts : mapping of str to Cutout
        The cutouts that were fitted, of the same filters.
    libraries : mapping of str to LibraryPSF
        Library PSFs of the same filters.
    config : Config
        The galaxy's configuration; section aperture rules, core.base_filter is the second choice of a base.

    Returns
    -------
    tuple of AperturePhotometry
        One for each of `fits`, in its order.

    Raises
    ------
    FitError
        If the aperture that the configuration asks for is far larger than the cutout.
    """
    from sphot_mpi.aperture import measure_galaxy

    return measure_galaxy(fits, cutouts, libraries, config)


def no_data(cutout: Cutout) -> FilterFit:
    """Return the result of a filter without a usable pixel: flag NO_DATA, numbers NaN."""
    nan = float("nan")
    return FilterFit(
        galaxy=cutout.galaxy,
        filter=cutout.filter,
        components=(),
        covariance=np.full((7, 7), nan),
        total_flux=nan,
        total_flux_err=nan,
        flux_in_cutout=nan,
        sky=SkyPlane(level=nan, slope_x=nan, slope_y=nan),
        sky_covariance=np.full((3, 3), nan),
        sources=np.zeros(0, dtype=SOURCE_DTYPE),
        report=np.zeros(0, dtype=bool),
        kernel=KernelFit(values=(nan,)),
        masked_fraction=1.0,
        flags=FitFlag.NO_DATA,
    )


def flagged(fit: FilterFit, cutout: Cutout) -> FilterFit:
    """Add the flags that do not depend on how the fit was done.

    Parameters
    ----------
    fit : FilterFit
        A fit.
    cutout : Cutout
        What was fitted.

    Returns
    -------
    FilterFit
        With FEW_PIXELS, CENTRE_UNCOVERED, HIGH_CHI2 and ERROR_ESTIMATED where they apply.
    """
    good = ~cutout.mask
    flags = fit.flags
    if good.mean() < FEW_PIXELS_FRACTION:
        flags |= FitFlag.FEW_PIXELS
    if fit.components and _coverage(fit, cutout) < UNCOVERED_FRACTION:
        flags |= FitFlag.CENTRE_UNCOVERED
    if fit.chi2_reduced > HIGH_CHI2:
        flags |= FitFlag.HIGH_CHI2
    if cutout.error is None:
        flags |= FitFlag.ERROR_ESTIMATED
    return replace(fit, flags=flags)


def _coverage(fit: FilterFit, cutout: Cutout) -> float:
    """Usable fraction of the pixels within r_eff of the first component; pixels off the image count as unusable."""
    galaxy = fit.components[0]
    margin = int(np.ceil(min(galaxy.r_eff, 2.0 * max(cutout.shape))))
    usable = np.pad(~cutout.mask, margin)
    inside = elliptical_radius(usable.shape, replace(galaxy, x_0=galaxy.x_0 + margin, y_0=galaxy.y_0 + margin))
    within = inside <= max(galaxy.r_eff, 1.0)
    return float(usable[within].mean()) if within.any() else 0.0

"""The record of aperture photometry: one a galaxy and filter."""

from dataclasses import dataclass, field

import numpy as np

from sphot_mpi.flags import ApertureFlag
from sphot_mpi.records import Image

NAN = float("nan")

#: Radii of a stored curve, and its rows.
CURVE_SIZE = 48
CURVE_ROWS = ("radius", "flux", "index", "model_flux")


def no_curve() -> Image:
    """Return the curve of a filter that could not be measured: all NaN."""
    return np.full((len(CURVE_ROWS), CURVE_SIZE), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AperturePhotometry:
    """Light of one galaxy in one filter inside the aperture that all its filters share.

    Fluxes are in data unit * px, above the sky; a magnitude is AB and NaN where the flux is not positive or the unit
    is no surface brightness. Whatever is unknown is NaN.

    Parameters
    ----------
    galaxy, filter : str
        Whose light it is.
    flags : ApertureFlag
        What was noteworthy.
    unit : str
        Unit of the data.
    pixel_scale : float
        Pixel size, arcsec.
    origin : (int, int)
        (x, y) in the full image of the cutout's pixel (0, 0).
    x, y : float
        Centre of the aperture in the cutout's pixel frame: the base filter's, displaced by this filter's shift.
    radius : float
        Semi-major axis of the aperture, px; the same in all filters, as are `ellip` and `theta`.
    ellip : float
        1 - b/a.
    theta : float
        Angle of the major axis, rad, counter-clockwise from +x.
    area : float
        Area of the aperture, px.
    filled_fraction : float
        Part of the aperture's area without data, filled by the annulus median or the model.
    flux, flux_err : float
        Light in the aperture as measured, and its error: noise, sky and stars in quadrature.
    flux_err_noise : float
        Part of the error from the pixels' noise.
    flux_err_sky : float
        Part from the sky: error of its level, and the scatter of empty apertures beyond the noise.
    flux_err_stars : float
        Part from the stars: errors of their fluxes, or the shot noise of those that the field's mean stands for.
    snr : float
        flux / flux_err.
    sky, sky_err : float
        Level of the residual sky, which is taken off besides the fit's sky plane, and its error; data unit.
    sky_scatter : float
        Scatter of the sum over an empty aperture of this area, data unit * px.
    n_sky : int
        Empty apertures from which it comes.
    fraction : float
        Part of the model galaxy's total light that the aperture encloses, as seen through this filter's PSF.
    fraction_reference : float
        The same through the PSF of the reference filter.
    correction, correction_err : float
        fraction_reference / fraction and its error, from shape and kernel.
    flux_corr, flux_corr_err : float
        flux * correction: the light that the reference filter's PSF would leave in the aperture.
    mag_raw, mag_raw_err, mag_corr, mag_corr_err : float
        Magnitudes of flux and flux_corr.
    colour, colour_err : float
        mag_corr minus that of the base filter; stars that both filters leave to the field's mean change both fluxes,
        and only the difference counts in the error.
    petro_radius : float
        Semi-major axis at which this filter's own Petrosian index falls to ``aperture.petro``, px.
    r20, r50, r80 : float
        Semi-major axes that hold 20, 50 and 80 % of this filter's light within 1.5 x the radius of index 0.2, px.
    concentration : float
        5 lg (r80 / r20).
    total_flux, total_flux_err, mag_total, mag_total_err : float
        Analytic total of the model galaxy.
    cutout_flux, cutout_flux_err : float
        The model galaxy's light inside the cutout.
    model_flux, model_flux_err : float
        The model galaxy's light inside the aperture, as seen through this filter's PSF.
    colour_total, colour_total_err : float
        mag_total minus that of the base filter; the error of the common shape cancels.
    curve : (4, 48) float64 ndarray
        Rows of `CURVE_ROWS`: semi-major axis (px), measured light inside it, Petrosian index, model light inside it.
    """

    galaxy: str
    filter: str
    flags: ApertureFlag
    unit: str
    pixel_scale: float
    origin: tuple[int, int] = (0, 0)
    x: float = NAN
    y: float = NAN
    radius: float = NAN
    ellip: float = NAN
    theta: float = NAN
    area: float = NAN
    filled_fraction: float = NAN
    flux: float = NAN
    flux_err: float = NAN
    flux_err_noise: float = NAN
    flux_err_sky: float = NAN
    flux_err_stars: float = NAN
    snr: float = NAN
    sky: float = NAN
    sky_err: float = NAN
    sky_scatter: float = NAN
    n_sky: int = 0
    fraction: float = NAN
    fraction_reference: float = NAN
    correction: float = NAN
    correction_err: float = NAN
    flux_corr: float = NAN
    flux_corr_err: float = NAN
    mag_raw: float = NAN
    mag_raw_err: float = NAN
    mag_corr: float = NAN
    mag_corr_err: float = NAN
    colour: float = NAN
    colour_err: float = NAN
    petro_radius: float = NAN
    r20: float = NAN
    r50: float = NAN
    r80: float = NAN
    concentration: float = NAN
    total_flux: float = NAN
    total_flux_err: float = NAN
    mag_total: float = NAN
    mag_total_err: float = NAN
    cutout_flux: float = NAN
    cutout_flux_err: float = NAN
    model_flux: float = NAN
    model_flux_err: float = NAN
    colour_total: float = NAN
    colour_total_err: float = NAN
    curve: Image = field(default_factory=no_curve)

"""AB magnitudes of fluxes in surface brightness times pixels."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: The unit in which every surface brightness is fitted, where it can be converted.
BRIGHTNESS_UNIT = "MJy/sr"

#: Magnitudes per unit of ln(flux).
MAG_PER_LN = 2.5 / np.log(10.0)


def pixel_area_sr(pixel_scale: float) -> float:
    """Solid angle of a pixel of `pixel_scale` arcsec, sr."""
    return float(np.deg2rad(pixel_scale / 3600.0) ** 2)


def ab_magnitude(
    flux: ArrayLike, flux_err: ArrayLike, unit: str, pixel_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AB magnitudes of total fluxes, with errors.

    ``m = -2.5 log10(flux * area * 1e6 / 3631)``, with `flux` in MJy/sr px, the
    pixel's area in sr, and 3631 Jy the zero point of the AB system (Oke & Gunn 1983).

    Parameters
    ----------
    flux, flux_err : float64 ndarray
        In data unit * px.
    unit : str
        Data unit.
    pixel_scale : float
        Arcsec.

    Returns
    -------
    magnitude, error : float64 ndarray
        NaN where the flux is not positive, or where the unit is not MJy/sr.
    """
    flux = np.asarray(flux, dtype=np.float64)
    if unit != BRIGHTNESS_UNIT:
        return np.full(flux.shape, np.nan), np.full(flux.shape, np.nan)
    positive = np.where(flux > 0.0, flux, np.nan)
    jansky = positive * pixel_area_sr(pixel_scale) * 1e6
    return -2.5 * np.log10(jansky / 3631.0), MAG_PER_LN * np.asarray(flux_err) / positive

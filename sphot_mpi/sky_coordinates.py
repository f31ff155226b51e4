"""World coordinates and units of the input images: FITS WCS text in, plain numbers out."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from sphot_mpi.magnitudes import pixel_area_sr


def parse_wcs(text: str) -> WCS:
    """Return the celestial WCS of a FITS header's text.

    Parameters
    ----------
    text : str
        Cards of 80 characters one after another, or one card a line.

    Returns
    -------
    astropy.wcs.WCS
        With two celestial axes.

    Raises
    ------
    ValueError
        If the text holds no celestial WCS.
    """
    with _without_remarks():
        return _celestial(fits.Header.fromstring(text, sep="\n" if "\n" in text else ""))


def header_wcs(header: fits.Header) -> WCS | None:
    """Return the celestial WCS of a FITS header, or None where it has none."""
    if not any(str(header.get(f"CTYPE{axis}", "")).startswith(("RA--", "DEC-", "GLON", "GLAT")) for axis in (1, 2)):
        return None
    with _without_remarks():
        return _celestial(header)


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Keep astropy quiet: it mends old headers and says so; what it cannot mend raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def _celestial(header: fits.Header) -> WCS:
    wcs = WCS(header)
    if not wcs.has_celestial:
        msg = "no celestial coordinates in it"
        raise ValueError(msg)
    return wcs.celestial


def wcs_text(wcs: WCS) -> str:
    """Return a WCS as header text, one card a line."""
    return str(wcs.to_header(relax=True).tostring(sep="\n", endcard=False, padding=False))


def wcs_pixel_scale(wcs: WCS) -> float:
    """Return the pixel size, arcsec: the root of the pixel's area."""
    scales = proj_plane_pixel_scales(wcs) * 3600.0
    return float(np.sqrt(abs(scales[0] * scales[1])))


def pixel_to_sky(wcs: WCS, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination (deg, ICRS) of pixel positions counted from 0."""
    sky = wcs.pixel_to_world(x, y).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def position_angle(wcs: WCS, x: float, y: float, theta: float) -> float:
    """Position angle on the sky, deg east of north in [0, 180), of image angle `theta` (rad) at (x, y)."""
    if not (np.isfinite(x) and np.isfinite(y) and np.isfinite(theta)):
        return float("nan")
    here = wcs.pixel_to_world(x, y).icrs
    there = wcs.pixel_to_world(x + np.cos(theta), y + np.sin(theta)).icrs
    return float(here.position_angle(there).deg % 180.0)


def brightness_factor(unit: str, pixel_scale: float) -> float | None:
    """Return the factor that turns `unit` into MJy/sr, or None where there is none.

    Parameters
    ----------
    unit : str
        As astropy writes it; a flux density without an area is one per pixel.
    pixel_scale : float
        Arcsec.

    Returns
    -------
    float or None
        None for units that are no flux density, like counts.

    Raises
    ------
    ValueError
        If astropy does not know the unit.
    """
    given = u.Unit(unit)
    pixel = u.Unit(pixel_area_sr(pixel_scale) * u.sr)
    for candidate in (given, given * u.pix / pixel, given / pixel):
        if candidate.is_equivalent(u.MJy / u.sr):
            return float(candidate.to(u.MJy / u.sr))
    return None

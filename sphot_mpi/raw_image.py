"""From a file's arrays to a `Cutout`: the checks that every format shares."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sphot_mpi.errors import InputError
from sphot_mpi.magnitudes import BRIGHTNESS_UNIT
from sphot_mpi.records import Cutout, Image
from sphot_mpi.sky_coordinates import brightness_factor, parse_wcs, wcs_pixel_scale, wcs_text

#: Largest image that is read: 4096 x 4096 px, 128 MiB as float64.
MAX_PIXELS = 2**24
DEFAULT_PIXEL_SCALE = 0.03


class Pixels(Protocol):
    """An array in a file: shape and type are known before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""

    def __getitem__(self, key: Any) -> Any:
        """Read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawImage:
    """One filter's image as a file offers it; nothing read or checked yet.

    Parameters
    ----------
    path : Path
        File.
    filter : str
        Filter.
    data, error, mask : Pixels or None
        Arrays in the file.
    unit : str or None
        Unit of data and error; None: the default.
    pixel_scale : object
        What the file says, arcsec; None: from the WCS, or the default.
    wcs : str or None
        FITS header text.
    """

    path: Path
    filter: str
    data: Pixels
    error: Pixels | None
    mask: Pixels | None
    unit: str | None
    pixel_scale: Any
    wcs: str | None


def shown(value: object) -> str:
    """Return a value of a file as a message shows it, without the type that numpy gave it."""
    return repr(value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value)


def attribute_text(path: Path, name: str, attributes: Mapping[str, Any], key: str) -> str | None:
    """Return a text attribute, which may be stored as bytes; None where it is missing or empty."""
    value = attributes.get(key)
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if value is not None and not isinstance(value, str):
        msg = f"{path}: attribute {key!r} of {name!r} is {shown(value)}; it must be text."
        raise InputError(msg)
    return value or None


def check_shape(path: Path, label: str, pixels: Pixels) -> None:
    """Raise `InputError` unless this is a 2-D image of numbers and of bearable size."""
    shape = tuple(pixels.shape)
    if len(shape) != 2 or min(shape) < 1:
        msg = f"{path}: dataset {label!r} has shape {shape}; it must be a 2-D image."
        raise InputError(msg)
    if shape[0] * shape[1] > MAX_PIXELS:
        msg = f"{path}: dataset {label!r} has {shape[0]} x {shape[1]} px; cut out at most {MAX_PIXELS} px."
        raise InputError(msg)
    chunks = getattr(pixels, "chunks", None)  # of HDF5: read whole, however small the image is
    if chunks is not None and chunks[0] * chunks[1] > MAX_PIXELS:
        msg = f"{path}: dataset {label!r} has chunks of {chunks} px; store it in smaller ones."
        raise InputError(msg)
    if pixels.dtype.kind not in "fiub":
        msg = f"{path}: dataset {label!r} has type {pixels.dtype}; it must hold real numbers."
        raise InputError(msg)


def checked_pixels(path: Path, label: str, pixels: Pixels) -> Image:
    """Read an image as native, contiguous float64, after `check_shape`."""
    check_shape(path, label, pixels)
    try:
        values = pixels[()]
    except (OSError, ValueError, TypeError) as error:
        msg = f"{path}: the pixels of {label!r} cannot be read ({str(error).splitlines()[0]}); make the file anew."
        raise InputError(msg) from error
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What is known of an image before its pixels are read.

    Parameters
    ----------
    wcs : str
        Celestial WCS as header text; empty: none.
    pixel_scale : float
        Arcsec.
    unit : str
        Of the record.
    factor : float
        Turns the file's values into `unit`.
    """

    wcs: str
    pixel_scale: float
    unit: str
    factor: float


def read_header(raw: RawImage) -> Header:
    """Check all that can be checked without reading pixels.

    Parameters
    ----------
    raw : RawImage
        What the file offers.

    Returns
    -------
    Header
        Of this image.

    Raises
    ------
    InputError
        If arrays, unit, pixel scale or WCS cannot be used.
    """
    check_shape(raw.path, raw.filter, raw.data)
    shape = tuple(raw.data.shape)
    for part, pixels in (("error", raw.error), ("mask", raw.mask)):
        if pixels is None:
            continue
        check_shape(raw.path, f"{raw.filter} ({part})", pixels)
        if tuple(pixels.shape) != shape:
            msg = (
                f"{raw.path}: the {part} of {raw.filter!r} has shape {tuple(pixels.shape)} but its data {shape}; "
                "make them alike."
            )
            raise InputError(msg)
    wcs = _wcs(raw)
    pixel_scale = _pixel_scale(raw, wcs)
    unit, factor = _unit(raw, pixel_scale)
    return Header(wcs=wcs, pixel_scale=pixel_scale, unit=unit, factor=factor)


def build_cutout(raw: RawImage, galaxy: str) -> Cutout:
    """Read one filter's image and make the record of it.

    Parameters
    ----------
    raw : RawImage
        What the file offers.
    galaxy : str
        The galaxy's name.

    Returns
    -------
    Cutout
        Of the whole image; data NaN exactly where there is no data.

    Raises
    ------
    InputError
        If arrays, unit, pixel scale or WCS cannot be used.
    """
    header = read_header(raw)
    data = checked_pixels(raw.path, raw.filter, raw.data)
    blank = ~np.isfinite(data) | (data == 0.0)
    data[blank] = np.nan
    mask = blank
    error: Image | None = None
    if raw.error is not None:
        error = checked_pixels(raw.path, f"{raw.filter} (error)", raw.error)
        bad = ~(np.isfinite(error) & (error > 0.0))
        if (blank | bad).all() and not blank.all():
            msg = f"{raw.path}: the error of {raw.filter!r} is nowhere positive; give 1-sigma errors, or leave it out."
            raise InputError(msg)
        error[bad] = np.nan
        error *= header.factor
        mask = mask | bad
    if raw.mask is not None:
        mask = mask | (checked_pixels(raw.path, f"{raw.filter} (mask)", raw.mask) != 0.0)
    data *= header.factor
    return Cutout(
        galaxy=galaxy,
        filter=raw.filter,
        data=data,
        error=error,
        mask=mask,
        unit=header.unit,
        pixel_scale=header.pixel_scale,
        wcs=header.wcs,
        origin=(0, 0),
        full_shape=(data.shape[0], data.shape[1]),
    )


def _wcs(raw: RawImage) -> str:
    if raw.wcs is None:
        return ""
    try:
        return wcs_text(parse_wcs(raw.wcs))
    except (ValueError, OSError) as error:  # astropy.wcs raises subclasses of ValueError, astropy.io.fits OSError
        reason = " ".join(str(error).split())[:120]
        msg = f"{raw.path}: the WCS of {raw.filter!r} cannot be read ({reason}); correct or remove it."
        raise InputError(msg) from error


def _pixel_scale(raw: RawImage, wcs: str) -> float:
    if raw.pixel_scale is None:
        return wcs_pixel_scale(parse_wcs(wcs)) if wcs else DEFAULT_PIXEL_SCALE
    number = np.asarray(raw.pixel_scale)
    if number.size != 1 or number.dtype.kind not in "iuf" or not 1e-4 <= float(number.item()) <= 60.0:
        value = shown(raw.pixel_scale)
        msg = f"{raw.path}: pixel_scale of {raw.filter!r} is {value}; it must be 0.0001 to 60 arcsec."
        raise InputError(msg)
    return float(number.item())


def _unit(raw: RawImage, pixel_scale: float) -> tuple[str, float]:
    """Return the unit of the record, and the factor that turns the file's values into it."""
    given = raw.unit or BRIGHTNESS_UNIT
    try:
        factor = brightness_factor(given, pixel_scale)
    except (ValueError, TypeError):
        msg = f"{raw.path}: the unit {given!r} of {raw.filter!r} is not known; write it as {BRIGHTNESS_UNIT!r}."
        raise InputError(msg) from None
    return (given, 1.0) if factor is None else (BRIGHTNESS_UNIT, factor)

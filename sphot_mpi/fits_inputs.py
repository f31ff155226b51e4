"""Galaxy images from multi-extension FITS files."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from sphot_mpi.errors import InputError
from sphot_mpi.raw_image import RawImage
from sphot_mpi.sky_coordinates import header_wcs, wcs_text

_TYPES = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


class _Extension:
    """An image extension whose pixels are read on demand."""

    def __init__(self, path: Path, hdu: fits.ImageHDU) -> None:
        self._path = path
        self._hdu = hdu
        self.shape = tuple(int(n) for n in hdu.shape)
        self.dtype: np.dtype[Any] = np.dtype(_TYPES.get(int(hdu.header.get("BITPIX", -64)), "f8"))

    def __getitem__(self, key: Any) -> Any:
        try:
            return np.asarray(self._hdu.data)[key]
        except (OSError, ValueError, TypeError, IndexError) as error:
            msg = f"{self._path}: the pixels of extension {self._hdu.name!r} cannot be read; make the file anew."
            raise InputError(msg) from error


def iterate_fits(path: Path, filters: Sequence[str] | None) -> Iterator[RawImage]:
    """Yield the images of a FITS file.

    Parameters
    ----------
    path : Path
        File with an extension a filter: EXTNAME the filter, and optionally FILTER_ERR
        and FILTER_MASK.
    filters : sequence of str or None
        Filters wanted; None: all image extensions that are no error or mask.

    Yields
    ------
    RawImage
        One a filter.

    Raises
    ------
    InputError
        If this is not a FITS file, or a filter comes twice.
    """
    if not path.is_file():
        msg = f"{path}: there is no such file; correct the path."
        raise InputError(msg)
    try:
        with warnings.catch_warnings():
            # a truncated file makes astropy warn, and then fail on the pixels, which is reported there
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path, mode="readonly", memmap=False, lazy_load_hdus=False) as file:
                yield from _images(path, file, filters)
    except (OSError, ValueError, fits.VerifyError) as error:
        if isinstance(error, InputError):
            raise
        msg = f"{path}: this cannot be read as FITS ({str(error).splitlines()[0][:120]}); make the file anew."
        raise InputError(msg) from error


def _images(path: Path, file: fits.HDUList, filters: Sequence[str] | None) -> Iterator[RawImage]:
    images: dict[str, fits.ImageHDU] = {}
    for hdu in file:
        if not hdu.is_image or not hdu.name or not hdu.shape:
            continue
        name = str(hdu.name).upper()
        if name in images:
            msg = f"{path}: extension {name!r} is there twice; remove one."
            raise InputError(msg)
        images[name] = hdu
    wanted = [n for n in images if not n.endswith(("_ERR", "_MASK")) and n != "PRIMARY"] if filters is None else filters
    for name in wanted:
        hdu = images.get(name.upper())
        if hdu is None:
            continue
        error, mask = images.get(f"{name.upper()}_ERR"), images.get(f"{name.upper()}_MASK")
        yield RawImage(
            path=path,
            filter=name,
            data=_Extension(path, hdu),
            error=None if error is None else _Extension(path, error),
            mask=None if mask is None else _Extension(path, mask),
            unit=str(hdu.header.get("BUNIT", "")).strip() or None,
            pixel_scale=hdu.header.get("PIXSCALE"),
            wcs=_header_text(path, name, hdu.header),
        )


def _header_text(path: Path, name: str, header: fits.Header) -> str | None:
    try:
        wcs = header_wcs(header)
        return None if wcs is None else wcs_text(wcs)
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        msg = f"{path}: the WCS of {name!r} cannot be read ({reason}); correct or remove it."
        raise InputError(msg) from error

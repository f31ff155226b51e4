"""Read galaxy files and PSF libraries.

Nothing here trusts a file: sizes are checked before pixels are read, links out
of a file are refused, and every failure is one sentence with file and dataset.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sphot_mpi.errors import InputError, listed
from sphot_mpi.fits_inputs import iterate_fits
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.raw_image import RawImage, attribute_text, build_cutout, check_shape, checked_pixels, shown
from sphot_mpi.records import Cutout

FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.fz")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
MAX_OVERSAMPLE = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GalaxyImages:
    """What a galaxy's file holds of the filters that were asked for.

    Parameters
    ----------
    cutouts : dict of str to Cutout
        By filter, in the order asked for; those without a usable pixel included.
    missing : tuple of str
        Filters that the file does not have.
    empty : tuple of str
        Filters without a usable pixel.
    """

    cutouts: dict[str, Cutout]
    missing: tuple[str, ...]
    empty: tuple[str, ...]


def is_fits(path: Path) -> bool:
    """Whether the file's name is that of a FITS file."""
    return path.name.lower().endswith(FITS_SUFFIXES)


def is_hdf5(path: Path) -> bool:
    """Whether the file's name is that of an HDF5 file."""
    return path.name.lower().endswith(HDF5_SUFFIXES)


def read_galaxy(path: Path, name: str, filters: Sequence[str]) -> GalaxyImages:
    """Read a galaxy's images.

    Parameters
    ----------
    path : Path
        HDF5, with a 2-D dataset a filter or a group a filter (``data``, ``error``,
        ``mask``; attributes ``unit``, ``pixel_scale``, ``wcs``), or FITS with an
        extension a filter (``FILTER``, ``FILTER_ERR``, ``FILTER_MASK``).
    name : str
        The galaxy's name, for the records.
    filters : sequence of str
        Filters to read.

    Returns
    -------
    GalaxyImages
        Native float64, 0 and infinities turned into NaN, in MJy/sr where the unit
        can be converted.

    Raises
    ------
    InputError
        If the file or one of the images cannot be used.
    """
    cutouts: dict[str, Cutout] = {}
    for raw in iterate_galaxy(path, filters):
        cutouts[raw.filter] = build_cutout(raw, name)
    missing = tuple(f for f in filters if f not in cutouts)
    ordered = {f: cutouts[f] for f in filters if f in cutouts}
    empty = tuple(f for f, cutout in ordered.items() if cutout.mask.all())
    return GalaxyImages(cutouts=ordered, missing=missing, empty=empty)


def iterate_galaxy(path: Path, filters: Sequence[str]) -> Iterator[RawImage]:
    """Yield one raw image after another; its pixels are read only on demand."""
    yield from (iterate_fits(path, filters) if is_fits(path) else _iterate_hdf5(path, filters))


def list_filters(path: Path) -> tuple[str, ...]:
    """Names that could be filters in a galaxy file, sorted."""
    if is_fits(path):
        return tuple(sorted(raw.filter for raw in iterate_fits(path, None)))
    with open_hdf5(path) as file:
        return tuple(sorted(str(key) for key in file))


def contents(path: Path) -> str:
    """Return what a galaxy file holds, for a message."""
    names = list_filters(path)
    return f"it holds {listed(names)}" if names else "it is empty"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; what goes wrong is an `InputError`."""
    try:
        if not path.is_file():
            msg = f"{path}: there is no such file; correct the path."
            raise InputError(msg)
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        msg = f"{path}: this cannot be read as HDF5 ({str(error).splitlines()[0]}); make the file anew."
        raise InputError(msg) from error


def _inside(path: Path, parent: h5py.Group, name: str) -> h5py.Dataset | h5py.Group | None:
    """Return a member of a group, never one that lies in another file."""
    link = parent.get(name, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.ExternalLink):
        msg = f"{path}: {name!r} is a link into another file; copy the data into this one."
        raise InputError(msg)
    try:
        return parent[name]
    except KeyError:
        msg = f"{path}: {name!r} is a link that leads nowhere; remove it."
        raise InputError(msg) from None


def _dataset(path: Path, node: h5py.Dataset | h5py.Group, label: str) -> h5py.Dataset:
    if not isinstance(node, h5py.Dataset):
        msg = f"{path}: {label!r} is a group where a 2-D dataset is needed; store the pixels there."
        raise InputError(msg)
    if node.is_virtual or node.external:
        msg = f"{path}: dataset {label!r} keeps its pixels in other files; copy them into this one."
        raise InputError(msg)
    return node


def _iterate_hdf5(path: Path, filters: Iterable[str]) -> Iterator[RawImage]:
    with open_hdf5(path) as file:
        for name in filters:
            node = _inside(path, file, name)
            if node is None:
                continue
            parts: dict[str, h5py.Dataset] = {}
            if isinstance(node, h5py.Group):
                for part in ("data", "error", "mask"):
                    member = _inside(path, node, part)
                    if member is not None:
                        parts[part] = _dataset(path, member, f"{name}/{part}")
                if "data" not in parts:
                    msg = f"{path}: group {name!r} has no dataset 'data'; store the image under that name."
                    raise InputError(msg)
            else:
                parts["data"] = _dataset(path, node, name)
            attributes = {**dict(file.attrs), **dict(node.attrs), **dict(parts["data"].attrs)}
            yield RawImage(
                path=path,
                filter=name,
                data=parts["data"],
                error=parts.get("error"),
                mask=parts.get("mask"),
                unit=attribute_text(path, name, attributes, "unit"),
                pixel_scale=attributes.get("pixel_scale"),
                wcs=attribute_text(path, name, attributes, "wcs"),
            )


def read_libraries(
    path: Path, filters: Sequence[str], blur: Mapping[str, float] = MappingProxyType({})
) -> dict[str, LibraryPSF]:
    """Read the library PSFs of some filters.

    Parameters
    ----------
    path : Path
        HDF5: one 2-D dataset a filter; attribute ``oversample`` of the dataset or the
        root; optional attribute ``pixel_response`` (default true).
    filters : sequence of str
        Wanted; those that the file does not have are left out.
    blur : mapping of str to float
        Sigma (library px) of a Gaussian put on a filter's PSF first (``prep.blur_psf``).

    Returns
    -------
    dict of str to LibraryPSF
        By filter, of unit sum.

    Raises
    ------
    InputError
        If the file or one of its PSFs cannot be used.
    """
    libraries: dict[str, LibraryPSF] = {}
    with open_hdf5(path) as file:
        for name in filters:
            found = _psf_header(path, file, name)
            if found is None:
                continue
            dataset, oversample, pixel_response = found
            values = checked_pixels(path, name, dataset)
            if blur.get(name, 0.0) > 0.0:
                # the array grows, so that the blur pushes no light over its edge
                values = ndimage.gaussian_filter(np.pad(values, int(np.ceil(4.0 * blur[name]))), blur[name])
            try:
                libraries[name] = LibraryPSF.from_array(values, oversample, pixel_response=pixel_response)
            except InputError as error:
                msg = f"{path}: dataset {name!r}: {error}; make the PSF anew."
                raise InputError(msg) from error
    return libraries


def library_faults(path: Path) -> dict[str, str]:
    """Return what is wrong with the PSFs of a library, as far as their headers tell.

    Parameters
    ----------
    path : Path
        As for `read_libraries`.

    Returns
    -------
    dict of str to str
        By filter a sentence; empty: nothing is wrong.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    faults: dict[str, str] = {}
    with open_hdf5(path) as file:
        for name in map(str, file):
            try:
                _psf_header(path, file, name)
                faults[name] = ""
            except InputError as error:
                faults[name] = str(error)
    return faults


def is_psf(path: Path, file: h5py.File, name: str) -> bool:
    """Whether an open file holds a PSF of this name that could be used; a galaxy's image has no oversampling."""
    try:
        return _psf_header(path, file, name) is not None
    except InputError:
        return False


def _psf_header(path: Path, file: h5py.File, name: str) -> tuple[h5py.Dataset, int, bool] | None:
    """Return dataset, oversampling and pixel response of a PSF; None: the file does not have it."""
    node = _inside(path, file, name)
    if node is None:
        return None
    dataset = _dataset(path, node, name)
    check_shape(path, name, dataset)
    attributes = {**dict(file.attrs), **dict(dataset.attrs)}
    oversample = _oversample(path, name, attributes.get("oversample"))
    return dataset, oversample, _truth(path, name, attributes.get("pixel_response", True))


def _oversample(path: Path, name: str, value: object) -> int:
    if value is None:
        msg = f"{path}: {name!r} has no attribute 'oversample' of a PSF; set it on the dataset or on the file's root."
        raise InputError(msg)
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iuf" or not 1 <= number.item() <= MAX_OVERSAMPLE:
        msg = f"{path}: {name!r} has oversample = {shown(value)}; it must be a whole number from 1 to {MAX_OVERSAMPLE}."
        raise InputError(msg)
    if number.item() != int(number.item()):
        msg = f"{path}: {name!r} has oversample = {shown(value)}; it must be a whole number."
        raise InputError(msg)
    return int(number.item())


def _truth(path: Path, name: str, value: object) -> bool:
    number: NDArray[np.generic] = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "biu":
        msg = f"{path}: {name!r} has pixel_response = {shown(value)}; it must be true or false."
        raise InputError(msg)
    return bool(number.item())

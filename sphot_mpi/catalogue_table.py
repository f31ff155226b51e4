"""Read the catalogue's table, whatever its format, and find the columns we know."""

import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io.registry import IORegistryError
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from sphot_mpi.errors import CatalogueError
from sphot_mpi.inputs import is_fits

Columns = dict[str, NDArray[np.generic]]

#: Other names of the columns we know, in lower case; the first that a table has is taken.
ALIASES: dict[str, tuple[str, ...]] = {
    "name": ("name", "id", "objid", "object", "galaxy", "target", "number"),
    "path": ("path", "file", "filename", "filepath", "cutout", "image"),
    "psf": ("psf", "psf_file", "psf_path"),
    "filters": ("filters", "bands"),
    "base_filter": ("base_filter", "base"),
    "ra": ("ra", "alpha_j2000", "raj2000", "ra_deg"),
    "dec": ("dec", "delta_j2000", "dej2000", "dec_deg"),
    "forced": ("forced",),
    "priority": ("priority",),
}


def read_table(path: Path) -> Columns:
    """Read a CSV, ECSV or FITS table.

    Parameters
    ----------
    path : Path
        The suffix tells the format; CSV where it tells nothing.

    Returns
    -------
    dict of str to ndarray
        Columns as read. From CSV all of them are text, so that no name loses a zero.

    Raises
    ------
    CatalogueError
        If the file is no such table.
    """
    columns = _read_astropy(path) if is_fits(path) or path.suffix.lower() == ".ecsv" else _read_csv(path)
    if not columns or not len(next(iter(columns.values()))):
        msg = f"{path}: the catalogue has no row; it needs a header line and a line a galaxy."
        raise CatalogueError(msg)
    return columns


def resolve_columns(path: Path, columns: Columns) -> dict[str, str]:
    """Return the column that plays each known role, by role.

    Raises
    ------
    CatalogueError
        If no column says where the galaxies' files are.
    """
    by_lower = {name.strip().lower(): name for name in reversed(columns)}
    roles = {
        role: next(by_lower[alias] for alias in aliases if alias in by_lower)
        for role, aliases in ALIASES.items()
        if any(alias in by_lower for alias in aliases)
    }
    if "path" not in roles:
        msg = f"{path}: there is no column 'path' among {', '.join(columns)}; add one with each galaxy's file."
        raise CatalogueError(msg)
    return roles


def _read_csv(path: Path) -> Columns:
    rows: list[list[str]] = []
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(line for line in file if line.strip() and not line.lstrip().startswith("#"))
            for row in reader:
                rows.append([cell.strip() for cell in row])
    except UnicodeDecodeError as error:
        msg = f"{path}: this is no text in UTF-8 ({error.reason}); save the catalogue as CSV in UTF-8."
        raise CatalogueError(msg) from error
    except (OSError, csv.Error) as error:
        msg = f"{path}: this cannot be read as CSV ({error}); save the catalogue as CSV."
        raise CatalogueError(msg) from error
    if not rows:
        return {}
    header = rows[0]
    if len(set(header)) != len(header) or "" in header:
        msg = f"{path}: the header {','.join(header)!r} has empty or repeated names; give each column its own."
        raise CatalogueError(msg)
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            problems.append(f"row {number} has {len(row)} values for {len(header)} columns")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        msg = f"{path}: {'; '.join(problems[:5])}{more}; correct these lines."
        raise CatalogueError(msg)
    return {name: np.array([row[k] for row in rows[1:]], dtype=np.str_) for k, name in enumerate(header)}


def _read_astropy(path: Path) -> Columns:
    try:
        with warnings.catch_warnings():
            # units that astropy does not know are of no concern here
            warnings.simplefilter("ignore", AstropyWarning)
            table = Table.read(path, format="fits" if is_fits(path) else "ascii.ecsv")
    except (OSError, ValueError, TypeError, KeyError, IndexError, IORegistryError) as error:
        reason = " ".join(str(error).split())[:120]
        msg = f"{path}: this cannot be read as a table ({reason}); save the catalogue as CSV."
        raise CatalogueError(msg) from error
    return {str(name): _plain(table[name]) for name in table.colnames}


def _plain(column: Any) -> NDArray[np.generic]:
    """Native numbers or text; masked values become NaN or empty text."""
    mask = np.ma.getmaskarray(column)
    values: NDArray[Any] = np.ma.getdata(np.ma.asarray(column))
    if values.dtype.kind == "f":
        return np.where(mask, np.nan, values).astype(values.dtype.newbyteorder("="))
    if values.dtype.kind not in "SUO" and not mask.any():
        return values.astype(values.dtype.newbyteorder("="))
    text = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values]
    return np.array(["" if hidden.any() else t.strip() for t, hidden in zip(text, mask, strict=True)], dtype=np.str_)

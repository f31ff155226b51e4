"""Show a results file on the terminal."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from sphot_mpi.flags import APERTURE_FLAG_DESCRIPTIONS, FIT_FLAG_DESCRIPTIONS
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_schema import DESCRIPTIONS
from sphot_mpi.stored_inputs import petrosian_index

_ATTRIBUTES = ("creator_version", "git_commit", "created", "command_line", "catalogue", "ranks")

#: Rows of a galaxy's table: label, column of /sersic, digits where no error is known.
_SHOWN = (
    ("total mag AB", "mag", 3),
    ("r_eff px", "r_eff", 2),
    ("n", "n", 2),
    ("ellip", "ellip", 3),
    ("theta rad", "theta", 3),
    ("x_0 px", "x_0", 2),
    ("y_0 px", "y_0", 2),
    ("sky", "sky", 4),
    ("chi2", "chi2_reduced", 3),
    ("FWHM px", "fwhm", 2),
)
#: The same of /photometry; the Petrosian index is one of the configuration.
_MEASURED = (
    ("aperture px", "radius", 2),
    ("mag AB, PSF-corrected", "mag_corr", 3),
    ("flux", "flux", 3),
    ("S/N", "snr", 1),
    ("colour", "colour", 3),
    ("radius of Petrosian index {:g} px", "petro_radius", 2),
    ("r50 px", "r50", 2),
)


def describe_file(reader: ResultsReader) -> Group:
    """Return what is in the file: where it comes from, its tables, how the galaxies fared."""
    origin = Table(title=str(reader.path), show_header=False)
    for name in _ATTRIBUTES:
        origin.add_row(name, str(reader.file.attrs.get(name, "")))
    content = Table("table", "rows", "holds")
    for name in _datasets(reader):
        dataset = reader.file[name]
        content.add_row(f"/{name}", str(dataset.shape[0]), str(dataset.attrs.get("description", "")))
    for name, group in reader.file.get("images", {}).items():
        content.add_row(f"/images/{name}", str(len(next(iter(group.values())))), ", ".join(group))
    galaxies = reader.array("galaxies")
    status = ", ".join(f"{n} {s.decode()}" for s, n in sorted(Counter(galaxies["status"]).items()))
    parts: list[Table | str] = [origin, content, f"galaxies: {status}"]
    failures = reader.array("failures")
    if failures.size:
        reasons = Table("failures", "error", "first message")
        for error, count in Counter(failures["error"]).most_common():
            first = failures["message"][failures["error"] == error][0]
            reasons.add_row(str(count), error.decode(), first.decode())
        parts.append(reasons)
    return Group(*parts)


def _datasets(reader: ResultsReader) -> list[str]:
    """Return all that is no image: tables, what goes row by row with them, PSFs; what this version knows first."""
    known = {name: place for place, name in enumerate(DESCRIPTIONS)}
    there = [name for name in reader.file if not name.endswith(".__table_column_meta__")]
    there = [name for name in there if isinstance(reader.file[name], h5py.Dataset)]
    there += [f"psf/{name}" for name in reader.file.get("psf", {})]
    return sorted(there, key=lambda name: known.get(name.partition("/")[0], len(known)))


def describe_galaxy(reader: ResultsReader, name: str) -> Group:
    """Return one galaxy's numbers."""
    galaxy = reader.array("galaxies")[reader.row(name)]
    sersic = reader.array("sersic")
    rows = sersic[sersic["name"] == name.encode()]
    table = Table("", *(row["filter"].decode() for row in rows))
    for label, key, digits in _SHOWN:
        _add(table, rows, label, key, digits)
    table.add_row("stars", *(str(row["n_sources"]) for row in rows))
    parts: list[Table | str] = [f"{name}: {galaxy['status'].decode()}, {float(galaxy['seconds']):.1f} s"]
    parts += [table] if rows.size else []
    parts += [*_flags(rows, FIT_FLAG_DESCRIPTIONS), *_photometry(reader, name)]
    failures = reader.array("failures")
    for row in failures[failures["name"] == name.encode()]:
        parts.append(f"{(row['filter'] or row['task']).decode()} failed: {row['message'].decode()}")
    return Group(*parts)


def _photometry(reader: ResultsReader, name: str) -> list[Table | str]:
    """Return the aperture's table; nothing where there is none."""
    if "photometry" not in reader.file:
        return []
    measured = reader.array("photometry")
    rows = measured[measured["name"] == name.encode()]
    if not rows.size:
        return []
    table = Table("aperture", *(row["filter"].decode() for row in rows))
    index = petrosian_index(reader)
    for label, key, digits in _MEASURED:
        _add(table, rows, label.format(index), key, digits)
    return [table, *_flags(rows, APERTURE_FLAG_DESCRIPTIONS)]


def _add(table: Table, rows: NDArray[np.void], label: str, key: str, digits: int) -> None:
    """Add a row of values, and one of their errors where there are any; two digits of an error count."""
    errors = rows[f"{key}_err"] if f"{key}_err" in (rows.dtype.names or ()) else np.full(rows.size, np.nan)
    known = np.isfinite(errors) & (errors > 0.0)
    places = np.full(rows.size, digits)
    places[known] = np.clip(1 - np.floor(np.log10(errors[known])), 0, 9)
    cells = [f"{row[key]:.{place}f}" if np.isfinite(row[key]) else "-" for row, place in zip(rows, places, strict=True)]
    table.add_row(label, *cells)
    if known.any():
        spread = [f"{e:.{p}f}" if k else "-" for e, p, k in zip(errors, places, known, strict=True)]
        table.add_row("  error", *spread, style="dim")


def _flags(rows: NDArray[np.void], descriptions: Mapping[Any, str]) -> list[Table | str]:
    """Return a line for each flag that is set: what it means, and the filters it is set in."""
    lines: list[Table | str] = []
    for flag, text in descriptions.items():
        marked = [row["filter"].decode() for row in rows if int(row["flags"]) & int(flag)]
        if marked:
            lines.append(f"  {'all' if len(marked) == rows.size else ', '.join(marked)}: {text}")
    return lines

"""Tables of a results file in formats that other programs read.

Every table of the file is exported as it is, whatever its columns: units,
descriptions, the meaning of flag bits and the file's origin go along, in the way
of each format. CSV, which has no place for them, gets a second table that
explains the columns.
"""

import csv
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.table import Column, Table
from astropy.table.meta import get_header_from_yaml
from astropy.units import Unit, UnitBase

from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.results_reader import ResultsReader

#: Formats, and what astropy calls them.
FORMATS = {"ecsv": "ascii.ecsv", "csv": "ascii.csv", "fits": "fits", "parquet": "parquet"}

#: One row a galaxy and filter with what most people want; made of /sersic and /photometry.
MAGNITUDES = "magnitudes"

#: Explains the columns of the CSV files.
COLUMNS = "columns"

#: Rows of a table that are in memory at a time, for the formats that can be written in parts: CSV and Parquet.
_CHUNK = 100_000

_ORIGIN = ("creator", "creator_version", "git_commit", "created", "catalogue", "configuration_sha256")
_SERSIC_COLUMNS = (
    "name", "filter", "mag", "mag_err", "total_flux", "total_flux_err", "r_eff", "r_eff_err", "n", "n_err", "ellip",
    "ellip_err", "theta", "theta_err", "x_0", "x_0_err", "y_0", "y_0_err", "ra", "dec", "pa", "sky", "sky_err", "fwhm",
    "kernel_1", "kernel_1_err", "n_sources", "chi2_reduced", "converged", "flags",
)  # fmt: skip


def export_tables(
    reader: ResultsReader, folder: Path, format_name: str, names: Sequence[str] = (), *, overwrite: bool = False
) -> list[Path]:
    """Write tables of a results file into a folder, one file a table.

    Parameters
    ----------
    reader : ResultsReader
        Open results file.
    folder : Path
        Made if missing. A file is written under another name and then renamed, so that none is ever half there.
    format_name : str
        One of `FORMATS`.
    names : sequence of str
        Tables, among them "magnitudes" (one row a galaxy and filter); empty: all. "magnitudes" is always CSV.
    overwrite : bool
        Replace files that exist.

    Returns
    -------
    list of Path
        The files, in the order of the tables.

    Raises
    ------
    UsageError
        If there is no such table or format, or Parquet is asked for and pyarrow is not installed.
    OutputError
        If a file exists or cannot be written.
    """
    if format_name not in FORMATS:
        msg = f"--format {format_name}: this format is not known; choose from {', '.join(FORMATS)}."
        raise UsageError(msg)
    if format_name == "parquet" and find_spec("pyarrow") is None:
        msg = "--format parquet needs pyarrow, which is not installed; run pip install 'sphot-mpi[parquet]'."
        raise UsageError(msg)
    known = [*reader.tables(), MAGNITUDES]
    unknown = [name for name in names if name not in known]
    if unknown:
        msg = f"{reader.path}: there is no table {', '.join(unknown)}; it holds {', '.join(known)}."
        raise UsageError(msg)
    chosen = list(dict.fromkeys(names)) or known
    targets = [folder / f"{name}.{'csv' if name == MAGNITUDES else format_name}" for name in chosen]
    if any(target.suffix == ".csv" for target in targets):
        targets.append(folder / f"{COLUMNS}.csv")
    _check(folder, targets, overwrite=overwrite)
    explained = []
    for name, target in zip(chosen, targets, strict=False):
        if name == MAGNITUDES:
            parts = iter([magnitudes_table(reader)])
        else:
            parts = _parts(reader, name, _CHUNK if target.suffix in (".csv", ".parquet") else None)
        first = next(parts)
        if target.suffix == ".csv":
            explained.append((name, first))
        _write(first, parts, name, target)
    if explained:
        _write(_columns_table(explained), iter(()), COLUMNS, targets[-1])
    return targets


def annotated_table(reader: ResultsReader, name: str, rows: slice = slice(None)) -> Table:
    """Return a table with units, descriptions, the meaning of its flags and its origin in `meta`.

    Parameters
    ----------
    reader : ResultsReader
        Open results file.
    name : str
        One of `ResultsReader.tables`.
    rows : slice
        Which rows; default: all.

    Returns
    -------
    Table
        Text as text, columns plain with a unit; ``meta`` has "description", "flags" (a list of text, one a bit),
        "results_file" and the file's own attributes on its origin.
    """
    array = reader.file[name][rows]
    header = get_header_from_yaml(line.decode() for line in reader.file[f"{name}.__table_column_meta__"][:])
    table = Table(meta=header.get("meta"))
    for column in header["datatype"]:
        values = array[column["name"]]
        if values.dtype.kind == "S":
            # as wide in every part of a table, however short the longest text in it is
            values = np.char.decode(values, "utf-8").astype(f"U{values.dtype.itemsize}")
        table[column["name"]] = Column(values, unit=column.get("unit"), description=column.get("description"))
    flags = str(reader.file[name].attrs.get("flags", ""))
    if flags:
        # what a bit means may itself hold a semicolon
        table.meta["flags"] = re.split(r"; (?=\d+ [A-Z_0-9]+: )", flags)
    table.meta["results_file"] = reader.path.name
    for key in _ORIGIN:
        table.meta[key] = str(reader.file.attrs.get(key, ""))
    return table


def magnitudes_table(reader: ResultsReader) -> Table:
    """Return one row a galaxy and filter: the Sersic's main numbers, and all columns of /photometry where it exists.

    Parameters
    ----------
    reader : ResultsReader
        Open results file.

    Returns
    -------
    Table
        In the order of /sersic. A column of /photometry whose name /sersic has as well is called "aperture_NAME";
        it is NaN, 0 or empty for a row that /photometry does not have.
    """
    table = annotated_table(reader, "sersic")
    table = table[[name for name in _SERSIC_COLUMNS if name in table.colnames]]
    table.meta["description"] = "one row a galaxy and filter: Sersic totals, and aperture photometry where it was done"
    if "photometry" not in reader.tables():
        return table
    photometry = annotated_table(reader, "photometry")
    row_of = {key: row for row, key in enumerate(zip(photometry["name"], photometry["filter"], strict=True))}
    rows = np.array([row_of.get(key, -1) for key in zip(table["name"], table["filter"], strict=True)], dtype=np.intp)
    for name in photometry.colnames:
        if name in ("name", "filter"):
            continue
        source = photometry[name]
        blank = np.zeros(len(table), source.dtype)
        if source.dtype.kind == "f":
            blank[:] = np.nan
        target = f"aperture_{name}" if name in table.colnames else name
        table[target] = blank
        table[target][rows >= 0] = source[rows[rows >= 0]]
        table[target].unit, table[target].description = source.unit, source.description
    return table


def _check(folder: Path, targets: Sequence[Path], *, overwrite: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: this folder cannot be made ({error.strerror}); choose another with -o."
        raise OutputError(msg) from error
    present = [str(target) for target in targets if target.exists()]
    if present and not overwrite:
        more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
        msg = f"{present[0]}{more}: the file exists; give --overwrite, or another folder with -o."
        raise OutputError(msg)


def _parts(reader: ResultsReader, name: str, size: int | None) -> Iterator[Table]:
    """Yield a table in parts of `size` rows, at least one part; None: as a whole."""
    count = int(reader.file[name].shape[0])
    for start in range(0, max(count, 1), size or max(count, 1)):
        yield annotated_table(reader, name, slice(start, start + size if size else None))


def _write(first: Table, others: Iterator[Table], name: str, target: Path) -> None:
    """Write a table under another name first, so that `target` is whole or not there."""
    partial = target.with_name(f"{target.stem}.partial{target.suffix}")
    try:
        if target.suffix == ".csv":
            _write_csv(first, others, partial)
        elif target.suffix == ".parquet":
            _write_parquet(first, others, partial)
        elif target.suffix == ".fits":
            _write_fits(_on_one_line(first), name, partial)
        else:
            _on_one_line(first).write(partial, format=FORMATS[target.suffix[1:]], overwrite=True)
        partial.replace(target)
    except OSError as error:
        msg = f"{target}: this cannot be written ({error.strerror or error}); free space or choose another folder."
        raise OutputError(msg) from error


def _write_parquet(first: Table, others: Iterator[Table], path: Path) -> None:
    """Write parts one after another; astropy makes the first, with its metadata, and the others follow its schema."""
    from pyarrow import parquet

    first.write(path, format="parquet", overwrite=True)
    following = next(others, None)
    if following is None:
        return
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    path.replace(part)
    whole = parquet.read_table(part)
    with parquet.ParquetWriter(path, whole.schema) as writer:
        writer.write_table(whole)
        while following is not None:
            following.write(part, format="parquet", overwrite=True)
            writer.write_table(parquet.read_table(part).replace_schema_metadata(whole.schema.metadata))
            following = next(others, None)
    part.unlink()


def _on_one_line(table: Table) -> Table:
    r"""Write line ends, as tracebacks have them, as ``\n``: FITS forbids them, and ECSV's readers strip the lines."""
    table = table.copy(copy_data=False)
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "U" and np.any(np.char.find(np.asarray(column), "\n") >= 0):
            unit, words = column.unit, column.description
            table[name] = np.char.replace(np.asarray(column), "\n", r"\n")
            table[name].unit, table[name].description = unit, rf"{words}; line ends are written as \n"
    return table


def _write_csv(first: Table, others: Iterator[Table], path: Path) -> None:
    """Write a CSV as RFC 4180 has it: text with line ends in quotes, numbers with all their digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(first.colnames)
        for table in chain([first], others):
            writer.writerows(zip(*(table[name].tolist() for name in table.colnames), strict=True))


def _write_fits(table: Table, name: str, path: Path) -> None:
    """Write a FITS table with TUNIT, TCOMM, and provenance and flags as comments.

    FITS knows neither AB magnitudes nor binary prefixes: the description then names the unit.
    """
    table = table.copy(copy_data=False)
    meta = dict(table.meta)
    for column in table.itercols():
        if column.unit is not None and not _fits_knows(column.unit):
            column.description = f"{column.description}; in {column.unit}"
            column.unit = Unit("mag") if column.unit == Unit("mag(AB)") else None
    lines = [meta["description"], *(f"{key}: {meta[key]}" for key in ("results_file", *_ORIGIN) if meta.get(key))]
    lines += [f"flag {line}" for line in meta.get("flags", ())]
    # a FITS header holds printable ASCII only
    table.meta = {"EXTNAME": name, "comments": [line.encode("ascii", "backslashreplace").decode() for line in lines]}
    descriptions = [column.description or "" for column in table.itercols()]
    table.convert_unicode_to_bytestring()  # UTF-8; astropy would refuse what is not ASCII
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # a long comment goes on in a further card, of which astropy warns
        warnings.simplefilter("ignore", VerifyWarning)
        table.write(path, format="fits", overwrite=True)
        file = stack.enter_context(fits.open(path, mode="update"))
        for number, text in enumerate(descriptions, start=1):
            file[1].header[f"TCOMM{number}"] = text.encode("ascii", "backslashreplace").decode()


def _fits_knows(unit: UnitBase) -> bool:
    try:
        unit.to_string(format="fits")
    except ValueError:  # UnitScaleError is one
        return False
    return True


def _columns_table(tables: Sequence[tuple[str, Table]]) -> Table:
    """Return one row a column of the CSV files; the bits of a column `flags` get a row each."""
    rows = []
    for name, table in tables:
        for column in table.itercols():
            rows.append((name, column.name, str(column.unit or ""), column.description or ""))
        rows += [(name, "flags", "", f"bit {line}") for line in table.meta.get("flags", ())]
    return Table(rows=rows, names=("table", "column", "unit", "description"), dtype=("U", "U", "U", "U"))

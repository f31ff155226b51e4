"""Two campaigns side by side: what moved, by how much, and by how many sigma.

Galaxies are matched by name, fits by galaxy and filter. A difference is ``b - a``; its sigma is
``sqrt(err_a^2 + err_b^2)``, or the one error that is known. Two runs on the same pixels share their noise: they
should differ by much less than that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.errors import UsageError
from sphot_mpi.records import Vector
from sphot_mpi.results_reader import ResultsReader

#: Quantities of /sersic that are compared, with the digits to show.
SHAPE = {"r_eff": 3, "n": 3, "ellip": 4, "theta": 4, "x_0": 3, "y_0": 3}
_DIGITS = {"mag": 4, "colour": 4, "sources": 0, **SHAPE}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Differences:
    """One quantity in all fits that both campaigns have.

    Parameters
    ----------
    quantity : str
        "mag", "colour" (against the base filter), a column of `SHAPE`, "sources", or a column of /photometry.
    keys : sequence of (str, str)
        Galaxy and filter of each entry.
    a, b : (n,) float64 ndarray
        Values; NaN: none.
    difference : (n,) float64 ndarray
        ``b - a``; angles modulo pi. NaN where one is missing.
    sigma : (n,) float64 ndarray
        Its 1-sigma error; NaN: unknown.
    magnitude : (n,) float64 ndarray
        Sersic magnitude in `a`, for pictures.
    """

    quantity: str
    keys: Sequence[tuple[str, str]]
    a: Vector
    b: Vector
    difference: Vector
    sigma: Vector
    magnitude: Vector

    @property
    def pull(self) -> Vector:
        """Difference over sigma: 0 where nothing moved; NaN where a value is missing or the error is unknown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            pull = self.difference / self.sigma
        return np.where(self.difference == 0.0, 0.0, pull)

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Whether only one of the campaigns has a value."""
        return np.asarray(np.isfinite(self.a) != np.isfinite(self.b))

    @property
    def unjudged(self) -> NDArray[np.bool_]:
        """Whether an entry moved and neither campaign knows its error."""
        return np.asarray(np.isfinite(self.difference) & np.isnan(self.pull))

    @property
    def digits(self) -> int:
        """Digits after the point that are worth showing."""
        return _DIGITS.get(self.quantity, 4)

    def beyond(self, limit: float) -> NDArray[np.bool_]:
        """Whether an entry moved by more than `limit` sigma, or is there in one campaign only."""
        return np.asarray((np.abs(self.pull) > limit) | self.lost)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Two campaigns side by side.

    Parameters
    ----------
    names : (str, str)
        The files.
    n_galaxies : int
        Galaxies in both.
    only_a, only_b : tuple of str
        Galaxies in the catalogue of one campaign only.
    fits_only_a, fits_only_b : tuple of (str, str)
        Fits, of galaxies that both have, in one only.
    differences : tuple of Differences
        A quantity each.
    """

    names: tuple[str, str]
    n_galaxies: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    fits_only_a: tuple[tuple[str, str], ...]
    fits_only_b: tuple[tuple[str, str], ...]
    differences: tuple[Differences, ...]

    def agrees(self, limit: float, *, common: bool = False) -> bool:
        """Whether nothing moved by more than `limit` sigma and both have the same fits, if not `common`."""
        same = not (self.only_a or self.only_b or self.fits_only_a or self.fits_only_b)
        return (same or common) and not any(d.beyond(limit).any() for d in self.differences)


def compare_campaigns(path_a: Path, path_b: Path) -> Comparison:
    """Compare two results files.

    Parameters
    ----------
    path_a, path_b : Path
        Results files.

    Returns
    -------
    Comparison
        Of magnitudes, colours, shapes, centres, numbers of sources and, where both have it, aperture photometry.

    Raises
    ------
    OutputError
        If a file cannot be read.
    UsageError
        If they have no galaxy in common.
    """
    with ResultsReader(path_a) as a, ResultsReader(path_b) as b:
        names_a, names_b = a.names(), b.names()
        both = set(names_a) & set(names_b)
        if not both:
            msg = f"{path_a} and {path_b} have no galaxy in common; galaxies are matched by name."
            raise UsageError(msg)
        rows_a, rows_b = _rows(a, "sersic"), _rows(b, "sersic")
        keys = [key for key in rows_a if key in rows_b]
        base = {row["name"].decode(): row["base_filter"].decode() for row in a.array("galaxies")}
        tables = a.array("sersic")[[rows_a[k] for k in keys]], b.array("sersic")[[rows_b[k] for k in keys]]
        differences = [*_sersic_differences(keys, *tables, base), *_photometry_differences(a, b)]
    return Comparison(
        names=(str(path_a), str(path_b)),
        n_galaxies=len(both),
        only_a=tuple(name for name in names_a if name not in both),
        only_b=tuple(name for name in names_b if name not in both),
        fits_only_a=tuple(key for key in rows_a if key not in rows_b and key[0] in both),
        fits_only_b=tuple(key for key in rows_b if key not in rows_a and key[0] in both),
        differences=tuple(differences),
    )


def _rows(reader: ResultsReader, table: str) -> dict[tuple[str, str], int]:
    """Return the row of each galaxy and filter."""
    names, filters = reader.file[table].fields("name")[:], reader.file[table].fields("filter")[:]
    return {(n.decode(), f.decode()): row for row, (n, f) in enumerate(zip(names, filters, strict=True))}


def _sersic_differences(
    keys: list[tuple[str, str]], a: NDArray[np.void], b: NDArray[np.void], base: dict[str, str]
) -> Iterator[Differences]:
    for quantity in ("mag", *SHAPE):
        period = np.pi if quantity == "theta" else None
        yield _differences(quantity, keys, a, b, quantity, a["mag"], period)
        if quantity == "mag":
            yield _colours(keys, a, b, base)
    counts = a["n_sources"].astype(np.float64), b["n_sources"].astype(np.float64)
    # Poisson: two independent counts of one mean differ by the root of their sum
    yield Differences(
        quantity="sources", keys=keys, a=counts[0], b=counts[1], difference=counts[1] - counts[0],
        sigma=np.sqrt(counts[0] + counts[1]), magnitude=a["mag"],
    )  # fmt: skip


def _differences(
    quantity: str,
    keys: Sequence[tuple[str, str]],
    a: NDArray[np.void],
    b: NDArray[np.void],
    column: str,
    magnitude: Vector,
    period: float | None = None,
) -> Differences:
    difference = b[column] - a[column]
    if period is not None:
        difference = (difference + period / 2) % period - period / 2
    return Differences(
        quantity=quantity, keys=keys, a=a[column], b=b[column], difference=difference,
        sigma=_joined(a[f"{column}_err"], b[f"{column}_err"]), magnitude=magnitude,
    )  # fmt: skip


def _joined(a: Vector, b: Vector) -> Vector:
    """Root of the sum of squares; where only one error is known, that one."""
    known_a, known_b = np.isfinite(a), np.isfinite(b)
    sigma = np.hypot(np.where(known_a, a, 0.0), np.where(known_b, b, 0.0))
    return np.where(known_a | known_b, sigma, np.nan)


def _colours(
    keys: list[tuple[str, str]], a: NDArray[np.void], b: NDArray[np.void], base: dict[str, str]
) -> Differences:
    """Magnitude minus that of the base filter.

    Of the two magnitudes' errors, the part that the shared shape contributes to both cancels; without their
    covariance sigma is the root of their squares, which is too large rather than too small.
    """
    row_of = {key: row for row, key in enumerate(keys)}
    pairs = [
        (row, row_of[name, base[name]])
        for row, (name, filter_name) in enumerate(keys)
        if filter_name != base[name] and (name, base[name]) in row_of
    ]
    row, row_base = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
    values = [table["mag"][row] - table["mag"][row_base] for table in (a, b)]
    errors = [np.hypot(table["mag_err"][row], table["mag_err"][row_base]) for table in (a, b)]
    return Differences(
        quantity="colour", keys=[keys[k] for k in row], a=values[0], b=values[1], difference=values[1] - values[0],
        sigma=_joined(*errors), magnitude=a["mag"][row],
    )  # fmt: skip


def _photometry_differences(a: ResultsReader, b: ResultsReader) -> Iterator[Differences]:
    """Every number of /photometry that has an error, where both files have it."""
    if "photometry" not in a.tables() or "photometry" not in b.tables():
        return
    rows_a, rows_b = _rows(a, "photometry"), _rows(b, "photometry")
    keys = [key for key in rows_a if key in rows_b]
    table_a, table_b = (
        a.array("photometry")[[rows_a[k] for k in keys]],
        b.array("photometry")[[rows_b[k] for k in keys]],
    )
    columns = set(table_a.dtype.names or ()) & set(table_b.dtype.names or ())
    rows_sersic, magnitudes = _rows(a, "sersic"), a.file["sersic"].fields("mag")[:]
    magnitude = np.array([magnitudes[rows_sersic[key]] if key in rows_sersic else np.nan for key in keys])
    for column in table_a.dtype.names or ():
        if column in columns and f"{column}_err" in columns and table_a[column].dtype.kind == "f":
            yield _differences(f"aperture {column}", keys, table_a, table_b, column, magnitude)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offender:
    """One entry of the table of what moved most."""

    galaxy: str
    filter: str
    quantity: str
    a: float
    b: float
    difference: float
    pull: float
    digits: int


def worst(comparison: Comparison, count: int) -> list[Offender]:
    """Return the entries that moved by most sigma; what only one campaign has comes first.

    Parameters
    ----------
    comparison : Comparison
        The campaigns.
    count : int
        At most so many.

    Returns
    -------
    list of Offender
        Those that did not move at all are left out.
    """
    found: list[tuple[float, Offender]] = []
    for d in comparison.differences:
        size = np.where(d.lost, np.inf, np.nan_to_num(np.abs(d.pull), nan=0.0, posinf=np.finfo(float).max))
        for k in np.argsort(-size, kind="stable")[:count]:
            if size[k] > 0.0:
                offender = Offender(
                    galaxy=d.keys[k][0], filter=d.keys[k][1], quantity=d.quantity, a=float(d.a[k]), b=float(d.b[k]),
                    difference=float(d.difference[k]), pull=float(d.pull[k]), digits=d.digits,
                )  # fmt: skip
                found.append((float(size[k]), offender))
    found.sort(key=lambda entry: -entry[0])
    return [offender for _, offender in found[:count]]

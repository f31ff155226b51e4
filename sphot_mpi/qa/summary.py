"""What a campaign found, in numbers: counts, failures by reason, flags, times and distributions."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sphot_mpi.flags import APERTURE_FLAG_DESCRIPTIONS, FIT_FLAG_DESCRIPTIONS
from sphot_mpi.ledger import NOT_STARTED
from sphot_mpi.magnitudes import MAG_PER_LN
from sphot_mpi.qa.tables import CampaignTables, words
from sphot_mpi.records import Vector

PERCENTILES = (5.0, 16.0, 50.0, 84.0, 95.0)

#: Fainter magnitudes are noise.
LEAST_SNR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Distribution of a quantity: how many values are finite, and their percentiles (`PERCENTILES`)."""

    n: int
    percentiles: tuple[float, ...]

    @classmethod
    def of(cls, values: Vector) -> "Spread":
        """Measure the finite ones among `values`; without any, the percentiles are NaN."""
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            return cls(n=0, percentiles=(float("nan"),) * len(PERCENTILES))
        return cls(n=finite.size, percentiles=tuple(float(p) for p in np.percentile(finite, PERCENTILES)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Failures of one kind: where, which error, how many, in how many galaxies, and what the first one says.

    Tasks that were not started because another failed are a kind of their own, and come last.
    """

    stage: str
    error: str
    count: int
    galaxies: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagCount:
    """Rows with one flag: its name, its sentence, and the count of each of the campaign's filters."""

    name: str
    text: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """Over all filters."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColourMagnitude:
    """One colour against the base filter's magnitude: a filter, and the galaxies that have both."""

    filter: str
    magnitude: Vector
    colour: Vector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summary:
    """A campaign in numbers.

    Parameters
    ----------
    n_galaxies : int
        Galaxies.
    statuses : dict of str to int
        Galaxies that are done, partial and failed, all three keys, and of any other status.
    n_fits : int
        Rows of /sersic.
    seconds : Spread
        Process time a galaxy.
    total_seconds : float
        Of all galaxies.
    filters : tuple of str
        Of the fits.
    base_filter : str
        The most frequent one.
    by_filter : dict of str to dict of str to ndarray
        Values by quantity (`r_eff`, `n`, `chi2_reduced`, `kernel_1`, `fwhm`, `mag`, `seconds`, `n_sources`) and
        filter; r_eff in px.
    reasons : tuple of Reason
        Most frequent first, consequences last.
    flags, aperture_flags : tuple of FlagCount
        Those of fits and of photometry that occur, most frequent first.
    colours : tuple of ColourMagnitude
        A filter each, those that have a colour.
    magnitude_kind : str
        Where the magnitudes come from, in words.
    galaxy_seconds : ndarray
        Process time of each galaxy.
    """

    n_galaxies: int
    statuses: dict[str, int]
    n_fits: int
    seconds: Spread
    total_seconds: float
    filters: tuple[str, ...]
    base_filter: str
    by_filter: dict[str, dict[str, Vector]]
    reasons: tuple[Reason, ...]
    flags: tuple[FlagCount, ...]
    aperture_flags: tuple[FlagCount, ...]
    colours: tuple[ColourMagnitude, ...]
    magnitude_kind: str
    galaxy_seconds: Vector

    def spread(self, quantity: str, filter_name: str) -> Spread:
        """Return the distribution of a quantity in one filter."""
        return Spread.of(self.by_filter[quantity][filter_name])


#: Always counted, also where there is none; others where they occur.
_STATUSES = ("done", "partial", "failed")

_QUANTITIES = ("r_eff", "n", "chi2_reduced", "kernel_1", "fwhm", "mag", "seconds", "n_sources")


def summarise(tables: CampaignTables) -> Summary:
    """Reduce a campaign's tables to what the report's first page shows.

    Parameters
    ----------
    tables : CampaignTables
        Of the results file.

    Returns
    -------
    Summary
        Fits without a galaxy (n_components = 0) count in none of the distributions.
    """
    galaxies, sersic = tables.galaxies, tables.table("sersic")
    statuses = Counter(words(value) for value in galaxies["status"])
    seconds = galaxies["seconds"].astype(np.float64)
    base = Counter(words(value) for value in galaxies["base_filter"])
    by_filter: dict[str, dict[str, Vector]] = {quantity: {} for quantity in _QUANTITIES}
    for name in tables.filters:
        rows = sersic[(sersic["filter"] == name.encode()) & (sersic["n_components"] > 0)]
        for quantity in _QUANTITIES:
            by_filter[quantity][name] = rows[quantity].astype(np.float64)
    magnitudes, kind = magnitude_table(tables)
    base_filter = base.most_common(1)[0][0] if base else ""
    return Summary(
        n_galaxies=galaxies.size,
        statuses={status: statuses[status] for status in dict.fromkeys([*_STATUSES, *sorted(statuses)])},
        n_fits=sersic.size,
        seconds=Spread.of(seconds),
        total_seconds=float(np.nansum(seconds)),
        filters=tables.filters,
        base_filter=base_filter,
        by_filter=by_filter,
        reasons=_reasons(tables),
        flags=_flags(tables, "sersic", FIT_FLAG_DESCRIPTIONS),
        aperture_flags=_flags(tables, "photometry", APERTURE_FLAG_DESCRIPTIONS),
        colours=_colours(magnitudes, tables.filters, base_filter),
        magnitude_kind=kind,
        galaxy_seconds=seconds,
    )


def magnitude_table(tables: CampaignTables) -> tuple[Vector, str]:
    """Return the best magnitudes that the file has, (galaxies, filters), and their name.

    Those of the aperture, corrected for the PSF, where there is photometry; otherwise the Sersic totals. Magnitudes
    with a larger error than that of `LEAST_SNR` are NaN: they say nothing, and would spread over any axis.
    """
    source, column, kind = "sersic", "mag", "total Sersic magnitude"
    # a campaign without photometry has the table, and nothing in it
    if tables.has("photometry") and np.isfinite(tables.table("photometry")["mag_corr"]).any():
        source, column, kind = "photometry", "mag_corr", "aperture magnitude, PSF-corrected"
    rows, owner = tables.table(source), tables.owners(source)
    values = np.full((tables.galaxies.size, len(tables.filters)), np.nan)
    for k, name in enumerate(tables.filters):
        chosen = rows["filter"] == name.encode()
        noise = rows[f"{column}_err"][chosen] > MAG_PER_LN / LEAST_SNR
        values[owner[chosen], k] = np.where(noise, np.nan, rows[column][chosen])
    return values, f"{kind}; S/N above {LEAST_SNR:g}"


def _colours(magnitudes: Vector, filters: tuple[str, ...], base_filter: str) -> tuple[ColourMagnitude, ...]:
    if base_filter not in filters:
        return ()
    base = magnitudes[:, filters.index(base_filter)]
    found = []
    for k, name in enumerate(filters):
        colour = magnitudes[:, k] - base
        both = np.isfinite(colour)
        if name != base_filter and both.any():
            found.append(ColourMagnitude(filter=name, magnitude=base[both], colour=colour[both]))
    return tuple(found)


def _reasons(tables: CampaignTables) -> tuple[Reason, ...]:
    rows, owner = tables.table("failures"), tables.owners("failures")
    keys = [(words(row["message"]).startswith(NOT_STARTED), words(row["stage"]), words(row["error"])) for row in rows]
    first: dict[tuple[bool, str, str], str] = {}
    galaxies: dict[tuple[bool, str, str], set[int]] = {}
    for key, row, galaxy in zip(keys, rows, owner, strict=True):
        first.setdefault(key, words(row["message"]))
        galaxies.setdefault(key, set()).add(int(galaxy))
    counts = Counter(keys)
    return tuple(
        Reason(stage=key[1], error=key[2], count=count, galaxies=len(galaxies[key]), message=first[key])
        for key, count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0]))
    )


def _flags(tables: CampaignTables, table: str, descriptions: Mapping[Any, str]) -> tuple[FlagCount, ...]:
    rows = tables.table(table) if tables.has(table) else None
    if rows is None or "flags" not in (rows.dtype.names or ()):
        return ()
    filters = [rows["filter"] == name.encode() for name in tables.filters]
    found = []
    for flag, text in descriptions.items():
        marked = (rows["flags"] & int(flag)) != 0
        if marked.any():
            counts = tuple(int((marked & chosen).sum()) for chosen in filters)
            found.append(FlagCount(name=str(flag.name), text=text, counts=counts))
    return tuple(sorted(found, key=lambda count: -count.total))

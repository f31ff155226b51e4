"""A galaxy's page: its numbers as text, ready for the template."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sphot_mpi.flags import APERTURE_FLAG_DESCRIPTIONS, FitFlag
from sphot_mpi.qa.style import flag_words, with_error
from sphot_mpi.qa.tables import CampaignTables, Rows, words

#: Rows of the table of fits: label, column of /sersic, decimals; the error stands behind where there is one.
_FIT = (
    ("magnitude, AB", "mag", 4),
    ("total flux", "total_flux", 4),
    ("flux in the cutout", "flux_in_cutout", 1),
    ("r_eff, px", "r_eff", 3),
    ("Sersic n", "n", 3),
    ("ellipticity", "ellip", 4),
    ("theta, rad", "theta", 4),
    ("position angle, deg", "pa", 2),
    ("x, px", "x_0", 3),
    ("y, px", "y_0", 3),
    ("r_eff of the second component, px", "r_eff_2", 3),
    ("n of the second component", "n_2", 3),
    ("sky level", "sky", 6),
    ("reduced chi2", "chi2_reduced", 3),
    ("noise", "noise", 6),
    ("masked fraction", "masked_fraction", 4),
    ("star density, in / out", "star_density_ratio", 3),
    ("PSF kernel, px", "kernel_1", 3),
    ("second kernel parameter", "kernel_2", 3),
    ("PSF anchors", "kernel_anchors", 0),
    ("PSF FWHM, px", "fwhm", 3),
    ("point sources reported", "n_sources", 0),
    ("point sources in the model", "n_sources_model", 0),
    ("passes", "passes", 0),
    ("seconds", "seconds", 2),
)

#: Rows of the table of photometry: label (with the Petrosian index), column of /photometry, its error's, decimals.
_PHOTOMETRY = (
    ("magnitude, AB, PSF-corrected", "mag_corr", "mag_corr_err", 4),
    ("magnitude, AB, as measured", "mag_raw", "mag_raw_err", 4),
    ("colour against the base filter", "colour", "colour_err", 4),
    ("total magnitude, AB", "mag_total", "mag_total_err", 4),
    ("total colour", "colour_total", "colour_total_err", 4),
    ("flux in the aperture", "flux", "flux_err", 4),
    ("model's flux in the aperture", "model_flux", "model_flux_err", 4),
    ("model's flux in the cutout", "cutout_flux", "cutout_flux_err", 4),
    ("model's total flux", "total_flux", "total_flux_err", 4),
    ("unit of fluxes: px x", "unit", "", 0),
    ("S/N", "snr", "", 1),
    ("aperture radius, px", "radius", "", 2),
    ("enclosed fraction", "fraction", "", 4),
    ("PSF correction, factor", "correction", "correction_err", 4),
    ("sky level", "sky", "sky_err", 6),
    ("radius of Petrosian index {:g}, px", "petro_radius", "", 2),
    ("r20, px", "r20", "", 2),
    ("r50, px", "r50", "", 2),
    ("r80, px", "r80", "", 2),
    ("concentration", "concentration", "", 3),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One row of a table: its label and a cell a filter."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The picture of one filter, or why there is none."""

    filter: str
    file: str = ""
    alt: str = ""
    width: int = 0
    height: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A row of /failures."""

    filter: str
    stage: str
    error: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GalaxyPage:
    """All that the template shows of one galaxy.

    Parameters
    ----------
    name, status : str
        Of the galaxy.
    facts : tuple of (str, str)
        Short facts: label and text.
    filters : tuple of str
        Columns of the tables.
    flags : tuple of (str, tuple of str)
        Each sentence, and the filters it holds in.
    fit, photometry : tuple of Line
        Tables; empty: there is none.
    failures : tuple of Failure
        What went wrong.
    remarks : tuple of (str, str)
        Filter and remark.
    catalogue : tuple of (str, str)
        The catalogue's row as read.
    """

    name: str
    status: str
    facts: tuple[tuple[str, str], ...]
    filters: tuple[str, ...]
    flags: tuple[tuple[str, tuple[str, ...]], ...]
    fit: tuple[Line, ...]
    photometry: tuple[Line, ...]
    failures: tuple[Failure, ...]
    remarks: tuple[tuple[str, str], ...]
    catalogue: tuple[tuple[str, str], ...]


def galaxy_page(tables: CampaignTables, number: int) -> GalaxyPage:
    """Collect what the tables hold of one galaxy.

    Parameters
    ----------
    tables : CampaignTables
        Of the results file.
    number : int
        Row of the galaxy in `tables.galaxies`.

    Returns
    -------
    GalaxyPage
        Rows of values that are all unknown are left out.
    """
    galaxy, sersic = tables.galaxies[number], tables.rows("sersic", number)
    measured = tables.rows("photometry", number) if tables.has("photometry") else None
    filters = tuple(words(value) for value in sersic["filter"])
    index = tables.petrosian_index
    columns = [(label.format(index), key, error, digits) for label, key, error, digits in _PHOTOMETRY]
    return GalaxyPage(
        name=words(galaxy["name"]),
        status=words(galaxy["status"]),
        facts=tuple(_facts(galaxy)),
        filters=filters,
        flags=tuple(_flags(sersic, measured)),
        fit=_lines(sersic, [(label, key, f"{key}_err", digits) for label, key, digits in _FIT]),
        photometry=() if measured is None else _lines(_matching(measured, sersic), columns),
        failures=tuple(_failures(tables.rows("failures", number))),
        remarks=tuple((words(r["filter"]), words(r["messages"])) for r in sersic if words(r["messages"])),
        catalogue=tuple(_catalogue(tables, number)),
    )


def picture_alt(name: str, row: np.void) -> str:
    """Return what a picture shows, for those who do not see it."""
    return (
        f"{name} in {words(row['filter'])}: data, Sersic model, point sources, cleaned data, residual and isophotes; "
        f"brightness profile, Petrosian curve and PSF. r_eff {row['r_eff']:.2f} px, n {row['n']:.2f}, "
        f"reduced chi2 {row['chi2_reduced']:.2f}, {row['n_sources']} point sources."
    )


def _facts(galaxy: np.void) -> Iterable[tuple[str, str]]:
    yield "base filter", words(galaxy["base_filter"])
    for key, label in (("filters_missing", "not in the file"), ("filters_failed", "failed")):
        if words(galaxy[key]):
            yield label, words(galaxy[key]).replace(",", ", ")
    if np.isfinite(galaxy["ra"]) and np.isfinite(galaxy["dec"]):
        yield "RA, Dec", f"{galaxy['ra']:.6f}, {galaxy['dec']:+.6f} deg"
    yield "cutout", f"{galaxy['crop_nx']} x {galaxy['crop_ny']} px at ({galaxy['crop_x']}, {galaxy['crop_y']})"
    yield "time", f"{galaxy['seconds']:.1f} s"
    host = words(galaxy["host"])
    yield "where", f"rank {galaxy['rank']}" + (f" on {host}" if host else "")


def _catalogue(tables: CampaignTables, number: int) -> Iterable[tuple[str, str]]:
    """Yield the galaxy's row of the catalogue, whose rows are those of /galaxies."""
    row = tables.reader.file["catalogue"][number]
    for key, value in zip(row.dtype.names or (), row, strict=True):
        yield str(key), words(value)


def _matching(measured: Rows, sersic: Rows) -> list[np.void | None]:
    """Return the row of /photometry of each row of /sersic, or None."""
    by_filter = {bytes(row["filter"]): row for row in measured}
    return [by_filter.get(bytes(value)) for value in sersic["filter"]]


def _lines(rows: Iterable[np.void | None], columns: Iterable[tuple[str, str, str, int]]) -> tuple[Line, ...]:
    found = []
    rows = list(rows)
    for label, key, error, digits in columns:
        cells = tuple(_cell(row, key, error, digits) for row in rows)
        if any(cells):
            found.append(Line(label=label, cells=cells))
    return tuple(found)


def _cell(row: np.void | None, key: str, error: str, digits: int) -> str:
    known = () if row is None else row.dtype.names or ()
    if row is None or key not in known:
        return ""
    if row[key].dtype.kind == "S":
        return words(row[key])
    if not np.isfinite(row[key]):
        return ""
    value = float(row[key])
    spread = float(row[error]) if error in known else float("nan")
    # the base filter has no colour against itself
    return "0" if key.startswith("colour") and value == spread == 0.0 else with_error(value, spread, digits)


def _flags(sersic: Rows, measured: Rows | None) -> Iterable[tuple[str, tuple[str, ...]]]:
    found: dict[str, list[str]] = {}
    for row in sersic:
        for text in flag_words(FitFlag(int(row["flags"]))):
            found.setdefault(text, []).append(words(row["filter"]))
    for row in measured if measured is not None and "flags" in (measured.dtype.names or ()) else ():
        for flag, text in APERTURE_FLAG_DESCRIPTIONS.items():
            if flag & int(row["flags"]):
                found.setdefault(f"aperture: {text}", []).append(words(row["filter"]))
    for text, filters in found.items():
        yield text, tuple(filters)


def _failures(rows: Rows) -> Iterable[Failure]:
    for row in rows:
        yield Failure(
            filter=words(row["filter"]), stage=words(row["stage"]), error=words(row["error"]),
            message=words(row["message"]), traceback=words(row["traceback"]),
        )  # fmt: skip

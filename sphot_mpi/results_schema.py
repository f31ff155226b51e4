"""Tables of the results file: columns, types, units and what they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.units import Unit
from numpy.typing import NDArray

from sphot_mpi.flags import APERTURE_FLAG_DESCRIPTIONS, FIT_FLAG_DESCRIPTIONS, SOURCE_FLAG_DESCRIPTIONS
from sphot_mpi.galaxy_modes import CORE_FORM, PLAIN, WIDE_FORM, Form, orders_to
from sphot_mpi.photometry_record import CURVE_ROWS
from sphot_mpi.records import SERSIC_PARAMETERS, SOURCE_DTYPE
from sphot_mpi.storable import N_ANNULI

FORMAT = "sphot-mpi"
FORMAT_VERSION = "1.7"

#: Stand for the unit of the data, of a flux and of a slope, until the unit of a campaign is known.
DATA, FLUX, SLOPE, MOMENT = "<data>", "<data> pix", "<data> / pix", "<data> pix2"

#: Images that ``--images`` may store, with what they show.
IMAGES = {
    "data": "the data that were fitted",
    "sersic_model": "all Sersic components, convolved with the PSF, and their modes",
    "psf_model": "all point sources of the model, reported or not, and the expected light of unseen ones",
    "psf_sub_data": "data - psf_model: what the galaxy and the sky leave",
    "residual": "data - sersic_model - psf_model - sky plane",
}

#: Bit values of the columns `flags`, in words.
FIT_FLAGS = "; ".join(f"{flag.value} {flag.name}: {text}" for flag, text in FIT_FLAG_DESCRIPTIONS.items())
SOURCE_FLAGS = "; ".join(f"{flag.value} {flag.name}: {text}" for flag, text in SOURCE_FLAG_DESCRIPTIONS.items())
APERTURE_FLAGS = "; ".join(f"{flag.value} {flag.name}: {text}" for flag, text in APERTURE_FLAG_DESCRIPTIONS.items())


@dataclass(frozen=True, slots=True)
class Column:
    """One column; `kind` is a numpy type, or "S" for text as long as the longest entry."""

    name: str
    kind: str
    unit: str
    description: str


def _extent(form: Form) -> str:
    """How far modes reach and how they are stretched."""
    blur = f" and, in quadrature, {form.blur:g} FWHM of the PSF" if form.blur else ""
    focus = f", distances stretched with focus {form.focus:g}," if form.focus else ""
    return f"{form.reach:g} r_eff{blur}{focus}"


#: What each mode is about, where it is, and its degree and order.
_MODES = tuple(
    (of, _extent(form), order)
    for of, form in (
        ("all", PLAIN),
        ("the smaller component, or half a single one's size", CORE_FORM),
        ("all", WIDE_FORM),
    )
    for order in orders_to(form.degree)
)

_NAME = Column("name", "S", "", "name of the galaxy")
_FILTER = Column("filter", "S", "", "filter")

GALAXIES = (
    _NAME,
    Column("status", "S", "", "done; partial: some tasks failed; failed: no fit; unfinished: some tasks have not run"),
    Column("flags", "i8", "", "fit flags of all filters together"),
    Column("base_filter", "S", "", "filter of the free fit"),
    Column("n_filters", "i4", "", "filters asked for"),
    Column("filters_done", "S", "", "filters that were fitted"),
    Column("filters_missing", "S", "", "filters that the galaxy's file does not have"),
    Column("filters_failed", "S", "", "filters whose fit failed"),
    Column("attempts", "i4", "", "times that its most often tried task was started"),
    Column("host", "S", "", "machine of the base fit"),
    Column("rank", "i4", "", "MPI rank of the base fit"),
    Column("seconds", "f8", "s", "process time of all its fits"),
    Column("crop_x", "i8", "", "first column of the cutout in the full image, from 0"),
    Column("crop_y", "i8", "", "first row of the cutout in the full image, from 0"),
    Column("crop_nx", "i8", "", "columns of the cutout"),
    Column("crop_ny", "i8", "", "rows of the cutout"),
    Column("full_nx", "i8", "", "columns of the full image"),
    Column("full_ny", "i8", "", "rows of the full image"),
    Column("ra", "f8", "deg", "right ascension (ICRS) of the fitted centre, or the catalogue's where there is no WCS"),
    Column("dec", "f8", "deg", "declination (ICRS), likewise"),
)

_UNITS = {"amplitude": DATA, "r_eff": "pix", "n": "", "x_0": "pix", "y_0": "pix", "ellip": "", "theta": "rad"}
_MEANINGS = {
    "amplitude": "surface brightness at r_eff",
    "r_eff": "semi-major axis of the ellipse that holds half of the light",
    "n": "Sersic index",
    "x_0": "centre, column in the full image, from 0",
    "y_0": "centre, row in the full image, from 0",
    "ellip": "1 - b/a",
    "theta": "angle of the major axis, counter-clockwise from +x",
}


def _component(suffix: str, words: str) -> tuple[Column, ...]:
    columns: list[Column] = []
    for name in SERSIC_PARAMETERS:
        text = f"{_MEANINGS[name]}{words}"
        columns.append(Column(f"{name}{suffix}", "f8", _UNITS[name], text))
        columns.append(Column(f"{name}{suffix}_err", "f8", _UNITS[name], f"1-sigma error: {text}"))
    return tuple(columns)


SERSIC = (
    _NAME,
    _FILTER,
    Column("n_components", "i4", "", "Sersic components; 0: nothing was fitted"),
    *_component("", ""),
    *_component("_2", ", of the second component"),
    Column("total_flux", "f8", FLUX, "flux of all components, to infinity, what their modes add, and excess_flux"),
    Column("total_flux_err", "f8", FLUX, "its 1-sigma error, that of the shape included"),
    Column("mag", "f8", "mag(AB)", "magnitude of total_flux; NaN where it is not positive or the unit is unknown"),
    Column("mag_err", "f8", "mag", "its 1-sigma error"),
    Column("flux_in_cutout", "f8", FLUX, "flux of all components and modes inside the cutout"),
    Column("ra", "f8", "deg", "right ascension (ICRS) of the centre; NaN without a WCS"),
    Column("dec", "f8", "deg", "declination (ICRS) of the centre"),
    Column("pa", "f8", "deg", "position angle of the major axis, east of north"),
    Column("sky", "f8", DATA, "sky level at (sky_x, sky_y)"),
    Column("sky_err", "f8", DATA, "its 1-sigma error"),
    Column("sky_slope_x", "f8", SLOPE, "sky slope along x"),
    Column("sky_slope_x_err", "f8", SLOPE, "its 1-sigma error"),
    Column("sky_slope_y", "f8", SLOPE, "sky slope along y"),
    Column("sky_slope_y_err", "f8", SLOPE, "its 1-sigma error"),
    Column("sky_x", "f8", "pix", "column in the full image to which sky refers"),
    Column("sky_y", "f8", "pix", "row in the full image to which sky refers"),
    Column("chi2_reduced", "f8", "", "chi squared a pixel used"),
    Column("n_pix", "i8", "", "pixels used"),
    Column("masked_fraction", "f8", "", "part of the cutout that is masked"),
    Column("noise", "f8", DATA, "white pixel noise in the emptiest part of the image"),
    Column("correlation", "f8", "", "factor by which correlated noise widens a point source's error"),
    Column(
        "star_density_ratio",
        "f8",
        "",
        "preset best: stars an area at 0.5 to 1.5 r_eff over those beyond 2.5 r_eff; presets sphot*: light of stars an "
        "area within r_eff over that beyond 3 r_eff",
    ),
    *(
        Column(
            f"faint_limit_{k + 1}",
            "f8",
            FLUX,
            f"base-filter flux below which stars are not found at {k / 2} to "
            f"{(k + 1) / 2} r_eff from the centre; NaN where that was not measured",
        )
        for k in range(N_ANNULI)
    ),
    *(
        Column(
            f"faint_light_{k + 1}",
            "f8",
            DATA,
            f"light a pixel expected of stars that are not found at {k / 2} to {(k + 1) / 2} r_eff from the centre, "
            "part of psf_model; NaN where that was not measured",
        )
        for k in range(N_ANNULI)
    ),
    Column(
        "outside_light",
        "f8",
        DATA,
        "light a pixel expected of the stars beyond the data; their wings are part of psf_model",
    ),
    Column("excess_flux", "f8", FLUX, "light of the galaxy that stars on it hold: more and brighter than the field's"),
    Column(
        "excess_flux_err", "f8", FLUX, "its 1-sigma error, by the chance of the field's stars; alone: it may be theirs"
    ),
    Column("excess_limit", "f8", FLUX, "base filter's flux of the faintest of these stars; infinite: there are none"),
    *(
        Column(
            f"mode_{k + 1}",
            "f8",
            "",
            f"relative change of the components' light by the Zernike polynomial of degree {n} and order {m} within "
            f"{extent} of {of}; NaN where there is none",
        )
        for k, (of, extent, (n, m)) in enumerate(_MODES)
    ),
    Column(
        "position_scatter",
        "f8",
        MOMENT,
        "base filter: median error of a star's place times its flux, for the other filters' anchors; NaN otherwise",
    ),
    Column("passes", "i4", "", "passes of the main loop"),
    Column("converged", "?", "", "whether the main loop became quiet"),
    Column("flags", "i8", "", f"bits: {FIT_FLAGS}"),
    Column("kernel_family", "S", "", "family of the kernel on top of the library PSF"),
    Column(
        "kernel_1",
        "f8",
        "",
        "its first parameter (sigma of a gaussian, gamma of a moffat, width of a drizzle kernel; pix)",
    ),
    Column("kernel_1_err", "f8", "", "1-sigma error"),
    Column("kernel_2", "f8", "", "its second parameter (beta of a moffat, sigma of a drizzle kernel, pix), or NaN"),
    Column("kernel_2_err", "f8", "", "1-sigma error"),
    Column("kernel_anchors", "i4", "", "stars that carried the kernel's measurement"),
    Column("fwhm", "f8", "pix", "full width at half maximum of the working PSF"),
    Column("shift_x", "f8", "pix", "displacement against the base filter, contained in all positions"),
    Column("shift_y", "f8", "pix", "likewise along y"),
    Column("n_sources", "i8", "", "point sources reported"),
    Column("n_sources_model", "i8", "", "point sources in the model, reported or not"),
    Column("unit", "S", "", "unit of the data"),
    Column("pixel_scale", "f8", "arcsec", "size of a pixel"),
    Column("seconds", "f8", "s", "process time"),
    Column("messages", "S", "", "remarks of the fit"),
)

_PLACE_INIT = (
    "preset best: place when the base filter's galaxy was measured, moved by this filter's shift, or where a star was "
    "found later; presets sphot*: first guess"
)
_SOURCE_WORDS: dict[str, tuple[str, str]] = {
    "id": ("", "1, 2, ... within one galaxy and filter"),
    "group_id": ("", "sources fitted together share it"),
    "group_size": ("", "sources in the group"),
    "x_init": ("pix", f"column in the full image, from 0: {_PLACE_INIT}"),
    "y_init": ("pix", f"row in the full image, from 0: {_PLACE_INIT}"),
    "flux_init": (
        FLUX,
        "preset best: flux in the base filter when its galaxy was measured, 0 for a star found later; presets sphot*: "
        "first guess",
    ),
    "x_fit": ("pix", "column in the full image, from 0"),
    "y_fit": ("pix", "row in the full image, from 0"),
    "flux_fit": (
        FLUX,
        "total flux of the source; 0 for a star that the galaxy was measured with and later ones have made needless",
    ),
    "flux_measured": (
        FLUX,
        "preset best: flux when this filter's galaxy was measured, 0 for a star found later; presets sphot*: 0",
    ),
    "x_err": ("pix", "1-sigma error of x_fit"),
    "y_err": ("pix", "1-sigma error of y_fit"),
    "flux_err": (FLUX, "1-sigma error of flux_fit"),
    "local_bkg": (DATA, "local background that was subtracted"),
    "n_pixels_fit": ("", "pixels used"),
    "qfit": ("", "sum of absolute residuals over flux"),
    "cfit": ("", "central residual over flux"),
    "reduced_chi2": ("", "chi squared a degree of freedom"),
    "snr": ("", "flux_fit / flux_err"),
    "base_id": ("", "id of the anchoring source of the base filter, or 0"),
    "flags": ("", f"bits: {SOURCE_FLAGS}"),
}

SOURCES = (
    _NAME,
    _FILTER,
    *(
        Column(name, str(SOURCE_DTYPE[name].str[1:]), _SOURCE_WORDS[name][0], _SOURCE_WORDS[name][1])
        for name in SOURCE_DTYPE.names or ()
    ),
    Column("reported", "?", "", "passes the quality cuts and the threshold on S/N, if alone where the flux is held"),
    Column("mag", "f8", "mag(AB)", "magnitude of flux_fit; NaN where it is not positive"),
    Column("mag_err", "f8", "mag", "its 1-sigma error"),
    Column("ra", "f8", "deg", "right ascension (ICRS); NaN without a WCS"),
    Column("dec", "f8", "deg", "declination (ICRS)"),
)

WCS = (
    _NAME,
    _FILTER,
    Column("wcs", "S", "", "header text of the full image's WCS, one card a line; empty: unknown"),
)

SOURCES_INDEX = (
    _NAME,
    _FILTER,
    Column("start", "i8", "", "first row in /sources"),
    Column("count", "i8", "", "number of rows in /sources"),
)

FAILURES = (
    _NAME,
    _FILTER,
    Column("task", "S", "", "base or scale fit, or photometry"),
    Column("stage", "S", "", "what was being done"),
    Column("error", "S", "", "type of the error"),
    Column("message", "S", "", "what went wrong"),
    Column("traceback", "S", "", "where"),
    Column("attempt", "i4", "", "which try this was"),
)

PROVENANCE = (
    _NAME,
    _FILTER,
    Column("task", "S", "", "base or scale fit, or photometry"),
    Column("status", "S", "", "how it ended"),
    Column("rank", "i4", "", "MPI rank"),
    Column("host", "S", "", "machine"),
    Column("started", "f8", "s", "Unix time of the start"),
    Column("seconds", "f8", "s", "process time"),
    Column("memory", "f8", "Mibyte", "peak memory of the process so far"),
    Column("attempts", "i4", "", "times that the task was started"),
    Column("digest", "S", "", "SHA-256 (hex) of all that the task depends on"),
)

PHOTOMETRY = (
    _NAME,
    _FILTER,
    Column("flags", "i8", "", f"bits: {APERTURE_FLAGS}"),
    Column("x", "f8", "pix", "centre of the aperture, column in the full image, from 0"),
    Column("y", "f8", "pix", "centre of the aperture, row in the full image, from 0"),
    Column("radius", "f8", "pix", "semi-major axis of the aperture, the same in all filters"),
    Column("ellip", "f8", "", "1 - b/a of the aperture"),
    Column("theta", "f8", "rad", "angle of its major axis, counter-clockwise from +x"),
    Column("area", "f8", "pix2", "area of the aperture"),
    Column("filled_fraction", "f8", "", "part of the area without data, filled by the annulus median or the model"),
    Column("flux", "f8", FLUX, "light in the aperture as measured, above the sky"),
    Column("flux_err", "f8", FLUX, "its 1-sigma error: noise, sky and stars in quadrature"),
    Column("flux_err_noise", "f8", FLUX, "part of the error from the pixels' noise"),
    Column("flux_err_sky", "f8", FLUX, "part from the sky: its level, and the scatter of empty apertures"),
    Column("flux_err_stars", "f8", FLUX, "part from the fluxes of the subtracted point sources"),
    Column("snr", "f8", "", "flux / flux_err"),
    Column("sky", "f8", DATA, "residual sky, taken off besides the fit's sky plane"),
    Column("sky_err", "f8", DATA, "its 1-sigma error"),
    Column("sky_scatter", "f8", FLUX, "scatter of the sum over an empty aperture of this area"),
    Column("n_sky", "i8", "", "empty apertures from which it comes"),
    Column("fraction", "f8", "", "part of the model galaxy's light that the aperture encloses, in this filter's PSF"),
    Column("fraction_reference", "f8", "", "the same in the PSF of the reference filter"),
    Column("correction", "f8", "", "fraction_reference / fraction"),
    Column("correction_err", "f8", "", "its 1-sigma error"),
    Column("flux_corr", "f8", FLUX, "flux * correction: the light that the reference filter's PSF would leave"),
    Column("flux_corr_err", "f8", FLUX, "its 1-sigma error"),
    Column("mag_raw", "f8", "mag(AB)", "magnitude of flux; NaN where it is not positive or the unit is unknown"),
    Column("mag_raw_err", "f8", "mag", "its 1-sigma error"),
    Column("mag_corr", "f8", "mag(AB)", "magnitude of flux_corr"),
    Column("mag_corr_err", "f8", "mag", "its 1-sigma error"),
    Column("colour", "f8", "mag", "mag_corr minus that of the base filter"),
    Column("colour_err", "f8", "mag", "its 1-sigma error"),
    Column("petro_radius", "f8", "pix", "semi-major axis at which the Petrosian index falls to aperture.petro"),
    Column("r20", "f8", "pix", "semi-major axis that holds 20 % of this filter's light"),
    Column("r50", "f8", "pix", "the same for 50 %"),
    Column("r80", "f8", "pix", "the same for 80 %"),
    Column("concentration", "f8", "", "5 lg (r80 / r20)"),
    Column("total_flux", "f8", FLUX, "analytic total of the model galaxy, and the fit's excess_flux"),
    Column("total_flux_err", "f8", FLUX, "its 1-sigma error"),
    Column("mag_total", "f8", "mag(AB)", "magnitude of total_flux"),
    Column("mag_total_err", "f8", "mag", "its 1-sigma error"),
    Column("cutout_flux", "f8", FLUX, "the model galaxy's light inside the cutout"),
    Column("cutout_flux_err", "f8", FLUX, "its 1-sigma error"),
    Column("model_flux", "f8", FLUX, "the model galaxy's light inside the aperture, in this filter's PSF"),
    Column("model_flux_err", "f8", FLUX, "its 1-sigma error"),
    Column("colour_total", "f8", "mag", "mag_total minus that of the base filter"),
    Column("colour_total_err", "f8", "mag", "its 1-sigma error; that of the common shape cancels"),
    Column("unit", "S", "", "unit of the data"),
    Column("pixel_scale", "f8", "arcsec", "size of a pixel"),
)

#: The structured tables but /catalogue, whose columns are the user's.
TABLE_COLUMNS: dict[str, tuple[Column, ...]] = {
    "galaxies": GALAXIES,
    "sersic": SERSIC,
    "wcs": WCS,
    "sources": SOURCES,
    "sources_index": SOURCES_INDEX,
    "photometry": PHOTOMETRY,
    "failures": FAILURES,
    "provenance": PROVENANCE,
}

#: Bits of the column `flags` in words, as an attribute of these tables.
TABLE_FLAGS = {"sersic": FIT_FLAGS, "sources": SOURCE_FLAGS, "photometry": APERTURE_FLAGS}

DESCRIPTIONS = {
    "catalogue": "the catalogue's rows as read",
    "galaxies": "one row a galaxy",
    "sersic": "one row a galaxy and filter",
    "sersic_covariance": "covariance of the Sersic parameters, a matrix for each row of /sersic, component after "
    f"component in the order {', '.join(SERSIC_PARAMETERS)}; NaN beyond the fitted components",
    "sky_covariance": "covariance of sky level and slopes along x and y, a matrix for each row of /sersic",
    "wcs": "one row a row of /sersic: the WCS of its image",
    "sources": "all point sources, sorted by galaxy and filter",
    "sources_index": "where each galaxy's and filter's sources lie in /sources",
    "photometry": "aperture photometry, one row a galaxy and filter",
    "photometry_curve": "curves of growth, for each row of /photometry: rows "
    f"{', '.join(CURVE_ROWS)} (pix; data unit * pix; dimensionless; data unit * pix) by radius",
    "psf": "effective PSF of each galaxy, kernel and detector pixel included; (galaxy, y, x), of unit sum before it "
    "was cut to the library's size; its origin is the centre of the part that is not NaN; oversample: samples a pixel "
    "along an axis, 0: it differs between galaxies",
    "failures": "one row a task that failed, or could not start because of that",
    "provenance": "one row a task: where and when",
}

#: The structured tables, in the file's order, `catalogue` first.
TABLES = ("catalogue", *TABLE_COLUMNS)


def column_unit(column: Column, data_unit: str) -> Unit | None:
    """Return a column's unit for data of `data_unit`; None: no unit, or that of the data is not known."""
    known = Unit(data_unit) if data_unit else None
    scale = {DATA: Unit(""), FLUX: Unit("pix"), SLOPE: Unit("1 / pix"), MOMENT: Unit("pix2")}.get(column.unit)
    if scale is not None:
        return None if known is None else known * scale
    return Unit(column.unit) if column.unit else None


def structured(columns: Sequence[Column], values: Mapping[str, Any]) -> NDArray[np.void]:
    """Return a table as one structured array.

    Parameters
    ----------
    columns : sequence of Column
        The table.
    values : mapping
        Sequences of equal length by column name.

    Returns
    -------
    (n,) structured ndarray
        Text as UTF-8 of fixed length, numbers in their column's type.
    """
    arrays = {c.name: _encoded(values[c.name]) if c.kind == "S" else np.asarray(values[c.name]) for c in columns}
    fields = [
        (c.name, arrays[c.name].dtype if c.kind == "S" else np.dtype(c.kind), arrays[c.name].shape[1:]) for c in columns
    ]
    table = np.zeros(len(arrays[columns[0].name]), dtype=fields)
    for name, array in arrays.items():
        table[name] = array
    return table


def _encoded(texts: Any) -> NDArray[np.bytes_]:
    encoded = [str(text).encode() for text in texts]
    return np.array(encoded, dtype=f"S{max((len(t) for t in encoded), default=0) or 1}")

"""From fits and aperture photometry to the rows of their tables; no file is touched here."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from astropy import wcs as astropy_wcs
from numpy.typing import NDArray

from sphot_mpi.galaxy_modes import MOST_MODES
from sphot_mpi.magnitudes import ab_magnitude
from sphot_mpi.outcomes import Frame, TaskOutcome
from sphot_mpi.photometry_record import AperturePhotometry, no_curve
from sphot_mpi.records import SERSIC_PARAMETERS, SOURCE_DTYPE, FilterFit
from sphot_mpi.results_schema import PHOTOMETRY, SERSIC, SOURCES, SOURCES_INDEX, WCS, Column, structured
from sphot_mpi.sky_coordinates import parse_wcs, pixel_to_sky, position_angle
from sphot_mpi.storable import LONGEST, N_ANNULI, SEPARATOR

Row = dict[str, Any]
NAN = float("nan")

#: Parameters of one Sersic component.
K = len(SERSIC_PARAMETERS)


@lru_cache(maxsize=64)
def _wcs(text: str) -> astropy_wcs.WCS | None:
    return parse_wcs(text) if text else None


def table_of(columns: Sequence[Column], rows: Iterable[Row]) -> NDArray[np.void]:
    """Return rows as a table."""
    rows = list(rows)
    return structured(columns, {c.name: [row[c.name] for row in rows] for c in columns})


def fitted(outcomes: Sequence[TaskOutcome]) -> list[tuple[TaskOutcome, FilterFit, Frame]]:
    """Return the outcomes that are rows of /sersic, with their fits and frames."""
    return [(o, o.fit, o.frame) for o in outcomes if o.fit is not None and o.frame is not None]


def sersic_table(outcomes: Sequence[TaskOutcome]) -> NDArray[np.void]:
    """Return /sersic."""
    return table_of(SERSIC, (_sersic_row(fit, frame) for _, fit, frame in fitted(outcomes)))


def _sersic_row(fit: FilterFit, frame: Frame) -> Row:
    magnitude, magnitude_err = ab_magnitude(
        np.array([fit.total_flux]), np.array([fit.total_flux_err]), frame.unit, frame.pixel_scale
    )
    row: Row = {
        "name": fit.galaxy,
        "filter": fit.filter,
        "n_components": len(fit.components),
        **_component_columns(fit, frame, 0, ""),
        **_component_columns(fit, frame, 1, "_2"),
        "total_flux": fit.total_flux,
        "total_flux_err": fit.total_flux_err,
        "mag": magnitude[0],
        "mag_err": magnitude_err[0],
        "flux_in_cutout": fit.flux_in_cutout,
        **_sky_columns(fit, frame),
        **_kernel_columns(fit),
        "shift_x": fit.shift[0],
        "shift_y": fit.shift[1],
        "n_sources": int(np.count_nonzero(fit.report)),
        "n_sources_model": int(np.count_nonzero(fit.sources["flux_fit"])),
        "unit": frame.unit,
        "pixel_scale": frame.pixel_scale,
        "flags": int(fit.flags),
        "messages": SEPARATOR.join(fit.messages)[:LONGEST],
    }
    for k in range(N_ANNULI):
        row[f"faint_limit_{k + 1}"] = fit.faint_limits[k] if k < len(fit.faint_limits) else NAN
        row[f"faint_light_{k + 1}"] = fit.unseen.faint[k] if k < len(fit.unseen.faint) else NAN
    row |= {f"mode_{k + 1}": fit.modes[k] if k < len(fit.modes) else NAN for k in range(MOST_MODES)}
    row["outside_light"] = fit.unseen.outside
    row |= {
        "excess_flux": fit.excess.flux,
        "excess_flux_err": fit.excess.error,
        "excess_limit": fit.excess.limit,
    }
    same = (
        "chi2_reduced",
        "n_pix",
        "masked_fraction",
        "noise",
        "correlation",
        "star_density_ratio",
        "position_scatter",
    )
    for name in (*same, "passes", "converged", "seconds"):
        row[name] = getattr(fit, name)
    row["ra"], row["dec"] = sky_position(frame, row["x_0"], row["y_0"])
    wcs = _wcs(frame.wcs)
    row["pa"] = NAN if wcs is None else position_angle(wcs, row["x_0"], row["y_0"], row["theta"])
    return row


def _component_columns(fit: FilterFit, frame: Frame, index: int, suffix: str) -> Row:
    if index >= len(fit.components):
        return {f"{name}{suffix}{end}": NAN for name in SERSIC_PARAMETERS for end in ("", "_err")}
    component = fit.components[index]
    variance = np.diagonal(fit.covariance)[index * K : (index + 1) * K]
    offset = {"x_0": frame.origin[0], "y_0": frame.origin[1]}
    row: Row = {}
    for name, value in zip(SERSIC_PARAMETERS, variance, strict=True):
        number = getattr(component, name)
        row[f"{name}{suffix}"] = number + offset[name] if name in offset else number
        row[f"{name}{suffix}_err"] = np.sqrt(value) if value >= 0.0 else NAN
    return row


def _sky_columns(fit: FilterFit, frame: Frame) -> Row:
    with np.errstate(invalid="ignore"):
        errors = np.sqrt(np.diagonal(fit.sky_covariance))
    row: Row = {"sky_x": fit.sky.x_ref + frame.origin[0], "sky_y": fit.sky.y_ref + frame.origin[1]}
    values = (fit.sky.level, fit.sky.slope_x, fit.sky.slope_y)
    for name, value, error in zip(("sky", "sky_slope_x", "sky_slope_y"), values, errors, strict=True):
        row[name], row[f"{name}_err"] = value, error
    return row


def _kernel_columns(fit: FilterFit) -> Row:
    kernel = fit.kernel
    row: Row = {"kernel_family": kernel.family, "kernel_anchors": kernel.n_anchors, "fwhm": kernel.fwhm}
    for k in range(2):
        row[f"kernel_{k + 1}"] = kernel.values[k] if k < len(kernel.values) else NAN
        row[f"kernel_{k + 1}_err"] = kernel.errors[k] if k < len(kernel.errors) else NAN
    return row


def sky_position(frame: Frame, x: float, y: float) -> tuple[float, float]:
    """Return right ascension and declination (deg, ICRS) of a point of the full image; NaN without a WCS."""
    wcs = _wcs(frame.wcs)
    if wcs is None or not (np.isfinite(x) and np.isfinite(y)):
        return NAN, NAN
    ra, dec = pixel_to_sky(wcs, np.array([x]), np.array([y]))
    return float(ra[0]), float(dec[0])


def covariance_stack(outcomes: Sequence[TaskOutcome]) -> NDArray[np.float64]:
    """Return /sersic_covariance, (rows of /sersic, k, k), NaN beyond each fit's components."""
    matrices = [fit.covariance for _, fit, _ in fitted(outcomes)]
    k = max((m.shape[0] for m in matrices), default=K)
    stack = np.full((len(matrices), max(k, K), max(k, K)), NAN)
    for row, matrix in zip(stack, matrices, strict=True):
        row[: matrix.shape[0], : matrix.shape[1]] = matrix
    return stack


def sky_covariance_stack(outcomes: Sequence[TaskOutcome]) -> NDArray[np.float64]:
    """Return /sky_covariance, (rows of /sersic, 3, 3)."""
    matrices = [fit.sky_covariance for _, fit, _ in fitted(outcomes)]
    return np.array(matrices, dtype=np.float64).reshape(-1, 3, 3)


def wcs_table(outcomes: Sequence[TaskOutcome]) -> NDArray[np.void]:
    """Return /wcs."""
    return table_of(
        WCS,
        ({"name": fit.galaxy, "filter": fit.filter, "wcs": frame.wcs} for _, fit, frame in fitted(outcomes)),
    )


def source_tables(outcomes: Sequence[TaskOutcome]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return /sources and /sources_index."""
    index: list[Row] = []
    blocks: list[dict[str, Any]] = []
    start = 0
    for _, fit, frame in fitted(outcomes):
        index.append({"name": fit.galaxy, "filter": fit.filter, "start": start, "count": fit.sources.size})
        start += fit.sources.size
        blocks.append(_source_columns(fit, frame))
    values: dict[str, Any] = {}
    for column in SOURCES:
        parts = [block[column.name] for block in blocks]
        values[column.name] = np.concatenate(parts) if parts else np.empty(0)
    return structured(SOURCES, values), table_of(SOURCES_INDEX, index)


def _source_columns(fit: FilterFit, frame: Frame) -> dict[str, Any]:
    table = fit.sources
    values: dict[str, Any] = {name: table[name] for name in SOURCE_DTYPE.names or ()}
    for axis, offset in zip("xy", frame.origin, strict=True):
        for stem in ("init", "fit"):
            values[f"{axis}_{stem}"] = table[f"{axis}_{stem}"] + offset
    values["name"] = np.full(table.size, fit.galaxy)
    values["filter"] = np.full(table.size, fit.filter)
    values["reported"] = fit.report
    values["mag"], values["mag_err"] = ab_magnitude(table["flux_fit"], table["flux_err"], frame.unit, frame.pixel_scale)
    wcs = _wcs(frame.wcs)
    if wcs is None or table.size == 0:
        values["ra"] = values["dec"] = np.full(table.size, NAN)
    else:
        values["ra"], values["dec"] = pixel_to_sky(wcs, values["x_fit"], values["y_fit"])
    return values


def photometry_table(outcomes: Sequence[TaskOutcome]) -> NDArray[np.void]:
    """Return /photometry."""
    return table_of(PHOTOMETRY, (_photometry_row(record) for record in _photometry(outcomes)))


def _photometry(outcomes: Sequence[TaskOutcome]) -> Iterator[AperturePhotometry]:
    return (record for outcome in outcomes for record in outcome.photometry)


def _photometry_row(record: AperturePhotometry) -> Row:
    own = {"name", "filter", "flags", "x", "y"}
    row: Row = {column.name: getattr(record, column.name) for column in PHOTOMETRY if column.name not in own}
    row["name"], row["filter"], row["flags"] = record.galaxy, record.filter, int(record.flags)
    row["x"], row["y"] = record.x + record.origin[0], record.y + record.origin[1]
    return row


def curve_stack(outcomes: Sequence[TaskOutcome]) -> NDArray[np.float64]:
    """Return /photometry_curve, (rows of /photometry, 4, 48)."""
    curves = [record.curve for record in _photometry(outcomes)]
    return np.array(curves) if curves else np.empty((0, *no_curve().shape))

"""From rows of the results tables back to records: what `results_rows` does, undone bit for bit.

Positions in the tables are those of the full image, in the records those of the cutout.
"""

import typing
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.galaxy_modes import MOST_MODES
from sphot_mpi.outcomes import Failure, Frame
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.psf_kernel import FAMILIES
from sphot_mpi.records import (
    SERSIC_PARAMETERS,
    SOURCE_DTYPE,
    FilterFit,
    Image,
    KernelFit,
    SersicParams,
    SkyPlane,
    StarExcess,
    UnseenLight,
)
from sphot_mpi.storable import N_ANNULI, SEPARATOR, SOURCE_POSITIONS

_NO_MATRIX = np.empty((0, 0))


def frame_of(row: np.void, galaxy: np.void, wcs: str = "") -> Frame:
    """Return the frame of a fit's cutout.

    Parameters
    ----------
    row, galaxy : void
        Its row of /sersic, and its galaxy's of /galaxies.
    wcs : str
        Its text in /wcs.

    Returns
    -------
    Frame
        As the fit had it.
    """
    return Frame(
        shape=(int(galaxy["crop_ny"]), int(galaxy["crop_nx"])),
        origin=_origin(galaxy),
        full_shape=(int(galaxy["full_ny"]), int(galaxy["full_nx"])),
        unit=row["unit"].decode(),
        pixel_scale=float(row["pixel_scale"]),
        wcs=wcs,
    )


def fit_of(
    row: np.void,
    galaxy: np.void,
    sources: NDArray[np.void],
    covariance: Image = _NO_MATRIX,
    sky_covariance: Image = _NO_MATRIX,
) -> FilterFit:
    """Return a fit.

    Parameters
    ----------
    row, galaxy : void
        Its row of /sersic, and its galaxy's of /galaxies.
    sources : (n,) structured ndarray
        Its rows of /sources.
    covariance, sky_covariance : (k, k) and (3, 3) float64 ndarray
        Its entries of /sersic_covariance and /sky_covariance; empty where nobody asks for them.

    Returns
    -------
    FilterFit
        In the frame of its cutout.
    """
    origin = _origin(galaxy)
    n = int(row["n_components"])
    size = len(SERSIC_PARAMETERS) * max(n, 1)
    text = row["messages"].decode()
    numbers = (
        "total_flux", "total_flux_err", "flux_in_cutout", "noise", "correlation", "chi2_reduced",
        "masked_fraction", "star_density_ratio", "position_scatter", "seconds",
    )  # fmt: skip
    return FilterFit(
        galaxy=row["name"].decode(),
        filter=row["filter"].decode(),
        components=tuple(_component(row, suffix, origin) for suffix in ("", "_2")[:n]),
        covariance=covariance[:size, :size].copy(),
        sky=_sky(row, origin),
        sky_covariance=sky_covariance.copy(),
        sources=_sources(sources, origin),
        report=sources["reported"].astype(bool),
        kernel=_kernel(row),
        shift=(float(row["shift_x"]), float(row["shift_y"])),
        n_pix=int(row["n_pix"]),
        faint_limits=_annuli(row, "faint_limit"),
        unseen=UnseenLight(outside=float(row["outside_light"]), faint=_annuli(row, "faint_light")),
        excess=StarExcess(
            flux=float(row["excess_flux"]), error=float(row["excess_flux_err"]), limit=float(row["excess_limit"])
        ),
        modes=_modes(row),
        passes=int(row["passes"]),
        converged=bool(row["converged"]),
        flags=FitFlag(int(row["flags"])),
        messages=tuple(text.split(SEPARATOR)) if text else (),
        **{name: float(row[name]) for name in numbers},
    )


def _modes(row: np.void) -> tuple[float, ...]:
    """Return the amplitudes of a galaxy's modes; files before format 1.2 know none, before 1.7 not all."""
    names = (f"mode_{k + 1}" for k in range(MOST_MODES))
    values = (float(row[name]) for name in names if name in (row.dtype.names or ()))
    return tuple(value for value in values if np.isfinite(value))


def _annuli(row: np.void, name: str) -> tuple[float, ...]:
    """Return the values of a galaxy's annuli, none where all are unknown."""
    values = tuple(float(row[f"{name}_{k + 1}"]) for k in range(N_ANNULI))
    return () if np.isnan(values).all() else values


def failure_of(row: np.void) -> Failure:
    """Return a failure, from its row of /failures."""
    return Failure(**{f.name: row[f.name].decode() for f in fields(Failure)})


def photometry_of(row: np.void, curve: Image, galaxy: np.void) -> AperturePhotometry:
    """Return aperture photometry.

    Parameters
    ----------
    row : void
        Its row of /photometry.
    curve : (4, 48) float64 ndarray
        Its entry of /photometry_curve.
    galaxy : void
        Its galaxy's row of /galaxies.

    Returns
    -------
    AperturePhotometry
        In the frame of its cutout.
    """
    x, y = _origin(galaxy)
    own: dict[str, Any] = {
        "galaxy": row["name"].decode(),
        "flags": ApertureFlag(int(row["flags"])),
        "origin": (x, y),
        "x": float(row["x"] - x),
        "y": float(row["y"] - y),
        "curve": curve.copy(),
    }
    others = {name: kind for name, kind in _photometry_types().items() if name not in own}
    values = {name: row[name].decode() if kind is str else kind(row[name]) for name, kind in others.items()}
    return AperturePhotometry(**own, **values)


@cache
def _photometry_types() -> dict[str, Any]:
    return typing.get_type_hints(AperturePhotometry)


def _origin(galaxy: np.void) -> tuple[int, int]:
    return int(galaxy["crop_x"]), int(galaxy["crop_y"])


def _component(row: np.void, suffix: str, origin: tuple[int, int]) -> SersicParams:
    offset = {"x_0": origin[0], "y_0": origin[1]}
    values = {name: float(row[f"{name}{suffix}"]) for name in SERSIC_PARAMETERS}
    return SersicParams(**{name: v - offset[name] if name in offset else v for name, v in values.items()})


def _sky(row: np.void, origin: tuple[int, int]) -> SkyPlane:
    return SkyPlane(
        level=float(row["sky"]),
        slope_x=float(row["sky_slope_x"]),
        slope_y=float(row["sky_slope_y"]),
        x_ref=float(row["sky_x"] - origin[0]),
        y_ref=float(row["sky_y"] - origin[1]),
    )


def _kernel(row: np.void) -> KernelFit:
    family = row["kernel_family"].decode()
    numbers = range(1, len(FAMILIES[family].parameter_names) + 1)
    return KernelFit(
        family=family,
        values=tuple(float(row[f"kernel_{k}"]) for k in numbers),
        errors=tuple(float(row[f"kernel_{k}_err"]) for k in numbers),
        fwhm=float(row["fwhm"]),
        n_anchors=int(row["kernel_anchors"]),
    )


def _sources(stored: NDArray[np.void], origin: tuple[int, int]) -> NDArray[np.void]:
    sources = np.zeros(len(stored), SOURCE_DTYPE)
    # files before format 1.6 do not know all
    for name in set(SOURCE_DTYPE.names or ()) & set(stored.dtype.names or ()):
        axis = SOURCE_POSITIONS.get(name)
        sources[name] = stored[name] if axis is None else stored[name] - origin[axis]
    return sources

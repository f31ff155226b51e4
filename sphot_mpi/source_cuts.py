"""Which sources may be trusted: flag filter and quality cuts."""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.flags import SourceFlag
from sphot_mpi.kernels.stats import median_mad
from sphot_mpi.records import Mask

#: Bits that make a row unfit as an anchor, a forced position or a column of the final refit.
BAD_FLAGS = (
    SourceFlag.OUTSIDE
    | SourceFlag.NEGATIVE
    | SourceFlag.NEAR_BOUND
    | SourceFlag.NO_OVERLAP
    | SourceFlag.FULLY_MASKED
    | SourceFlag.FEW_PIXELS
)


def quality_passing(sources: NDArray[np.void]) -> Mask:
    """Tell which rows are sound: no bad flag, finite, positive flux.

    Parameters
    ----------
    sources : (n,) ndarray of SOURCE_DTYPE
        Sources.

    Returns
    -------
    (n,) bool ndarray
        True for sound rows.
    """
    sound = (sources["flags"] & int(BAD_FLAGS)) == 0
    for name in ("x_fit", "y_fit", "flux_fit"):
        sound &= np.isfinite(sources[name])
    return np.asarray(sound & (sources["flux_fit"] > 0.0))


def quality_cuts(
    sources: NDArray[np.void], residual: NDArray[np.float64], weight: NDArray[np.float64], config: PsfConfig
) -> dict[str, Mask]:
    """Apply every cut of the configuration, each on its own.

    Parameters
    ----------
    sources : (n,) ndarray of SOURCE_DTYPE
        Sources.
    residual, weight : (ny, nx) float64 ndarray
        Data minus all sources, and 1 / variance.
    config : PsfConfig
        The keys that begin with `cuts_`.

    Returns
    -------
    dict of (n,) bool ndarray
        By key of the configuration; True = cut. A value that is not finite is never cut, nor
        anything by a population whose spread or median is zero (pinned positions).
    """
    moved = np.hypot(sources["x_fit"] - sources["x_init"], sources["y_fit"] - sources["y_init"])
    centre = _central_residual(sources, residual, weight)
    return {
        "cuts_pos_err_max": _above(np.hypot(sources["x_err"], sources["y_err"]), config.cuts_pos_err_max),
        "cuts_res_cen_sigma_clip": _outlying(centre, config.cuts_res_cen_sigma_clip),
        "cuts_cfit_sigma_clip": _outlying(np.abs(sources["cfit"]), config.cuts_cfit_sigma_clip),
        "cuts_chi2dof_median_factor": _above_median(sources["reduced_chi2"], config.cuts_chi2dof_median_factor),
        "cuts_pos_diff_median_factor": _above_median(moved, config.cuts_pos_diff_median_factor),
        "cuts_flux_SNR_min": sources["snr"] < config.cuts_flux_SNR_min,
    }


def mark_cut(
    sources: NDArray[np.void], residual: NDArray[np.float64], weight: NDArray[np.float64], config: PsfConfig
) -> NDArray[np.void]:
    """Return the table with `SourceFlag.CUT` on the rows that any of `quality_cuts` takes."""
    out = sources.copy()
    cut = np.zeros(sources.size, dtype=bool)
    for mask in quality_cuts(sources, residual, weight, config).values():
        cut |= mask
    out["flags"] = np.where(cut, sources["flags"] | int(SourceFlag.CUT), sources["flags"] & ~int(SourceFlag.CUT))
    return out


def _central_residual(
    sources: NDArray[np.void], residual: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Absolute residual of each source's pixel in units of its error; NaN where there is none."""
    ny, nx = residual.shape
    known = np.isfinite(sources["x_fit"]) & np.isfinite(sources["y_fit"])
    x = np.rint(np.where(known, sources["x_fit"], -1.0)).astype(np.int64)
    y = np.rint(np.where(known, sources["y_fit"], -1.0)).astype(np.int64)
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
    out = np.full(sources.size, np.nan)
    y, x = y[inside], x[inside]
    out[inside] = np.where(weight[y, x] > 0.0, np.abs(residual[y, x]) * np.sqrt(weight[y, x]), np.nan)
    return out


def _above(values: NDArray[np.float64], limit: float) -> Mask:
    return np.asarray(np.isfinite(values) & (values > limit))


def _above_median(values: NDArray[np.float64], factor: float) -> Mask:
    """Values beyond `factor` times the population's median."""
    median, _ = median_mad(np.ascontiguousarray(values))
    return _above(values, factor * median) if median > 0.0 else np.zeros(values.size, dtype=bool)


def _outlying(values: NDArray[np.float64], sigma: float) -> Mask:
    """Values more than `sigma` robust standard deviations above the population's median."""
    median, spread = median_mad(np.ascontiguousarray(values))
    return _above(values, median + sigma * spread) if spread > 0.0 else np.zeros(values.size, dtype=bool)

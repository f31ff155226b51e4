"""What point-source fits say of their quality: metrics and flags of photutils.psf."""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import SourceFlag
from sphot_mpi.kernels.point_windows import window_metrics, window_pixels
from sphot_mpi.point_render import contiguous
from sphot_mpi.records import Image

Sources = NDArray[np.void]
Labels = NDArray[np.int64]

#: Flags that data and table decide, without the fit's history.
DATA_FLAGS = (
    SourceFlag.PARTIAL, SourceFlag.OUTSIDE, SourceFlag.NEGATIVE, SourceFlag.NO_OVERLAP, SourceFlag.FULLY_MASKED,
    SourceFlag.FEW_PIXELS, SourceFlag.NON_FINITE_POSITION, SourceFlag.NON_FINITE_FLUX,
    SourceFlag.NON_FINITE_LOCAL_BKG,
)  # fmt: skip

#: A position this near to its bound is flagged, px (photutils).
BOUND_TOLERANCE = 0.01


def fill_quality(sources: Sources, metrics: Image) -> None:
    """Set ``qfit = sum |r| / flux``, ``cfit = r_centre / flux``, reduced chi2 (three parameters) and S/N."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sources["qfit"] = metrics[:, 0] / sources["flux_fit"]
        sources["cfit"] = metrics[:, 1] / sources["flux_fit"]
        sources["reduced_chi2"] = metrics[:, 2] / (sources["n_pixels_fit"] - 3.0)
        sources["snr"] = sources["flux_fit"] / sources["flux_err"]


def measure_quality(sources: Sources, residual: Image, weight: Image, fit_shape: tuple[int, int]) -> Sources:
    """Measure anew, on the residual of all sources together, what a fit says of its quality.

    Parameters
    ----------
    sources : (n,) ndarray of SOURCE_DTYPE
        Fitted; `x_fit` and `y_fit` finite.
    residual, weight : (ny, nx) float64 ndarray
        Data minus all sources, and 1 / variance.
    fit_shape : (int, int)
        Window, px.

    Returns
    -------
    (n,) ndarray of SOURCE_DTYPE
        With `n_pixels_fit`, `qfit`, `cfit`, `reduced_chi2`, `snr` and the flags of `data_flags` renewed.
    """
    out = sources.copy()
    x, y = contiguous(out["x_fit"], out["y_fit"])
    pixels = window_pixels(weight, x, y, fit_shape[0], fit_shape[1])
    out["n_pixels_fit"] = np.maximum(pixels, 0)
    metrics: Image = window_metrics(residual, weight, x, y, fit_shape[0], fit_shape[1])
    fill_quality(out, metrics)
    kept = ~np.int64(sum(DATA_FLAGS))
    out["flags"] = (out["flags"] & kept) | data_flags(out, pixels, weight.shape, fit_shape)
    return out


def data_flags(sources: Sources, pixels: Labels, shape: tuple[int, ...], fit_shape: tuple[int, int]) -> Labels:
    """Flags of photutils that follow from the table and the usable pixels alone (-1: off the image)."""
    ny, nx = shape
    x, y, flux = sources["x_fit"], sources["y_fit"], sources["flux_fit"]
    conditions = {
        SourceFlag.PARTIAL: pixels < fit_shape[0] * fit_shape[1],
        SourceFlag.OUTSIDE: (x < -0.5) | (y < -0.5) | (x > nx - 0.5) | (y > ny - 0.5),
        SourceFlag.NEGATIVE: flux <= 0.0,
        SourceFlag.NO_OVERLAP: pixels < 0,
        SourceFlag.FULLY_MASKED: pixels == 0,
        SourceFlag.FEW_PIXELS: (pixels > 0) & (pixels < 3),
        SourceFlag.NON_FINITE_POSITION: ~np.isfinite(x) | ~np.isfinite(y),
        SourceFlag.NON_FINITE_FLUX: ~np.isfinite(flux),
        SourceFlag.NON_FINITE_LOCAL_BKG: ~np.isfinite(sources["local_bkg"]),
    }
    flags = np.zeros(sources.size, dtype=np.int64)
    for flag, condition in conditions.items():
        flags |= np.where(condition, int(flag), 0)
    return flags


def fit_flags(sources: Sources, converged: NDArray[np.bool_], xy_bound: float) -> Labels:
    """Flags of photutils that tell how the fit ended."""
    moved = np.maximum(np.abs(sources["x_fit"] - sources["x_init"]), np.abs(sources["y_fit"] - sources["y_init"]))
    at_bound = (xy_bound > 0.0) & (moved >= xy_bound - BOUND_TOLERANCE)
    flags = np.where(at_bound, int(SourceFlag.NEAR_BOUND), 0)
    flags |= np.where(np.isfinite(sources["flux_fit"]) & ~converged, int(SourceFlag.NO_CONVERGENCE), 0)
    flags |= np.where(np.isfinite(sources["flux_err"]), 0, int(SourceFlag.NO_COVARIANCE))
    return flags.astype(np.int64)

"""How well a fit has found what was put in: stars matched, counted and compared.

Used on simulations and on injected stars. A star's true S/N is that of an
isolated star under the true PSF and noise.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sphot_mpi.records import Mask, Vector
from sphot_mpi.robust import robust_sigma

#: Edges of the S/N bins: 3-5, 5-10, 10-20, 20-50, above 50.
SNR_EDGES = (3.0, 5.0, 10.0, 20.0, 50.0, np.inf)
#: Reported S/N above which reliability is counted, and the largest flux ratio that counts as the same star.
RELIABLE_SNR = 5.0
FLUX_FACTOR = 2.0
BRIGHT_SNR = 50.0


def match_stars(
    x_true: Vector, y_true: Vector, flux_true: Vector, x: Vector, y: Vector, radius: float
) -> NDArray[np.intp]:
    """Match true stars to found ones, one to one, the brightest true star first.

    Parameters
    ----------
    x_true, y_true, flux_true : (n,) float64 ndarray
        True positions, px, and fluxes.
    x, y : (m,) float64 ndarray
        Found positions, px.
    radius : float
        Largest distance, px.

    Returns
    -------
    (n,) intp ndarray
        Index of the nearest found star that no brighter true star has taken; -1: none.
    """
    match = np.full(x_true.size, -1, dtype=np.intp)
    if x.size == 0 or x_true.size == 0:
        return match
    found = np.column_stack([x, y])
    near = cKDTree(found).query_ball_point(np.column_stack([x_true, y_true]), radius)
    taken = np.zeros(x.size, dtype=bool)
    for star in np.argsort(-flux_true, kind="stable"):
        free = [k for k in near[star] if not taken[k]]
        if free:
            distance = np.hypot(x[free] - x_true[star], y[free] - y_true[star])
            match[star] = free[int(np.argmin(distance))]
            taken[match[star]] = True
    return match


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StarScores:
    """Counts and ratios of one or many fields; fields of one kind may be summed by `pool`.

    Parameters
    ----------
    snr : (n,) float64 ndarray
        True S/N of the true stars with data.
    found : (n,) bool ndarray
        Whether each was matched.
    ratio, pull : (n,) float64 ndarray
        Fitted over true flux, and (fitted - true) over the reported error; NaN where not found.
    n_reported, n_reliable : int
        Reported stars above S/N 5 in the frame, and how many of them have a true star within a factor 2 in flux.
    """

    snr: Vector
    found: Mask
    ratio: Vector
    pull: Vector
    n_reported: int
    n_reliable: int

    def completeness(self, low: float, high: float = np.inf) -> float:
        """Fraction of the true stars with S/N in [low, high) that were found; NaN where there are none."""
        chosen = (self.snr >= low) & (self.snr < high)
        return float(np.mean(self.found[chosen])) if chosen.any() else float("nan")

    @property
    def reliability(self) -> float:
        """Fraction of the stars reported above S/N 5 that are true, within a factor 2 in flux."""
        return self.n_reliable / self.n_reported if self.n_reported else float("nan")

    @property
    def bias(self) -> float:
        """Median relative flux error above S/N 50."""
        chosen = self.found & (self.snr >= BRIGHT_SNR)
        return float(np.median(self.ratio[chosen]) - 1.0) if chosen.any() else float("nan")

    def pull_width(self, low: float, high: float = np.inf) -> float:
        """Robust standard deviation (1.4826 MAD) of the flux pulls of the stars with S/N in [low, high)."""
        chosen = self.found & (self.snr >= low) & (self.snr < high) & np.isfinite(self.pull)
        if chosen.sum() < 3:
            return float("nan")
        pull = self.pull[chosen]
        return robust_sigma(pull)


def score_stars(
    true: tuple[Vector, Vector, Vector, Vector],
    usable: Mask,
    reported: tuple[Vector, Vector, Vector, Vector],
    in_frame: Mask,
    fwhm: float,
) -> StarScores:
    """Score the stars of one image.

    Parameters
    ----------
    true : four (n,) float64 ndarrays
        x, y (px), flux and S/N of all true stars, those beyond the frame's edge included.
    usable : (n,) bool ndarray
        Which of them lie in the frame on good pixels, and so can be asked for.
    reported : four (m,) float64 ndarrays
        x, y, flux and flux error of the reported stars.
    in_frame : (m,) bool ndarray
        Which of them lie in the frame on good pixels.
    fwhm : float
        Of the true PSF, px; half of it is the matching radius.

    Returns
    -------
    StarScores
        Of this image.
    """
    x_true, y_true, flux_true, snr = true
    x, y, flux, flux_err = reported
    match = match_stars(x_true, y_true, flux_true, x, y, 0.5 * fwhm)
    found = match >= 0
    ratio, pull = np.full(snr.size, np.nan), np.full(snr.size, np.nan)
    ratio[found] = flux[match[found]] / flux_true[found]
    with np.errstate(divide="ignore", invalid="ignore"):
        pull[found] = (flux[match[found]] - flux_true[found]) / flux_err[match[found]]
    true_of = np.full(x.size, np.nan)
    true_of[match[found]] = flux_true[found]
    counted = in_frame & (flux > RELIABLE_SNR * flux_err)
    # comparisons with NaN are false: a reported star without a true one is not reliable
    same = (flux < FLUX_FACTOR * true_of) & (flux > true_of / FLUX_FACTOR)
    return StarScores(
        snr=snr[usable], found=found[usable], ratio=ratio[usable], pull=pull[usable],
        n_reported=int(counted.sum()), n_reliable=int((counted & same).sum()),
    )  # fmt: skip


def pool(scores: Iterable[StarScores]) -> StarScores:
    """Put the stars of several images together."""
    every = list(scores)
    return StarScores(
        snr=np.concatenate([s.snr for s in every]),
        found=np.concatenate([s.found for s in every]),
        ratio=np.concatenate([s.ratio for s in every]),
        pull=np.concatenate([s.pull for s in every]),
        n_reported=sum(s.n_reported for s in every),
        n_reliable=sum(s.n_reliable for s in every),
    )

"""Fits of one or two Sersic components and a sky plane to an image."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage

from sphot_mpi.errors import FitError
from sphot_mpi.records import Array, SersicParams
from sphot_mpi.sersic import SersicRenderer, from_vector, params_jacobian
from sphot_mpi.sersic_lm import levenberg_marquardt
from sphot_mpi.sersic_problem import Evaluation, SersicBounds, SersicProblem, join_theta, split_theta
from sphot_mpi.sersic_result import SersicFit, inverse_normal, sky_plane
from sphot_mpi.sersic_search import METHODS, search

#: Starts of disk and bulge from one component: r_eff of the disk in its own, n; the same of the bulge.
_SPLITS = ((1.3, 1.0, 0.35, 2.0), (1.1, 1.0, 0.12, 1.0), (1.8, 0.8, 0.8, 4.0))
#: Reduced chi2 above which, and S/N below which, a fit is started again.
_POOR_CHI2, _POOR_SNR = 2.0, 30.0


def guess_sersic(data: Array, weight: Array) -> SersicParams:
    """Return a round start from the brightest smooth peak and the curve of growth about it.

    Parameters
    ----------
    data, weight : (ny, nx) float64 ndarray
        Image and 1 / variance; 0 = do not use.

    Returns
    -------
    SersicParams
        With n = 1.5.

    Raises
    ------
    FitError
        If nothing rises above the median of the image.
    """
    usable = (weight > 0.0) & np.isfinite(data)
    sky = float(np.median(data[usable])) if usable.any() else 0.0
    light = np.where(usable, data - sky, 0.0)
    width = max(2.0, 0.02 * max(data.shape))
    cover = ndimage.gaussian_filter(usable.astype(float), width, mode="constant")
    smooth = np.where(cover > 0.1, ndimage.gaussian_filter(light, width, mode="constant") / np.maximum(cover, 0.1), 0.0)
    y_0, x_0 = np.unravel_index(int(np.argmax(smooth)), data.shape)
    if smooth[y_0, x_0] <= 0.0:
        msg = "no light rises above the median of the image, so there is no galaxy to fit"
        raise FitError(msg)
    y, x = np.indices(data.shape)
    ring = np.hypot(x - x_0, y - y_0).astype(np.int64)
    count = np.bincount(ring[usable])
    covered = np.flatnonzero(count)
    mean = np.bincount(ring[usable], light[usable])[covered] / count[covered]
    # masked rings are bridged
    mean = np.interp(np.arange(count.size), covered, mean)
    # up to the first ring of no light
    end = int(np.argmax(mean <= 0.0)) if (mean <= 0.0).any() else mean.size
    growth = np.cumsum((mean * (2.0 * np.arange(mean.size) + 1.0) * np.pi)[: max(end, 2)])
    r_eff = float(np.clip(np.searchsorted(growth, 0.5 * growth[-1]), 1.0, 0.25 * max(data.shape)))
    vector = np.array([x_0, y_0, np.log(r_eff), np.log(1.5), 0.0, 0.0])
    return from_vector(vector, max(float(growth[-1]), float(smooth[y_0, x_0])))


def fit_sersic(
    data: Array,
    weight: Array,
    renderer: SersicRenderer,
    *,
    start: SersicParams | Sequence[SersicParams] | None = None,
    method: str = "lm",
    n_components: int = 1,
    fit_sky: bool = True,
    bounds: SersicBounds | None = None,
    seed: int = 0,
    max_evaluations: int | None = None,
    n_starts: int = 1,
    retry: bool = True,
    relative: float = 0.0,
) -> SersicFit:
    """Fit one or two Sersic components (one centre) and a sky plane.

    Parameters
    ----------
    data, weight : (ny, nx) float64 ndarray
        Image, and 1 / variance; 0 = do not use.
    renderer : SersicRenderer
        Of the same shape, with the working PSF.
    start : SersicParams or sequence of them, optional
        First guess; default: `guess_sersic`. One component that is to become two is fitted, then split in three ways.
    method : {"lm", "iterative_NM", "dual_annealing", "BFGS", "lbfgsb_polish"}
        "lm": variable projection with Levenberg-Marquardt. The others search in amplitude, r_eff, n, centre,
        ellip and theta from the start, see `sphot_mpi.sersic_search`.
    n_components : {1, 2}
        Components.
    fit_sky : bool
        Whether a sky plane is fitted too.
    bounds : SersicBounds, optional
        Ranges.
    seed : int
        Of the annealing and of starts beyond the third.
    max_evaluations : int, optional
        Most evaluations a start; default: 60 ("lm"), or the method's own.
    n_starts : int
        Starts of "lm" that are always made from a start of as many components.
    retry : bool
        "lm": start again at n = 1 and 4 where the outcome looks poor (reduced chi2 above 2, a bound touched, S/N
        below 30, not converged), and try all three ways to split one component. Without it one start is made.
    relative : float
        "lm": part of chi2 that a step must gain to be worth another.

    Returns
    -------
    SersicFit
        The lowest chi2 found.

    Raises
    ------
    FitError
        If too few pixels are usable or no galaxy of positive flux fits.
    """
    bounds = SersicBounds() if bounds is None else bounds
    problem = SersicProblem(data, weight, renderer, fit_sky=fit_sky)
    if start is None:
        start = guess_sersic(data, weight)
    given = [start] if isinstance(start, SersicParams) else list(start)
    starts = _starts(problem, given, n_components, bounds)
    if method == "lm":
        best, converged, count = _several_starts(
            problem, starts, bounds, max_evaluations or 60, np.random.default_rng(seed), n_starts, retry, relative
        )
    elif method in METHODS:
        first = _positive(problem.evaluate(bounds.project(starts[0], problem.shape)))
        best, converged, count = search(problem, first, bounds, method, max_evaluations, seed)
    else:
        msg = f"unknown method {method!r}; choose lm, {', '.join(METHODS)}"
        raise ValueError(msg)
    return _result(problem, _positive(best), bounds, converged, count, method)


def _positive(evaluation: Evaluation) -> Evaluation:
    """Return `evaluation` if it has light."""
    if not np.isfinite(evaluation.chi2):
        msg = "no galaxy of positive flux fits the image"
        raise FitError(msg)
    return evaluation


def _starts(
    problem: SersicProblem, given: Sequence[SersicParams], n_components: int, bounds: SersicBounds
) -> list[Array]:
    """Return the non-linear parameters to start from; one component that is to become two is fitted and split."""
    if len(given) == n_components:
        return [join_theta(given)]
    if len(given) != 1:
        msg = f"{len(given)} starting components were given for {n_components}"
        raise ValueError(msg)
    single, _, _ = levenberg_marquardt(problem, join_theta(given), bounds, max_evaluations=60)
    whole = from_vector(single.theta, 1.0)
    return [
        join_theta(
            [
                replace(whole, r_eff=disk_r * whole.r_eff, n=disk_n),
                replace(whole, r_eff=bulge_r * whole.r_eff, n=bulge_n, ellip=0.5 * whole.ellip),
            ]
        )
        for disk_r, disk_n, bulge_r, bulge_n in _SPLITS
    ]


def _several_starts(
    problem: SersicProblem,
    starts: list[Array],
    bounds: SersicBounds,
    max_evaluations: int,
    rng: np.random.Generator,
    n_starts: int,
    retry: bool,
    relative: float,
) -> tuple[Evaluation, bool, int]:
    """Run Levenberg-Marquardt from the first start and, where wanted or needed, from others; keep the lowest chi2."""
    best, converged, count = levenberg_marquardt(
        problem, starts[0], bounds, max_evaluations=max_evaluations, relative=relative
    )
    others = starts[1:] if retry else []
    if not others:
        poor = retry and (not converged or _looks_poor(problem, best, bounds))
        others = _more_starts(starts[0], n_starts - 1, 2 if poor else 0, rng)
    for trial in others:
        other, other_converged, evaluations = levenberg_marquardt(
            problem, trial, bounds, max_evaluations=max_evaluations, relative=relative
        )
        count += evaluations
        if other.chi2 < best.chi2:
            best, converged = other, other_converged
    return best, converged, count


def _looks_poor(problem: SersicProblem, best: Evaluation, bounds: SersicBounds) -> bool:
    """Whether another start may do better."""
    vectors = split_theta(best.theta)
    if not np.isfinite(best.chi2) or best.chi2 > _POOR_CHI2 * problem.n_pix or (best.linear[: len(vectors)] <= 0).any():
        return True
    components = [from_vector(v, f) for v, f in zip(vectors, best.linear, strict=False)]
    variance = inverse_normal(best.normal)[: len(vectors), : len(vectors)].sum()
    snr = best.linear[: len(vectors)].sum() / np.sqrt(max(variance, 1e-300))
    return bool(snr < _POOR_SNR) or bounds.touched(components, problem.shape)


def _more_starts(theta: Array, wanted: int, retries: int, rng: np.random.Generator) -> list[Array]:
    """Further starts: n = 1, n = 4, then random radii and indices."""
    starts = []
    for k in range(max(wanted, retries)):
        trial = theta.copy()
        for c in range(2, theta.size, 4):
            trial[c + 2 : c + 4] *= 0.5
            if k < 2:
                # a bulge above a disk: the first component keeps the lower index
                trial[c + 1] = np.log((1.0, 4.0)[k] * (1.0 if c == 2 else (2.0, 0.5)[k]))
                trial[c] += (0.0, 0.3)[k]
            else:
                trial[c] += rng.normal(0.0, 0.7)
                trial[c + 1] = np.log(rng.uniform(0.6, 5.0))
        starts.append(trial)
    return starts


def _result(
    problem: SersicProblem, best: Evaluation, bounds: SersicBounds, converged: bool, count: int, method: str
) -> SersicFit:
    """Turn the lowest point into parameters with their covariance."""
    vectors = split_theta(best.theta)
    k, linear = len(vectors), best.linear.size
    flux = best.linear[:k]
    order = sorted(range(k), key=lambda c: -from_vector(vectors[c], 1.0).r_eff)
    inverse = inverse_normal(best.normal)
    # a component without light has no shape
    dead = np.isnan(np.diag(inverse))
    turn = np.zeros((7 * k, best.normal.shape[0]))
    for row, c in enumerate(order):
        jacobian = params_jacobian(vectors[c], float(flux[c]))
        columns = [c, linear, linear + 1, *range(linear + 2 + 4 * c, linear + 6 + 4 * c)]
        turn[7 * row : 7 * row + 7, columns] = jacobian
    components = tuple(from_vector(vectors[c], float(flux[c])) for c in order)
    sky, sky_covariance = sky_plane(problem, best.linear[k:], inverse[k:linear, k:linear])
    covariance = turn @ np.nan_to_num(inverse, nan=0.0) @ turn.T
    unknown = (turn[:, dead] != 0.0).any(axis=1)
    covariance[unknown] = np.nan
    covariance[:, unknown] = np.nan
    return SersicFit(
        components=components,
        covariance=covariance,
        total_flux=float(flux.sum()),
        total_flux_err=float(np.sqrt(inverse[:k, :k].sum())),
        sky=sky,
        sky_covariance=sky_covariance,
        chi2=best.chi2,
        n_pix=problem.n_pix,
        converged=converged,
        n_evaluations=count,
        at_bound=bounds.touched(components, problem.shape) or bool((flux <= 0.0).any()),
        method=method,
    )

"""How well an injection was recovered: completeness, bias, and how honest the errors are.

A star counts as found if a reported star lies within half a FWHM of it, has its flux within a factor 2, and is not
nearer explained by a real star that was there before. A pull is (found - true) / error; where the errors are honest,
pulls have a standard deviation of 1: the table gives the factor by which the reported errors are too small.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from sphot_mpi.errors import UsageError
from sphot_mpi.records import FilterFit, Vector
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.robust import robust_sigma
from sphot_mpi.scores import FLUX_FACTOR, SNR_EDGES, StarScores, pool, score_stars
from sphot_mpi.simulate_truth import read_truth
from sphot_mpi.stored_fit import StoredFit, StoredFits

_COLUMNS = frozenset(
    ("name", "original", "filter", "kind", "x", "y", "flux", "snr", "fwhm", "r_eff", "n", "ellip", "theta")
)

#: Quantities of a galaxy, and whether their error is relative.
_GALAXY = {"total_flux": True, "r_eff": True, "n": False, "ellip": False, "theta": False, "x_0": False, "y_0": False}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GalaxyScores:
    """Recovered galaxies in one filter.

    Parameters
    ----------
    filter : str
        Filter.
    error : dict of str to (n,) float64 ndarray
        Fit minus truth by quantity; relative for flux and r_eff.
    pull : dict of str to (n,) float64 ndarray
        Fit minus truth over the reported error; NaN without one.
    """

    filter: str
    error: Mapping[str, Vector]
    pull: Mapping[str, Vector]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InjectionScores:
    """An injection's scores.

    Parameters
    ----------
    stars : dict of str to StarScores
        By filter.
    galaxies : tuple of GalaxyScores
        A filter each; empty: none were injected.
    missing : tuple of (str, str)
        Galaxies and filters of the truth that have no fit; left out of the scores.
    """

    stars: Mapping[str, StarScores]
    galaxies: tuple[GalaxyScores, ...]
    missing: tuple[tuple[str, str], ...]


def score_injection(truth_path: Path, results_path: Path, before_path: Path | None = None) -> InjectionScores:
    """Compare the results of an injected campaign with what was injected.

    Parameters
    ----------
    truth_path : Path
        ``truth.ecsv`` of the injection.
    results_path : Path
        Results of the injected campaign.
    before_path : Path or None
        Results of the original campaign: its stars compete for the reported ones, so that no real star passes for an
        artificial one. None: a real star that is by chance there, and as bright, does.

    Returns
    -------
    InjectionScores
        By filter.

    Raises
    ------
    OutputError
        If results cannot be read.
    UsageError
        If the truth cannot be read, or has no fit in common with the results.
    """
    truth = read_truth(truth_path, _COLUMNS, "an injection")
    with ExitStack() as stack:
        after = StoredFits(stack.enter_context(ResultsReader(results_path)))
        before = None
        if before_path is not None:
            before = StoredFits(stack.enter_context(ResultsReader(before_path)))
        stars: dict[str, list[StarScores]] = {}
        galaxies: dict[str, list[tuple[Any, StoredFit, Mapping[str, float]]]] = {}
        missing = []
        for (name, filter_name), rows in _by_fit(truth):
            stored = after.get(name, filter_name)
            if stored is None:
                missing.append((name, filter_name))
                continue
            is_star = rows["kind"] == "star"
            original = str(rows["original"][0])
            real = before.get(original, filter_name) if before is not None else None
            stars.setdefault(filter_name, []).append(_score_stars(rows[is_star], stored, real))
            for row in rows[~is_star]:
                galaxies.setdefault(filter_name, []).append((row, stored, after.errors(name, filter_name)))
    if not stars:
        msg = f"{truth_path} and {results_path} have no fit in common; name the results of the injected campaign."
        raise UsageError(msg)
    return InjectionScores(
        stars={name: pool(parts) for name, parts in stars.items()},
        galaxies=tuple(_score_galaxies(name, parts) for name, parts in galaxies.items()),
        missing=tuple(missing),
    )


def _by_fit(truth: Table) -> Iterator[tuple[tuple[str, str], Table]]:
    grouped = truth.group_by(["name", "filter"])
    for key, rows in zip(grouped.groups.keys, grouped.groups, strict=True):
        yield (str(key["name"]), str(key["filter"])), rows


def _reported(stored: StoredFit) -> tuple[Vector, Vector, Vector, Vector]:
    """Return x, y (full image), flux and its error of the reported stars."""
    found = stored.fit.sources[stored.fit.report]
    x0, y0 = stored.frame.origin
    return found["x_fit"] + x0, found["y_fit"] + y0, found["flux_fit"], found["flux_err"]


def _score_stars(rows: Table, stored: StoredFit, real: StoredFit | None) -> StarScores:
    x, y, flux, snr = (np.asarray(rows[name], dtype=np.float64) for name in ("x", "y", "flux", "snr"))
    (x0, y0), (ny, nx) = stored.frame.origin, stored.frame.shape
    usable = (x >= x0) & (x <= x0 + nx - 1) & (y >= y0) & (y <= y0 + ny - 1)
    if real is not None:
        x_real, y_real, flux_real, _ = _reported(real)
        x, y, flux = np.append(x, x_real), np.append(y, y_real), np.append(flux, flux_real)
        snr, usable = np.append(snr, np.zeros(x_real.size)), np.append(usable, np.zeros(x_real.size, dtype=bool))
    reported = _reported(stored)
    fwhm = float(rows["fwhm"][0]) if len(rows) else float("nan")
    scores = score_stars((x, y, flux, snr), usable, reported, np.ones(reported[0].size, dtype=bool), fwhm)
    same = (scores.ratio > 1.0 / FLUX_FACTOR) & (scores.ratio < FLUX_FACTOR)
    return replace(scores, found=scores.found & same)


def _score_galaxies(filter_name: str, parts: Sequence[tuple[Any, StoredFit, Mapping[str, float]]]) -> GalaxyScores:
    values: dict[str, list[tuple[float, float]]] = {quantity: [] for quantity in _GALAXY}
    for row, stored, errors in parts:
        found = _galaxy_values(stored.fit, stored.frame.origin)
        true = {
            "total_flux": row["flux"],
            "x_0": row["x"],
            "y_0": row["y"],
            **{k: row[k] for k in ("r_eff", "n", "ellip", "theta")},
        }
        for quantity, relative in _GALAXY.items():
            difference = found[quantity] - float(true[quantity])
            if quantity == "theta":
                difference = (difference + np.pi / 2) % np.pi - np.pi / 2
            error = errors[quantity]
            pull = difference / error if error > 0.0 else float("nan")
            values[quantity].append((difference / float(true[quantity]) if relative else difference, pull))
    return GalaxyScores(
        filter=filter_name,
        error={quantity: np.array([v[0] for v in pairs]) for quantity, pairs in values.items()},
        pull={quantity: np.array([v[1] for v in pairs]) for quantity, pairs in values.items()},
    )


def _galaxy_values(fit: FilterFit, origin: tuple[int, int]) -> dict[str, float]:
    first = fit.components[0]
    return {
        "total_flux": fit.total_flux, "r_eff": first.r_eff, "n": first.n, "ellip": first.ellip, "theta": first.theta,
        "x_0": first.x_0 + origin[0], "y_0": first.y_0 + origin[1],
    }  # fmt: skip


def score_table(scores: InjectionScores) -> Table:
    """Return the scores as one table: a row a filter and S/N bin, then a row a filter and quantity of the galaxy.

    Parameters
    ----------
    scores : InjectionScores
        The scores.

    Returns
    -------
    Table
        ``kind``, ``filter``, ``what`` (S/N bin or quantity), ``n`` (injected), ``completeness``, ``bias`` (median of
        found / true - 1, or of fit - true; relative for total_flux and r_eff), ``pull`` (median) and ``error_factor``
        (robust standard deviation of the pulls), each with its 1-sigma ``_err``.
    """
    rows = []
    several = {"all": pool(scores.stars.values())} if len(scores.stars) > 1 else {}
    for filter_name, stars in {**scores.stars, **several}.items():
        for low, high in zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True):
            chosen = (stars.snr >= low) & (stars.snr < high)
            if chosen.any():
                label = f"S/N {low:g}-{high:g}" if np.isfinite(high) else f"S/N > {low:g}"
                rows.append(_star_row(filter_name, label, stars, chosen))
    seen: list[Vector] = []
    for galaxy in scores.galaxies:
        for quantity, error in galaxy.error.items():
            if any(np.array_equal(error, other) for other in seen):
                continue  # a shape that several filters share counts once
            seen.append(error)
            rows.append(
                {
                    "kind": "galaxy", "filter": galaxy.filter, "what": quantity, "n": error.size,
                    "completeness": float("nan"), "completeness_err": float("nan"),
                    **_median("bias", error), **_median("pull", galaxy.pull[quantity]), **_width(galaxy.pull[quantity]),
                }
            )  # fmt: skip
    return Table(rows=rows)


def _star_row(filter_name: str, label: str, stars: StarScores, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    n, k = int(chosen.sum()), int((chosen & stars.found).sum())
    found = chosen & stars.found
    pull = stars.pull[found]
    return {
        "kind": "star", "filter": filter_name, "what": label, "n": n, "completeness": k / n,
        "completeness_err": _wilson(k, n), **_median("bias", stars.ratio[found] - 1.0), **_median("pull", pull),
        **_width(pull),
    }  # fmt: skip


def _wilson(k: int, n: int) -> float:
    """Half-width of the 68 % interval of a fraction k / n (Wilson 1927); not 0 at 0 and 1."""
    p = k / n
    return float(np.sqrt(p * (1.0 - p) / n + 0.25 / n**2) / (1.0 + 1.0 / n))


def _median(name: str, values: Vector) -> dict[str, float]:
    """Median and its error, 1.2533 sigma / sqrt(n) with a robust sigma."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return {name: float("nan"), f"{name}_err": float("nan")}
    error = 1.2533 * robust_sigma(values) / np.sqrt(values.size) if values.size > 2 else float("nan")
    return {name: float(np.median(values)), f"{name}_err": float(error)}


def _width(pull: Vector) -> dict[str, float]:
    """Robust standard deviation of pulls about their median, and its error: that of a MAD, 1.17 s / sqrt(n)."""
    pull = pull[np.isfinite(pull)]
    if pull.size < 3:
        return {"error_factor": float("nan"), "error_factor_err": float("nan")}
    width = robust_sigma(pull)
    return {"error_factor": width, "error_factor_err": float(1.17 * width / np.sqrt(pull.size))}

"""A comparison of two campaigns as text."""

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sphot_mpi.compare import Comparison, Differences, worst
from sphot_mpi.errors import listed


def describe_comparison(comparison: Comparison, limit: float, n_worst: int) -> Group:
    """Return what two campaigns have in common, how far they differ, and what moved most.

    Parameters
    ----------
    comparison : Comparison
        The campaigns.
    limit : float
        Sigma beyond which an entry counts as moved.
    n_worst : int
        Rows of the last table.

    Returns
    -------
    rich.console.Group
        For a console.
    """
    a, b = comparison.names
    parts: list[Table | Text] = [Text(f"a: {a}\nb: {b}\ngalaxies in both: {comparison.n_galaxies}")]
    for label, names in (("only in a", comparison.only_a), ("only in b", comparison.only_b)):
        if names:
            parts.append(Text(f"galaxies {label}: {len(names)} ({listed(names)})"))
    for label, keys in (("only in a", comparison.fits_only_a), ("only in b", comparison.fits_only_b)):
        if keys:
            parts.append(Text(f"fits {label}: {len(keys)} ({listed([' '.join(key) for key in keys])})"))
    summary = Table(
        "quantity", "compared", "median b - a", "rms", "largest", "rms sigma", "largest", f"> {limit:g}", "no sigma",
        "in one only", box=box.SIMPLE, title="Differences, absolute and in sigma",
    )  # fmt: skip
    for d in comparison.differences:
        summary.add_row(*_row(d, limit))
    parts.append(summary)
    offenders = worst(comparison, n_worst)
    if offenders:
        table = Table("galaxy", "filter", "quantity", "a", "b", "b - a", "sigma", box=box.SIMPLE, title="Moved most")
        for o in offenders:
            numbers = [f"{value:.{o.digits}f}" for value in (o.a, o.b, o.difference)]
            table.add_row(o.galaxy, o.filter, o.quantity, *numbers, f"{o.pull:+.2f}")
        parts.append(table)
    return Group(*parts)


def _row(d: Differences, limit: float) -> list[str]:
    known, pull = d.difference[np.isfinite(d.difference)], d.pull[np.isfinite(d.pull)]
    cells = [d.quantity, str(known.size)]
    if known.size:
        numbers = float(np.median(known)), float(np.sqrt(np.mean(known**2))), float(np.abs(known).max())
        cells += [f"{value:.{max(d.digits, 1)}f}" for value in numbers]
    else:
        cells += ["-"] * 3
    sizes = (float(np.sqrt(np.mean(pull**2))), float(np.abs(pull).max())) if pull.size else ()
    cells += [f"{value:.2f}" for value in sizes] or ["-"] * 2
    return [*cells, str(int(np.sum(np.abs(pull) > limit))), str(int(d.unjudged.sum())), str(int(d.lost.sum()))]

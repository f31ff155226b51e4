"""The scores of an injection as text."""

import numpy as np
from astropy.table import Row, Table
from rich import box
from rich.console import Group
from rich.table import Table as TextTable
from rich.text import Text

from sphot_mpi.errors import listed
from sphot_mpi.inject_score import InjectionScores

_HEADINGS = {"completeness": "found", "bias": "bias", "pull": "pull", "error_factor": "errors x"}


def describe_scores(scores: InjectionScores, table: Table) -> Group:
    """Return an injection's scores for a console.

    Parameters
    ----------
    scores : InjectionScores
        The scores.
    table : Table
        `score_table` of them.

    Returns
    -------
    rich.console.Group
        A table of the stars, one of the galaxies, and how to read them.
    """
    parts: list[TextTable | Text] = []
    stars, galaxies = table[table["kind"] == "star"], table[table["kind"] == "galaxy"]
    if len(stars):
        parts.append(_text("Artificial stars", stars, ("completeness", "bias", "pull", "error_factor")))
    if len(galaxies):
        title = "Turned and moved galaxies: fit - true (total_flux and r_eff: relative)"
        parts.append(_text(title, galaxies, ("bias", "pull", "error_factor")))
    parts.append(
        Text("errors x: factor by which reported errors are to be multiplied. pull: median of (found - true) / error.")
    )
    if scores.missing:
        shown = listed([" ".join(key) for key in scores.missing])
        parts.append(Text(f"left out, without a fit: {len(scores.missing)} ({shown})"))
    return Group(*parts)


def _text(title: str, rows: Table, columns: tuple[str, ...]) -> TextTable:
    text = TextTable("filter", "", "injected", *(_HEADINGS[name] for name in columns), title=title, box=box.SIMPLE)
    for row in rows:
        cells = [_cell(row, name, 4 if name in ("completeness", "bias") else 2) for name in columns]
        text.add_row(str(row["filter"]), str(row["what"]), str(row["n"]), *cells)
    return text


def _cell(row: Row, name: str, digits: int) -> str:
    value, error = float(row[name]), float(row[f"{name}_err"])
    if np.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if np.isnan(error) else f" +- {error:.{digits}f}")

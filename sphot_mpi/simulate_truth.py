"""Truth against result, as a table for a terminal."""

import io
from collections.abc import Set
from pathlib import Path

import numpy as np
from astropy.table import Table as AstropyTable
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from sphot_mpi.errors import UsageError
from sphot_mpi.results_reader import ResultsReader

_WIDTH = 150  # more than the table needs: the longest name has 64 letters, and is cut

#: Heading, format, and whether a median of absolute values makes sense in the last line.
_COLUMNS: dict[str, tuple[str, str, bool]] = {
    "magnitude": ("mag", ".3f", False),
    "magnitude_error": ("error", "+.4f", True),
    "colour_error": ("colour\nerror", "+.4f", True),
    "r_eff": ("r_eff\npx", ".2f", False),
    "r_eff_error": ("error\n%", "+.2f", True),
    "n": ("n", ".2f", False),
    "n_error": ("error", "+.3f", True),
    "ellip_error": ("ellip\nerror", "+.4f", True),
    "theta_error": ("theta\nerror deg", "+.2f", True),
    "centre_error": ("centre\nerror px", ".3f", True),
    "kernel": ("kernel\npx", ".3f", False),
    "kernel_error": ("error", "+.3f", True),
    "sky_error": ("sky error\nsigma", "+.2f", True),
}


#: Columns of the truth that are compared.
_TRUE = frozenset(
    ("name", "filter", "magnitude", "total_flux", "r_eff", "n", "x_0", "y_0", "ellip", "theta", "kernel_sigma",
     "sky_level", "sky_x_ref", "sky_y_ref", "faint_star_sky", "noise")
)  # fmt: skip


def read_truth(path: Path, columns: Set[str], what: str) -> AstropyTable:
    """Read a table of truth.

    Parameters
    ----------
    path : Path
        ECSV file.
    columns : set of str
        That it must have.
    what : str
        Of what it is the truth, for messages.

    Returns
    -------
    Table
        At least one row.

    Raises
    ------
    UsageError
        If this is no such table.
    """
    try:
        truth = AstropyTable.read(path, format="ascii.ecsv")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        msg = f"{path}: this cannot be read as a table ({reason}); name the truth.ecsv of {what}."
        raise UsageError(msg) from error
    missing = sorted(columns - set(truth.colnames))
    if missing or len(truth) == 0:
        lacks = f"it has no column {', '.join(missing)}" if missing else "it has no row"
        msg = f"{path}: this is no truth of {what} ({lacks}); name its truth.ecsv."
        raise UsageError(msg)
    return truth


def compare_with_truth(results_path: str | Path, truth_path: str | Path) -> str:
    """Return a table of what a simulated campaign held and how far the fits are off.

    Parameters
    ----------
    results_path : path
        Results file of the campaign.
    truth_path : path
        Its ``truth.ecsv``.

    Returns
    -------
    str
        Plain text. The values are the true ones; errors are fit - truth. The sky is compared at the image's centre
        with the true plane plus the mean light of stars below S/N 3, which nothing can tell from sky. The last line
        holds the medians of the absolute errors.

    Raises
    ------
    UsageError
        If the truth cannot be read, or belongs to other galaxies.
    OutputError
        If the results cannot be read.
    """
    truth = read_truth(Path(truth_path), _TRUE, "a simulation")
    with ResultsReader(Path(results_path)) as reader:
        fits = reader.array("sersic")
        base = {row["name"].decode(): row["base_filter"].decode() for row in reader.array("galaxies")}
    by_fit = {(row["name"].decode(), row["filter"].decode()): row for row in fits}
    order = list(base)
    rows = [_errors(row, by_fit.get((row["name"], row["filter"]))) for row in truth if row["name"] in base]
    if not rows:
        msg = f"{truth_path} and {results_path} have no galaxy in common; name the truth of this campaign."
        raise UsageError(msg)
    rows.sort(key=lambda entry: (order.index(entry[0]), entry[1] != base[entry[0]]))
    of_base = {name: values for name, filter_name, values in rows if filter_name == base[name]}
    for name, _, values in rows:
        values["colour_error"] = values["magnitude_error"] - of_base.get(name, {}).get("magnitude_error", np.nan)
    return _render(rows)


def _errors(true: NDArray[np.void], fit: np.void | None) -> tuple[str, str, dict[str, float]]:
    """True values and errors of one galaxy and filter; NaN without a fit."""
    values = {key: float("nan") for key in _COLUMNS}
    values.update(
        magnitude=float(true["magnitude"]),
        r_eff=float(true["r_eff"]),
        n=float(true["n"]),
        kernel=float(true["kernel_sigma"]),
    )
    if fit is not None and int(fit["n_components"]) > 0:
        turn = float(fit["theta"] - true["theta"])
        sky = fit["sky"] + fit["sky_slope_x"] * (true["sky_x_ref"] - fit["sky_x"])
        sky += fit["sky_slope_y"] * (true["sky_y_ref"] - fit["sky_y"])
        values.update(
            magnitude_error=-2.5 * float(np.log10(fit["total_flux"] / true["total_flux"])),
            r_eff_error=100.0 * float(fit["r_eff"] / true["r_eff"] - 1.0),
            n_error=float(fit["n"] - true["n"]),
            ellip_error=float(fit["ellip"] - true["ellip"]),
            # an ellipse is the same after half a turn
            theta_error=float(np.rad2deg((turn + np.pi / 2) % np.pi - np.pi / 2)),
            centre_error=float(np.hypot(fit["x_0"] - true["x_0"], fit["y_0"] - true["y_0"])),
            kernel_error=float(fit["kernel_1"] - true["kernel_sigma"]),
            sky_error=float((sky - true["sky_level"] - true["faint_star_sky"]) / true["noise"]),
        )
    return str(true["name"]), str(true["filter"]), values


def _render(rows: list[tuple[str, str, dict[str, float]]]) -> str:
    table = Table(title="Truth, and fit minus truth", show_footer=True, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("galaxy", footer="median |error|", no_wrap=True)
    table.add_column("filter")
    for key, (heading, style, has_median) in _COLUMNS.items():
        found = [abs(values[key]) for _, _, values in rows if np.isfinite(values[key])]
        # the colour of the base filter against itself is 0 by definition
        found = [value for value in found if value != 0.0] if key == "colour_error" else found
        footer = format(float(np.median(found)), style.lstrip("+")) if has_median and found else ""
        table.add_column(heading, footer=footer, justify="right", no_wrap=True)
    last = ""
    for name, filter_name, values in rows:
        if last and name != last:
            table.add_section()
        cells = [
            format(values[key], style) if np.isfinite(values[key]) else "-" for key, (_, style, _) in _COLUMNS.items()
        ]
        table.add_row(name if name != last else "", filter_name, *cells)
        last = name
    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()

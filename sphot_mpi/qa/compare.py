"""A picture of how two campaigns differ."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from sphot_mpi.compare import SHAPE, Comparison, Differences
from sphot_mpi.errors import OutputError, counted
from sphot_mpi.qa.style import check_ending

#: Okabe and Ito's colours, which colour-blind people tell apart, each with its own marker.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_RANGE = 6.0
_BINS = [float(edge) for edge in np.linspace(-_RANGE, _RANGE, 49)]


def plot_comparison(comparison: Comparison, limit: float, output: Path) -> None:
    """Draw pulls as histograms, and the differences of magnitudes, colours and sizes by filter.

    Parameters
    ----------
    comparison : Comparison
        The campaigns.
    limit : float
        Sigma beyond which an entry counts as moved; marked.
    output : Path
        PNG, PDF or SVG, by its ending.

    Raises
    ------
    OutputError
        If the picture cannot be written.
    UsageError
        If the picture's ending is none of `ENDINGS`.
    """
    check_ending(output)
    by_name = {d.quantity: d for d in comparison.differences}
    figure = Figure(figsize=(13.0, 7.5), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"b - a: {counted(comparison.n_galaxies, 'galaxy')}\na = {comparison.names[0]}, b = {comparison.names[1]}",
        fontsize=11,
    )
    axes = figure.subplots(2, 3)
    measured = "aperture mag_corr" in by_name
    _histogram(axes[0, 0], {"total magnitude": [by_name["mag"]], "colour": [by_name["colour"]]}, limit)
    groups = {"shape and centre": [by_name[name] for name in SHAPE]}
    if measured:
        groups |= {"aperture magnitude": [by_name["aperture mag_corr"]], "its colour": [by_name["aperture colour"]]}
    _histogram(axes[1, 0], groups, limit)
    filters = list(dict.fromkeys(key[1] for key in by_name["mag"].keys))
    style = {name: (_COLOURS[k % 7], _MARKERS[k % 7]) for k, name in enumerate(filters)}
    for ax, name, label in (
        (axes[0, 1], "mag", "total magnitude, b - a"),
        (axes[0, 2], "colour", "colour against the base filter, b - a"),
        (axes[1, 1], "r_eff", "r_eff, b - a, %"),
        (axes[1, 2], "aperture mag_corr", "aperture magnitude, b - a")
        if measured
        else (axes[1, 2], "sources", "reported stars, b - a"),
    ):
        _scatter(ax, by_name[name], style, label)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False)
    try:
        figure.savefig(output, dpi=110)
    except OSError as error:
        msg = f"{output}: the picture cannot be written ({error.strerror}); choose another -o."
        raise OutputError(msg) from error


def _histogram(ax: Axes, groups: dict[str, list[Differences]], limit: float) -> None:
    for (label, parts), colour, line in zip(groups.items(), _COLOURS, ("-", "--", ":"), strict=False):
        pull = np.concatenate([d.pull for d in parts])
        pull = pull[np.isfinite(pull)]
        inside = np.clip(pull, -_RANGE, _RANGE)
        spread = f", rms {np.sqrt(np.mean(pull**2)):.2f}" if pull.size else ""
        ax.hist(inside, _BINS, histtype="step", lw=1.8, color=colour, ls=line, label=f"{label}: {pull.size}{spread}")
    for x in (-limit, limit):
        ax.axvline(x, color="0.5", ls=":", lw=1.0)
    ax.set(xlabel="(b - a) / sigma; the last bins hold what is beyond", ylabel="fits", xlim=(-_RANGE, _RANGE))
    # few fits that moved must show beside the many that did not
    ax.set_yscale("log")
    ax.set_ylim(0.7, max(10.0, 30.0 * ax.get_ylim()[1]))  # room for the legend
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _scatter(ax: Axes, d: Differences, style: dict[str, tuple[str, str]], label: str) -> None:
    filters = np.array([key[1] for key in d.keys])
    scale = 100.0 / d.a if d.quantity == "r_eff" else np.ones(d.a.size)
    value, error = d.difference * scale, d.sigma * np.abs(scale)
    x = d.magnitude if np.isfinite(d.magnitude).any() else np.arange(d.a.size, dtype=np.float64)
    for name, (colour, marker) in style.items():
        chosen = (filters == name) & np.isfinite(value)
        bars = np.where(np.isfinite(error[chosen]), error[chosen], 0.0)
        ax.errorbar(
            x[chosen], value[chosen], bars, fmt=marker, color=colour, ms=4.5, lw=0.8, alpha=0.8, label=name, mew=0,
        )  # fmt: skip
    known = np.isfinite(value)
    if known.any():
        # every point shows; the longest bars may end at the frame, or one noisy fit would hide the others
        reach = np.abs(value[known]) + np.nan_to_num(error[known])
        half = max(1.08 * float(np.abs(value[known]).max()), 1.2 * float(np.percentile(reach, 90.0))) or 1.0
        ax.set_ylim(-half, half)
    ax.axhline(0.0, color="0.3", lw=0.8)
    ax.set(xlabel="total AB magnitude in a" if np.isfinite(d.magnitude).any() else "fit", ylabel=label)

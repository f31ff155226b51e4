"""Draw the panels of a fit on a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Ellipse
from matplotlib.ticker import FuncFormatter

from sphot_mpi.flags import FitFlag
from sphot_mpi.qa.panels import Panel
from sphot_mpi.qa.profile import MJY_SR_ZERO_POINT, elliptical_profile
from sphot_mpi.records import Image

COLUMNS = ("data - sky", "Sersic model", "point sources", "cleaned", "residual / sigma")

#: Colour maps that differ in lightness (cividis) or along red-blue only; Okabe & Ito's colours for lines.
_BRIGHTNESS, _RESIDUAL = "cividis", "RdBu_r"
_BLACK, _ORANGE, _BLUE = "#000000", "#D55E00", "#0072B2"
_NO_DATA = "0.75"
_RESIDUAL_RANGE = 5.0
_WIDTHS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.35)

#: Flags of nearly every fit, which would only crowd the title.
_USUAL = FitFlag.ERROR_ESTIMATED


def figure_for(n_filters: int) -> Figure:
    """Return an empty figure with room for so many filters."""
    return Figure(figsize=(16.5, 0.75 + 2.85 * max(1, n_filters)), layout=None, facecolor="white")


def draw_galaxy(figure: Figure, panels: Sequence[Panel], title: str = "") -> None:
    """Draw one row a filter: data, model, sources, cleaned, residual, profile.

    Parameters
    ----------
    figure : Figure
        Of `figure_for`, or any other.
    panels : sequence of Panel
        From top to bottom.
    title : str
        Above all.
    """
    height = figure.get_figheight()
    figure.suptitle(title, x=0.01, y=1.0 - 0.12 / height, ha="left", va="top", fontsize=14, fontweight="bold")
    grid = figure.add_gridspec(
        len(panels), len(_WIDTHS), width_ratios=_WIDTHS, left=0.012, right=0.955,
        top=1.0 - 0.8 / height, bottom=0.5 / height, hspace=0.3, wspace=0.06,
    )  # fmt: skip
    for row, panel in enumerate(panels):
        _draw_row(figure, grid, row, panel)


def _draw_row(figure: Figure, grid: GridSpec, row: int, panel: Panel) -> None:
    axes = [figure.add_subplot(grid[row, column]) for column in range(len(COLUMNS))]
    for ax, label in zip(axes, COLUMNS, strict=True):
        ax.set(xticks=[], yticks=[], facecolor=_NO_DATA)
        if row == 0:
            ax.set_title(label, fontsize=10, pad=22)
    axes[0].text(0.0, 1.02, _numbers(panel), transform=axes[0].transAxes, fontsize=9, va="bottom")
    if not np.isfinite(panel.data).any():
        for ax in axes:
            ax.text(0.5, 0.5, "no data", transform=ax.transAxes, ha="center", va="center", fontsize=11)
        return
    _draw_images(axes, panel)
    profile = grid[row, len(COLUMNS)].subgridspec(2, 1, height_ratios=(2.4, 1.0), hspace=0.06)
    _draw_profile(figure.add_subplot(profile[0]), figure.add_subplot(profile[1]), panel)


def _numbers(panel: Panel) -> str:
    """Return the row's heading: the fit's parameters and flags in words."""
    text = f"{panel.filter}"
    if panel.components:
        galaxy = panel.components[0]
        text += f"   mag {panel.magnitude:.3f}" if np.isfinite(panel.magnitude) else ""
        text += f"   r_eff {galaxy.r_eff:.2f} px   n {galaxy.n:.2f}   ellip {galaxy.ellip:.3f}"
        text += f"   theta {np.rad2deg(galaxy.theta):.1f} deg   kernel {panel.kernel:.2f} px   FWHM {panel.fwhm:.2f} px"
        text += f"   chi2 {panel.chi2_reduced:.2f}   {panel.n_sources} sources"
    if len(panel.components) > 1:
        second = panel.components[1]
        text += f"   second component: r_eff {second.r_eff:.2f} px, n {second.n:.2f}"
    names = [flag.name for flag in panel.flags & ~_USUAL if flag.name]
    return text + (f"   [{', '.join(names)}]" if names else "")


def _draw_images(axes: Sequence[Axes], panel: Panel) -> None:
    shown = panel.data - panel.sky
    norm = _common_norm(shown, panel.noise)
    for ax, image in zip(axes, (shown, panel.sersic, panel.sources, panel.cleaned), strict=False):
        colours = _show(ax, image, _BRIGHTNESS, norm)
    _colour_bar(axes[3], colours, panel.unit, _bar_ticks(norm))
    sigma = panel.noise if panel.noise > 0.0 else float(np.nanstd(panel.residual))
    limits = Normalize(-_RESIDUAL_RANGE, _RESIDUAL_RANGE)
    colours = _show(axes[4], panel.residual / sigma, _RESIDUAL, limits)
    _colour_bar(axes[4], colours, "", [-_RESIDUAL_RANGE, 0.0, _RESIDUAL_RANGE])
    for component in panel.components:
        _mark_ellipse(axes[0], component, "white")
        _mark_ellipse(axes[4], component, _BLACK)
    _scale_bar(axes[0], panel)


def _common_norm(shown: Image, noise: float) -> AsinhNorm:
    """Linear to a few sigma, logarithmic above, up to the brightest half percent."""
    finite = shown[np.isfinite(shown)]
    sigma = noise if noise > 0.0 else float(1.4826 * np.median(np.abs(finite - np.median(finite))))
    top = max(float(np.percentile(finite, 99.7)), 10.0 * sigma)
    return AsinhNorm(linear_width=3.0 * sigma, vmin=-3.0 * sigma, vmax=top)


def _show(ax: Axes, image: Image, cmap: str, norm: Normalize) -> Any:
    colours = ax.imshow(image, origin="lower", cmap=cmap, norm=norm, interpolation="nearest")
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(-0.5, image.shape[0] - 0.5)
    return colours


def _bar_ticks(norm: AsinhNorm) -> list[float]:
    """Zero and the powers of ten that lie well apart from it and from the bar's end."""
    zero = float(norm(0.0))
    powers = [10.0**k for k in range(-8, 9) if zero + 0.12 < float(norm(10.0**k)) < 0.97]
    return [0.0, *powers]


def _colour_bar(ax: Axes, colours: Any, label: str, ticks: list[float]) -> None:
    inset = ax.inset_axes((0.05, -0.055, 0.9, 0.03))
    bar = ax.figure.colorbar(colours, cax=inset, orientation="horizontal", ticks=ticks)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7, pad=1, length=2)
    bar.ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    if label:
        bar.ax.text(1.0, -3.2, label, transform=bar.ax.transAxes, fontsize=7, ha="right", va="top")


def _mark_ellipse(ax: Axes, galaxy: Any, colour: str) -> None:
    """Draw the ellipse of half light, and the centre."""
    ax.add_patch(
        Ellipse(
            (galaxy.x_0, galaxy.y_0), 2.0 * galaxy.r_eff, 2.0 * galaxy.r_eff * (1.0 - galaxy.ellip),
            angle=float(np.rad2deg(galaxy.theta)), fill=False, edgecolor=colour, linewidth=1.0,
        )
    )  # fmt: skip


def _scale_bar(ax: Axes, panel: Panel) -> None:
    """Draw a bar of a round number of arcsec, about a quarter of the image."""
    width = panel.data.shape[1] * panel.pixel_scale
    length = max((s for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0) if s < 0.35 * width), default=0.1)
    x0, y0 = 0.05 * panel.data.shape[1], 0.06 * panel.data.shape[0]
    ax.plot([x0, x0 + length / panel.pixel_scale], [y0, y0], color="white", linewidth=2.5, solid_capstyle="butt")
    ax.text(x0, y0 + 0.025 * panel.data.shape[0], f'{length:g}"', color="white", fontsize=9, va="bottom")


def _plain(value: float, _position: int | None) -> str:
    return f"{value:g}"


def _draw_profile(top: Axes, bottom: Axes, panel: Panel) -> None:
    """Draw brightness against semi-major axis, and data minus model below."""
    for ax in (top, bottom):
        ax.yaxis.tick_right()
        ax.yaxis.set_label_position("right")
        ax.tick_params(labelsize=8)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(_plain))
        ax.grid(alpha=0.3)
    top.tick_params(labelbottom=False)
    if not panel.components:
        return
    galaxy = panel.components[0]
    profile = elliptical_profile(panel.cleaned, panel.sersic, galaxy)
    radius = profile.radius * panel.pixel_scale
    in_magnitudes = panel.unit == "MJy/sr"
    zero = MJY_SR_ZERO_POINT if in_magnitudes else 0.0
    good = (profile.data > 0.0) & (profile.model > 0.0)
    # error bars to the zero line would swallow the axis: show points of 1 sigma and better
    good &= ~(profile.data_err > profile.data)
    radius, data, model = radius[good], profile.data[good], profile.model[good]
    error = 2.5 / np.log(10.0) * profile.data_err[good] / data
    brightness = zero - 2.5 * np.log10(np.stack([data, model]))
    top.errorbar(radius, brightness[0], error, fmt="o", ms=3.5, color=_BLACK, label="cleaned data", zorder=3)
    top.plot(radius, brightness[1], color=_ORANGE, lw=1.8, label="Sersic model")
    top.axvline(galaxy.r_eff * panel.pixel_scale, color=_BLUE, lw=1.0, ls="--", label="r_eff")
    bottom.axvline(galaxy.r_eff * panel.pixel_scale, color=_BLUE, lw=1.0, ls="--")
    bottom.axhline(0.0, color=_ORANGE, lw=1.2)
    bottom.errorbar(radius, brightness[0] - brightness[1], error, fmt="o", ms=3.5, color=_BLACK)
    bottom.set_ylim(0.32, -0.32)
    top.invert_yaxis()
    bottom.set_xlim(top.get_xlim())
    top.set_ylabel("mag / arcsec$^2$" if in_magnitudes else f"-2.5 log10({panel.unit})", fontsize=8)
    bottom.set_ylabel("data - model", fontsize=8)
    top.legend(fontsize=7, loc="lower left", framealpha=0.8)
    bottom.set_xlabel("semi-major axis, arcsec", fontsize=8, labelpad=1)

"""Draw the images of a filter: data, models, residual, isophotes, and the PSF before and after its kernel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from scipy import ndimage

from sphot_mpi.qa.panels import Panel
from sphot_mpi.qa.style import BLACK, BLUE, BRIGHTNESS, DIFFERENCE, NO_DATA, ORANGE, bar_length
from sphot_mpi.records import Image, SersicParams
from sphot_mpi.robust import robust_sigma

#: Ranges of the residual's colours, sigma.
_RESIDUAL_RANGES = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
#: Percentile of an image at the upper end of its colours: a galaxy's core shows, a single bad pixel does not rule.
_BRIGHTEST = 99.97
#: Isophotes are drawn on data smoothed by this sigma, px, down to so many sigma of their noise, a magnitude apart.
_SMOOTH, _FAINTEST, _STEP = 1.5, 3.0, 10.0**0.4
#: Half-size of the isophotes' frame: in r_eff, and at least so many px.
_FRAME, _SMALLEST_FRAME = 3.0, 20.0


def draw_images(axes: Sequence[Axes], panel: Panel) -> None:
    """Draw data, Sersic, sources and cleaned at one stretch, and the residual in units of the noise."""
    shown = panel.data - panel.sky
    norm = common_norm(shown, panel.noise)
    for ax, image in zip(axes, (shown, panel.sersic, panel.sources, panel.cleaned), strict=False):
        colours = _show(ax, image, BRIGHTNESS, norm)
        _colour_bar(ax, colours, panel.unit, _bar_ticks(norm))
    pull = panel.residual / sigma_of(panel)
    top = _residual_range(pull)
    colours = _show(axes[4], pull, DIFFERENCE, Normalize(-top, top))
    _colour_bar(axes[4], colours, "sigma", [-top, 0.0, top])
    for component in panel.components:
        _mark_ellipse(axes[0], component, "white")
        _mark_ellipse(axes[4], component, BLACK)
    if panel.check is not None and panel.check.x.size:
        axes[2].scatter(panel.check.x, panel.check.y, s=42, facecolors="none", edgecolors="white", linewidths=0.9)
        _caption(axes[2], f"circles: {panel.check.x.size} PSF anchors", "white")
    _mark_aperture(axes[0], panel)
    _scale_bar(axes[0], panel.pixel_scale, "white")


def _residual_range(pull: Image) -> float:
    """Five sigma, or a round number that most of a larger residual stays below."""
    high = float(np.percentile(np.abs(pull[np.isfinite(pull)]), 98.0))
    return next((top for top in _RESIDUAL_RANGES if high <= top), _RESIDUAL_RANGES[-1])


def sigma_of(panel: Panel) -> float:
    """Return the pixel noise, or the residual's scatter where it is not known."""
    return panel.noise if panel.noise > 0.0 else max(float(np.nanstd(panel.residual)), 1e-300)


def common_norm(shown: Image, noise: float) -> AsinhNorm:
    """Linear to a few sigma, logarithmic above, up to the brightest pixels but for some hundredths of a percent."""
    finite = shown[np.isfinite(shown)]
    sigma = noise if noise > 0.0 else robust_sigma(finite)
    sigma = max(sigma, 1e-6 * float(np.abs(finite).max()), 1e-300)
    top = max(float(np.percentile(finite, _BRIGHTEST)), 10.0 * sigma)
    return AsinhNorm(linear_width=3.0 * sigma, vmin=-3.0 * sigma, vmax=top)


def _show(ax: Axes, image: Image, cmap: str, norm: Normalize) -> Any:
    colours = ax.imshow(image, origin="lower", cmap=cmap, norm=norm, interpolation="nearest")
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(-0.5, image.shape[0] - 0.5)
    return colours


def _bar_ticks(norm: AsinhNorm) -> list[float]:
    """Zero and the powers of ten that lie well apart from it and from the bar's end."""
    zero = float(norm(0.0))
    powers = [10.0**k for k in range(-8, 9) if zero + 0.24 < float(norm(10.0**k)) < 0.97]
    return [0.0, *powers]


def _colour_bar(ax: Axes, colours: Any, unit: str, ticks: list[float]) -> None:
    inset = ax.inset_axes((0.05, -0.045, 0.9, 0.025))
    bar = ax.figure.colorbar(colours, cax=inset, orientation="horizontal", ticks=ticks)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7.5, pad=1, length=2)
    # a unit beside the last tick would overlap it: it goes with the zero, the only tick that is always there
    bar.ax.set_xticks(ticks, [f"0 {unit}".rstrip() if tick == 0.0 else f"{tick:g}" for tick in ticks])


def _mark_aperture(ax: Axes, panel: Panel) -> None:
    """Draw the aperture of the photometry, where there is one, and say what the ellipses are."""
    radius = panel.photometry.get("radius", float("nan"))
    if panel.components and np.isfinite(radius):
        shape = {key: panel.photometry.get(key, getattr(panel.components[0], key)) for key in ("ellip", "theta")}
        _mark_ellipse(ax, replace(panel.components[0], r_eff=radius, **shape), "white", "--")
        _caption(ax, "solid: half light, dashed: aperture", "white")
    elif panel.components:
        _caption(ax, "ellipse: half light", "white")


def _mark_ellipse(ax: Axes, galaxy: SersicParams, colour: str, style: str = "-") -> None:
    """Draw the ellipse of half light."""
    ax.add_patch(
        Ellipse(
            (galaxy.x_0, galaxy.y_0), 2.0 * galaxy.r_eff, 2.0 * galaxy.r_eff * (1.0 - galaxy.ellip),
            angle=float(np.rad2deg(galaxy.theta)), fill=False, edgecolor=colour, linewidth=1.1, linestyle=style,
            path_effects=_outline(colour),
        )
    )  # fmt: skip


def _caption(ax: Axes, text: str, colour: str) -> None:
    ax.text(
        0.03, 0.965, text, transform=ax.transAxes, color=colour, fontsize=8.5, va="top", path_effects=_outline(colour)
    )


def _outline(colour: str) -> list[patheffects.AbstractPathEffect]:
    """Keep text readable on any image."""
    return [patheffects.withStroke(linewidth=2.0, foreground=BLACK if colour == "white" else "white", alpha=0.6)]


def _scale_bar(ax: Axes, pixel_scale: float, colour: str) -> None:
    """Draw a bar of a round number of arcsec, about a quarter of the frame."""
    (x_low, x_high), (y_low, y_high) = ax.get_xlim(), ax.get_ylim()
    length = bar_length((x_high - x_low) * pixel_scale)
    x, y = x_low + 0.05 * (x_high - x_low), y_low + 0.06 * (y_high - y_low)
    ax.plot([x, x + length / pixel_scale], [y, y], color=colour, linewidth=2.5, solid_capstyle="butt")
    ax.text(
        x,
        y + 0.02 * (y_high - y_low),
        f'{length:g}"',
        color=colour,
        fontsize=9,
        va="bottom",
        path_effects=_outline(colour),
    )


def _smoothed(image: Image) -> Image:
    """Smooth by a Gaussian, pixels without data left out."""
    good = np.isfinite(image)
    weight = ndimage.gaussian_filter(good.astype(float), _SMOOTH)
    value = ndimage.gaussian_filter(np.where(good, image, 0.0), _SMOOTH)
    return np.where(weight > 0.2, value / np.maximum(weight, 0.2), np.nan)


def draw_isophotes(ax: Axes, panel: Panel) -> None:
    """Draw contours of the cleaned data and of the Sersic model at the same levels, a magnitude apart."""
    data, model = _smoothed(panel.cleaned), _smoothed(panel.sersic)
    norm = common_norm(panel.cleaned, panel.noise)
    ax.imshow(panel.cleaned, origin="lower", cmap="gray_r", norm=norm, interpolation="nearest", alpha=0.55)
    galaxy = panel.components[0]
    half = max(_FRAME * galaxy.r_eff, _SMALLEST_FRAME)
    half = min(half, 0.5 * max(panel.data.shape))
    ax.set_xlim(galaxy.x_0 - half, galaxy.x_0 + half)
    ax.set_ylim(galaxy.y_0 - half, galaxy.y_0 + half)
    ax.set_facecolor(NO_DATA)
    # smoothing by sigma s lowers white noise by 2 sqrt(pi) s; what the stars leave is correlated, and often more
    left = data - model
    scatter = robust_sigma(left[~np.isnan(left)])
    faintest = _FAINTEST * max(sigma_of(panel) / (2.0 * np.sqrt(np.pi) * _SMOOTH), scatter)
    brightest = float(np.nanmax(model))
    levels = [brightest / _STEP ** (k + 0.5) for k in range(8) if brightest / _STEP ** (k + 0.5) > faintest][::-1]
    if levels:
        ax.contour(data, levels=levels, colors=BLUE, linewidths=0.9)
        ax.contour(model, levels=levels, colors=ORANGE, linewidths=1.5, linestyles="--")
    lines = [Line2D([], [], color=BLUE, lw=0.9), Line2D([], [], color=ORANGE, lw=1.5, ls="--")]
    ax.legend(lines, ["cleaned data", "model"], fontsize=8, loc="upper left", framealpha=0.85, borderpad=0.3)
    _scale_bar(ax, panel.pixel_scale, BLACK)
    ax.text(0.5, -0.02, "1 mag apart", transform=ax.transAxes, fontsize=8, ha="center", va="top")


def draw_kernel_images(axes: Sequence[Axes], panel: Panel) -> None:
    """Draw the PSF before and after its kernel, and the anchors' stacked residual with either."""
    check = panel.check
    for ax in axes:
        ax.set(xticks=[], yticks=[], facecolor=NO_DATA)
    if check is None:
        for ax in axes:
            ax.set_axis_off()
        axes[0].text(0.0, 1.0, "PSF library\nnot at hand", transform=axes[0].transAxes, fontsize=9, va="top")
        return
    size = check.half + 0.5
    extent = (-size, size, -size, size)
    peak = float(check.library.max())
    for ax, image, label in ((axes[0], check.library, "library PSF"), (axes[1], check.working, "with kernel")):
        # cividis's lowest colour stands for all that is 10,000 times fainter than the peak, or negative
        shown = np.maximum(image, 1e-4 * peak)
        colours = ax.imshow(shown, origin="lower", cmap=BRIGHTNESS, norm=LogNorm(1e-4 * peak, peak), extent=extent)
        ax.set_title(label, fontsize=9, pad=3)
    _side_bar(axes[1], colours, "flux / px")
    top = max(float(np.nanmax(np.abs(check.before), initial=0.0)), 2.0) if check.x.size else 2.0
    limits = Normalize(-top, top)
    for ax, image, label in ((axes[2], check.before, "stack before"), (axes[3], check.after, "stack after")):
        colours = ax.imshow(image, origin="lower", cmap=DIFFERENCE, norm=limits, extent=extent)
        rms = f", rms {np.sqrt(np.nanmean(image**2)):.1f} %" if np.isfinite(image).any() else ": no anchor"
        ax.set_title(label + rms, fontsize=9, pad=3)
    _side_bar(axes[3], colours, "% of peak")


def _side_bar(ax: Axes, colours: Any, label: str) -> None:
    inset = ax.inset_axes((1.03, 0.0, 0.05, 1.0))
    bar = ax.figure.colorbar(colours, cax=inset)
    bar.ax.tick_params(labelsize=7.5, pad=1, length=2)
    bar.set_label(label, fontsize=8)

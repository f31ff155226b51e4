"""Draw the fit of a galaxy on a figure: a block of two rows a filter, images above curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure, SubFigure

from sphot_mpi.qa.draw_curves import draw_petrosian, draw_profile, draw_psf
from sphot_mpi.qa.draw_images import draw_images, draw_isophotes, draw_kernel_images
from sphot_mpi.qa.panels import Panel
from sphot_mpi.qa.style import NO_DATA, flag_words, with_error, wrapped

COLUMNS = ("data - sky", "Sersic model", "point sources", "cleaned: data - sources", "residual / noise", "isophotes")

#: Inches: width, height of the title, of its place where there is none, and of a block; where a block's images and
#: curves begin and end, from its top.
_WIDTH, _TITLE, _MARGIN, _BLOCK = 16.5, 0.5, 0.05, 6.95
#: The same of a filter without data.
_NOTHING = 0.6
_IMAGES, _CURVES, _STAMPS = (1.1, 3.62), (4.22, 6.44), (4.22, 6.82)
#: Lines of words above the images, and characters of a line.
_LINES, _CHARACTERS = 3, 245


def figure_for(panels: Sequence[Panel], *, titled: bool = True) -> Figure:
    """Return an empty figure with room for these filters, and for a title."""
    height = (_TITLE if titled else _MARGIN) + sum(map(_height, panels))
    return Figure(figsize=(_WIDTH, height), layout=None, facecolor="white")


def draw_galaxy(figure: Figure, panels: Sequence[Panel], title: str = "") -> None:
    """Draw a block a filter: data, models, residual and isophotes; profile, Petrosian curve and PSF.

    Parameters
    ----------
    figure : Figure
        Of `figure_for`, or any other.
    panels : sequence of Panel
        From top to bottom.
    title : str
        Above all.
    """
    heights = [_height(panel) for panel in panels]
    ratios = [max(figure.get_figheight() - sum(heights), _MARGIN), *heights]
    top, *blocks = np.asarray(figure.subfigures(len(ratios), 1, height_ratios=ratios, hspace=0.0))
    # a name is text, never mathematics between dollar signs
    top.text(0.012, 0.75, title, va="top", fontsize=17, fontweight="bold", parse_math=False)
    for block, panel in zip(blocks, panels, strict=True):
        _draw_block(block, panel)


def _height(panel: Panel) -> float:
    """Height of a filter's block, inches: without data it has its heading alone."""
    return _BLOCK if np.isfinite(panel.data).any() else _NOTHING


def _draw_block(block: SubFigure, panel: Panel) -> None:
    block.set_facecolor("white")
    if not np.isfinite(panel.data).any():
        block.text(
            0.012, 1.0 - 0.1 / _NOTHING, panel.filter, fontsize=14, fontweight="bold", va="top", parse_math=False
        )
        words = "; ".join(["no data", *flag_words(panel.flags)])
        block.text(0.072, 1.0 - 0.125 / _NOTHING, words, fontsize=10.5, va="top", parse_math=False)
        return
    block.text(0.012, _up(0.1), panel.filter, fontsize=14, fontweight="bold", va="top", parse_math=False)
    block.text(0.072, _up(0.125), _numbers(panel), fontsize=10.5, va="top", parse_math=False)
    block.text(0.012, _up(0.375), _words(panel), fontsize=9, va="top", color="0.25", parse_math=False)
    top, bottom = map(_up, _IMAGES)
    grid = block.add_gridspec(1, len(COLUMNS), left=0.012, right=0.988, top=top, bottom=bottom, wspace=0.06)
    axes = [block.add_subplot(grid[column]) for column in range(len(COLUMNS))]
    for ax, label in zip(axes, COLUMNS, strict=True):
        ax.set(xticks=[], yticks=[], facecolor=NO_DATA)
        ax.set_title(label, fontsize=10, pad=4)
    draw_images(axes, panel)
    draw_isophotes(axes[5], panel)
    _draw_second_row(block, panel)


def _draw_second_row(block: SubFigure, panel: Panel) -> None:
    top, bottom = map(_up, _CURVES)
    curves = block.add_gridspec(1, 3, left=0.048, right=0.725, top=top, bottom=bottom, wspace=0.22)
    profile = curves[0].subgridspec(2, 1, height_ratios=(2.0, 1.0), hspace=0.06)
    draw_profile(block.add_subplot(profile[0]), block.add_subplot(profile[1]), panel)
    draw_petrosian(block.add_subplot(curves[1]), panel)
    draw_psf(block.add_subplot(curves[2]), panel)
    top, bottom = map(_up, _STAMPS)
    images = block.add_gridspec(2, 2, left=0.765, right=0.95, top=top, bottom=bottom, wspace=0.08, hspace=0.16)
    draw_kernel_images([block.add_subplot(images[k]) for k in range(4)], panel)


def _up(inches: float) -> float:
    """Height in a block, 0 to 1, of what lies so far below its top."""
    return 1.0 - inches / _BLOCK


def _words(panel: Panel) -> str:
    """Return the lines below the heading: aperture and further components, flags."""
    first = [*_aperture(panel), *_second(panel)]
    flags = flag_words(panel.flags)
    most = _LINES - bool(first)
    shown = len(flags)
    while True:
        left_out = [f"and {len(flags) - shown} more"] if shown < len(flags) else []
        text = wrapped(["Flags: " + flags[0], *flags[1:shown], *left_out], _CHARACTERS) if flags else "No flags."
        if text.count("\n") < most or shown <= 1:
            return "\n".join([*(["    ".join(first)] if first else []), text])
        shown -= 1


def _numbers(panel: Panel) -> str:
    """Return the block's heading: the fit's parameters."""
    if not panel.components:
        return "no fit"
    galaxy = panel.components[0]
    parts = [f"total {with_error(panel.magnitude, panel.magnitude_err, 3)} AB"] if np.isfinite(panel.magnitude) else []
    parts += [
        f'r_eff {galaxy.r_eff:.2f} px = {galaxy.r_eff * panel.pixel_scale:.3f}"',
        f"n {galaxy.n:.2f}",
        f"ellip {galaxy.ellip:.3f}",
        f"theta {np.rad2deg(galaxy.theta):.1f} deg",
        f"PSF kernel {panel.kernel}",
        f"FWHM {panel.fwhm:.2f} px",
        f"chi2 {panel.chi2_reduced:.2f}",
        f"{panel.n_sources} sources",
    ]
    return "    ".join(parts)


def _aperture(panel: Panel) -> list[str]:
    """Return what the aperture photometry found, as far as there is any."""
    values = panel.photometry
    radius, flux, snr = (values.get(key, float("nan")) for key in ("radius", "flux", "snr"))
    if not np.isfinite([radius, flux]).all():
        return []
    magnitude = values.get("mag_corr", float("nan"))
    measured = f"{with_error(magnitude, values.get('mag_corr_err', float('nan')), 3)} AB, PSF-corrected"
    if not np.isfinite(magnitude):
        measured = f"flux {with_error(flux, values.get('flux_err', float('nan')), 3)} {panel.unit} px, no magnitude"
    return [f'Aperture {radius:.1f} px = {radius * panel.pixel_scale:.3f}": {measured}, S/N {snr:.3g}']


def _second(panel: Panel) -> list[str]:
    return [
        f"{nth} component r_eff {c.r_eff:.2f} px, n {c.n:.2f}, ellip {c.ellip:.3f}"
        for nth, c in zip(("Second", "Third"), panel.components[1:], strict=False)
    ]

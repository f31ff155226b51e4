"""Draw the curves of a filter: brightness profile, Petrosian index and growth, PSF and anchors."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from sphot_mpi.petrosian import GrowthCurve
from sphot_mpi.qa.panels import Panel
from sphot_mpi.qa.profile import MJY_SR_ZERO_POINT, elliptical_profile, growth_in_cutout
from sphot_mpi.qa.style import BLACK, BLUE, GREEN, ORANGE, plain
from sphot_mpi.records import Vector

_MAGNITUDE = 2.5 / np.log(10.0)
#: Below this an index is too near to zero to divide by.
_LEAST_INDEX = 0.02
#: Least and largest range of the profile's residuals, mag.
_RESIDUAL_RANGE = (0.2, 1.0)


def _prepared(ax: Axes, x_label: str) -> None:
    ax.tick_params(labelsize=8.5)
    ax.grid(alpha=0.3)
    ax.set_xlabel(x_label, fontsize=9, labelpad=1)


def draw_profile(top: Axes, bottom: Axes, panel: Panel) -> None:
    """Draw brightness against semi-major axis, and data minus model below."""
    for ax in (top, bottom):
        _prepared(ax, "semi-major axis, arcsec")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(plain))
        ax.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _position: ""))
    top.tick_params(labelbottom=False)
    top.set_xlabel("")
    galaxy = panel.components[0]
    profile = elliptical_profile(panel.cleaned, panel.sersic, galaxy)
    in_magnitudes = panel.unit == "MJy/sr"
    zero = MJY_SR_ZERO_POINT if in_magnitudes else 0.0
    good = (profile.data > 0.0) & (profile.model > 0.0)
    # error bars to the zero line would swallow the axis: show points of 1 sigma and better
    good &= ~(profile.data_err > profile.data)
    radius = profile.radius[good] * panel.pixel_scale
    error = _MAGNITUDE * profile.data_err[good] / profile.data[good]
    brightness = zero - 2.5 * np.log10(np.stack([profile.data[good], profile.model[good]]))
    top.errorbar(radius, brightness[0], error, fmt="o", ms=4, color=BLACK, label="cleaned data", zorder=3)
    top.plot(radius, brightness[1], color=ORANGE, lw=2.0, label="Sersic model")
    for ax in (top, bottom):
        ax.axvline(galaxy.r_eff * panel.pixel_scale, color=BLUE, lw=1.2, ls="--", label="r_eff")
    bottom.axhline(0.0, color=ORANGE, lw=1.5)
    bottom.errorbar(radius, brightness[0] - brightness[1], error, fmt="o", ms=4, color=BLACK)
    largest = float(np.nanmax(np.abs(brightness[0] - brightness[1]), initial=0.0))
    half = float(np.clip(1.2 * largest, *_RESIDUAL_RANGE))
    bottom.set_ylim(1.2 * half, -1.2 * half)
    top.invert_yaxis()
    bottom.set_xlim(top.get_xlim())
    label = "mag / arcsec$^2$" if in_magnitudes else f"-2.5 log10({panel.unit})"
    top.set_ylabel(label, fontsize=9)
    bottom.set_ylabel("\u0394 mag", fontsize=9)
    for ax in (top, bottom):
        ax.yaxis.set_label_coords(-0.165, 0.5)
    top.set_title("surface brightness", fontsize=10, pad=4)
    top.legend(fontsize=8, loc="lower left", framealpha=0.85)


def draw_petrosian(ax: Axes, panel: Panel) -> None:
    """Draw the Petrosian index and the enclosed part of the total flux; both run from 0 to 1.

    Those of the aperture photometry, where the file has them; otherwise in the galaxy's own ellipses.
    """
    _prepared(ax, "semi-major axis, arcsec")
    for curve, index, label in _curves(panel):
        radius, measured = curve.radius * panel.pixel_scale, label == "data"
        style, colour = ("o", BLACK) if measured else ("-", ORANGE)
        ax.plot(radius, index, style, ms=3.5, lw=2.0, color=colour, label=f"Petrosian index, {label}")
        if panel.total_flux > 0.0:
            style = "^" if measured else "--"
            share = curve.flux / panel.total_flux
            ax.plot(radius, share, style, ms=3.5, lw=1.5, color=GREEN, label=f"flux inside / total, {label}")
    _mark_aperture(ax, panel)
    ax.set_ylim(0.0, 1.55)
    ax.set_xlim(left=0.0)
    ax.set_title("Petrosian curve and growth", fontsize=10, pad=4)
    ax.legend(fontsize=7.5, loc="upper center", ncols=2, framealpha=0.85, columnspacing=1.0)


def _curves(panel: Panel) -> list[tuple[GrowthCurve, Vector, str]]:
    """Return curve, index and label of data and model."""
    if panel.curve is not None:
        radius, flux, index, model_flux = panel.curve
        area = np.pi * radius**2
        data, model = (GrowthCurve(radius=radius, area=area, flux=values) for values in (flux, model_flux))
        return [(data, index, "data"), (model, model.index() * _flattening(index, data.index()), "model")]
    galaxy = panel.components[0]
    data, model = (growth_in_cutout(image, panel.sersic, galaxy) for image in (panel.cleaned, panel.sersic))
    return [(data, data.index(), "data"), (model, model.index(), "model")]


def _flattening(index: Vector, round_index: Vector) -> Vector:
    """Factor between the index in the photometry's ellipses and that of circles of the same semi-major axes.

    It is that of the areas, whatever the light is: the data tell it wherever they have an index.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = index / round_index
    told = np.isfinite(factor) & (np.abs(round_index) > _LEAST_INDEX)
    if not told.any():
        return np.ones(index.size)
    places = np.arange(index.size, dtype=np.float64)
    return np.asarray(np.interp(places, places[told], factor[told]))


def _mark_aperture(ax: Axes, panel: Panel) -> None:
    """Mark the index that is asked for, and the radii that /photometry holds."""
    if np.isfinite(panel.petrosian):
        ax.axhline(panel.petrosian, color="0.5", lw=1.0, ls=":")
    for key, label, style in (("radius", "aperture", "--"), ("petro_radius", "Petrosian radius", ":")):
        radius = panel.photometry.get(key, float("nan"))
        if np.isfinite(radius):
            ax.axvline(radius * panel.pixel_scale, color=BLUE, lw=1.4, ls=style, label=label)


def draw_psf(ax: Axes, panel: Panel) -> None:
    """Draw the anchors' light against the PSF before and after its kernel."""
    _prepared(ax, "distance from the star, px")
    ax.set_title("PSF and its anchors", fontsize=10, pad=4)
    check = panel.check
    if check is None:
        ax.text(0.5, 0.5, "\n".join(_broken(panel.check_note)), transform=ax.transAxes, fontsize=8, ha="center")
        return
    label = f"library PSF, FWHM {check.library_fwhm:.2f} px"
    ax.plot(check.psf_radius, check.psf_library, color=BLUE, lw=1.6, ls="--", label=label)
    label = f"with kernel, FWHM {check.working_fwhm:.2f} px"
    ax.plot(check.psf_radius, check.psf_working, color=ORANGE, lw=2.0, label=label)
    if check.radius.size:
        # on a logarithmic axis a point needs light; its bar may end at the axis
        seen = check.light > 0.0
        bars = np.stack([check.light - check.light_low, check.light_high - check.light])[:, seen]
        label = f"{check.x.size} bright stars"
        label += f"; the kernel used {check.n_anchors}" if check.n_anchors else ""
        ax.errorbar(
            check.radius[seen], check.light[seen], np.maximum(bars, 0.0), fmt="o", ms=3.5, lw=0.8, color=BLACK,
            label=label, zorder=3,
        )  # fmt: skip
    top = max(check.psf_library.max(), check.psf_working.max())
    ax.set_yscale("log")
    ax.set_ylim(1e-4 * top, 2.0 * top)
    ax.set_xlim(0.0, check.half)
    ax.set_ylabel("light per flux, 1 / px", fontsize=9)
    ax.legend(fontsize=8, loc="upper right", framealpha=0.85)


def _broken(text: str, width: int = 48) -> list[str]:
    return [text[k : k + width] for k in range(0, len(text), width)]

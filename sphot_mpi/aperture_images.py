"""The images on which apertures are laid: a fit's named stages, holes filled, on a canvas wider than the cutout."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from sphot_mpi.background import outlier_mask
from sphot_mpi.config_sections import ApertureConfig, PsfConfig, Stage
from sphot_mpi.ellipses import Ellipse, EllipseFamily
from sphot_mpi.model_images import render_modulated, render_sources
from sphot_mpi.noise import error_map
from sphot_mpi.psf_correction import View
from sphot_mpi.records import Cutout, FilterFit, Image, Mask, SersicParams
from sphot_mpi.sersic import total_flux
from sphot_mpi.unseen_light import EDGES, FIELD, LEAST_FIELD, half_light_distance, render_unseen

#: Least width of the annuli in which holes are filled, px.
FILL_WIDTH = 1.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilterImages:
    """One filter's images on the canvas: the cutout with a margin on all sides.

    Parameters
    ----------
    view : View
        The fit, with PSF and renderer on the canvas.
    cutout : Cutout
        What was fitted.
    margin : int
        Pixels added on each side.
    components : tuple of SersicParams
        The galaxy in the canvas' pixel frame.
    mode_light : float
        Light that its modes add to the components.
    sersic : (my, mx) float64 ndarray
        The model galaxy.
    sources : (ny, nx) float64 ndarray
        All point sources, on the cutout.
    outside : (ny, nx) float64 ndarray
        Expected light of stars beyond the data, on the cutout.
    rings : tuple of FaintRing
        Stars too faint to be found on the galaxy.
    """

    view: View
    cutout: Cutout
    margin: int
    components: tuple[SersicParams, ...]
    mode_light: float
    sersic: Image
    sources: Image
    outside: Image
    rings: tuple["FaintRing", ...]

    @classmethod
    def of(cls, view: View, cutout: Cutout, margin: int) -> "FilterImages":
        """Render what a fit has found."""
        components = on_canvas(view.fit.components, margin)
        sersic = render_modulated(view.renderer, components, view.fit)
        modulated = float((sersic - view.renderer.render_params(components)).sum()) if view.fit.modes else 0.0
        return cls(
            view=view,
            cutout=cutout,
            margin=margin,
            components=components,
            mode_light=modulated,
            sersic=sersic,
            sources=render_sources(view.fit, view.psf, cutout.shape),
            # the faint stars' light on the galaxy is told anew: see `faint_rings`
            outside=render_unseen(replace(view.fit.unseen, faint=()), (), cutout.usable, view.psf),
            rings=tuple(faint_rings(view.fit, cutout)),
        )

    @property
    def total(self) -> float:
        """Flux of the galaxy's model, to infinity."""
        return sum(total_flux(c) for c in self.components) + self.mode_light

    @property
    def faint(self) -> Image:
        """Mean light of the stars too faint to be found on the galaxy, on the cutout."""
        return light_of_rings(self.rings, self.cutout.shape)

    @property
    def inner(self) -> tuple[slice, slice]:
        """Where the cutout lies on the canvas."""
        ny, nx = self.cutout.shape
        return slice(self.margin, self.margin + ny), slice(self.margin, self.margin + nx)

    def stage(self, name: Stage, psf_config: PsfConfig) -> Image:
        """Return a stage of the fit on the cutout, above the fit's sky; NaN where there are no data.

        Parameters
        ----------
        name : str
            "data", "sersic_modelimg", "psf_modelimg", "sersic_residual" (data - galaxy), "psf_sub_data" (data -
            sources), "residual" (data - both), "residual_masked" (the same without its outliers).
        psf_config : PsfConfig
            For the outliers.
        """
        galaxy = self.sersic[self.inner]
        stars = self.sources + self.outside + self.faint
        if name == "sersic_modelimg":
            return galaxy
        if name == "psf_modelimg":
            return stars
        data = np.where(self.cutout.mask, np.nan, self.cutout.data) - self.view.fit.sky.render(self.cutout.shape)
        if name in ("sersic_residual", "residual", "residual_masked"):
            data = data - galaxy
        if name in ("psf_sub_data", "residual", "residual_masked"):
            data = data - stars
        if name == "residual_masked":
            main = max(self.view.fit.components, key=total_flux, default=None)
            data = np.where(outlier_mask(data, self.cutout.mask, main, psf_config), np.nan, data)
        return data

    def error(self) -> Image:
        """1-sigma noise of the cutout's pixels; measured on the data where no error map is given."""
        if self.cutout.error is not None:
            return np.where(self.cutout.mask, np.nan, self.cutout.error)
        return np.where(self.cutout.mask, np.nan, error_map(self.cutout.data, self.cutout.mask))

    def canvas(self, image: Image) -> Image:
        """Return an image of the cutout on the canvas, NaN around it."""
        return np.pad(image, self.margin, constant_values=np.nan)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Rows of the fit's table of sources with a position and a flux."""
        table = self.view.fit.sources
        return np.asarray(np.isfinite(table["x_fit"]) & np.isfinite(table["y_fit"]) & np.isfinite(table["flux_fit"]))

    def hidden(self, coverage: Image) -> NDArray[np.float64]:
        """How many stars like each of the table's are expected on a part of the galaxy, and could not be found there.

        Parameters
        ----------
        coverage : (ny, nx) float64 ndarray
            The part as weights, on the cutout.
        """
        expected = np.zeros(self.view.fit.sources.size)
        for ring in self.rings:
            expected[ring.stars] += ring.share * float(coverage[ring.pixels].sum()) / ring.field_area
        return expected

    def star_parts(self, coverage: Image) -> tuple[NDArray[np.void], NDArray[np.float64]]:
        """Return the stars with a position and a flux, and the part of each one's light that a weight image takes in.

        Parameters
        ----------
        coverage : (my, mx) float64 ndarray
            Weights, on the canvas.
        """
        table = self.view.fit.sources[self.known]
        if table.size == 0:
            return table, np.zeros(0)
        where = [table["y_fit"] + self.margin, table["x_fit"] + self.margin]
        return table, ndimage.map_coordinates(self.part_inside(coverage), where, order=1, mode="constant")

    def part_inside(self, coverage: Image) -> Image:
        """Part of the light of a star at each pixel of the canvas that a weight image on it takes in."""
        return np.asarray(signal.fftconvolve(coverage, self.view.psf.pixel_image()[::-1, ::-1], mode="same"))


def on_canvas(components: Sequence[SersicParams], margin: int) -> tuple[SersicParams, ...]:
    """Return components displaced by the canvas' margin."""
    return tuple(replace(c, x_0=c.x_0 + margin, y_0=c.y_0 + margin) for c in components)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FaintRing:
    """An annulus of the galaxy and the field's stars that could not be found in it.

    Parameters
    ----------
    pixels : (ny, nx) bool ndarray
        The annulus, on the cutout.
    stars : (n,) int64 ndarray
        Rows of the fit's table of sources: the field's stars below the annulus' limit.
    light : float
        Mean light of those that are missing in the annulus, data unit.
    share : float
        Part of the expected light that is missing, 0 to 1.
    field_area : float
        Pixels of the field.
    """

    pixels: Mask
    stars: NDArray[np.int64]
    light: float
    share: float
    field_area: float


def faint_rings(fit: FilterFit, cutout: Cutout) -> list[FaintRing]:
    """Return what is missing, against the field, of the stars on the galaxy.

    The joint fit shrinks what is missing by its uncertainty. A sum over an aperture must not: its mean would be wrong.

    Parameters
    ----------
    fit : FilterFit
        With `faint_limits`, the base filter's flux to which stars are found in each annulus of the galaxy.
    cutout : Cutout
        What was fitted.

    Returns
    -------
    list of FaintRing
        Empty where the fit knows no limits.
    """
    table = fit.sources
    known = np.flatnonzero(np.isfinite(table["x_fit"]) & np.isfinite(table["y_fit"]))
    if not fit.components or not fit.faint_limits or known.size == 0:
        return []
    radius = half_light_distance(fit.components, cutout.shape)
    field = ~cutout.mask & (radius > FIELD)
    if field.sum() < LEAST_FIELD:
        return []
    y, x = np.rint(table["y_fit"][known]).astype(int), np.rint(table["x_fit"][known]).astype(int)
    on_image = (x >= 0) & (y >= 0) & (x < cutout.shape[1]) & (y < cutout.shape[0])
    known, x, y = known[on_image], x[on_image], y[on_image]
    flux, first = table["flux_fit"][known], table["flux_init"][known]
    in_field, field_area = field[y, x], float(field.sum())
    # all filters choose by the base filter's flux; a star far brighter here than its colour lets expect is found here
    typical = typical_colour(flux[in_field & (first > 0.0)], first[in_field & (first > 0.0)])
    measure = np.maximum(first, flux / typical)
    found = []
    for low, high, limit in zip(EDGES[:-1], EDGES[1:], fit.faint_limits, strict=True):
        ring = (radius >= low) & (radius < high)
        if not ring.any():
            continue
        there, here = in_field & (measure < limit), ring[y, x] & (measure < limit)
        expected = float(flux[there].sum()) / field_area
        light = max(expected - float(flux[here].sum()) / float(ring.sum()), 0.0)
        share = min(light / expected, 1.0) if expected > 0.0 else 0.0
        found.append(FaintRing(pixels=ring, stars=known[there], light=light, share=share, field_area=field_area))
    return found


def typical_colour(flux: NDArray[np.float64], base_flux: NDArray[np.float64]) -> float:
    """Typical colour of stars as a flux ratio; 1 where there is no star to tell it."""
    total = float(base_flux.sum())
    ratio = float(flux.sum()) / total if total > 0.0 else 1.0
    return ratio if ratio > 0.0 else 1.0


def light_of_rings(rings: Sequence[FaintRing], shape: tuple[int, int]) -> Image:
    """Return the mean light of the stars on the galaxy that only the field shows, (ny, nx), data unit."""
    image = np.zeros(shape)
    for ring in rings:
        image[ring.pixels] = ring.light
    return image


def filled(image: Image, model: Image, family: EllipseFamily, reach: float, config: ApertureConfig) -> Image:
    """Fill the holes of an image annulus by annulus.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        NaN where there are no data.
    model : (ny, nx) float64 ndarray
        What stands in for them where an annulus has too few.
    family : EllipseFamily
        Edges of the annuli.
    reach : float
        Semi-major axis of the largest, px; beyond it all holes get the model.
    config : ApertureConfig
        `fill_replace_with` and `fill_max_nan_frac` are used.

    Returns
    -------
    (ny, nx) float64 ndarray
        Without NaN. A hole gets the model where more than `fill_max_nan_frac` of its annulus is missing; elsewhere the
        annulus' median. That is the median of what the data exceed the model, put on the model, so that the fall of
        the light across the annulus is kept.
    """
    holes = np.isnan(image)
    if not holes.any():
        return image
    result = np.where(holes, model, image)
    if config.fill_replace_with != "median":
        return result
    shape = (image.shape[0], image.shape[1])
    outer = family.at(reach).distance(shape) < 1.0
    for edge in np.arange(reach - FILL_WIDTH, -FILL_WIDTH, -FILL_WIDTH):
        if not (outer & holes).any():
            break
        inner = family.at(float(edge)).distance(shape) < 1.0 if edge > 0.0 else np.zeros(shape, dtype=bool)
        annulus = outer & ~inner
        missing = annulus & holes
        few = missing.sum() <= config.fill_max_nan_frac * annulus.sum()
        if few and 0 < missing.sum() < annulus.sum():
            result[missing] += np.median((image - model)[annulus & ~holes])
        outer = inner
    return result


def cover(ellipse: Ellipse, shape: tuple[int, int]) -> Image:
    """Part of each pixel of an image of `shape` (ny, nx) inside an ellipse."""
    image = np.zeros(shape)
    window, part = ellipse.coverage(shape)
    image[window] = part
    return image

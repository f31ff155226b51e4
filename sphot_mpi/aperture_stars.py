"""The light of stars inside an aperture: star by star, or what the field beside the galaxy lets expect.

Where the model describes the image, the fitted stars are the light to take off. A galaxy with arms and lumps is another
matter: lumps are fitted as stars, in one filter and not in the next, and colours follow. The mean light of the stars in
the field, times the area, knows nothing of the galaxy. Its error is the shot noise of the stars, which is alike in all
filters and partly cancels in a colour.

That error is worth its price where there are lumps: on the galaxy, and where it outshines the field's stars, for lumps
are a part of its light. All other stars count one by one; stars come in clusters, and over a wide aperture the mean
would lay them on the galaxy. The rare bright stars would rule the shot noise, and are no lumps: a star of flux f in the
base filter counts star by star with weight ``1 / (1 + (t / f)^4)`` and in the mean with the rest, where the field has
`aperture.stars_per_aperture` stars brighter than t in the area. For any area and any weights the estimate is unbiased.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.aperture_images import FilterImages, typical_colour
from sphot_mpi.config_sections import ApertureConfig
from sphot_mpi.flags import FitFlag
from sphot_mpi.records import Image
from sphot_mpi.unseen_light import FIELD, LEAST_FIELD, half_light_distance

Vector = NDArray[np.float64]

#: Steepness of the weight of single stars.
POWER = 4.0
#: Lumps are looked for within so many half-light radii of the galaxy's centre.
LUMPS_WITHIN = 2.0
#: A fit with one of these flags does not tell stars from the galaxy's lumps.
DOUBTFUL = FitFlag.STRUCTURED | FitFlag.STAR_EXCESS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FieldStars:
    """The stars of one filter and the field that tells their mean light.

    Parameters
    ----------
    base_id : (n,) int64 ndarray
        Id of the star in the base filter; 0: found in this filter only.
    flux : (n,) float64 ndarray
        Data unit * px.
    base_flux : (n,) float64 ndarray
        Flux in the base filter; of a star found in this filter only, what the typical colour lets expect there.
    part : (n,) float64 ndarray
        Part of the star's light inside the aperture, 0 to 1.
    may_be_lump : (n,) bool ndarray
        Whether it stands where the galaxy may have lumps.
    in_field : (n,) bool ndarray
        Whether it stands in the field.
    variance : (n,) float64 ndarray
        Of the flux; 0 where unknown.
    hidden : (n,) float64 ndarray
        How many like it are expected inside the aperture, but where lumps may be, and could not be found there.
    field_area : float
        Of the field, px.
    area : float
        Inside the aperture where lumps may be, by the light of stars there: they shine across its border; px.
    faint : float
        Light taken off inside the aperture, where lumps may be, for stars too faint to be found there.
    """

    base_id: NDArray[np.int64]
    flux: Vector
    base_flux: Vector
    part: Vector
    may_be_lump: NDArray[np.bool_]
    in_field: NDArray[np.bool_]
    variance: Vector
    hidden: Vector
    field_area: float
    area: float
    faint: float

    def by_mean(self, threshold: float) -> Vector:
        """Weight with which a star of such a flux counts in the mean, where lumps may be."""
        ratio = threshold / np.maximum(self.base_flux, 1e-300)
        return np.asarray(1.0 - 1.0 / (1.0 + np.minimum(ratio, 1e50) ** POWER))

    def excess(self, threshold: float) -> float:
        """Light inside the aperture that was taken off as stars, above what the field lets expect."""
        light = self.by_mean(threshold) * self.flux
        mean = float(light[self.in_field].sum()) / self.field_area
        return float((light * self.part)[self.may_be_lump].sum()) + self.faint - self.area * mean

    def fit_variance(self, threshold: float) -> float:
        """Variance from the errors of the stars that count by themselves."""
        by_itself = 1.0 - self.may_be_lump * self.by_mean(threshold)
        return float((by_itself**2 * self.variance * self.part**2).sum())

    def shot(self, threshold: float) -> "Shot":
        """Stars whose chance number inside the aperture is an error."""
        # the field's mean has its own chance
        expected = self.area / self.field_area * (1.0 + self.area / self.field_area)
        amounts = np.sqrt(expected * self.by_mean(threshold) ** 2 + self.hidden) * self.flux
        return Shot(base_id=self.base_id[self.in_field], amount=amounts[self.in_field])

    def bright_flux(self, per_aperture: float) -> float:
        """Flux above which the field has so many stars in `area`; 0 where it has fewer in all."""
        bright_first = np.sort(self.base_flux[self.in_field])[::-1]
        if self.area <= 0.0:
            return 0.0
        count = int(per_aperture * self.field_area / self.area)
        return float(bright_first[count]) if count < bright_first.size else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shot:
    """Contributions of single stars to the shot noise of a sum of stars, with the stars' base ids."""

    base_id: NDArray[np.int64]
    amount: Vector

    def variance(self) -> float:
        """Variance of the sum."""
        return float((self.amount**2).sum())

    def colour_variance(self, flux: float, other: "Shot", other_flux: float) -> float:
        """Variance of ln(flux / other flux): a star that both filters share changes both.

        Parameters
        ----------
        flux : float
            What this sum was taken from.
        other : Shot
            Of the base filter.
        other_flux : float
            What the other sum was taken from.
        """
        size = 1 + int(max(self.base_id.max(initial=0), other.base_id.max(initial=0)))
        shared = np.zeros(size)
        known = self.base_id > 0
        np.add.at(shared, self.base_id[known], self.amount[known] / flux)
        np.add.at(shared, other.base_id, -other.amount / other_flux)
        return float((shared**2).sum() + ((self.amount[~known] / flux) ** 2).sum())


def use_field(config: ApertureConfig, base_flags: FitFlag) -> bool:
    """Whether the field tells the stars' light, by configuration and the base fit's flags."""
    if config.star_light == "auto":
        return bool(base_flags & DOUBTFUL)
    return config.star_light == "field"


def field_stars(images: FilterImages, coverage: Image, base: FilterImages) -> FieldStars | None:
    """Return the stars of a filter with their place in field and aperture.

    Parameters
    ----------
    images : FilterImages
        Of the filter.
    coverage : (my, mx) float64 ndarray
        Part of each pixel of the canvas inside the aperture, 0 where there are no data.
    base : FilterImages
        Of the base filter.

    Returns
    -------
    FieldStars or None
        None where hardly any field lies beside the galaxy, or no data in the aperture.
    """
    cutout, inside = images.cutout, coverage[images.inner]
    distance = half_light_distance(images.view.fit.components, cutout.shape)
    field = ~cutout.mask & (distance > FIELD)
    if field.sum() < LEAST_FIELD or inside.sum() <= 0.0:
        return None
    table, part = images.star_parts(coverage)
    y, x = np.rint(table["y_fit"]).astype(int), np.rint(table["x_fit"]).astype(int)
    on_image = (x >= 0) & (y >= 0) & (x < cutout.shape[1]) & (y < cutout.shape[0])
    y, x = np.where(on_image, y, 0), np.where(on_image, x, 0)
    in_field, field_area = on_image & field[y, x], float(field.sum())
    flux = np.ascontiguousarray(table["flux_fit"])
    star_light = float(flux[in_field].sum()) / field_area
    lumpy = ~cutout.mask & (distance < LUMPS_WITHIN) & (images.sersic[images.inner] > star_light)
    # of stars near a border some light crosses it
    area = float(images.part_inside(coverage)[images.inner][lumpy].sum())
    if field_area < area:
        return None
    base_table = base.view.fit.sources
    if images is base or images.view.fit is base.view.fit:
        base_id, base_flux = np.ascontiguousarray(table["id"]), flux
    else:
        by_id = np.zeros(1 + int(base_table["id"].max(initial=0)))
        by_id[base_table["id"]] = np.nan_to_num(base_table["flux_fit"])
        base_id = np.where(table["base_id"] < by_id.size, table["base_id"], 0)
        base_flux = by_id[base_id]
        typical = typical_colour(flux[in_field & (base_id > 0)], base_flux[in_field & (base_id > 0)])
        base_flux = np.where(base_id > 0, base_flux, flux / typical)
    return FieldStars(
        base_id=base_id, flux=flux, base_flux=base_flux, part=part, may_be_lump=on_image & lumpy[y, x],
        in_field=in_field, variance=np.nan_to_num(table["flux_err"]) ** 2,
        hidden=images.hidden(np.where(lumpy, 0.0, inside))[images.known], field_area=field_area, area=area,
        faint=float((inside * images.faint)[lumpy].sum()),
    )  # fmt: skip


def faint_shot(images: FilterImages, coverage: Image, base: FilterImages) -> Shot | None:
    """Return the shot noise of the stars that are too faint to be found on the galaxy.

    Their mean light is taken off. How many of them really stand there is chance, of which each of the field's stars
    that could not be found there bears its part.

    Parameters
    ----------
    images : FilterImages
        Of the filter.
    coverage : (my, mx) float64 ndarray
        Part of each pixel of the canvas inside the aperture, 0 where there are no data.
    base : FilterImages
        Of the base filter.

    Returns
    -------
    Shot or None
        None where no star is missing.
    """
    table, expected = images.view.fit.sources, images.hidden(coverage[images.inner])
    used = np.flatnonzero(expected)
    if used.size == 0:
        return None
    is_base = images is base or images.view.fit is base.view.fit
    base_id = table["id" if is_base else "base_id"][used]
    return Shot(base_id=np.ascontiguousarray(base_id), amount=np.sqrt(expected[used]) * table["flux_fit"][used])

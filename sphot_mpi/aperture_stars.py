"""The light of stars inside an aperture: star by star, or what the field beside the galaxy lets expect.

Where the model describes the image, the fitted stars are the light to take off. A galaxy with arms and lumps is another
matter: lumps are fitted as stars, more of them the deeper the fit goes, in one filter and not in the next, and colours
follow. The mean light of the stars in the field, times the aperture's area, knows nothing of the galaxy. Its error is
the shot noise of the stars, which is alike in all filters and partly cancels in a colour. The rare bright stars would
rule that noise, and are no lumps: a star of flux f in the base filter counts star by star with weight
``1 / (1 + (t / f)^4)`` and in the mean with the rest, where the field has `aperture.stars_per_aperture` stars brighter
than t in an aperture. For any weights that estimate is unbiased.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.aperture_images import LEAST_FIELD, FilterImages, typical_colour
from sphot_mpi.config_sections import ApertureConfig
from sphot_mpi.flags import FitFlag
from sphot_mpi.records import Image
from sphot_mpi.unseen_light import FIELD, half_light_distance

Vector = NDArray[np.float64]

#: Steepness of the weight of single stars.
POWER = 4.0
#: A fit with one of these flags does not tell stars from the galaxy's lumps.
DOUBTFUL = FitFlag.HIGH_CHI2 | FitFlag.STRUCTURED | FitFlag.STAR_EXCESS


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
    in_field : (n,) bool ndarray
        Whether it stands in the field.
    variance : (n,) float64 ndarray
        Of the flux; 0 where unknown.
    field_area, area : float
        Of the field and of the aperture's pixels with data, px.
    """

    base_id: NDArray[np.int64]
    flux: Vector
    base_flux: Vector
    part: Vector
    in_field: NDArray[np.bool_]
    variance: Vector
    field_area: float
    area: float

    def weights(self, threshold: float) -> Vector:
        """Weight with which each star counts by itself."""
        ratio = threshold / np.maximum(self.base_flux, 1e-300)
        return np.asarray(1.0 / (1.0 + np.minimum(ratio, 1e50) ** POWER))

    def light(self, threshold: float) -> float:
        """Light of stars inside the aperture."""
        weight = self.weights(threshold)
        mean = float(((1.0 - weight) * self.flux)[self.in_field].sum()) / self.field_area
        return float((weight * self.flux * self.part).sum()) + self.area * mean

    def fit_variance(self, threshold: float) -> float:
        """Variance of `light` from the errors of the stars that count by themselves."""
        return float((self.weights(threshold) ** 2 * self.variance * self.part**2).sum())

    def shot(self, threshold: float) -> "Shot":
        """Stars whose chance number inside the aperture is the error of `light`."""
        # the field's mean has its own chance
        factor = self.area / self.field_area * (1.0 + self.area / self.field_area)
        amounts = np.sqrt(factor) * (1.0 - self.weights(threshold)) * self.flux
        return Shot(base_id=self.base_id[self.in_field], amount=amounts[self.in_field])

    def bright_flux(self, per_aperture: float) -> float:
        """Flux above which the field has so many stars per aperture; 0 where it has fewer in all."""
        bright_first = np.sort(self.base_flux[self.in_field])[::-1]
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
        None where hardly any field lies beside the galaxy.
    """
    area, cutout = float(coverage.sum()), images.cutout
    field = ~cutout.mask & (half_light_distance(images.view.fit.components, cutout.shape) > FIELD)
    # a star in the aperture would be field and galaxy at once
    field &= coverage[images.inner] == 0.0
    if field.sum() < max(LEAST_FIELD, area) or area <= 0.0:
        return None
    table, part = images.star_parts(coverage)
    y, x = np.rint(table["y_fit"]).astype(int), np.rint(table["x_fit"]).astype(int)
    on_image = (x >= 0) & (y >= 0) & (x < cutout.shape[1]) & (y < cutout.shape[0])
    in_field = np.zeros(table.size, dtype=bool)
    in_field[on_image] = field[y[on_image], x[on_image]]
    flux = np.ascontiguousarray(table["flux_fit"])
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
        base_id=base_id, flux=flux, base_flux=base_flux, part=part, in_field=in_field,
        variance=np.nan_to_num(table["flux_err"]) ** 2, field_area=float(field.sum()), area=area,
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
    table, inner = images.view.fit.sources, coverage[images.inner]
    variance = np.zeros(table.size)
    for ring in images.rings:
        expected = ring.share * float(inner[ring.pixels].sum()) / ring.field_area
        variance[ring.stars] += expected * table["flux_fit"][ring.stars] ** 2
    used = np.flatnonzero(variance)
    if used.size == 0:
        return None
    is_base = images is base or images.view.fit is base.view.fit
    base_id = table["id" if is_base else "base_id"][used]
    return Shot(base_id=np.ascontiguousarray(base_id), amount=np.sqrt(variance[used]))

"""The light inside an aperture as measured, and its error."""

from dataclasses import dataclass, replace

import numpy as np

from sphot_mpi.aperture_images import FilterImages, cover
from sphot_mpi.aperture_sky import ApertureSky
from sphot_mpi.aperture_stars import Shot, faint_shot, field_stars, use_field
from sphot_mpi.config import Config
from sphot_mpi.ellipses import Ellipse
from sphot_mpi.flags import ApertureFlag
from sphot_mpi.magnitudes import ab_magnitude
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.records import Image

NAN = float("nan")

#: Part of the aperture's area that may lie off the cutout, or be filled, without a flag.
UNNOTICED = 1e-3
#: Part of the model's light that may stand on filled pixels.
MOSTLY = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StarPlan:
    """How all filters take off the stars.

    Parameters
    ----------
    base : FilterImages
        Of the base filter.
    threshold : float or None
        Base flux above which stars go one by one; below it the field's mean stands for those that may be lumps of the
        galaxy. None: all go one by one.
    flags : ApertureFlag
        FIELD_TOO_SMALL, where the field was asked for.
    """

    base: FilterImages
    threshold: float | None
    flags: ApertureFlag = ApertureFlag(0)


def plan_stars(base: FilterImages, aperture: Ellipse, config: Config) -> StarPlan:
    """Decide how the stars are taken off.

    Parameters
    ----------
    base : FilterImages
        Of the base filter.
    aperture : Ellipse
        On the canvas.
    config : Config
        Section aperture.
    """
    # without the stars' images there is nothing to exchange
    if config.aperture.measure_on != "psf_sub_data" or not use_field(config.aperture, base.view.fit.flags):
        return StarPlan(base=base, threshold=None)
    found = field_stars(base, _good(base, aperture, config), base)
    if found is None:
        return StarPlan(base=base, threshold=None, flags=ApertureFlag.FIELD_TOO_SMALL)
    return StarPlan(base=base, threshold=found.bright_flux(config.aperture.stars_per_aperture))


def with_flux(
    record: AperturePhotometry,
    images: FilterImages,
    aperture: Ellipse,
    image: Image,
    sky: ApertureSky,
    stars: StarPlan,
    config: Config,
) -> tuple[AperturePhotometry, Shot | None]:
    """Add the measured light with its error.

    Parameters
    ----------
    record : AperturePhotometry
        With the model's light.
    images : FilterImages
        Of the filter.
    aperture : Ellipse
        On the canvas.
    image : (my, mx) float64 ndarray
        What is measured: above the sky, holes filled.
    sky : ApertureSky
        That of the filter.
    stars : StarPlan
        How the stars are taken off.
    config : Config
        Section aperture.

    Returns
    -------
    record : AperturePhotometry
        With flux, magnitude and errors.
    shot : Shot or None
        Shot noise of the stars that the field stands for: of all, or of those too faint to be found on the galaxy.
    """
    good = _good(images, aperture, config)
    covered = float(good.sum()) / aperture.area
    record = replace(
        record,
        filled_fraction=max(1.0 - covered, 0.0),
        n_sky=sky.n_apertures,
        sky=sky.level,
        sky_err=sky.level_err,
        sky_scatter=sky.scatter,
        flags=record.flags | stars.flags,
    )
    if covered <= 0.0:
        return replace(record, flags=record.flags | ApertureFlag.NO_DATA), None
    coverage = cover(aperture, (image.shape[0], image.shape[1]))
    record = replace(record, flags=record.flags | _holes(images, aperture, coverage, good))
    flux = float((coverage * image).sum())
    found = None if stars.threshold is None else field_stars(images, good, stars.base)
    if found is not None and stars.threshold is not None:
        # what stands for the missing part has the stars of the part that is there
        flux += found.excess(stars.threshold) / covered
        record = replace(record, flags=record.flags | ApertureFlag.FIELD_STARS)
        shot: Shot | None = found.shot(stars.threshold)
        star_variance = found.fit_variance(stars.threshold) + found.shot(stars.threshold).variance()
    else:
        if stars.threshold is not None:
            record = replace(record, flags=record.flags | ApertureFlag.FIELD_TOO_SMALL)
        shot, star_variance = faint_shot(images, good, stars.base), _fitted_variance(images, good)
        star_variance += shot.variance() if shot is not None else 0.0
    record = _with_errors(record, images, good, covered, sky, float(np.sqrt(star_variance)), config)
    magnitude, magnitude_err = magnitude_of(record, flux, record.flux_err)
    return replace(
        record,
        flags=record.flags if flux > 0.0 else record.flags | ApertureFlag.NEGATIVE,
        flux=flux,
        snr=flux / record.flux_err if record.flux_err > 0.0 else NAN,
        mag_raw=magnitude,
        mag_raw_err=magnitude_err,
    ), shot


def _good(images: FilterImages, aperture: Ellipse, config: Config) -> Image:
    """Part of each pixel of the canvas inside the aperture; 0 where there are no data."""
    stage = images.canvas(images.stage(config.aperture.measure_on, config.psf))
    return cover(aperture, (stage.shape[0], stage.shape[1])) * np.isfinite(stage)


def _holes(images: FilterImages, aperture: Ellipse, coverage: Image, good: Image) -> ApertureFlag:
    """Flags of an aperture that is not all data."""
    flags = ApertureFlag(0)
    inside = coverage[images.inner]
    if float((inside - good[images.inner]).sum()) > UNNOTICED * aperture.area:
        flags |= ApertureFlag.FILLED
    if aperture.area - float(inside.sum()) > UNNOTICED * aperture.area:
        flags |= ApertureFlag.BEYOND_CUTOUT
    if (good * images.sersic).sum() < MOSTLY * (coverage * images.sersic).sum():
        flags |= ApertureFlag.MOSTLY_FILLED
    return flags


def _fitted_variance(images: FilterImages, good: Image) -> float:
    """Variance of the fitted stars' light inside; blended stars count as independent, which is too much for them."""
    table, part = images.star_parts(good)
    return float(np.nansum((table["flux_err"] * part) ** 2))


def _with_errors(
    record: AperturePhotometry,
    images: FilterImages,
    good: Image,
    covered: float,
    sky: ApertureSky,
    stars: float,
    config: Config,
) -> AperturePhotometry:
    """Add the parts of the error, and their sum in quadrature."""
    noise, background = _noise(images, good, covered)
    scatter = sky.scatter if np.isfinite(sky.scatter) else 0.0
    level_err = sky.level_err if np.isfinite(sky.level_err) else 0.0
    # the scatter of empty apertures contains the noise of the background
    unexplained = max(scatter**2 - background * record.area, 0.0)
    sky_err = float(np.sqrt(unexplained + (record.area * level_err) ** 2))
    parts = [noise, sky_err]
    if config.aperture.error_on != "data_error":
        parts.append(stars)
    if config.aperture.error_on.startswith("residual"):
        parts.append(record.model_flux_err)
    return replace(
        record,
        flux_err=float(np.sqrt(np.sum(np.square(parts)))),
        flux_err_noise=noise,
        flux_err_sky=sky_err,
        flux_err_stars=stars,
    )


def _noise(images: FilterImages, good: Image, covered: float) -> tuple[float, float]:
    """Error of the sum from pixel noise, and the variance of one pixel of the background, correlated noise included."""
    error, widening = images.error(), images.view.fit.correlation
    variance = np.nan_to_num(images.canvas(error) ** 2, nan=0.0)
    # what stands for the missing part is as uncertain as what it comes from
    inside = widening * float(np.sqrt((good**2 * variance).sum())) / covered
    outside = error[(good[images.inner] == 0.0) & np.isfinite(error)]
    background = float(np.median(outside)) if outside.size else 0.0
    return inside, (widening * background) ** 2


def magnitude_of(record: AperturePhotometry, flux: float, error: float) -> tuple[float, float]:
    """AB magnitude and error of a flux in a record's unit."""
    magnitude, magnitude_err = ab_magnitude(np.array(flux), np.array(error), record.unit, record.pixel_scale)
    return float(magnitude), float(magnitude_err)

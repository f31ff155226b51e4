"""Aperture photometry of a galaxy: one aperture, all filters.

The base filter's isophotes give the aperture its shape, its Petrosian index the size. In every filter the light inside
is summed on the image without stars, above the sky; the model tells what part of the galaxy that is, and what the
reference filter's PSF would leave in the aperture. See docs/aperture.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sphot_mpi.aperture_flux import StarPlan, magnitude_of, plan_stars, with_flux
from sphot_mpi.aperture_images import FilterImages, cover
from sphot_mpi.aperture_plan import Plan, choose_base, clean_image, plan_aperture, sky_of
from sphot_mpi.aperture_stars import Shot
from sphot_mpi.config import Config
from sphot_mpi.ellipses import Ellipse
from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.magnitudes import MAG_PER_LN
from sphot_mpi.petrosian import GrowthCurve, Sizes, growth_curves, measure_sizes
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.psf_correction import (
    Light,
    ShapeErrors,
    View,
    colour_variance,
    light_inside,
    psf_correction,
    total_light,
)
from sphot_mpi.records import Cutout, FilterFit, StarExcess

#: S/N in the aperture below which the growth curve tells no sizes.
LEAST_SNR = 10.0

_NO_SIZES = Sizes(petro_radius=float("nan"), r20=float("nan"), r50=float("nan"), r80=float("nan"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measured:
    """A record in the making, with what colours need: the model's light and errors, stars' shot noise and excess."""

    record: AperturePhotometry
    total: Light | None = None
    errors: ShapeErrors | None = None
    shot: Shot | None = None
    excess: StarExcess = StarExcess()


def measure_galaxy(
    fits: Mapping[str, FilterFit],
    cutouts: Mapping[str, Cutout],
    libraries: Mapping[str, LibraryPSF],
    config: Config,
) -> tuple[AperturePhotometry, ...]:
    """Measure all filters of a galaxy in one aperture; see `sphot_mpi.pipeline.photometry`."""
    fits = {name: as_measured(fit) for name, fit in fits.items()}
    chosen = choose_base(fits, config)
    if chosen is None:
        return tuple(_empty(fit, cutouts[name], ApertureFlag.NO_GALAXY) for name, fit in fits.items())
    base, base_flags = chosen
    widths = [fit.kernel.fwhm for fit in fits.values() if fit.components and np.isfinite(fit.kernel.fwhm)]
    least = config.aperture.min_fwhm * max(widths, default=0.0)
    plan = plan_aperture(base, fits[base], cutouts[base], libraries[base], config, least)
    plan = replace(plan, flags=plan.flags | base_flags)
    reference = config.aperture.PSF_corr_base_filter
    if not _has_psf(fits.get(reference)):
        reference, plan = base, replace(plan, flags=plan.flags | ApertureFlag.OTHER_REFERENCE)
    views = {
        name: View.of(fit, libraries[name], _canvas_shape(cutouts[name], plan.margin))
        for name, fit in fits.items()
        if fit.components or name == reference
    }
    base_images = FilterImages.of(views[base], cutouts[base], plan.margin)
    stars = plan_stars(base_images, plan.aperture, config)
    measured = {}
    for name, fit in fits.items():
        if fit.components:
            images = base_images if name == base else FilterImages.of(views[name], cutouts[name], plan.margin)
            measured[name] = _measure(images, views[reference], stars, plan, config)
        else:
            measured[name] = _Measured(record=_empty(fit, cutouts[name], plan.flags | _why_empty(fit)))
    return tuple(_with_colours(one, measured[base]) for one in measured.values())


def as_measured(fit: FilterFit) -> FilterFit:
    """Return a fit with the stars that its galaxy was measured with, as they were then.

    Its magnitudes are not to hang on how many fainter ones were fitted. A fit that does not tell them has all.
    """
    table = fit.sources
    chosen = table["flux_measured"] != 0.0
    if not chosen.any():
        return fit
    table = table[chosen]
    for fitted, measured in (("x_fit", "x_init"), ("y_fit", "y_init"), ("flux_fit", "flux_measured")):
        table[fitted] = table[measured]
    return replace(fit, sources=table)


def _has_psf(fit: FilterFit | None) -> bool:
    return fit is not None and bool(np.isfinite(fit.kernel.values).all())


def _why_empty(fit: FilterFit) -> ApertureFlag:
    return ApertureFlag.NO_DATA if FitFlag.NO_DATA in fit.flags else ApertureFlag.NO_GALAXY


def _canvas_shape(cutout: Cutout, margin: int) -> tuple[int, int]:
    return cutout.shape[0] + 2 * margin, cutout.shape[1] + 2 * margin


def _empty(fit: FilterFit, cutout: Cutout, flags: ApertureFlag) -> AperturePhotometry:
    """Return the record of a filter that cannot be measured."""
    return AperturePhotometry(
        galaxy=cutout.galaxy,
        filter=fit.filter,
        flags=flags,
        unit=cutout.unit,
        pixel_scale=cutout.pixel_scale,
        origin=cutout.origin,
    )


def _measure(images: FilterImages, reference: View, stars: StarPlan, plan: Plan, config: Config) -> _Measured:
    """Measure one filter."""
    fit, base_fit, cutout = images.view.fit, stars.base.view.fit, images.cutout
    shift = fit.shift[0] - base_fit.shift[0], fit.shift[1] - base_fit.shift[1]
    aperture, family = plan.aperture.moved(*shift), plan.family.moved(*shift)
    on_cutout = aperture.moved(-plan.margin, -plan.margin)
    sky = sky_of(images, on_cutout, config)
    image = clean_image(images, family, sky.level, plan.reach, config)
    ellipses = [family.at(float(radius)) for radius in plan.radii]
    curve, model = growth_curves((image, images.sersic), ellipses)
    record = replace(
        _empty(fit, cutout, plan.flags | sky.flags),
        x=on_cutout.x,
        y=on_cutout.y,
        radius=aperture.radius,
        ellip=aperture.ellip,
        theta=aperture.theta,
        area=aperture.area,
        curve=np.stack([plan.radii, curve.flux, curve.index(), model.flux]),
    )
    errors = ShapeErrors(fit, base_fit)
    record, total = _with_model(record, images, aperture, reference, errors)
    record, shot = with_flux(record, images, aperture, image, sky, stars, config)
    record = _with_sizes(record, curve, model, config.aperture.petro)
    return _Measured(
        record=_with_correction(record), total=total, errors=errors, shot=shot, excess=images.view.fit.excess
    )


def _with_sizes(record: AperturePhotometry, curve: GrowthCurve, model: GrowthCurve, petro: float) -> AperturePhotometry:
    """Add the sizes, those that the data do not tell from the model: all of them where noise makes the curve."""
    noise_rules = record.snr < LEAST_SNR
    sizes, flags = _NO_SIZES if noise_rules else measure_sizes(curve, petro), record.flags
    if not sizes.known:
        other = measure_sizes(model, petro)
        flags |= ApertureFlag.MODEL_SIZES
        radii = (sizes.r20, sizes.r50, sizes.r80)
        if not np.isfinite(radii).all():
            radii = (other.r20, other.r50, other.r80)
        petro_radius = sizes.petro_radius if np.isfinite(sizes.petro_radius) else other.petro_radius
        sizes = Sizes(petro_radius=petro_radius, r20=radii[0], r50=radii[1], r80=radii[2])
    return replace(
        record, flags=flags, petro_radius=sizes.petro_radius, r20=sizes.r20, r50=sizes.r50, r80=sizes.r80,
        concentration=sizes.concentration,
    )  # fmt: skip


def _with_model(
    record: AperturePhotometry, images: FilterImages, aperture: Ellipse, reference: View, errors: ShapeErrors
) -> tuple[AperturePhotometry, Light]:
    """Add the model's light in total, in the cutout and in the aperture, and the PSF correction."""
    shape = (images.sersic.shape[0], images.sersic.shape[1])
    coverage, inner = cover(aperture, shape), np.zeros(shape)
    inner[images.inner] = 1.0
    smooth = (*light_inside(images.components, images.view.renderer, (inner, coverage)), total_light(images.components))
    in_cutout, inside, total = smooth
    excess, growth = images.view.fit.excess, 1.0
    if images.view.fit.modes:
        fluxes = (float((images.sersic * inner).sum()), float((images.sersic * coverage).sum()), images.total)
        in_cutout, inside, total = (light.of_flux(flux) for light, flux in zip(smooth, fluxes, strict=True))
        growth = (inside.flux / total.flux) / (smooth[1].flux / smooth[2].flux)
    correction = psf_correction(images.view, reference, images.components, coverage, errors)
    total_flux, total_err = total.flux + excess.flux, float(np.hypot(errors.flux_err(total), excess.error))
    magnitude, magnitude_err = magnitude_of(record, total_flux, total_err)
    record = replace(
        record,
        fraction=correction.fraction * growth,
        fraction_reference=correction.fraction_reference * growth,
        correction=correction.value,
        correction_err=correction.error,
        total_flux=total_flux,
        total_flux_err=total_err,
        mag_total=magnitude,
        mag_total_err=magnitude_err,
        cutout_flux=in_cutout.flux,
        cutout_flux_err=errors.flux_err(in_cutout),
        model_flux=inside.flux,
        model_flux_err=errors.flux_err(inside),
    )
    return record, total


def _with_correction(record: AperturePhotometry) -> AperturePhotometry:
    """Add the flux that the reference PSF would leave in the aperture."""
    flux = record.flux * record.correction
    error = float(np.hypot(record.flux_err * record.correction, record.flux * record.correction_err))
    magnitude, magnitude_err = magnitude_of(record, flux, error)
    return replace(record, flux_corr=flux, flux_corr_err=error, mag_corr=magnitude, mag_corr_err=magnitude_err)


def _with_colours(one: _Measured, base: _Measured) -> AperturePhotometry:
    """Return the record with colours against the base filter."""
    record, other = one.record, base.record
    if one.total is None or one.errors is None or base.total is None or base.errors is None:
        return record
    if one is base:
        zero = 0.0 * record.mag_corr, 0.0 * record.mag_total
        return replace(record, colour=zero[0], colour_err=zero[0], colour_total=zero[1], colour_total_err=zero[1])
    variance = colour_variance(one.total, one.errors, base.total, base.errors)
    # the same stars in both filters: what chance there is in their number is in both
    variance += (one.excess.error / record.total_flux - base.excess.error / other.total_flux) ** 2
    colour_total = record.mag_total - other.mag_total
    return replace(
        record,
        colour=record.mag_corr - other.mag_corr,
        colour_err=_colour_error(one, base) + 0.0 * (record.mag_corr - other.mag_corr),
        colour_total=colour_total,
        colour_total_err=float(MAG_PER_LN * np.sqrt(variance) + 0.0 * colour_total),
    )


def _colour_error(one: _Measured, base: _Measured) -> float:
    """Error of the aperture's colour: stars that both filters leave to the field's mean change both fluxes."""
    record, other = one.record, base.record
    variance = (record.flux_corr_err / record.flux_corr) ** 2 + (other.flux_corr_err / other.flux_corr) ** 2
    if one.shot is not None and base.shot is not None:
        variance -= one.shot.variance() / record.flux**2 + base.shot.variance() / other.flux**2
        variance += one.shot.colour_variance(record.flux, base.shot, other.flux)
    return float(MAG_PER_LN * np.sqrt(variance))

"""The aperture that all filters of a galaxy share, from the base filter's isophotes and Petrosian index."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.aperture_images import FilterImages, filled
from sphot_mpi.aperture_sky import ApertureSky, measure_sky
from sphot_mpi.config import Config
from sphot_mpi.ellipses import Ellipse, EllipseFamily, isophote_family
from sphot_mpi.errors import FitError
from sphot_mpi.flags import ApertureFlag
from sphot_mpi.galaxy_modes import whole_modes
from sphot_mpi.petrosian import GrowthCurve, growth_curves
from sphot_mpi.photometry_record import CURVE_SIZE
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.psf_correction import View
from sphot_mpi.records import Cutout, FilterFit, Image
from sphot_mpi.sersic import to_vector, total_flux

#: Smallest semi-major axis of a growth curve, px, and least ratio of its largest to its smallest.
SMALLEST_RADIUS, LEAST_SPAN = 0.5, 8.0
#: Room on the canvas beyond the largest ellipse, px.
ROOM = 4
#: Largest aperture, in sides of the cutout.
LARGEST = 2.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """What all filters have in common.

    Parameters
    ----------
    base : str
        Filter that sets the aperture.
    aperture : Ellipse
        In the pixel frame of the base filter's canvas.
    family : EllipseFamily
        Ellipses of the growth curves, likewise.
    radii : (k,) float64 ndarray
        Their semi-major axes, px.
    margin : int
        Of the canvas, px.
    flags : ApertureFlag
        OTHER_BASE, INDEX_NOT_REACHED, ENLARGED.
    """

    base: str
    aperture: Ellipse
    family: EllipseFamily
    radii: NDArray[np.float64]
    margin: int
    flags: ApertureFlag

    @property
    def reach(self) -> float:
        """Largest semi-major axis, px."""
        return float(self.radii[-1])


def choose_base(fits: Mapping[str, FilterFit], config: Config) -> tuple[str, ApertureFlag] | None:
    """Return the filter that sets the aperture and whether it is the second choice; None: no filter can."""
    for name, flag in (
        (config.aperture.isophot_base_filter, ApertureFlag(0)),
        (config.core.base_filter, ApertureFlag.OTHER_BASE),
    ):
        if name in fits and sum(total_flux(c) for c in fits[name].components) > 0.0:
            return name, flag
    return None


def plan_aperture(
    base: str, fit: FilterFit, cutout: Cutout, library: LibraryPSF, config: Config, least: float = 0.0
) -> Plan:
    """Set the aperture.

    Parameters
    ----------
    base : str
        The base filter.
    fit, cutout, library : FilterFit, Cutout, LibraryPSF
        Of the base filter.
    config : Config
        Section aperture rules.
    least : float
        Least semi-major axis, px.

    Returns
    -------
    Plan
        With an aperture that may reach beyond the cutout.

    Raises
    ------
    FitError
        If the aperture would be larger than twice the cutout.
    """
    reach = _farthest_edge(fit, cutout)
    if config.aperture.size == "radius":
        assert config.aperture.radius is not None
        reach = max(reach, config.aperture.radius)
    reach = max(reach, least)
    plan = _plan_within(base, fit, cutout, library, config, reach)
    if plan.aperture.radius > reach:
        plan = _plan_within(base, fit, cutout, library, config, plan.aperture.radius)
    if plan.aperture.radius < least and config.aperture.size != "radius":
        plan = replace(plan, aperture=plan.family.at(least), flags=plan.flags | ApertureFlag.ENLARGED)
    return plan


def _plan_within(base: str, fit: FilterFit, cutout: Cutout, library: LibraryPSF, config: Config, reach: float) -> Plan:
    """Set the aperture by curves out to semi-major axis `reach`."""
    if reach > LARGEST * max(cutout.shape):
        msg = (
            f"{cutout.galaxy}: an aperture of semi-major axis {reach:.0f} px is more than {LARGEST:g} times the "
            f"cutout of {cutout.shape[1]} x {cutout.shape[0]} px; give a smaller aperture.radius or petro_factor"
        )
        raise FitError(msg)
    margin = max(0, int(np.ceil(reach - _nearest_edge(fit, cutout)))) + ROOM
    shape = (cutout.shape[0] + 2 * margin, cutout.shape[1] + 2 * margin)
    # its other modes came with the faint stars
    measured = replace(fit, modes=whole_modes(fit.modes))
    images = FilterImages.of(View.of(measured, library, shape), cutout, margin)
    family = _family(images, config, reach)
    smallest = min(max(float(np.exp(family.log_radius[0])), SMALLEST_RADIUS), reach / LEAST_SPAN)
    radii = np.geomspace(smallest, reach, CURVE_SIZE)
    radius, flags = _radius(images, family, radii, config)
    return Plan(
        base=base, aperture=family.at(radius), family=family, radii=radii, margin=margin, flags=flags
    )  # fmt: skip


def _family(images: FilterImages, config: Config, reach: float) -> EllipseFamily:
    """Ellipses of the isophotes; of the model's main component where no isophote can be traced."""
    main = max(images.components, key=total_flux)
    section = config.aperture
    image = images.sersic
    if section.fit_isophot_to != "sersic_modelimg":
        stage = images.canvas(images.stage(section.fit_isophot_to, config.psf))
        image = np.where(np.isnan(stage), images.sersic, stage)
    levels = section.isophot_frac_min, section.isophot_frac_max
    family = isophote_family(image, (main.x_0, main.y_0), images.total, levels, reach)
    if family is not None:
        return family
    vector = to_vector(main)
    return EllipseFamily(
        x=main.x_0, y=main.y_0, log_radius=np.array([np.log(SMALLEST_RADIUS)]), eta=vector[None, 4:6]
    )  # fmt: skip


def _radius(
    images: FilterImages, family: EllipseFamily, radii: NDArray[np.float64], config: Config
) -> tuple[float, ApertureFlag]:
    """Semi-major axis of the aperture as the configuration wants it."""
    section = config.aperture
    if section.size == "radius":
        assert section.radius is not None
        return section.radius, ApertureFlag(0)
    ellipses = [family.at(float(radius)) for radius in radii]
    (model,) = growth_curves((images.sersic,), ellipses)
    if section.size == "fraction":
        radius = model.radius_holding(section.fraction * images.total)
        return (radius, ApertureFlag(0)) if np.isfinite(radius) else (float(radii[-1]), ApertureFlag.INDEX_NOT_REACHED)
    modelled = model.petrosian_radius(section.petro)
    # the sky is measured beside an aperture, which a first guess of its size must tell
    guess = family.at(modelled if np.isfinite(modelled) else float(radii[-1]) / 4.0)
    measured = measured_curve(images, ellipses, family, guess, config).petrosian_radius(section.petro)
    for radius, flags in ((measured, ApertureFlag(0)), (modelled, ApertureFlag.INDEX_NOT_REACHED)):
        if np.isfinite(radius):
            return radius * section.petro_factor, flags
    return float(radii[-1]), ApertureFlag.INDEX_NOT_REACHED


def measured_curve(
    images: FilterImages, ellipses: list[Ellipse], family: EllipseFamily, aperture: Ellipse, config: Config
) -> GrowthCurve:
    """Growth curve of the data above the sky."""
    sky = sky_of(images, aperture.moved(-images.margin, -images.margin), config)
    image = clean_image(images, family, sky.level, ellipses[-1].radius, config)
    return growth_curves((image,), ellipses)[0]


def sky_of(images: FilterImages, aperture: Ellipse, config: Config) -> ApertureSky:
    """Sky beside an aperture on the cutout; where none can be measured, level 0 with the error of the fit's sky."""
    section = config.aperture
    sky = measure_sky(images.stage(section.measure_sky_on, config.psf), aperture, section.center_mask)
    if ApertureFlag.NO_SKY in sky.flags:
        fitted = float(images.view.fit.sky_covariance[0, 0])
        return replace(sky, level=0.0, level_err=float(np.sqrt(fitted)) if fitted >= 0.0 else float("nan"))
    return sky


def clean_image(images: FilterImages, family: EllipseFamily, level: float, reach: float, config: Config) -> Image:
    """The stage that is measured, above the sky `level`, on the canvas, holes filled."""
    stage = images.canvas(images.stage(config.aperture.measure_on, config.psf)) - level
    return filled(stage, images.sersic, family, reach, config.aperture)


def _edges(fit: FilterFit, cutout: Cutout) -> tuple[float, float, float, float]:
    """Distances of the galaxy's centre from the four edges of the cutout, px."""
    main = max(fit.components, key=total_flux)
    ny, nx = cutout.shape
    return main.x_0 + 0.5, nx - 0.5 - main.x_0, main.y_0 + 0.5, ny - 0.5 - main.y_0


def _farthest_edge(fit: FilterFit, cutout: Cutout) -> float:
    return min(max(_edges(fit, cutout)), float(max(cutout.shape)))


def _nearest_edge(fit: FilterFit, cutout: Cutout) -> float:
    return min(_edges(fit, cutout))

"""From the state of a joint fit to the record that is kept."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config import Config
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.joint import State
from sphot_mpi.joint_anchors import held_to_colour, with_assigned_errors
from sphot_mpi.joint_base import KERNEL_STAR_SNR, LEAST_KERNEL_STARS, BaseFit
from sphot_mpi.joint_bounds import ETA_MAX, shape_ranges
from sphot_mpi.joint_kernel_error import kernel_errors
from sphot_mpi.joint_measure import Measurement
from sphot_mpi.joint_mode_prior import WHOLE_NAMES
from sphot_mpi.joint_regions import radius_at
from sphot_mpi.joint_render import (
    CENTRE_NAMES,
    MOVE_NAMES,
    SHAPE_NAMES,
    light_of_modes,
    render_galaxy,
    render_sky,
    render_stars,
)
from sphot_mpi.joint_scaled import ScaledFit
from sphot_mpi.joint_scene import PAD, Galaxy, components_of
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.records import (
    SERSIC_PARAMETERS,
    SOURCE_DTYPE,
    Cutout,
    FilterFit,
    Image,
    KernelFit,
    SkyPlane,
    StarExcess,
)
from sphot_mpi.sersic import params_jacobian, to_vector, total_flux
from sphot_mpi.star_excess import StarDensity, holds_galaxy_light, star_density

#: A component farther off the brightest one than this, r_eff of that, may be another galaxy.
COMPANION_SEPARATION = 0.9
#: Where a component's parameters have its place.
PLACE = (SERSIC_PARAMETERS.index("x_0"), SERSIC_PARAMETERS.index("y_0"))
#: Columns of ln r_circ and ln n in `params_jacobian`.
PROFILE = slice(3, 5)


def base_result(fit: BaseFit, cutout: Cutout, config: Config, seconds: float) -> FilterFit:
    """Record of the base filter's fit.

    Parameters
    ----------
    fit : BaseFit
        The converged fit.
    cutout : Cutout
        What was fitted.
    config : Config
        The configuration.
    seconds : float
        Process time.
    """
    flags = FitFlag.SECOND_COMPONENT if fit.two_components else FitFlag(0)
    if fit.structured:
        flags |= FitFlag.STRUCTURED
    record = _Summary(fit.state, fit.measurement, cutout, config).record(
        fit.converged, flags, seconds, None, fit.faint_limits
    )
    return with_excess(replace(record, position_scatter=fit.position_scatter), fit.excess)


def scaled_result(
    fit: ScaledFit, cutout: Cutout, base: FilterFit, config: Config, seconds: float, positions: str
) -> FilterFit:
    """Record of another filter's fit.

    Parameters
    ----------
    fit : ScaledFit
        The converged fit.
    cutout : Cutout
        What was fitted.
    base : FilterFit
        The base filter's fit, for the covariance of the shape.
    config : Config
        The configuration.
    seconds : float
        Process time.
    positions : str
        Where the sources' positions came from.
    """
    flags = fit.own | (FitFlag.FORCED if positions == "forced" else FitFlag(0))
    shape_from = None if config.core.allow_refit else base
    record = _Summary(fit.state, fit.measurement, cutout, config).record(
        fit.converged, flags, seconds, shape_from, base.faint_limits
    )
    return with_excess(record, fit.excess)


def with_excess(record: FilterFit, excess: StarExcess) -> FilterFit:
    """Return a record whose total has the galaxy's light among the stars, too."""
    total, error = record.total_flux + excess.flux, float(np.hypot(record.total_flux_err, excess.error))
    return replace(record, total_flux=total, total_flux_err=error, excess=excess)


class _Summary:
    """Numbers drawn from a converged state."""

    def __init__(self, state: State, measurement: Measurement, cutout: Cutout, config: Config) -> None:
        assert state.step is not None
        self.state = state
        self.measurement = measurement
        self.cutout = cutout
        self.config = config
        self.frame = state.optics.frame
        self.scene = state.scene
        assert state.scene.galaxy is not None
        self.galaxy: Galaxy = state.scene.galaxy
        optics, shape = state.optics, self.frame.shape
        self.star_image = render_stars(self.scene.stars, optics)
        self.galaxy_image = render_galaxy(self.galaxy, optics)
        model = self.star_image + self.galaxy_image + render_sky(self.scene.sky, shape)
        self.residual = self.frame.residual(model)
        # of the sky, as it was solved with the faint stars; the galaxy's is that of its measurement
        self.covariance = state.step.covariance * self.frame.correlation**2
        self.index = {name: k for k, name in enumerate(state.step.names)}

    def record(
        self,
        converged: bool,
        flags: FitFlag,
        seconds: float,
        base: FilterFit | None,
        faint_limits: tuple[float, ...],
    ) -> FilterFit:
        """Assemble the record; with `base`, the shape was pinned to its."""
        components = components_of(self.galaxy)
        if base is None:
            covariance, total_err = self._free_covariance()
        else:
            covariance, total_err = self._pinned_covariance(base)
        total = float(self.galaxy.fluxes.sum() + light_of_modes(self.galaxy, self.state.optics) @ self.galaxy.modes)
        sources = self._sources()
        report = self._report(sources)
        density = star_density(self.state, self.config.psf.report_snr)
        kernel = self._kernel()
        good = self.frame.good
        return FilterFit(
            galaxy=self.cutout.galaxy,
            filter=self.cutout.filter,
            components=components,
            covariance=covariance,
            total_flux=total,
            total_flux_err=total_err,
            flux_in_cutout=float(self.frame.interior(self.galaxy_image).sum()),
            sky=self._sky(),
            sky_covariance=self._sky_covariance(),
            sources=sources,
            report=report,
            kernel=kernel,
            shift=(float(self.scene.shift[0]), float(self.scene.shift[1])),
            noise=self.frame.noise,
            correlation=self.frame.correlation,
            chi2_reduced=float((self.frame.weight * self.residual**2).sum() / good.sum()),
            n_pix=int(good.sum()),
            masked_fraction=float(1.0 - self.frame.interior(good).mean()),
            star_density_ratio=density.ratio,
            faint_limits=faint_limits,
            unseen=self.frame.unseen,
            modes=tuple(float(amplitude) for amplitude in self.galaxy.modes),
            passes=self.state.passes,
            converged=converged,
            flags=flags | self._flags(converged, report, density, kernel),
            seconds=seconds,
        )

    def _flags(self, converged: bool, report: NDArray[np.bool_], density: StarDensity, kernel: KernelFit) -> FitFlag:
        """Flags that follow from the numbers."""
        flags = FitFlag.MODULATED if self.galaxy.modes.size else FitFlag(0)
        if not converged:
            flags |= FitFlag.NOT_CONVERGED
        if self._at_bound():
            flags |= FitFlag.AT_BOUND
        if self.galaxy.separation > COMPANION_SEPARATION:
            flags |= FitFlag.COMPANION
        if not report.any():
            flags |= FitFlag.NO_SOURCES
        if density.unusual or holds_galaxy_light(self.state):
            flags |= FitFlag.STAR_EXCESS
        if self.config.psf_calib.in_mainloop:
            if self.state.optics.kernel.at_bound():
                flags |= FitFlag.KERNEL_AT_BOUND
            if kernel.n_anchors < LEAST_KERNEL_STARS:
                flags |= FitFlag.KERNEL_FEW_ANCHORS
        return flags

    def _at_bound(self) -> bool:
        """Whether a shape parameter lies within 1 % of its range's end."""
        eta = np.hypot(self.galaxy.shapes[:, 2], self.galaxy.shapes[:, 3])
        ends = [np.abs(self.galaxy.shapes[:, :2] - end) < 0.01 for end in shape_ranges(self.galaxy, self.frame.shape)]
        return bool(np.any(ends) or (eta > 0.99 * ETA_MAX).any())

    def _kernel(self) -> KernelFit:
        """Kernel with its errors, NaN where it was held."""
        kernel, stars = self.state.optics.kernel, self.scene.stars
        anchors = (stars.snr(self.frame.correlation) > KERNEL_STAR_SNR) & at(self.frame.anchored_area, stars)
        return KernelFit(
            family=kernel.family,
            values=kernel.values,
            errors=kernel_errors(self.state, self.residual),
            fwhm=self.state.optics.fwhm,
            n_anchors=int(anchors.sum()),
        )

    def _sky(self) -> SkyPlane:
        """Sky plane in the cutout's pixel frame."""
        ny, nx = self.frame.shape
        level, along_x, along_y = self.scene.sky
        return SkyPlane(
            level=float(level),
            slope_x=float(2.0 * along_x / nx),
            slope_y=float(2.0 * along_y / ny),
            x_ref=(nx - 1) / 2 - PAD,
            y_ref=(ny - 1) / 2 - PAD,
        )

    def _sky_covariance(self) -> Image:
        """Covariance of level and slopes."""
        ny, nx = self.frame.shape
        unit = np.array([1.0, 2.0 / nx, 2.0 / ny])
        rows = [self.index[f"sky{k}"] for k in range(3)]
        return np.asarray(self.covariance[np.ix_(rows, rows)] * unit * unit[:, None])

    def _free_covariance(self) -> tuple[Image, float]:
        """Covariance of the Sersic parameters, and the error of the total flux, where the shape was free."""
        size = self.galaxy.size
        names = [[f"{c}.{name}" for name in ("flux", *CENTRE_NAMES, *SHAPE_NAMES)] for c in range(size)]
        turn = [params_jacobian(self.galaxy.vector(c), float(self.galaxy.fluxes[c])) for c in range(size)]
        if WHOLE_NAMES[0] in self.measurement.names:
            # what modes and components trade is no error of the light: each component's flux has its share of theirs
            shares = self.measurement.mode_light / self.galaxy.fluxes.sum()
            slopes = np.outer(self.galaxy.fluxes, shares)
            turn = [np.hstack((block, np.outer(block[:, 0], own))) for block, own in zip(turn, slopes, strict=True)]
            names = [[*one, *WHOLE_NAMES] for one in names]
        covariance = self._turned(names, turn)
        return covariance, self.measurement.flux_error

    def _turned(self, names: list[list[str]], turn: list[Image]) -> Image:
        """Covariance of all components' parameters from that of some unknowns; `turn` has the derivatives by them."""
        every = list(dict.fromkeys(name for one in names for name in one))
        jacobian = np.zeros((7 * len(names), len(every)))
        for c, (one, block) in enumerate(zip(names, turn, strict=True)):
            jacobian[7 * c : 7 * c + 7, [every.index(name) for name in one]] = block
        return np.asarray(jacobian @ self.measurement.block(every) @ jacobian.T)

    def _pinned_covariance(self, base: FilterFit) -> tuple[Image, float]:
        """Covariance of the Sersic parameters, and the error of the total flux, where shape or geometry was pinned."""
        if f"0.{CENTRE_NAMES[0]}" in self.measurement.names:
            return self._free_covariance()
        if "scale" not in self.measurement.names:
            return self._profile_covariance(base)
        return self._scaled_covariance(base)

    def _profile_covariance(self, base: FilterFit) -> tuple[Image, float]:
        """As `_pinned_covariance`, where fluxes, place and perhaps more were free, the rest pinned."""
        size = self.galaxy.size
        own = [k for k, name in enumerate(SHAPE_NAMES) if f"0.{name}" in self.measurement.names]
        names = [[f"{c}.flux", *MOVE_NAMES, *(f"{c}.{SHAPE_NAMES[k]}" for k in own)] for c in range(size)]
        free = [0, 1, 2, *(3 + k for k in own)]
        pinned = [k for k in range(7) if k not in free]
        turn = [params_jacobian(self.galaxy.vector(c), float(self.galaxy.fluxes[c])) for c in range(size)]
        covariance = self._turned(names, [block[:, free] for block in turn])
        # what is pinned moves amplitude and r_eff with it, and leaves the flux as it is
        moved = np.zeros((7 * size, 7 * size))
        for c, (block, one) in enumerate(zip(turn, base.components, strict=True)):
            rows = slice(7 * c, 7 * c + 7)
            back = np.linalg.inv(params_jacobian(to_vector(one), total_flux(one)))
            moved[rows, rows] = block[:, pinned] @ back[pinned]
        covariance += moved @ base.covariance @ moved.T
        return covariance, self.measurement.flux_error

    def _scaled_covariance(self, base: FilterFit) -> tuple[Image, float]:
        """As `_pinned_covariance`, where one scale was free.

        The flux's error at a fixed shape is widened by what the shape's uncertainty does to it: the flux follows
        the base filter's with the same relative error, since the same shape scales both; and the shape may differ.
        """
        total, size = float(self.galaxy.fluxes.sum()), self.galaxy.size
        own = self.measurement.flux_error**2
        shape_share = base.model_variance if base.total_flux > base.excess.flux else 0.0
        turn = np.stack([params_jacobian(self.galaxy.vector(c), float(self.galaxy.fluxes[c])) for c in range(size)])
        # by the base filter's parameters, by one scale of all fluxes, and by the change of the profile
        of_base, of_scale = np.zeros((7 * size, 7 * size)), np.zeros(7 * size)
        for c, one in enumerate(base.components):
            rows, flux = slice(7 * c, 7 * c + 7), total_flux(one)
            back = np.linalg.inv(params_jacobian(to_vector(one), flux))
            back[0] *= self.galaxy.fluxes[c] / flux if flux != 0.0 else np.nan
            of_base[rows, rows] = turn[c] @ back
            of_scale[rows] = turn[c, :, 0] * (self.galaxy.fluxes[c] / total if total != 0.0 else np.nan)
        covariance = of_base @ base.covariance @ of_base.T + own * np.outer(of_scale, of_scale)
        place = self._place_covariance()
        if place is not None:
            # the place is this filter's own, in all components alike
            places = np.array([7 * c + k for c in range(size) for k in PLACE])
            covariance[places], covariance[:, places] = 0.0, 0.0
            covariance[np.ix_(places, places)] = np.tile(place, (size,) * 2)
        if (change := self.measurement.change) is not None:
            slopes = change.flux_slopes(self.galaxy.fluxes)
            of_change = turn[:, :, :1] * slopes[:, np.newaxis]
            for c in range(size):
                of_change[c, :, 2 * c : 2 * c + 2] += turn[c, :, PROFILE]
            of_change = of_change.reshape(7 * size, -1)
            covariance += of_change @ change.covariance @ of_change.T
            own += float(change.response @ change.covariance @ change.response)
        return covariance, float(np.sqrt(own + shape_share * total**2))

    def _place_covariance(self) -> Image | None:
        """Covariance of the place as it was measured with the light, or else after it; None where it was not."""
        if MOVE_NAMES[0] in self.measurement.names:
            return self.measurement.block([*MOVE_NAMES])
        return self.measurement.place

    def _sources(self) -> NDArray[np.void]:
        """The table of all stars in the model, in the cutout's pixel frame."""
        correlation = self.frame.correlation
        stars: Stars = with_assigned_errors(self.scene.stars, correlation)
        table = np.zeros(stars.size, dtype=SOURCE_DTYPE)
        table["id"] = np.arange(1, stars.size + 1)
        table["group_id"], table["group_size"] = 1, stars.size
        table["x_init"], table["y_init"] = stars.anchor_x - PAD, stars.anchor_y - PAD
        table["flux_init"], table["flux_measured"] = stars.base_flux, stars.measured_flux
        table["x_fit"], table["y_fit"], table["flux_fit"] = stars.x - PAD, stars.y - PAD, stars.flux
        error = correlation * np.sqrt(stars.variance)
        error[~stars.free, 1:] = stars.anchor_sigma[~stars.free, np.newaxis]
        table["flux_err"], table["x_err"], table["y_err"] = np.where(np.isfinite(error), error, np.nan).T
        table["snr"] = stars.snr(correlation)
        table["base_id"] = stars.base_id
        if stars.size:
            stamps, corner_y, corner_x = self.state.optics.stars.stamps(
                stars.x, stars.y, max(2, round(self.state.optics.fwhm))
            )
            quality = kernels.stamp_quality(stamps.shape[-1], corner_y, corner_x, self.residual, self.frame.weight)
            table["n_pixels_fit"] = quality[:, 0]
            with np.errstate(divide="ignore", invalid="ignore"):
                table["qfit"] = quality[:, 1] / np.abs(stars.flux)
                table["cfit"] = quality[:, 2] / stars.flux
                table["reduced_chi2"] = quality[:, 3] / np.maximum(quality[:, 0] - 3, 1)
            table["local_bkg"] = at(render_sky(self.scene.sky, self.frame.shape), stars)
            table["flags"] = self._source_flags(stars, stamps, corner_y, corner_x)
        return table

    def _source_flags(
        self,
        stars: Stars,
        stamps: NDArray[np.float64],
        corner_y: NDArray[np.int64],
        corner_x: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Quality bits of each star."""
        ny, nx = self.cutout.shape
        x, y = stars.x - PAD, stars.y - PAD
        flags = np.zeros(stars.size, np.int64)
        fraction = kernels.good_fraction(stamps, corner_y, corner_x, self.frame.weight)
        flags[fraction < 0.999] |= SourceFlag.PARTIAL
        flags[fraction == 0.0] |= SourceFlag.FULLY_MASKED
        flags[(x < -0.5) | (y < -0.5) | (x > nx - 0.5) | (y > ny - 0.5)] |= SourceFlag.OUTSIDE
        flags[stars.flux <= 0.0] |= SourceFlag.NEGATIVE
        flags[~np.isfinite(stars.variance[:, 0])] |= SourceFlag.NO_COVARIANCE
        flags[stars.anchored] |= SourceFlag.ANCHORED
        # the variance contains the prior: half of the weight is the prior's where its own is half of it
        flags[2.0 * stars.variance[:, 0] > stars.prior_sigma**2] |= SourceFlag.PRIOR_DRIVEN
        flags[radius_at(self.galaxy, self.frame.shape, stars) < 1.0] |= SourceFlag.IN_GALAXY
        return flags

    def _report(self, sources: NDArray[np.void]) -> NDArray[np.bool_]:
        """Sources that count as found: significant, on the image, and with data under them.

        A flux that is held to the typical colour is not measured, but the star is known: it counts where it would be
        found if it stood alone.
        """
        bad = SourceFlag.OUTSIDE | SourceFlag.NEGATIVE | SourceFlag.NO_COVARIANCE | SourceFlag.FULLY_MASKED
        stars, optics = self.scene.stars, self.state.optics
        alone = stars.flux * np.sqrt(at(optics.matched.precision, stars)) / self.frame.correlation
        significance = np.where(held_to_colour(stars), alone, sources["snr"])
        return np.asarray((significance > self.config.psf.report_snr) & ((sources["flags"] & int(bad)) == 0))

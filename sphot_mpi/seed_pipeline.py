"""The seed's pipelines: Sersic, sky, point sources, sky, kernel, again until the Sersic is quiet.

The base fit and the scale fits differ only in how the galaxy and the stars are
fitted; one loop, `seed_loop`, drives them all.
"""

import time
from dataclasses import replace

import numpy as np

from sphot_mpi.background import plane_covariance
from sphot_mpi.calibrate import sound_sources
from sphot_mpi.config import Config
from sphot_mpi.config_sections import CoreConfig
from sphot_mpi.errors import FitError
from sphot_mpi.flags import FitFlag
from sphot_mpi.isophotes import first_guess
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit, Image, SersicParams
from sphot_mpi.seed_loop import Alternation, cleaned_up, run
from sphot_mpi.seed_stages import (
    SeedState,
    fit_stars,
    fit_stars_forced,
    psf_sub_data,
    residual,
    sersic_modelimg,
    start_state,
    with_galaxy,
)
from sphot_mpi.sersic import total_flux
from sphot_mpi.sersic_fit import fit_sersic
from sphot_mpi.sersic_problem import SersicBounds
from sphot_mpi.sersic_profile import elliptical_radius
from sphot_mpi.sersic_result import SersicFit
from sphot_mpi.sersic_scale import fit_scale
from sphot_mpi.source_cuts import quality_passing

HEALTHY_STAR_DENSITY = (0.8, 1.3)

#: Largest displacement, px, of a filter's galaxy: what goes further follows a clump or a dust lane.
LARGEST_SHIFT = 0.5


def fit_base_seed(cutout: Cutout, library: LibraryPSF, config: Config) -> FilterFit:
    """Fit the base filter: Sersic shape, sources, sky, in the seed's way.

    Parameters
    ----------
    cutout : Cutout
        Cropped image of the base filter, with at least one usable pixel.
    library : LibraryPSF
        Its PSF.
    config : Config
        The configuration.

    Returns
    -------
    FilterFit
        Positions in the cutout's frame.

    Raises
    ------
    FitError
        If the galaxy cannot be fitted, or a step fails and ``psf.raise_error`` is set.
    """
    started = time.process_time()
    core = config.core
    state = start_state(cutout, library)
    guess = first_guess(cutout.data, cutout.mask)
    state = replace(state, components=(guess.params,))
    if guess.reason:
        state = replace(state, messages=(*state.messages, f"first guess by {guess.method}: {guess.reason}"))

    def galaxy_step(state: SeedState, image: Image, index: int) -> SersicFit:
        # the simple model primes, whatever follows
        n_components = 2 if core.fit_complex_model and index >= 0 else 1
        return _free_fit(state, image, method_of_pass(core, index), n_components, config)

    def star_step(state: SeedState) -> SeedState:
        return fit_stars(state, config)

    end = run(state, galaxy_step, star_step, core.iter_basefit, config)
    if core.use_final_polish:
        method = "lbfgsb_polish" if core.sersic_method == "seed" else core.sersic_method
        n_components = len(end.state.components)
        polished = _free_fit(end.state, psf_sub_data(end.state), method, n_components, config)
        state = star_step(with_galaxy(end.state, polished.components, config.psf))
        end = replace(end, state=state, fit=polished)
    else:
        end = cleaned_up(end, star_step, config)
    return _result(end, started)


def fit_scaled_seed(
    cutout: Cutout, library: LibraryPSF, base: FilterFit, base_cutout: Cutout, config: Config
) -> FilterFit:
    """Fit another filter with the base filter's Sersic shape, in the seed's way.

    Parameters
    ----------
    cutout : Cutout
        Cropped image of this filter.
    library : LibraryPSF
        Its PSF.
    base : FilterFit
        Result of the base filter, with a galaxy.
    base_cutout : Cutout
        Image of the base filter; its origin carries positions over.
    config : Config
        The configuration; ``core.scale_positions`` chooses between sources found anew, at the base filter's
        positions, or there and in what is left.

    Returns
    -------
    FilterFit
        Positions in the cutout's frame.

    Raises
    ------
    FitError
        If the base filter has no galaxy, the galaxy cannot be fitted, or a step fails and ``psf.raise_error`` is set.
    """
    started = time.process_time()
    if not base.components:
        msg = f"the base filter {base.filter} has no galaxy whose shape could be used"
        raise FitError(msg)
    core = config.core
    dx, dy = (b - c for b, c in zip(base_cutout.origin, cutout.origin, strict=True))
    shape = tuple(replace(p, x_0=p.x_0 + dx, y_0=p.y_0 + dy) for p in base.components)
    sources = np.array(base.sources[quality_passing(base.sources)])
    sources["x_fit"] += dx
    sources["y_fit"] += dy
    state = replace(start_state(cutout, library), components=shape, base_sources=sources)
    positions = sources[sound_sources(sources)]
    mode = core.positions_for(cutout.filter)

    def galaxy_step(state: SeedState, image: Image, index: int) -> SersicFit:
        if core.allow_refit and index >= 0:
            return _free_fit(state, image, method_of_pass(core, max(index, 1)), len(shape), config)
        return _scale_fit(state, image, shape)

    def star_step(state: SeedState) -> SeedState:
        if mode == "free":
            return fit_stars(state, config)
        return fit_stars_forced(state, positions, config, leftovers=mode == "anchored")

    end = run(state, galaxy_step, star_step, core.iter_scalefit, config)
    end = cleaned_up(end, star_step, config)
    if mode == "forced":
        end = replace(end, state=replace(end.state, flags=end.state.flags | FitFlag.FORCED))
    galaxy = end.state.components[0]
    return _result(end, started, (galaxy.x_0 - shape[0].x_0, galaxy.y_0 - shape[0].y_0))


def method_of_pass(core: CoreConfig, index: int) -> str:
    """Sersic method of a pass of the base fit; -1 is the primer."""
    if core.sersic_method != "seed":
        return core.sersic_method
    return "dual_annealing" if index == 0 and core.use_dual_annealing else "iterative_NM"


def image_filled(image: Image, state: SeedState) -> Image:
    """Image with zeros where it carries no weight."""
    return np.where(state.cutout.mask, 0.0, image)


def _free_fit(state: SeedState, image: Image, method: str, n_components: int, config: Config) -> SersicFit:
    """Fit the whole Sersic, starting where the state stands; the sky under it is a nuisance here."""
    seed = int(config.random(state.cutout.galaxy, state.cutout.filter).integers(2**31))
    return fit_sersic(
        image_filled(image, state),
        state.weight,
        state.renderer,
        start=state.components,
        method=method,
        n_components=n_components,
        fit_sky=True,
        bounds=_bounds(state.cutout.shape),
        seed=seed,
    )


def _scale_fit(state: SeedState, image: Image, shape: tuple[SersicParams, ...]) -> SersicFit:
    """Fit brightness, sky and the seed's "small offset": frames and library PSFs differ by tenths of a pixel."""
    image = image_filled(image, state)
    fit = fit_scale(image, state.weight, state.renderer, shape, free_shift=True)
    shift = np.array([fit.components[0].x_0 - shape[0].x_0, fit.components[0].y_0 - shape[0].y_0])
    allowed = np.clip(shift, -LARGEST_SHIFT, LARGEST_SHIFT)
    if np.array_equal(shift, allowed):
        return fit
    moved = tuple(replace(p, x_0=p.x_0 + float(allowed[0]), y_0=p.y_0 + float(allowed[1])) for p in shape)
    return fit_scale(image, state.weight, state.renderer, moved)


def _bounds(shape: tuple[int, int]) -> SersicBounds:
    """Ranges of the Sersic: the crop has the galaxy in its middle, unless it was cut at an edge."""
    ny, nx = shape
    return SersicBounds(x_0=(0.15 * nx, 0.85 * nx), y_0=(0.15 * ny, 0.85 * ny), r_eff=(0.3, 0.5 * max(shape)))


def star_density_ratio(state: SeedState) -> float:
    """Star light per usable area within r_eff over that beyond 3 r_eff; NaN where one of the areas is missing."""
    if not state.components:
        return float("nan")
    galaxy = max(state.components, key=total_flux)
    shape = state.cutout.shape
    radius = elliptical_radius(shape, galaxy)
    sources = state.sources[np.isfinite(state.sources["flux_fit"])]
    column, row = (np.rint(sources[name]).astype(np.int64) for name in ("x_fit", "y_fit"))
    on = (column >= 0) & (row >= 0) & (column < shape[1]) & (row < shape[0])
    light = np.zeros(shape)
    np.add.at(light, (row[on], column[on]), sources["flux_fit"][on])
    good = ~state.cutout.mask
    inside, outside = good & (radius < galaxy.r_eff), good & (radius > 3.0 * galaxy.r_eff)
    if not inside.any() or outside.sum() < 100 or light[outside].sum() <= 0.0:
        return float("nan")
    return float(light[inside].mean() / light[outside].mean())


def _result(end: Alternation, started: float, shift: tuple[float, float] = (0.0, 0.0)) -> FilterFit:
    """Gather what the fit has found."""
    state, fit = end.state, end.fit
    weight = state.weight
    left = image_filled(residual(state), state)
    n_pix = int((weight > 0.0).sum())
    sources = state.sources
    ratio = star_density_ratio(state)
    low, high = HEALTHY_STAR_DENSITY
    flags = state.flags
    for condition, flag in (
        (not end.converged, FitFlag.NOT_CONVERGED),
        (fit.at_bound, FitFlag.AT_BOUND),
        (len(state.components) > 1, FitFlag.SECOND_COMPONENT),
        (sources.size == 0, FitFlag.NO_SOURCES),
        (not np.isnan(ratio) and not low <= ratio <= high, FitFlag.STAR_EXCESS),
    ):
        flags |= flag if condition else FitFlag(0)
    return FilterFit(
        galaxy=state.cutout.galaxy,
        filter=state.cutout.filter,
        components=state.components,
        covariance=fit.covariance,
        total_flux=sum(total_flux(component) for component in state.components),
        total_flux_err=fit.total_flux_err,
        flux_in_cutout=float(sersic_modelimg(state).sum()),
        sky=state.sky_stars,
        sky_covariance=plane_covariance(weight),
        sources=sources,
        report=sound_sources(sources),
        kernel=state.kernel,
        shift=shift,
        noise=state.noise,
        chi2_reduced=float((weight * left**2).sum()) / max(n_pix, 1),
        n_pix=n_pix,
        masked_fraction=float(state.cutout.mask.mean()),
        star_density_ratio=ratio,
        passes=end.passes,
        converged=end.converged,
        flags=flags,
        seconds=time.process_time() - started,
        messages=state.messages,
    )

"""The steps of the seed's alternation, each from one frozen state to the next.

A state holds data, galaxy, sources and two skies; every residual is derived
from it by a function of the seed's name (`sersic_residual`, `psf_sub_data`,
`residual`, `residual_masked`), so that none can be stale. A new kernel thus
re-renders everything by itself.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.background import background_std, fit_sky, outlier_mask
from sphot_mpi.config import Config
from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.flags import FitFlag
from sphot_mpi.forced import forced_photometry
from sphot_mpi.ladder import LadderResult, fit_ladder
from sphot_mpi.noise import error_map, patch_noise
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, Cutout, Image, KernelFit, SersicParams, SkyPlane
from sphot_mpi.sersic import SersicRenderer
from sphot_mpi.star_field import StarField


def _no_sources() -> NDArray[np.void]:
    return np.zeros(0, dtype=SOURCE_DTYPE)


#: Largest displacement, px, of forced positions as a whole.
LARGEST_STAR_SHIFT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeedState:
    """Where the alternation stands.

    Parameters
    ----------
    cutout : Cutout
        The image.
    error : (ny, nx) float64 ndarray
        Positive errors, given or estimated.
    noise : float
        White noise of the emptiest part.
    renderer : SersicRenderer
        Renders galaxies with the working PSF, which it holds.
    kernel : KernelFit
        Kernel of the working PSF, as measured.
    last_kernel : Kernel or None
        That of the pass before.
    dao_fwhm_factor : float
        FWHM of the finder's matched filter over that of the working PSF.
    components : tuple of SersicParams
        The galaxy.
    sources : (n,) ndarray of SOURCE_DTYPE
        Point sources.
    sky_galaxy, sky_stars : SkyPlane
        Sky as fitted after the Sersic fit, and after the PSF fit.
    base_sources : (n,) ndarray of SOURCE_DTYPE
        In a scale fit the base filter's stars, in this cutout's frame.
    star_shift : (float, float)
        (x, y) by which their positions are moved, px: this filter's frame against the base filter's.
    flags, messages
        What was noteworthy so far.
    """

    cutout: Cutout
    error: Image
    noise: float
    renderer: SersicRenderer
    kernel: KernelFit
    last_kernel: Kernel | None = None
    dao_fwhm_factor: float = 1.0
    components: tuple[SersicParams, ...] = ()
    sources: NDArray[np.void] = field(default_factory=_no_sources)
    sky_galaxy: SkyPlane = SkyPlane()
    sky_stars: SkyPlane = SkyPlane()
    base_sources: NDArray[np.void] = field(default_factory=_no_sources)
    star_shift: tuple[float, float] = (0.0, 0.0)
    flags: FitFlag = FitFlag(0)
    messages: tuple[str, ...] = ()

    @property
    def psf(self) -> PSF:
        """Working PSF."""
        return self.renderer.psf

    @property
    def weight(self) -> Image:
        """1 / variance, 0 where masked."""
        return np.where(self.cutout.mask, 0.0, self.error**-2.0)


def start_state(cutout: Cutout, library: LibraryPSF) -> SeedState:
    """State before the first fit: errors, noise, and the library PSF without a kernel.

    Parameters
    ----------
    cutout : Cutout
        Image with at least one usable pixel.
    library : LibraryPSF
        The filter's PSF; ``prep.blur_psf`` was put on it when it was read.

    Returns
    -------
    SeedState
        Without galaxy, sources or sky.
    """
    psf = PSF(library, Kernel("gaussian", (0.0,)))
    noise = patch_noise(cutout.data, cutout.mask)
    error = error_map(cutout.data, cutout.mask, floor=noise) if cutout.error is None else cutout.error
    return SeedState(
        cutout=cutout,
        error=np.where(np.isfinite(error) & (error > 0.0), error, np.inf),
        noise=noise,
        renderer=SersicRenderer(psf, cutout.shape),
        kernel=KernelFit(values=psf.kernel.values, fwhm=psf.fwhm),
    )


def sersic_modelimg(state: SeedState) -> Image:
    """The galaxy's image."""
    return state.renderer.render_params(state.components)


def psf_modelimg(state: SeedState) -> Image:
    """The stars' image."""
    # a star's light is followed down to a small part of the noise; the scale must be positive
    noise = state.noise if state.noise > 0.0 else float(np.median(state.error))
    chosen = state.sources[np.isfinite(state.sources["flux_fit"])]
    x, y, flux = (np.ascontiguousarray(chosen[name]) for name in ("x_fit", "y_fit", "flux_fit"))
    return StarField(state.psf, state.cutout.shape, noise).render(x, y, flux)


def sersic_residual(state: SeedState) -> Image:
    """Data minus galaxy and its sky: where stars are found."""
    return state.cutout.data - sersic_modelimg(state) - state.sky_galaxy.render(state.cutout.shape)


def psf_sub_data(state: SeedState) -> Image:
    """Data minus stars and their sky: where the galaxy is fitted."""
    return state.cutout.data - psf_modelimg(state) - state.sky_stars.render(state.cutout.shape)


def residual(state: SeedState) -> Image:
    """Data minus galaxy, stars and the final sky."""
    return psf_sub_data(state) - sersic_modelimg(state)


def residual_masked(state: SeedState, config: PsfConfig) -> Image:
    """`residual`, NaN where masked or where an outlier lies outside the galaxy."""
    left = residual(state)
    galaxy = state.components[0] if state.components else None
    return np.where(outlier_mask(left, state.cutout.mask, galaxy, config), np.nan, left)


def remove_sky(state: SeedState, config: PsfConfig) -> SkyPlane:
    """Sky that best fits what galaxy and stars leave.

    Parameters
    ----------
    state : SeedState
        The state.
    config : PsfConfig
        For the mask of outliers.

    Returns
    -------
    SkyPlane
        The whole sky, not an increment.
    """
    left = residual_masked(replace(state, sky_stars=SkyPlane()), config)
    return fit_sky(left, np.isnan(left))


def with_galaxy(state: SeedState, components: tuple[SersicParams, ...], config: PsfConfig) -> SeedState:
    """State with a new galaxy and the sky of the Sersic fit removed."""
    state = replace(state, components=components)
    return replace(state, sky_galaxy=remove_sky(state, config))


def with_sources(state: SeedState, sources: NDArray[np.void], config: PsfConfig) -> SeedState:
    """State with new sources and the sky of the PSF fit removed."""
    state = replace(state, sources=sources)
    return replace(state, sky_stars=remove_sky(state, config))


def fit_stars(state: SeedState, config: Config) -> SeedState:
    """Find and measure all sources with the threshold ladder.

    Parameters
    ----------
    state : SeedState
        With a galaxy and its sky.
    config : Config
        Section ``psf``.

    Returns
    -------
    SeedState
        With new sources and the sky of the PSF fit.

    Raises
    ------
    FitError
        If a step fails and `raise_error` is set.
    """
    result = _ladder(state, sersic_residual(state), config)
    return with_sources(_noted(state, result), result.sources, config.psf)


def fit_stars_forced(state: SeedState, positions: NDArray[np.void], config: Config, *, leftovers: bool) -> SeedState:
    """Measure the fluxes of sources at given positions.

    Parameters
    ----------
    state : SeedState
        With a galaxy and its sky.
    positions : (n,) ndarray of SOURCE_DTYPE
        The base filter's sources that pass the quality cuts.
    config : Config
        Section ``psf``.
    leftovers : bool
        Whether the ladder then looks on the residual for what the base filter lacks.

    Returns
    -------
    SeedState
        With new sources and the sky of the PSF fit; `base_id` leads to the base filter's table.

    Raises
    ------
    FitError
        If a step fails and `raise_error` is set.
    """
    image = sersic_residual(state)
    first = _forced(state, image, positions, config)
    step = common_shift(state, image, first.sources)
    shift = np.clip(np.add(state.star_shift, step), -LARGEST_STAR_SHIFT, LARGEST_STAR_SHIFT)
    state = replace(state, star_shift=(float(shift[0]), float(shift[1])))
    forced = _forced(state, image, positions, config)
    state = _noted(state, forced)
    sources = np.array(forced.sources)
    sources["base_id"] = positions["id"]
    if leftovers:
        found = _ladder(state, image - forced.model, config)
        state = _noted(state, found)
        added = np.array(found.sources)
        for number in ("id", "group_id"):
            added[number] += sources[number].max(initial=0)
        sources = np.concatenate([sources, added])
    return with_sources(state, sources, config.psf)


def _forced(state: SeedState, image: Image, positions: NDArray[np.void], config: Config) -> LadderResult:
    x, y = (positions[name] + shift for name, shift in zip(("x_fit", "y_fit"), state.star_shift, strict=True))
    flux, mask = positions["flux_fit"], state.cutout.mask
    return forced_photometry(image, state.error, mask, state.psf, x, y, flux, config.psf, galaxy=state.components[0])


def common_shift(state: SeedState, image: Image, sources: NDArray[np.void], step: float = 0.05) -> tuple[float, float]:
    """Displacement of all stars together that fits an image best, linearised.

    Parameters
    ----------
    state : SeedState
        For PSF and weights.
    image : (ny, nx) float64 ndarray
        Data minus galaxy and sky; NaN where masked.
    sources : (n,) ndarray of SOURCE_DTYPE
        Stars as they stand.
    step : float
        Of the central differences, px.

    Returns
    -------
    (float, float)
        (x, y), px, at most 0.3 each; 0 where nothing shines.
    """
    weight = state.weight
    left = np.where(weight > 0.0, image - psf_modelimg(replace(state, sources=sources)), 0.0)
    slopes = []
    for name in ("x_fit", "y_fit"):
        ahead, behind = (np.array(sources) for _ in range(2))
        ahead[name] += step
        behind[name] -= step
        difference = psf_modelimg(replace(state, sources=ahead)) - psf_modelimg(replace(state, sources=behind))
        slopes.append(difference / (2.0 * step))
    normal = np.array([[(weight * a * b).sum() for b in slopes] for a in slopes])
    if not np.linalg.det(normal) > 0.0:
        return 0.0, 0.0
    shift = np.clip(np.linalg.solve(normal, [(weight * a * left).sum() for a in slopes]), -0.3, 0.3)
    return float(shift[0]), float(shift[1])


def _ladder(state: SeedState, image: Image, config: Config) -> LadderResult:
    galaxy = state.components[0]
    mask = state.cutout.mask
    return fit_ladder(
        image,
        state.error,
        mask,
        state.psf,
        config.psf,
        centre=(galaxy.x_0, galaxy.y_0),
        galaxy=galaxy,
        background_std=background_std(image, mask, config.psf),
        fwhm_factor=state.dao_fwhm_factor,
    )


def _noted(state: SeedState, result: LadderResult) -> SeedState:
    """State with what a photometry step found noteworthy."""
    flags = state.flags | (result.flags & FitFlag.STEP_FAILED)
    new = tuple(message for message in result.messages if message not in state.messages)
    return replace(state, flags=flags, messages=state.messages + new)

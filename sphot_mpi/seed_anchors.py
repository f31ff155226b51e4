"""The stars on which a scale fit calibrates its kernel: those of the base filter, where there are enough.

Where the PSF is as wide as stars are far from each other, what a filter finds by
itself are blends. They look broad; a broader kernel merges more stars into one,
which looks broader still, and so on. Where the stars are does not hang on the
kernel if the base filter tells.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from sphot_mpi.calibrate import FEWEST_ANCHORS, choose_anchors
from sphot_mpi.calibrate_stamps import common_step, cut_stamps
from sphot_mpi.config import Config
from sphot_mpi.flags import SourceFlag
from sphot_mpi.flux_solve import solve_pinned
from sphot_mpi.records import Image
from sphot_mpi.seed_stages import LARGEST_STAR_SHIFT, SeedState
from sphot_mpi.source_cuts import quality_passing

#: Most solves for the frame's displacement, and the step, px, below which another is not needed.
SHIFT_ROUNDS, SHIFT_TOLERANCE = 4, 0.02
#: Least usable part of the square of one FWHM about a star; with less its flux may be anything.
LEAST_SEEN = 0.25
#: Signal-to-noise that makes a star of the base filter an anchor.
LEAST_SNR = 5.0


def anchor_stars(state: SeedState, image: Image, config: Config) -> tuple[SeedState, NDArray[np.void]]:
    """Choose the table of stars to calibrate on, and measure the displacement of the base filter's frame.

    Parameters
    ----------
    state : SeedState
        After a PSF fit; `base_sources` are the base filter's, if there is one.
    image : (ny, nx) float64 ndarray
        Data minus galaxy and sky.
    config : Config
        ``psf.leftover_dedup_psfsigma``: how far from the base filter's stars a source is another one.

    Returns
    -------
    state : SeedState
        With the new `star_shift`.
    stars : (n,) ndarray of SOURCE_DTYPE
        The base filter's stars with their fluxes here, flag ANCHORED, then the filter's own elsewhere as neighbours,
        flag CUT. With less than three anchors of the base filter: the filter's own.
    """
    # quality cuts compare with the population: under the library PSF the brightest fit worst, and would be missed
    known = np.array(state.base_sources)
    known["flags"] = int(SourceFlag.ANCHORED)
    own = state.sources[(state.sources["flags"] & int(SourceFlag.ANCHORED)) == 0]
    own = own[quality_passing(own)]
    galaxy = state.components[0] if state.components else None
    moved = state
    for _ in range(SHIFT_ROUNDS):
        stars = _measured(moved, image, known, own, config)
        chosen = choose_anchors(stars, image.shape, galaxy, config.psf_calib)
        if chosen.size < FEWEST_ANCHORS:
            return state, state.sources
        table = stars["x_fit"], stars["y_fit"], stars["flux_fit"]
        # windows that are fitted badly hardly count; the image as a whole would follow them
        step = common_step(cut_stamps(image, state.weight, table, chosen, state.psf, config.psf_calib), state.psf)
        if max(map(abs, step)) < SHIFT_TOLERANCE:
            return moved, stars
        shift = np.clip(np.add(moved.star_shift, step), -LARGEST_STAR_SHIFT, LARGEST_STAR_SHIFT)
        moved = replace(moved, star_shift=(float(shift[0]), float(shift[1])))
    return moved, _measured(moved, image, known, own, config)


def _measured(
    state: SeedState, image: Image, known: NDArray[np.void], own: NDArray[np.void], config: Config
) -> NDArray[np.void]:
    """Stars of the base filter, displaced, and own ones elsewhere, with non-negative fluxes solved together.

    The former are anchors where they are bright enough, the others carry the flag CUT.
    """
    known = np.array(known)
    for name, shift in zip(("x_fit", "y_fit"), state.star_shift, strict=True):
        known[name] += shift
    known = known[_seen(state, known)]
    if known.size == 0:
        return known
    stars = np.concatenate([known, _elsewhere(own, known, config.psf.leftover_dedup_psfsigma * state.psf.sigma)])
    x, y = np.ascontiguousarray(stars["x_fit"]), np.ascontiguousarray(stars["y_fit"])
    radius = max(config.psf.modelimg_render_shape) // 2
    weight = state.weight
    solution = solve_pinned(np.where(weight > 0.0, image, 0.0), weight, state.psf, x, y, radius=radius)
    stars["flux_fit"] = solution.flux
    stars["flux_err"] = solution.flux_err
    stars["snr"] = solution.flux / solution.flux_err
    anchored = (stars["flags"] & int(SourceFlag.ANCHORED)) != 0
    stars["flags"] |= np.where(anchored & (stars["snr"] > LEAST_SNR), 0, int(SourceFlag.CUT))
    return stars


def _elsewhere(own: NDArray[np.void], known: NDArray[np.void], distance: float) -> NDArray[np.void]:
    """Sources farther than `distance` px from every known one."""
    if own.size == 0:
        return own
    known_places, places = (np.column_stack((table["x_fit"], table["y_fit"])) for table in (known, own))
    nearest, _ = cKDTree(known_places).query(places)
    return np.asarray(own[nearest > distance])


def _seen(state: SeedState, stars: NDArray[np.void]) -> NDArray[np.bool_]:
    """Whether enough of the pixels about each star are usable."""
    weight = state.weight
    usable = ndimage.uniform_filter(
        (weight > 0.0).astype(np.float64), 2 * round(0.5 * state.psf.fwhm) + 1, mode="constant"
    )
    x, y = (np.rint(stars[name]).astype(np.int64) for name in ("x_fit", "y_fit"))
    inside = (x >= 0) & (y >= 0) & (x < weight.shape[1]) & (y < weight.shape[0])
    return np.asarray(inside & (usable[np.where(inside, y, 0), np.where(inside, x, 0)] > LEAST_SEEN))

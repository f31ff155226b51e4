"""The light of stars beyond the data: off the image, and where pixels are missing.

Their wings fall on the data's edge. Unmodelled, they raise the sky there, and a sky that is a plane then takes from
the galaxy's wings what the edges have too much. Nobody can place these stars, but what they give on average is known:
the density of star light on the data, seen through the PSF.
"""

from dataclasses import replace

import numpy as np

from sphot_mpi.joint import State
from sphot_mpi.joint_sources import at
from sphot_mpi.unseen_light import light_beyond, squares_beyond

#: Part of a star's light beyond the data from which on a pixel belongs to the edge.
EDGE = 0.05


def with_outside_light(state: State, *, weigh: bool) -> State:
    """Expect at the data's edge the light of the stars beyond it.

    Parameters
    ----------
    state : State
        With the stars that can be found above some signal-to-noise.
    weigh : bool
        Whether the variance of that light, which is that of unknown places, is added to the pixels'; do this once.

    Returns
    -------
    State
        With the frame's outside light renewed.

    Notes
    -----
    For stars scattered at random with fluxes f and n per area, mean and variance of their light at a pixel are
    ``n <f> (B * P)`` and ``n <f^2> (B * P^2)``, B being 1 beyond the data and P the PSF (Campbell's theorem). Stars so
    bright that less than ln 2 of them are expected along the edge are left out: in most fields there is none, and a
    mean that counts them would be too high in all of these.
    """
    frame, covered = state.optics.frame, state.optics.matched.covered
    stars = state.scene.stars.take(at(covered, state.scene.stars))
    if stars.size == 0:
        return state
    share = light_beyond(covered, state.optics.stars)
    area, edge = float(covered.sum()), float((covered & (share > EDGE)).sum())
    rare = int(np.log(2.0) * area / max(edge, 1.0))
    flux = np.sort(np.maximum(stars.flux, 0.0))[: max(stars.size - rare, 0)]
    if weigh:
        scatter = squares_beyond(covered, state.optics.psf) * (flux**2).sum() / area
        state = state.with_frame(replace(frame, weight=frame.weight / (1.0 + frame.weight * scatter)))
    mean = float(flux.sum()) / area
    frame = state.optics.frame
    frame = replace(frame, outside=share * mean, unseen=replace(frame.unseen, outside=mean))
    return replace(state, optics=state.optics.on(frame))

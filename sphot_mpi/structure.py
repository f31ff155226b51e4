"""Structure noise: how much a galaxy that is no Sersic disturbs point-source measurements.

Spiral arms, lumps and bars leave a residual of both signs. Stars only ever add
light. The negative tail of the residual's matched-filter map, inside the galaxy
against outside, therefore measures the structure and not the stars; the errors
inside are widened by that factor, once, so that structure makes no stars and
does not steer the fit.
"""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import State, field_of, usable_of
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.records import Image
from sphot_mpi.star_excess import COUNT_INSIDE
from sphot_mpi.unseen_light import EDGES

#: Percentile that stands for one sigma of the negative tail.
LOW = 15.87
#: Factors below this are chance.
LEAST_FACTOR = 1.25


def structure_factor(state: State) -> Image:
    """Factor >= 1 by which errors on the galaxy are too small for what is there.

    Parameters
    ----------
    state : State
        After the bright stars have been found.

    Returns
    -------
    (ny, nx) float64 ndarray
        1 beyond 2.5 r_eff; never rising outwards.
    """
    shape = state.optics.frame.shape
    factor = np.ones(shape)
    if state.scene.galaxy is None:
        return factor
    radius, usable = galaxy_radius(state.scene.galaxy, shape), usable_of(state)
    field = field_of(state, radius)
    if field is None:
        return factor
    snr = state.optics.matched.snr(state.residual)
    reference = negative_tail(snr[field])
    cells = 1.0 / float((state.optics.stars.sampled(state.optics.core_radius) ** 2).sum())
    outer = 1.0
    for low, high in reversed(list(zip(EDGES[:-1], EDGES[1:], strict=True))):
        ring = usable & (radius >= low) & (radius < high)
        # too few independent cells to tell structure from chance
        if ring.sum() > 4 * cells:
            ratio = negative_tail(snr[ring]) / reference
            outer = max(outer, ratio if ratio > LEAST_FACTOR else 1.0)
        factor[(radius >= low) & (radius < high)] = outer
    return factor


def negative_tail(values: NDArray[np.float64]) -> float:
    """One-sigma width of the lower half of a distribution about zero, at least that about its median."""
    low, median = np.percentile(values, (LOW, 50.0))
    return float(max(-low, median - low, 1e-9))


def with_wider_errors(state: State, factor: float) -> State:
    """Return the state with errors widened by `factor` on the galaxy, out to 1.5 r_eff."""
    assert state.scene.galaxy is not None
    frame = state.optics.frame
    on_galaxy = galaxy_radius(state.scene.galaxy, frame.shape) < COUNT_INSIDE[1]
    return state.with_frame(frame.widened(np.where(on_galaxy, factor, 1.0)))


def with_structure_noise(state: State) -> State:
    """Return the state with errors widened by `structure_factor`."""
    return state.with_frame(state.optics.frame.widened(structure_factor(state)))

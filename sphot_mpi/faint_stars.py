"""Faint stars on the galaxy: those that only the field beside it can show are expected on it, too, as a mean light."""

from dataclasses import replace

import numpy as np

from sphot_mpi.joint import GALAXY_KEEP_SNR, State, field_of
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_sources import at
from sphot_mpi.star_excess import COMPLETE
from sphot_mpi.unseen_light import EDGES, faint_light


def flux_limits(state: State, snr: float) -> tuple[float, ...]:
    """Flux below which stars are not found, in each annulus of `EDGES`.

    Parameters
    ----------
    state : State
        With the errors as they were widened.
    snr : float
        S/N of the last detection.

    Returns
    -------
    tuple of float
        Infinite where the galaxy's centre keeps all stars away.
    """
    frame = state.optics.frame
    if state.scene.galaxy is None:
        return ()
    radius = galaxy_radius(state.scene.galaxy, frame.shape)
    limits = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        ring = state.optics.matched.covered & (radius >= low) & (radius < high)
        needed = max(snr, GALAXY_KEEP_SNR) if high <= 1.0 else snr
        precision = float(np.median(state.optics.matched.precision[ring])) if ring.any() else 0.0
        limits.append(COMPLETE * needed * frame.correlation / np.sqrt(precision) if precision > 0.0 else float("inf"))
    return tuple(limits)


def with_faint_stars(state: State, limits: tuple[float, ...]) -> State:
    """Expect on the galaxy the light of those stars that only the field outside shows.

    What is too faint to be found against the galaxy would otherwise be counted as its light, and the more so the
    deeper the field is fitted.

    Parameters
    ----------
    state : State
        With stars.
    limits : tuple of float
        As of `flux_limits`, in the base filter's flux for stars that it anchors.

    Returns
    -------
    State
        With the frame's faint light renewed.

    Notes
    -----
    Counts in an annulus scatter. What is missing is therefore shrunk towards none by its own uncertainty, as the
    positive-part estimator of James & Stein (1961) does; cut off at zero alone, it would dim every galaxy.
    """
    frame, stars, galaxy = state.optics.frame, state.scene.stars, state.scene.galaxy
    if galaxy is None or not limits or stars.size == 0:
        return state
    radius = galaxy_radius(galaxy, frame.shape)
    field = field_of(state, radius)
    if field is None:
        return state
    # as bright as where they were found
    found = np.where(stars.base_flux > 0.0, stars.base_flux, stars.flux)
    in_field, distance, pixels = at(field, stars), at(radius, stars), field.sum()
    within = [np.count_nonzero(radius < edge) for edge in EDGES]
    means = [0.0] * (len(EDGES) - 1)
    for index, (low, high, limit) in enumerate(zip(EDGES[:-1], EDGES[1:], limits, strict=True)):
        area = within[index + 1] - within[index]
        if area == 0:
            continue
        few = stars.flux[in_field & (found < limit)]
        present = stars.flux[(distance >= low) & (distance < high) & (found < limit)]
        missing = few.sum() / pixels - present.sum() / area
        # by how much the light of as many stars as expected there varies by chance
        chance = (few**2).sum() / (pixels * area)
        means[index] = missing * max(1.0 - chance / missing**2, 0.0) if missing > 0.0 else 0.0
    faint = faint_light(means, radius)
    frame = replace(frame, faint=faint, unseen=replace(frame.unseen, faint=tuple(means)))
    return replace(state, optics=state.optics.on(frame))

"""How much a galaxy's shape may differ in another filter from the base filter's: what is expected, and what data add.

Galaxies are larger in bluer light, and of a lower Sersic index: from g to K r_eff falls by 25 % and n rises by 52 % in
late types, by 38 and 30 % in early ones, on average (Kelvin et al. 2012, MNRAS 421, 1007). A shape that is pinned to
the base filter's makes a galaxy that is 10 % larger 7 % too faint, and its error does not know of it; a shape that is
free is known much less well than that many galaxies have the same one in two filters near each other.
"""

from dataclasses import replace

import numpy as np

from sphot_mpi.joint import State
from sphot_mpi.joint_bounds import shape_ranges
from sphot_mpi.joint_measure import Measurement, ShapeChange
from sphot_mpi.joint_render import SHAPE_NAMES
from sphot_mpi.joint_scene import Galaxy
from sphot_mpi.joint_wald import shape_unknowns
from sphot_mpi.records import Image

#: Standard deviations of ln r_eff and ln n about the base filter's, and of the share of a further component over its
#: own, where they differ; and the chance that they do.
SCATTER, SHARE_SCATTER, DIFFERENT = (0.15, 0.2), 0.3, 0.5
#: A component keeps at least this part of its flux.
LEAST_PART = 0.05
#: Condition of a correlation matrix above which a fit tells nothing.
WORST_CONDITION = 1e10


def shape_change(expected: Galaxy, found: Galaxy, measurement: Measurement) -> ShapeChange | None:
    """Weigh the change that a fit with a free profile has found against what is expected.

    Parameters
    ----------
    expected, found : Galaxy
        With the base filter's profile, and with a free one.
    measurement : Measurement
        Of the free one.

    Returns
    -------
    ShapeChange or None
        Mean and covariance over both hypotheses: the shape is the same, or differs by a Gaussian deviate. None where
        the fit has no covariance.

    Notes
    -----
    With the change d found with covariance C, and P that of the deviates, the odds of the hypotheses are those of d
    under normal laws of covariance C and C + P (Bayes); where it differs, the change has the mean ``P (C + P)^-1 d``.
    """
    change, turn, names = shape_unknowns(expected, found, measurement, SHAPE_NAMES[:2])
    unknowns = measurement.block(names)
    told, prior = turn @ unknowns @ turn.T, _expected_covariance(expected)
    spread = np.sqrt(np.diag(told))
    if not (spread > 0.0).all() or not np.linalg.cond(told / spread / spread[:, None]) < WORST_CONDITION:
        return None
    gain = prior @ np.linalg.inv(told + prior)
    mean, covariance = gain @ change, prior - gain @ prior
    chi2 = change @ (np.linalg.inv(told) - np.linalg.inv(told + prior)) @ change
    odds = np.exp(min(0.5 * float(chi2), 700.0)) / np.sqrt(
        np.linalg.det(np.eye(change.size) + np.linalg.inv(told) @ prior)
    )
    differs = 1.0 / (1.0 + (1.0 - DIFFERENT) / (DIFFERENT * float(odds)))
    of_flux = np.array([name.endswith(".flux") for name in names], float)
    return ShapeChange(
        mean=differs * mean,
        covariance=differs * covariance + differs * (1.0 - differs) * np.outer(mean, mean),
        response=of_flux @ unknowns @ turn.T @ np.linalg.inv(told),
    )


def untold_change(galaxy: Galaxy, change: ShapeChange) -> ShapeChange:
    """Return what is expected where the data tell nothing, with the flux's response to some change."""
    return replace(change, mean=np.zeros(change.mean.size), covariance=DIFFERENT * _expected_covariance(galaxy))


def _expected_covariance(galaxy: Galaxy) -> Image:
    """Covariance of a change where the shape differs."""
    shares = SHARE_SCATTER * np.abs(galaxy.fluxes[1:])
    return np.diag(np.square(np.concatenate((np.tile(SCATTER, galaxy.size), shares))))


def with_change(state: State, change: ShapeChange) -> State:
    """Return the state with the galaxy changed by the mean, within its bounds, flux included."""
    galaxy = state.scene.galaxy
    assert galaxy is not None
    low, high = shape_ranges(galaxy, state.optics.frame.shape)
    shapes = galaxy.shapes.copy()
    shapes[:, :2] = np.clip(shapes[:, :2] + change.mean[: 2 * galaxy.size].reshape(-1, 2), low, high)
    fluxes = np.maximum(galaxy.fluxes + change.flux_slopes(galaxy.fluxes) @ change.mean, LEAST_PART * galaxy.fluxes)
    return replace(state, scene=replace(state.scene, galaxy=replace(galaxy, shapes=shapes, fluxes=fluxes)))

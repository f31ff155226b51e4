"""Wald's chi2 of what a fit with more freedom has changed of the galaxy."""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint_measure import Measurement
from sphot_mpi.joint_render import SHAPE_NAMES
from sphot_mpi.joint_scene import Galaxy
from sphot_mpi.records import Image


def wald(change: NDArray[np.float64], covariance: Image) -> float:
    """Wald's chi2 of a change against none."""
    return float(change @ np.linalg.pinv(covariance, hermitian=True) @ change)


def profile_change(expected: Galaxy, found: Galaxy, measurement: Measurement) -> float:
    """Wald's chi2 of a free profile against the expected one: by the components' shares of the flux, r_eff and n.

    Parameters
    ----------
    expected, found : Galaxy
        The pinned profile and the free one.
    measurement : Measurement
        Of the free one; r_eff and n count if they were free.
    """
    change, turn, names = shape_unknowns(expected, found, measurement, SHAPE_NAMES[:2])
    return wald(change, turn @ measurement.block(names) @ turn.T)


def shape_unknowns(
    expected: Galaxy, found: Galaxy, measurement: Measurement, of: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Change of shares and the first shapes, the matrix that makes it of the unknowns' changes, and these."""
    size = found.size
    free = [(c, k) for c in range(size) for k, name in enumerate(of) if f"{c}.{name}" in measurement.names]
    names = [f"{c}.{of[k]}" for c, k in free]
    fluxes = [f"{c}.flux" for c in range(size)]
    share = expected.fluxes / expected.fluxes[0]
    shapes = [(found.shapes - expected.shapes)[index] for index in free]
    change = np.concatenate((shapes, found.fluxes[1:] - share[1:] * found.fluxes[0]))
    turn = np.zeros((change.size, len(names) + size))
    turn[: len(names), : len(names)] = np.eye(len(names))
    turn[len(names) :, len(names)] = -share[1:]
    turn[len(names) :, len(names) + 1 :] = np.eye(size - 1)
    return change, turn, [*names, *fluxes]

"""The kernel's error, from the pixels' noise or from how the stars that tell it differ, whichever is larger.

In a crowded field blends pull more on the kernel than noise does, each star by its own.
"""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import State
from sphot_mpi.joint_confusion import told_by
from sphot_mpi.joint_kernel import KERNEL_NAMES
from sphot_mpi.joint_render import kernel_stars
from sphot_mpi.joint_sources import at
from sphot_mpi.records import Image

#: Fewer stars do not tell how they differ.
FEWEST = 3


def kernel_errors(state: State, residual: Image) -> tuple[float, ...]:
    """1-sigma errors of the kernel's values; NaN where it was held.

    Parameters
    ----------
    state : State
        Solved with the kernel free.
    residual : (ny, nx) float64 ndarray
        Of that state, on the frame.

    Notes
    -----
    With the inverse B of the equations of the kernel's coordinates, and the sums S over the stars of the products of
    their pulls on them about the mean pull, the covariance by scatter is B S B^T (the sandwich estimate, Huber 1967).
    """
    step, kernel, frame = state.step, state.optics.kernel, state.optics.frame
    assert step is not None
    names = [name for name in KERNEL_NAMES if name in step.names]
    if not names:
        return (float("nan"),) * len(kernel.values)
    rows = [step.names.index(name) for name in names]
    covariance = step.covariance[np.ix_(rows, rows)]
    inverse = step.inverse[np.ix_(rows, rows)]
    by_noise, pulls = kernel.errors(covariance * frame.correlation**2), star_pulls(state, residual)
    n = pulls.shape[0]
    if n < FEWEST:
        return by_noise
    # what they have in common is what hidden neighbours pull, and what else tells the kernel
    pulls = pulls - pulls.mean(axis=0)
    by_scatter = kernel.errors(inverse @ (n / (n - 1.0) * pulls.T @ pulls) @ inverse.T)
    return tuple(max(pair) for pair in zip(by_noise, by_scatter, strict=True))


def star_pulls(state: State, residual: Image) -> NDArray[np.float64]:
    """By how much each star that tells the kernel would change its coordinates.

    Parameters
    ----------
    state, residual
        As in `kernel_errors`.

    Returns
    -------
    (n, k) float64 ndarray
        Products of the weighted residual with the derivatives of the star's image, in the pixels that are nearer to no
        brighter star's core; where the kernel has been solved for they are in balance with what hidden neighbours pull
        and what else tells the kernel.
    """
    stars, optics = state.scene.stars, state.optics
    frame, radius = optics.frame, optics.core_radius
    telling = kernel_stars(stars, optics) & at(frame.anchored_area & frame.good, stars)
    slopes = optics.stars.render_with_derivatives(stars.x, stars.y, stars.flux, shift=False, kernel=telling).kernel
    chosen = stars.take(telling)
    owner = np.full(frame.shape, -1)
    for index in np.argsort(chosen.flux):
        x, y = round(float(chosen.x[index])), round(float(chosen.y[index]))
        owner[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1] = index
    owned = (owner >= 0) & frame.anchored_area
    products = (told_by(frame, state.scene.galaxy, residual) * frame.weight * residual * slopes)[:, owned]
    return np.stack([np.bincount(owner[owned], weights=row, minlength=chosen.size) for row in products], axis=1)

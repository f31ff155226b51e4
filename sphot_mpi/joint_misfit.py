"""The errors of a galaxy that its model does not fit: arms, lumps and dust leave more than noise does.

What they leave is no noise that the pixels' errors or the field's stars would tell of, but it pulls on the galaxy's
parameters all the same. How much shows in how the pulls of parts of the image differ: where the model is right, by
what noise does; where not, by more.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.joint import State
from sphot_mpi.joint_measure import Measurement
from sphot_mpi.joint_regions import galaxy_radius
from sphot_mpi.joint_render import render_columns
from sphot_mpi.joint_scene import PAD, Galaxy
from sphot_mpi.joint_solve import is_of_galaxy
from sphot_mpi.records import Image

#: Parts of the image that pull independently of each other, about as long as wide, for arms and lumps are as large as
#: these: outer radii of rings, r_eff, and sectors in each and beyond. Sectors begin at the major axis, and again half a
#: sector from it.
RINGS, SECTORS, STARTS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0), (1, 4, 6, 8, 8, 8, 8), (0.0, 0.5)
#: Pulls that differ by less than this x the variance that noise lets expect differ by chance.
LEAST_MISFIT = 2.0
#: Most of what is told of an unknown that one part may be taken to tell: what it tells alone leaves nothing in it.
MOST_TOLD = 0.75
#: Least eigenvalue of the columns' correlations.
LEAST_VALUE = 1e-12


def with_misfit(state: State, measurement: Measurement) -> Measurement:
    """Widen the errors of a galaxy by what its model leaves.

    Parameters
    ----------
    state : State
        As it was measured.
    measurement : Measurement
        With errors by noise and confusion.

    Returns
    -------
    Measurement
        Of the galaxy's unknowns only.

    Notes
    -----
    With the covariance C of the solve and the sum S over parts of the image of the products of their pulls, that of
    the unknowns is C S C (Huber 1967; Liang & Zeger 1986, Biometrika 73, 13, for parts whose members depend on each
    other). Pulls are the products of the weighted residual with the unknowns' columns; what stars take up of a column
    needs no attention, for their own pulls are in balance. A part that has told much of an unknown has taken its pull
    out of the residual: over 1 minus what it has told, it is the pull on a fit without that part (the jackknife; CR3 of
    Bell & McCaffrey 2002, Survey Methodology 28, 169). The sum has noise of its own: where C S C is less than
    `LEAST_MISFIT` x the covariance, along its principal axes relative to it, that stays.
    """
    galaxy, solved = state.scene.galaxy, measurement.solved
    assert galaxy is not None
    assert solved is not None
    rows = np.array([k for k, name in enumerate(measurement.names) if is_of_galaxy(name)], np.int64)
    names = tuple(measurement.names[k] for k in rows)
    covariance = measurement.covariance[np.ix_(rows, rows)]
    rendered = render_columns(state.scene, state.optics, solved.freedom)
    frame = state.optics.frame
    columns = np.array(rendered.columns)
    columns[list(rendered.told)] = rendered.tests
    response = measurement.covariance[rows] / solved.unit
    radius = galaxy_radius(galaxy, frame.shape)
    scatter = response @ _scatter(columns, rendered.residual, solved.weight, _divisions(galaxy, radius)) @ response.T
    return replace(measurement, names=names, covariance=widened(covariance, scatter))


def _scatter(columns: NDArray[np.float64], residual: Image, weight: Image, divisions: list[NDArray[np.uint8]]) -> Image:
    """Sum over an image's parts of the products (m, m) of their pulls on m unknowns, were each left out of the fit.

    The mean over several divisions, each a number of its part for every pixel.
    """
    used = np.flatnonzero(weight > 0.0)
    root = np.sqrt(weight.ravel()[used])
    vectors = (columns.reshape(len(columns), -1)[:, used] * root).T
    left = residual.ravel()[used] * root
    # in unknowns that all pixels together tell to 1, and independently of each other
    gram = vectors.T @ vectors
    scale = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    values, axes = np.linalg.eigh(gram / np.outer(scale, scale))
    spread = np.sqrt(np.maximum(values, LEAST_VALUE))
    vectors = np.ascontiguousarray(vectors @ (axes / spread / scale[:, np.newaxis]))
    out = np.zeros_like(gram)
    for division in divisions:
        part = division.ravel()[used]
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part))
        parts = np.split(vectors[order], ends[:-1])
        told, turn = np.linalg.eigh(np.array([own.T @ own for own in parts]))
        pulls = np.array([some @ own for some, own in zip(np.split(left[order], ends[:-1]), parts, strict=True)])
        pulls = pulls[:, np.newaxis]
        pulls = (pulls @ turn) / (1.0 - np.clip(told, 0.0, MOST_TOLD))[:, np.newaxis]
        pulls = (pulls @ turn.transpose(0, 2, 1))[:, 0]
        out += pulls.T @ pulls / len(divisions)
    back = scale[:, np.newaxis] * axes * spread
    return np.asarray(back @ out @ back.T)


def _divisions(galaxy: Galaxy, radius: Image) -> list[NDArray[np.uint8]]:
    """Number of each pixel's part of the image, with sectors that begin in two places."""
    x_0, y_0 = galaxy.centres[galaxy.main] + PAD
    eta_1, eta_2 = galaxy.shapes[galaxy.main, 2:]
    theta, ratio = 0.5 * np.arctan2(eta_2, eta_1), galaxy.axis_ratios()[galaxy.main]
    y, x = np.ogrid[: radius.shape[0], : radius.shape[1]]
    along = (x - x_0) * np.cos(theta) + (y - y_0) * np.sin(theta)
    across = ((y - y_0) * np.cos(theta) - (x - x_0) * np.sin(theta)) / ratio
    ring = np.digitize(radius, RINGS)
    count, first = np.array(SECTORS)[ring], np.cumsum((0, *SECTORS))[ring]
    place = np.arctan2(across, along) / (2.0 * np.pi) * count
    return [np.asarray(first + np.floor(place + start).astype(np.int64) % count, np.uint8) for start in STARTS]


def widened(covariance: Image, scatter: Image) -> Image:
    """Return the larger of two covariances along each principal axis of the second relative to the first.

    Parameters
    ----------
    covariance, scatter : (k, k) float64 ndarray
        What noise lets expect, with no variance for what is not known, and what is seen.

    Returns
    -------
    (k, k) float64 ndarray
        The first one where the second is less than `LEAST_MISFIT` times as large.
    """
    known = np.flatnonzero(np.diag(covariance) > 0.0)
    block = np.ix_(known, known)
    unit = np.sqrt(np.outer(np.diag(covariance)[known], np.diag(covariance)[known]))
    values, axes = np.linalg.eigh(covariance[block] / unit)
    # axes along which the solve is singular have no error to be compared with
    good = values > np.finfo(float).eps * values.size
    root = axes[:, good] * np.sqrt(values[good])
    back = axes[:, good] / np.sqrt(values[good])
    ratios, turn = np.linalg.eigh(back.T @ (scatter[block] / unit) @ back)
    more = root @ turn * np.sqrt(np.where(ratios > LEAST_MISFIT, ratios - 1.0, 0.0))
    out = covariance.copy()
    out[block] += more @ more.T * unit
    return out

"""States of a joint fit to be tested on: one galaxy, and stars on a jittered grid."""

from functools import cache

import numpy as np
from analytic import gaussian_library, gaussian_stars

from sphot_mpi.joint import State
from sphot_mpi.joint_galaxy import galaxy_of, no_stars
from sphot_mpi.joint_render import render_galaxy
from sphot_mpi.joint_scene import PAD, Frame, Optics, Scene
from sphot_mpi.joint_sources import Stars
from sphot_mpi.records import SersicParams

SHAPE = (133, 150)
NOISE, SIGMA, KERNEL = 0.01, 0.9, 1.0
LIBRARY = gaussian_library(SIGMA, (101, 90))
GALAXY = SersicParams(amplitude=0.3, r_eff=9.0, n=1.4, x_0=73.3, y_0=66.8, ellip=0.35, theta=0.6)
BULGE = SersicParams(amplitude=2.5, r_eff=2.4, n=1.7, x_0=73.3, y_0=66.8, ellip=0.1, theta=0.6)
SKY = 0.5
NEVER = np.full((SHAPE[0] + 2 * PAD, SHAPE[1] + 2 * PAD), np.inf)
EVERYWHERE = np.ones(NEVER.shape)


@cache
def galaxy_image(*components):
    frame = frame_of(np.zeros(SHAPE))
    return frame.interior(render_galaxy(galaxy_of(components), optics_on(frame)))


def frame_of(data, mask=None):
    mask = np.zeros(SHAPE, bool) if mask is None else mask
    return Frame.from_image(data, np.full(SHAPE, NOISE), mask, NOISE, 1.0)


def optics_on(frame):
    return Optics.start(LIBRARY, KERNEL, frame)


def noise(seed=0):
    return np.random.default_rng(seed).normal(0.0, NOISE, SHAPE)


def stars_at(n=25, seed=0, low=0.8, high=5.0):
    """Stars on a jittered grid, in the frame's coordinates."""
    rng = np.random.default_rng(seed)
    gy, gx = np.meshgrid(np.arange(12, 125, 22), np.arange(12, 145, 22), indexing="ij")
    order = rng.permutation(gx.size)[:n]
    x, y = (g.ravel()[order] + rng.uniform(-3, 3, n) + PAD for g in (gx, gy))
    return Stars.new(x, y, rng.uniform(low, high, n))


def image_of(stars):
    return gaussian_stars(SHAPE, stars.x - PAD, stars.y - PAD, stars.flux, np.hypot(SIGMA, KERNEL))


def state_of(data, stars=None, galaxy=None, mask=None):
    frame = frame_of(data, mask)
    sky = np.array([SKY, 0.0, 0.0])
    scene = Scene(stars=no_stars() if stars is None else stars, galaxy=galaxy, sky=sky)
    return State.start(scene, optics_on(frame))

"""The joint fit: find stars by falling signal-to-noise, and solve everything together at every step."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sphot_mpi.detection import detect
from sphot_mpi.joint_confusion import Confusion, confusion
from sphot_mpi.joint_kernel import KERNEL_NAMES
from sphot_mpi.joint_regions import radius_at
from sphot_mpi.joint_render import Freedom, render_galaxy, render_sky, render_stars
from sphot_mpi.joint_scene import Frame, Optics, Scene
from sphot_mpi.joint_solve import Step, solve_step
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.kernels import joint as kernels
from sphot_mpi.records import Image
from sphot_mpi.unseen_light import FIELD, LEAST_FIELD

#: Change of the kernel's width, px, below which the PSF is not rendered anew: at the end, and while stars are found.
KERNEL_TOLERANCE, COARSE_TOLERANCE = 0.003, 0.01
#: A new source must beat this part of the star light already there; early steps are stricter.
BLEND_LADDER = (0.3, 0.1, 0.05, 0.02)
#: Index of the strictest blend.
LAST_BLEND = len(BLEND_LADDER) - 1
#: Stars nearer to each other than this x FWHM become one.
MERGE_FWHM = 0.3
#: Error of the kernel's size, px^2, above which it is held: what would move it is noise.
LEAST_KNOWN_SIZE = 1.0
#: Least signal-to-noise of a star within one r_eff of a galaxy that is free to take its light.
GALAXY_KEEP_SNR = 5.0


@dataclass(frozen=True, slots=True)
class Keep:
    """Least signal-to-noise of a star that stays in the scene.

    Parameters
    ----------
    field : float
        Off the galaxy.
    galaxy : float
        Within one r_eff of it.
    """

    field: float
    galaxy: float

    @classmethod
    def beside_free_galaxy(cls, snr: float) -> "Keep":
        """While the galaxy is solved as well: a faint star on it may be a piece of it."""
        return cls(snr, max(snr, GALAXY_KEEP_SNR))

    @classmethod
    def beside_held_galaxy(cls, snr: float) -> "Keep":
        """While the galaxy is held: stars cannot take its light."""
        return cls(snr, snr)


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Where a joint fit stands.

    Parameters
    ----------
    scene : Scene
        Stars, galaxy, sky.
    optics : Optics
        PSF and renderers at the kernel so far.
    step : Step or None
        The last solve.
    passes : int
        Solves so far.
    """

    scene: Scene
    optics: Optics
    step: Step | None = None
    passes: int = 0

    @classmethod
    def start(cls, scene: Scene, optics: Optics) -> "State":
        """A state before the first solve."""
        return cls(scene=scene, optics=optics)

    @cached_property
    def residual(self) -> Image:
        """Data minus model on the frame, 0 where masked; not to be written to."""
        scene, optics = self.scene, self.optics
        model = render_stars(scene.stars, optics) + render_galaxy(scene.galaxy, optics)
        residual = optics.frame.residual(model + render_sky(scene.sky, optics.frame.shape))
        residual.setflags(write=False)
        return residual

    @cached_property
    def confusion(self) -> Confusion:
        """Scatter of the stars that the scene does not have, as the residual shows it."""
        return confusion(self.optics.frame, self.scene.galaxy, self.residual)

    def with_optics(self, optics: Optics) -> "State":
        """Return the state under another kernel."""
        return replace(self, optics=optics)

    def with_frame(self, frame: Frame) -> "State":
        """Return the state for other weights."""
        return self.with_optics(self.optics.on(frame))


def usable_of(state: State) -> NDArray[np.bool_]:
    """Frame pixels with data in which stars can be found."""
    return state.optics.matched.covered & state.optics.frame.good


def field_of(state: State, radius: Image) -> NDArray[np.bool_] | None:
    """Usable pixels of the field off the galaxy; None where there are too few of them to tell anything.

    Parameters
    ----------
    state : State
        Where the fit stands.
    radius : (ny, nx) float64 ndarray
        As of `galaxy_radius`.
    """
    field = usable_of(state) & (radius > FIELD)
    return field if field.sum() >= LEAST_FIELD else None


def add_stars(state: State, threshold: float, blend: float, caution: Image) -> State:
    """Detect sources in the residual and put them into the scene.

    Parameters
    ----------
    state : State
        Where the fit stands.
    threshold : float
        Signal-to-noise of a detection.
    blend : float
        See `detect`.
    caution : (ny, nx) float64 ndarray
        Factor on the threshold at each pixel; inf where no new source may be.
    """
    stars = state.scene.stars
    star_image = render_stars(stars, state.optics)
    found = detect(
        state.optics.matched,
        state.residual,
        threshold * state.optics.frame.correlation * caution,
        peak=state.optics.peak,
        stars=star_image,
        blend=blend,
        known=(stars.x, stars.y),
        fwhm=state.optics.fwhm,
    )
    return replace(state, scene=state.scene.with_stars(stars.join(Stars.new(found.x, found.y, found.flux))))


def solve(state: State, freedom: Freedom, tolerance: float = KERNEL_TOLERANCE) -> State:
    """Do one Gauss-Newton step and renew the optics when the kernel has moved by more than `tolerance`.

    Where neither stars nor galaxy tell the kernel, it is held.
    """
    step = solve_step(state.scene, state.optics, freedom)
    if freedom.kernel and not kernel_is_told(step, state.optics.frame.correlation):
        step = solve_step(state.scene, state.optics, replace(freedom, kernel=False))
    state = replace(state, scene=step.scene, step=step, passes=state.passes + 1)
    if step.kernel.differs(state.optics.kernel, tolerance):
        state = state.with_optics(state.optics.with_kernel(step.kernel))
    return state


def kernel_is_told(step: Step, correlation: float) -> bool:
    """Whether stars and galaxy have told a step the kernel's size."""
    k = step.names.index(KERNEL_NAMES[0])
    error = correlation * float(np.sqrt(step.covariance[k, k]))
    # what no pixel tells has no covariance at all
    return 0.0 < error < LEAST_KNOWN_SIZE


def prune(state: State, keep: Keep, *, merge: bool = True, solved: NDArray[np.bool_] | None = None) -> State:
    """Drop stars that are not significant, merged (if asked) or off the image.

    Anchored and measured stars stay, but for those that `merge_dark` merges, and those that were not solved for, which
    stand beyond `solved` on the frame.
    """
    limit = MERGE_FWHM * state.optics.fwhm
    stars = merge_dark(state.scene.stars, limit, (state.optics.star_error / state.optics.frame.correlation) ** 2)
    if stars.size == 0:
        return replace(state, scene=state.scene.with_stars(stars))
    held = stars.anchored | stars.measured
    if solved is not None:
        held |= ~at(solved, stars)
    needed = np.full(stars.size, keep.field)
    if state.scene.galaxy is not None:
        inside = radius_at(state.scene.galaxy, state.optics.frame.shape, stars) < 1.0
        needed[inside] = keep.galaxy
    good = (stars.snr(state.optics.frame.correlation) > needed) & at(state.optics.matched.covered, stars)
    present = (good | held) & _on_frame(stars, state.optics.frame.shape)
    if not merge:
        return replace(state, scene=state.scene.with_stars(stars.take(present)))
    order = np.argsort(-np.where(held, np.inf, stars.flux), kind="stable")
    order = order[present[order]]
    none = np.zeros(0)
    apart = kernels.keep_apart(stars.x[order], stars.y[order], none, none, limit, limit)
    chosen = np.sort(order[apart | held[order]])
    return replace(state, scene=state.scene.with_stars(stars.take(chosen)))


def merge_dark(stars: Stars, limit: float, variance: float) -> Stars:
    """Merge each dark anchored star with a bright one without an anchor that is nearer than `limit` px.

    They are one star, off its anchor: two fluxes that grow without end, and whose sum stands at their centroid. Its
    variance is that of an isolated star until it is solved for: the two hardly know theirs.
    """
    dark = np.flatnonzero(stars.anchored & (stars.flux < 0.0))
    bright = np.flatnonzero(~stars.anchored & (stars.flux > 0.0))
    if dark.size == 0 or bright.size == 0:
        return stars
    tree = KDTree(np.column_stack((stars.x[bright], stars.y[bright])))
    distance, nearest = tree.query(np.column_stack((stars.x[dark], stars.y[dark])), distance_upper_bound=limit)
    near = distance < limit
    x, y, flux, variances = stars.x.copy(), stars.y.copy(), stars.flux.copy(), stars.variance.copy()
    base_id, base_flux, present = stars.base_id.copy(), stars.base_flux.copy(), np.ones(stars.size, bool)
    for d, k in zip(dark[near], bright[nearest[near]], strict=True):
        total = flux[k] + flux[d]
        present[d], present[k] = False, total > 0.0
        if present[k]:
            apart = np.array([x[k] - x[d], y[k] - y[d]])
            # of a pair that has grown far the centroid is anywhere
            x[k], y[k] = (x[k], y[k]) - np.clip(flux[d] / total, -1.0, 0.0) * apart
            flux[k], variances[k, 0] = total, variance
            base_id[k], base_flux[k] = stars.base_id[d], stars.base_flux[d]
    merged = replace(stars, x=x, y=y, flux=flux, variance=variances, base_id=base_id, base_flux=base_flux)
    return merged.take(present)


def _on_frame(stars: Stars, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """True for stars whose position is finite and on the frame."""
    with np.errstate(invalid="ignore"):
        return (stars.x > -0.5) & (stars.y > -0.5) & (stars.x < shape[1] - 0.5) & (stars.y < shape[0] - 0.5)


def descend(
    state: State,
    ladder: tuple[float, ...],
    freedom: Freedom,
    keep: Keep,
    caution: Image,
    *,
    first_blend: int = 0,
) -> State:
    """Detect, solve and prune at each step of a ladder of falling signal-to-noise; `caution` as in `add_stars`."""
    for index, threshold in enumerate(ladder):
        blend = BLEND_LADDER[min(index + first_blend, LAST_BLEND)]
        state = add_stars(state, threshold, blend, caution)
        state = prune(solve(state, freedom, COARSE_TOLERANCE), keep)
    return state

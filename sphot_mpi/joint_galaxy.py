"""The galaxy alone: its first fit, its refits on star-subtracted data, and how many components it needs."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sphot_mpi.isophotes import first_guess
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, Optics, Scene, Stars
from sphot_mpi.joint_solve import Freedom, Step, render_galaxy, render_sky, solve_step
from sphot_mpi.noise import SIGMA_PER_MAD
from sphot_mpi.records import Image, SersicParams
from sphot_mpi.sersic import to_vector, total_flux

Vector = NDArray[np.float64]

#: Chi2, in units of what the residual's own scatter makes of one degree of freedom, that a second component must gain.
SECOND_COMPONENT_GAIN = 40.0
#: Residuals beyond this many robust sigmas are stars, and are kept from the galaxy's fit.
CLIP = 4.0
#: Pixels within this many FWHM of the galaxy's centre are never clipped.
CORE_FWHM = 2.0

SHAPE_FREEDOM = Freedom(galaxy_flux=True, galaxy_shape=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Smooth:
    """A galaxy and a sky without stars.

    Parameters
    ----------
    galaxy : Galaxy
        The fitted galaxy.
    sky : (3,) float64 ndarray
        Its sky, as in `Scene`.
    chi2 : float
        Over the pixels used.
    """

    galaxy: Galaxy
    sky: Vector
    chi2: float


def galaxy_of(components: tuple[SersicParams, ...]) -> Galaxy:
    """Galaxy of Sersic components; the centre is the first one's."""
    vectors = [to_vector(c) for c in components]
    return Galaxy(
        centre=vectors[0][:2].copy(),
        shapes=np.array([v[2:] for v in vectors]),
        fluxes=np.array([total_flux(c) for c in components]),
    )


def no_stars() -> Stars:
    """An empty set of stars."""
    return Stars.new(np.zeros(0), np.zeros(0), np.zeros(0))


def fit_smooth(frame: Frame, optics: Optics, start: Smooth, *, most: int = 20, tolerance: float = 0.01) -> Smooth:
    """Fit galaxy and sky to a frame without stars: Gauss-Newton steps, halved while chi2 rises.

    Parameters
    ----------
    frame : Frame
        Star-subtracted data; weight 0 where stars are left.
    optics : Optics
        PSF and renderers.
    start : Smooth
        First guess.
    most : int
        Most evaluations.
    tolerance : float
        Fall of chi2 that ends the fit.
    """
    optics = optics.on(frame)
    best: Step | None = None
    scene = accepted = Scene(stars=no_stars(), galaxy=start.galaxy, sky=start.sky)
    for _ in range(most):
        step = solve_step(scene, optics, SHAPE_FREEDOM)
        if best is not None and step.chi2 > best.chi2:
            scene = midpoint(accepted, scene)
            continue
        gain = np.inf if best is None else best.chi2 - step.chi2
        best, accepted, scene = step, scene, step.scene
        if gain < tolerance:
            break
    assert best is not None
    assert accepted.galaxy is not None
    return Smooth(galaxy=accepted.galaxy, sky=accepted.sky, chi2=best.chi2)


def midpoint(a: Scene, b: Scene) -> Scene:
    """Scene half way between two without stars."""
    assert a.galaxy is not None
    assert b.galaxy is not None
    return replace(
        b,
        sky=0.5 * (a.sky + b.sky),
        galaxy=Galaxy(
            centre=0.5 * (a.galaxy.centre + b.galaxy.centre),
            shapes=0.5 * (a.galaxy.shapes + b.galaxy.shapes),
            fluxes=0.5 * (a.galaxy.fluxes + b.galaxy.fluxes),
        ),
    )


def smooth_residual(frame: Frame, optics: Optics, smooth: Smooth) -> Image:
    """Data minus galaxy and sky, 0 where masked."""
    model = render_galaxy(smooth.galaxy, optics) + render_sky(smooth.sky, frame.shape)
    return np.where(frame.good, frame.data - model, 0.0)


def robust_sigma(values: NDArray[np.float64]) -> float:
    """Standard deviation from the median absolute deviation."""
    return float(SIGMA_PER_MAD * np.median(np.abs(values - np.median(values))))


def clipped(frame: Frame, optics: Optics, smooth: Smooth) -> Frame:
    """Frame without the pixels that stand out of the residual, and their neighbours."""
    residual = smooth_residual(frame, optics, smooth) * np.sqrt(frame.weight)
    sigma = robust_sigma(residual[frame.good])
    outlier = residual - np.median(residual[frame.good]) > CLIP * sigma
    outlier = ndimage.binary_dilation(outlier, np.ones((3, 3), bool))
    outlier &= centre_distance(smooth.galaxy, frame.shape) > CORE_FWHM * optics.fwhm
    return replace(frame, weight=np.where(outlier, 0.0, frame.weight))


def centre_distance(galaxy: Galaxy, shape: tuple[int, int]) -> Image:
    """Distance, px, of every frame pixel from the galaxy's centre."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(x - PAD - galaxy.centre[0], y - PAD - galaxy.centre[1])


def start_galaxy(frame: Frame, optics: Optics, *, rounds: int = 3) -> Smooth:
    """First fit of galaxy and sky to an image full of stars.

    Parameters
    ----------
    frame : Frame
        The image.
    optics : Optics
        PSF and renderers at a first kernel.
    rounds : int
        How often stars are masked and the galaxy refitted.

    Returns
    -------
    Smooth
        One component.
    """
    masked = ~frame.interior(frame.good)
    guess = first_guess(np.where(masked, np.nan, frame.interior(frame.data)), masked)
    galaxy = galaxy_of((guess.params,))
    smooth = Smooth(galaxy=galaxy, sky=np.array([guess.sky, 0.0, 0.0]), chi2=np.inf)
    for _ in range(rounds):
        smooth = fit_smooth(clipped(frame, optics, smooth), optics, smooth, most=8, tolerance=1.0)
    return smooth


def refit(frame: Frame, optics: Optics, stars: Image, smooth: Smooth, *, most: int = 10) -> Smooth:
    """Fit galaxy and sky again after subtracting a star image."""
    cleaned = replace(frame, data=np.where(frame.good, frame.data - stars, 0.0))
    return fit_smooth(clipped(cleaned, optics, smooth), optics, smooth, most=most, tolerance=0.3)


def second_component(frame: Frame, optics: Optics, stars: Image, smooth: Smooth) -> Smooth | None:
    """Fit disk + bulge, and return it if the data ask for it.

    Parameters
    ----------
    frame : Frame
        The image.
    optics : Optics
        PSF and renderers.
    stars : (ny, nx) float64 ndarray
        Stars found so far.
    smooth : Smooth
        The galaxy with one component.

    Returns
    -------
    Smooth or None
        The better fit of two starts with two components; None where one component is enough.

    Notes
    -----
    Undetected stars make the residual noisier than the pixels, and correlated over a PSF. The gain in chi2 is
    therefore counted in units of the residual's own variance and PSF area, outside the galaxy.
    """
    cleaned = replace(frame, data=np.where(frame.good, frame.data - stars, 0.0))
    used = clipped(cleaned, optics, smooth)
    one = fit_smooth(used, optics, smooth, most=15, tolerance=0.3)
    unit = confusion_unit(used, optics, one)
    best: Smooth | None = None
    for radius, n_disk, n_bulge, fraction in ((0.25, 1.0, 2.0, 0.3), (0.5, 0.7, 1.0, 0.5)):
        shape = one.galaxy.shapes[0]
        bulge = shape.copy()
        bulge[0] += np.log(radius)
        bulge[1] = np.log(n_bulge)
        disk = shape.copy()
        disk[0] += 0.1
        disk[1] = np.log(n_disk)
        flux = one.galaxy.fluxes.sum()
        galaxy = Galaxy(
            centre=one.galaxy.centre,
            shapes=np.array([disk, bulge]),
            fluxes=np.array([(1.0 - fraction) * flux, fraction * flux]),
        )
        two = fit_smooth(used, optics, replace(one, galaxy=galaxy), most=25, tolerance=0.3)
        if sensible(two.galaxy) and (best is None or two.chi2 < best.chi2):
            best = two
    if best is None or (one.chi2 - best.chi2) / unit < SECOND_COMPONENT_GAIN:
        return None
    return replace(best, galaxy=larger_first(best.galaxy))


def confusion_unit(frame: Frame, optics: Optics, smooth: Smooth) -> float:
    """Chi2 that one degree of freedom gains by chance: residual variance over noise, times the PSF's area in px."""
    residual = smooth_residual(frame, optics, smooth) * np.sqrt(frame.weight)
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    outside = frame.good & (smooth.galaxy.elliptical_radius(x - PAD, y - PAD) > 2.0)
    if outside.sum() < 100:
        outside = frame.good
    ratio = max(robust_sigma(residual[outside]), 1.0) ** 2
    if ratio < 1.5:
        return ratio * frame.correlation**2
    # what exceeds the noise is stars: correlated over the effective area 1 / sum P^2
    stamp = optics.stars.sampled(optics.core_radius)
    return float(frame.correlation**2 + (ratio - 1.0) / (stamp**2).sum())


def sensible(galaxy: Galaxy) -> bool:
    """Whether all components are positive and none is a trifle."""
    total = galaxy.fluxes.sum()
    return bool((galaxy.fluxes > 0.005 * total).all())


def larger_first(galaxy: Galaxy) -> Galaxy:
    """Order the components by size, the disk first."""
    order = np.argsort(-galaxy.shapes[:, 0] + 0.5 * np.log(galaxy.axis_ratios()), kind="stable")
    return Galaxy(centre=galaxy.centre, shapes=galaxy.shapes[order], fluxes=galaxy.fluxes[order])

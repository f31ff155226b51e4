"""The galaxy alone: its first fit, its refits on star-subtracted data, and how many components it needs."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sphot_mpi.errors import FitError
from sphot_mpi.isophotes import first_guess
from sphot_mpi.joint_regions import centre_distance, galaxy_radius, outside
from sphot_mpi.joint_render import render_galaxy, render_sky
from sphot_mpi.joint_scene import LARGEST_COMPONENT, PAD, Frame, Galaxy, Optics, components_of, galaxy_of
from sphot_mpi.joint_sources import Stars
from sphot_mpi.records import Image, SersicParams, SkyPlane, Vector
from sphot_mpi.robust import robust_sigma
from sphot_mpi.sersic_fit import fit_sersic
from sphot_mpi.sersic_problem import SersicBounds

#: Chi2, in units of what the residual's own scatter makes of one degree of freedom, that a second component must gain.
SECOND_COMPONENT_GAIN = 40.0
#: Residuals beyond this many robust sigmas are stars, and are kept from the galaxy's fit.
CLIP = 4.0
#: Pixels within this many FWHM of the galaxy's centre are never clipped.
CORE_FWHM = 2.0
#: Residual scatter in the core over that outside, above which a second component is tried.
CORE_SCATTER = 1.15
#: Part of chi2 that a step of a fit without stars must gain: the joint fit goes on from there.
SMOOTH_GAIN = 1e-4
#: Side, px, of the blocks whose medians tell stars from smooth light.
BLOCK = 9
#: A component with less than this share of the light is a star or a blemish.
LEAST_SHARE = 0.1
#: Starts of disk and bulge: bulge radius over that of one component, and the two n.
SECOND_STARTS = ((0.25, 1.0, 2.0), (0.5, 0.7, 1.0))


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


def no_stars() -> Stars:
    """An empty set of stars."""
    return Stars.new(np.zeros(0), np.zeros(0), np.zeros(0))


def fit_smooth(frame: Frame, optics: Optics, components: tuple[SersicParams, ...], *, most: int = 30) -> Smooth:
    """Fit galaxy and sky to a frame without stars.

    Parameters
    ----------
    frame : Frame
        Star-subtracted data; weight 0 where stars are left.
    optics : Optics
        PSF and renderers.
    components : tuple of SersicParams
        First guess, in the cutout's coordinates; their number is kept.
    most : int
        Most evaluations.
    """
    fit = fit_sersic(
        frame.interior(frame.data),
        frame.interior(frame.weight),
        optics.renderer,
        start=components,
        n_components=len(components),
        max_evaluations=most,
        retry=False,
        relative=SMOOTH_GAIN,
        bounds=bounds_of(frame, len(components)),
    )
    return Smooth(galaxy=galaxy_of(fit.components), sky=sky_vector(fit.sky, frame.shape), chi2=fit.chi2)


def bounds_of(frame: Frame, n_components: int) -> SersicBounds:
    """Ranges of the fit: no component may take over the field's own light."""
    largest = LARGEST_COMPONENT * max(frame.shape)
    if n_components == 1:
        return SersicBounds(r_eff=(0.3, largest))
    return SersicBounds(r_eff=(0.5, largest), n=(0.3, 5.0))


def sky_vector(plane: SkyPlane, shape: tuple[int, int]) -> Vector:
    """`Scene.sky` of a sky plane in the cutout's coordinates."""
    ny, nx = shape
    x_c, y_c = (nx - 1) / 2 - PAD, (ny - 1) / 2 - PAD
    level = plane.level + plane.slope_x * (x_c - plane.x_ref) + plane.slope_y * (y_c - plane.y_ref)
    return np.array([level, plane.slope_x * nx / 2, plane.slope_y * ny / 2])


def smooth_residual(frame: Frame, optics: Optics, smooth: Smooth) -> Image:
    """Data minus galaxy and sky, 0 where masked."""
    model = render_galaxy(smooth.galaxy, optics) + render_sky(smooth.sky, frame.shape)
    return np.where(frame.good, frame.data - model, 0.0)


def clipped(frame: Frame, optics: Optics, smooth: Smooth) -> Frame:
    """Frame without the pixels that stand out of their neighbourhood's residual, and those next to them.

    Against the neighbourhood, because where the galaxy's model is still too faint all its light stands out.
    """
    residual = smooth_residual(frame, optics, smooth) * np.sqrt(frame.weight)
    residual = np.where(frame.good, residual - local_median(residual, frame.good), 0.0)
    outlier = residual > CLIP * robust_sigma(residual[frame.good])
    outlier = ndimage.binary_dilation(outlier, np.ones((3, 3), bool))
    outlier &= centre_distance(smooth.galaxy, frame.shape) > CORE_FWHM * optics.fwhm
    return replace(frame, weight=np.where(outlier, 0.0, frame.weight))


def local_median(image: Image, good: NDArray[np.bool_], block: int = BLOCK) -> Image:
    """Medians of square blocks, interpolated; blocks with few good pixels take their neighbours'.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Values.
    good : (ny, nx) bool ndarray
        Pixels to use.
    block : int
        Side of a block, px.
    """
    ny, nx = (-(-side // block) for side in image.shape)
    padded = np.full((ny * block, nx * block), np.nan)
    padded[: image.shape[0], : image.shape[1]] = np.where(good, image, np.nan)
    blocks = padded.reshape(ny, block, nx, block).transpose(0, 2, 1, 3).reshape(ny, nx, block * block)
    enough = np.isfinite(blocks).sum(axis=2) > block * block // 4
    if not enough.any():
        return np.zeros(image.shape)
    medians = np.zeros((ny, nx))
    medians[enough] = np.nanmedian(blocks[enough], axis=1)
    nearest = ndimage.distance_transform_edt(~enough, return_distances=False, return_indices=True)
    medians = medians[tuple(nearest)]
    y, x = ((np.arange(side) - (block - 1) / 2) / block for side in image.shape)
    return np.asarray(ndimage.map_coordinates(medians, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest"))


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
        smooth = fit_smooth(clipped(frame, optics, smooth), optics, components_of(smooth.galaxy), most=8)
    return smooth


def refit(frame: Frame, optics: Optics, stars: Image, smooth: Smooth) -> Smooth:
    """Fit galaxy and sky again after subtracting a star image."""
    cleaned = replace(frame, data=np.where(frame.good, frame.data - stars, 0.0))
    return fit_smooth(clipped(cleaned, optics, smooth), optics, components_of(smooth.galaxy), most=10)


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
        The first of the starts that is enough better; None where one component will do.

    Notes
    -----
    Undetected stars make the residual noisier than the pixels, and correlated over a PSF. The gain in chi2 is
    therefore counted in units of the residual's own variance and PSF area, outside the galaxy.
    """
    cleaned = replace(frame, data=np.where(frame.good, frame.data - stars, 0.0))
    used = clipped(cleaned, optics, smooth)
    one = fit_smooth(used, optics, components_of(smooth.galaxy))
    runaway = bounds_of(frame, 1).touched(components_of(one.galaxy), frame.interior(frame.data).shape)
    if not runaway and core_scatter(used, optics, one) < CORE_SCATTER:
        return None
    unit = confusion_unit(used, optics, one)
    (main,) = components_of(one.galaxy)
    for radius, n_disk, n_bulge in SECOND_STARTS:
        disk = replace(main, r_eff=1.1 * main.r_eff, n=n_disk)
        bulge = replace(main, r_eff=radius * main.r_eff, n=n_bulge, ellip=0.5 * main.ellip)
        try:
            two = fit_smooth(used, optics, (disk, bulge), most=30)
        except FitError:  # no two components of positive flux from this start
            continue
        enough = one.chi2 - two.chi2 > SECOND_COMPONENT_GAIN * unit
        if enough and (two.galaxy.fluxes > LEAST_SHARE * two.galaxy.fluxes.sum()).all():
            return two
    return None


def core_scatter(frame: Frame, optics: Optics, smooth: Smooth) -> float:
    """Rms of the normalised residual within half an r_eff over its robust scatter outside 2 r_eff."""
    residual = smooth_residual(frame, optics, smooth) * np.sqrt(frame.weight)
    radius = galaxy_radius(smooth.galaxy, frame.shape)
    core = frame.good & (radius < 0.5)
    if not core.any():
        return 0.0
    return float(np.sqrt((residual[core] ** 2).mean())) / robust_sigma(residual[outside(frame.good, radius)])


def confusion_unit(frame: Frame, optics: Optics, smooth: Smooth) -> float:
    """Chi2 that one degree of freedom gains by chance: residual variance over noise, times the PSF's area in px."""
    residual = smooth_residual(frame, optics, smooth) * np.sqrt(frame.weight)
    radius = galaxy_radius(smooth.galaxy, frame.shape)
    ratio = max(robust_sigma(residual[outside(frame.good, radius)]), 1.0) ** 2
    if ratio < 1.5:
        return ratio * frame.correlation**2
    # what exceeds the noise is stars: correlated over the effective area 1 / sum P^2
    stamp = optics.stars.sampled(optics.core_radius)
    return float(frame.correlation**2 + (ratio - 1.0) / (stamp**2).sum())

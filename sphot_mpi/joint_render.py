"""Renders a scene, and the derivatives of its model by the dense unknowns."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.galaxy_modes import Disc, box_of, discs_of, galaxy_modulation, mode_images, mode_light
from sphot_mpi.joint_confusion import told_by
from sphot_mpi.joint_kernel import KERNEL_NAMES
from sphot_mpi.joint_mode_prior import MODE_NAMES, ModePrior
from sphot_mpi.joint_neighbours import hidden_broadening
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, Optics, Scene, components_of, sky_axes, sky_basis
from sphot_mpi.joint_sources import Stars, at
from sphot_mpi.psf_kernel import FAMILIES
from sphot_mpi.records import Image, Vector

#: Stars above this S/N, were they alone, tell the kernel; what the others say is nothing beside it.
TELLING_SNR = 5.0
#: So many of them, the brightest, tell the kernel: unseen neighbours broaden the others.
KERNEL_STARS = 30
#: Parameters of one component's place and shape, in the order of `Galaxy.centres` and `Galaxy.shapes`.
CENTRE_NAMES = ("x_0", "y_0")
SHAPE_NAMES = ("ln_r", "ln_n", "eta_1", "eta_2")
#: Derivatives by a displacement of all components.
MOVE_NAMES = ("move_x", "move_y")
#: Derivatives by a common displacement of galaxy and stars.
SHIFT_NAMES = ("shift_x", "shift_y")


@dataclass(frozen=True, slots=True, kw_only=True)
class Freedom:
    """What a step solves for; the stars' fluxes and the sky always are.

    Parameters
    ----------
    kernel, shift : bool
        The coordinates of the PSF's kernel; a common displacement of galaxy and stars.
    galaxy_flux, galaxy_shape : bool
        Each component's flux; centre and shapes.
    galaxy_profile : bool
        r_eff and n of each component; contained in `galaxy_shape`.
    galaxy_ellipse : bool
        Ellipticity and position angle of each component; contained in `galaxy_shape`.
    galaxy_move : bool
        A displacement of all components, the stars staying where they are; contained in `galaxy_shape`.
    galaxy_scale : bool
        One factor on all components' fluxes, in place of `galaxy_flux`.
    modes : ModePrior, optional
        Those amplitudes of the galaxy's modes, which it has to have, that this prior is about.
    places : (ny, nx) bool ndarray, optional
        Where on the frame free stars may move; default: everywhere.
    stars : (ny, nx) bool ndarray, optional
        Where on the frame stars are solved for, the others being held as they are; default: everywhere.
    """

    kernel: bool = False
    shift: bool = False
    galaxy_flux: bool = False
    galaxy_shape: bool = False
    galaxy_profile: bool = False
    galaxy_ellipse: bool = False
    galaxy_move: bool = False
    galaxy_scale: bool = False
    modes: ModePrior | None = None
    places: NDArray[np.bool_] | None = None
    stars: NDArray[np.bool_] | None = None

    def moving(self, stars: Stars) -> Stars:
        """Return stars of which only those are free that may move."""
        return stars if self.places is None else replace(stars, free=stars.free & at(self.places, stars))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rendered:
    """Model images of a scene on the frame, and the dense columns.

    Parameters
    ----------
    stars, galaxy, sky : (ny, nx) float64 ndarray
        The three components.
    names : tuple of str
        Dense unknowns: sky0..2, kernel (and kernel_shape), shift_x, shift_y,
        scale, move_x, move_y, and for component c "c.flux", "c.x_0", "c.y_0", "c.ln_r" ...
    told : tuple of int
        Unknowns that only a part of the light tells: kernel and shift, where they are not measured everywhere.
    images : (m + t + h, ny, nx) float64 ndarray
        `columns`, `tests`, and what hidden neighbours add to the bright stars on average, as far as a broader PSF does
        the same; h is 0 where the kernel is held or nothing hides, else 1.
    rows : (m + t + h, 2) int64 ndarray
        First row of each image and the one after its last, beyond which it is 0.
    """

    stars: Image
    galaxy: Image
    sky: Image
    names: tuple[str, ...]
    told: tuple[int, ...]
    images: NDArray[np.float64]
    rows: NDArray[np.int64]

    @property
    def columns(self) -> NDArray[np.float64]:
        """Derivatives of the model by the dense unknowns, (m, ny, nx)."""
        return self.images[: len(self.names)]

    @property
    def tests(self) -> NDArray[np.float64]:
        """Part of the columns of `told` that tells them, (t, ny, nx).

        The residual is to be orthogonal to it, and not to the whole column.
        """
        return self.images[len(self.names) : len(self.names) + len(self.told)]


def render_galaxy(galaxy: Galaxy | None, optics: Optics) -> Image:
    """Image of the galaxy on the frame."""
    out = np.zeros(optics.frame.shape)
    if galaxy is not None:
        inside = optics.frame.interior(out)
        for c in range(galaxy.size):
            inside += galaxy.fluxes[c] * optics.renderer.render(galaxy.vector(c))
        inside *= modulation_of(galaxy, optics)
    return out


def modulation_of(galaxy: Galaxy, optics: Optics) -> Image | float:
    """Factor on the light of a galaxy's components by its modes, on the cutout."""
    if galaxy.modes.size == 0:
        return 1.0
    return galaxy_modulation(galaxy.modes, components_of(galaxy), optics.fwhm, optics.renderer.shape)


def light_of_modes(galaxy: Galaxy, optics: Optics) -> Vector:
    """Light that each mode of amplitude 1 adds to the galaxy (k,), none where it has no modes."""
    if galaxy.modes.size == 0:
        return np.zeros(0)
    smooth = optics.frame.interior(render_galaxy(replace(galaxy, modes=np.zeros(0)), optics))
    light = np.zeros(galaxy.modes.size)
    for own, disc in discs_of(components_of(galaxy), optics.fwhm, galaxy.modes.size):
        light[own] = mode_light(disc, smooth)
    return light


def render_stars(stars: Stars, optics: Optics) -> Image:
    """Image of the stars on the frame."""
    return optics.stars.render(stars.x, stars.y, stars.flux)


def render_sky(sky: Vector, shape: tuple[int, int]) -> Image:
    """Image of the sky plane on the frame."""
    along_y, along_x = sky_axes(shape)
    return np.asarray((sky[0] + sky[2] * along_y)[:, None] + sky[1] * along_x)


def kernel_stars(stars: Stars, optics: Optics) -> NDArray[np.bool_]:
    """True for the stars that tell the kernel: those as bright as the brightest ones where it is measured.

    Whatever is too faint to be found stands beside stars at random, and broadens them by its light over theirs. A mean
    of all stars, weighted by what the pixels' noise lets them say, does not know of it; that of the brightest hardly
    suffers from it, and loses little, for most of the information is theirs.

    Parameters
    ----------
    stars : Stars
        Of the scene.
    optics : Optics
        The working PSF on its frame.
    """
    limit = TELLING_SNR * optics.star_error
    usable = stars.flux[at(optics.frame.anchored_area & optics.frame.good, stars)]
    if usable.size > KERNEL_STARS:
        limit = max(limit, float(np.partition(usable, -KERNEL_STARS)[-KERNEL_STARS]))
    # what is left of a star without a core is wings, where a model PSF is wrong first
    missing = np.zeros(optics.frame.shape, bool)
    optics.frame.interior(missing)[:] = ~optics.frame.interior(optics.frame.good)
    return np.asarray((stars.flux >= limit) & ~at(missing, stars))


def render_columns(scene: Scene, optics: Optics, freedom: Freedom) -> Rendered:
    """Render the model and the derivatives that `freedom` asks for.

    Parameters
    ----------
    scene : Scene
        Stars, galaxy, sky.
    optics : Optics
        PSF and renderers.
    freedom : Freedom
        Which dense unknowns there are.
    """
    shape = optics.frame.shape
    stars = scene.stars
    basis = sky_basis(shape)
    columns: dict[str, Image] = {f"sky{k}": basis[k] for k in range(3)}
    hidden: list[Image] = []
    of_kernel = kernel_stars(stars, optics) if freedom.kernel else None
    if freedom.kernel or freedom.shift:
        rendered = optics.stars.render_with_derivatives(
            stars.x, stars.y, stars.flux, shift=freedom.shift, kernel=of_kernel
        )
        star_image = rendered.model
        columns |= dict(zip(KERNEL_NAMES, rendered.kernel, strict=False))
        columns |= dict(zip(SHIFT_NAMES, rendered.shift, strict=False))
    else:
        star_image = render_stars(stars, optics)
    if of_kernel is not None and (broadening := hidden_broadening(stars, optics, of_kernel)) > 0.0:
        size = FAMILIES[optics.kernel.family].size_per_variance * broadening
        hidden = [size * columns[KERNEL_NAMES[0]]]
    of_stars = {name: columns[name] for name in (*KERNEL_NAMES, *SHIFT_NAMES) if name in columns}
    galaxy_image = np.zeros(shape)
    if scene.galaxy is not None:
        galaxy_image = _galaxy_columns(scene.galaxy, optics, freedom, columns)
    names, told = tuple(columns), () if optics.frame.anchored_area.all() else tuple(of_stars)
    sky_image = render_sky(scene.sky, shape)
    # off its centre, a small error of a pinned profile would be taken for one of the kernel
    pinned = not freedom.galaxy_shape and not freedom.galaxy_profile and not _centre_tells(optics.frame, scene.galaxy)
    tests = [of_stars[name] if pinned and name in KERNEL_NAMES else columns[name] for name in told]
    # where the base filter has no data, the stars are not known well enough to tell the PSF
    areas = {name: np.asarray(optics.frame.anchored_area, float) for name in told}
    if told and freedom.kernel:
        residual = optics.frame.residual(star_image + galaxy_image + sky_image)
        areas |= dict.fromkeys(KERNEL_NAMES, told_by(optics.frame, scene.galaxy, residual))
    tests = [test * areas[name] for name, test in zip(told, tests, strict=True)]
    images = [*columns.values(), *tests, *hidden]
    rows = np.tile([0, shape[0]], (len(images), 1))
    for own, limits in _rows_of_modes(scene.galaxy, optics, freedom):
        rows[[names.index(name) for name in MODE_NAMES[own]]] = limits
    # pixels that are never written take no memory
    stack = np.zeros((len(images), *shape))
    for out, image, (first, last) in zip(stack, images, rows, strict=True):
        out[first:last] = image[first:last]
    return Rendered(
        stars=star_image,
        galaxy=galaxy_image,
        sky=sky_image,
        names=names,
        told=tuple(names.index(name) for name in told),
        images=stack,
        rows=rows,
    )


def _free_discs(galaxy: Galaxy, optics: Optics, modes: ModePrior | None) -> list[tuple[slice, Disc]]:
    """Discs, in the frame's coordinates, whose modes are free, and where these are among the amplitudes."""
    if modes is None:
        return []
    discs = discs_of(components_of(galaxy), optics.fwhm, galaxy.modes.size)
    return [(own, disc.moved(PAD)) for own, disc in discs if modes.are_free(own)]


def _rows_of_modes(galaxy: Galaxy | None, optics: Optics, freedom: Freedom) -> list[tuple[slice, tuple[int, int]]]:
    """Frame rows between which the images of free modes are not 0, and where these are among the amplitudes."""
    discs = [] if galaxy is None else _free_discs(galaxy, optics, freedom.modes)
    boxes = [(own, box_of(disc, optics.frame.shape)[0]) for own, disc in discs]
    return [(own, (rows.start, rows.stop)) for own, rows in boxes]


def _centre_tells(frame: Frame, galaxy: Galaxy | None) -> bool:
    """Whether kernel and shift are measured on the galaxy's centre too."""
    if galaxy is None:
        return True
    x, y = (
        np.clip(round(v) + PAD, 0, side - 1)
        for v, side in zip(galaxy.centres[galaxy.main], frame.shape[::-1], strict=True)
    )
    return bool(frame.anchored_area[y, x])


def _galaxy_columns(galaxy: Galaxy, optics: Optics, freedom: Freedom, columns: dict[str, Image]) -> Image:
    """Add the galaxy's derivatives to `columns`; returns its image."""
    # kernel and shift change it even where stars tell them: solved without its part, a bright galaxy would swing
    shaped = freedom.galaxy_shape or freedom.galaxy_profile or freedom.galaxy_ellipse
    placed = shaped or freedom.galaxy_move or freedom.shift
    needs_derivatives = placed or freedom.kernel
    if not (needs_derivatives or freedom.galaxy_flux or freedom.galaxy_scale or freedom.modes):
        return render_galaxy(galaxy, optics)
    vectors, renderer = [galaxy.vector(c) for c in range(galaxy.size)], optics.renderer
    if needs_derivatives:
        unit = [renderer.jacobian(vector, shape=shaped, place=placed) for vector in vectors]
    else:
        unit = [renderer.render(vector)[np.newaxis] for vector in vectors]
    if freedom.modes is not None:
        smooth = np.pad(sum(flux * images[0] for flux, images in zip(galaxy.fluxes, unit, strict=True)), PAD)
        for own, disc in _free_discs(galaxy, optics, freedom.modes):
            columns |= dict(zip(MODE_NAMES[own], mode_images(disc, smooth), strict=True))
    if galaxy.modes.size:
        unit = [images * modulation_of(galaxy, optics) for images in unit]

    def summed(k: int, onto: Image | None = None) -> Image:
        # of all components, which have shift and kernel in common
        total = np.zeros(optics.frame.shape) if onto is None else onto.copy()
        inside = optics.frame.interior(total)
        for flux, images in zip(galaxy.fluxes, unit, strict=True):
            inside += flux * images[k]
        return total

    image = summed(0)
    if needs_derivatives:
        if freedom.kernel:
            # the kernel's derivatives come last
            names = [name for name in KERNEL_NAMES if name in columns]
            for k, name in enumerate(names):
                columns[name] = summed(k - len(names), columns[name])
        if freedom.shift:
            columns |= {name: summed(1 + k, columns[name]) for k, name in enumerate(SHIFT_NAMES)}
    if freedom.galaxy_move:
        columns |= {name: summed(1 + k) for k, name in enumerate(MOVE_NAMES)}
    if freedom.galaxy_scale:
        columns["scale"] = image / galaxy.fluxes.sum()
    if freedom.galaxy_flux:
        for c in range(galaxy.size):
            columns[f"{c}.flux"] = np.pad(unit[c][0], PAD)
    free: tuple[str, ...] = SHAPE_NAMES[:2] * freedom.galaxy_profile + SHAPE_NAMES[2:] * freedom.galaxy_ellipse
    if freedom.galaxy_shape:
        free = (*CENTRE_NAMES, *SHAPE_NAMES)
    for c in range(galaxy.size):
        for k, name in enumerate((*CENTRE_NAMES, *SHAPE_NAMES)):
            if name in free:
                columns[f"{c}.{name}"] = np.pad(galaxy.fluxes[c] * unit[c][1 + k], PAD)
    return image

"""Renders a scene, and the derivatives of its model by the dense unknowns."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.galaxy_modes import Disc, box_of, discs_of, fill_mode_images, galaxy_modulation, mode_light
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
    """What a scene leaves of the data on the frame, and the dense columns.

    Parameters
    ----------
    names : tuple of str
        Dense unknowns: sky0..2, kernel (and kernel_shape), shift_x, shift_y,
        scale, move_x, move_y, and for component c "c.flux", "c.x_0", "c.y_0", "c.ln_r" ...
    told : tuple of int
        Unknowns that only a part of the light tells: kernel and shift, where they are not measured everywhere.
    images : (m + t + h + 1, ny, nx) float64 ndarray
        `columns`, `tests`, and what hidden neighbours add to the bright stars on average, as far as a broader PSF does
        the same; h is 0 where the kernel is held or nothing hides, else 1. The last one is `residual`.
    rows : (m + t + h + 1, 2) int64 ndarray
        First row of each image and the one after its last, beyond which it is 0.
    """

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

    @property
    def residual(self) -> Image:
        """Data minus model, (ny, nx), 0 where masked."""
        return np.asarray(self.images[-1])


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
    frame, stars, galaxy = optics.frame, scene.stars, scene.galaxy
    of_kernel = kernel_stars(stars, optics) if freedom.kernel else None
    of_stars = _names_of_stars(optics, freedom)
    broadening = 0.0 if of_kernel is None else hidden_broadening(stars, optics, of_kernel)
    names = (*(f"sky{k}" for k in range(3)), *of_stars, *_names_of_galaxy(galaxy, optics, freedom))
    told = () if frame.anchored_area.all() else tuple(names.index(name) for name in of_stars)
    m, t, h = len(names), len(told), int(broadening > 0.0)
    # every image is made where it is to stand; pixels that are never written take no memory
    images = np.zeros((m + t + h + 1, *frame.shape))
    columns = dict(zip(names, images, strict=False))
    images[:3] = sky_basis(frame.shape)
    if of_stars:
        star_image = optics.stars.render_with_derivatives(
            stars.x, stars.y, stars.flux, shift=freedom.shift, kernel=of_kernel, out=images[3 : 3 + len(of_stars)]
        ).model
    else:
        star_image = render_stars(stars, optics)
    if h:
        size = FAMILIES[optics.kernel.family].size_per_variance * broadening
        np.multiply(columns[KERNEL_NAMES[0]], size, out=images[m + t])
    # off its centre, a small error of a pinned profile would be taken for one of the kernel
    pinned = not freedom.galaxy_shape and not freedom.galaxy_profile and not _centre_tells(frame, galaxy)
    by_stars = [name for name in of_stars if told and pinned and name in KERNEL_NAMES]
    tests = dict(zip(of_stars, images[m : m + t], strict=False))
    for name in by_stars:
        tests[name][:] = columns[name]
    galaxy_image = np.zeros(frame.shape) if galaxy is None else _fill_galaxy(columns, galaxy, optics, freedom)
    images[-1] = frame.residual(star_image + galaxy_image + render_sky(scene.sky, frame.shape))
    # where the base filter has no data, the stars are not known well enough to tell the PSF
    area = of_the_kernel = np.asarray(frame.anchored_area, float)
    if told and freedom.kernel:
        of_the_kernel = told_by(frame, galaxy, images[-1])
    for name, test in tests.items():
        part = of_the_kernel if name in KERNEL_NAMES else area
        np.multiply(test if name in by_stars else columns[name], part, out=test)
    rows = np.tile([0, frame.shape[0]], (len(images), 1))
    for own, limits in _rows_of_modes(galaxy, optics, freedom):
        rows[[names.index(name) for name in MODE_NAMES[own]]] = limits
    return Rendered(names=names, told=told, images=images, rows=rows)


def _names_of_stars(optics: Optics, freedom: Freedom) -> tuple[str, ...]:
    """Dense unknowns of which stars tell something, too."""
    return KERNEL_NAMES[: len(optics.kernel.coordinates)] * freedom.kernel + SHIFT_NAMES * freedom.shift


def _names_of_galaxy(galaxy: Galaxy | None, optics: Optics, freedom: Freedom) -> tuple[str, ...]:
    """Dense unknowns that are the galaxy's alone."""
    if galaxy is None:
        return ()
    modes = [name for own, _ in _free_discs(galaxy, optics, freedom.modes) for name in MODE_NAMES[own]]
    whole = MOVE_NAMES * freedom.galaxy_move + ("scale",) * freedom.galaxy_scale
    fluxes = ("flux",) * freedom.galaxy_flux
    free: tuple[str, ...] = SHAPE_NAMES[:2] * freedom.galaxy_profile + SHAPE_NAMES[2:] * freedom.galaxy_ellipse
    if freedom.galaxy_shape:
        free = (*CENTRE_NAMES, *SHAPE_NAMES)
    parts = [f"{c}.{name}" for names in (fluxes, free) for c in range(galaxy.size) for name in names]
    return (*modes, *whole, *parts)


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


def _fill_galaxy(columns: dict[str, Image], galaxy: Galaxy, optics: Optics, freedom: Freedom) -> Image:
    """Write the galaxy's derivatives into `columns`, or add them where stars have some, too; returns its image."""
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
            fill_mode_images([columns[name] for name in MODE_NAMES[own]], disc, smooth)
    if galaxy.modes.size:
        unit = [images * modulation_of(galaxy, optics) for images in unit]

    def add(k: int, onto: Image) -> Image:
        # of all components, which have place and kernel in common
        inside = optics.frame.interior(onto)
        for flux, images in zip(galaxy.fluxes, unit, strict=True):
            inside += flux * images[k]
        return onto

    image = add(0, np.zeros(optics.frame.shape))
    for k, name in (*enumerate(SHIFT_NAMES), *enumerate(MOVE_NAMES)):
        if name in columns:
            add(1 + k, columns[name])
    # the kernel's derivatives come last
    of_kernel = [name for name in KERNEL_NAMES if name in columns]
    for k, name in enumerate(of_kernel):
        add(k - len(of_kernel), columns[name])
    if "scale" in columns:
        np.divide(image, galaxy.fluxes.sum(), out=columns["scale"])
    for c, (flux, images) in enumerate(zip(galaxy.fluxes, unit, strict=True)):
        if (name := f"{c}.flux") in columns:
            optics.frame.interior(columns[name])[:] = images[0]
        for k, parameter in enumerate((*CENTRE_NAMES, *SHAPE_NAMES)):
            if (name := f"{c}.{parameter}") in columns:
                np.multiply(images[1 + k], flux, out=optics.frame.interior(columns[name]))
    return image

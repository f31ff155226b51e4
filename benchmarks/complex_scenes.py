"""Simulated galaxies that are no single Sersic: sums of known parts in a star field of the simulator."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from sphot_mpi.records import Cutout, SersicParams
from sphot_mpi.simulate_draw import ZERO_POINT, bad_pixels
from sphot_mpi.simulate_image import simulate_galaxy
from sphot_mpi.simulate_kinds import FILTERS
from sphot_mpi.simulate_render import ScenePSF, SersicScene, render_stars, total_flux, with_total_flux

Image = NDArray[np.float64]
Pattern = Callable[[Image, Image, str], Image]

#: What one unit of colour, mag, and one unit of movement, px, is in each filter; none in the base filter.
COLOUR = {"F555W": 1.3, "F814W": 1.0, "F090W": 0.7, "F150W": 0.0, "F160W": 0.0, "F277W": -0.4}
MOVE = {"F555W": 1.2, "F814W": 1.0, "F090W": 0.8, "F150W": 0.0, "F160W": 0.0, "F277W": -0.6}
#: Ranges of the whole galaxy's F150W magnitude and its disk's r_eff, px, and ellipticity.
MAGNITUDE, RADIUS, ELLIPTICITY = (19.0, 20.8), (9.0, 18.0), (0.1, 0.5)
#: A saturated star has no data where it is brighter than this part of its peak in the base filter.
SATURATED = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A Sersic, or a point source where `share` stands for all of its shape.

    Parameters
    ----------
    shape : SersicParams
        Its shape; the amplitude counts for nothing.
    share : float
        Its light over the galaxy's, in F150W.
    colour : float
        How much redder than the rest, in units of `COLOUR`.
    point : bool
        Whether it is unresolved.
    member : bool
        Whether it is of the galaxy.
    """

    shape: SersicParams
    share: float
    colour: float = 0.0
    point: bool = False
    member: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a galaxy consists of.

    Parameters
    ----------
    parts : tuple of Part
        The first is the disk.
    pattern : callable, optional
        Relative change of the disk's brightness at offsets (dx, dy) from its centre in a filter.
    move : (float, float)
        Movement of the centre, px, in units of `MOVE`.
    growth : float
        Change of ln r_eff of all parts, in units of `COLOUR`.
    star : (float, float, float), optional
        x, y and flux over the galaxy's of one bright star.
    saturated : bool
        Whether that star has no data in its core.
    """

    parts: tuple[Part, ...]
    pattern: Pattern | None = None
    move: tuple[float, float] = (0.0, 0.0)
    growth: float = 0.0
    star: tuple[float, float, float] | None = None
    saturated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComplexGalaxy:
    """A simulated galaxy and what is true of it.

    Parameters
    ----------
    name : str
        Kind, field and number.
    cutouts : dict of str to Cutout
        Its images by filter.
    flux : dict of str to float
        Total of what is the galaxy.
    light, others : dict of str to (ny, nx) float64 ndarray
        The galaxy, and its companion, without noise.
    stars_x, stars_y : (n,) float64 ndarray
        Stars' places.
    stars_flux : dict of str to (n,) float64 ndarray
        Their fluxes.
    centre : (float, float)
        The disk's.
    radius : float
        The disk's r_eff.
    """

    name: str
    cutouts: dict[str, Cutout]
    flux: dict[str, float]
    light: dict[str, Image]
    others: dict[str, Image]
    stars_x: Image
    stars_y: Image
    stars_flux: dict[str, Image]
    centre: tuple[float, float]
    radius: float


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _beside(shape: SersicParams, rng: np.random.Generator, low: float, high: float) -> dict[str, float]:
    """A place at `low` to `high` r_eff from a shape's centre, in its plane."""
    distance, angle = shape.r_eff * rng.uniform(low, high), rng.uniform(0.0, 2.0 * np.pi)
    along, across = distance * np.cos(angle), distance * np.sin(angle) * (1.0 - shape.ellip)
    c, s = np.cos(shape.theta), np.sin(shape.theta)
    return {"x_0": shape.x_0 + along * c - across * s, "y_0": shape.y_0 + along * s + across * c}


def _bulge(disk: SersicParams, rng: np.random.Generator) -> SersicParams:
    return replace(
        disk, r_eff=disk.r_eff * rng.uniform(0.2, 0.4), n=_log_uniform(rng, 1.0, 3.0), ellip=0.3 * disk.ellip
    )


def _single(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    return Recipe(parts=(Part(shape=replace(disk, n=_log_uniform(rng, 0.8, 4.0)), share=1.0),))


def _concentric(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    share = rng.uniform(0.1, 0.6)
    return Recipe(parts=(Part(shape=disk, share=1.0 - share), Part(shape=_bulge(disk, rng), share=share)))


def _offset(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    share = rng.uniform(0.15, 0.5)
    bulge = replace(_bulge(disk, rng), **_beside(disk, rng, 0.3, 0.8))
    return Recipe(parts=(Part(shape=disk, share=1.0 - share), Part(shape=bulge, share=share)))


def _gradient(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    share, colour = rng.uniform(0.2, 0.5), rng.uniform(0.5, 1.2)
    bulge = Part(shape=_bulge(disk, rng), share=share, colour=colour)
    return Recipe(parts=(Part(shape=disk, share=1.0 - share), bulge))


def _other_size(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    # blue outskirts, seldom blue cores: 10 % a magnitude of colour
    return replace(_single(disk, rng), growth=float(rng.normal(0.08, 0.1)))


def _red_other_size(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    # in blue filters too faint to tell its size there
    (part,), growth = _single(disk, rng).parts, float(rng.normal(0.08, 0.1))
    return Recipe(parts=(replace(part, colour=float(rng.uniform(2.0, 4.0))),), growth=growth)


def _moving(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    distance, angle = rng.uniform(0.5, 1.5), rng.uniform(0.0, 2.0 * np.pi)
    move = (float(distance * np.cos(angle)), float(distance * np.sin(angle)))
    return replace(_single(disk, rng), move=move)


def _nucleus(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    share = _log_uniform(rng, 0.02, 0.15)
    nucleus = Part(shape=disk, share=share, colour=rng.uniform(-0.5, 0.5), point=True)
    return Recipe(parts=(Part(shape=disk, share=1.0 - share), nucleus))


def _plane(disk: SersicParams, dx: Image, dy: Image) -> tuple[Image, Image]:
    """Radius, r_eff, and azimuth in the disk's plane."""
    c, s = np.cos(disk.theta), np.sin(disk.theta)
    along, across = dx * c + dy * s, (dy * c - dx * s) / (1.0 - disk.ellip)
    return np.hypot(along, across) / disk.r_eff, np.arctan2(across, along)


def _spiral(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    strength, turns, phase = rng.uniform(0.3, 0.6), rng.uniform(2.0, 4.0), rng.uniform(0.0, 2.0 * np.pi)

    def pattern(dx: Image, dy: Image, _: str) -> Image:
        r, azimuth = _plane(disk, dx, dy)
        wave = np.cos(2.0 * azimuth - turns * np.log(np.maximum(r, 1e-3)) - phase)
        return np.asarray(strength * wave * -np.expm1(-((r / 0.4) ** 2)))

    return Recipe(parts=(Part(shape=disk, share=0.85), Part(shape=_bulge(disk, rng), share=0.15)), pattern=pattern)


def _ring(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    strength, radius, width = rng.uniform(0.5, 1.5), rng.uniform(0.8, 1.5), rng.uniform(0.1, 0.25)

    def pattern(dx: Image, dy: Image, _: str) -> Image:
        return np.asarray(strength * np.exp(-0.5 * ((_plane(disk, dx, dy)[0] - radius) / width) ** 2))

    return Recipe(parts=(Part(shape=disk, share=1.0),), pattern=pattern)


def _clumps(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    clumps = [
        Part(
            shape=replace(disk, r_eff=rng.uniform(1.5, 3.0), n=0.5, ellip=0.1, **_beside(disk, rng, 0.3, 1.5)),
            share=rng.uniform(0.01, 0.03),
            colour=rng.uniform(-0.8, 0.0),
        )
        for _ in range(rng.integers(3, 7))
    ]
    return Recipe(parts=(Part(shape=disk, share=1.0 - sum(clump.share for clump in clumps)), *clumps))


def _dust(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    depth, place, width = rng.uniform(0.3, 0.7), rng.uniform(-0.3, 0.3), rng.uniform(0.1, 0.2)
    inclined = replace(disk, ellip=rng.uniform(0.5, 0.75))

    def pattern(dx: Image, dy: Image, name: str) -> Image:
        across = (dy * np.cos(inclined.theta) - dx * np.sin(inclined.theta)) / inclined.r_eff
        r, _ = _plane(inclined, dx, dy)
        lane = np.exp(-0.5 * ((across - place) / width) ** 2) * np.exp(-0.5 * (r / 1.5) ** 2)
        # twice the depth of F150W in the visible, half of it in F277W
        return np.asarray(np.expm1(depth * (1.0 + COLOUR[name] * 1.2) * -lane))

    return Recipe(parts=(Part(shape=inclined, share=1.0),), pattern=pattern)


def _companion(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    size = disk.r_eff * rng.uniform(0.3, 0.6)
    other = replace(disk, r_eff=size, n=_log_uniform(rng, 1.0, 3.0), ellip=0.2, **_beside(disk, rng, 1.5, 4.0))
    companion = Part(shape=other, share=rng.uniform(0.1, 0.5), colour=rng.uniform(-0.5, 0.5), member=False)
    return Recipe(parts=(*_single(disk, rng).parts, companion))


def _bright_star(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    place = _beside(replace(disk, ellip=0.0), rng, 2.0, 4.0)
    return replace(_single(disk, rng), star=(place["x_0"], place["y_0"], _log_uniform(rng, 5.0, 30.0)))


def _saturated_star(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    return replace(_bright_star(disk, rng), saturated=True)


def _bar(disk: SersicParams, rng: np.random.Generator) -> Recipe:
    share = rng.uniform(0.15, 0.4)
    bar = replace(disk, r_eff=disk.r_eff * rng.uniform(0.3, 0.6), n=0.5, ellip=0.8, theta=rng.uniform(0.0, np.pi))
    return Recipe(parts=(Part(shape=disk, share=1.0 - share), Part(shape=bar, share=share)))


RECIPES: dict[str, Callable[[SersicParams, np.random.Generator], Recipe]] = {
    "single": _single,
    "bulge": _concentric,
    "offset bulge": _offset,
    "colour gradient": _gradient,
    "other size": _other_size,
    "red, other size": _red_other_size,
    "moving centre": _moving,
    "nucleus": _nucleus,
    "spiral": _spiral,
    "ring": _ring,
    "clumps": _clumps,
    "dust lane": _dust,
    "companion": _companion,
    "bright star": _bright_star,
    "saturated star": _saturated_star,
    "bar": _bar,
}


def complex_galaxy(library: dict[str, ScenePSF], kind: str, stars: str, index: int, seed: int) -> ComplexGalaxy:
    """Make a galaxy of a kind of `RECIPES` in a star field of a kind of `KINDS`.

    Parameters
    ----------
    library : dict of str to ScenePSF
        PSF by filter, without the kernel.
    kind, stars : str
        Which galaxy, and which field.
    index, seed : int
        Number of the galaxy and seed of all.
    """
    simulated = simulate_galaxy(library, index, seed, stars)
    rng = np.random.default_rng([seed, index, zlib.crc32(f"complex {kind} {stars}".encode())])
    ny, nx = next(iter(simulated.images.values())).data.shape
    disk = SersicParams(
        amplitude=1.0, r_eff=_log_uniform(rng, *RADIUS), n=1.0, x_0=(nx - 1) / 2 + rng.normal(),
        y_0=(ny - 1) / 2 + rng.normal(), ellip=rng.uniform(*ELLIPTICITY), theta=rng.uniform(0.0, np.pi),
    )  # fmt: skip
    total = 10.0 ** (-0.4 * (rng.uniform(*MAGNITUDE) - ZERO_POINT))
    recipe = RECIPES[kind](disk, rng)
    disk = recipe.parts[0].shape
    x, y, fluxes = simulated.stars.x, simulated.stars.y, dict(simulated.stars.flux)
    if recipe.star is not None:
        x, y = np.append(x, recipe.star[0]), np.append(y, recipe.star[1])
        for name in fluxes:
            colour = FILTERS[name].star_colour if name != "F150W" else 0.0
            fluxes[name] = np.append(fluxes[name], recipe.star[2] * total * 10.0 ** (-0.4 * colour))
    galaxy = ComplexGalaxy(
        name=f"{kind}, {stars} {index + 1}", cutouts={}, flux={}, light={}, others={},
        stars_x=x, stars_y=y, stars_flux=fluxes, centre=(disk.x_0, disk.y_0), radius=disk.r_eff,
    )  # fmt: skip
    scenes = [None if part.point else SersicScene.of(part.shape) for part in recipe.parts]
    for name, image in simulated.images.items():
        psf, levels = library[name].blurred(image.kernel_sigma), FILTERS[name]
        stream = np.random.default_rng([seed, index, zlib.crc32(f"complex {kind} {stars} {name}".encode())])
        move = (recipe.move[0] * MOVE[name], recipe.move[1] * MOVE[name])
        painter = _Painter(name, psf, image.data.shape, move, float(np.exp(recipe.growth * COLOUR[name])))
        scale = total * 10.0 ** (-0.4 * levels.galaxy_colour)
        painter.paint(recipe, scenes, scale)
        sources = render_stars(image.data.shape, psf, x, y, fluxes[name])
        light = painter.light + painter.others + sources
        noise = np.sqrt(levels.noise**2 + image.noise_per_light * np.maximum(light, 0.0))
        data = light + image.sky + noise * stream.standard_normal(light.shape)
        data[bad_pixels(stream, data.shape)] = np.nan
        if recipe.saturated:
            alone = render_stars(data.shape, psf, x[-1:], y[-1:], fluxes[name][-1:])
            data[alone > SATURATED * alone.max()] = np.nan
        galaxy.cutouts[name] = Cutout(
            galaxy=galaxy.name, filter=name, data=data, error=None, mask=np.isnan(data), full_shape=data.shape
        )
        galaxy.flux[name], galaxy.light[name], galaxy.others[name] = painter.flux, painter.light, painter.others
    return galaxy


@dataclass(slots=True)
class _Painter:
    """One filter's noise-free light, gathered part by part."""

    name: str
    psf: ScenePSF
    shape: tuple[int, int]
    move: tuple[float, float]
    size: float
    flux: float = 0.0
    light: Image = field(init=False)
    others: Image = field(init=False)

    def __post_init__(self) -> None:
        self.light, self.others = np.zeros(self.shape), np.zeros(self.shape)

    def paint(self, recipe: Recipe, scenes: list[SersicScene | None], scale: float) -> None:
        """Add all parts and the pattern, `scale` being the light of share 1."""
        for part, scene in zip(recipe.parts, scenes, strict=True):
            flux = scale * part.share * 10.0 ** (-0.4 * part.colour * COLOUR[self.name])
            image = flux * self._unit(part, scene)
            if part.member:
                self.light += image
                self.flux += flux
            else:
                self.others += image
        if recipe.pattern is not None:
            disk = with_total_flux(recipe.parts[0].shape, scale * recipe.parts[0].share)
            self._texture(disk, recipe.pattern)

    def _unit(self, part: Part, scene: SersicScene | None) -> Image:
        """Image of a part with flux 1."""
        if scene is None:
            x, y = (np.array([value]) for value in (part.shape.x_0, part.shape.y_0))
            return render_stars(self.shape, self.psf, x, y, np.ones(1))
        if self.move != (0.0, 0.0) or self.size != 1.0:
            x_0, y_0 = part.shape.x_0 + self.move[0], part.shape.y_0 + self.move[1]
            scene = SersicScene.of(replace(part.shape, x_0=x_0, y_0=y_0, r_eff=self.size * part.shape.r_eff))
        return scene.render(self.shape, self.psf) / total_flux(scene.params)

    def _texture(self, disk: SersicParams, pattern: Pattern) -> None:
        """Add the disk's brightness times a pattern, sampled on the PSF's lattice: it is smooth at the centre."""
        os, array = self.psf.oversample, self.psf.array
        margin = max(array.shape) // (2 * os) + 1
        # under an even array the points that reach a pixel's centre lie half a lattice step beside it
        starts = [-margin + (0.0 if side % 2 else 0.5 / os) for side in array.shape]
        sides = [os * (side + 2 * margin) for side in self.shape]
        y, x = np.meshgrid(*(start + np.arange(n) / os for start, n in zip(starts, sides, strict=True)), indexing="ij")
        dx, dy = x - disk.x_0, y - disk.y_0
        b = 1.6783469900166612  # of n = 1
        light = disk.amplitude * np.exp(-b * (_plane(disk, dx, dy)[0] - 1.0)) * pattern(dx, dy, self.name)
        full = signal.fftconvolve(light, array)
        first = [os * margin + (side - 1) // 2 for side in array.shape]
        self.light += full[first[0] :: os, first[1] :: os][: self.shape[0], : self.shape[1]]
        self.flux += float(light.sum()) / os**2

"""What is injected: where artificial stars stand, how bright they are, and how a galaxy is turned and moved.

Nothing here touches a file. Positions are in the full image's pixels.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from sphot_mpi.noise import fit_variance, pixel_differences
from sphot_mpi.psf import PSF
from sphot_mpi.records import Cutout, FilterFit, Image, SersicParams, Vector
from sphot_mpi.simulate_render import ScenePSF

#: Artificial stars keep this distance from each other, in units of the widest FWHM, so that they do not disturb.
SEPARATION = 2.0
#: Half-size, px, of the core that must have data.
_CORE = 12
_TRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What to inject.

    Parameters
    ----------
    stars : int
        Artificial stars a copy; few beside the real ones, so that the field stays as crowded as it is.
    copies : int
        Copies of each galaxy, each with its own stars.
    fluxes : str
        "power": S/N in the base filter drawn from a power law; "fitted": fluxes of the stars that were found.
    slope : float
        Of the power law, ``dN / dS ~ S**-slope``; 1 gives every S/N bin its share.
    snr : (float, float)
        Least and greatest S/N in the base filter.
    galaxy : bool
        Also take the fitted galaxy out, and put it back turned and moved.
    photon_noise : bool
        Add the photon noise of the artificial light, as strong as the image's own noise grows with light.
    seed : int
        Of all random numbers.
    """

    stars: int = 20
    copies: int = 1
    fluxes: str = "power"
    slope: float = 1.0
    snr: tuple[float, float] = (2.0, 200.0)
    galaxy: bool = False
    photon_noise: bool = True
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilterScene:
    """One filter of one galaxy, ready to receive artificial light.

    Parameters
    ----------
    cutout : Cutout
        The full image.
    fit : FilterFit
        Of the original; its positions are in the full image's frame.
    psf : ScenePSF
        The calibrated PSF.
    galaxy : (ny, nx) float64 ndarray
        The fitted galaxy's light.
    variance : (ny, nx) float64 ndarray
        Of a pixel without its stars: sky and galaxy.
    per_light : float
        Variance added per surface brightness.
    """

    cutout: Cutout
    fit: FilterFit
    psf: ScenePSF
    galaxy: Image
    variance: Image
    per_light: float

    def star_error(self, x: Vector, y: Vector) -> Vector:
        """1-sigma error of the flux of a star that stands alone there under an optimal fit."""
        ny, nx = self.variance.shape
        i, j = np.clip(np.rint(x).astype(int), 0, nx - 1), np.clip(np.rint(y).astype(int), 0, ny - 1)
        return np.asarray(self.fit.correlation * np.sqrt(self.variance[j, i] * self.psf.noise_area()))


def scene_psf(psf: PSF) -> ScenePSF:
    """Return the working PSF for rendering: as much of its array as lies evenly about its origin."""
    sides = psf.library.array.shape
    margins = [(padded - side) // 2 for padded, side in zip(psf.padded_shape, sides, strict=True)]
    array = psf.array[: sides[0] + 2 * margins[0], : sides[1] + 2 * margins[1]]
    return ScenePSF(array / array.sum(), psf.oversample)


def light_noise(cutout: Cutout, light: Image, fit: FilterFit) -> tuple[Image, float]:
    """Variance of the image without stars and galaxy, and how it grows with light.

    Parameters
    ----------
    cutout : Cutout
        Image.
    light : (ny, nx) float64 ndarray
        Model of galaxy and stars, above the sky.
    fit : FilterFit
        Its `noise` and `sky` are used.

    Returns
    -------
    variance : (ny, nx) float64 ndarray
        At light 0; the error map's, where the file has one.
    per_light : float
        At most what photon noise of the sky alone would give, where the image holds its sky.
    """
    good = ~cutout.mask & np.isfinite(light)
    if cutout.error is not None:
        square = np.where(good, cutout.error, np.nan) ** 2
        x, y = light[good], square[good]
        spread = float(np.var(x)) if x.size else 0.0
        slope = max(0.0, float(np.mean((x - x.mean()) * (y - y.mean()))) / spread) if spread > 0.0 else 0.0
        typical = float(np.median(y)) if y.size else float("nan")
        floor = np.maximum(square - slope * np.maximum(light, 0.0), 0.1 * typical)
        return np.where(np.isfinite(floor), floor, typical), slope
    level, slope = fit_variance(pixel_differences(cutout.data, cutout.mask), light, cutout.mask, fit.noise)
    sky = fit.sky.level
    if sky > 0.0:
        slope = min(slope, level / sky)
    return np.full(cutout.shape, fit.noise**2), slope


def draw_positions(
    rng: np.random.Generator, count: int, scenes: Iterable[FilterScene], window: tuple[int, int, int, int]
) -> tuple[Vector, Vector]:
    """Draw positions, uniform over the pixels that have data in all filters, apart from each other.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random numbers.
    count : int
        Wanted.
    scenes : iterable of FilterScene
        The filters.
    window : four int
        x0, y0, nx, ny of the fitted cutout.

    Returns
    -------
    x, y : (n,) float64 ndarray
        In the base filter's frame; n < `count` where there is no room for more.
    """
    scenes = list(scenes)
    x0, y0, nx, ny = window
    usable = np.logical_and.reduce([_covered(scene) for scene in scenes])
    apart = SEPARATION * max(scene.psf.fwhm() for scene in scenes)
    x, y = np.empty(0), np.empty(0)
    for _ in range(_TRIES * count):
        if x.size == count:
            break
        at = np.array([x0 + rng.uniform(0.0, nx - 1.0), y0 + rng.uniform(0.0, ny - 1.0)])
        clear = np.hypot(x - at[0], y - at[1]) >= apart
        if usable[int(round(at[1])), int(round(at[0]))] and clear.all():
            x, y = np.append(x, at[0]), np.append(y, at[1])
    return x, y


def _covered(scene: FilterScene) -> NDArray[np.bool_]:
    """Where a star would have more than half of its weight on good pixels."""
    weight = scene.psf.stamp() ** 2
    cy, cx = (side // 2 for side in weight.shape)
    weight = weight[max(0, cy - _CORE) : cy + _CORE + 1, max(0, cx - _CORE) : cx + _CORE + 1]
    good = (~scene.cutout.mask).astype(np.float64)
    return np.asarray(signal.fftconvolve(good, weight[::-1, ::-1] / weight.sum(), mode="same") > 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class StarPopulation:
    """The stars that a campaign has found: fluxes in the base filter, and ratios to it.

    Parameters
    ----------
    flux : (n,) float64 ndarray
        Reported stars of the base filter.
    ratio : dict of str to (n,) float64 ndarray
        Flux over that in the base filter; NaN where the star was not found there.
    """

    flux: Vector
    ratio: Mapping[str, Vector]

    @classmethod
    def of(cls, fits: Iterable[Mapping[str, FilterFit]], base_filter: str, filters: Iterable[str]) -> "StarPopulation":
        """Collect the stars of many galaxies; each mapping holds a galaxy's fits by filter."""
        flux: list[Vector] = [np.empty(0)]
        ratio: dict[str, list[Vector]] = {name: [np.empty(0)] for name in filters}
        for of_galaxy in fits:
            if base_filter not in of_galaxy:
                continue
            base = _bright(of_galaxy[base_filter])
            flux.append(base["flux_fit"])
            for name, parts in ratio.items():
                found = np.full(base.size, np.nan)
                if name in of_galaxy:
                    table = _bright(of_galaxy[name])
                    flux_of = dict(zip(table["base_id"].tolist(), table["flux_fit"].tolist(), strict=True))
                    found = np.array([flux_of.get(k, np.nan) for k in base["id"].tolist()]) / base["flux_fit"]
                parts.append(found)
        return cls(np.concatenate(flux), {name: np.concatenate(parts) for name, parts in ratio.items()})

    def colours(self, rng: np.random.Generator, count: int, filters: Iterable[str]) -> dict[str, Vector]:
        """Draw flux ratios to the base filter: those of one real star each, the median where it was not found."""
        chosen = rng.integers(0, max(self.flux.size, 1), count)
        ratios = {}
        for name in filters:
            values = self.ratio.get(name, np.empty(0))
            known = values[np.isfinite(values)]
            middle = float(np.median(known)) if known.size else 1.0
            drawn = values[chosen] if values.size else np.full(count, np.nan)
            ratios[name] = np.where(np.isfinite(drawn), drawn, middle)
        return ratios


def _bright(fit: FilterFit) -> NDArray[np.void]:
    return fit.sources[fit.report & (fit.sources["flux_fit"] > 0.0)]


def draw_fluxes(rng: np.random.Generator, plan: Injection, population: StarPopulation, error: Vector) -> Vector:
    """Draw fluxes in the base filter.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random numbers.
    plan : Injection
        How.
    population : StarPopulation
        The stars that were found, for "fitted".
    error : (n,) float64 ndarray
        Error of a lone star's flux at each position.

    Returns
    -------
    (n,) float64 ndarray
        Fluxes with an S/N in the plan's range.
    """
    low, high = plan.snr
    if plan.fluxes == "fitted" and population.flux.size:
        drawn = rng.choice(population.flux, error.size)
        return np.asarray(np.clip(drawn, low * error, high * error))
    u = rng.uniform(size=error.size)
    if np.isclose(plan.slope, 1.0):
        snr = low * (high / low) ** u
    else:
        power = 1.0 - plan.slope
        snr = (low**power + u * (high**power - low**power)) ** (1.0 / power)
    return np.asarray(snr * error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """How a galaxy is turned and moved: the same in all filters."""

    dx: float
    dy: float
    turn: float

    @classmethod
    def draw(cls, rng: np.random.Generator, r_eff: float) -> "Move":
        """Any angle, and up to a quarter of r_eff (2 to 5 px) in any direction: another pixel phase, other stars."""
        radius = float(np.clip(0.25 * r_eff, 2.0, 5.0)) * np.sqrt(rng.uniform())
        direction, turn = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(0.0, np.pi)
        return cls(dx=float(radius * np.cos(direction)), dy=float(radius * np.sin(direction)), turn=float(turn))

    def applied(self, component: SersicParams) -> SersicParams:
        """Return the component where it goes."""
        theta = (component.theta + self.turn) % np.pi
        return replace(component, x_0=component.x_0 + self.dx, y_0=component.y_0 + self.dy, theta=float(theta))

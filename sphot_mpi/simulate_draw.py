"""What a simulated field holds: the galaxy's shape, the stars, the pixels without data."""

from dataclasses import dataclass

import numpy as np

from sphot_mpi.records import Image, Mask, SersicParams
from sphot_mpi.simulate_kinds import FILTERS, STAR_BREAK, STAR_FAINTEST, STAR_SLOPES, Kind
from sphot_mpi.simulate_render import with_total_flux

PIXEL_SCALE = 0.03
#: AB magnitude of 1 MJy/sr px: -2.5 log10(1e6 Jy/sr * (0.03 arcsec)^2 / 3631 Jy).
ZERO_POINT = float(-2.5 * np.log10(1e6 * np.deg2rad(PIXEL_SCALE / 3600.0) ** 2 / 3631.0))

_STAR_MARGIN = 40  # px around the frame where stars still stand
_REFERENCE_AREA = 255.0**2  # the kinds' star counts are for this many px


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedStars:
    """Stars of one galaxy's field.

    Parameters
    ----------
    x, y : (n,) float64 ndarray
        Positions, px; the margin around the frame is included.
    flux : dict of str to (n,) float64 ndarray
        Total flux in each filter, data unit * px.
    """

    x: Image
    y: Image
    flux: dict[str, Image]


def draw_galaxy(rng: np.random.Generator, settings: Kind, shape: tuple[int, int]) -> SersicParams:
    """Draw a galaxy with its F150W flux."""

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    angle = rng.uniform(0.0, 2.0 * np.pi)
    distance = rng.uniform(*settings.off_centre) if settings.off_centre[1] > 0.0 else 0.0
    shape_only = SersicParams(
        amplitude=1.0,
        r_eff=log_uniform(*settings.r_eff),
        n=log_uniform(*settings.n),
        x_0=float((shape[1] - 1) / 2 + distance * np.cos(angle) + np.clip(rng.normal(0.0, 1.5), -4.0, 4.0)),
        y_0=float((shape[0] - 1) / 2 + distance * np.sin(angle) + np.clip(rng.normal(0.0, 1.5), -4.0, 4.0)),
        ellip=float(rng.uniform(*settings.ellip)),
        theta=float(rng.uniform(0.0, np.pi)),
    )
    return with_total_flux(shape_only, 10.0 ** (-0.4 * (rng.uniform(*settings.magnitude) - ZERO_POINT)))


def draw_stars(rng: np.random.Generator, settings: Kind, shape: tuple[int, int], three_sigma: float) -> SimulatedStars:
    """Draw positions, fluxes by a broken power law, and colours with one temperature-like term."""
    area = shape[0] * shape[1] / _REFERENCE_AREA
    density = rng.uniform(*settings.stars) * area / (shape[0] * shape[1])
    if settings.count_above_3_sigma:
        density /= _fraction_above(three_sigma)
    side_y, side_x = (side + 2 * _STAR_MARGIN for side in shape)
    count = rng.poisson(density * side_y * side_x)
    x, y = (rng.uniform(-0.5 - _STAR_MARGIN, side - 0.5 - _STAR_MARGIN, count) for side in (side_x, side_y))
    base = _draw_fluxes(rng, count)
    temperature = rng.standard_normal(count)
    flux = {}
    for name, levels in FILTERS.items():
        own = rng.standard_normal(count)
        colour = levels.star_colour + levels.star_scatter * (0.9 * temperature + np.sqrt(1.0 - 0.9**2) * own)
        flux[name] = base * 10.0 ** (-0.4 * (colour if name != "F150W" else 0.0))
    return SimulatedStars(x=x, y=y, flux=flux)


def _power_law_parts() -> tuple[float, float]:
    """Number of stars below and above the break, for a unit density at the break."""
    faint, bright = (slope + 1.0 for slope in STAR_SLOPES)
    return STAR_BREAK * ((STAR_FAINTEST / STAR_BREAK) ** faint - 1.0) / -faint, STAR_BREAK / -bright


def _fraction_above(flux: float) -> float:
    """Fraction of the stars brighter than a flux below the break."""
    below, above = _power_law_parts()
    faint = STAR_SLOPES[0] + 1.0
    brighter = above + STAR_BREAK * ((flux / STAR_BREAK) ** faint - 1.0) / -faint
    return float(brighter / (below + above))


def _draw_fluxes(rng: np.random.Generator, count: int) -> Image:
    """Fluxes of the broken power law by its inverse cumulative distribution."""
    below, above = _power_law_parts()
    faint, bright = (slope + 1.0 for slope in STAR_SLOPES)
    u = rng.uniform(0.0, below + above, count)
    low = STAR_BREAK * (1.0 - faint * np.minimum(u, below) / STAR_BREAK) ** (1.0 / faint)
    rest = np.maximum(above - (u - below), 1e-3 * above)  # no star brighter than 16 times the break
    high = STAR_BREAK * (np.minimum(rest, above) / above) ** (1.0 / bright)
    return np.where(u < below, low, high)


def chip_edge(rng: np.random.Generator, settings: Kind, shape: tuple[int, int]) -> Mask:
    """Draw a straight edge that leaves 20 to 40 % of the pixels without data, or none."""
    has_edge = rng.uniform() < settings.chip_edge
    fraction, angle = rng.uniform(0.2, 0.4), rng.uniform(0.0, 2.0 * np.pi)
    if not has_edge:
        return np.zeros(shape, dtype=bool)
    y, x = np.mgrid[: shape[0], : shape[1]]
    along = (x - (shape[1] - 1) / 2) * np.cos(angle) + (y - (shape[0] - 1) / 2) * np.sin(angle)
    return np.asarray(along > np.quantile(along, 1.0 - fraction))


def bad_pixels(rng: np.random.Generator, shape: tuple[int, int]) -> Mask:
    """Draw 0.2 % of the pixels as bad, some with their right-hand neighbour."""
    single = rng.uniform(size=shape) < 0.0015
    pair = single & (rng.uniform(size=shape) < 0.33)
    single[:, 1:] |= pair[:, :-1]
    return single

"""What simulated galaxies look like: levels by filter and kinds of field."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterLevels:
    """Levels of one filter, MJy/sr, px and mag, as measured on real cutouts.

    Parameters
    ----------
    sky, noise : float
        Median sky and pixel noise, MJy/sr.
    kernel : float
        Sigma of the Gaussian kernel on top of the library PSF, px.
    galaxy_colour, star_colour : float
        Magnitude minus that in F150W.
    star_scatter : float
        Standard deviation of the stars' colours, mag.
    shares_chip_edge : bool
        Whether a chip edge crosses this filter's image.
    """

    sky: float
    noise: float
    kernel: float
    galaxy_colour: float
    star_colour: float
    star_scatter: float
    shares_chip_edge: bool = False


FILTERS: dict[str, FilterLevels] = {
    "F555W": FilterLevels(
        sky=0.26, noise=0.003, kernel=1.29, galaxy_colour=2.9, star_colour=1.3, star_scatter=0.5
    ),
    "F814W": FilterLevels(
        sky=0.38, noise=0.005, kernel=1.23, galaxy_colour=1.3, star_colour=0.5, star_scatter=0.3
    ),
    "F090W": FilterLevels(
        sky=0.44, noise=0.008, kernel=1.03, galaxy_colour=0.95, star_colour=0.45, star_scatter=0.2,
        shares_chip_edge=True,
    ),
    "F150W": FilterLevels(
        sky=0.49, noise=0.012, kernel=0.90, galaxy_colour=0.0, star_colour=0.0, star_scatter=0.0,
        shares_chip_edge=True,
    ),
    "F160W": FilterLevels(
        sky=0.16, noise=0.003, kernel=2.04, galaxy_colour=0.0, star_colour=-0.05, star_scatter=0.1
    ),
    "F277W": FilterLevels(
        sky=0.25, noise=0.004, kernel=1.83, galaxy_colour=-0.55, star_colour=0.3, star_scatter=0.15
    ),
}  # fmt: skip

#: Stars' fluxes in F150W, MJy/sr px: a broken power law dN/df that goes on to S/N 1, far below detection.
STAR_SLOPES = (-1.4, -3.5)
STAR_BREAK = 10.0
STAR_FAINTEST = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of field; ranges are drawn from evenly (r_eff and n in the logarithm).

    Parameters
    ----------
    side : int
        Side of the image, px.
    stars : (float, float)
        Number of stars in 255 x 255 px.
    count_above_3_sigma : bool
        Whether that counts only stars above 3 sigma in F150W, rather than all.
    magnitude : (float, float)
        AB, F150W.
    r_eff, n, ellip : (float, float)
        The galaxy's shape; r_eff in px.
    off_centre : (float, float)
        Distance of the galaxy from the image's centre, px, beside a scatter of 1.5 px.
    chip_edge : float
        Probability of an edge that leaves 20 to 40 % of F090W and F150W without data.
    correlated_every_eighth : bool
        Whether the 2nd, 10th, ... galaxy has noise smoothed as by drizzling.
    """

    side: int = 255
    stars: tuple[float, float] = (350.0, 550.0)
    count_above_3_sigma: bool = False
    magnitude: tuple[float, float] = (19.3, 21.3)
    r_eff: tuple[float, float] = (7.0, 18.0)
    n: tuple[float, float] = (0.8, 6.0)
    ellip: tuple[float, float] = (0.05, 0.75)
    off_centre: tuple[float, float] = (0.0, 0.0)
    chip_edge: float = 0.5
    correlated_every_eighth: bool = False


KINDS: dict[str, Kind] = {
    "easy": Kind(stars=(30.0, 30.0), count_above_3_sigma=True, chip_edge=0.0),
    "typical": Kind(correlated_every_eighth=True),
    "crowded": Kind(stars=(600.0, 1500.0), correlated_every_eighth=True),
    "reallike": Kind(stars=(2500.0, 2800.0), count_above_3_sigma=True, chip_edge=1.0, correlated_every_eighth=True),
    "high_n": Kind(n=(4.0, 6.0)),
    "masked": Kind(chip_edge=1.0),
    "offcentre": Kind(off_centre=(35.0, 65.0), chip_edge=0.0),
    "compact": Kind(r_eff=(2.5, 3.5), magnitude=(20.3, 21.8)),
    "big": Kind(side=512, r_eff=(38.0, 50.0), magnitude=(17.8, 19.3)),
    "faint": Kind(magnitude=(22.3, 23.2), r_eff=(5.0, 9.0), n=(0.8, 2.0)),
    "edge-on": Kind(ellip=(0.8, 0.92), n=(0.8, 2.0), r_eff=(10.0, 20.0)),
    "demo": Kind(side=161, stars=(600.0, 900.0), r_eff=(7.0, 12.0), n=(0.8, 4.0), chip_edge=1.0),
}

"""One galaxy of a synthetic campaign: its images in all filters, with what is true of them.

Levels are those measured on real cutouts in MJy/sr at 0.03 arcsec/px. Everything follows from the seed; galaxy k does
not depend on how many are made.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from scipy import signal

from sphot_mpi.records import Cutout, Image, Mask, SersicParams, SkyPlane
from sphot_mpi.simulate_draw import SimulatedStars, bad_pixels, chip_edge, draw_galaxy, draw_stars
from sphot_mpi.simulate_kinds import FILTERS, KINDS, FilterLevels
from sphot_mpi.simulate_render import (
    ScenePSF,
    SersicScene,
    correlated_noise,
    correlation_factor,
    render_stars,
    total_flux,
    with_total_flux,
)

_POISSON_SHARE = 0.5  # of the sky's variance that is photon noise, and so grows with light
_CORRELATION_SIGMA = 0.5  # px: a FWHM of 1.2 px, the smoothing of a drizzled image
_CORRELATED_EVERY = 8  # one galaxy in so many has correlated noise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedImage:
    """One filter of one galaxy: what a file would hold and what is true.

    Parameters
    ----------
    data : (ny, nx) float64 ndarray
        With noise, NaN where there is no data.
    sersic, sources, sky : (ny, nx) float64 ndarray
        Noise-free components.
    galaxy : SersicParams
        True parameters in this filter.
    plane : SkyPlane
        True sky.
    kernel_sigma : float
        Gaussian kernel on top of the library PSF, px.
    fwhm : float
        Of the PSF with the kernel, px.
    noise : float
        Pixel noise where no source is.
    noise_per_light : float
        Variance added per surface brightness of sources.
    correlation : float
        Factor by which correlated noise widens a star's error.
    snr : (n,) float64 ndarray
        Of each star if it stood alone: flux over its error from the noise of background and galaxy.
    covered : (n,) bool ndarray
        Whether a star is in the frame with more than half of its weight on good pixels.
    """

    data: Image
    sersic: Image
    sources: Image
    sky: Image
    galaxy: SersicParams
    plane: SkyPlane
    kernel_sigma: float
    fwhm: float
    noise: float
    noise_per_light: float
    correlation: float
    snr: Image
    covered: Mask


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedGalaxy:
    """A galaxy's images in all filters."""

    name: str
    kind: str
    stars: SimulatedStars
    images: dict[str, SimulatedImage]

    def cutouts(self) -> dict[str, Cutout]:
        """Return what a reader of the galaxy's file would give, by filter."""
        return {
            name: Cutout(
                galaxy=self.name, filter=name, data=image.data, error=None, mask=np.isnan(image.data),
                full_shape=image.data.shape,
            )
            for name, image in self.images.items()
        }  # fmt: skip


def simulate_galaxy(
    library: dict[str, ScenePSF],
    index: int,
    seed: int,
    kind: str,
    *,
    exact_psf: bool = False,
    shape: tuple[int, int] | None = None,
) -> SimulatedGalaxy:
    """Make one galaxy of a campaign.

    Parameters
    ----------
    library : dict of str to ScenePSF
        PSF by filter, without the kernel unless `exact_psf`.
    index : int
        Which galaxy of the campaign, from 0.
    seed, kind : int, str
        As in `simulate_campaign`.
    exact_psf : bool
        Whether the library contains the kernel already.
    shape : (int, int), optional
        (ny, nx), in place of the kind's.

    Returns
    -------
    SimulatedGalaxy
        Images in the library's filters.
    """
    settings = KINDS[kind]
    frame = (settings.side, settings.side) if shape is None else shape
    rng = np.random.default_rng([seed, index, zlib.crc32(kind.encode())])
    galaxy = draw_galaxy(rng, settings, frame)
    # drawn in any case: galaxy and stars are the same whether the PSF is told or not
    drawn = {name: FILTERS[name].kernel * rng.normal(1.0, 0.08) for name in FILTERS}
    sigmas = dict.fromkeys(FILTERS, 0.0) if exact_psf else drawn
    reference = "F150W" if "F150W" in library else next(iter(library))
    three_sigma = 3.0 * FILTERS[reference].noise * np.sqrt(library[reference].blurred(sigmas[reference]).noise_area())
    stars = draw_stars(rng, settings, frame, three_sigma)
    edge = chip_edge(rng, settings, frame)
    correlated = settings.correlated_every_eighth and index % _CORRELATED_EVERY == 1
    scene = SersicScene.of(galaxy)
    images = {}
    for name, levels in FILTERS.items():
        # each filter has its own stream, so that leaving one out changes no other
        stream = np.random.default_rng([seed, index, zlib.crc32(f"{kind} {name}".encode())])
        if name in library:
            images[name] = _make_image(
                stream, levels, scene, stars, name, library[name], sigmas[name], edge, frame,
                _CORRELATION_SIGMA if correlated else 0.0,
            )  # fmt: skip
    return SimulatedGalaxy(name=f"{kind}{index + 1:03d}", kind=kind, stars=stars, images=images)


def _make_image(
    rng: np.random.Generator,
    levels: FilterLevels,
    scene: SersicScene,
    stars: SimulatedStars,
    name: str,
    library: ScenePSF,
    sigma: float,
    edge: Mask,
    shape: tuple[int, int],
    correlation_sigma: float,
) -> SimulatedImage:
    """Render one filter, add noise and take pixels away."""
    psf = library.blurred(sigma)
    factor = 10.0 ** (-0.4 * levels.galaxy_colour)
    galaxy = with_total_flux(scene.params, factor * total_flux(scene.params))
    sersic = factor * scene.render(shape, psf)
    sources = render_stars(shape, psf, stars.x, stars.y, stars.flux[name])
    level = levels.sky * float(np.clip(rng.normal(1.0, 0.2), 0.4, 1.6))
    slopes = rng.normal(0.0, 0.02, 2) * level / np.array(shape[::-1])
    plane = SkyPlane(
        level=level,
        slope_x=float(slopes[0]),
        slope_y=float(slopes[1]),
        x_ref=(shape[1] - 1) / 2,
        y_ref=(shape[0] - 1) / 2,
    )
    sky = plane.render(shape)
    per_light = _POISSON_SHARE * levels.noise**2 / levels.sky
    noise = correlated_noise(rng, shape, correlation_sigma)
    data = sersic + sources + sky + noise * np.sqrt(levels.noise**2 + per_light * (sersic + sources))
    data[bad_pixels(rng, shape) | (edge if levels.shares_chip_edge else False)] = np.nan
    correlation = correlation_factor(psf, correlation_sigma)
    snr, covered = _star_quality(stars, name, psf, levels.noise**2 + per_light * sersic, np.isfinite(data))
    return SimulatedImage(
        data=data, sersic=sersic, sources=sources, sky=sky, galaxy=galaxy, plane=plane, kernel_sigma=sigma,
        fwhm=psf.fwhm(), noise=levels.noise, noise_per_light=per_light, correlation=correlation,
        snr=snr / correlation, covered=covered,
    )  # fmt: skip


def _star_quality(stars: SimulatedStars, name: str, psf: ScenePSF, variance: Image, good: Mask) -> tuple[Image, Mask]:
    """S/N of each star if it stood alone under white noise, and whether its core has data."""
    ny, nx = good.shape
    i, j = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
    weight = psf.stamp() ** 2
    cy, cx = (side // 2 for side in weight.shape)
    weight = weight[max(0, cy - 12) : cy + 13, max(0, cx - 12) : cx + 13]
    coverage = signal.fftconvolve(good.astype(np.float64), weight[::-1, ::-1] / weight.sum(), mode="same")
    i, j = np.clip(i, 0, nx - 1), np.clip(j, 0, ny - 1)
    snr = stars.flux[name] / np.sqrt(variance[j, i] * psf.noise_area())
    return snr, inside & (coverage[j, i] > 0.5)

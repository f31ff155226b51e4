"""Synthetic campaigns with known truth.

Levels are those measured on real cutouts in MJy/sr at 0.03 arcsec/px. A
campaign is a folder with what a real one has (a catalogue, PSFs, a file a
galaxy) and the truth beside it. Everything follows from the seed; galaxy k does
not depend on how many are made.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from astropy.table import QTable, Table, vstack
from numpy.typing import NDArray
from scipy import signal

from sphot_mpi.errors import InputError, UsageError
from sphot_mpi.inputs import read_libraries
from sphot_mpi.records import SersicParams, SkyPlane
from sphot_mpi.simulate_draw import (
    PIXEL_SCALE,
    ZERO_POINT,
    SimulatedStars,
    bad_pixels,
    chip_edge,
    draw_galaxy,
    draw_stars,
)
from sphot_mpi.simulate_kinds import FILTERS, KINDS, FilterLevels
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import (
    ScenePSF,
    SersicScene,
    correlated_noise,
    correlation_factor,
    render_stars,
    total_flux,
    with_total_flux,
)
from sphot_mpi.simulate_truth import compare_with_truth

__all__ = [
    "SimulatedGalaxy",
    "SimulatedImage",
    "compare_with_truth",
    "read_library",
    "simulate_campaign",
    "simulate_galaxy",
]

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]

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


def simulate_campaign(
    directory: str | Path,
    n: int,
    seed: int,
    kind: str = "typical",
    psf_file: str | Path | None = None,
    exact_psf: bool = False,
) -> None:
    """Write a synthetic campaign and its truth.

    Parameters
    ----------
    directory : path
        Made if missing. Gets ``catalogue.csv``, ``PSFdata.h5``, ``NAME.h5`` a galaxy, and the truth:
        ``truth.ecsv`` (a row a galaxy and filter), ``truth_sources.ecsv`` (a row a star) and
        ``truth_images.h5`` (``/NAME/FILTER/{sersic,sources,sky}``, noise-free).
    n : int
        Galaxies.
    seed : int
        Not negative.
    kind : str
        One of `sphot_mpi.simulate_kinds.KINDS`.
    psf_file : path, optional
        Library PSFs in the layout of the input PSF file; default: computed from telescope apertures.
    exact_psf : bool
        Put the kernel into the library that is written, so that the fit is told the true PSF.

    Raises
    ------
    UsageError
        If `kind` is unknown, `n` is not positive or `seed` is negative.
    InputError
        If the PSF file cannot be used.
    """
    if kind not in KINDS:
        msg = f"unknown kind {kind!r} of simulation; choose from {', '.join(KINDS)}"
        raise UsageError(msg)
    if n < 1 or seed < 0:
        msg = f"a simulation needs at least one galaxy and a seed of 0 or more, not n = {n} and seed = {seed}"
        raise UsageError(msg)
    library = synthetic_library() if psf_file is None else read_library(psf_file)
    if exact_psf:
        library = {name: psf.blurred(FILTERS[name].kernel) for name, psf in library.items()}
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    _write_library(folder / "PSFdata.h5", library)
    rows, stars = [], []
    with h5py.File(folder / "truth_images.h5", "w") as images:
        for index in range(n):
            galaxy = simulate_galaxy(library, index, seed, kind, exact_psf=exact_psf)
            _write_galaxy(folder / f"{galaxy.name}.h5", images, galaxy)
            rows += _truth_rows(galaxy)
            stars.append(_star_table(galaxy))
    names = [f"{kind}{index + 1:03d}" for index in range(n)]
    Table({"name": names, "path": [f"{name}.h5" for name in names]}).write(
        folder / "catalogue.csv", format="ascii.csv", overwrite=True
    )
    truth = QTable(rows=rows)
    truth.meta.update(seed=seed, kind=kind, exact_psf=exact_psf, zero_point=ZERO_POINT, pixel_scale=PIXEL_SCALE)
    truth.write(folder / "truth.ecsv", overwrite=True)
    vstack(stars).write(folder / "truth_sources.ecsv", overwrite=True)


def read_library(path: str | Path) -> dict[str, ScenePSF]:
    """Read the PSFs of the filters that the simulator knows.

    Raises
    ------
    InputError
        If the file or one of its PSFs cannot be used, or holds no known filter.
    """
    libraries = read_libraries(Path(path), tuple(FILTERS))
    if not libraries:
        msg = f"{path} holds no PSF of {', '.join(FILTERS)}; name its datasets so."
        raise InputError(msg)
    return {name: ScenePSF(psf.array, psf.oversample) for name, psf in libraries.items()}


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
        level=level, slope_x=float(slopes[0]), slope_y=float(slopes[1]),
        x_ref=(shape[1] - 1) / 2, y_ref=(shape[0] - 1) / 2,
    )  # fmt: skip
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


def _truth_rows(galaxy: SimulatedGalaxy) -> list[dict[str, object]]:
    """Return the rows of ``truth.ecsv``."""
    rows: list[dict[str, object]] = []
    for name, image in galaxy.images.items():
        flux = total_flux(image.galaxy)
        ny, nx = image.data.shape
        inside = (np.abs(galaxy.stars.x - (nx - 1) / 2) < nx / 2) & (np.abs(galaxy.stars.y - (ny - 1) / 2) < ny / 2)
        faint = inside & (image.snr < 3.0)
        rows.append(
            {
                "name": galaxy.name, "filter": name, "kind": galaxy.kind, "amplitude": image.galaxy.amplitude,
                "r_eff": image.galaxy.r_eff, "n": image.galaxy.n, "x_0": image.galaxy.x_0, "y_0": image.galaxy.y_0,
                "ellip": image.galaxy.ellip, "theta": image.galaxy.theta, "total_flux": flux,
                "magnitude": ZERO_POINT - 2.5 * np.log10(flux), "kernel_sigma": image.kernel_sigma, "fwhm": image.fwhm,
                "sky_level": image.plane.level, "sky_slope_x": image.plane.slope_x,
                "sky_slope_y": image.plane.slope_y, "sky_x_ref": image.plane.x_ref, "sky_y_ref": image.plane.y_ref,
                "noise": image.noise, "noise_per_light": image.noise_per_light, "correlation": image.correlation,
                "faint_star_sky": float(galaxy.stars.flux[name][faint].sum() / (ny * nx)),
                "n_stars": int(inside.sum()), "n_stars_3_sigma": int((inside & (image.snr >= 3.0)).sum()),
            }
        )  # fmt: skip
    return rows


def _star_table(galaxy: SimulatedGalaxy) -> Table:
    """Return the rows of ``truth_sources.ecsv``: position, flux, lone S/N and coverage by filter."""
    stars = galaxy.stars
    table = Table({"name": np.full(stars.x.size, galaxy.name), "x": np.round(stars.x, 6), "y": np.round(stars.y, 6)})
    for name, image in galaxy.images.items():
        # single precision: half the digits in a file of many thousand lines
        table[f"flux_{name}"] = stars.flux[name].astype(np.float32)
        table[f"snr_{name}"] = image.snr.astype(np.float32)
        table[f"covered_{name}"] = image.covered
    return table


def _write_library(path: Path, library: dict[str, ScenePSF]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["oversample"] = next(iter(library.values())).oversample
        for name, psf in library.items():
            file[name] = psf.array
            file[name].attrs.update(oversample=psf.oversample, pixel_response=True)


def _write_galaxy(path: Path, images: h5py.File, galaxy: SimulatedGalaxy) -> None:
    with h5py.File(path, "w") as file:
        for name, image in galaxy.images.items():
            file[name] = image.data
            group = images.create_group(f"{galaxy.name}/{name}")
            for part, values in (("sersic", image.sersic), ("sources", image.sources), ("sky", image.sky)):
                group.create_dataset(part, data=values.astype(np.float32), compression="gzip", compression_opts=1)

"""Isolated stars of real fields, each fitted alone: an independent word on kernels and places of the joint fit.

    python benchmarks/isolated_stars.py --only g260,g232 --plot DIR

Nothing that fits here is ours: photutils finds the peaks, scipy fits place, width of a Gaussian on the library PSF,
flux and constant to one star at a time, on a stamp without a second peak. Per field and filter it prints how many stars
there are, their median kernel, its lower quartile (unseen neighbours only broaden) and scatter beside the joint fit's
kernel, and how far they lie from the same stars in the base filter once a common shift, or a linear map of the whole
field, is taken off.
"""

import os

# one core a process; to be said before numpy is loaded
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.stats import mad_std
from matplotlib.figure import Figure
from numpy.typing import NDArray
from photutils.background import Background2D
from photutils.detection import find_peaks
from real import CATALOGUE, DATA, Job, run_galaxy, warm_up
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares
from scipy.spatial import KDTree

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config, load_config
from sphot_mpi.inputs import read_galaxy, read_libraries
from sphot_mpi.prepare import find_crop
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import FilterFit
from sphot_mpi.sersic_profile import elliptical_radius, total_flux

Image = NDArray[np.float64]
Vector = NDArray[np.float64]

#: Half-sizes of the library kept and of a star's stamp, px.
LIBRARY_RADIUS, STAMP = 16, 6
#: A peak this near, px, and as high as this part of a star's means that the star is not alone.
CLEAR, LEAST_NEIGHBOUR = 8.0, 0.1
#: Least S/N of a star that tells a kernel, and a place in the base filter; least distance from the galaxy, r_eff.
LEAST_SNR, LEAST_BASE_SNR, CLEAR_OF_GALAXY = 25.0, 10.0, 1.5
#: What no PSF knows of a star's light.
PSF_ERROR = 0.01
#: Two filters' stars are one when this near after the common shift, px; fewest of them for a scatter.
SAME_STAR, FEWEST_PAIRS = 1.0, 6


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Isolated stars: x and y, px, kernel, px, S/N and reduced chi2, each of shape (n,)."""

    x: Vector
    y: Vector
    sigma: Vector
    snr: Vector
    chi2: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A filter's stars and the base filter's, and the indices, in either, of those that are the same."""

    stars: Measured
    base: Measured
    here: NDArray[np.int64]
    there: NDArray[np.int64]


class StampPSF:
    """A library PSF, shifted and blurred in Fourier space and sampled at the pixels of a stamp."""

    def __init__(self, library: LibraryPSF) -> None:
        self.oversample = library.oversample
        self.side = side = 2 * LIBRARY_RADIUS * library.oversample
        cut = np.zeros((side, side))
        # the origin is the middle of the array, between two pixels where its side is even
        my, mx = (min(n, side - 1) for n in library.array.shape)
        oy, ox = ((n - m) // 2 for n, m in zip(library.array.shape, (my, mx), strict=True))
        cut[:my, :mx] = library.array[oy : oy + my, ox : ox + mx]
        self.origin = np.array([(n - 1) / 2 - o for n, o in zip(library.array.shape, (oy, ox), strict=True)])
        self.spectrum = fft.rfft2(cut * library.oversample**2)
        self.fy, self.fx = fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :]

    def stamp(self, dx: float, dy: float, variance: float) -> Image:
        """A star of flux 1 at (dx, dy) from the middle of a stamp, under a Gaussian of `variance`, px^2."""
        middle, step = self.side // 2, self.oversample
        move = np.array([dy, dx]) * step + middle - self.origin
        phase = np.exp(-2j * np.pi * (self.fy * move[0] + self.fx * move[1]))
        blur = np.exp(-2.0 * np.pi**2 * variance * step**2 * (self.fy**2 + self.fx**2))
        image = fft.irfft2(self.spectrum * phase * blur, (self.side, self.side))
        part = slice(middle - STAMP * step, middle + STAMP * step + 1, step)
        return np.asarray(image[part, part])


def isolated_stars(image: Image, psf: StampPSF, off_galaxy: NDArray[np.bool_], least_snr: float) -> Measured:
    """Find the isolated bright stars of an image (NaN = no data) off the galaxy, and fit each alone."""
    bad = ~np.isfinite(image)
    background = Background2D(image, 32, mask=bad, exclude_percentile=90.0).background
    flat = np.where(bad, 0.0, image - background)
    noise = float(mad_std(flat[~bad]))
    peaks = find_peaks(gaussian_filter(flat, 0.8), 3.0 * noise, box_size=3, mask=bad)
    px, py, height = (np.asarray(peaks[name], float) for name in ("x_peak", "y_peak", "peak_value"))
    tree = KDTree(np.column_stack([px, py]))
    rows = []
    for k in np.argsort(-height):
        near = [i for i in tree.query_ball_point((px[k], py[k]), CLEAR) if i != k]
        x, y = int(px[k]), int(py[k])
        inside = STAMP <= x < image.shape[1] - STAMP and STAMP <= y < image.shape[0] - STAMP
        if not inside or not off_galaxy[y, x] or (near and height[near].max() > LEAST_NEIGHBOUR * height[k]):
            continue
        stamp = flat[y - STAMP : y + STAMP + 1, x - STAMP : x + STAMP + 1]
        if bad[y - STAMP : y + STAMP + 1, x - STAMP : x + STAMP + 1].any():
            continue
        row = _fit_star(stamp, noise, psf, least_snr)
        rows += [] if row is None else [(x + row[0], y + row[1], *row[2:])]
    return Measured(*np.array(rows).reshape(-1, 5).T)


def _fit_star(stamp: Image, noise: float, psf: StampPSF, least_snr: float) -> tuple[float, ...] | None:
    """Offset x, y, kernel, S/N and reduced chi2 of the star on a stamp; None where it is faint or at a bound."""
    weight = 1.0 / np.hypot(noise, PSF_ERROR * np.maximum(gaussian_filter(stamp, 0.7), 0.0))

    def linear(p: Vector) -> tuple[Vector, Vector, Image]:
        model = psf.stamp(*p)
        columns = np.column_stack([(model * weight).ravel(), weight.ravel()])
        values = np.linalg.lstsq(columns, (stamp * weight).ravel(), rcond=None)[0]
        return values, columns @ values - (stamp * weight).ravel(), model

    bounds = ([-1.5, -1.5, 0.0], [1.5, 1.5, 25.0])
    fit = least_squares(lambda p: linear(p)[1], (0.0, 0.0, 1.5), bounds=bounds, x_scale=(0.1, 0.1, 0.3))
    values, _, model = linear(fit.x)
    snr = values[0] * np.sqrt((model**2).sum()) / noise
    if snr < least_snr or np.abs(fit.x[:2]).max() > 1.4 or not 0.0 < fit.x[2] < 20.0:
        return None
    return fit.x[0], fit.x[1], float(np.sqrt(fit.x[2])), snr, 2.0 * fit.cost / (stamp.size - 5)


def matched(stars: Measured, base: Measured) -> Pairs:
    """Pair the stars that both filters have."""
    here, there = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if not stars.x.size or not base.x.size:
        return Pairs(stars, base, here, there)
    tree, shift = KDTree(np.column_stack([base.x, base.y])), np.zeros(2)
    for reach in (2.0 * SAME_STAR, SAME_STAR):
        distance, index = tree.query(np.column_stack([stars.x, stars.y]) - shift, distance_upper_bound=reach)
        here = np.flatnonzero(np.isfinite(distance))
        there = index[here]
        if here.size:
            shift = np.median([stars.x[here] - base.x[there], stars.y[here] - base.y[there]], axis=1)
    return Pairs(stars, base, here, there)


def residual_places(both: Pairs) -> tuple[Image, Image]:
    """Vectors (2, n) from base to filter after the median shift, and after a linear map by robust least squares."""
    x, y = both.base.x[both.there], both.base.y[both.there]
    moved = np.array([both.stars.x[both.here] - x, both.stars.y[both.here] - y])
    columns = np.column_stack([np.ones(x.size), x / 127.0 - 1.0, y / 127.0 - 1.0])
    rest = [least_squares(lambda p, m=m: columns @ p - m, np.zeros(3), loss="soft_l1", f_scale=0.1).fun for m in moved]
    return moved - np.median(moved, axis=1)[:, None], -np.array(rest)


def robust_rms(vectors: Image) -> float:
    """Scatter of one coordinate."""
    return float(np.sqrt(np.mean([mad_std(v) ** 2 for v in vectors]))) if vectors.shape[1] > 2 else float("nan")


def plot(title: str, pairs: Mapping[str, Pairs], path: Path) -> None:
    """Draw, for each filter, the vectors of places over the field and the kernels against S/N."""
    figure = Figure(figsize=(4.5 * len(pairs), 8.0), layout="constrained")
    axes = figure.subplots(2, len(pairs), squeeze=False)
    for k, (name, both) in enumerate(pairs.items()):
        if both.here.size > FEWEST_PAIRS:
            x, y = both.stars.x[both.here], both.stars.y[both.here]
            axes[0, k].quiver(x, y, *residual_places(both)[0], angles="xy", scale_units="xy", scale=0.02)
        axes[0, k].set(title=f"{title} {name}: place - base's, x 50", xlim=(0, 255), ylim=(0, 255), aspect="equal")
        axes[1, k].semilogx(both.stars.snr, both.stars.sigma, "k.")
        axes[1, k].set(xlabel="S/N", ylabel="kernel, px", ylim=(0, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def measure_field(galaxy: Galaxy, base_fit: FilterFit, filters: Sequence[str], config: Config) -> dict[str, Pairs]:
    """Isolated stars of each filter, paired with those of the first; the fit says where the galaxy is."""
    cutouts = read_galaxy(galaxy.path, galaxy.name, filters).cutouts
    libraries = read_libraries(galaxy.psf, filters, config.prep.blur_psf)
    crop = find_crop(cutouts[filters[0]], config)
    body = max(base_fit.components, key=total_flux)
    body = replace(body, x_0=body.x_0 + crop.x0, y_0=body.y_0 + crop.y0)
    pairs: dict[str, Pairs] = {}
    base: Measured | None = None
    for name in filters:
        image, psf = np.where(cutouts[name].mask, np.nan, cutouts[name].data), StampPSF(libraries[name])
        off = elliptical_radius(image.shape, body) > CLEAR_OF_GALAXY
        if base is None:
            base = isolated_stars(image, psf, off, LEAST_BASE_SNR)
        pairs[name] = matched(isolated_stars(image, psf, off, LEAST_SNR), base)
    return pairs


def lines(args: argparse.Namespace) -> Iterator[str]:
    """Measure field after field.

    Yields
    ------
    str
        A line of the table.
    """
    yield "field filter   stars  median  quartile  scatter  joint  pairs  places: shift  linear map, px"
    config = load_config(None, args.preset)
    warm_up(config)
    for galaxy in read_catalogue(args.data / CATALOGUE, config).select(args.only).galaxies:
        fits = {row.filter: row.fit for row in run_galaxy(Job(galaxy=galaxy, config=config)).rows}
        base = fits[galaxy.base_filter]
        if base is None:
            yield f"{galaxy.name}: the base filter has no fit"
            continue
        pairs = measure_field(galaxy, base, galaxy.filters, config)
        for name, both in pairs.items():
            fit, sigma, scatter = fits[name], both.stars.sigma, [np.nan, np.nan]
            if both.here.size > FEWEST_PAIRS:
                scatter = [robust_rms(v) for v in residual_places(both)]
            median, quartile = np.quantile(sigma, (0.5, 0.25)) if sigma.size else (np.nan, np.nan)
            yield (
                f"{galaxy.name}  {name} {sigma.size:7d} {median:7.2f} {quartile:9.2f} {mad_std(sigma):8.2f} "
                f"{np.nan if fit is None else fit.kernel.values[0]:6.2f} {both.here.size:6d} "
                f"{scatter[0]:14.3f} {scatter[1]:11.3f}"
            )
        if args.plot is not None:
            plot(galaxy.name, pairs, args.plot / f"{galaxy.name}.png")


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the galaxies")
    parser.add_argument("--only", type=lambda text: tuple(text.split(",")), default=(), help="names of galaxies")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--plot", type=Path, help="folder for a picture of each field")
    for line in lines(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""Galaxies that are no single Sersic: how wrong their totals are, where the light went, and whether a flag says so.

    python benchmarks/complex_galaxies.py -n 2 -o docs/complex_galaxies.md

Each galaxy is a sum of known parts (`complex_scenes`) in a star field of the simulator, with the kernel to be found.
Per filter: error of the total magnitude and of the colour against the base filter (fit - truth); light of the stars
that the fit has within 2 r_eff beyond that of the true ones of S/N 3 and more there, and light left in the residual
there, both in per cent of the galaxy's.
"""

import os

# one core a process; to be said before numpy is loaded
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accuracy import cropped_alike, real_psf_file
from complex_scenes import RECIPES, ComplexGalaxy, complex_galaxy
from matplotlib.figure import Figure

from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.model_images import ModelImages, render_model
from sphot_mpi.pipeline import fit_base, fit_scaled
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit
from sphot_mpi.simulate import read_library
from sphot_mpi.simulate_kinds import FILTERS
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import ScenePSF

#: What is worth a look: errors beyond these, mag, in a filter without one of these flags.
MOST_MAGNITUDE, MOST_COLOUR = 0.05, 0.03
HONEST = (
    FitFlag.STRUCTURED | FitFlag.STAR_EXCESS | FitFlag.HIGH_CHI2 | FitFlag.CENTRE_UNCOVERED | FitFlag.COMPANION
    | FitFlag.WINGS_UNTOLD
)  # fmt: skip
#: Light within this many r_eff is said to be on the galaxy, and stars of this S/N are expected to be found there.
ON_GALAXY, FOUND_SNR = 2.0, 3.0
LEGEND = """Median of the absolute values / the worst value over the galaxies of a kind, in all star fields together.
Total and colour: fit - truth. Pull: total over its error. In stars: light of the fit's stars within 2 r_eff beyond that
of the true ones of S/N 3 and more. Residual: light left there. Both in per cent of the galaxy's. Bad: total off by more
than 0.05 mag or colour by more than 0.03. No flag: none of STRUCTURED, STAR_EXCESS, HIGH_CHI2, CENTRE_UNCOVERED,
COMPANION and WINGS_UNTOLD is set.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One filter of one galaxy."""

    kind: str
    name: str
    filter: str
    magnitude: float
    colour: float
    sigma: float
    in_stars: float
    residual: float
    flags: FitFlag
    seconds: float

    @property
    def is_bad(self) -> bool:
        """Whether total or colour is far off."""
        return not (abs(self.magnitude) <= MOST_MAGNITUDE and abs(self.colour) <= MOST_COLOUR)

    @property
    def is_silent(self) -> bool:
        """Whether no flag says that something may be wrong."""
        return not self.flags & HONEST


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A galaxy with its crops and fits."""

    galaxy: ComplexGalaxy
    cutouts: dict[str, Cutout]
    fits: dict[str, FilterFit]
    models: dict[str, ModelImages]


def fit_galaxy(galaxy: ComplexGalaxy, library: dict[str, ScenePSF], config: Config) -> Fitted:
    """Fit all filters of a galaxy."""
    libraries = {name: LibraryPSF.from_array(psf.array, psf.oversample) for name, psf in library.items()}
    base = config.core.base_filter
    cutouts = cropped_alike(galaxy.cutouts, config)
    fits = {base: fit_base(cutouts[base], libraries[base], config)}
    for name in cutouts:
        if name != base:
            fits[name] = fit_scaled(cutouts[name], libraries[name], fits[base], cutouts[base], config)
    models = {name: render_model(fit, cutouts[name], libraries[name]) for name, fit in fits.items()}
    return Fitted(galaxy=galaxy, cutouts=cutouts, fits=fits, models=models)


def score(fitted: Fitted, kind: str, base: str) -> list[Score]:
    """Compare each filter with the truth, the base filter first."""
    galaxy, scores = fitted.galaxy, []
    first = 0.0
    for name, fit in fitted.fits.items():
        cutout, flux = fitted.cutouts[name], galaxy.flux[name]
        error = float(-2.5 * np.log10(max(fit.total_flux, 1e-9) / flux))
        first = error if name == base else first
        found = fit.sources
        x0, y0 = cutout.origin
        near = _near(galaxy, found["x_fit"] + x0, found["y_fit"] + y0)
        there = _near(galaxy, galaxy.stars_x, galaxy.stars_y)
        area = np.pi * (2.0 * fit.kernel.fwhm / 2.355) ** 2  # 1 / sum P^2 of a Gaussian
        seen = galaxy.stars_flux[name] > FOUND_SNR * FILTERS[name].noise * np.sqrt(area)
        excess = found["flux_fit"][near].sum() - galaxy.stars_flux[name][there & seen].sum()
        y, x = np.indices(cutout.shape)
        left = fitted.models[name].residual(cutout.data)[_near(galaxy, x + x0, y + y0) & ~cutout.mask]
        scores.append(
            Score(
                kind=kind, name=galaxy.name, filter=name, magnitude=error, colour=error - first,
                sigma=1.0857 * fit.total_flux_err / max(fit.total_flux, 1e-9),
                in_stars=float(100.0 * excess / flux), residual=float(100.0 * np.nansum(left) / flux),
                flags=fit.flags & ~FitFlag.ERROR_ESTIMATED, seconds=fit.seconds,
            )
        )  # fmt: skip
    return scores


def _near(galaxy: ComplexGalaxy, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x - galaxy.centre[0], y - galaxy.centre[1]) < ON_GALAXY * galaxy.radius


def picture(fitted: Fitted, path: Path) -> None:
    """Draw data, stars, model of the galaxy, true galaxy minus it, and residual of each filter."""
    titles = ("data - sky", "galaxy, truth", "galaxy, fit", "truth - fit", "fitted stars", "residual")
    figure = Figure(figsize=(3.0 * len(titles), 3.0 * len(fitted.fits)))
    axes = figure.subplots(len(fitted.fits), len(titles), squeeze=False)
    for row, (name, fit) in zip(axes, fitted.fits.items(), strict=True):
        cutout, model = fitted.cutouts[name], fitted.models[name]
        (x0, y0), (ny, nx) = cutout.origin, cutout.shape
        light = (fitted.galaxy.light[name] + fitted.galaxy.others[name])[y0 : y0 + ny, x0 : x0 + nx]
        images = (cutout.data - model.sky, light, model.sersic, light - model.sersic, model.sources,
                  model.residual(cutout.data))  # fmt: skip
        top = float(np.quantile(light, 0.995))
        for axis, title, image in zip(row, titles, images, strict=True):
            weak = title in {"truth - fit", "residual"}
            axis.imshow(np.arcsinh(image / (0.03 * top)), origin="lower", cmap="RdBu_r" if weak else "magma",
                        vmin=-2.5 if weak else -1.0, vmax=2.5 if weak else 4.5)  # fmt: skip
            axis.set(title=f"{name} {title}", xticks=(), yticks=())
        x, y = fit.sources["x_fit"], fit.sources["y_fit"]
        row[3].plot(x, y, "k.", ms=1.5)
        row[3].set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5))
    figure.suptitle(f"{fitted.galaxy.name}; r_eff {fitted.galaxy.radius:.1f} px")
    figure.tight_layout()
    figure.savefig(path, dpi=60)


def median_and_worst(scores: Sequence[Score], value: Callable[[Score], float], digits: int) -> str:
    """Median of the absolute values, and the value furthest from zero."""
    values = np.array([value(s) for s in scores])
    worst = values[np.argmax(np.abs(values))]
    return f"{np.median(np.abs(values)):.{digits}f} / {worst:+.{digits}f}"


def table(scores: Sequence[Score]) -> str:
    """Markdown table by kind and filter."""
    lines = [
        "| kind | filter | total, mag | pull | colour, mag | in stars, % | residual, % | bad | bad, no flag | CPU s |",
        "| --- " * 10 + "|",
    ]
    for kind in dict.fromkeys(s.kind for s in scores):
        for name in dict.fromkeys(s.filter for s in scores):
            own = [s for s in scores if s.kind == kind and s.filter == name]
            if not own:
                continue
            bad = [s for s in own if s.is_bad]
            silent = sum(s.is_silent for s in bad)
            lines.append(
                f"| {kind} | {name} | {median_and_worst(own, lambda s: s.magnitude, 3)} "
                f"| {median_and_worst(own, lambda s: s.magnitude / s.sigma, 1)} "
                f"| {median_and_worst(own, lambda s: s.colour, 3)} | {median_and_worst(own, lambda s: s.in_stars, 1)} "
                f"| {median_and_worst(own, lambda s: s.residual, 1)} | {len(bad)} of {len(own)} | {silent} "
                f"| {np.median([s.seconds for s in own]):.1f} |"
            )
    return "\n".join(lines) + "\n"


def line(one: Score) -> str:
    """One filter of one galaxy, in words."""
    mark = ("!! " if one.is_silent else "!  ") if one.is_bad else "   "
    return (
        f"{mark}{one.name:<28s} {one.filter} total {one.magnitude:+.3f} +- {one.sigma:.3f} colour {one.colour:+.3f} "
        f"in stars {one.in_stars:+6.1f} % residual {one.residual:+6.1f} % {one.seconds:.1f} s {one.flags!r}"
    )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--stars", nargs="+", default=["typical", "crowded"], help="kinds of star field")
    parser.add_argument("-n", type=int, default=2, help="galaxies of each kind and field")
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--preset", default="best")
    parser.add_argument("--config", type=Path, help="configuration file on top of the preset")
    parser.add_argument("--filters", nargs="+", default=["F150W", "F814W", "F277W"], choices=list(FILTERS))
    parser.add_argument("--images", type=Path, help="folder for a picture of each galaxy")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the bench."""
    args = parse_arguments(arguments)
    config, path = load_config(args.config, args.preset), real_psf_file()
    library = synthetic_library() if path is None else read_library(path)
    library = {name: library[name] for name in args.filters}
    scores: list[Score] = []
    start = time.process_time()
    for kind in args.kind:
        for stars in args.stars:
            for index in range(args.first, args.first + args.n):
                galaxy = complex_galaxy(library, kind, stars, index, args.seed)
                try:
                    fitted = fit_galaxy(galaxy, library, config)
                except SphotError as error:
                    print(f"!! {galaxy.name}: {error}")
                    continue
                new = score(fitted, kind, config.core.base_filter)
                scores += new
                print("\n".join(line(one) for one in new), flush=True)
                if args.images is not None:
                    args.images.mkdir(parents=True, exist_ok=True)
                    picture(fitted, args.images / f"{galaxy.name.replace(', ', '_').replace(' ', '_')}.png")
    print(table(scores))
    print(f"{time.process_time() - start:.0f} CPU s")
    if args.output is not None:
        command = "python benchmarks/complex_galaxies.py " + " ".join(sys.argv[1:] if arguments is None else arguments)
        text = f"# Galaxies that are no single Sersic\n\n`{command}`\n\n{LEGEND}\n{table(scores)}"
        args.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

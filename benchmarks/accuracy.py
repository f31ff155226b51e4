"""Accuracy on simulated galaxies: run the pipelines, compare with the truth, print and write the tables.

    python benchmarks/accuracy.py --kind typical crowded -n 8 --preset best --exact-psf -o docs/accuracy-best.md

Galaxy numbers are medians over the galaxies of the absolute error. Star numbers
are of all stars of all galaxies together; a star's S/N is that of an isolated star
with the true PSF and noise.
"""

import os

# one core a process; to be said before numpy is loaded
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from accuracy_tables import GalaxyResult, Run, render_run

from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.pipeline import fit_base, fit_scaled
from sphot_mpi.prepare import apply_crop, find_crop
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit, SersicParams
from sphot_mpi.scores import StarScores, score_stars
from sphot_mpi.simulate import read_library
from sphot_mpi.simulate_image import SimulatedGalaxy, simulate_galaxy
from sphot_mpi.simulate_kinds import FILTERS, KINDS
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import ScenePSF, total_flux

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker needs beside the galaxy's number."""

    kind: str
    seed: int
    exact_psf: bool
    config: Config
    library: dict[str, ScenePSF]
    #: The same for the fits; what these prepare of it serves all galaxies of a process, as in a campaign.
    prepared: dict[str, LibraryPSF]


def make_task(kind: str, seed: int, config: Config, library: Mapping[str, ScenePSF], *, exact_psf: bool = True) -> Task:
    """Return the task of one kind of galaxies; with `exact_psf` the fits are told the true PSFs."""
    told = {name: psf.blurred(FILTERS[name].kernel) if exact_psf else psf for name, psf in library.items()}
    prepared = {name: LibraryPSF.from_array(psf.array, psf.oversample) for name, psf in told.items()}
    return Task(kind=kind, seed=seed, exact_psf=exact_psf, config=config, library=told, prepared=prepared)


def real_psf_file() -> Path | None:
    """Return the PSF file of the real data, where it is at hand."""
    folder = Path(os.environ.get("SPHOT_REAL_DATA", ROOT.parent / "shared" / "data" / "real"))
    path = folder / "PSFdata.h5"
    return path if path.is_file() else None


def cropped_alike(cutouts: Mapping[str, Cutout], config: Config) -> dict[str, Cutout]:
    """Crop all filters by the window that is found on the base filter, as a campaign's tasks do."""
    crop = find_crop(cutouts[config.core.base_filter], config)
    return {name: apply_crop(cutout, crop) for name, cutout in cutouts.items()}


def run_galaxy(index: int, task: Task) -> GalaxyResult:
    """Simulate one galaxy, fit all its filters and score them."""
    galaxy = simulate_galaxy(task.library, index, task.seed, task.kind, exact_psf=task.exact_psf)
    base_name = task.config.core.base_filter
    start = time.process_time()
    fits: dict[str, FilterFit] = {}
    problems: list[str] = []
    try:
        cropped = cropped_alike(galaxy.cutouts(), task.config)
        fits[base_name] = fit_base(cropped[base_name], task.prepared[base_name], task.config)
    except SphotError as error:
        problems.append(f"{galaxy.name} {base_name}: {error}")
    for name in galaxy.images:
        if base_name in fits and name != base_name:
            try:
                fits[name] = fit_scaled(
                    cropped[name], task.prepared[name], fits[base_name], cropped[base_name], task.config
                )
            except SphotError as error:
                problems.append(f"{galaxy.name} {name}: {error}")
    seconds = time.process_time() - start
    problems += [f"{galaxy.name} {name}: no galaxy was fitted" for name, fit in fits.items() if not fit.components]
    fits = (
        {name: fit for name, fit in fits.items() if fit.components}
        if base_name in fits and fits[base_name].components
        else {}
    )
    numbers = {name: score_filter(galaxy, name, cropped[name], fit) for name, fit in fits.items()}
    for values in numbers.values():
        values["colour"] = values["magnitude"] - numbers[base_name]["magnitude"]
    stars = {name: score_field(galaxy, name, cropped[name], fit) for name, fit in fits.items()}
    flags = [
        f"{galaxy.name} {name}: {fit.flags!r}" for name, fit in fits.items() if fit.flags & ~FitFlag.ERROR_ESTIMATED
    ]
    return GalaxyResult(name=galaxy.name, numbers=numbers, stars=stars, seconds=seconds, problems=problems, flags=flags)


def main_component(fit: FilterFit) -> SersicParams:
    """Return the component with most of the light."""
    return max(fit.components, key=total_flux)


def score_filter(galaxy: SimulatedGalaxy, name: str, cutout: Cutout, fit: FilterFit) -> dict[str, float]:
    """Errors (fit - truth) of one filter's galaxy, sky and kernel."""
    true = galaxy.images[name]
    x0, y0 = cutout.origin
    shape = main_component(fit)
    flux = total_flux(true.galaxy)
    offset = np.hypot(shape.x_0 + x0 - true.galaxy.x_0, shape.y_0 + y0 - true.galaxy.y_0)
    turn = (shape.theta - true.galaxy.theta + np.pi / 2) % np.pi - np.pi / 2
    sky = fit.sky.render(cutout.shape) - true_sky(galaxy, name, cutout)
    return {
        "magnitude": -2.5 * np.log10(max(fit.total_flux, 1e-9) / flux),
        "magnitude_pull": (fit.total_flux - flux) / fit.total_flux_err if fit.total_flux_err > 0 else np.nan,
        "r_eff": 100.0 * (shape.r_eff / true.galaxy.r_eff - 1.0),
        "n": shape.n - true.galaxy.n,
        "ellip": shape.ellip - true.galaxy.ellip,
        "theta": float(turn),
        "centre": float(offset),
        "sky": float(sky.mean() / true.noise),
        "chi2": fit.chi2_reduced,
        "kernel": fit.kernel.values[-1] - true.kernel_sigma,
        "cpu": fit.seconds,
    }


def true_sky(galaxy: SimulatedGalaxy, name: str, cutout: Cutout) -> np.ndarray:
    """Return the true plane plus the mean light of stars below S/N 3, which nothing can tell from sky."""
    true, stars = galaxy.images[name], galaxy.stars
    x0, y0 = cutout.origin
    ny, nx = cutout.shape
    inside = (np.abs(stars.x - x0 - (nx - 1) / 2) < nx / 2) & (np.abs(stars.y - y0 - (ny - 1) / 2) < ny / 2)
    faint = stars.flux[name][inside & (true.snr < 3.0)].sum() / (nx * ny)
    return true.sky[y0 : y0 + ny, x0 : x0 + nx] + faint


def score_field(galaxy: SimulatedGalaxy, name: str, cutout: Cutout, fit: FilterFit) -> StarScores:
    """Score one filter's stars within the cutout."""
    true, stars = galaxy.images[name], galaxy.stars
    x, y = stars.x - cutout.origin[0], stars.y - cutout.origin[1]
    found = fit.sources[fit.report]
    return score_stars(
        (x, y, stars.flux[name], true.snr),
        true.covered & on_good_pixel(cutout, x, y, allow_masked=True),
        (found["x_fit"], found["y_fit"], found["flux_fit"], found["flux_err"]),
        on_good_pixel(cutout, found["x_fit"], found["y_fit"]),
        true.fwhm,
    )


def on_good_pixel(cutout: Cutout, x: np.ndarray, y: np.ndarray, *, allow_masked: bool = False) -> np.ndarray:
    """Whether positions lie in the cutout, and on a pixel with data unless that is allowed to lack."""
    ny, nx = cutout.shape
    i, j = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny)
    good = ~cutout.mask[np.clip(j, 0, ny - 1), np.clip(i, 0, nx - 1)]
    return inside & (good | allow_masked)


def run_kind(task: Task, n: int, jobs: int) -> list[GalaxyResult]:
    """Run all galaxies of a kind, `jobs` at a time; each process warms up with one more, which loads the kernels."""
    work = partial(run_galaxy, task=task)
    if jobs == 1:
        work(n)
        return [work(index) for index in range(n)]
    with ProcessPoolExecutor(jobs, initializer=work, initargs=(n,)) as pool:
        return list(pool.map(work, range(n)))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", default=["typical", "crowded"], choices=sorted(KINDS))
    parser.add_argument("-n", type=int, default=8, help="galaxies of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--preset", default="best")
    parser.add_argument("--config", type=Path, help="configuration file on top of the preset")
    parser.add_argument("--exact-psf", action="store_true", help="tell the fit the true PSF (default)")
    parser.add_argument("--kernel", action="store_true", help="let the fit find the kernel (both may be given)")
    parser.add_argument("--synthetic-psf", action="store_true", help="do not use the real library, though it is there")
    parser.add_argument("--filters", nargs="+", default=list(FILTERS), choices=list(FILTERS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; the exit status is 0 even where a target is missed."""
    args = parse_arguments(arguments)
    config = load_config(args.config, args.preset)
    path = None if args.synthetic_psf else real_psf_file()
    library = synthetic_library() if path is None else read_library(path)
    library = {name: psf for name, psf in library.items() if name in args.filters}
    modes = [True] * (args.exact_psf or not args.kernel) + [False] * args.kernel
    texts = []
    for exact in modes:
        for kind in args.kind:
            task = make_task(kind, args.seed, config, library, exact_psf=exact)
            results = run_kind(task, args.n, args.jobs)
            source = "synthetic" if path is None else "real"
            known = "true PSF given" if exact else "kernel to be found"
            title = f"{kind}, preset {args.preset}, {source} library PSFs, {known}"
            run = Run(title=title, base=config.core.base_filter, results=results)
            texts.append(render_run(run))
            sys.stdout.write(texts[-1] + "\n")
            sys.stdout.flush()
    if args.output is not None:
        command = "python benchmarks/accuracy.py " + " ".join(sys.argv[1:] if arguments is None else arguments)
        args.output.write_text(
            f"# Accuracy on simulated galaxies\n\n`{command}`\n\n" + "\n".join(texts), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

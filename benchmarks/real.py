"""Real galaxies: fit them as a campaign would, and hold the results against targets and references.

    python benchmarks/real.py --depths 6,4,3 --images DIR -o docs/real_galaxies.md

Nobody knows the truth of these galaxies: the tables show whether the residuals are
flat, whether kernels and colours agree with what is known, and whether magnitudes
hang on how deep the stars were fitted.
"""

import os

# one core a process; to be said before numpy is loaded
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from real_tables import FilterRow, GalaxyRun, References, render, robust_sigma

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import SphotError, UsageError
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.pipeline import fit_base, fit_scaled
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.qa.draw import draw_galaxy, figure_for
from sphot_mpi.qa.panels import Panel, kernel_text
from sphot_mpi.records import Cutout, FilterFit, Image
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.sersic_profile import elliptical_radius, total_flux
from sphot_mpi.simulate import simulate_galaxy
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.tasks import Fitters, TaskRunner

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SPHOT_REAL_DATA", ROOT.parent / "shared" / "data" / "real"))
CATALOGUE, REFERENCES = "catalogue.csv", "reference_AB_magnitudes.csv"
WARM_UP_FILTERS = ("F150W", "F277W")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One galaxy under one configuration; `images`: the folder for its picture."""

    galaxy: Galaxy
    config: Config
    images: Path | None = None


def depth_ladder(ladder: Sequence[float], depth: float) -> tuple[float, ...]:
    """Steps of `ladder` above `depth`, then `depth` as often as `ladder` repeats its last step."""
    repeats = len(list(takewhile(lambda step: step == ladder[-1], reversed(ladder))))
    return (*(step for step in ladder if step > depth), *(depth,) * repeats)


def residual_mad(residual: Image, fit: FilterFit) -> tuple[float, float]:
    """Scatter of a residual (NaN = no data) inside and outside 2 r_eff of the component with most light."""
    galaxy = max(fit.components, key=total_flux)
    inside = elliptical_radius(residual.shape, galaxy) < 2.0 * galaxy.r_eff
    return robust_sigma(residual[inside]), robust_sigma(residual[~inside])


def run_galaxy(job: Job) -> GalaxyRun:
    """Fit all filters of a galaxy; what cannot be fitted is a row with the reason."""
    galaxy = job.galaxy
    runner = TaskRunner(job.config, Fitters(fit_base, fit_scaled))
    rows: list[FilterRow] = []
    panels: list[Panel] = []
    base: FilterFit | None = None
    for name in galaxy.filters:
        if rows and base is None:
            rows.append(FilterRow(filter=name, problem=f"the base filter {galaxy.base_filter} has no fit"))
            continue
        kind = TaskKind.SCALE if rows else TaskKind.BASE
        needed = {} if base is None else {base.filter: base}
        outcome = runner.run(Task(kind=kind, galaxy=galaxy.index, filter=name), galaxy, needed.copy)
        base = outcome.fit if kind is TaskKind.BASE else base
        row, panel = judge(runner, outcome, galaxy)
        rows.append(row)
        panels += [] if panel is None else [panel]
    if job.images is not None and panels:
        draw(panels, galaxy.name, job.images / f"{galaxy.name}.png")
    return GalaxyRun(name=galaxy.name, rows=tuple(rows))


def judge(runner: TaskRunner, outcome: TaskOutcome, galaxy: Galaxy) -> tuple[FilterRow, Panel | None]:
    """Return a task's row and, where there is a model, its panel."""
    row = FilterRow(filter=outcome.task.filter, fit=outcome.fit, seconds=outcome.timing.seconds)
    if outcome.fit is None:
        reason = outcome.status.value if outcome.failure is None else outcome.failure.message
        return replace(row, problem=reason), None
    if not outcome.fit.components:
        return row, None
    cutout, model = runner.images(outcome, galaxy)
    panel = make_panel(cutout, model, outcome.fit)
    row = replace(
        row, unit=cutout.unit, pixel_scale=cutout.pixel_scale, mad=residual_mad(panel.residual, outcome.fit)
    )  # fmt: skip
    return row, replace(panel, magnitude=row.magnitude()[0])


def make_panel(cutout: Cutout, model: ModelImages, fit: FilterFit) -> Panel:
    """Return the images of a fit; masked pixels are NaN."""
    return Panel(
        filter=fit.filter, data=np.where(cutout.mask, np.nan, cutout.data), sersic=model.sersic, sources=model.sources,
        sky=model.sky, components=fit.components, noise=fit.noise, unit=cutout.unit, pixel_scale=cutout.pixel_scale,
        chi2_reduced=fit.chi2_reduced, kernel=kernel_text(fit.kernel), fwhm=fit.kernel.fwhm,
        n_sources=int(fit.report.sum()), flags=fit.flags,
    )  # fmt: skip


def draw(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Write a picture with a row a filter."""
    figure = figure_for(panels)
    FigureCanvasAgg(figure)
    draw_galaxy(figure, panels, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def warm_up(config: Config) -> None:
    """Fit a small simulated galaxy, so that compiling and loading kernels costs no real one anything."""
    config = config.replaced(
        {
            "prep": {"filters": list(WARM_UP_FILTERS)},
            "core": {"base_filter": WARM_UP_FILTERS[0], "iter_basefit": 1, "iter_scalefit": 1},
        }
    )
    library = {name: psf for name, psf in synthetic_library().items() if name in WARM_UP_FILTERS}
    images = simulate_galaxy(library, 0, 0, "easy", shape=(90, 101)).images
    cutouts = [
        Cutout(galaxy="warm-up", filter=name, data=images[name].data, error=None, mask=np.isnan(images[name].data))
        for name in WARM_UP_FILTERS
    ]
    psfs = [LibraryPSF.from_array(library[name].array, library[name].oversample) for name in WARM_UP_FILTERS]
    base = fit_base(cutouts[0], psfs[0], config)
    fit_scaled(cutouts[1], psfs[1], base, cutouts[0], config)


def run_jobs(jobs: Sequence[Job], processes: int) -> Iterator[GalaxyRun]:
    """Run the jobs in order, so many at a time; each process warms up first."""
    if processes == 1:
        warm_up(jobs[0].config)
        yield from map(run_galaxy, jobs)
        return
    with ProcessPoolExecutor(processes, initializer=warm_up, initargs=(jobs[0].config,)) as pool:
        yield from pool.map(run_galaxy, jobs)


def read_references(path: Path) -> References:
    """Read the reference magnitudes: (magnitude, error) by galaxy and filter; nothing where there is no file."""
    references: dict[str, dict[str, tuple[float, float]]] = {}
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                values = float(row["mag_AB"]), float(row["mag_AB_err"])
                references.setdefault(row["name"], {})[row["filter"]] = values
    return references


def bench(args: argparse.Namespace) -> str:
    """Fit what the command line asks for and return the tables."""
    config = load_config(args.config, args.preset)
    catalogue_path = args.data / CATALOGUE
    if not catalogue_path.is_file():
        msg = f"{catalogue_path}: the real galaxies are not there; name their folder with --data or SPHOT_REAL_DATA."
        raise UsageError(msg)
    if args.depths and config.psf.method != "joint":
        msg = f"--depths: the preset {config.preset} has no ladder of S/N; leave the option out."
        raise UsageError(msg)
    galaxies = read_catalogue(catalogue_path, config).select(args.only).galaxies
    ladders = {depth: depth_ladder(config.psf.snr_ladder, depth) for depth in args.depths}
    jobs = [Job(galaxy=galaxy, config=config, images=args.images) for galaxy in galaxies]
    for ladder in dict.fromkeys(ladders.values()):
        if ladder != config.psf.snr_ladder:
            deep = config.replaced({"psf": {"snr_ladder": list(ladder)}})
            jobs += [Job(galaxy=galaxy, config=deep) for galaxy in galaxies]
    done: dict[tuple[float, ...], list[GalaxyRun]] = {}
    started = time.monotonic()
    for job, run in zip(jobs, run_jobs(jobs, args.jobs), strict=True):
        done.setdefault(job.config.psf.snr_ladder, []).append(run)
        depth, wall = min(job.config.psf.snr_ladder), time.monotonic() - started
        note = "" if job.config is config else f", stars to S/N {depth:g}"
        sys.stderr.write(f"{wall:7.0f} s  {run.name}{note}: {run.seconds:.1f} CPU s\n")
    by_depth = {depth: done[ladder] for depth, ladder in ladders.items()}
    return render(done[config.psf.snr_ladder], read_references(args.data / REFERENCES), by_depth)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _depths(text: str) -> tuple[float, ...]:
    return tuple(float(depth) for depth in text.split(","))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the galaxies")
    parser.add_argument("--only", type=_names, default=(), help="names of galaxies, separated by commas")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--config", type=Path, help="configuration file on top of the preset")
    parser.add_argument("--depths", type=_depths, default=(), help="S/N at which other ladders end, like 6,4,3")
    parser.add_argument("--images", type=Path, help="folder for a picture of each galaxy")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0 even where a target is missed."""
    args = parse_arguments(arguments)
    try:
        tables = bench(args)
    except SphotError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(tables)
    if args.output is not None:
        command = " ".join(["python benchmarks/real.py", *(sys.argv[1:] if arguments is None else arguments)])
        text = f"# Real galaxies\n\n`{command}`\n\n{EXPLANATION}\n{tables}"
        args.output.write_text(text, encoding="utf-8")
    return 0


EXPLANATION = """\
Magnitudes are AB; the error is the fit's own. r_eff and n of two components are joined by +. Density: stars per area
on the galaxy over that in the field, to be 0.8 to 1.3 or flagged. MAD: 1.4826 x the median absolute deviation of the
residual (MJy/sr) inside and outside the ellipse of 2 r_eff. CPU seconds are process time, reading included, after a
warm-up fit. No galaxy has an error map, so the flag that says so is left out.
"""


if __name__ == "__main__":
    sys.exit(main())

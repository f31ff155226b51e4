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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray
from real_tables import FilterRow, GalaxyRun, References, render, robust_sigma

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config, load_config
from sphot_mpi.config_sections import PsfCalibConfig
from sphot_mpi.errors import SphotError, UsageError
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.pipeline import fit_base, fit_scaled
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.qa.draw import draw_galaxy, figure_for
from sphot_mpi.qa.kernel_check import check_kernel
from sphot_mpi.qa.panels import Panel, kernel_text
from sphot_mpi.records import Cutout, FilterFit, Image
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.sersic_profile import elliptical_radius, total_flux
from sphot_mpi.simulate_image import simulate_galaxy
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.tasks import Fitters, TaskRunner
from sphot_mpi.unseen_light import half_light_distance

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("SPHOT_REAL_DATA", ROOT.parent / "shared" / "data" / "real"))
CATALOGUE, REFERENCES = "catalogue.csv", "reference_AB_magnitudes.csv"
Parser = argparse.ArgumentParser
#: Other places of a residual where a galaxy could stand: so many a side of it, and fewest that tell anything.
STEPS, LEAST_PLACES = 4, 20
WARM_UP_FILTERS = ("F150W", "F277W")
EXPLANATION = """\
Magnitudes are AB; the error is the fit's own. r_eff and n of two components are joined by +. Density: stars per area
on the galaxy over that in the field, to be 0.8 to 1.3 or flagged. MAD: 1.4826 x the median absolute deviation of the
residual (MJy/sr) inside and outside the ellipse of 2 r_eff. Left: sum of the residual inside, in % of the model's
light there. Off: by how many px the residual inside says that the galaxy is displaced against its model; structure
counts as displacement, too. By chance: in how many % of other places of the same residual it would seem as far off;
nan where the galaxy leaves too few. CPU seconds are process time, reading included, after a warm-up fit. No galaxy has
an error map, so the flag that says so is left out.
"""


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


def left_over(residual: Image, model: Image, fit: FilterFit) -> tuple[float, float, float]:
    """What a residual (NaN = no data) holds of the galaxy within 2 r_eff.

    Parameters
    ----------
    residual, model : (ny, nx) float64 ndarray
        Data minus everything; the model galaxy.
    fit : FilterFit
        Its noise, with a per cent of the model, weighs the displacement.

    Returns
    -------
    light : float
        Sum of the residual, in % of the model's.
    distance : float
        Length, px, of the displacement that explains most of the residual.
    by_chance : float
        Share, in %, of other places of the residual where it would be as long; NaN where there are too few.
    """
    inside = half_light_distance(fit.components, residual.shape) < 2.0
    if not inside.any():
        return np.nan, np.nan, np.nan
    rows, columns = (slice(int(k.min()), int(k.max()) + 1) for k in np.nonzero(inside))
    window = rows, columns
    slopes = np.array([slope[window] for slope in np.gradient(model)])
    weight = np.where(inside[window], 1.0 / (fit.noise**2 + (0.01 * model[window]) ** 2), 0.0)
    used = inside & np.isfinite(residual)
    light = float(model[used].sum())
    if light <= 0.0:
        return np.nan, np.nan, np.nan
    distance = displacement(residual[window], slopes, weight)
    ny, nx = weight.shape
    others = []
    for y in range(0, residual.shape[0] - ny + 1, max(ny // STEPS, 1)):
        for x in range(0, residual.shape[1] - nx + 1, max(nx // STEPS, 1)):
            there = residual[y : y + ny, x : x + nx]
            overlap = (inside[window] & inside[y : y + ny, x : x + nx]).sum()
            if overlap < 0.1 * inside.sum() and np.isfinite(there[inside[window]]).mean() > 0.8:
                others.append(displacement(there, slopes, weight))
    others = [other for other in others if np.isfinite(other)]
    known = len(others) >= LEAST_PLACES and np.isfinite(distance)
    by_chance = 100.0 * float(np.mean(np.array(others) >= distance)) if known else np.nan
    return 100.0 * float(residual[used].sum()) / light, distance, by_chance


def displacement(residual: Image, slopes: NDArray[np.float64], weight: Image) -> float:
    """Length, px, of the displacement of a model of some slopes (2, ny, nx) that explains most of a residual."""
    told = np.isfinite(residual) & (weight > 0.0)
    weighted = slopes[:, told] * weight[told]
    gram = weighted @ slopes[:, told].T
    if not np.linalg.det(gram) > 0.0:
        return np.nan
    return float(np.hypot(*np.linalg.solve(gram, weighted @ residual[told])))


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
        row, images = judge(runner, outcome, galaxy)
        rows.append(row)
        if job.images is not None and images is not None:
            library = runner.renderer.library(galaxy, name)
            panels.append(make_panel(row, *images, library, job.config.psf_calib))
    if job.images is not None and panels:
        draw(panels, galaxy.name, job.images / f"{galaxy.name}.png")
    return GalaxyRun(name=galaxy.name, rows=tuple(rows))


def judge(
    runner: TaskRunner, outcome: TaskOutcome, galaxy: Galaxy
) -> tuple[FilterRow, tuple[Cutout, ModelImages] | None]:
    """Return a task's row and, where there is a model, its images."""
    row = FilterRow(filter=outcome.task.filter, fit=outcome.fit, seconds=outcome.timing.seconds)
    if outcome.fit is None:
        reason = outcome.status.value if outcome.failure is None else outcome.failure.message
        return replace(row, problem=reason), None
    if not outcome.fit.components:
        return row, None
    cutout, model = runner.renderer.images(outcome, galaxy)
    cutout = replace(cutout, data=np.where(cutout.mask, np.nan, cutout.data))
    residual = model.residual(cutout.data)
    mad, (left, off, chance) = residual_mad(residual, outcome.fit), left_over(residual, model.sersic, outcome.fit)
    row = replace(row, unit=cutout.unit, pixel_scale=cutout.pixel_scale, mad=mad, left=left, off=off, by_chance=chance)
    return row, (cutout, model)


def make_panel(
    row: FilterRow, cutout: Cutout, model: ModelImages, library: LibraryPSF, config: PsfCalibConfig
) -> Panel:
    """Return a fit as a picture shows it; `cutout` has NaN where it is masked."""
    fit, data = row.fit, cutout.data
    return Panel(
        filter=fit.filter, data=data, sersic=model.sersic, sources=model.sources, sky=model.sky,
        components=fit.components, noise=fit.noise, unit=cutout.unit, pixel_scale=cutout.pixel_scale,
        magnitude=row.magnitude()[0], total_flux=fit.total_flux, chi2_reduced=fit.chi2_reduced,
        kernel=kernel_text(fit.kernel), fwhm=fit.kernel.fwhm, n_sources=int(fit.report.sum()), flags=fit.flags,
        check=check_kernel(fit, data, model, library, config),
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
    found = simulate_galaxy(library, 0, 0, "easy", shape=(90, 101)).cutouts()
    cutouts = [found[name] for name in WARM_UP_FILTERS]
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
    return f"{EXPLANATION}\n" + render(done[config.psf.snr_ladder], read_references(args.data / REFERENCES), by_depth)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _depths(text: str) -> tuple[float, ...]:
    return tuple(float(depth) for depth in text.split(","))


def make_parser(description: str | None, *, only: tuple[str, ...] = (), depths: tuple[float, ...] = ()) -> Parser:
    """Return the options of a bench of real galaxies."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the galaxies")
    parser.add_argument("--only", type=_names, default=only, help="names of galaxies, separated by commas")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--config", type=Path, help="configuration file on top of the preset")
    parser.add_argument("--depths", type=_depths, default=depths, help="S/N at which ladders end, like 6,4,3")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    return parser


def run_bench(
    parser: Parser, bench: Callable[[argparse.Namespace], str], title: str, script: str, arguments: Sequence[str] | None
) -> int:
    """Read the command line, run a bench and write its page; the status is 0 even where a target is missed."""
    args = parser.parse_args(arguments)
    try:
        tables = bench(args)
    except SphotError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    sys.stdout.write(tables)
    if args.output is not None:
        command = " ".join([f"python {script}", *(sys.argv[1:] if arguments is None else arguments)])
        args.output.write_text(f"# {title}\n\n`{command}`\n\n{tables}", encoding="utf-8")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench of the fits."""
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=Path, help="folder for a picture of each galaxy")
    return run_bench(parser, bench, "Real galaxies", "benchmarks/real.py", arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Aperture photometry: analytic galaxies, colourless galaxies through the PSFs, and the real galaxies' colours.

    python benchmarks/aperture.py --depths 6,4,3 --simulated 8 -o docs/aperture_bench.md

The analytic part needs nothing. The PSFs are those of the real library where it is there, else the simulator's. The
real galaxies are fitted as a campaign would, once for each depth of the star fit.
"""

import os

# one core a process; to be said before numpy is loaded
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accuracy_tables import Line
from astropy.table import Table
from real import CATALOGUE, REFERENCES, depth_ladder, make_parser, read_references, run_bench, warm_up
from real_tables import movement, rms, table
from scipy import optimize, special

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import UsageError
from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.inputs import read_libraries
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.pipeline import fit_base, fit_scaled, no_data, photometry
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import Cutout, FilterFit, KernelFit, SersicParams, SkyPlane
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.sersic import SersicRenderer, b_n, total_flux
from sphot_mpi.simulate import simulate_campaign
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.tasks import Fitters, TaskRunner

INDICES = (0.5, 1.0, 2.0, 4.0, 6.0)
R_EFF, GAUSSIAN = 12.0, 1.3
#: Typical kernels, px, on top of the real library.
KERNELS = {"F555W": 1.3, "F814W": 1.2, "F090W": 1.0, "F150W": 0.95, "F160W": 2.1, "F277W": 1.95}
BASE = "F150W"
#: Targets.
ANALYTIC, COLOURLESS, COLOUR_RMS, COLOUR_MOVEMENT = 0.01, 0.01, 0.04, 0.02
COLOUR_JUDGED = ("g232", "g260")
#: Star fields of simulated galaxies, their seed, and ways of taking off the stars.
SIMULATED, SEED, STAR_LIGHTS = ("crowded", "reallike"), 11, ("fitted", "field")


def component(n: float, r_eff: float, ellip: float, flux: float = 1000.0) -> SersicParams:
    """A galaxy of this total flux."""
    unit = SersicParams(amplitude=1.0, r_eff=r_eff, n=n, x_0=95.3, y_0=94.6, ellip=ellip, theta=0.7)
    return replace(unit, amplitude=flux / total_flux(unit))


def ideal(
    components: tuple[SersicParams, ...],
    believed: tuple[SersicParams, ...],
    library: LibraryPSF,
    name: str,
    sigma: float,
) -> tuple[FilterFit, Cutout]:
    """A noise-free image of `components`, and a fit that believes in other ones."""
    psf = PSF(library, Kernel("gaussian", (sigma,)))
    shape = (191, 193)
    image = SersicRenderer(psf, shape).render_params(components)
    cutout = Cutout(
        galaxy="ideal", filter=name, data=image, error=np.full(shape, 1e-3), mask=np.zeros(shape, dtype=bool)
    )  # fmt: skip
    fit = replace(
        no_data(cutout),
        flags=FitFlag(0),
        components=believed,
        covariance=np.zeros((7 * len(believed),) * 2),
        total_flux=sum(total_flux(c) for c in believed),
        total_flux_err=0.0,
        sky=SkyPlane(),
        sky_covariance=np.zeros((3, 3)),
        kernel=KernelFit(values=(sigma,), errors=(0.0,), fwhm=psf.fwhm),
        noise=1e-3,
    )
    return fit, cutout


def measure(
    scenes: Mapping[str, tuple[FilterFit, Cutout]], libraries: Mapping[str, LibraryPSF], config: Config
) -> dict[str, AperturePhotometry]:
    """Photometry by filter."""
    fits = {name: scene[0] for name, scene in scenes.items()}
    cutouts = {name: scene[1] for name, scene in scenes.items()}
    return {record.filter: record for record in photometry(fits, cutouts, libraries, config)}


class RoundTruth:
    """Light inside radius r of a round Sersic under a Gaussian: non-central chi-squared probabilities, averaged."""

    def __init__(self, n: float, r_eff: float, sigma: float) -> None:
        part = (np.arange(4000) + 0.5) / 4000
        self.points = r_eff * (special.gammaincinv(2.0 * n, part) / b_n(n)) ** n
        self.sigma = sigma

    def inside(self, radius: float) -> float:
        """Part of the light."""
        near = np.minimum(self.points, radius + 30.0 * self.sigma)
        return float(special.chndtr((radius / self.sigma) ** 2, 2.0, (near / self.sigma) ** 2).mean())

    def petrosian_radius(self, index: float) -> float:
        """Radius of a Petrosian index, px."""

        def excess(radius: float) -> float:
            grown = self.inside(radius * np.exp(1e-3)) / self.inside(radius * np.exp(-1e-3))
            return 0.5 * float(np.log(grown)) / 2e-3 - index

        return float(optimize.brentq(excess, 0.3, 300.0, rtol=1e-7))


def gaussian_library(sigma: float) -> LibraryPSF:
    """A Gaussian with the detector's pixel in it, oversampled four times."""
    offset, scale = (np.arange(81) - 40) / 4, np.sqrt(2.0) * sigma
    row = 0.5 * (special.erf((offset + 0.5) / scale) - special.erf((offset - 0.5) / scale))
    return LibraryPSF.from_array(np.outer(row, row), 4)


def analytic_part(config: Config) -> tuple[list[Line], list[str]]:
    """Round galaxies through a Gaussian against quadrature."""
    library, rows, worst = gaussian_library(GAUSSIAN), [], [0.0, 0.0, 0.0]
    for index in (0.5, 0.2):
        changed = config.replaced({"aperture": {"petro": index, "min_fwhm": 0.0, "PSF_corr_base_filter": BASE}})
        for n in INDICES:
            body = (component(n, R_EFF, 0.0),)
            record = measure({BASE: ideal(body, body, library, BASE, 0.0)}, {BASE: library}, changed)[BASE]
            truth = RoundTruth(n, R_EFF, np.hypot(GAUSSIAN, 12.0**-0.5))
            inside = truth.inside(record.radius)
            off = (
                record.radius / truth.petrosian_radius(index) - 1.0,
                record.fraction / inside - 1.0,
                -2.5 * np.log10(record.flux / 1000.0 / inside),
            )
            worst = [max(w, abs(o)) for w, o in zip(worst, off, strict=True)]
            rows.append([f"{index:g}", f"{n:g}", f"{record.radius:.2f}", *(f"{o:+.4f}" for o in off)])
    head = ["Petrosian index", "n", "radius px", "radius error", "fraction error", "magnitude error"]
    words = ("Petrosian radius, relative", "enclosed fraction, relative", "magnitude")
    lines = [
        Line(label=f"analytic galaxies, worst {w}", value=v, high=ANALYTIC) for w, v in zip(words, worst, strict=True)
    ]
    return lines, ["## Analytic galaxies", "", *table(head, rows)]


def psf_libraries(data: Path) -> dict[str, LibraryPSF]:
    """The real library, or the simulator's."""
    if (data / "PSFdata.h5").is_file():
        return read_libraries(data / "PSFdata.h5", tuple(KERNELS), {})
    return {name: LibraryPSF.from_array(p.array, p.oversample) for name, p in synthetic_library().items()}


def colourless_part(config: Config, data: Path) -> tuple[list[Line], list[str]]:
    """Colours of a colourless galaxy; in the last rows the fit takes disk and bulge for one Sersic."""
    libraries, rows, worst = psf_libraries(data), [], [0.0, 0.0]
    mixed = (component(1.0, 9.0, 0.4, 750.0), component(2.0, 2.5, 0.1, 250.0))
    cases = [(f"n = {n:g}, r_eff = {r:g}", (component(n, r, 0.3),), (component(n, r, 0.3),), 0)
             for n in (1.0, 4.0) for r in (4.0, 9.0)]  # fmt: skip
    cases.append(("disk and bulge, fitted by one Sersic", mixed, (component(1.7, 7.0, 0.35),), 1))
    for label, truth, believed, kind in cases:
        scenes = {name: ideal(truth, believed, libraries[name], name, sigma) for name, sigma in KERNELS.items()}
        records = measure(scenes, libraries, config)
        raw = {name: r.mag_raw - records[BASE].mag_raw for name, r in records.items()}
        worst[kind] = max(worst[kind], *(abs(r.colour) for r in records.values()))
        rows.append([label, f"{records[BASE].radius:.1f}",
                     *(f"{raw[name]:+.3f} / {records[name].colour:+.4f}" for name in KERNELS)])  # fmt: skip
    lines = [
        Line(label="colourless galaxy, worst colour, the model right", value=worst[0], high=COLOURLESS),
        Line(label="colourless galaxy, worst colour, the model wrong", value=worst[1], high=COLOURLESS),
    ]
    text = "Colour against F150W before and after the PSF correction, mag."
    return lines, ["## Colourless galaxies", "", text, "", *table(["galaxy", "radius px", *KERNELS], rows)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """Photometry of one real galaxy at one depth of the star fit."""

    name: str
    records: dict[str, AperturePhotometry]
    problems: tuple[str, ...] = ()

    @property
    def colours(self) -> dict[str, float]:
        """Aperture colours against the base filter."""
        return {name: r.colour for name, r in self.records.items() if name != BASE and np.isfinite(r.colour)}

    def offsets(self, reference: Mapping[str, tuple[float, float]], *, total: bool = False) -> dict[str, float]:
        """Colours of the aperture, or of the totals, minus those of the reference."""
        return {
            name: (record.colour_total if total else record.colour) - (reference[name][0] - reference[BASE][0])
            for name, record in self.records.items()
            if name in reference and name != BASE
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A galaxy's fits, images and PSFs by filter."""

    fits: dict[str, FilterFit]
    cutouts: dict[str, Cutout]
    libraries: dict[str, LibraryPSF]
    problems: tuple[str, ...]

    def records(self, config: Config) -> dict[str, AperturePhotometry]:
        """Photometry by filter."""
        return {r.filter: r for r in photometry(self.fits, self.cutouts, self.libraries, config)}


def fit_galaxy(galaxy: Galaxy, config: Config) -> Fitted:
    """Fit a galaxy's filters."""
    runner = TaskRunner(config, Fitters(fit_base, fit_scaled))
    fits, cutouts, libraries, problems = {}, {}, {}, []
    base: FilterFit | None = None
    for k, name in enumerate(galaxy.filters):
        task = Task(kind=TaskKind.SCALE if k else TaskKind.BASE, galaxy=galaxy.index, filter=name)
        needed = {} if base is None else {base.filter: base}
        outcome = runner.run(task, galaxy, needed.copy)
        if outcome.fit is None:
            problems.append(f"{name}: {outcome.status.value if outcome.failure is None else outcome.failure.message}")
            if not k:
                break
            continue
        base = base if k else outcome.fit
        fits[name], cutouts[name] = outcome.fit, runner.renderer.images(outcome, galaxy)[0]
        libraries.update(read_libraries(galaxy.psf, (name,), config.prep.blur_psf))
    return Fitted(fits=fits, cutouts=cutouts, libraries=libraries, problems=tuple(problems))


def run_galaxy(job: tuple[Galaxy, Config]) -> Run:
    """Fit a galaxy's filters and measure them."""
    galaxy, config = job
    fitted = fit_galaxy(galaxy, config)
    return Run(name=galaxy.name, records=fitted.records(galaxy.config(config)), problems=fitted.problems)


def run_simulated(job: tuple[Galaxy, Config]) -> dict[str, dict[str, AperturePhotometry]]:
    """Fit a galaxy's filters and measure them with each way of taking off the stars."""
    galaxy, config = job
    fitted = fit_galaxy(galaxy, config)
    return {
        way: fitted.records(galaxy.config(config).replaced({"aperture": {"star_light": way}})) for way in STAR_LIGHTS
    }


def simulated_part(args: argparse.Namespace, config: Config) -> list[str]:
    """Colours of simulated galaxies, which are the same in any aperture, by each way of taking off the stars."""
    rows, names = [], [name for name in KERNELS if name != BASE]
    for kind in SIMULATED:
        with tempfile.TemporaryDirectory() as folder:
            simulate_campaign(folder, args.simulated, SEED, kind)
            galaxies = read_catalogue(Path(folder) / CATALOGUE, config).galaxies
            jobs = [(galaxy, config) for galaxy in galaxies]
            with ProcessPoolExecutor(args.jobs) as pool:
                runs = list(pool.map(run_simulated, jobs))
            truth = {(row["name"], row["filter"]): row["magnitude"] for row in Table.read(Path(folder) / "truth.ecsv")}
        for way in STAR_LIGHTS:
            cells = []
            for name in names:
                off, pulls = [], []
                for galaxy, run in zip(galaxies, runs, strict=True):
                    record = run[way][name]
                    off.append(record.colour - float(truth[galaxy.name, name] - truth[galaxy.name, BASE]))
                    pulls.append(off[-1] / record.colour_err)
                cells.append(f"{rms(off):.4f} ({rms(pulls):.2f})")
            rows.append([kind, way, *cells])
    note = f"Error of the colour against F150W, rms of {args.simulated} galaxies; in brackets that of the pulls."
    return ["## Colours of simulated galaxies", "", note, "", *table(["field", "star_light", *names], rows), ""]


def real_part(args: argparse.Namespace, config: Config) -> tuple[list[Line], list[str]]:
    """Colours of the real galaxies against the references, and how they move with the depth of the star fit."""
    path = args.data / CATALOGUE
    if not path.is_file():
        msg = f"{path}: the real galaxies are not there; name their folder with --data or SPHOT_REAL_DATA."
        raise UsageError(msg)
    galaxies = read_catalogue(path, config).select(args.only).galaxies
    ladders = {depth: depth_ladder(config.psf.snr_ladder, depth) for depth in args.depths}
    deepest = min(args.depths)
    jobs = [
        (g, config.replaced({"psf": {"snr_ladder": list(ladder)}})) for ladder in ladders.values() for g in galaxies
    ]
    warm_up(config)
    if args.jobs == 1:
        runs = [run_galaxy(job) for job in jobs]
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            runs = list(pool.map(run_galaxy, jobs))
    by_depth = {depth: runs[k * len(galaxies) : (k + 1) * len(galaxies)] for k, depth in enumerate(ladders)}
    references = read_references(args.data / REFERENCES)
    lines, text = _reference_section(by_depth[deepest], references)
    more_lines, more_text = _depth_section(by_depth)
    return lines + more_lines, [*text, *more_text, *_photometry_section(by_depth[deepest])]


def _reference_section(
    runs: Sequence[Run], references: Mapping[str, Mapping[str, tuple[float, float]]]
) -> tuple[list[Line], list[str]]:
    lines, rows = [], []
    names = [name for name in KERNELS if name != BASE]
    for run in runs:
        if run.name not in references:
            continue
        reference = references[run.name]
        for kind in ("aperture", "total"):
            off = run.offsets(reference, total=kind == "total")
            value = rms(list(off.values()))
            cells = []
            for name in names:
                own = run.records[name].colour_total_err if kind == "total" else run.records[name].colour_err
                given = np.hypot(reference[name][1], reference[BASE][1])
                cells.append(f"{off[name]:+.3f} ({own:.3f}, {given:.3f})")
            rows.append([run.name, kind, *cells, f"{value:.3f}"])
            if kind == "aperture" and run.name in COLOUR_JUDGED:
                lines.append(
                    Line(label=f"aperture colours against the reference, {run.name}, rms", value=value, high=COLOUR_RMS)
                )
    note = "Colour against F150W minus the reference's; in brackets our error and the reference's."
    return lines, ["## Colours of real galaxies", "", note, "", *table(["galaxy", "colour", *names, "rms"], rows)]


def _depth_section(by_depth: Mapping[float, Sequence[Run]]) -> tuple[list[Line], list[str]]:
    lines, rows = [], []
    for runs in zip(*by_depth.values(), strict=True):
        moved = movement([run.colours for run in runs])
        cells = []
        for name in (name for name in KERNELS if name != BASE):
            values = " / ".join(f"{run.colours.get(name, np.nan):.3f}" for run in runs)
            cells.append(f"{values}: {moved.get(name, np.nan):.3f}")
        worst = float(np.max(list(moved.values()))) if moved else float("nan")
        rows.append([runs[0].name, *cells, f"{worst:.3f}"])
        if runs[0].name in COLOUR_JUDGED and len(runs) > 1:
            lines.append(
                Line(
                    label=f"largest movement of a colour with depth, {runs[0].name}", value=worst, high=COLOUR_MOVEMENT
                )
            )
    head = ["galaxy", *(name for name in KERNELS if name != BASE), "worst"]
    note = f"Aperture colours with stars to S/N {' / '.join(f'{d:g}' for d in by_depth)}: movement."
    return lines, ["## Depth of the star fit", "", note, "", *table(head, rows)]


def _photometry_section(runs: Sequence[Run]) -> list[str]:
    rows = []
    for run in runs:
        for name, r in run.records.items():
            words = ", ".join(
                flag.name.lower().replace("_", " ") for flag in ApertureFlag if flag in r.flags and flag.name
            )
            parts = [r.flux_err_noise, r.flux_err_sky, r.flux_err_stars]
            rows.append([
                run.name, name, f"{r.radius:.1f}", f"{r.mag_raw:.3f}", f"{r.mag_corr:.3f} +- {r.mag_corr_err:.3f}",
                f"{r.mag_total:.3f} +- {r.mag_total_err:.3f}", f"{r.fraction:.3f}", f"{r.correction:.3f}",
                " ".join(f"{100.0 * part / r.flux:.2f}" for part in parts), f"{r.petro_radius:.1f}", f"{r.r50:.1f}",
                f"{r.concentration:.2f}", f"{r.filled_fraction:.2f}", words,
            ])  # fmt: skip
        rows += [[run.name, problem, *[""] * 12] for problem in run.problems]
    head = ["galaxy", "filter", "radius px", "raw", "corrected", "total", "fraction", "correction",
            "% noise, sky, stars", "r_petro", "r50", "C", "filled", "flags"]  # fmt: skip
    return ["## Photometry", "", *table(head, rows)]


def bench(args: argparse.Namespace) -> str:
    """Measure what the command line asks for and return the tables."""
    config = load_config(args.config, args.preset)
    parts = [analytic_part(config), colourless_part(config, args.data)]
    if not args.ideal_only:
        parts.append(real_part(args, config))
    if args.simulated:
        parts.append(([], simulated_part(args, config)))
    lines = [line.row() for targets, _ in parts for line in targets]
    head = ["## Targets", "", "| | value | target | |", "|---|---|---|---|", *lines, ""]
    return "\n".join([*head, *(row for _, text in parts for row in text)]).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench of the apertures."""
    parser = make_parser(__doc__, only=("g232", "g260", "g310"), depths=(6.0, 4.0, 3.0))
    parser.add_argument("--ideal-only", action="store_true", help="no real galaxies")
    parser.add_argument("--simulated", type=int, default=0, help="galaxies of each kind of star field, 0: none")
    return run_bench(parser, bench, "Aperture photometry", "benchmarks/aperture.py", arguments)


if __name__ == "__main__":
    sys.exit(main())

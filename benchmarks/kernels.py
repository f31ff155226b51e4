"""The PSF kernel on simulated galaxies: what `joint` and `anchors` recover, and what a calibration costs.

    python benchmarks/kernels.py --sigma 0 0.3 0.9 1.3 2.0 --kind easy typical crowded -n 4
    python benchmarks/kernels.py --truth moffat drizzle --side 141 -n 1
    python benchmarks/kernels.py --way joint library --sigma 0.9 2.0

The images are made with the library blurred by the true kernel, and fitted with the library; the way `library` is
preset `best` without a kernel, `told` the same with the true PSF as library: what is wrong there is no kernel's. The
width of a kernel is the sigma of the Gaussian that is as wide; errors are fit - truth, px (of the PSF, seen as a
Gaussian of 0.3 px, where the true kernel is smaller than that). The flux errors are medians: of the stars above S/N
50, and of the galaxies' totals.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from accuracy import cropped_alike, score_field, score_filter
from scipy import fft

from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import SphotError
from sphot_mpi.flags import FitFlag
from sphot_mpi.pipeline import fit_base, fit_scaled
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.psf_kernel import FAMILIES, Kernel
from sphot_mpi.records import Cutout, FilterFit
from sphot_mpi.scores import StarScores, pool
from sphot_mpi.seed_kernel import recalibrate, with_kernel
from sphot_mpi.seed_stages import fit_stars, start_state, with_galaxy
from sphot_mpi.simulate_image import SimulatedGalaxy, simulate_galaxy
from sphot_mpi.simulate_kinds import FILTERS, KINDS
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import ScenePSF

TARGET = {("joint", "F150W"): 0.01, ("joint", "F277W"): 0.02, ("joint", "F160W"): 0.02}
ANCHORS_TARGET = 0.05
#: Ways that look for a kernel.
FINDING = ("joint", "anchors")
#: Blur, px, below which its own width is not measurable, only what it does to the PSF.
LEAST_BLUR = 0.3
#: Shapes of the true kernels of two parameters; their width is that of `--sigma`.
SHAPES = {"moffat": 1.0 / 2.8, "drizzle": None}
#: Part of a drizzle kernel's variance that is the top-hat's.
TOP_HAT_SHARE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One truth, fitted in one way."""

    way: str
    kind: str
    truth: Kernel
    family: str


@dataclass(slots=True)
class Row:
    """Results of one case in one filter."""

    errors: list[float] = field(default_factory=list)
    pulls: list[float] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)
    stars: list[StarScores] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    seconds: float = 0.0
    flags: FitFlag = FitFlag(0)


def true_kernel(family: str, sigma: float) -> Kernel:
    """Member of a family, as wide as a Gaussian of `sigma` px, that is not its usual shape."""
    if family == "gaussian":
        return Kernel("gaussian", (sigma,))
    if family == "moffat":
        size = FAMILIES[family].size_per_variance * sigma**2
        return Kernel.from_coordinates(family, np.array([size, SHAPES[family]]))
    width = sigma * np.sqrt(12.0 * TOP_HAT_SHARE)
    return Kernel("drizzle", (float(width), float(sigma * np.sqrt(1.0 - TOP_HAT_SHARE))))


def blurred(psf: ScenePSF, kernel: Kernel) -> ScenePSF:
    """PSF convolved with any kernel, its array grown by 16 px a side for the wings."""
    padded = np.pad(psf.array, 16 * psf.oversample)
    fy = fft.fftfreq(padded.shape[0], 1.0 / psf.oversample)[:, None]
    fx = fft.rfftfreq(padded.shape[1], 1.0 / psf.oversample)[None, :]
    array = fft.irfft2(fft.rfft2(padded) * kernel.transform(fx, fy), padded.shape)
    return ScenePSF(array / array.sum(), psf.oversample)


def configured(case: Case, filters: tuple[str, ...]) -> Config:
    """Configuration of a case: the presets, without the seed's slow searches for the galaxy."""
    changes: dict[str, dict[str, object]] = {
        "prep": {"filters": list(filters), "auto_crop": False}, "psf-calib": {"kernel_family": case.family},
    }  # fmt: skip
    if case.way != "anchors":
        changes["psf-calib"]["in_mainloop"] = case.way == "joint"
        return load_config(preset="best").replaced(changes)
    changes["core"] = {"sersic_method": "lm", "iter_basefit": 4, "iter_scalefit": 4, "scale_positions": "anchored"}
    changes["psf"] = {"th_min": 3.0}
    return load_config(preset="sphot-calibrated").replaced(changes)


def run_case(case: Case, library: dict[str, ScenePSF], args: argparse.Namespace) -> dict[str, Row]:
    """Simulate and fit the galaxies of a case."""
    rows = {name: Row() for name in library}
    true = {name: blurred(psf, case.truth) for name, psf in library.items()}
    known = true if case.way == "told" else library
    told = {name: LibraryPSF.from_array(psf.array, psf.oversample) for name, psf in known.items()}
    config = configured(case, tuple(library))
    shape = None if args.side is None else (args.side, args.side)
    for index in range(args.n):
        # index 1, 9, ... has correlated noise, which is another question
        galaxy = simulate_galaxy(true, 8 * index, args.seed, case.kind, exact_psf=True, shape=shape)
        try:
            cutouts = cropped_alike(galaxy.cutouts(), config)
            fits = fit_all(cutouts, told, config)
        except SphotError as problem:
            sys.stdout.write(f"{galaxy.name}: {problem}\n")
            continue
        for name, fit in fits.items():
            note(rows[name], fit, case)
            rows[name].stars.append(score_field(galaxy, name, cutouts[name], fit))
            rows[name].totals.append(10.0 ** (-0.4 * score_filter(galaxy, name, cutouts[name], fit)["magnitude"]) - 1.0)
    return rows


def fit_all(cutouts: dict[str, Cutout], told: dict[str, LibraryPSF], config: Config) -> dict[str, FilterFit]:
    """Fit the base filter, then the others."""
    base = config.core.base_filter
    fits = {base: fit_base(cutouts[base], told[base], config)}
    for name in cutouts:
        if name != base:
            fits[name] = fit_scaled(cutouts[name], told[name], fits[base], cutouts[base], config)
    return fits


def note(row: Row, fit: FilterFit, case: Case) -> None:
    """Add one fit to a row."""
    kernel = Kernel(fit.kernel.family, fit.kernel.values)
    # next to nothing it is the width of the PSF that counts, to which a blur adds in quadrature
    floor = LEAST_BLUR if case.truth.width < LEAST_BLUR else 0.0
    row.errors.append(float(np.hypot(kernel.width, floor) - np.hypot(case.truth.width, floor)))
    if kernel.family == case.truth.family:
        row.pulls += [
            (a - b) / e for a, b, e in zip(kernel.values, case.truth.values, fit.kernel.errors, strict=True) if e > 0.0
        ]
    row.shapes.append("/".join(f"{value:.2f}" for value in kernel.values))
    row.anchors.append(fit.kernel.n_anchors)
    row.seconds += fit.seconds
    about = FitFlag.KERNEL_AT_BOUND | FitFlag.KERNEL_BOOTSTRAP | FitFlag.KERNEL_FEW_ANCHORS
    row.flags |= fit.flags & about


def rendered(case: Case, rows: dict[str, Row]) -> str:
    """Lines of the table."""
    lines = []
    for name, row in rows.items():
        if not row.errors:
            continue
        size = np.abs(row.errors)
        target = TARGET.get((case.way, name), ANCHORS_TARGET)
        truth = "/".join(f"{value:.2f}" for value in case.truth.values)
        # another family has another idea of width
        judged = case.way in FINDING and case.family == case.truth.family
        verdict = "-" if not judged else "ok" if np.median(size) <= target else "MISSED"
        lines.append(
            f"| {case.way} | {name} | {case.kind} | {case.truth.family} {truth} | {case.family} {row.shapes[0]} "
            f"| {np.median(row.errors):+.4f} | {size.max():.4f} | {verdict} "
            f"| {np.sqrt(np.mean(np.square(row.pulls))) if row.pulls else np.nan:.1f} "
            f"| {100.0 * pool(row.stars).bias:+.1f} | {100.0 * np.median(row.totals):+.1f} "
            f"| {min(row.anchors)} | {row.flags.name or '-'} | {row.seconds / len(row.errors):.1f} |"
        )
    return "\n".join(lines)


def cost(library: dict[str, ScenePSF], args: argparse.Namespace) -> str:
    """CPU of a calibration, in each way and family, against that of a photometry pass."""
    base = "F150W"
    shape = None if args.side is None else (args.side, args.side)
    true = {base: blurred(library[base], Kernel(values=(0.9,)))}
    galaxy = simulate_galaxy(true, 0, args.seed, "typical", exact_psf=True, shape=shape)
    told = LibraryPSF.from_array(library[base].array, library[base].oversample)
    lines = [anchors_cost(galaxy, base, told, family) for family in FAMILIES]
    lines += [joint_cost(galaxy, base, told, family) for family in FAMILIES]
    head = "| way | family | stars | calibration, CPU s | photometry pass, CPU s |\n|---|---|---|---|---|\n"
    return head + "\n".join(lines)


def anchors_cost(galaxy: SimulatedGalaxy, name: str, told: LibraryPSF, family: str) -> str:
    """CPU of a calibration on anchors against that of the ladder that found them."""
    truth = Kernel(values=(0.9,))
    config = configured(Case(way="anchors", kind="typical", truth=truth, family=family), (name,))
    cutout = cropped_alike(galaxy.cutouts(), config)[name]
    state = with_galaxy(start_state(cutout, told), (galaxy.images[name].galaxy,), config.psf)
    for _ in range(2):  # the first time compiles
        state = fit_stars(state, config)
        state = with_kernel(*recalibrate(state, config))
    calibration, photometry = (seconds(partial(step, state, config), 3) for step in (recalibrate, fit_stars))
    return f"| anchors | {family} | {state.sources.size} | {calibration:.3f} | {photometry:.3f} |"


def joint_cost(galaxy: SimulatedGalaxy, name: str, told: LibraryPSF, family: str) -> str:
    """CPU that finding the kernel adds to a whole fit, against that of the fit with the true PSF."""
    truth = Kernel(values=(0.9,))
    true = blurred(ScenePSF(told.array, told.oversample), truth)
    true_psf = LibraryPSF.from_array(true.array, true.oversample)
    config, known = (
        configured(Case(way=way, kind="typical", truth=truth, family=family), (name,)) for way in ("joint", "library")
    )
    cutout = cropped_alike(galaxy.cutouts(), config)[name]
    n_stars = fit_base(cutout, told, config).sources.size
    alone = seconds(partial(fit_base, cutout, true_psf, known), 3)
    extra = seconds(partial(fit_base, cutout, told, config), 3) - alone
    return f"| joint, all passes | {family} | {n_stars} | {extra:.3f} | {alone:.3f} |"


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median CPU of a call, s."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return float(np.median(times))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigma", nargs="+", type=float, default=[0.9], help="width of the true kernel, px")
    parser.add_argument("--truth", nargs="+", default=["gaussian"], choices=list(FAMILIES))
    parser.add_argument("--family", choices=list(FAMILIES), help="family that is fitted; default: the true one")
    parser.add_argument("--kind", nargs="+", default=["typical"], choices=sorted(KINDS))
    parser.add_argument(
        "--way", nargs="+", default=["joint", "anchors"], choices=["joint", "anchors", "library", "told"]
    )
    parser.add_argument("--filters", nargs="+", default=["F150W", "F277W"], choices=list(FILTERS))
    parser.add_argument("-n", type=int, default=1, help="galaxies of each kind")
    parser.add_argument("--side", type=int, help="side of the images, px; default: the kind's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cost", action="store_true", help="time a calibration against a photometry pass")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the bench; the exit status is 0 even where a target is missed."""
    args = parse_arguments(arguments)
    library = {name: psf for name, psf in synthetic_library().items() if name in args.filters or name == "F150W"}
    sys.stdout.write(
        "| way | filter | field | truth | fit | median error px | worst | target | pull | stars % | galaxy % | anchors "
        "| flags | CPU s |\n" + "|---" * 14 + "|\n"
    )
    medians: dict[tuple[str, str], list[float]] = {}
    for way in args.way:
        for kind in args.kind:
            for truth in args.truth:
                for sigma in args.sigma:
                    case = Case(way=way, kind=kind, truth=true_kernel(truth, sigma), family=args.family or truth)
                    rows = run_case(case, library, args)
                    sys.stdout.write(rendered(case, rows) + "\n")
                    sys.stdout.flush()
                    for name, row in rows.items() if way in FINDING else ():
                        medians.setdefault((way, name), []).extend(np.abs(row.errors))
    if medians:
        sys.stdout.write(
            "\n| way | filter | fields | median of the absolute error, px | target |\n|---|---|---|---|---|\n"
        )
    for (way, name), errors in medians.items():
        target = TARGET.get((way, name), ANCHORS_TARGET)
        sys.stdout.write(f"| {way} | {name} | {len(errors)} | {np.median(errors):.4f} | {target} |\n")
    if args.cost:
        sys.stdout.write("\n" + cost(library, args) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

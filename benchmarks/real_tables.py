"""The real galaxies' bench: its records, its comparisons and its Markdown tables."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from accuracy_tables import Line

from sphot_mpi import robust
from sphot_mpi.flags import FIT_FLAG_DESCRIPTIONS, FitFlag
from sphot_mpi.magnitudes import ab_magnitude
from sphot_mpi.records import FilterFit

NAN = float("nan")
#: Residual MAD (inside, outside 2 r_eff), MJy/sr, and core-seconds that the single-machine program needs for g260.
SINGLE_MACHINE_GALAXY, SINGLE_MACHINE_SECONDS = "g260", 446.0
SINGLE_MACHINE_MAD = {
    "F150W": (0.0769, 0.0647), "F814W": (0.0458, 0.0286), "F090W": (0.0517, 0.0406),
    "F277W": (0.0802, 0.0418), "F160W": (0.0721, 0.0490), "F555W": (0.0156, 0.0151),
}  # fmt: skip
#: Targets: MAD over the single-machine program's, kernel's deviation (px), colours (mag), movement with depth (mag).
MAD_RATIO, KERNEL_DEVIATION, COLOUR_RMS, TOTAL_MOVEMENT, COLOUR_MOVEMENT, SECONDS = 0.5, 0.15, 0.05, 0.05, 0.03, 15.0
#: Galaxies whose reference colours are held against the target; others are only reported.
COLOUR_JUDGED = ("g232", "g260")
DENSITY_RANGE = (0.8, 1.3)
FIT_COLUMNS = """filter, mag, error, mag in cutout, r_eff px, n, components, kernel px, shift px, sources, density, \
chi2, MAD in, MAD out, left %, off px, by chance %, CPU s, flags"""

References = Mapping[str, Mapping[str, tuple[float, float]]]
ByDepth = Mapping[float, Sequence["GalaxyRun"]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilterRow:
    """One filter of one galaxy: its fit, or why there is none."""

    filter: str
    fit: FilterFit | None = None
    problem: str = ""
    seconds: float = 0.0
    unit: str = "MJy/sr"
    pixel_scale: float = 0.03
    mad: tuple[float, float] = (NAN, NAN)
    left: float = NAN
    off: float = NAN
    by_chance: float = NAN

    def magnitude(self, *, in_cutout: bool = False) -> tuple[float, float]:
        """AB magnitude and error: of the total light, or of the model's light in the cutout (its error unknown)."""
        if self.fit is None:
            return NAN, NAN
        flux, error = (self.fit.flux_in_cutout, NAN) if in_cutout else (self.fit.total_flux, self.fit.total_flux_err)
        value, value_err = ab_magnitude(np.array([flux]), np.array([error]), self.unit, self.pixel_scale)
        return float(value[0]), float(value_err[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GalaxyRun:
    """One galaxy under one configuration, the base filter first."""

    name: str
    rows: tuple[FilterRow, ...]

    @property
    def seconds(self) -> float:
        """Process time of all filters."""
        return sum(row.seconds for row in self.rows)

    @property
    def fits(self) -> dict[str, FilterFit]:
        """The filters with a galaxy in their fit."""
        return {row.filter: row.fit for row in self.rows if row.fit is not None and row.fit.components}

    @property
    def totals(self) -> dict[str, float]:
        """Total magnitudes, where there are any."""
        values = {row.filter: row.magnitude()[0] for row in self.rows}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    @property
    def colours(self) -> dict[str, float]:
        """Total magnitudes of the other filters minus that of the base filter."""
        base, totals = self.rows[0].filter, self.totals
        return {name: value - totals[base] for name, value in totals.items() if name != base and base in totals}


def robust_sigma(values: np.ndarray) -> float:
    """As `robust.robust_sigma`, of the finite values; NaN if there are none."""
    finite = values[np.isfinite(values)]
    return robust.robust_sigma(finite) if finite.size else NAN


def colour_offsets(run: GalaxyRun, reference: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Colours against the base filter minus those of the reference, by filter."""
    base = run.rows[0].filter
    common = [name for name in run.colours if name in reference and base in reference]
    return {name: run.colours[name] - (reference[name][0] - reference[base][0]) for name in common}


def rms(values: Sequence[float]) -> float:
    """Root of the mean square; NaN for nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if values else NAN


def movement(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Largest minus smallest value over the runs, by filter; NaN where one run lacks what another has."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    # the maximum of an array with NaN is NaN
    return {name: float(np.ptp([run.get(name, NAN) for run in runs])) for name in names}


def kernels(runs: Sequence[GalaxyRun]) -> dict[str, dict[str, float]]:
    """Width of the kernel by filter and galaxy, where stars have measured it."""
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        for name, fit in run.fits.items():
            if fit.kernel.n_anchors > 0 and FitFlag.KERNEL_FEW_ANCHORS not in fit.flags:
                found.setdefault(name, {})[run.name] = fit.kernel.values[0]
    return found


def deviations(values: Mapping[str, float]) -> dict[str, float]:
    """Differences from the median."""
    centre = float(np.median(list(values.values())))
    return {name: value - centre for name, value in values.items()}


def unflagged_densities(runs: Sequence[GalaxyRun]) -> list[str]:
    """Fits whose star density ratio is out of range though no flag says so."""
    low, high = DENSITY_RANGE
    quiet = [(run.name, fit) for run in runs for fit in run.fits.values() if FitFlag.STAR_EXCESS not in fit.flags]
    ratios = [(f"{galaxy} {fit.filter}", fit.star_density_ratio) for galaxy, fit in quiet]
    return [f"{name} ({ratio:.2f})" for name, ratio in ratios if ratio < low or ratio > high]


def flag_words(flags: FitFlag) -> str:
    """Flags as words; that no error map was given, which holds for all real galaxies, is left out."""
    shown = [flag for flag in FitFlag if flag in flags and flag is not FitFlag.ERROR_ESTIMATED]
    return ", ".join(flag.name.lower().replace("_", " ") for flag in shown if flag.name)


def judged(met: bool) -> str:
    """Mark of a target that is met or missed."""
    return "ok" if met else "**miss**"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table and a blank one."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def galaxy_section(run: GalaxyRun) -> list[str]:
    """Return one galaxy's table."""
    cells = [[row.filter, *_cells(row)] for row in run.rows]
    return [f"### {run.name}: {run.seconds:.1f} CPU s", "", *table(FIT_COLUMNS.split(", "), cells)]


def _cells(row: FilterRow) -> list[str]:
    fit = row.fit
    if fit is None:
        return ["-"] * 16 + [f"{row.seconds:.1f}", f"**no fit**: {row.problem}"]
    value, error = row.magnitude()
    shapes = [" + ".join(f"{getattr(c, name):.2f}" for c in fit.components) for name in ("r_eff", "n")]
    return [
        f"{value:.3f}", f"{error:.3f}", f"{row.magnitude(in_cutout=True)[0]:.3f}", *shapes, f"{len(fit.components)}",
        ", ".join(f"{v:.3f}" for v in fit.kernel.values), f"{fit.shift[0]:+.2f}, {fit.shift[1]:+.2f}",
        f"{int(fit.report.sum())}", f"{fit.star_density_ratio:.2f}", f"{fit.chi2_reduced:.2f}",
        f"{row.mad[0]:.4f}", f"{row.mad[1]:.4f}", f"{row.left:+.1f}", f"{row.off:.2f}",
        f"{row.by_chance:.0f}", f"{row.seconds:.1f}",
        "; ".join(filter(None, (flag_words(fit.flags), *fit.messages))),
    ]  # fmt: skip


def mad_ratios(runs: Sequence[GalaxyRun]) -> dict[str, tuple[float, float]]:
    """Residual MADs inside and outside over the single-machine program's, by filter of its galaxy."""
    rows = [row for run in runs if run.name == SINGLE_MACHINE_GALAXY for row in run.rows if row.filter in run.fits]
    pairs = {row.filter: (row.mad, SINGLE_MACHINE_MAD[row.filter]) for row in rows if row.filter in SINGLE_MACHINE_MAD}
    return {name: (mine[0] / theirs[0], mine[1] / theirs[1]) for name, (mine, theirs) in pairs.items()}


def mad_section(runs: Sequence[GalaxyRun]) -> list[str]:
    """Return the comparison of residuals with the single-machine program's."""
    rows = []
    for name, ratios in mad_ratios(runs).items():
        pairs = [[f"{ratio * theirs:.4f}", f"{theirs:.4f}", f"{ratio:.2f}"]
                 for ratio, theirs in zip(ratios, SINGLE_MACHINE_MAD[name], strict=True)]  # fmt: skip
        rows.append([name, *pairs[0], *pairs[1], judged(largest(ratios) <= MAD_RATIO)])
    head = ["filter", "in", "single-machine", "ratio", "out", "single-machine", "ratio", f"<= {MAD_RATIO:g}"]
    return [f"## Residual MAD inside and outside 2 r_eff, {SINGLE_MACHINE_GALAXY}, MJy/sr", "", *table(head, rows)]


def kernel_section(runs: Sequence[GalaxyRun]) -> list[str]:
    """Return the kernels' table."""
    rows, errors = [], {(run.name, row.filter): row.fit.kernel.errors[0] for run in runs for row in run.rows if row.fit}
    for name, values in kernels(runs).items():
        off = deviations(values)
        worst = max(off, key=lambda galaxy: abs(off[galaxy]))
        spread = robust_sigma(np.array(list(values.values())))
        mark = judged(abs(off[worst]) <= KERNEL_DEVIATION) if len(off) > 1 else "one galaxy"
        median = values[worst] - off[worst]
        rows.append([
            name, f"{len(values)}", f"{median:.3f}", f"{off[worst]:+.3f} ({worst})",
            f"{errors[worst, name]:.3f}", f"{spread:.3f}", mark,
        ])  # fmt: skip
    limit = f"<= {KERNEL_DEVIATION:g}"
    head = ["filter", "galaxies", "median px", "largest deviation", "its error", "spread (1.4826 MAD)", limit]
    text = "The error is the fit's own: that of noise or of how stars of the field differ, whichever is larger."
    return ["## Kernel by filter", "", text, "", *table(head, rows)]


def colour_section(runs: Sequence[GalaxyRun], references: References) -> list[str]:
    """Return the comparison of colours with the references."""
    compared = [run for run in runs if run.name in references]
    names = list(dict.fromkeys(name for run in compared for name in run.colours))
    rows = []
    for run in compared:
        reference, base = references[run.name], run.rows[0].filter
        off = colour_offsets(run, reference)
        error = {name: np.hypot(reference[name][1], reference[base][1]) for name in off}
        value = rms(list(off.values()))
        mark = judged(value <= COLOUR_RMS) if run.name in COLOUR_JUDGED else "report only"
        cells = [f"{off[name]:+.3f} ({error[name]:.2f})" if name in off else "-" for name in names]
        rows.append([run.name, *cells, f"{value:.3f}", mark])
    text = "Colour of total magnitudes minus that of the references; in brackets the references' error."
    return ["## Colours", "", text, "", *table(["galaxy", *names, "rms", f"<= {COLOUR_RMS:g}"], rows)]


def depth_movements(by_depth: ByDepth) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """Movements of totals and of colours with depth, by galaxy and filter."""
    moved = {}
    for runs in zip(*by_depth.values(), strict=True):
        moved[runs[0].name] = movement([run.totals for run in runs]), movement([run.colours for run in runs])
    return moved


def largest(values: Collection[float]) -> float:
    """Largest value; NaN if there is none, or if one is NaN."""
    return float(np.max(list(values))) if values else NAN


def depth_section(by_depth: ByDepth) -> list[str]:
    """Return how magnitudes move with the depth of the star fit."""
    moved = depth_movements(by_depth)
    rows, short = [], []
    for runs in zip(*by_depth.values(), strict=True):
        name = runs[0].name
        totals, colours = moved[name]
        for k, row in enumerate(runs[0].rows):
            values = [run.rows[k].magnitude()[0] for run in runs]
            moves = [f"{m[row.filter]:.3f}" if row.filter in m else "-" for m in (totals, colours)]
            rows.append([name, row.filter, *(f"{value:.3f}" for value in values), *moves])
        fine = largest(totals.values()) <= TOTAL_MOVEMENT and largest(colours.values()) <= COLOUR_MOVEMENT
        short.append([name, f"{largest(totals.values()):.3f}", f"{largest(colours.values()):.3f}", judged(fine)])
    head = ["galaxy", "filter", *(f"mag at S/N {depth:g}" for depth in by_depth), "moves", "colour moves"]
    text = f"Targets: totals move by at most {TOTAL_MOVEMENT:g} mag, colours by at most {COLOUR_MOVEMENT:g}."
    summary = table(["galaxy", "largest movement of a total", "of a colour", ""], short)
    return ["## Depth of the star fit", "", text, "", *summary, *table(head, rows)]


def target_lines(runs: Sequence[GalaxyRun], references: References, by_depth: ByDepth) -> list[Line]:
    """Return everything that has a target."""
    failed = sum(row.fit is None for run in runs for row in run.rows)
    lines = [
        Line(label="filters without a fit", value=failed, high=0),
        Line(label="star densities out of range without a flag", value=len(unflagged_densities(runs)), high=0),
    ]
    ratios = mad_ratios(runs).values()
    for k, where in enumerate(("inside", "outside")):
        if ratios:
            label = f"residual MAD {where} 2 r_eff over the single-machine program's, worst filter"
            lines.append(Line(label=label, value=largest([ratio[k] for ratio in ratios]), high=MAD_RATIO))
    off = [abs(v) for values in kernels(runs).values() if len(values) > 1 for v in deviations(values).values()]
    if off:
        lines.append(Line(label="kernel, largest deviation in its filter, px", value=max(off), high=KERNEL_DEVIATION))
    for run in runs:
        if run.name in references and run.name in COLOUR_JUDGED:
            value = rms(list(colour_offsets(run, references[run.name]).values()))
            lines.append(Line(label=f"colours against the reference, {run.name}, rms", value=value, high=COLOUR_RMS))
    if by_depth:
        moved = depth_movements(by_depth)
        for k, (what, high) in enumerate((("total", TOTAL_MOVEMENT), ("colour", COLOUR_MOVEMENT))):
            value = largest([one for pair in moved.values() for one in pair[k].values()])
            lines.append(Line(label=f"largest movement of a {what} with depth", value=value, high=high))
    for run in runs:
        if run.name == SINGLE_MACHINE_GALAXY and len(run.fits) == len(SINGLE_MACHINE_MAD):
            label = f"CPU seconds, {run.name}, six filters ({SINGLE_MACHINE_SECONDS / run.seconds:.1f} times fewer)"
            lines.append(Line(label=label, value=run.seconds, high=SECONDS))
    return lines


def render(runs: Sequence[GalaxyRun], references: References, by_depth: ByDepth) -> str:
    """Return all tables as Markdown."""
    lines = ["## Targets", "", "| | value | target | |", "|---|---|---|---|"]
    lines += [line.row() for line in target_lines(runs, references, by_depth)]
    unflagged = ", ".join(unflagged_densities(runs))
    lines += ["", *([f"Out of range without a flag: {unflagged}.", ""] if unflagged else [])]
    lines += ["## Fits", "", *(line for run in runs for line in galaxy_section(run))]
    seen = [flag for flag in FitFlag if any(flag in fit.flags for run in runs for fit in run.fits.values())]
    lines += [*(f"* {flag_words(flag)}: {FIT_FLAG_DESCRIPTIONS[flag]}" for flag in seen if flag_words(flag)), ""]
    lines += mad_section(runs) if mad_ratios(runs) else []
    lines += kernel_section(runs) if kernels(runs) else []
    lines += colour_section(runs, references) if any(run.name in references for run in runs) else []
    lines += depth_section(by_depth) if by_depth else []
    return "\n".join(lines).rstrip() + "\n"

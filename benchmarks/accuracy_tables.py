"""The accuracy bench's records and tables, with the targets they are held against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sphot_mpi.scores import SNR_EDGES, StarScores, pool

#: Most CPU seconds of a galaxy of the kind `typical`, six filters.
TYPICAL_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GalaxyResult:
    """One galaxy's errors by filter and quantity, its star scores by filter, and what went wrong."""

    name: str
    numbers: dict[str, dict[str, float]]
    stars: dict[str, StarScores]
    seconds: float
    problems: list[str]
    flags: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All galaxies of one kind under one configuration."""

    title: str
    base: str
    results: Sequence[GalaxyResult]

    @property
    def filters(self) -> list[str]:
        """Filters that were fitted at least once, the base filter first."""
        names = {name for result in self.results for name in result.numbers}
        return sorted(names, key=lambda name: (name != self.base, name))

    def median(self, name: str, quantity: str) -> float:
        """Median absolute error over the galaxies."""
        values = [abs(r.numbers[name][quantity]) for r in self.results if name in r.numbers]
        return float(np.median(values)) if values else float("nan")

    def stars(self, name: str) -> StarScores:
        """Stars of all galaxies."""
        return pool(r.stars[name] for r in self.results if name in r.stars)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the summary: a value and the range it should lie in."""

    label: str
    value: float
    low: float = -np.inf
    high: float = np.inf

    def row(self) -> str:
        """Return the Markdown row."""
        target = f"<= {self.high:g}" if np.isinf(self.low) else f">= {self.low:g}"
        if np.isfinite(self.low) and np.isfinite(self.high):
            target = f"{self.low:g} to {self.high:g}"
        mark = "ok" if self.low <= self.value <= self.high else "**miss**"
        if np.isinf(self.low) and np.isinf(self.high):
            target, mark = "-", "only reported"
        if np.isnan(self.value):
            mark = "too few to tell"
        return f"| {self.label} | {self.value:.4g} | {target} | {mark} |"


def summary(run: Run) -> list[Line]:
    """Return the lines that have a target, and the time that they took."""
    base, others = run.base, [name for name in run.filters if name != run.base]
    worst = {q: max(run.median(f, q) for f in run.filters) for q in ("magnitude", "sky", "chi2")}
    lines = [
        Line(label=f"total magnitude, {base}", value=run.median(base, "magnitude"), high=0.005),
        Line(label="total magnitude, worst filter", value=worst["magnitude"], high=0.005),
        Line(label=f"r_eff, %, {base}", value=run.median(base, "r_eff"), high=0.7),
        Line(label=f"n, {base}", value=run.median(base, "n"), high=0.02),
        Line(label=f"centre, px, {base}", value=run.median(base, "centre"), high=0.01),
        Line(label=f"sky, sigma, {base}", value=run.median(base, "sky"), high=0.1),
        Line(label="sky, sigma, worst filter", value=worst["sky"], high=0.1),
        Line(label="reduced chi2, worst filter", value=worst["chi2"], high=1.1),
    ]
    if others:
        colour = max(run.median(f, "colour") for f in others)
        lines.insert(2, Line(label="model colour, worst filter", value=colour, high=0.002))
    stars = run.stars(base)
    lines += [
        Line(label=f"completeness, S/N > 10, {base}", value=stars.completeness(10.0), low=0.97),
        Line(label=f"completeness, S/N 5-10, {base}", value=stars.completeness(5.0, 10.0), low=0.8),
        Line(label=f"reliability, S/N > 5, {base}", value=stars.reliability, low=0.96),
        Line(label=f"flux bias, S/N > 50, {base}", value=abs(stars.bias), high=0.01),
        Line(label=f"flux pulls' width, S/N > 5, {base}", value=stars.pull_width(5.0), low=0.9, high=1.3),
    ]
    for name, target in (("F277W", 0.95), ("F160W", 0.92)):
        if name in others:
            value = run.stars(name).completeness(10.0)
            lines.append(Line(label=f"completeness, S/N > 10, {name}", value=value, low=target))
    seconds = float(np.median([r.seconds for r in run.results]))
    # what is asked for is asked of these fields
    most = TYPICAL_SECONDS if run.title.startswith("typical") else np.inf
    return [*lines, Line(label="CPU seconds a galaxy, median", value=seconds, high=most)]


def render_run(run: Run) -> str:
    """Return the run's tables as Markdown."""
    if not run.filters:
        return f"## {run.title}\n\nNo galaxy was fitted.\n\n" + _list("Failed", run, "problems")
    parts = [f"## {run.title} ({len(run.results)} galaxies)\n", "| | value | target | |", "|---|---|---|---|"]
    parts += [line.row() for line in summary(run)]
    parts += ["", *_galaxy_table(run), "", *_star_table(run), ""]
    return "\n".join(parts) + "\n" + _list("Failed", run, "problems") + _list("Flags", run, "flags")


def _galaxy_table(run: Run) -> list[str]:
    quantities = {
        "magnitude": "mag", "colour": "colour", "r_eff": "r_eff %", "n": "n", "ellip": "ellip", "theta": "theta rad",
        "centre": "centre px", "sky": "sky sigma", "kernel": "kernel px", "chi2": "chi2", "magnitude_pull": "mag pull",
        "cpu": "CPU s",
    }  # fmt: skip
    rows = [
        "Median absolute errors, and in brackets the worst galaxy:",
        "",
        "| | " + " | ".join(quantities.values()) + " |",
    ]
    rows.append("|---" * (len(quantities) + 1) + "|")
    for name in run.filters:
        cells = []
        for quantity in quantities:
            worst = max(abs(r.numbers[name][quantity]) for r in run.results if name in r.numbers)
            cells.append(f"{run.median(name, quantity):.3g} ({worst:.2g})")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def _star_table(run: Run) -> list[str]:
    bins = list(zip(SNR_EDGES[:-1], SNR_EDGES[1:], strict=True))
    labels = [f"{low:g}-{high:g}" if np.isfinite(high) else f">{low:g}" for low, high in bins]
    rows = ["Stars by true S/N (completeness, and width of the flux pulls):", ""]
    head = [f"compl. {label}" for label in [*labels, ">10"]] + ["reliability", "bias >50"]
    head += [f"pull {label}" for label in labels[1:]] + ["stars > 5"]
    rows += ["| | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in run.filters:
        stars = run.stars(name)
        values = [stars.completeness(*edges) for edges in [*bins, (10.0, np.inf)]] + [stars.reliability, stars.bias]
        values += [stars.pull_width(*edges) for edges in bins[1:]]
        cells = [f"{value:.3f}" for value in values] + [str(int(np.sum(stars.snr > 5.0)))]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return rows


def _list(title: str, run: Run, attribute: str) -> str:
    items = [f"* {item}" for result in run.results for item in getattr(result, attribute)]
    return f"{title}:\n\n" + "\n".join(items) + "\n" if items else ""

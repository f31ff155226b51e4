"""The first page of a report: a campaign's summary as charts, tables and words."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from sphot_mpi.qa.charts import histogram, scatter, spreads
from sphot_mpi.qa.summary import Spread, Summary
from sphot_mpi.results_reader import ResultsReader

_FACTS = (
    ("created", "created"),
    ("program", "creator_version"),
    ("commit", "git_commit"),
    ("command", "command_line"),
    ("catalogue", "catalogue"),
    ("MPI ranks", "ranks"),
    ("configuration's SHA-256", "configuration_sha256"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart and what it shows."""

    svg: Markup
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Charts by section."""

    shapes: tuple[Chart, ...]
    colours: tuple[Chart, ...]
    times: tuple[Chart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpreadRow:
    """A row of the table of percentiles, with so many digits after the point."""

    label: str
    filter: str
    spread: Spread
    digits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a results file comes from."""

    sentence: str
    facts: tuple[tuple[str, str], ...]
    versions: str
    configuration: str


def draw_charts(summary: Summary) -> Charts:
    """Return all charts of the summary."""
    values, base = summary.by_filter, summary.base_filter
    nothing = np.empty(0)
    bars = "dashed: median"
    lines = "thin: 5 to 95 %, thick: 16 to 84 %, dot: median"

    def bar_chart(title: str, label: str, data: np.ndarray, *, log: bool = False) -> Chart:
        return Chart(svg=histogram(title, label, data, log=log), caption=f"{title}; {bars}")

    def line_chart(title: str, label: str, quantity: str, *, log: bool = False) -> Chart:
        return Chart(svg=spreads(title, label, values[quantity], log=log), caption=f"{title}; {lines}")

    shapes = (
        bar_chart(f"Half-light radius in {base}", "r_eff, px", values["r_eff"].get(base, nothing), log=True),
        bar_chart(f"Sersic index in {base}", "n", values["n"].get(base, nothing)),
        line_chart("Reduced chi2 by filter", "reduced chi2", "chi2_reduced", log=True),
        line_chart("PSF kernel by filter", "first parameter of the kernel, px", "kernel_1"),
        line_chart("FWHM of the calibrated PSF by filter", "FWHM, px", "fwhm"),
        line_chart("Point sources reported by filter", "sources", "n_sources", log=True),
    )
    colours = tuple(
        Chart(
            svg=scatter(
                f"Colour {c.filter} - {base} against {base}",
                f"{base}, mag",
                f"{c.filter} - {base}, mag",
                c.magnitude,
                c.colour,
            ),
            caption=f"{c.filter} - {base}; {summary.magnitude_kind}",
        )
        for c in summary.colours
    )
    times = (
        bar_chart("Process time a galaxy", "seconds", summary.galaxy_seconds, log=True),
        line_chart("Process time of a fit by filter", "seconds", "seconds", log=True),
    )
    return Charts(shapes=shapes, colours=colours, times=times)


def spread_rows(summary: Summary) -> list[SpreadRow]:
    """Return the percentiles that the charts show, and those of the magnitudes."""
    base = summary.base_filter
    quantities: list[tuple[str, str, int, tuple[str, ...]]] = [
        (label, quantity, digits, (base,))
        for label, quantity, digits in (("r_eff, px", "r_eff", 2), ("Sersic n", "n", 2))
        if base in summary.filters
    ]
    quantities += [
        (label, quantity, digits, summary.filters)
        for label, quantity, digits in (
            ("Sersic magnitude, AB", "mag", 2), ("reduced chi2", "chi2_reduced", 2), ("PSF kernel, px", "kernel_1", 3),
            ("PSF FWHM, px", "fwhm", 2), ("point sources", "n_sources", 0), ("seconds", "seconds", 2),
        )
    ]  # fmt: skip
    rows = [
        SpreadRow(label=label, filter=name, spread=summary.spread(quantity, name), digits=digits)
        for label, quantity, digits, filters in quantities
        for name in filters
    ]
    rows += [
        SpreadRow(label=f"colour against {base}, mag", filter=c.filter, spread=Spread.of(c.colour), digits=3)
        for c in summary.colours
    ]
    return [*rows, SpreadRow(label="seconds a galaxy", filter="all", spread=summary.seconds, digits=2)]


def duration(seconds: float) -> str:
    """Return a time with a unit that suits it."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2.0 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def read_origin(reader: ResultsReader) -> Origin:
    """Return what the file's attributes tell of its making."""
    attributes = reader.file.attrs

    def text(key: str) -> str:
        return str(attributes.get(key, ""))

    facts = [(label, text(key)) for label, key in _FACTS if text(key)]
    return Origin(
        sentence=f"sphot-mpi {text('creator_version')}, {text('created')}, {reader.path.name}",
        facts=tuple(facts),
        versions=text("versions"),
        configuration=text("configuration"),
    )

"""Small charts as SVG text: histograms, spreads by group, scatter; styled by the report's style sheet.

Everything is vector and text, so that charts follow the page's light or dark colours and its zoom.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

from sphot_mpi.errors import counted
from sphot_mpi.records import Vector

_WIDTH, _HEIGHT = 440.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 14.0, 12.0, 42.0


class _Scale:
    """Turns values into places along one axis of the drawing."""

    def __init__(self, values: Vector, start: float, end: float, *, log: bool = False, count: bool = False) -> None:
        self.log, self.start, self.end, self.count = log, start, end, count
        finite = self._mapped(values)
        finite = finite[np.isfinite(finite)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        if count:
            low = 0.0
        margin = 0.04 * (high - low) or 0.5 * (abs(high) or 1.0) * (0.1 if log else 1.0)
        self.low, self.high = low if count else low - margin, high + margin

    def _mapped(self, values: Vector) -> Vector:
        if not self.log:
            return values
        return np.log10(np.where(values > 0.0, values, np.nan))

    def __call__(self, values: Vector) -> Vector:
        """Return places for values."""
        share = (self._mapped(np.asarray(values, dtype=np.float64)) - self.low) / (self.high - self.low)
        return np.asarray(self.start + share * (self.end - self.start))

    def ticks(self) -> list[float]:
        """Return some five round values."""
        if not self.log:
            found = MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=self.count).tick_values(self.low, self.high)
            return [float(t) for t in found if self.low <= t <= self.high]
        subs = (1.0,) if self.high - self.low > 2.5 else (1.0, 2.0, 5.0)
        found = LogLocator(subs=subs, numticks=9).tick_values(10.0**self.low, 10.0**self.high)
        ticks = [float(t) for t in found if self.low <= np.log10(t) <= self.high]
        if len(ticks) >= 3:
            return ticks
        # a short piece of a logarithmic axis has too few of its own round values
        found = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(10.0**self.low, 10.0**self.high)
        return [float(t) for t in found if t > 0.0 and self.low <= np.log10(t) <= self.high]


def _number(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-12 else value:g}"


def _frame(title: str, text: str, body: Sequence[Markup], height: float = _HEIGHT) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        f"{_WIDTH:g}", f"{height:g}", f"{title}. {text}", title, Markup("").join(body)
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str = "middle", extra: str = "") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}"{}>{}</text>').format(x, y, anchor, Markup(extra), text)


def _x_axis(scale: _Scale, label: str, bottom: float) -> list[Markup]:
    parts = [_line(scale.start, bottom, scale.end, bottom, "axis")]
    for tick in scale.ticks():
        x = float(scale(np.array([tick]))[0])
        parts += [_line(x, bottom, x, bottom + 4.0, "axis"), _text(x, bottom + 16.0, _number(tick))]
    return [*parts, _text(0.5 * (scale.start + scale.end), bottom + 34.0, label)]


def _y_axis(scale: _Scale, label: str, left: float, right: float) -> list[Markup]:
    parts = []
    for tick in scale.ticks():
        y = float(scale(np.array([tick]))[0])
        parts += [_line(left, y, right, y, "grid"), _text(left - 6.0, y + 4.0, _number(tick), "end")]
    middle = 0.5 * (scale.start + scale.end)
    return [*parts, _text(14.0, middle, label, extra=f' transform="rotate(-90 14 {middle:.0f})"')]


def histogram(title: str, label: str, values: Vector, *, log: bool = False, bins: int = 24) -> Markup:
    """Return a histogram of the finite values.

    Parameters
    ----------
    title, label : str
        Of the chart, for those who hear it, and of the x axis.
    values : (n,) float64 ndarray
        In any order; of a logarithmic axis only the positive ones.
    log : bool
        Whether the x axis is logarithmic.
    bins : int
        Most bars.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    usable = values[np.isfinite(values) & ((values > 0.0) | (not log))]
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    if usable.size == 0:
        return _frame(title, "No values.", [_text(0.5 * _WIDTH, 0.5 * _HEIGHT, "no values")])
    along = _Scale(usable, _LEFT, right, log=log)
    edges = np.linspace(along.low, along.high, min(bins, max(6, int(2.0 * np.sqrt(usable.size)))) + 1)
    counts, _ = np.histogram(np.log10(usable) if log else usable, bins=edges)
    up = _Scale(counts.astype(np.float64), bottom, _TOP, count=True)
    x = along.start + (edges - along.low) / (along.high - along.low) * (along.end - along.start)
    y = up(counts.astype(np.float64))
    bars = [
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            x[k] + 0.5, y[k], x[k + 1] - x[k] - 1.0, bottom - y[k]
        )
        for k in np.flatnonzero(counts)
    ]
    median = float(np.median(usable))
    at = float(along(np.array([median]))[0])
    body = [
        *_y_axis(up, "galaxies", _LEFT, right), *bars,
        _line(at, _TOP, at, bottom, "median"), *_x_axis(along, label, bottom),
    ]  # fmt: skip
    return _frame(title, f"{usable.size} values, median {median:.3g}.", body)


def spreads(title: str, label: str, groups: Mapping[str, Vector], *, log: bool = False) -> Markup:
    """Return one line a group: 5 to 95 % thin, 16 to 84 % thick, the median a mark, and how many.

    Parameters
    ----------
    title, label : str
        Of the chart, for those who hear it, and of the x axis.
    groups : mapping of str to (n,) float64 ndarray
        From top to bottom; NaN is left out.
    log : bool
        Whether the x axis is logarithmic.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    usable = {
        name: values[np.isfinite(values) & ((values > 0.0) | (not log))] for name, values in groups.items()
    }  # fmt: skip
    levels = {name: np.percentile(v, (5.0, 16.0, 50.0, 84.0, 95.0)) for name, v in usable.items() if v.size}
    left, row = 92.0, 30.0
    bottom = _TOP + row * max(1, len(groups))
    along = _Scale(np.concatenate([*levels.values(), np.empty(0)]), left, _WIDTH - 64.0, log=log)
    body: list[Markup] = []
    told = []
    for k, name in enumerate(groups):
        y = _TOP + row * (k + 0.5)
        body += [_line(left, y, along.end, y, "grid"), _text(left - 8.0, y + 4.0, name, "end")]
        body.append(_text(_WIDTH - 4.0, y + 4.0, f"n {usable[name].size}", "end"))
        if name in levels:
            x = along(levels[name])
            body += [_line(x[0], y, x[4], y, "whisker"), _line(x[1], y, x[3], y, "box")]
            body.append(Markup('<circle class="middle" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x[2], y))
            told.append(f"{name}: median {levels[name][2]:.3g}")
    body += _x_axis(along, label, bottom)
    return _frame(title, "; ".join(told) + ".", body, bottom + _BOTTOM)


def scatter(title: str, x_label: str, y_label: str, x: Vector, y: Vector) -> Markup:
    """Return points; all of them are one element, so that ten thousand cost a browser nothing.

    Parameters
    ----------
    title, x_label, y_label : str
        Of the chart, for those who hear it, and of the axes.
    x, y : (n,) float64 ndarray
        Points; the outermost half percent at each end of either axis does not set its range.

    Returns
    -------
    Markup
        An ``<svg>`` element.
    """
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good], y[good]
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    if x.size == 0:
        return _frame(title, "No values.", [_text(0.5 * _WIDTH, 0.5 * _HEIGHT, "no values")])
    along, up = (
        _Scale(np.percentile(values, (0.5, 99.5)) if values.size > 200 else values, start, end)
        for values, start, end in ((x, _LEFT, right), (y, bottom, _TOP))
    )
    px, py = along(x), up(y)
    inside = (px >= _LEFT) & (px <= right) & (py >= _TOP) & (py <= bottom)
    # a line of no length with round ends is a dot
    dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(px[inside], py[inside], strict=True))
    kind = "dots few" if x.size < 500 else "dots"
    body = [
        *_y_axis(up, y_label, _LEFT, right), Markup('<path class="{}" d="{}"/>').format(kind, dots),
        *_x_axis(along, x_label, bottom),
    ]  # fmt: skip
    outside = int((~inside).sum())
    note = f" {outside} outside the frame." if outside else ""
    return _frame(title, f"{counted(x.size, 'galaxy')}, median {float(np.median(y)):.3g}.{note}", body)

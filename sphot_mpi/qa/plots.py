"""Pictures of one galaxy's fit."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.qa.draw import draw_galaxy, figure_for
from sphot_mpi.qa.panels import read_panel
from sphot_mpi.results_reader import ResultsReader


def plot_galaxy(results_path: Path, name: str, output: Path, filters: Sequence[str] | None = None) -> None:
    """Draw a galaxy's data, model, cleaned image, residual and profile in all filters.

    Parameters
    ----------
    results_path : Path
        Results file.
    name : str
        Galaxy.
    output : Path
        PNG, PDF or SVG, by its ending.
    filters : sequence of str, optional
        Which, from top to bottom; default: all of the galaxy's, the base filter first.

    Raises
    ------
    UsageError
        If the galaxy or a filter is not in the file.
    OutputError
        If the results cannot be read or the picture cannot be written.
    """
    with ResultsReader(results_path) as reader:
        reader.row(name)
        known = reader.filters(name)
        chosen = list(filters) if filters else known
        unknown = [filter_name for filter_name in chosen if filter_name not in known]
        if unknown or not chosen:
            which = f"of {', '.join(unknown)}" if unknown else "at all"
            msg = f"{results_path}: galaxy {name!r} has no fit {which}; it has {', '.join(known) or 'none'}."
            raise UsageError(msg)
        panels = [read_panel(reader, name, filter_name) for filter_name in chosen]
    figure = figure_for(len(panels))
    FigureCanvasAgg(figure)
    draw_galaxy(figure, panels, name)
    try:
        figure.savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        msg = f"{output}: the picture cannot be written ({error}); end its name in .png, .pdf or .svg."
        raise OutputError(msg) from error

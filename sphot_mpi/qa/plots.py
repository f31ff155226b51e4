"""Pictures of one galaxy's fit."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages

from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.qa.draw import draw_galaxy, figure_for
from sphot_mpi.qa.panels import Panel, PanelReader
from sphot_mpi.qa.style import check_ending
from sphot_mpi.results_reader import ResultsReader

_DPI = 110


def plot_galaxy(results_path: Path, name: str, output: Path, filters: Sequence[str] | None = None) -> None:
    """Draw a galaxy's data, models, residual, isophotes, profile, Petrosian curve and PSF kernel in all filters.

    Parameters
    ----------
    results_path : Path
        Results file.
    name : str
        Galaxy.
    output : Path
        PNG or SVG, a block a filter, or PDF, a page a filter; by its ending.
    filters : sequence of str, optional
        Which, from top to bottom; default: all of the galaxy's, the base filter first.

    Raises
    ------
    UsageError
        If the galaxy or a filter is not in the file, or the picture's ending is none of `ENDINGS`.
    OutputError
        If the results cannot be read or the picture cannot be written.
    """
    check_ending(output)
    with ResultsReader(results_path) as reader:
        reader.row(name)
        known = reader.filters(name)
        chosen = list(filters) if filters else known
        unknown = [filter_name for filter_name in chosen if filter_name not in known]
        if not known:
            msg = f"{results_path}: galaxy {name!r} has no fit to draw; the table /failures says why."
            raise UsageError(msg)
        if unknown:
            msg = f"{results_path}: galaxy {name!r} has no fit of {', '.join(unknown)}; it has {', '.join(known)}."
            raise UsageError(msg)
        source = PanelReader(reader)
        panels = [source.read(name, filter_name) for filter_name in chosen]
    try:
        _write(output, panels, name)
    except OSError as error:
        msg = f"{output}: the picture cannot be written ({error.strerror}); choose another -o."
        raise OutputError(msg) from error


def _write(output: Path, panels: Sequence[Panel], name: str) -> None:
    if output.suffix.lower() != ".pdf":
        save_panels(output, panels, name)
        return
    # without dates the same results give the same bytes
    with PdfPages(output, metadata={"Title": name, "CreationDate": None}) as pages:
        for panel in panels:
            figure = figure_for([panel])
            draw_galaxy(figure, [panel], name)
            pages.savefig(figure)


def save_panels(output: Path, panels: Sequence[Panel], title: str, dpi: int = _DPI) -> None:
    """Draw panels one below the other and write the picture, in the format of the file's ending.

    Raises
    ------
    ValueError
        If there is no such format.
    OSError
        If the file cannot be written.
    """
    figure = figure_for(panels, titled=bool(title))
    FigureCanvasAgg(figure)
    draw_galaxy(figure, panels, title)
    figure.savefig(output, dpi=dpi)

"""A campaign as a folder of static pages that open from the disk, with no network and no server."""

import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib import resources
from multiprocessing import get_context
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.qa.gallery import gallery_script
from sphot_mpi.qa.report_galaxy import GalaxyWriter
from sphot_mpi.qa.report_summary import draw_charts, duration, read_origin, spread_rows
from sphot_mpi.qa.summary import summarise
from sphot_mpi.qa.tables import CampaignTables
from sphot_mpi.results_reader import ResultsReader

#: A folder with this file in it was written by a report, and may be written again.
MARKER = "assets/report.css"

_FOLDERS = ("assets", "thumbs", "galaxies", "pictures")
_ASSETS = ("report.css", "gallery.js")
#: Pieces of work for each process: enough for an even end, few enough that reading the tables does not count.
_PIECES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """How a report is made.

    Parameters
    ----------
    limit : int or None
        Only the first so many galaxies.
    pages : bool
        Whether each galaxy gets a page with its pictures.
    jobs : int
        Processes.
    """

    limit: int | None = None
    pages: bool = True
    jobs: int = 1


def write_report(
    results: Path, output: Path, options: ReportOptions, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Write the report of a results file.

    One galaxy at a time is in memory, besides the tables. The same file gives the same bytes.

    Parameters
    ----------
    results : Path
        Results file.
    output : Path
        Folder; made, or written again if it holds a report.
    options : ReportOptions
        What to make.
    progress : callable
        Told how many more galaxies are done.

    Returns
    -------
    int
        Galaxies without a picture.

    Raises
    ------
    OutputError
        If the results cannot be read or the folder cannot be written.
    UsageError
        If the folder holds something else.
    """
    with ResultsReader(results) as reader:
        tables = CampaignTables(reader, options.limit)
        try:
            _prepare_folder(output)
            pictured = _write_galaxies(results, output, options, tables.galaxies.size, progress)
            _write_front(reader, tables, output, options, pictured)
        except OSError as error:
            msg = f"{output}: the report cannot be written there ({error}); free space or choose another -o."
            raise OutputError(msg) from error
    return pictured.count(False)


def environment() -> Environment:
    """Return the templates; everything that is put into them is escaped."""
    return Environment(
        loader=PackageLoader("sphot_mpi.qa", "assets"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _prepare_folder(output: Path) -> None:
    """Make the folder, or empty the one of an earlier report: no page of a galaxy that is gone stays behind."""
    if output.exists() and not output.is_dir():
        msg = f"{output}: this is a file; name a folder for the report."
        raise UsageError(msg)
    if output.is_dir() and any(output.iterdir()) and not (output / MARKER).is_file():
        msg = f"{output}: this folder holds something else than a report; name a new or empty one."
        raise UsageError(msg)
    for name in _FOLDERS:
        if (output / name).is_dir():
            shutil.rmtree(output / name)
        (output / name).mkdir(parents=True)
    for name in _ASSETS:
        text = resources.files("sphot_mpi.qa").joinpath("assets", name).read_text(encoding="utf-8")
        (output / "assets" / name).write_text(text, encoding="utf-8")


def _write_front(
    reader: ResultsReader, tables: CampaignTables, output: Path, options: ReportOptions, pictured: list[bool]
) -> None:
    """Write the summary, the gallery and its data."""
    templates, campaign = environment(), reader.path.stem
    summary = summarise(tables)
    n_all = int(reader.file["galaxies"].shape[0])
    index = templates.get_template("index.html").render(
        root="", here="summary", campaign=campaign, s=summary, charts=draw_charts(summary),
        spreads=spread_rows(summary), origin=read_origin(reader), n_failures=int(tables.table("failures").size),
        duration=duration,
        limited=n_all if n_all > summary.n_galaxies else 0,
    )  # fmt: skip
    (output / "index.html").write_text(index, encoding="utf-8")
    gallery = templates.get_template("gallery.html").render(
        root="", here="gallery", campaign=campaign, thumbnails=any(pictured)
    )
    (output / "gallery.html").write_text(gallery, encoding="utf-8")
    script = gallery_script(tables, pictured, pages=options.pages)
    (output / "gallery-data.js").write_text(script, encoding="utf-8")


def _write_galaxies(
    results: Path, output: Path, options: ReportOptions, n: int, progress: Callable[[int], None]
) -> list[bool]:
    """Write thumbnails, pictures and pages; return which galaxies have a thumbnail."""
    if options.jobs == 1 or n < 2:
        return [made for _, made in _galaxies(results, output, options, range(n), progress)]
    pictured = [False] * n
    count = min(n, _PIECES * options.jobs)
    pieces = [range(n * k // count, n * (k + 1) // count) for k in range(count)]
    # a new interpreter a process: nothing that is open here, an HDF5 file least of all, is shared
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_piece, results, output, options, piece) for piece in pieces]
        for future in as_completed(waiting):
            made = future.result()
            for number, has in made:
                pictured[number] = has
            progress(len(made))
    return pictured


def _piece(results: Path, output: Path, options: ReportOptions, numbers: range) -> list[tuple[int, bool]]:
    return list(_galaxies(results, output, options, numbers, lambda done: None))


def _galaxies(
    results: Path, output: Path, options: ReportOptions, numbers: Iterable[int], progress: Callable[[int], None]
) -> Iterable[tuple[int, bool]]:
    with ResultsReader(results) as reader:
        template = environment().get_template("galaxy.html") if options.pages else None
        writer = GalaxyWriter(reader, CampaignTables(reader, options.limit), output, template)
        for number in numbers:
            yield number, writer.write(number)
            progress(1)

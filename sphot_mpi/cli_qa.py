"""The command ``report``."""

import sys
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("results", type=_PATH)
@click.option("-o", "--output", type=_PATH, default=Path("qa"), show_default=True, help="Folder of the pages.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N galaxies.")
@click.option("--pages/--no-pages", default=True, help="A page a galaxy, or summary and gallery alone.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
def report(results: Path, output: Path, limit: int | None, pages: bool, jobs: int) -> None:
    """Make a static web page of a RESULTS file: summary, gallery, a page a galaxy.

    It opens from the disk (qa/index.html), with no server and no network. A page with pictures takes about a
    second a filter; --no-pages a small part of that.
    """
    from sphot_mpi.qa.report import ReportOptions, write_report
    from sphot_mpi.results_reader import ResultsReader

    with ResultsReader(results) as reader:
        total = min(reader.file["galaxies"].shape[0], limit or 10**9)
    options = ReportOptions(limit=limit, pages=pages, jobs=jobs)
    if sys.stdout.isatty():
        with click.progressbar(length=total, label="Galaxies") as bar:
            missing = write_report(results, output, options, bar.update)
    else:
        missing = write_report(results, output, options)
    if missing:
        click.echo(f"No picture, since nothing was fitted or images cannot be had: {missing} of {total} galaxies.")
    click.echo(f"Report: {output / 'index.html'}")

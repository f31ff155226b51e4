"""The command ``export``."""

from pathlib import Path

import click

from sphot_mpi.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("results", type=_PATH)
@click.option(
    "-o", "--output", type=_PATH, help="Folder for the tables; with --sphot the file (default: NAME_sphot.h5)."
)
@click.option(
    "--format", "format_name", type=click.Choice(["ecsv", "csv", "fits", "parquet"]), help="Of the tables [ecsv]."
)
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times.")
@click.option("--sphot", "name", metavar="NAME", help="Write this galaxy as the single-machine sphot's file instead.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
def export(
    results: Path,
    output: Path | None,
    format_name: str | None,
    tables: tuple[str, ...],
    name: str | None,
    overwrite: bool,
) -> None:
    """Write the tables of a RESULTS file for other programs, or one galaxy for the single-machine sphot.

    Beside the file's own tables there is "magnitudes", always CSV: a row a galaxy and filter with what most
    people want. CSV files come with columns.csv, which holds units, descriptions and what flags mean.
    """
    from sphot_mpi.export import export_tables
    from sphot_mpi.export_sphot import export_sphot
    from sphot_mpi.results_reader import ResultsReader, file_stem

    with ResultsReader(results) as reader:
        if name is not None:
            if tables or format_name:
                msg = "--sphot writes one galaxy's file; leave out --table and --format."
                raise UsageError(msg)
            target = output or Path(f"{file_stem(name)}_sphot.h5")
            if target.is_dir():
                target = target / f"{file_stem(name)}_sphot.h5"
            with_psf = export_sphot(reader, name, target, overwrite=overwrite)
            click.echo(f"Written: {target}{'' if with_psf else ' (without the PSF: its library cannot be read)'}")
            return
        if output is None:
            msg = "name a folder for the tables with -o DIR."
            raise UsageError(msg)
        for path in export_tables(reader, output, format_name or "ecsv", tables, overwrite=overwrite):
            click.echo(f"Written: {path}")

"""The command ``compare``."""

from pathlib import Path

import click

from sphot_mpi.cli_run import table_console

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("a", type=_PATH)
@click.argument("b", type=_PATH)
@click.option(
    "--sigma", type=click.FloatRange(min=0.0, min_open=True), default=5.0, show_default=True, help="Beyond it, moved."
)
@click.option("--common", is_flag=True, help="Galaxies and fits in one campaign only do not count against agreement.")
@click.option("--worst", type=click.IntRange(min=0), default=15, show_default=True, help="Rows of what moved most.")
@click.option("-o", "--output", type=_PATH, help="Picture: PNG, PDF or SVG.")
def compare(a: Path, b: Path, sigma: float, common: bool, worst: int, output: Path | None) -> None:
    """Compare two campaigns, the results files A and B: what moved, by how many sigma.

    Galaxies are matched by name. Sigma is the root of the sum of both squared errors; what moved
    without an error in both is counted, but not judged. Exit status: 0 if nothing moved by more than --sigma
    and both have the same fits, 3 if not.
    """
    from sphot_mpi.compare import compare_campaigns
    from sphot_mpi.compare_report import describe_comparison

    comparison = compare_campaigns(a, b)
    table_console().print(describe_comparison(comparison, sigma, worst))
    if output is not None:
        from sphot_mpi.qa.compare import plot_comparison

        plot_comparison(comparison, sigma, output)
        click.echo(f"Picture: {output}")
    agrees = comparison.agrees(sigma, common=common)
    click.echo(f"The campaigns {'agree' if agrees else 'do not agree'} within {sigma:g} sigma.")
    raise SystemExit(0 if agrees else 3)

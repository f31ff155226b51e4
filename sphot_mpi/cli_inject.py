"""The command ``inject``."""

from pathlib import Path

import click

from sphot_mpi.cli_run import names, table_console
from sphot_mpi.errors import OutputError, UsageError, counted

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("source", type=_PATH, metavar="CATALOGUE | RESULTS")
@click.option("--results", type=_PATH, help="Results on the catalogue: PSF, noise, stars and galaxies come from there.")
@click.option("-o", "--output", type=_PATH, help="Folder of the new campaign; with --score a table, ECSV.")
@click.option("--stars", type=click.IntRange(0, 10000), default=20, show_default=True, help="Stars a copy.")
@click.option("--copies", type=click.IntRange(1, 1000), default=1, show_default=True, help="Copies of each galaxy.")
@click.option("--fluxes", type=click.Choice(["power", "fitted"]), default="power", show_default=True,
              help="From a power law in S/N, or those of the stars that were found.")  # fmt: skip
@click.option("--slope", type=click.FloatRange(-5.0, 10.0), default=1.0, show_default=True, help="dN/dS ~ S^-slope.")
@click.option("--snr", type=(float, float), default=(2.0, 200.0), show_default=True, help="Range in the base filter.")
@click.option("--galaxies", is_flag=True, help="Also take each galaxy out, and put it back turned and moved.")
@click.option("--photon-noise/--no-photon-noise", default=True, show_default=True, help="Of the artificial stars.")
@click.option("--only", help="Only these galaxies, like NAME,NAME.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N galaxies.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option("--score", type=_PATH, metavar="TRUTH", help="Score RESULTS of an injected campaign with its truth.ecsv.")
@click.option(
    "--before", type=_PATH, help="With --score: results of the original campaign, so that no real star counts."
)
def inject(
    source: Path,
    results: Path | None,
    output: Path | None,
    stars: int,
    copies: int,
    fluxes: str,
    slope: float,
    snr: tuple[float, float],
    galaxies: bool,
    photon_noise: bool,
    only: str | None,
    limit: int | None,
    seed: int,
    overwrite: bool,
    score: Path | None,
    before: Path | None,
) -> None:
    """Injection and recovery: how complete, how biased, and how honest the errors are.

    \b
    sphot-mpi inject CATALOGUE --results results.h5 -o DIR    artificial stars into the real images
    sphot-mpi DIR/catalogue.csv --config DIR/sphot_config.toml -o DIR/results.h5
    sphot-mpi inject --score DIR/truth.ecsv DIR/results.h5 --before results.h5
    """  # noqa: D301 - click keeps the lines of a paragraph that begins with a backspace
    if score is not None:
        _score(source, score, before, output, overwrite=overwrite)
        return
    if results is None or output is None:
        msg = f"name the results on {source} with --results, and a folder for the new campaign with -o."
        raise UsageError(msg)
    if before is not None:
        msg = "--before goes with --score; leave it out."
        raise UsageError(msg)
    if not 0.0 < snr[0] < snr[1]:
        msg = f"--snr {snr[0]:g} {snr[1]:g}: this is no range; give a positive S/N and a greater one."
        raise UsageError(msg)
    from sphot_mpi.inject import CATALOGUE, CONFIG, inject_campaign
    from sphot_mpi.inject_draw import Injection

    plan = Injection(
        stars=stars, copies=copies, fluxes=fluxes, slope=slope, snr=snr, galaxy=galaxies, photon_noise=photon_noise,
        seed=seed,
    )  # fmt: skip
    count = inject_campaign(source, results, output, plan, only=names(only), limit=limit, overwrite=overwrite)
    click.echo(f"Injected into {counted(count, 'galaxy')}. Now run:")
    click.echo(f"  sphot-mpi {output / CATALOGUE} --config {output / CONFIG} -o {output / 'results.h5'}")
    click.echo(f"  sphot-mpi inject --score {output / 'truth.ecsv'} {output / 'results.h5'} --before {results}")


def _score(results: Path, truth: Path, before: Path | None, output: Path | None, *, overwrite: bool) -> None:
    from sphot_mpi.inject_report import describe_scores
    from sphot_mpi.inject_score import score_injection, score_table

    if output is not None and output.exists() and not overwrite:
        msg = f"{output}: the file exists; give --overwrite, or another name with -o."
        raise OutputError(msg)
    scores = score_injection(truth, results, before)
    rows = score_table(scores)
    table_console().print(describe_scores(scores, rows))
    if output is not None:
        try:
            rows.write(output, format="ascii.ecsv", overwrite=True)
        except OSError as error:
            msg = f"{output}: this cannot be written ({error.strerror}); choose another name with -o."
            raise OutputError(msg) from error
        click.echo(f"Written: {output}")

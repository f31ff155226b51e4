"""The command line: options, logging, exit statuses."""

import difflib
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import sphot_mpi
from sphot_mpi import mpi, mpi_serve
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.cli_compare import compare
from sphot_mpi.cli_export import export
from sphot_mpi.cli_inject import inject
from sphot_mpi.cli_qa import report
from sphot_mpi.cli_run import (
    CONFIG_NAME,
    configuration,
    limits,
    names,
    run_alone,
    run_first,
    start_logging,
    table_console,
)
from sphot_mpi.config import PRESETS
from sphot_mpi.decisions import Rerun
from sphot_mpi.errors import SphotError, UsageError, counted
from sphot_mpi.tasks import pipeline_fitters

LEVELS = ("debug", "info", "warning", "error")
_PATH = click.Path(path_type=Path)
_SECONDS = click.FloatRange(min=0.0, min_open=True)


class _Commands(click.Group):
    """Takes `run` for granted, and turns expected failures into exit statuses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help", "--version") and not self._meant(args[0]):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = self._meant(args[0])
        if near:
            ctx.fail(f"{args[0]}: there is no such command or file; the nearest command is {near}.")
        return super().resolve_command(ctx, args)

    def _meant(self, word: str) -> str:
        """Return the command that a word is a misspelling of; empty: it is a command, an option or a catalogue."""
        if word in self.commands or word.startswith("-") or Path(word).suffix or Path(word).exists():
            return ""
        return next(iter(difflib.get_close_matches(word, self.commands, n=1, cutoff=0.7)), "")

    def invoke(self, ctx: click.Context) -> Any:
        first = mpi.announced_rank() == 0
        try:
            return super().invoke(ctx)
        except SphotError as error:
            if first:
                click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_status)
        except click.UsageError:
            if first:
                raise
            # every rank reads the same command line: one complaint is enough, and a launcher may end rank 0 before it
            # is out if another rank leaves with an error
            ctx.exit(0)
        except KeyboardInterrupt:
            click.echo("Interrupted: what was finished is in the journal; give the same command to go on.", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, epilog="`sphot-mpi CATALOGUE` is short for `sphot-mpi run CATALOGUE`.")
@click.version_option(sphot_mpi.__version__, prog_name="sphot-mpi")
def main() -> None:
    """Fit galaxies behind crowded star fields: Sersic, point sources and sky, in many filters."""


main.add_command(compare)
main.add_command(export)
main.add_command(inject)
main.add_command(report)


_config_option = click.option(
    "--config", "config_path", type=_PATH, help=f"TOML file (default: ./{CONFIG_NAME}, if any)."
)
_preset_option = click.option("--preset", type=click.Choice(PRESETS), help="Values that the file does not set.")
_filters_option = click.option("--filters", help="Filters to fit, like F555W,F814W; the base filter always is.")
_only_option = click.option("--only", help="Only these galaxies, like NAME,NAME.")
_limit_option = click.option("--limit", type=click.IntRange(min=1), help="Only the first N galaxies.")
_skip_option = click.option("--skip-invalid", is_flag=True, help="Leave out rows of the catalogue with problems.")
_level_option = click.option("--log-level", type=click.Choice(LEVELS), default="warning", show_default=True)


@main.command()
@click.argument("catalogue", type=_PATH)
@click.option("-o", "--output", type=_PATH, default=Path("results.h5"), show_default=True, help="Results file.")
@_config_option
@_preset_option
@_filters_option
@_only_option
@_limit_option
@click.option(
    "--images",
    type=click.Choice(["none", "residual", "all"]),
    default="all",
    show_default=True,
    help="Images to store; a galaxy of 200 x 200 px takes 0.5 MB a filter.",
)
@click.option("--psf/--no-psf", default=False, help="Store every fit's PSF, too; often larger than all images.")
@click.option(
    "--photometry/--no-photometry",
    default=None,
    help="Aperture photometry after the fits  [default: as before; in a new campaign no].",
)
@click.option(
    "--rerun",
    type=click.Choice([r.value for r in Rerun if r]),
    help="Do these tasks again, and what depends on them; --filters and --only narrow it down.",
)
@click.option("--overwrite", is_flag=True, help="Begin anew; the results file that is there is replaced at the end.")
@click.option("--restart", is_flag=True, help="Like --overwrite, each time that the command is given.")
@click.option("--shard", metavar="I/N", help="Only the I-th of N parts of the catalogue, for N jobs side by side.")
@_skip_option
@click.option("--strict", is_flag=True, help="A filter that is missing or empty is a failure, too.")
@click.option("--seed", type=click.IntRange(min=0), help="Of all random numbers (default: the configuration's).")
@click.option("--task-timeout", type=_SECONDS, metavar="SECONDS", help="Stop a fit that takes longer; it has failed.")
@click.option(
    "--grace",
    type=click.FloatRange(min=0.0),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="Time that running fits have left after SIGTERM, SIGINT or SIGUSR1.",
)
@click.option(
    "--worker-timeout",
    type=_SECONDS,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="A rank that is silent for so long is lost, and the job ends with status 75.",
)
@_level_option
@click.option("--log-dir", type=_PATH, help="Folder for a log file of each rank, with a line a task.")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def run(**options: Any) -> None:
    """Fit all galaxies of a CATALOGUE, or one galaxy's file.

    Exit status: 0 all done, 1 an unexpected error or a results file that cannot be used, 2 usage, catalogue or
    configuration, 3 done but some fits failed, 75 stopped early by a signal or a lost rank, 130 ended at once by
    a second Ctrl-C. After 75 and 130 the same command goes on.
    """
    console = Console(stderr=True)
    label = start_logging("error" if options["quiet"] else options["log_level"], console, options["log_dir"])
    world = mpi.connect()
    if world is None:
        status = run_alone(options, console, label, pipeline_fitters)
    elif world.rank == 0:
        status = run_first(world, options, console)
    else:
        with world.guarded():
            mpi_serve.serve(world, pipeline_fitters, limits(options), label)
        status = 0  # that of the job is rank 0's
    raise SystemExit(status)


@main.command()
@click.argument("catalogue", type=_PATH)
@_config_option
@_preset_option
@_filters_option
@_only_option
@_limit_option
@_skip_option
@click.option("--estimate", "ranks", type=click.IntRange(min=1), help="Walltime of a job with this many ranks.")
@_level_option
def check(
    catalogue: Path,
    config_path: Path | None,
    preset: str | None,
    filters: str | None,
    only: str | None,
    limit: int | None,
    skip_invalid: bool,
    ranks: int | None,
    log_level: str,
) -> None:
    """Read every header of a CATALOGUE's files, say what would run and what is wrong; run nothing."""
    from sphot_mpi.survey import survey_campaign

    start_logging(log_level, Console(stderr=True))
    config = configuration(config_path, preset)
    rows = read_catalogue(catalogue, config, skip_invalid=skip_invalid).select(names(only), limit)
    rows = rows.narrowed(names(filters))
    survey = survey_campaign(rows, config)
    for problem in survey.problems:
        click.echo(f"Problem: {problem}")
    click.echo(survey.summary())
    if ranks is not None:
        click.echo(survey.estimate(ranks))
    raise SystemExit(3 if survey.problems else 0)


@main.command()
@click.argument("output", type=_PATH)
@click.argument("inputs", type=_PATH, nargs=-1, required=True)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT.")
@_level_option
def merge(output: Path, inputs: tuple[Path, ...], overwrite: bool, log_level: str) -> None:
    """Put finished results files (INPUTS), as those of a campaign's shards, into one file OUTPUT."""
    from sphot_mpi.merge import merge_results

    start_logging(log_level, Console(stderr=True))
    command_line = shlex.join(["sphot-mpi", *sys.argv[1:]])
    written = merge_results(output, inputs, overwrite=overwrite, command_line=command_line)
    merged = f"{counted(written.rows['galaxies'], 'galaxy')} of {counted(len(inputs), 'file')}"
    click.echo(f"Merged: {merged}. Results: {output}")


@main.command()
@click.argument("results", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON instead.")
def status(results: Path, as_json: bool) -> None:
    """Tell how far the campaign of a RESULTS file is: it may be running, stopped, killed or finished."""
    from sphot_mpi.status import campaign_status

    found = campaign_status(results)
    click.echo(found.json() if as_json else found.text())


@main.command()
@click.argument("results", type=_PATH)
@click.argument("name", required=False)
def info(results: Path, name: str | None) -> None:
    """Show what a RESULTS file holds, or the numbers of the galaxy NAME."""
    from sphot_mpi.results_info import describe_file, describe_galaxy
    from sphot_mpi.results_reader import ResultsReader

    with ResultsReader(results) as reader:
        table_console().print(describe_file(reader) if name is None else describe_galaxy(reader, name))


@main.command()
@click.argument("results", type=_PATH)
@click.argument("name")
@click.option("-o", "--output", type=_PATH, help="Picture (default: NAME.png).")
@click.option("--filters", help="Filters to show (default: all).")
def plot(results: Path, name: str, output: Path | None, filters: str | None) -> None:
    """Draw the galaxy NAME of a RESULTS file: images, isophotes, profile, Petrosian curve, PSF; PNG, SVG or PDF."""
    from sphot_mpi.qa.plots import plot_galaxy
    from sphot_mpi.results_reader import ResultsReader, file_stem

    with ResultsReader(results) as reader:
        reader.row(name)
    target = output or Path(f"{file_stem(name)}.png")
    plot_galaxy(results, name, target, filters=list(names(filters)) or None)
    click.echo(f"Picture: {target}")


@main.command()
@click.argument("directory", type=_PATH)
@click.option("-n", "number", type=click.IntRange(min=1), default=4, show_default=True, help="Galaxies.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--kind", default="typical", show_default=True, help="Kind of field; a wrong one lists all.")
@click.option("--psf", "psf_file", type=_PATH, help="Library PSFs (default: computed from telescope apertures).")
@click.option("--exact-psf", is_flag=True, help="Tell the fit the true PSF.")
@click.option("--overwrite", is_flag=True, help="Replace a campaign that is there.")
def simulate(
    directory: Path, number: int, seed: int, kind: str, psf_file: Path | None, exact_psf: bool, overwrite: bool
) -> None:
    """Write a synthetic campaign with known truth into DIRECTORY."""
    from sphot_mpi.simulate import simulate_campaign

    simulate_campaign(directory, number, seed, kind, psf_file, exact_psf, overwrite=overwrite)
    click.echo(f"Simulated: {directory / 'catalogue.csv'}")


@main.command()
@click.argument("results", type=_PATH)
@click.argument("truth", type=_PATH)
def truth(results: Path, truth: Path) -> None:
    """Compare RESULTS of a simulated campaign with its TRUTH table."""
    from sphot_mpi.simulate_truth import compare_with_truth

    if not truth.is_file():
        msg = f"{truth}: there is no such file; name the truth.ecsv of the simulation."
        raise UsageError(msg)
    click.echo(compare_with_truth(results, truth))


@main.command()
def launcher() -> None:
    """Print what `srun --mpi=` needs for this installation's MPI, the best first."""
    from sphot_mpi.mpi_library import library_version, srun_types

    click.echo(" ".join(srun_types(library_version())))


@main.command()
@click.option("--check", "checking", is_flag=True, help="Exit with 1 if anything had to be compiled.")
def warmup(checking: bool) -> None:
    """Compile all kernels into the cache, by fitting one simulated galaxy with each preset."""
    from sphot_mpi.kernels._jit import CACHE
    from sphot_mpi.warmup import warm_up

    counts = warm_up()
    cpu = CACHE.cpu or "this processor"
    click.echo(f"Kernels for {cpu}: {counts.loaded} from the cache, {counts.compiled} compiled. Cache: {CACHE.folder}")
    raise SystemExit(1 if checking and counts.compiled else 0)

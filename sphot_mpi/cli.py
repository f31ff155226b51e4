"""The command line: options, logging, exit statuses."""

import logging
import re
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

import sphot_mpi
from sphot_mpi import mpi
from sphot_mpi.campaign import Campaign, check_output, exit_status, run_serial
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import PRESETS, Config, load_config
from sphot_mpi.errors import SphotError, UsageError
from sphot_mpi.flags import FIT_FLAG_DESCRIPTIONS
from sphot_mpi.progress import choose_progress
from sphot_mpi.results import CampaignRecord
from sphot_mpi.results_schema import IMAGES
from sphot_mpi.tasks import TaskRunner, pipeline_fitters

log = logging.getLogger(__name__)

CONFIG_NAME = "sphot_config.toml"
LEVELS = ("debug", "info", "warning", "error")
_PATH = click.Path(path_type=Path)


class _Commands(click.Group):
    """Takes `run` for granted, and turns expected failures into exit statuses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "--version"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        first = mpi.announced_rank() == 0
        try:
            return super().invoke(ctx)
        except SphotError as error:
            if first:
                click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_status)
        except click.UsageError as error:
            if first:
                raise
            ctx.exit(error.exit_code)  # every rank reads the same command line: one complaint is enough


@click.group(cls=_Commands, epilog="`sphot-mpi CATALOGUE` is short for `sphot-mpi run CATALOGUE`.")
@click.version_option(sphot_mpi.__version__, prog_name="sphot-mpi")
def main() -> None:
    """Fit galaxies behind crowded star fields: Sersic, point sources and sky, in many filters."""


def _names(value: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))


def _configuration(
    path: Path | None, preset: str | None, filters: str | None = None, seed: int | None = None
) -> Config:
    """Return the configuration with what the command line changes in it."""
    if path is None and Path(CONFIG_NAME).is_file():
        path = Path(CONFIG_NAME)
        log.warning("the configuration is that of %s in this folder", CONFIG_NAME)
    config = load_config(path, preset)
    changes: dict[str, Any] = {}
    if filters is not None:
        chosen = _names(filters)
        base = config.core.base_filter
        if base not in chosen:
            log.warning("the base filter %s is fitted as well: the other filters need its shape", base)
            chosen = (base, *chosen)
        changes["prep"] = {"filters": list(chosen)}
    if seed is not None:
        changes["seed"] = seed
    return config.replaced(changes) if changes else config


def _start_logging(level: str, console: Console) -> None:
    """Send the program's messages to the terminal, with the rank where there are several."""
    logger = logging.getLogger("sphot_mpi")
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_time=False)
    else:
        size = mpi.announced_size()
        where = f"{mpi.announced_rank()}/{size[1]} " if size is not None and size[1] > 1 else ""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter(f"%(asctime)s {where}%(levelname)s: %(message)s", "%H:%M:%S"))
    logger.handlers = [handler]
    logger.setLevel(level.upper())


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
@click.option("--overwrite", is_flag=True, help="Replace an existing results file.")
@_skip_option
@click.option("--strict", is_flag=True, help="A filter that is missing or empty is a failure, too.")
@click.option("--seed", type=click.IntRange(min=0), help="Of all random numbers (default: the configuration's).")
@_level_option
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def run(**options: Any) -> None:
    """Fit all galaxies of a CATALOGUE, or one galaxy's file.

    Exit status: 0 all done, 1 an unexpected error, 2 usage, catalogue or configuration,
    3 done but some fits failed.
    """
    console = Console(stderr=True)
    _start_logging("error" if options["quiet"] else options["log_level"], console)
    world = mpi.connect()
    if world is None:
        status = _run_alone(options, console)
    elif world.rank == 0:
        status = _run_first(world, options, console)
    else:
        with world.guarded():
            status = mpi.serve(world, lambda config, rank: TaskRunner(config, pipeline_fitters(), rank))
    raise SystemExit(status)


def _campaign(options: dict[str, Any]) -> Campaign:
    """Check all that can be checked before any work is done."""
    config = _configuration(options["config_path"], options["preset"], options["filters"], options["seed"])
    catalogue = read_catalogue(options["catalogue"], config, skip_invalid=options["skip_invalid"])
    check_output(options["output"], overwrite=options["overwrite"])
    return Campaign(
        catalogue=catalogue.select(_names(options["only"]), options["limit"]),
        config=config,
        output=options["output"],
        images={"none": (), "residual": ("residual",), "all": tuple(IMAGES)}[options["images"]],
        command_line=shlex.join(["sphot-mpi", *sys.argv[1:]]),
    )


def _run_alone(options: dict[str, Any], console: Console) -> int:
    campaign = _campaign(options)
    with choose_progress(console, quiet=options["quiet"]) as progress:
        record = run_serial(campaign, TaskRunner(campaign.config, pipeline_fitters()), progress)
    return _summarise(record, options)


def _run_first(world: mpi.World, options: dict[str, Any], console: Console) -> int:
    """Run as rank 0; the others must hear of a mistake, or they would wait for ever."""
    with world.guarded(SphotError):
        try:
            campaign = _campaign(options)
            with choose_progress(console, quiet=options["quiet"]) as progress:
                record = mpi.lead(world, campaign, progress)
        except SphotError as error:
            mpi.dismiss(world, error.exit_status)
            raise
        status = _summarise(record, options)
        mpi.dismiss(world, status)
        return status


def _summarise(record: CampaignRecord, options: dict[str, Any]) -> int:
    status = exit_status(record, strict=options["strict"])
    if not options["quiet"]:
        ends = Counter(str(outcome.status) for outcome in record.outcomes)
        flags = Counter(flag for o in record.outcomes if o.fit is not None for flag in o.fit.flags)
        words = ", ".join(f"{count} {name}" for name, count in sorted(ends.items()))
        click.echo(f"{len(record.catalogue.galaxies)} galaxies, fits: {words}. Results: {options['output']}")
        for flag, count in flags.most_common():
            click.echo(f"  {count} flagged: {FIT_FLAG_DESCRIPTIONS[flag]}")
        if ends["failed"]:
            click.echo("  Why fits failed is in the table /failures.")
    return status


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

    _start_logging(log_level, Console(stderr=True))
    config = _configuration(config_path, preset, filters)
    rows = read_catalogue(catalogue, config, skip_invalid=skip_invalid).select(_names(only), limit)
    survey = survey_campaign(rows, config)
    for problem in survey.problems:
        click.echo(f"Problem: {problem}")
    click.echo(survey.summary())
    if ranks is not None:
        click.echo(survey.estimate(ranks))
    raise SystemExit(3 if survey.problems else 0)


@main.command()
@click.argument("results", type=_PATH)
@click.argument("name", required=False)
def info(results: Path, name: str | None) -> None:
    """Show what a RESULTS file holds, or the numbers of the galaxy NAME."""
    from sphot_mpi.results_info import describe_file, describe_galaxy
    from sphot_mpi.results_reader import ResultsReader

    with ResultsReader(results) as reader:
        # no markup: a galaxy's name may hold brackets
        Console(markup=False, highlight=False).print(
            describe_file(reader) if name is None else describe_galaxy(reader, name)
        )


@main.command()
@click.argument("results", type=_PATH)
@click.argument("name")
@click.option("-o", "--output", type=_PATH, help="Picture (default: NAME.png).")
@click.option("--filters", help="Filters to show (default: all).")
def plot(results: Path, name: str, output: Path | None, filters: str | None) -> None:
    """Draw the galaxy NAME of a RESULTS file: data, models, residual, profile."""
    from sphot_mpi.qa.plots import plot_galaxy
    from sphot_mpi.results_reader import ResultsReader

    with ResultsReader(results) as reader:
        reader.row(name)
    # a name is any text; only its harmless characters get into a path
    target = output or Path(re.sub(r"[^A-Za-z0-9_+-]", "_", name) + ".png")
    plot_galaxy(results, name, target, filters=list(_names(filters)) or None)
    click.echo(f"Picture: {target}")


@main.command()
@click.argument("directory", type=_PATH)
@click.option("-n", "number", type=click.IntRange(min=1), default=4, show_default=True, help="Galaxies.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--kind", default="typical", show_default=True, help="Kind of field; a wrong one lists all.")
@click.option("--psf", "psf_file", type=_PATH, help="Library PSFs (default: computed from telescope apertures).")
@click.option("--exact-psf", is_flag=True, help="Tell the fit the true PSF.")
def simulate(directory: Path, number: int, seed: int, kind: str, psf_file: Path | None, exact_psf: bool) -> None:
    """Write a synthetic campaign with known truth into DIRECTORY."""
    from sphot_mpi.simulate import simulate_campaign

    simulate_campaign(directory, number, seed, kind, psf_file, exact_psf)
    click.echo(f"Simulated: {directory / 'catalogue.csv'}")


@main.command()
@click.argument("results", type=_PATH)
@click.argument("truth", type=_PATH)
def truth(results: Path, truth: Path) -> None:
    """Compare RESULTS of a simulated campaign with its TRUTH table."""
    from sphot_mpi.simulate import compare_with_truth

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
    from sphot_mpi.kernels.counters import count_kernels
    from sphot_mpi.progress import Quiet
    from sphot_mpi.simulate import simulate_campaign

    with tempfile.TemporaryDirectory() as folder:
        simulate_campaign(folder, 1, 0, "easy")
        for preset in ("best", "sphot"):
            config = load_config(None, preset).replaced(
                {"prep": {"filters": ["F150W", "F277W"]}, "core": {"iter_basefit": 1, "iter_scalefit": 1}}
            )
            catalogue = read_catalogue(Path(folder) / "catalogue.csv", config)
            output = Path(folder) / f"{preset}.h5"
            run_serial(
                Campaign(catalogue=catalogue, config=config, output=output, images=("residual",)),
                TaskRunner(config, pipeline_fitters()),
                Quiet(),
            )
    counts = count_kernels()
    cpu = CACHE.cpu or "this processor"
    click.echo(f"Kernels for {cpu}: {counts.loaded} from the cache, {counts.compiled} compiled. Cache: {CACHE.folder}")
    raise SystemExit(1 if checking and counts.compiled else 0)

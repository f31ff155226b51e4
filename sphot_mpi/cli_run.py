"""What the command `run` does with its options: configuration, logging, one process or many, the last words."""

import logging
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from sphot_mpi import mpi, mpi_lead
from sphot_mpi.campaign import Campaign, End, Limits, check_output
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.catalogue_shards import Shard
from sphot_mpi.config import Config, load_config
from sphot_mpi.decisions import Anew, Rerun, Selection
from sphot_mpi.errors import SphotError, UsageError, counted
from sphot_mpi.flags import APERTURE_FLAG_DESCRIPTIONS, FIT_FLAG_DESCRIPTIONS
from sphot_mpi.progress import choose_progress
from sphot_mpi.results_schema import IMAGES
from sphot_mpi.serial import run_serial
from sphot_mpi.task_log import TaskLabel, log_file, stream_handler
from sphot_mpi.tasks import Fitters

log = logging.getLogger(__name__)

CONFIG_NAME = "sphot_config.toml"


def names(value: str | None) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))


def table_console() -> Console:
    """Return a console for tables: without markup, as names may hold brackets, and wide where nobody looks on."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 140  # in a file or a pipe no number is cut
    return console


def configuration(path: Path | None, preset: str | None, seed: int | None = None) -> Config:
    """Return the configuration with what the command line changes in it."""
    if path is None and Path(CONFIG_NAME).is_file():
        path = Path(CONFIG_NAME)
        log.warning("the configuration is that of %s in this folder", CONFIG_NAME)
    config = load_config(path, preset)
    return config if seed is None else config.replaced({"seed": seed})


def start_logging(level: str, console: Console, folder: Path | None = None) -> TaskLabel:
    """Send the program's messages to the terminal, and to a file of this rank in `folder`; return who names tasks."""
    logger = logging.getLogger("sphot_mpi")
    label = TaskLabel()
    size = mpi.announced_size()
    where = f"{mpi.announced_rank()}/{size[1]} " if size is not None and size[1] > 1 else ""
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, show_time=False)
    else:
        handler = stream_handler(sys.stderr, where, label)
    handler.setLevel(level.upper())
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    if folder is not None:
        try:
            logger.addHandler(log_file(folder, mpi.announced_rank(), where, label))
        except OSError as error:
            msg = f"{folder}: log files cannot be written there ({error.strerror}); choose another --log-dir."
            raise UsageError(msg) from error
        logger.setLevel(min(logging.INFO, logger.level))
    return label


def limits(options: dict[str, Any]) -> Limits:
    """Return how long things may take."""
    return Limits(
        task_timeout=options["task_timeout"], grace=options["grace"], worker_timeout=options["worker_timeout"]
    )


def _campaign(options: dict[str, Any]) -> Campaign:
    """Check all that can be checked before any work is done."""
    config = configuration(options["config_path"], options["preset"], options["seed"])
    catalogue = read_catalogue(options["catalogue"], config, skip_invalid=options["skip_invalid"])
    output = options["output"]
    if options["shard"] is not None:
        shard = Shard.parse(options["shard"])
        catalogue, output = shard.of(catalogue), shard.path(output)
    check_output(output)
    anew = Anew.RESTART if options["restart"] else Anew.OVERWRITE if options["overwrite"] else Anew.NO
    return Campaign(
        catalogue=catalogue,
        config=config,
        output=output,
        images={"none": (), "residual": ("residual",), "all": tuple(IMAGES)}[options["images"]],
        psf=options["psf"],
        selection=Selection(
            filters=names(options["filters"]),
            only=names(options["only"]),
            limit=options["limit"],
            rerun=Rerun(options["rerun"] or ""),
            anew=anew,
            photometry=options["photometry"],
        ),
        limits=limits(options),
        command_line=shlex.join(["sphot-mpi", *sys.argv[1:]]),
    )


def run_alone(options: dict[str, Any], console: Console, label: TaskLabel, make_fitters: Callable[[], Fitters]) -> int:
    """Run in this process; return the exit status."""
    campaign = _campaign(options)
    with choose_progress(console, quiet=options["quiet"]) as progress:
        end = run_serial(campaign, make_fitters, progress, label)
    return _summarise(end, options)


def run_first(world: mpi.World, options: dict[str, Any], console: Console) -> int:
    """Run as rank 0; the others must hear of a mistake, or they would wait for ever."""
    with world.guarded():
        try:
            with choose_progress(console, quiet=options["quiet"]) as progress:
                end = mpi_lead.lead(world, lambda: _campaign(options), progress, limits(options))
        except SphotError as error:
            click.echo(f"Error: {error}", err=True)
            mpi_lead.dismiss(world)
            return error.exit_status
        status = _summarise(end, options)
        mpi_lead.dismiss(world)
        return status


def _summarise(end: End, options: dict[str, Any]) -> int:
    status = end.exit_status(strict=options["strict"])
    if not options["quiet"] and not end.nothing_done:
        words = ", ".join(f"{count} {name}" for name, count in sorted(end.ends.items()))
        click.echo(f"{counted(end.galaxies, 'galaxy')}, tasks: {words}. Results: {end.output}")
        for flag, count in end.flags.most_common():
            click.echo(f"  {count} flagged: {FIT_FLAG_DESCRIPTIONS[flag]}")
        for aperture_flag, count in end.aperture_flags.most_common():
            click.echo(f"  {count} flagged: {APERTURE_FLAG_DESCRIPTIONS[aperture_flag]} (aperture)")
        if end.ends["failed"]:
            click.echo("  Why fits failed is in the table /failures.")
        if end.signal:
            left = end.counts.total - end.counts.ended
            click.echo(f"  Stopped by {end.signal}: {left} are left; give the same command to go on.")
    return status

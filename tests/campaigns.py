"""Run a campaign as a user does, by the command line, with fits that cost nothing."""

from pathlib import Path
from unittest.mock import patch

import h5py
from astropy.table import Table
from click.testing import CliRunner
from fakes import FAKES, Files

from sphot_mpi import cli
from sphot_mpi.tasks import Fitters


def call(*arguments):
    return CliRunner().invoke(cli.main, [str(a) for a in arguments])


def run_campaign(
    files: Files,
    fitters: Fitters = FAKES,
    *,
    images: str = "none",
    catalogue: Path | None = None,
    config: Path | None = None,
    output: str = "results.h5",
) -> Path:
    """Return the results file; a failing galaxy is no mistake of the test."""
    target = files.folder / output
    arguments = (catalogue or files.catalogue, "--config", config or files.config, "-o", target, "--images", images)
    with patch.object(cli, "pipeline_fitters", lambda: fitters):
        done = call(*arguments, "--overwrite", "--quiet")
    assert done.exit_code in (0, 3), done.output
    return target


def put_table(path: Path, name: str, table: Table) -> None:
    """Put a table into a results file, in place of one that is there."""
    with h5py.File(path, "r+") as file:
        for dataset in (name, f"{name}.__table_column_meta__"):
            if dataset in file:
                del file[dataset]
        table.write(file, path=name, format="hdf5", serialize_meta=True)

"""A results file of fits that cost nothing, for the tests of the report."""

from collections.abc import Sequence
from pathlib import Path

from fakes import Files, make_fakes

from sphot_mpi.campaign import Campaign
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import load_config
from sphot_mpi.progress import Quiet
from sphot_mpi.serial import run_serial


def run_fakes(files: Files, filters: Sequence[str]) -> Path:
    """Fit the campaign in some filters, with all images stored, and return the results file."""
    config = load_config(files.config).replaced({"prep": {"filters": list(filters)}})
    results = files.folder / "results.h5"
    campaign = Campaign(
        catalogue=read_catalogue(files.catalogue, config), config=config, output=results,
        images=("data", "sersic_model", "psf_model"),
    )  # fmt: skip
    run_serial(campaign, make_fakes, Quiet())
    return results

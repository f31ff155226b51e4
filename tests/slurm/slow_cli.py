"""The command line with fits that take a while and say so; for jobs that are stopped halfway.

Every fit adds a line to the file that SPHOT_TEST_FITS names, when it begins and when it ends.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import fakes

from sphot_mpi import cli
from sphot_mpi.tasks import Fitters

SECONDS = float(os.environ.get("SPHOT_TEST_SECONDS", "1.0"))


def note(word, cutout):
    with Path(os.environ["SPHOT_TEST_FITS"]).open("a") as file:
        file.write(f"{word} {cutout.galaxy} {cutout.filter}\n")


def slow_base(cutout, library, config):
    note("begin", cutout)
    time.sleep(SECONDS)
    fit = fakes.fake_base(cutout, library, config)
    note("end", cutout)
    return fit


def slow_scaled(cutout, library, base, base_cutout, config):
    return slow_base(cutout, library, config)


def make_slow():
    """A function of a module, as a process that runs one task alone imports it."""
    return Fitters(slow_base, slow_scaled)


make_slow.__module__ = "slow_cli"  # and not __main__
cli.pipeline_fitters = make_slow

if __name__ == "__main__":
    cli.main(prog_name="sphot-mpi")

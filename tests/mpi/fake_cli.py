"""The command line with fits that cost nothing; started by the tests, alone or under mpirun."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes import make_fakes

from sphot_mpi import cli
from sphot_mpi.worker import Worker

cli.pipeline_fitters = make_fakes


def broken(self, assignment):
    msg = "a bug in a worker"
    raise ZeroDivisionError(msg)


if os.environ.get("SPHOT_TEST_BREAK"):
    Worker.do = broken

if __name__ == "__main__":
    cli.main(prog_name="sphot-mpi")

"""The command line with fits that cost nothing; started by the tests, alone or under mpirun."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes import FAKES

from sphot_mpi import cli

cli.pipeline_fitters = lambda: FAKES

if __name__ == "__main__":
    cli.main(prog_name="sphot-mpi")

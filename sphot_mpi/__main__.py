"""``python -m sphot_mpi`` is ``sphot-mpi``."""

from sphot_mpi.cli import main

main(prog_name="sphot-mpi")

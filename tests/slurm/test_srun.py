"""srun as a user types it: one COMM_WORLD over two nodes, and the same numbers as alone."""

import h5py
import numpy as np
import pytest
from same_results import ARGUMENTS, same_results

pytestmark = pytest.mark.slurm


def test_srun_over_two_nodes_is_one_campaign(slurm, campaign):
    done = slurm.run("srun", "-N2", "-n2", "sphot-mpi", *ARGUMENTS, "-o", "srun.h5", folder=campaign)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 galaxies, tasks: 4 done") == 1
    same_results(campaign / "alone.h5", campaign / "srun.h5")
    with h5py.File(campaign / "srun.h5") as file:
        assert file.attrs["ranks"] == 2
        assert np.unique(file["provenance"]["rank"]).tolist() == [1]


def test_srun_with_the_wrong_mpi_type_is_refused(slurm, campaign):
    """Without this check there would be two campaigns of one rank on one file."""
    done = slurm.run("srun", "--mpi=none", "-N2", "-n2", "sphot-mpi", *ARGUMENTS, "-o", "no.h5", folder=campaign)
    assert done.returncode != 0
    assert not (campaign / "no.h5").exists()


def test_the_launcher_that_the_program_names_is_offered(slurm, campaign):
    named = slurm.run("sphot-mpi", "launcher", folder=campaign).stdout.split()
    listed = slurm.run("srun", "--mpi=list", folder=campaign)
    assert named[0] in (listed.stdout + listed.stderr).split()

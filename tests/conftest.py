"""What all tests share: no launcher in the environment, and a small campaign on disk."""

from pathlib import Path

import pytest
from fakes import Files, write_campaign

from sphot_mpi.mpi import HINTS, RANK_VARIABLES, SIZE_VARIABLES


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    """The tests may themselves run under Slurm or mpirun; what they start must not notice."""
    for name in (*SIZE_VARIABLES, *RANK_VARIABLES, *HINTS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A campaign of three small galaxies in three filters."""
    return write_campaign(tmp_path)

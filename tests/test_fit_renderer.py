"""What finished fits are rendered from may have changed since; that is said in a sentence."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from random_outcomes import random_outcome

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import load_config
from sphot_mpi.errors import InputError
from sphot_mpi.fit_renderer import FitRenderer
from sphot_mpi.outcomes import Status
from sphot_mpi.schedule import TaskKind


def galaxy_in(folder: Path, *, image: str, psf: str) -> Galaxy:
    with h5py.File(folder / "g.h5", "w") as file:
        file[image] = np.ones((40, 50))
    with h5py.File(folder / "psf.h5", "w") as file:
        file[psf] = np.ones((9, 9))
        file[psf].attrs["oversample"] = 2
    return Galaxy(index=0, name="g", path=folder / "g.h5", psf=folder / "psf.h5", filters=("F150W",))


def test_a_filter_that_is_gone_from_the_galaxys_file_is_named(tmp_path):
    galaxy = galaxy_in(tmp_path, image="F090W", psf="F150W")
    outcome = random_outcome(np.random.default_rng(1), TaskKind.BASE, Status.DONE, galaxy="g", filter_name="F150W")
    with pytest.raises(InputError, match=r"g\.h5: there is no F150W in it any more; put it back"):
        FitRenderer(load_config()).images(outcome, galaxy)


def test_a_psf_that_is_gone_is_named(tmp_path):
    galaxy = galaxy_in(tmp_path, image="F150W", psf="F090W")
    with pytest.raises(InputError, match=r"psf\.h5: there is no PSF for F150W"):
        FitRenderer(load_config()).psf_shape(galaxy, "F150W")


def test_a_library_is_read_once(tmp_path):
    galaxy = galaxy_in(tmp_path, image="F150W", psf="F150W")
    renderer = FitRenderer(load_config())
    first = renderer.library(galaxy, "F150W")
    galaxy.psf.unlink()
    assert renderer.library(galaxy, "F150W") is first

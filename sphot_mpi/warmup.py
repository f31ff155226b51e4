"""Compile every kernel that a fit may need, by doing fits."""

import tempfile
from pathlib import Path

import numpy as np

from sphot_mpi.campaign import Campaign
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import PRESETS, load_config
from sphot_mpi.kernels.counters import Counts, count_kernels
from sphot_mpi.nnls import solve_nnls
from sphot_mpi.progress import Quiet
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.serial import run_serial
from sphot_mpi.simulate import simulate_campaign
from sphot_mpi.star_renderer import MOST_DIRECT, StarRenderer
from sphot_mpi.tasks import pipeline_fitters


def warm_up() -> Counts:
    """Fit a simulated galaxy behind many stars with every preset, and do what these fits may do without.

    Returns
    -------
    Counts
        Kernels that came from the cache, and kernels that had to be compiled.
    """
    with tempfile.TemporaryDirectory() as folder:
        simulate_campaign(folder, 1, 0, "demo")
        for preset in PRESETS:
            config = load_config(None, preset).replaced(
                {"prep": {"filters": ["F150W", "F277W"]}, "core": {"iter_basefit": 1, "iter_scalefit": 1}}
            )
            catalogue = read_catalogue(Path(folder) / "catalogue.csv", config)
            output = Path(folder) / f"{preset}.h5"
            run_serial(
                Campaign(catalogue=catalogue, config=config, output=output, images=("residual",)),
                pipeline_fitters,
                Quiet(),
            )
    solve_nnls(np.eye(2), np.ones(2))
    # more stars than the simulated field may have
    places = np.full(MOST_DIRECT + 1, 8.0)
    StarRenderer(PSF(LibraryPSF.from_array(np.ones((9, 9)), 4)), (17, 17)).render(places, places, places)
    return count_kernels()

"""A small campaign on disk, and fits that cost nothing, to test all that lies around the fits."""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from sphot_mpi.errors import FitError
from sphot_mpi.flags import ApertureFlag
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.records import SOURCE_DTYPE, FilterFit, KernelFit, SersicParams, SkyPlane
from sphot_mpi.tasks import Fitters

FILTERS = ("F150W", "F555W", "F277W")
SHAPE = (90, 110)


@dataclass(frozen=True)
class Files:
    folder: Path
    catalogue: Path
    psf: Path
    config: Path

    def galaxy(self, name: str) -> Path:
        return self.folder / f"{name}.h5"


def gaussian_psf(side: int, sigma: float) -> np.ndarray:
    r = np.arange(side) - (side - 1) / 2
    return np.exp(-0.5 * (r[:, None] ** 2 + r[None, :] ** 2) / sigma**2)


def galaxy_image(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """A round blob on a sky with noise: enough for the crop, and for fits that only look at the median."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    r2 = (x - shape[1] / 2) ** 2 + (y - shape[0] / 2) ** 2
    return 0.5 + 3.0 * np.exp(-0.5 * r2 / 5.0**2) + rng.normal(0.0, 0.01, shape)


def write_campaign(folder: Path, names: tuple[str, ...] = ("ga", "gb", "gc")) -> Files:
    files = Files(folder, folder / "catalogue.csv", folder / "PSFdata.h5", folder / "config.toml")
    with h5py.File(files.psf, "w") as file:
        file.attrs["oversample"] = 2
        for k, name in enumerate(FILTERS):
            file[name] = gaussian_psf(21 + k, 2.0)  # odd and even sides
    for k, name in enumerate(names):
        with h5py.File(files.galaxy(name), "w") as file:
            for j, filter_name in enumerate(FILTERS):
                file[filter_name] = galaxy_image(10 * k + j).astype(">f8")
    rows = "".join(f"{name},{name}.h5,{0.1 * k}\n" for k, name in enumerate(names))
    files.catalogue.write_text(f"name,path,redshift\n{rows}")
    filters = ", ".join(f'"{name}"' for name in FILTERS)
    files.config.write_text(f"[prep]\nfilters = [{filters}]\n")
    return files


def dawdle() -> None:
    """Take a time that differs from run to run, if the environment asks for it: the order of completion is random."""
    mean = float(os.environ.get("SPHOT_TEST_SECONDS", "0"))
    if mean:
        time.sleep(random.expovariate(1.0 / mean))


def hang() -> None:
    """Never end, whatever exception comes: like a loop in compiled code."""
    while True:
        with suppress(BaseException):
            time.sleep(1.0)


#: Galaxies that end badly, by name.
FATES = {
    "sleepy": lambda: time.sleep(60.0),
    "crash": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "hang": hang,
}


def fake_base(cutout, library, config) -> FilterFit:
    """Numbers that hang on the pixels and on the random numbers of this galaxy and filter, and on nothing else."""
    ny, nx = cutout.shape
    rng = config.random(cutout.galaxy, cutout.filter)
    dawdle()
    if cutout.galaxy in FATES:
        FATES[cutout.galaxy]()
    if cutout.galaxy == "bad":
        msg = "this galaxy cannot be fitted"
        raise FitError(msg)
    if cutout.galaxy == "bug":
        msg = "a bug in the fit"
        raise ZeroDivisionError(msg)
    sources = np.zeros(5, SOURCE_DTYPE)
    sources["id"] = np.arange(1, 6)
    sources["x_fit"], sources["y_fit"] = rng.uniform(0, nx, 5), rng.uniform(0, ny, 5)
    sources["flux_fit"], sources["flux_err"] = [-1.0, 1.0, 2.0, 3.0, 4.0], 0.1
    component = SersicParams(amplitude=1.0, r_eff=5.0, n=1.5, x_0=nx / 2, y_0=ny / 2, ellip=0.3, theta=0.4)
    return FilterFit(
        galaxy=cutout.galaxy,
        filter=cutout.filter,
        components=(component,),
        covariance=0.01 * np.eye(7),
        total_flux=float(np.nansum(cutout.data)),
        total_flux_err=1.0,
        flux_in_cutout=99.0,
        sky=SkyPlane(level=0.5, slope_x=1e-4, x_ref=3.0, y_ref=4.0),
        sky_covariance=1e-4 * np.eye(3),
        sources=sources,
        report=sources["flux_fit"] > 0,
        kernel=KernelFit(values=(0.7,), errors=(0.1,), fwhm=3.0),
        noise=0.01,
        converged=True,
    )


def fake_scaled(cutout, library, base, base_cutout, config) -> FilterFit:
    assert base.filter == config.core.base_filter == base_cutout.filter
    assert base.galaxy == cutout.galaxy
    return fake_base(cutout, library, config)


def fake_photometry(fits, cutouts, libraries, config) -> tuple[AperturePhotometry, ...]:
    """Numbers that hang on all fits of the galaxy."""
    assert fits.keys() == cutouts.keys() == libraries.keys()
    total = sum(fit.total_flux for fit in fits.values())
    return tuple(
        AperturePhotometry(
            galaxy=fit.galaxy,
            filter=name,
            flags=ApertureFlag(0),
            unit=cutouts[name].unit,
            pixel_scale=cutouts[name].pixel_scale,
            origin=cutouts[name].origin,
            flux=fit.total_flux / total,
            radius=float(len(fits)),
        )
        for name, fit in fits.items()
    )


FAKES = Fitters(fake_base, fake_scaled, fake_photometry)


def make_fakes() -> Fitters:
    """A function of this module, as a process that runs one task alone imports it."""
    return FAKES

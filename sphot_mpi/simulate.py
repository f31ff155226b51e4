"""Synthetic campaigns with known truth.

A campaign is a folder with what a real one has (a catalogue, PSFs, a file a galaxy) and the truth beside it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import QTable, Table, vstack

from sphot_mpi.errors import InputError, OutputError, UsageError
from sphot_mpi.inputs import read_libraries
from sphot_mpi.simulate_draw import PIXEL_SCALE, ZERO_POINT
from sphot_mpi.simulate_image import SimulatedGalaxy, simulate_galaxy
from sphot_mpi.simulate_kinds import FILTERS, KINDS
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import ScenePSF, total_flux

_CATALOGUE = "catalogue.csv"


def simulate_campaign(
    directory: str | Path,
    n: int,
    seed: int,
    kind: str = "typical",
    psf_file: str | Path | None = None,
    exact_psf: bool = False,
    *,
    overwrite: bool = False,
) -> None:
    """Write a synthetic campaign and its truth.

    Parameters
    ----------
    directory : path
        Made if missing. Gets ``catalogue.csv``, ``PSFdata.h5``, ``NAME.h5`` a galaxy, and the truth:
        ``truth.ecsv`` (a row a galaxy and filter), ``truth_sources.ecsv`` (a row a star) and
        ``truth_images.h5`` (``/NAME/FILTER/{sersic,sources,sky}``, noise-free).
    n : int
        Galaxies.
    seed : int
        Not negative.
    kind : str
        One of `sphot_mpi.simulate_kinds.KINDS`.
    psf_file : path, optional
        Library PSFs in the layout of the input PSF file; default: computed from telescope apertures.
    exact_psf : bool
        Put the kernel into the library that is written, so that the fit is told the true PSF.
    overwrite : bool
        Replace a campaign that is there.

    Raises
    ------
    UsageError
        If `kind` is unknown, `n` is not positive, `seed` is negative or the PSF file cannot be used.
    OutputError
        If there is a campaign already, or the folder cannot be written.
    """
    if kind not in KINDS:
        msg = f"unknown kind {kind!r} of simulation; choose from {', '.join(KINDS)}"
        raise UsageError(msg)
    if n < 1 or seed < 0:
        msg = f"a simulation needs at least one galaxy and a seed of 0 or more, not n = {n} and seed = {seed}"
        raise UsageError(msg)
    library = synthetic_library() if psf_file is None else read_library(psf_file)
    if exact_psf:
        library = {name: psf.blurred(FILTERS[name].kernel) for name, psf in library.items()}
    folder = Path(directory)
    if (folder / _CATALOGUE).exists() and not overwrite:
        msg = f"{folder / _CATALOGUE}: the file exists; give --overwrite, or name another folder."
        raise OutputError(msg)
    galaxies = (simulate_galaxy(library, index, seed, kind, exact_psf=exact_psf) for index in range(n))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_library(folder / "PSFdata.h5", library)
        _write_galaxies(folder, galaxies, {"seed": seed, "kind": kind, "exact_psf": exact_psf})
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        msg = f"{folder}: this cannot be written ({reason}); free space or name another folder."
        raise OutputError(msg) from error


def _write_galaxies(folder: Path, galaxies: Iterable[SimulatedGalaxy], meta: Mapping[str, Any]) -> None:
    """Write all but the PSFs: a file a galaxy, the truth, and last the catalogue."""
    names, rows, stars = [], [], []
    with h5py.File(folder / "truth_images.h5", "w") as images:
        for galaxy in galaxies:
            _write_galaxy(folder / f"{galaxy.name}.h5", images, galaxy)
            names.append(galaxy.name)
            rows += _truth_rows(galaxy)
            stars.append(_star_table(galaxy))
    truth = QTable(rows=rows)
    truth.meta.update(meta, zero_point=ZERO_POINT, pixel_scale=PIXEL_SCALE)
    truth.write(folder / "truth.ecsv", overwrite=True)
    vstack(stars).write(folder / "truth_sources.ecsv", overwrite=True)
    paths = [f"{name}.h5" for name in names]
    Table({"name": names, "path": paths}).write(folder / _CATALOGUE, format="ascii.csv", overwrite=True)


def read_library(path: str | Path) -> dict[str, ScenePSF]:
    """Read the PSFs of the filters that the simulator knows.

    Raises
    ------
    UsageError
        If the file or one of its PSFs cannot be used, or holds no known filter.
    """
    try:
        libraries = read_libraries(Path(path), tuple(FILTERS))
    except InputError as error:  # nobody's galaxy fails: the command line names the wrong file
        raise UsageError(str(error)) from error
    if not libraries:
        msg = f"{path} holds no PSF of {', '.join(FILTERS)}; name its datasets so."
        raise UsageError(msg)
    return {name: ScenePSF(psf.array, psf.oversample) for name, psf in libraries.items()}


def _truth_rows(galaxy: SimulatedGalaxy) -> list[dict[str, object]]:
    """Return the rows of ``truth.ecsv``."""
    rows: list[dict[str, object]] = []
    for name, image in galaxy.images.items():
        flux = total_flux(image.galaxy)
        ny, nx = image.data.shape
        inside = (np.abs(galaxy.stars.x - (nx - 1) / 2) < nx / 2) & (np.abs(galaxy.stars.y - (ny - 1) / 2) < ny / 2)
        faint = inside & (image.snr < 3.0)
        rows.append(
            {
                "name": galaxy.name, "filter": name, "kind": galaxy.kind, "amplitude": image.galaxy.amplitude,
                "r_eff": image.galaxy.r_eff, "n": image.galaxy.n, "x_0": image.galaxy.x_0, "y_0": image.galaxy.y_0,
                "ellip": image.galaxy.ellip, "theta": image.galaxy.theta, "total_flux": flux,
                "magnitude": ZERO_POINT - 2.5 * np.log10(flux), "kernel_sigma": image.kernel_sigma, "fwhm": image.fwhm,
                "sky_level": image.plane.level, "sky_slope_x": image.plane.slope_x,
                "sky_slope_y": image.plane.slope_y, "sky_x_ref": image.plane.x_ref, "sky_y_ref": image.plane.y_ref,
                "noise": image.noise, "noise_per_light": image.noise_per_light, "correlation": image.correlation,
                "faint_star_sky": float(galaxy.stars.flux[name][faint].sum() / (ny * nx)),
                "n_stars": int(inside.sum()), "n_stars_3_sigma": int((inside & (image.snr >= 3.0)).sum()),
            }
        )  # fmt: skip
    return rows


def _star_table(galaxy: SimulatedGalaxy) -> Table:
    """Return the rows of ``truth_sources.ecsv``: position, flux, lone S/N and coverage by filter."""
    stars = galaxy.stars
    table = Table({"name": np.full(stars.x.size, galaxy.name), "x": np.round(stars.x, 6), "y": np.round(stars.y, 6)})
    for name, image in galaxy.images.items():
        # single precision: half the digits in a file of many thousand lines
        table[f"flux_{name}"] = stars.flux[name].astype(np.float32)
        table[f"snr_{name}"] = image.snr.astype(np.float32)
        table[f"covered_{name}"] = image.covered
    return table


def _write_library(path: Path, library: dict[str, ScenePSF]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["oversample"] = next(iter(library.values())).oversample
        for name, psf in library.items():
            file[name] = psf.array
            file[name].attrs.update(oversample=psf.oversample, pixel_response=True)


def _write_galaxy(path: Path, images: h5py.File, galaxy: SimulatedGalaxy) -> None:
    with h5py.File(path, "w") as file:
        for name, image in galaxy.images.items():
            file[name] = image.data
            group = images.create_group(f"{galaxy.name}/{name}")
            for part, values in (("sersic", image.sersic), ("sources", image.sources), ("sky", image.sky)):
                group.create_dataset(part, data=values.astype(np.float32), compression="gzip", compression_opts=1)

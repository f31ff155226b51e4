"""One galaxy in the file of the single-machine sphot, so that its readers and plots open it.

That program stores its objects attribute by attribute: a group a filter with a
dataset an attribute, and a few datasets at the root. Text, lists of text and
dictionaries are JSON in UTF-8; all else is numbers. Its images are crops, and its
positions count from the crop's first pixel.

``psf_table`` holds total fluxes, as all of this program does. The single-machine program's own fluxes belong to a
PSF image of unit sum on the oversampled grid, and are larger by oversample^2.
"""

import json
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import sphot_mpi
from sphot_mpi.background import outlier_mask
from sphot_mpi.config import Config
from sphot_mpi.errors import OutputError, SphotError, UsageError
from sphot_mpi.model_images import ModelImages, working_psf
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import SERSIC_PARAMETERS, FilterFit, Image, SersicParams
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.stored_fit import StoredFits
from sphot_mpi.stored_inputs import StoredInputs

log = logging.getLogger(__name__)

#: Columns of ``psf_table``: those of photutils.
PSF_TABLE_COLUMNS = (
    "id", "group_id", "group_size", "local_bkg", "x_init", "y_init", "flux_init", "x_fit", "y_fit", "flux_fit",
    "x_err", "y_err", "flux_err", "n_pixels_fit", "qfit", "cfit", "reduced_chi2", "flags",
)  # fmt: skip

#: Names that the single-machine program gives to a kernel's parameters, px, in our families' order.
_KERNEL_NAMES = {
    "gaussian": ("sigma_data",),
    "moffat": ("alpha_data", "beta"),
    "drizzle": ("pixel_size", "sigma_data"),
}

#: Columns of /photometry that are attributes there, too.
_PHOTOMETRY = ("mag_raw", "mag_raw_err", "mag_corr", "mag_corr_err")


def export_sphot(reader: ResultsReader, name: str, output: Path, *, overwrite: bool = False) -> bool:
    """Write one galaxy's file in the single-machine program's layout.

    Parameters
    ----------
    reader : ResultsReader
        Open results file. Images that it does not store are made anew from the galaxy's input.
    name : str
        Galaxy.
    output : Path
        File to write.
    overwrite : bool
        Replace the file if it exists.

    Returns
    -------
    bool
        Whether the PSFs are in the file. They are not if the PSF library cannot be read any more; plots there do not
        need them, a new fit does.

    Raises
    ------
    UsageError
        If the galaxy is not in the file or has no fit.
    OutputError
        If neither images nor inputs are there, or the file cannot be written.
    """
    galaxy = reader.array("galaxies")[reader.row(name)]
    fits = StoredFits(reader)
    filters = fits.filters(name)
    if not filters:
        msg = f"{reader.path}: galaxy {name!r} has no fit; its failures are in /failures."
        raise UsageError(msg)
    if output.exists() and not overwrite:
        msg = f"{output}: the file exists; give --overwrite, or another name with -o."
        raise OutputError(msg)
    inputs = StoredInputs(reader)
    config = inputs.config
    try:
        libraries = {filter_name: inputs.library(name, filter_name) for filter_name in filters}
    except SphotError as error:
        log.warning("%s: no PSF in the file: %s", output, error)
        libraries = {}
    groups = {}
    for filter_name in filters:
        stored = fits.get(name, filter_name)
        assert stored is not None  # filters() has it
        data, model = inputs.images(stored)
        groups[filter_name] = _attributes(stored.fit, data, model, config)
        groups[filter_name].update(_photometry(reader, name, filter_name, config))
        if filter_name in libraries:
            groups[filter_name].update(_psf_attributes(stored.fit, libraries[filter_name]))
    root = {
        "name": name,
        "filters": filters,
        "crop_x0": galaxy["crop_x"] + (galaxy["crop_nx"] - 1) / 2,
        "crop_y0": galaxy["crop_y"] + (galaxy["crop_ny"] - 1) / 2,
        "crop_size": np.array([galaxy["crop_ny"], galaxy["crop_nx"]]),
    }
    _write(output, root, groups, reader.path.name)
    return bool(libraries)


def _write(output: Path, root: dict[str, Any], groups: dict[str, dict[str, Any]], origin: str) -> None:
    partial = output.with_name(output.name + ".partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            _store(file, root)
            for filter_name, values in groups.items():
                _store(file.create_group(filter_name), values)
                file[filter_name]["psf_table"].attrs["flux"] = "total flux of the source, data unit * px"
            file.attrs["creator"] = f"sphot-mpi {sphot_mpi.__version__}"
            file.attrs["results_file"] = origin
        partial.replace(output)
    except OSError as error:
        msg = f"{output}: this cannot be written ({error}); free space or choose another -o."
        raise OutputError(msg) from error


def _store(group: h5py.Group, values: dict[str, Any]) -> None:
    for key, value in values.items():
        is_text = isinstance(value, str | dict | list)
        group.create_dataset(key, data=json.dumps(value).encode() if is_text else value)


def _attributes(fit: FilterFit, data: Image, model: ModelImages, config: Config) -> dict[str, Any]:
    """Return a filter's images, Sersic and sources; its images are without the sky where theirs are."""
    ny, nx = data.shape
    residual = model.residual(data)
    galaxy = max(fit.components, key=lambda component: component.r_eff)
    outliers = outlier_mask(residual, np.isnan(data), galaxy, config.psf)
    level = float(np.mean(model.sky))
    noise = np.full(data.shape, fit.noise)
    size = nx / 2.0 / config.prep.auto_crop_factor if config.prep.auto_crop else galaxy.r_eff
    return {
        "filtername": fit.filter,
        "data": data - level,
        "_rawdata": data,
        "data_error": noise,
        "_bkg_level": level,
        "sky_model": model.sky,
        "sersic_modelimg": model.sersic,
        "sersic_residual": data - model.sersic - model.sky,
        "psf_modelimg": model.sources,
        "psf_sub_data": np.where(outliers, np.nan, data - model.sources - model.sky),
        "psf_sub_data_error": noise,
        "residual": residual,
        "residual_masked": np.where(outliers, np.nan, residual),
        "psf_table": _psf_table(fit),
        "galaxy_size": size,
        "size_guess": size,
        "x0_guess": nx / 2,
        "y0_guess": ny / 2,
        **_sersic_attributes(fit.components, data - level),
    }


def _photometry(reader: ResultsReader, name: str, filter_name: str, config: Config) -> dict[str, float]:
    if "photometry" not in reader.tables():
        return {}
    table = reader.array("photometry")
    chosen = table[(table["name"] == name.encode()) & (table["filter"] == filter_name.encode())]
    columns = [column for column in _PHOTOMETRY if column in (table.dtype.names or ())]
    values = {column: float(chosen[column][0]) for column in columns if chosen.size}
    if "mag_raw" in values and "mag_corr" in values:
        values["dmag_PSFcorr"] = values["mag_raw"] - values["mag_corr"]
        values["aper_petro"] = config.aperture.petro
    return values


def _psf_table(fit: FilterFit) -> NDArray[np.void]:
    """Return the reported sources with photutils' columns, on the crop."""
    sources = fit.sources[fit.report]
    table = np.zeros(sources.size, dtype=[(column, sources.dtype[column]) for column in PSF_TABLE_COLUMNS])
    for column in PSF_TABLE_COLUMNS:
        table[column] = sources[column]
    return table


def _sersic_attributes(components: tuple[SersicParams, ...], data: Image) -> dict[str, Any]:
    """Return the Sersic's parameters in the three ways of the single-machine program.

    ``sersic_params`` are scaled to 0...1 between its bounds, as its fits start from them.
    """
    ny, nx = data.shape
    physical = {"x_0": components[0].x_0, "y_0": components[0].y_0}
    bounds = {
        "x_0": (0.0, nx), "y_0": (0.0, ny), "amplitude": (0.0, float(np.nanmax(data))), "r_eff": (0.5, ny),
        "n": (0.1, 10.0), "ellip": (0.01, 1.0), "theta": (0.0, np.pi), "psf_pa": (0.0, np.pi),
    }  # fmt: skip
    several = len(components) > 1
    # its two-component model has the disk, which is the larger, first
    ordered = sorted(components, key=lambda c: -c.r_eff) if several else components
    for index, component in enumerate(ordered):
        for key in SERSIC_PARAMETERS:
            if key not in ("x_0", "y_0"):
                value = getattr(component, key)
                physical[f"{key}_{index}" if several else key] = value % np.pi if key == "theta" else value
    physical["psf_pa"] = 0.0
    scaled = []
    for key, value in physical.items():
        low, high = bounds.get(key) or bounds[key.rsplit("_", 1)[0]]
        scaled.append((value - low) / (high - low))
    if several:
        physical.update({key: physical[f"{key}_0"] for key in ("amplitude", "r_eff", "n", "ellip", "theta")})
    physical = {key: float(value) for key, value in physical.items()}
    return {"sersic_params_physical": physical, "sersic_params": np.array(scaled), **physical}


def _psf_attributes(fit: FilterFit, library: LibraryPSF) -> dict[str, Any]:
    """Return the working PSF, of unit sum on the library's grid, and its kernel."""
    kernel, psf = fit.kernel, working_psf(fit, library)
    array = psf.cropped
    values: dict[str, Any] = {
        "psf": array / array.sum(),
        "_psf_raw": library.array,
        "psf_oversample": library.oversample,
        "psf_sigma": psf.sigma,
        "kernel_family": kernel.family,
        "kernel_params": dict(zip(_KERNEL_NAMES[kernel.family], kernel.values, strict=True)),
    }
    if kernel.family == "gaussian":
        values["psf_blurring"] = kernel.values[0] * library.oversample
    return values

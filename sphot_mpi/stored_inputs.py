"""What the fits of a results file were made from: configuration, catalogue, pixels and PSFs."""

import tomllib
from functools import cached_property
from pathlib import Path

import numpy as np

from sphot_mpi.catalogue import Catalogue, read_catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import ConfigError, OutputError, SphotError
from sphot_mpi.fit_renderer import FitRenderer
from sphot_mpi.model_images import ModelImages
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Image
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.stored_fit import StoredFit


def stored_config(reader: ResultsReader) -> Config:
    """Return the configuration of the campaign; keys that its version did not have are those of its preset.

    Raises
    ------
    OutputError
        If this version cannot read it.
    """
    try:
        values = tomllib.loads(str(reader.file.attrs["configuration"]))
        return load_config(None, str(values.get("preset", "best"))).replaced(values)
    except (KeyError, tomllib.TOMLDecodeError, ConfigError) as error:
        msg = f"{reader.path}: its configuration cannot be read ({error}); use the version that wrote it."
        raise OutputError(msg) from error


def petrosian_index(reader: ResultsReader) -> float:
    """Return the Petrosian index that `petro_radius` of /photometry refers to; NaN: this version cannot tell."""
    try:
        return stored_config(reader).aperture.petro
    except OutputError:
        return float("nan")


class StoredInputs:
    """Reads the inputs of any galaxy of an open results file again; what galaxies share is read once.

    Parameters
    ----------
    reader : ResultsReader
        Open as long as this is used.
    """

    def __init__(self, reader: ResultsReader) -> None:
        self._reader = reader

    @cached_property
    def config(self) -> Config:
        """The campaign's configuration; raises as `stored_config` does."""
        return stored_config(self._reader)

    @cached_property
    def _renderer(self) -> FitRenderer:
        return FitRenderer(self.config)

    @cached_property
    def _catalogue(self) -> Catalogue:
        return read_catalogue(Path(str(self._reader.file.attrs["catalogue"])), self.config, skip_invalid=True)

    @cached_property
    def _galaxies(self) -> dict[str, Galaxy]:
        return {galaxy.name: galaxy for galaxy in self._catalogue.galaxies}

    def galaxy(self, name: str) -> Galaxy:
        """Return a galaxy's row of the catalogue that the results file names.

        Raises
        ------
        CatalogueError
            If the catalogue cannot be read any more.
        OutputError
            If it does not hold the galaxy, or the configuration cannot be read.
        """
        if name not in self._galaxies:
            why = [problem for problem in self._catalogue.problems if f"({name})" in problem]
            msg = f"{self._catalogue.path}: {why[0] if why else f'galaxy {name!r} is not in it any more.'}"
            raise OutputError(msg)
        return self._galaxies[name]

    def library(self, name: str, filter_name: str) -> LibraryPSF:
        """Return a galaxy's library PSF, before any kernel.

        Raises
        ------
        CatalogueError, OutputError
            As `galaxy`.
        InputError
            If there is none, or it cannot be used.
        """
        return self._renderer.library(self.galaxy(name), filter_name)

    def images(self, stored: StoredFit) -> tuple[Image, ModelImages]:
        """Return the data that were fitted (NaN where masked) and the model: stored images, or made anew.

        Raises
        ------
        OutputError
            If images are not stored, and the inputs cannot be read any more.
        """
        fit, frame = stored.fit, stored.frame
        images = self._reader.images(fit.galaxy, fit.filter)
        if images.data is not None and images.sersic_model is not None and images.psf_model is not None:
            sky = fit.sky.render(frame.shape)
            return images.data, ModelImages(sersic=images.sersic_model, sources=images.psf_model, sky=sky)
        try:
            cutout, model = self._renderer.render(fit, frame, self.galaxy(fit.galaxy))
        except SphotError as error:
            msg = (
                f"{self._reader.path}: its images are not stored and cannot be made anew ({error}); "
                "run with --images all."
            )
            raise OutputError(msg) from error
        return np.where(cutout.mask, np.nan, cutout.data), model

"""Images and PSFs of finished fits, made again from their inputs."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import InputError
from sphot_mpi.inputs import read_galaxy, read_libraries
from sphot_mpi.model_images import ModelImages, render_model, working_psf
from sphot_mpi.outcomes import Frame, TaskOutcome
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.records import Cutout, FilterFit, Image

#: Galaxies' PSF libraries that are kept; more than one only where the catalogue names several.
_LIBRARIES_KEPT = 4


class FitRenderer:
    """Renders finished fits; PSF libraries are read once, as far as few are in use at a time.

    Parameters
    ----------
    config : Config
        The campaign's configuration.
    """

    def __init__(self, config: Config) -> None:
        self._blur = config.prep.blur_psf
        self._libraries: OrderedDict[tuple[Path, str], LibraryPSF] = OrderedDict()

    def library(self, galaxy: Galaxy, filter_name: str) -> LibraryPSF:
        """Return a galaxy's library PSF, before any kernel.

        Raises
        ------
        InputError
            If there is none, or it cannot be used.
        """
        key = (galaxy.psf, filter_name)
        if key not in self._libraries:
            found = read_libraries(galaxy.psf, (filter_name,), self._blur)
            if filter_name not in found:
                msg = f"{galaxy.psf}: there is no PSF for {filter_name}; add a dataset of that name."
                raise InputError(msg)
            while len(self._libraries) >= _LIBRARIES_KEPT * len(galaxy.filters):
                self._libraries.popitem(last=False)
            self._libraries[key] = found[filter_name]
        return self._libraries[key]

    def images(self, outcome: TaskOutcome, galaxy: Galaxy) -> tuple[Cutout, ModelImages]:
        """Render a task's fit as `render` does."""
        if outcome.fit is None or outcome.frame is None:
            msg = "the outcome holds no fit"
            raise ValueError(msg)
        return self.render(outcome.fit, outcome.frame, galaxy)

    def render(self, fit: FilterFit, frame: Frame, galaxy: Galaxy) -> tuple[Cutout, ModelImages]:
        """Read the cutout of a fit again, and render the fit's components.

        Parameters
        ----------
        fit : FilterFit
            What was found.
        frame : Frame
            Of its cutout.
        galaxy : Galaxy
            The galaxy's row.

        Returns
        -------
        cutout : Cutout
            As it was fitted.
        model : ModelImages
            From the fit's record.

        Raises
        ------
        InputError
            If a file cannot be used, or does not hold the filter any more.
        """
        cutouts = read_galaxy(galaxy.path, galaxy.name, (fit.filter,)).cutouts
        if fit.filter not in cutouts:
            msg = f"{galaxy.path}: there is no {fit.filter} in it any more; put it back."
            raise InputError(msg)
        full = cutouts[fit.filter]
        (x0, y0), (ny, nx) = frame.origin, frame.shape
        window = slice(y0, y0 + ny), slice(x0, x0 + nx)
        cutout = replace(
            full,
            data=full.data[window],
            mask=full.mask[window],
            error=None if full.error is None else full.error[window],
            origin=frame.origin,
        )
        return cutout, render_model(fit, cutout, self.library(galaxy, fit.filter))

    def psf_shape(self, galaxy: Galaxy, filter_name: str) -> tuple[int, int, int]:
        """Return ny, nx and oversampling of a galaxy's library PSF.

        Raises
        ------
        InputError
            If there is none.
        """
        library = self.library(galaxy, filter_name)
        return library.array.shape[0], library.array.shape[1], library.oversample

    def psf(self, outcome: TaskOutcome, galaxy: Galaxy) -> Image:
        """Return the working PSF of a finished fit, cut to the shape of the library's, with the same origin.

        Parameters
        ----------
        outcome : TaskOutcome
            With a fit.
        galaxy : Galaxy
            The galaxy's row.

        Returns
        -------
        (M, N) float64 ndarray
            On the library's grid; what the kernel spreads beyond it is cut off.

        Raises
        ------
        InputError
            If there is no library PSF.
        """
        if outcome.fit is None:
            msg = "the outcome holds no fit"
            raise ValueError(msg)
        return working_psf(outcome.fit, self.library(galaxy, outcome.task.filter)).cropped

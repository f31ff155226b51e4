"""The image stacks of the results file, a batch of galaxies and one filter at a time."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.errors import SphotError
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.records import Cutout, Image
from sphot_mpi.results_backend import Slab
from sphot_mpi.results_layout import image_path, psf_path
from sphot_mpi.results_source import OutcomeSource, PSFSource, Renderer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """Which images: a filter, names of `results_schema.IMAGES`, and a contiguous part of the catalogue."""

    filter: str
    names: tuple[str, ...]
    galaxies: Sequence[Galaxy]

    @property
    def start(self) -> int:
        """Row of the first galaxy in the stacks."""
        return self.galaxies[0].index if self.galaxies else 0


def image_bytes(shapes: Mapping[str, tuple[int, int]], n_images: int) -> int:
    """Return the bytes of a galaxy's images in the filter whose stacks are largest."""
    return 4 * n_images * max((ny * nx for ny, nx in shapes.values()), default=0)


def image_slabs(
    batch: ImageBatch, shape: tuple[int, int], source: OutcomeSource, render: Renderer
) -> tuple[list[Slab], int]:
    """Render the images of a batch; without galaxies the slabs are empty.

    Parameters
    ----------
    batch : ImageBatch
        Which images.
    shape : (int, int)
        Shape (ny, nx) of an image in the filter's stacks.
    source : OutcomeSource
        Gives the fits.
    render : callable
        Renders one.

    Returns
    -------
    slabs : list of Slab
        One an image name; NaN where a galaxy has no fit, and beyond its cutout.
    unrendered : int
        Fits whose input cannot be read any more; they are logged.
    """
    stacks = {name: np.full((len(batch.galaxies), *shape), np.nan, np.float32) for name in batch.names}
    unrendered = 0
    for row, outcome, galaxy in _fits(batch, source):
        try:
            cutout, model = render(outcome, galaxy)
        except SphotError as error:
            # the fit is whole; a file that was moved since must not cost the campaign its results
            log.warning("%s %s: no images are stored, because the input is gone: %s", galaxy.name, batch.filter, error)
            unrendered += 1
            continue
        ny, nx = cutout.shape
        for name, image in shown(batch.names, cutout, model).items():
            stacks[name][row, :ny, :nx] = image
    return [Slab(image_path(batch.filter, name), batch.start, stack) for name, stack in stacks.items()], unrendered


def psf_slabs(
    batch: ImageBatch, shape: tuple[int, int], source: OutcomeSource, psfs: PSFSource
) -> tuple[list[Slab], int]:
    """Return the PSFs of a batch as `image_slabs` does images; `batch.names` does not matter."""
    stack = np.full((len(batch.galaxies), *shape), np.nan, np.float32)
    unrendered = 0
    for row, outcome, galaxy in _fits(batch, source):
        try:
            psf = psfs.psf(outcome, galaxy)
        except SphotError as error:
            log.warning("%s %s: no PSF is stored, because the input is gone: %s", galaxy.name, batch.filter, error)
            unrendered += 1
            continue
        stack[row, : psf.shape[0], : psf.shape[1]] = psf
    return [Slab(psf_path(batch.filter), batch.start, stack)], unrendered


def psf_shapes(fits: Sequence[TaskOutcome], galaxy: Galaxy, psfs: PSFSource) -> dict[str, tuple[int, int, int]]:
    """Return shape and oversampling of a galaxy's PSFs by filter; `psf_slabs` tells which are gone."""
    shapes: dict[str, tuple[int, int, int]] = {}
    for outcome in fits:
        if outcome.fit is not None:
            with suppress(SphotError):
                shapes[outcome.task.filter] = psfs.psf_shape(galaxy, outcome.task.filter)
    return shapes


def _fits(batch: ImageBatch, source: OutcomeSource) -> Iterator[tuple[int, TaskOutcome, Galaxy]]:
    """Yield the fits of a batch with their rows in it."""
    for row, galaxy in enumerate(batch.galaxies):
        task = next((t for t in source.tasks(galaxy.index) if t.filter == batch.filter), None)
        outcome = None if task is None else source.load(task).outcome
        if outcome is not None and outcome.fit is not None:
            yield row, outcome, galaxy


def shown(names: Sequence[str], cutout: Cutout, model: ModelImages) -> dict[str, Image]:
    """Return the images of these names of `results_schema.IMAGES`."""
    return {name: model.image(name, cutout.data) for name in names}

"""Where the outcomes come from when the results file is written: lazily, one galaxy after another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.records import Cutout, Image
from sphot_mpi.schedule import Task

#: Reads the cutout of a finished fit again and renders its components; `FitRenderer.images` is one.
Renderer = Callable[[TaskOutcome, Galaxy], tuple[Cutout, ModelImages]]


class PSFSource(Protocol):
    """Gives the effective PSFs of fits; `FitRenderer` is one. Both raise `InputError` where there is none any more."""

    def psf_shape(self, galaxy: Galaxy, filter_name: str) -> tuple[int, int, int]:
        """Return ny, nx and oversampling of a galaxy's PSF."""

    def psf(self, outcome: TaskOutcome, galaxy: Galaxy) -> Image:
        """Return the PSF of a fit, its kernel included."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptOutcome:
    """An outcome with what the journal knows of it.

    Parameters
    ----------
    outcome : TaskOutcome
        What the task brought back.
    digest : str
        Of everything that the outcome depends on (hex); empty: not known.
    attempts : int
        Times that the task was started.
    """

    outcome: TaskOutcome
    digest: str = ""
    attempts: int = 1


class OutcomeSource(Protocol):
    """Ended tasks by galaxy, and how to load what they brought back.

    A rank asks only for the galaxies of its own block; every rank must be able to load any.
    """

    def tasks(self, galaxy: int) -> Sequence[Task]:
        """Return a galaxy's ended tasks: base fit, then scale fits in the order of its filters, then photometry."""

    def load(self, task: Task) -> KeptOutcome:
        """Load what one of them brought back; called more than once."""

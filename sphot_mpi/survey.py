"""Look at all headers of a campaign without fitting: what would run, what is wrong, how long."""

from dataclasses import dataclass
from typing import Any

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.errors import SphotError
from sphot_mpi.inputs import contents, iterate_galaxy, list_filters
from sphot_mpi.raw_image import check_shape

#: Core-seconds of one fit of 160 x 160 px behind 500 stars, by method, and how uncertain that is.
SECONDS_PER_FIT = {"joint": 3.0, "ladder": 30.0}
UNCERTAINTY = 5.0

#: Bytes that a process needs before it has read anything, and for each pixel of its largest image.
BYTES_AT_REST, BYTES_PER_PIXEL = 300e6, 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found.

    Parameters
    ----------
    galaxies, tasks : int
        What would run.
    missing : int
        Filters that are not in their galaxy's file.
    largest : int
        Pixels of the largest image.
    seconds : float
        Core-seconds, a guess.
    problems : tuple of str
        What would fail, one sentence each.
    """

    galaxies: int
    tasks: int
    missing: int
    largest: int
    seconds: float
    problems: tuple[str, ...]

    def summary(self) -> str:
        """Return the survey in a few lines."""
        low, high = self.seconds / UNCERTAINTY / 3600.0, self.seconds * UNCERTAINTY / 3600.0
        memory = (BYTES_AT_REST + BYTES_PER_PIXEL * self.largest) / 1e9
        return (
            f"{self.galaxies} galaxies, {self.tasks} fits; {self.missing} filters are not in their files; "
            f"{len(self.problems)} problems.\n"
            f"Largest image: {self.largest} px. Memory: about {memory:.1f} GB a process.\n"
            f"Work: {low:.2g} to {high:.2g} core-hours; with N processes, N - 1 of them fit."
        )


def survey_campaign(catalogue: Catalogue, config: Config) -> Survey:
    """Read the headers of all galaxies' files.

    Parameters
    ----------
    catalogue : Catalogue
        The galaxies.
    config : Config
        The configuration.

    Returns
    -------
    Survey
        Of all galaxies.
    """
    problems: list[str] = []
    tasks = missing = largest = 0
    for galaxy in catalogue.galaxies:
        try:
            shapes = _shapes(galaxy)
            problems.extend(_without_psf(galaxy, shapes))
        except SphotError as error:
            problems.append(f"{galaxy.name}: {error}")
            continue
        tasks += len(shapes)
        missing += len(galaxy.filters) - len(shapes)
        largest = max([largest, *(ny * nx for ny, nx in shapes.values())])
        problems.extend(_shape_problems(galaxy, shapes))
    return Survey(
        galaxies=len(catalogue.galaxies),
        tasks=tasks,
        missing=missing,
        largest=largest,
        seconds=tasks * SECONDS_PER_FIT[config.psf.method],
        problems=tuple(problems),
    )


def _shapes(galaxy: Galaxy) -> dict[str, tuple[Any, ...]]:
    shapes: dict[str, tuple[Any, ...]] = {}
    for raw in iterate_galaxy(galaxy.path, galaxy.filters):
        check_shape(galaxy.path, raw.filter, raw.data)
        shapes[raw.filter] = tuple(raw.data.shape)
    return shapes


def _without_psf(galaxy: Galaxy, shapes: dict[str, tuple[Any, ...]]) -> list[str]:
    known = list_filters(galaxy.psf)
    return [f"{galaxy.name}: {galaxy.psf} has no PSF for {name}." for name in shapes if name not in known]


def _shape_problems(galaxy: Galaxy, shapes: dict[str, tuple[Any, ...]]) -> list[str]:
    base = galaxy.base_filter
    if base not in shapes:
        return [f"{galaxy.name}: {galaxy.path} has no base filter {base} ({contents(galaxy.path)})."]
    return [
        f"{galaxy.name}: {name} has shape {shape}, the base filter {base} {shapes[base]}; put them on one pixel grid."
        for name, shape in shapes.items()
        if shape != shapes[base]
    ]

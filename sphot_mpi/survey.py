"""Look at all headers of a campaign without fitting: what would run, what is wrong, how long."""

from dataclasses import dataclass
from typing import Any

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.cost import UNCERTAINTY, Work, clock, galaxy_cost
from sphot_mpi.errors import SphotError
from sphot_mpi.inputs import contents, iterate_galaxy, list_filters
from sphot_mpi.raw_image import check_shape

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
    work : Work
        What the fits are expected to take.
    problems : tuple of str
        What would fail, one sentence each.
    """

    galaxies: int
    tasks: int
    missing: int
    largest: int
    work: Work
    problems: tuple[str, ...]

    def summary(self) -> str:
        """Return the survey in a few lines."""
        hours = self.work.seconds / 3600.0
        low, high = hours / UNCERTAINTY, hours * UNCERTAINTY
        memory = (BYTES_AT_REST + BYTES_PER_PIXEL * self.largest) / 1e9
        return (
            f"{self.galaxies} galaxies, {self.tasks} fits; {self.missing} filters are not in their files; "
            f"{len(self.problems)} problems.\n"
            f"Largest image: {self.largest} px. Memory: about {memory:.1f} GB a process.\n"
            f"Work: {hours:.2g} core-hours ({low:.2g} to {high:.2g}); with N processes, N - 1 of them fit."
        )

    def estimate(self, ranks: int) -> str:
        """Return, in one line, what a job of so many ranks needs; it ends with the option to give to sbatch."""
        return (
            f"Estimate: {self.tasks} fits, {self.work.seconds / 3600.0:.2g} core-hours, {ranks} ranks: "
            f"{clock(self.work.walltime(ranks))}; ask for --time={clock(self.work.time_limit(ranks))}"
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
    work = Work()
    for galaxy in catalogue.galaxies:
        try:
            shapes = _shapes(galaxy)
            problems.extend(_without_psf(galaxy, shapes))
        except SphotError as error:
            problems.append(f"{galaxy.name}: {error}")
            continue
        tasks += len(shapes)
        missing += len(galaxy.filters) - len(shapes)
        pixels = max((ny * nx for ny, nx in shapes.values()), default=0)
        largest = max(largest, pixels)
        work += galaxy_cost(config.psf.method, pixels, len(shapes))
        problems.extend(_shape_problems(galaxy, shapes))
    return Survey(
        galaxies=len(catalogue.galaxies),
        tasks=tasks,
        missing=missing,
        largest=largest,
        work=work,
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

"""Look at all headers of a campaign without fitting: what would run, what is wrong, how long."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.cost import UNCERTAINTY, Work, clock, galaxy_cost
from sphot_mpi.errors import InputError, counted
from sphot_mpi.inputs import contents, iterate_galaxy, library_faults
from sphot_mpi.raw_image import read_header

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
            f"{counted(self.galaxies, 'galaxy')}, {counted(self.tasks, 'fit')}; "
            f"{counted(self.missing, 'filter')} missing in the files; {counted(len(self.problems), 'problem')}.\n"
            f"Largest image: {self.largest} px. Memory: about {memory:.1f} GB a process.\n"
            f"Work: {hours:.2g} core-hours ({low:.2g} to {high:.2g}); with N processes, N - 1 of them fit."
        )

    def estimate(self, ranks: int) -> str:
        """Return, in one line, what a job of so many ranks needs; it ends with the option to give to sbatch."""
        return (
            f"Estimate: {counted(self.tasks, 'fit')}, {self.work.seconds / 3600.0:.2g} core-hours, "
            f"{counted(ranks, 'rank')}: {clock(self.work.walltime(ranks))}; "
            f"ask for --time={clock(self.work.time_limit(ranks))}"
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
    libraries: dict[Path, dict[str, str]] = {}
    for galaxy in catalogue.galaxies:
        if galaxy.psf not in libraries:
            libraries[galaxy.psf] = library_faults(galaxy.psf)
        shapes, faults = _headers(galaxy)
        tasks += len(shapes)
        missing += sum(name not in shapes and name not in faults for name in galaxy.filters)
        pixels = max((ny * nx for ny, nx in shapes.values()), default=0)
        largest = max(largest, pixels)
        work += galaxy_cost(config.psf.method, pixels, len(shapes))
        # a file that cannot be read at all fails alike in every filter
        found = [*dict.fromkeys(faults.values()), *_psf_problems(galaxy, shapes, libraries[galaxy.psf])]
        if galaxy.base_filter not in faults:
            found += _shape_problems(galaxy, shapes)
        problems.extend(f"{galaxy.name}: {problem}" for problem in found)
    return Survey(
        galaxies=len(catalogue.galaxies),
        tasks=tasks,
        missing=missing,
        largest=largest,
        work=work,
        problems=tuple(problems),
    )


def _headers(galaxy: Galaxy) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the shapes of the images that can be used, and what is wrong with the others, by filter."""
    shapes: dict[str, tuple[int, ...]] = {}
    faults: dict[str, str] = {}
    for name in galaxy.filters:
        try:
            for raw in iterate_galaxy(galaxy.path, (name,)):
                read_header(raw)
                shapes[name] = tuple(raw.data.shape)
        except InputError as error:
            faults[name] = str(error)
    return shapes, faults


def _psf_problems(galaxy: Galaxy, shapes: Iterable[str], faults: Mapping[str, str]) -> list[str]:
    found = [faults.get(name, f"{galaxy.psf} has no PSF for {name}.") for name in shapes]
    return [problem for problem in found if problem]


def _shape_problems(galaxy: Galaxy, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    base = galaxy.base_filter
    if base not in shapes:
        return [f"{galaxy.path} has no base filter {base} ({contents(galaxy.path)})."]
    return [
        f"{name} has shape {shape}, the base filter {base} {shapes[base]}; put them on one pixel grid."
        for name, shape in shapes.items()
        if shape != shapes[base]
    ]

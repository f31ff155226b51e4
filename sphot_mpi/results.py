"""Write the results file: tables, images, and the promise that a finished file is whole.

A file is written as ``NAME.partial``, closed, opened again and checked, and only
then renamed. The steps are separate, so that images can be added by whoever has
them: `create`, `add_images`, `finish`.
"""

import datetime
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import Table, meta
from numpy.typing import NDArray

import sphot_mpi
from sphot_mpi.catalogue import Catalogue
from sphot_mpi.config import Config
from sphot_mpi.errors import OutputError
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.records import Cutout
from sphot_mpi.results_comm import Comm, together
from sphot_mpi.results_rows import (
    covariance_stack,
    failure_table,
    fitted,
    galaxy_table,
    provenance_table,
    sersic_table,
    sky_covariance_stack,
    source_tables,
    wcs_table,
)
from sphot_mpi.results_schema import (
    DESCRIPTIONS,
    FAILURES,
    FIT_FLAGS,
    FORMAT,
    FORMAT_VERSION,
    GALAXIES,
    IMAGES,
    PROVENANCE,
    SERSIC,
    SOURCE_FLAGS,
    SOURCES,
    SOURCES_INDEX,
    WCS,
    Column,
    column_unit,
    structured,
)
from sphot_mpi.results_source import OutcomeSource, Renderer

_COMPRESSION: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_LIBRARIES = ("numpy", "scipy", "astropy", "h5py", "numba", "photutils", "pydantic")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CampaignRecord:
    """All that the results file tells of a campaign but the pixels.

    Parameters
    ----------
    catalogue : Catalogue
        What was asked for.
    config : Config
        How.
    outcomes : sequence of TaskOutcome
        In any order.
    command_line : str
        As typed.
    ranks : int
        MPI ranks.
    images : tuple of str
        Names of `IMAGES` to store.
    """

    catalogue: Catalogue
    config: Config
    outcomes: Sequence[TaskOutcome]
    command_line: str = ""
    ranks: int = 1
    images: tuple[str, ...] = field(default=())

    def sorted_outcomes(self) -> list[TaskOutcome]:
        """Return the outcomes by catalogue row, then by the row's filters: never by completion."""
        place = {g.index: {name: k for k, name in enumerate(g.filters)} for g in self.catalogue.galaxies}
        return sorted(self.outcomes, key=lambda o: (o.task.galaxy, place[o.task.galaxy][o.task.filter]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageItem:
    """The images of one fit, on their way to the file."""

    galaxy: int
    cutout: Cutout
    model: ModelImages


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CampaignInfo:
    """What the results file tells of a campaign as a whole; the same on all ranks.

    Parameters
    ----------
    catalogue : Catalogue
        What was asked for.
    config : Config
        How.
    command_line : str
        As typed.
    ranks : int
        MPI ranks.
    restarts : int
        Times that the campaign was started again.
    images : tuple of str
        Names of `IMAGES` to store.
    photometry : bool
        Whether aperture photometry is part of the campaign.
    compress : bool
        Whether image stacks are compressed.
    """

    catalogue: Catalogue
    config: Config
    command_line: str = ""
    ranks: int = 1
    restarts: int = 0
    images: tuple[str, ...] = ()
    photometry: bool = False
    compress: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written; the same on all ranks.

    Parameters
    ----------
    path : Path
        The file.
    rows : mapping of str to int
        Rows of each table.
    unrendered : int
        Fits whose images could not be made, as their input could not be read again.
    """

    path: Path
    rows: Mapping[str, int]
    unrendered: int = 0


def write_results(
    path: Path, info: CampaignInfo, source: OutcomeSource, comm: Comm, render: Renderer | None = None
) -> Written:
    """Write the results file; every rank calls this, with the same arguments but its own `source`, `comm`, `render`.

    Parameters
    ----------
    path : Path
        Final name; it is written as ``NAME.partial``, checked, and renamed.
    info : CampaignInfo
        About the campaign.
    source : OutcomeSource
        Gives the outcomes.
    comm : Comm
        The ranks; `SoloComm` for one process.
    render : callable or None
        Makes the images; needed where `info.images` are asked for.

    Returns
    -------
    Written
        What is in the file.

    Raises
    ------
    OutputError
        On all ranks, if any of them cannot write; ``NAME.partial`` is left as it is.
    """
    galaxies = info.catalogue.galaxies
    if comm.rank:
        with together(comm, ""):
            return Written(path=path, rows={})
    with together(comm, f"{partial_path(path)}: this cannot be written"):
        outcomes = [source.load(task).outcome for galaxy in galaxies for task in source.tasks(galaxy.index)]
        record = CampaignRecord(
            catalogue=info.catalogue,
            config=info.config,
            outcomes=outcomes,
            command_line=info.command_line,
            ranks=info.ranks,
            images=info.images,
        )
        create(path, record)
        if render is not None and info.images:
            items = (
                ImageItem(galaxy=o.task.galaxy, cutout=cutout, model=model)
                for o in outcomes
                if o.fit is not None
                for cutout, model in [render(o, galaxies[o.task.galaxy])]
            )
            add_images(path, info.images, items)
        finish(path, record)
    return Written(path=path, rows={"galaxies": len(galaxies), "sersic": len(fitted(outcomes))})


def partial_path(path: Path) -> Path:
    """Return the name under which a results file is written."""
    return path.with_name(path.name + ".partial")


def create(path: Path, record: CampaignRecord) -> None:
    """Write ``NAME.partial`` with everything but pixels; image stacks are made, and empty (NaN).

    Parameters
    ----------
    path : Path
        Final name.
    record : CampaignRecord
        What to write.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    outcomes = record.sorted_outcomes()
    galaxies = record.catalogue.galaxies
    unit = _common_unit(outcomes)
    sources, index = source_tables(outcomes)
    tables: list[tuple[str, Sequence[Column], NDArray[np.void]]] = [
        ("galaxies", GALAXIES, galaxy_table(galaxies, outcomes)),
        ("sersic", SERSIC, sersic_table(outcomes)),
        ("wcs", WCS, wcs_table(outcomes)),
        ("sources", SOURCES, sources),
        ("sources_index", SOURCES_INDEX, index),
        ("failures", FAILURES, failure_table(galaxies, outcomes)),
        ("provenance", PROVENANCE, provenance_table(galaxies, outcomes)),
    ]
    try:
        with h5py.File(partial_path(path), "w") as file:
            file.attrs.update(_root_attributes(record))
            write_table(file, "catalogue", *catalogue_table(record.catalogue))
            for name, columns, array in tables:
                write_table(file, name, columns, array, unit)
            file["sersic"].attrs["flags"] = FIT_FLAGS
            file["sources"].attrs["flags"] = SOURCE_FLAGS
            for name, stack in (
                ("sersic_covariance", covariance_stack(outcomes)),
                ("sky_covariance", sky_covariance_stack(outcomes)),
            ):
                dataset = file.create_dataset(name, data=stack)
                dataset.attrs.update({"unit": "", "description": DESCRIPTIONS[name]})
            _create_stacks(file, record.images, outcomes, len(galaxies), unit)
    except OSError as error:
        msg = f"{partial_path(path)}: this cannot be written ({error}); free space or choose another -o."
        raise OutputError(msg) from error


def add_images(path: Path, names: Sequence[str], items: Iterable[ImageItem]) -> None:
    """Write images into the stacks of ``NAME.partial``.

    Parameters
    ----------
    path : Path
        Final name.
    names : sequence of str
        Names of `IMAGES` to write.
    items : iterable of ImageItem
        Rendered one after another, so that one galaxy at a time is in memory.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    try:
        with h5py.File(partial_path(path), "r+") as file:
            _fill_stacks(file, names, items)
    except OSError as error:
        msg = f"{partial_path(path)}: this cannot be written ({error}); free space or choose another -o."
        raise OutputError(msg) from error


def _fill_stacks(file: h5py.File, names: Sequence[str], items: Iterable[ImageItem]) -> None:
    for item in items:
        data = item.cutout.data
        shown = {
            "data": data,
            "sersic_model": item.model.sersic,
            "psf_model": item.model.sources,
            "residual": item.model.residual(data),
        }
        ny, nx = data.shape
        for name in names:
            file[f"images/{item.cutout.filter}/{name}"][item.galaxy, :ny, :nx] = shown[name].astype(np.float32)


def finish(path: Path, record: CampaignRecord) -> None:
    """Open ``NAME.partial`` once more, check that all is there, and give it its final name.

    Raises
    ------
    OutputError
        If something is missing; the partial file is left for inspection.
    """
    partial = partial_path(path)
    try:
        with h5py.File(partial, "r") as file:
            rows = {"galaxies": len(record.catalogue.galaxies), "sersic": len(fitted(record.outcomes))}
            whole = all(file[name].shape[0] == count for name, count in rows.items())
        if not whole:
            msg = f"{partial}: the file is not whole; run again."
            raise OutputError(msg)
        partial.replace(path)
    except (OSError, KeyError) as error:
        msg = f"{partial}: the file cannot be read back ({error}); run again."
        raise OutputError(msg) from error


def write_table(file: h5py.File, name: str, columns: Sequence[Column], array: NDArray[np.void], unit: str = "") -> None:
    """Write a structured array with the sibling from which astropy reads units and descriptions.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    name : str
        Name of the dataset.
    columns : sequence of Column
        Its columns.
    array : (n,) structured ndarray
        Its rows.
    unit : str
        The campaign's data unit; empty: none.
    """
    header = Table(array[:0])
    for column in columns:
        header[column.name].unit = column_unit(column, unit)
        header[column.name].description = column.description
    header.meta["description"] = DESCRIPTIONS[name]
    compressed = _COMPRESSION if array.size else {}
    dataset = file.create_dataset(name, data=array, **compressed)
    dataset.attrs.update({"unit": "", "description": DESCRIPTIONS[name]})
    lines = [line.encode() for line in meta.get_yaml_from_table(header)]
    sibling = file.create_dataset(f"{name}.__table_column_meta__", data=np.array(lines))
    sibling.attrs.update({"unit": "", "description": f"units and descriptions of the columns of /{name}, for astropy"})


def catalogue_table(catalogue: Catalogue) -> tuple[list[Column], NDArray[np.void]]:
    """Return the catalogue's columns, as read, as a table."""
    columns = [
        Column(name, "S" if values.dtype.kind in "SU" else values.dtype.str, "", "as read")
        for name, values in catalogue.columns.items()
    ]
    return columns, structured(columns, catalogue.columns)


def _common_unit(outcomes: Sequence[TaskOutcome]) -> str:
    units = {frame.unit for _, _, frame in fitted(outcomes)}
    return units.pop() if len(units) == 1 else ""


def _create_stacks(
    file: h5py.File, names: Sequence[str], outcomes: Sequence[TaskOutcome], n_galaxies: int, unit: str
) -> None:
    """Make the (galaxy, y, x) stacks, as large as the largest cutout of each filter."""
    largest: dict[str, tuple[int, int]] = {}
    for _, fit, frame in fitted(outcomes):
        ny, nx = largest.get(fit.filter, (0, 0))
        largest[fit.filter] = max(ny, frame.shape[0]), max(nx, frame.shape[1])
    for filter_name, (ny, nx) in largest.items():
        for name in names:
            stack = file.create_dataset(
                f"images/{filter_name}/{name}",
                shape=(n_galaxies, ny, nx),
                dtype="f4",
                chunks=(1, min(ny, 512), min(nx, 512)),
                fillvalue=np.nan,
                **_COMPRESSION,
            )
            text = f"{IMAGES[name]}; (galaxy, y, x), NaN beyond a galaxy's own cutout, whose corner is in /galaxies"
            stack.attrs.update({"unit": unit, "description": text})


def _root_attributes(record: CampaignRecord) -> Mapping[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "creator": "sphot-mpi",
        "creator_version": sphot_mpi.__version__,
        "git_commit": git_commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": record.command_line,
        "configuration": record.config.to_toml(),
        "configuration_sha256": record.config.digest(),
        "catalogue": str(record.catalogue.path),
        "catalogue_sha256": record.catalogue.digest,
        "versions": "\n".join(_versions()),
        "ranks": record.ranks,
    }


def _versions() -> list[str]:
    found = [f"python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} unknown")
    return [*found, f"hdf5 {h5py.version.hdf5_version}"]


def git_commit() -> str:
    """Return the commit of the source tree the program runs from; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

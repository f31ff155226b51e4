"""Put the results files of several campaigns, or of the shards of one, into one file."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.catalogue_table import read_table, resolve_columns
from sphot_mpi.config import Config
from sphot_mpi.errors import CatalogueError, OutputError, UsageError, counted, listed
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import TaskKey, TaskOutcome
from sphot_mpi.records import Cutout, Image
from sphot_mpi.results import Written, write_results
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.results_outcomes import StoredOutcomes
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.stored_inputs import stored_config

log = logging.getLogger(__name__)


Columns = Mapping[str, NDArray[Any]]


def merge_results(output: Path, inputs: Sequence[Path], *, overwrite: bool = False, command_line: str = "") -> Written:
    """Merge finished results files.

    Parameters
    ----------
    output : Path
        The new file.
    inputs : sequence of Path
        Finished results files, with one configuration and without a galaxy in common.
    overwrite : bool
        Replace `output` if it is there.
    command_line : str
        As typed.

    Returns
    -------
    Written
        What is in the file. Galaxies stand in the order of the catalogue, if all files come from one that can still be
        read; else in the order of the files. Everything is as it was in the parts, bit for bit.

    Raises
    ------
    UsageError
        If the files do not go together; the message names why.
    OutputError
        If a file cannot be read or written.
    """
    if len({path.resolve() for path in inputs}) < len(inputs) or output.resolve() in {p.resolve() for p in inputs}:
        msg = f"{output}: a file is named twice; name each input once, and another output."
        raise UsageError(msg)
    if output.exists() and not overwrite:
        msg = f"{output}: the file exists; give --overwrite, or another name."
        raise OutputError(msg)
    parts: list[StoredOutcomes] = []
    try:
        for path in inputs:
            parts.append(StoredOutcomes(path))  # one after another, so that those that are open get closed
        return _merge(output, parts, command_line)
    finally:
        for part in parts:
            part.close()


def _merge(output: Path, parts: Sequence[StoredOutcomes], command_line: str) -> Written:
    _check_finished(parts)
    _check_names(parts)
    config = _common_config(parts)
    source = _Merged(parts, _order(parts))
    columns = joined_columns([_catalogue_columns(part) for part in parts])
    attributes = [part.reader.file.attrs for part in parts]
    paths = list(dict.fromkeys(str(a["catalogue"]) for a in attributes))
    digests = list(dict.fromkeys(str(a["catalogue_sha256"]) for a in attributes))
    catalogue = Catalogue(
        path=Path(", ".join(paths)),
        galaxies=source.galaxies,
        columns={name: values[source.rows] for name, values in columns.items()},
        digest=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
    )
    info = CampaignInfo(
        catalogue=catalogue,
        config=config,
        command_line=command_line,
        ranks=sum(int(a["ranks"]) for a in attributes),
        restarts=sum(int(a["restarts"]) for a in attributes),
        images=_common_images(parts),
        psf=all("psf" in part.reader.file for part in _with_fits(parts) or parts),
        photometry=all(any(t.kind is TaskKind.PHOTOMETRY for t in source.tasks(g.index)) for g in source.galaxies),
    )
    return write_results(output, info, source, SoloComm(), source.images, source)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _StoredImages(ModelImages):
    """Images as they are stored, none computed from others, which would round once more."""

    named: Mapping[str, Image]

    def image(self, name: str, data: Image) -> Image:
        """Return the stored image of a name."""
        return self.named[name]


class _Merged:
    """The outcomes of several files as one source.

    Parameters
    ----------
    parts : sequence of StoredOutcomes
        The files.
    order : dict of str to int
        Place of each galaxy in the new file.
    """

    def __init__(self, parts: Sequence[StoredOutcomes], order: Mapping[str, int]) -> None:
        self._parts = parts
        self._rows: dict[Task, tuple[StoredOutcomes, int]] = {}
        self._tasks: list[list[Task]] = [[] for _ in order]
        galaxies: list[tuple[int, Galaxy]] = []
        for part in parts:
            keys = part.keys()
            for row, key in enumerate(keys):
                task = Task(kind=key.kind, galaxy=order[key.name], filter=key.filter)
                self._tasks[task.galaxy].append(task)
                self._rows[task] = part, row
            galaxies += [(order[g.name], g) for g in _galaxies(part, keys)]
        #: Rows of the parts' galaxies, one part after another, in the order of the new file.
        self.rows = np.argsort([place for place, _ in galaxies])
        ordered = sorted(galaxies, key=lambda item: item[0])
        self.galaxies = tuple(replace(galaxy, index=place) for place, galaxy in ordered)

    def tasks(self, galaxy: int) -> Sequence[Task]:
        """Return a galaxy's tasks."""
        return self._tasks[galaxy]

    def load(self, task: Task) -> KeptOutcome:
        """Load what one of them brought back."""
        part, row = self._rows[task]
        kept = part.load(row)
        return replace(kept, outcome=replace(kept.outcome, task=task))

    def images(self, outcome: TaskOutcome, galaxy: Galaxy) -> tuple[Cutout, ModelImages]:
        """Return the images that are stored of a fit."""
        if outcome.frame is None:
            msg = "the outcome holds no fit"
            raise ValueError(msg)
        part, _ = self._rows[outcome.task]
        shape = outcome.frame.shape
        blank = np.full(shape, np.nan)
        named = part.reader.images_at(part.galaxy_row(galaxy.name), outcome.task.filter, shape)
        cutout = Cutout(galaxy=galaxy.name, filter=outcome.task.filter, data=blank, error=None, mask=np.isnan(blank))
        return cutout, _StoredImages(sersic=blank, sources=blank, sky=blank, named=named)

    def psf_shape(self, galaxy: Galaxy, filter_name: str) -> tuple[int, int, int]:
        """Return shape and oversampling of a galaxy's stored PSF."""
        part = self._rows[self._tasks[galaxy.index][0]][0]
        ny, nx = part.reader.psf_at(part.galaxy_row(galaxy.name), filter_name).shape
        return ny, nx, part.reader.oversample(filter_name)

    def psf(self, outcome: TaskOutcome, galaxy: Galaxy) -> Image:
        """Return the PSF that is stored of a fit."""
        part, _ = self._rows[outcome.task]
        return part.reader.psf_at(part.galaxy_row(galaxy.name), outcome.task.filter)


def _galaxies(part: StoredOutcomes, keys: Sequence[TaskKey]) -> list[Galaxy]:
    filters: dict[str, list[str]] = {}
    for key in keys:
        if key.kind is not TaskKind.PHOTOMETRY:
            filters.setdefault(key.name, []).append(key.filter)
    table = part.reader.array("galaxies")
    # the input files are not looked at
    return [
        Galaxy(
            index=row,
            name=name,
            path=Path(),
            psf=Path(),
            filters=tuple(filters[name]),
            ra=float(table["ra"][row]),
            dec=float(table["dec"][row]),
        )
        for row, name in enumerate(part.reader.names())
    ]


def _check_finished(parts: Sequence[StoredOutcomes]) -> None:
    for part in parts:
        if not part.reader.file.attrs["complete"]:
            msg = f"{part.reader.path}: tasks are left in it; finish it first with the command that began it."
            raise UsageError(msg)


def _check_names(parts: Sequence[StoredOutcomes]) -> None:
    first: dict[str, Path] = {}
    for part in parts:
        common = [name for name in part.reader.names() if name in first]
        if common:
            msg = (
                f"{first[common[0]]} and {part.reader.path} have {counted(len(common), 'galaxy')} in common "
                f"({listed(common)}); "
                "a galaxy can come from one file only."
            )
            raise UsageError(msg)
        first.update(dict.fromkeys(part.reader.names(), part.reader.path))


def _common_config(parts: Sequence[StoredOutcomes]) -> Config:
    configs = [stored_config(part.reader) for part in parts]
    for part, config in zip(parts, configs, strict=True):
        if config.digest() != configs[0].digest():
            differing = next(_differences(configs[0].model_dump(by_alias=True), config.model_dump(by_alias=True)))
            msg = (
                f"{parts[0].reader.path} and {part.reader.path} were made with different configurations ({differing}); "
                "only files of one configuration can be merged."
            )
            raise UsageError(msg)
    versions = {str(part.reader.file.attrs["creator_version"]) for part in parts}
    if len(versions) > 1:
        log.warning("the files were written by different versions of sphot-mpi: %s", ", ".join(sorted(versions)))
    return configs[0]


def _differences(one: Mapping[str, Any], other: Mapping[str, Any], path: str = "") -> Any:
    for key, value in one.items():
        if key == "preset" and not path:
            continue
        if isinstance(value, dict) and isinstance(other[key], dict):
            yield from _differences(value, other[key], f"{path}{key}.")
        elif value != other[key]:
            yield f"{path}{key} = {value!r} and {other[key]!r}"


def _with_fits(parts: Sequence[StoredOutcomes]) -> list[StoredOutcomes]:
    """Return the parts with a fit; no other has images."""
    return [part for part in parts if len(part.reader.file["sersic"])]


def _common_images(parts: Sequence[StoredOutcomes]) -> tuple[str, ...]:
    names = [part.reader.image_names() for part in _with_fits(parts)]
    common = tuple(name for name in names[0] if all(name in others for others in names)) if names else ()
    if any(len(some) > len(common) for some in names):
        log.warning("only images that all files hold are taken over: %s", ", ".join(common) or "none")
    return common


def _order(parts: Sequence[StoredOutcomes]) -> dict[str, int]:
    """Return the place of each galaxy: that in the catalogue, if there is one catalogue and it can be read."""
    names = [name for part in parts for name in part.reader.names()]
    paths = {str(part.reader.file.attrs["catalogue"]) for part in parts}
    places = _catalogue_places(Path(paths.pop())) if len(paths) == 1 else {}
    if all(name in places for name in names):
        names.sort(key=lambda name: places[name])
    return {name: place for place, name in enumerate(names)}


def _catalogue_places(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    try:
        columns = read_table(path)
        roles = resolve_columns(path, columns)
    except CatalogueError:  # it may be a galaxy's own file, or was changed since
        return {}
    if "name" in roles:
        return {str(name).strip(): row for row, name in enumerate(columns[roles["name"]])}
    return {Path(str(file).strip()).stem: row for row, file in enumerate(columns[roles["path"]])}


def _catalogue_columns(part: StoredOutcomes) -> dict[str, NDArray[Any]]:
    table = part.reader.array("catalogue")
    return {
        name: np.char.decode(table[name], "utf-8") if table[name].dtype.kind == "S" else table[name]
        for name in table.dtype.names or ()
    }


def joined_columns(tables: Sequence[Columns]) -> dict[str, NDArray[Any]]:
    """Return the rows of several tables as one table with all of their columns.

    Parameters
    ----------
    tables : sequence of mapping of str to ndarray
        Columns by name.

    Returns
    -------
    dict of str to ndarray
        A column that is text in one table is text; where a table has not the column, it is empty, or NaN.
    """
    lengths = [len(next(iter(table.values()))) for table in tables]
    joined: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        found = [table.get(name) for table in tables]
        is_text = any(values is not None and values.dtype.kind not in "biuf" for values in found)
        pieces: list[NDArray[Any]] = []
        for values, length in zip(found, lengths, strict=True):
            if values is None:
                pieces.append(np.full(length, "" if is_text else np.nan))
            else:
                pieces.append(values.astype(np.str_) if is_text else values)
        joined[name] = np.concatenate(pieces)
    return joined

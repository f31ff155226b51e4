"""Write the results file: all ranks together, each its own galaxies, and whole or not at all.

Each rank takes a contiguous block of the catalogue. It measures what its galaxies need,
the ranks agree on one layout, and then every rank writes its rows and images, batch
after batch. The file is written as ``NAME.partial``, closed, read back and compared
with what was written, and only then renamed.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.errors import OutputError
from sphot_mpi.results_backend import Backend, Slab, choose_backend
from sphot_mpi.results_check import Receipt, check_counts, check_datasets, check_receipts
from sphot_mpi.results_comm import Comm, together
from sphot_mpi.results_images import ImageBatch, image_bytes, image_slabs, psf_shapes, psf_slabs
from sphot_mpi.results_layout import DatasetSpec, Measure, join_all, layout
from sphot_mpi.results_origin import CampaignInfo, root_attributes
from sphot_mpi.results_rows import block_arrays
from sphot_mpi.results_source import KeptOutcome, OutcomeSource, PSFSource, Renderer

log = logging.getLogger(__name__)

#: Bytes of rows or pixels that a rank holds at a time.
BATCH_BYTES = 2**27

#: Part of the uncompressed size that must be free on the disk before anything is written.
_LEAST_FREE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written; the same on all ranks.

    Parameters
    ----------
    path : Path
        The file.
    rows : mapping of str to int
        Rows of each dataset.
    unrendered : int
        Images and PSFs of fits that could not be made, because their input could not be read again.
    """

    path: Path
    rows: Mapping[str, int]
    unrendered: int = 0


def partial_path(path: Path) -> Path:
    """Return the name under which a results file is written."""
    return path.with_name(path.name + ".partial")


def write_results(
    path: Path,
    info: CampaignInfo,
    source: OutcomeSource,
    comm: Comm,
    render: Renderer | None = None,
    psfs: PSFSource | None = None,
    *,
    batch_bytes: int = BATCH_BYTES,
) -> Written:
    """Write the results file; every rank calls this, with the same `path` and `info`.

    Parameters
    ----------
    path : Path
        Final name; a file of that name is replaced.
    info : CampaignInfo
        About the campaign.
    source : OutcomeSource
        Gives the outcomes.
    comm : Comm
        The ranks; `SoloComm` for one process.
    render : callable or None
        Makes the images; needed where `info.images` are asked for.
    psfs : PSFSource or None
        Gives the PSFs; needed where `info.psf` is asked for.
    batch_bytes : int
        Bytes of rows or pixels that a rank holds at a time.

    Returns
    -------
    Written
        What is in the file.

    Raises
    ------
    OutputError
        On all ranks, if any of them cannot write; ``NAME.partial`` is left as it is.
    """
    return _Writer(path, info, source, comm, render, psfs, batch_bytes).run()


class _Writer:
    """The phases of writing, in order; every method is called by all ranks."""

    def __init__(
        self,
        path: Path,
        info: CampaignInfo,
        source: OutcomeSource,
        comm: Comm,
        render: Renderer | None,
        psfs: PSFSource | None,
        batch_bytes: int,
    ) -> None:
        if (info.images and render is None) or (info.psf and psfs is None):
            msg = "images or PSFs are asked for, but nothing makes them"
            raise ValueError(msg)
        self._path = path
        self._partial = partial_path(path)
        self._info = info
        self._source = source
        self._comm = comm
        self._render = render if info.images else None
        self._psfs = psfs if info.psf else None
        self._batch_bytes = batch_bytes
        self._words = f"{self._partial}: this cannot be written"
        galaxies = info.catalogue.galaxies
        self._block = block_of([len(source.tasks(g.index)) for g in galaxies], comm.rank, comm.size)
        self._galaxies = galaxies[self._block.start : self._block.stop]
        self._receipts: list[Receipt] = []
        self._unrendered = 0

    def run(self) -> Written:
        """Do it all."""
        parts, unfinished = self._measure()
        measures = self._comm.allgather((join_all(parts), unfinished))
        total = join_all(measure for measure, _ in measures)
        before = join_all(measure for measure, _ in measures[: self._comm.rank])
        specs = layout(total, self._info.catalogue, self._info.images, compress=self._info.compress)
        complete = not any(count for _, count in measures)
        attributes = self._comm.allgather(root_attributes(self._info, complete=complete) if self._first else {})[0]
        with together(self._comm, self._words):
            if self._first:
                self._check_space(specs, total)
        backend = choose_backend(self._partial, self._comm)
        try:
            with together(self._comm, self._words):
                backend.create(specs, attributes)
            self._write(backend, specs, known_slabs(specs, first=self._first))
            self._write_tables(backend, specs, parts, dict(before.rows))
            self._flush(backend)
            self._write_images(backend, specs, total)
            self._flush(backend)
        except OutputError:
            # all ranks are here, since they fail together; a file that is given up may fail once more
            with suppress(OutputError), together(self._comm, self._words):
                backend.close()
            raise
        with together(self._comm, self._words):
            backend.close()
        return self._finish(specs)

    @property
    def _first(self) -> bool:
        return self._comm.rank == 0

    def _measure(self) -> tuple[list[Measure], int]:
        """Return what each galaxy of this block needs, and how many of them are not finished."""
        parts: list[Measure] = []
        unfinished = 0
        with together(self._comm, self._words):
            for galaxy in self._galaxies:
                kept = self._load([galaxy])
                arrays = block_arrays([galaxy], kept, photometry=self._info.photometry, positions=False)
                outcomes = [one.outcome for one in kept]
                shapes = {} if self._psfs is None else psf_shapes(outcomes, galaxy, self._psfs)
                parts.append(replace(Measure.of(arrays, outcomes), psfs=shapes))
                unfinished += int(arrays["galaxies"]["status"][0] == b"unfinished")
        return parts, unfinished

    def _load(self, galaxies: Sequence[Galaxy]) -> list[KeptOutcome]:
        return [self._source.load(task) for galaxy in galaxies for task in self._source.tasks(galaxy.index)]

    def _check_space(self, specs: Sequence[DatasetSpec], total: Measure) -> None:
        """Refuse a disk that is too small, before a long write fails half-way."""
        images = [spec.nbytes for spec in specs if spec.is_stack]
        tables = sum(spec.nbytes for spec in specs) - sum(images)
        # what lies beyond a galaxy's own cutout is compressed to nothing
        pixels = 4 * total.pixels * len(self._info.images) if self._info.compress else sum(images)
        needed = (_LEAST_FREE if self._info.compress else 1.0) * pixels + _LEAST_FREE * tables
        free = shutil.disk_usage(self._partial.parent).free
        if free < needed:
            msg = (
                f"{self._partial}: this takes {needed / 1e9:.3g} GB or more, but {free / 1e9:.3g} GB are free; "
                "free space, choose another -o, or store fewer --images."
            )
            raise OutputError(msg)

    def _write(self, backend: Backend, specs: Sequence[DatasetSpec], slabs: Sequence[Slab]) -> None:
        """Write slabs of the datasets that have rows at all, and keep their receipts."""
        empty = {spec.name for spec in specs if not spec.shape[0]}
        slabs = [slab for slab in slabs if slab.dataset not in empty]
        with together(self._comm, self._words):
            self._receipts += [Receipt.of(slab) for slab in slabs if len(slab.rows)]
            backend.write(slabs)

    def _flush(self, backend: Backend) -> None:
        with together(self._comm, self._words):
            backend.flush()

    def _write_tables(
        self, backend: Backend, specs: Sequence[DatasetSpec], parts: Sequence[Measure], start: dict[str, int]
    ) -> None:
        tables = [spec for spec in specs if spec.values is None and not spec.is_stack]
        sizes = [sum(part.rows.get(spec.name, 0) * spec.row_bytes for spec in tables) for part in parts]
        for batch in self._batches(sizes):
            slabs: list[Slab] = []
            with together(self._comm, self._words):
                kept = self._load(batch)
                arrays = block_arrays(batch, kept, photometry=self._info.photometry)
                arrays["sources_index"]["start"] += start.get("sources", 0)
                for spec in tables:
                    rows = spec.fitted(arrays[spec.name])
                    slabs.append(Slab(spec.name, start.get(spec.name, 0), rows))
                    start[spec.name] = start.get(spec.name, 0) + len(rows)
            self._write(backend, specs, slabs)

    def _batches(self, sizes: Sequence[int]) -> Iterator[Sequence[Galaxy]]:
        """Yield this block's galaxies by batches; a rank that has no more gets empty ones, until all ranks are done."""
        ends = batch_ends(sizes, self._batch_bytes)
        starts = [0, *ends]
        for k in range(max(self._comm.allgather(len(ends)))):
            yield self._galaxies[starts[k] : ends[k]] if k < len(ends) else ()

    def _write_images(self, backend: Backend, specs: Sequence[DatasetSpec], total: Measure) -> None:
        if self._render is not None:
            make = partial(image_slabs, source=self._source, render=self._render)
            self._write_stacks(backend, specs, total.shapes, len(self._info.images), make)
        if self._psfs is not None:
            give = partial(psf_slabs, source=self._source, psfs=self._psfs)
            self._write_stacks(backend, specs, {name: (ny, nx) for name, (ny, nx, _) in total.psfs.items()}, 1, give)

    def _write_stacks(
        self,
        backend: Backend,
        specs: Sequence[DatasetSpec],
        shapes: Mapping[str, tuple[int, int]],
        n_images: int,
        make: Callable[[ImageBatch, tuple[int, int]], tuple[list[Slab], int]],
    ) -> None:
        """Write stacks of images of these shapes, a batch of galaxies and one filter at a time."""
        for galaxies in self._batches([image_bytes(shapes, n_images)] * len(self._galaxies)):
            for filter_name in sorted(shapes):
                with together(self._comm, self._words):
                    slabs, unrendered = make(ImageBatch(filter_name, self._info.images, galaxies), shapes[filter_name])
                self._unrendered += unrendered
                self._write(backend, specs, slabs)

    def _finish(self, specs: Sequence[DatasetSpec]) -> Written:
        """Read the file back, each rank what its neighbour wrote, and give it its name."""
        receipts = self._comm.allgather(self._receipts)
        words = f"{self._partial}: the file cannot be read back"
        with together(self._comm, words):
            if self._first:
                check_datasets(self._partial, specs)
                check_counts(self._partial, [receipt for some in receipts for receipt in some], specs)
            check_receipts(self._partial, receipts[(self._comm.rank + 1) % self._comm.size])
        unrendered = sum(self._comm.allgather(self._unrendered))
        with together(self._comm, f"{self._path}: the file cannot be given its name"):
            if self._first:
                _rename(self._partial, self._path)
        return Written(path=self._path, rows={s.name: s.shape[0] for s in specs}, unrendered=unrendered)


def known_slabs(specs: Sequence[DatasetSpec], *, first: bool) -> list[Slab]:
    """Return what is in the file whatever the outcomes are; the first rank writes it."""
    return [Slab(s.name, 0, s.values if first else s.values[:0]) for s in specs if s.values is not None]


def block_of(weights: Sequence[int], rank: int, size: int) -> range:
    """Return the galaxies of one rank: a contiguous part of about equal weight.

    Parameters
    ----------
    weights : sequence of int
        Of each galaxy; at least 1 is taken.
    rank, size : int
        Which part of how many.

    Returns
    -------
    range
        Perhaps empty; the parts of all ranks follow each other and cover everything.
    """
    ends = np.cumsum([max(1, weight) for weight in weights])
    total = int(ends[-1]) if len(ends) else 0
    middles = ends - np.diff(ends, prepend=0) / 2
    start, stop = np.searchsorted(middles, [total * rank / size, total * (rank + 1) / size])
    return range(int(start), int(stop) if rank + 1 < size else len(ends))


def batch_ends(sizes: Sequence[int], limit: int) -> list[int]:
    """Return where batches end, each as large as it can be within `limit`, but of one member at least."""
    ends: list[int] = []
    held = 0
    for k, size in enumerate(sizes):
        if held and held + size > limit:
            ends.append(k)
            held = 0
        held += max(size, 1)
    return [*ends, len(sizes)] if sizes else []


def _rename(partial: Path, path: Path) -> None:
    """Give a file its final name, such that a machine that loses power has the old file or the whole new one."""
    _sync(partial)
    partial.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

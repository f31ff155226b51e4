"""Put datasets and slabs into one HDF5 file: collectively through MPI-IO, or by one process at a time.

Both backends have the same interface, and are used by all ranks in step: every rank
calls `create`, `write`, `flush` and `close` equally often, and gives `write` the same
datasets in the same order, with or without rows of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from sphot_mpi.results_comm import STEP_SECONDS, Comm, Watch
from sphot_mpi.results_layout import DatasetSpec
from sphot_mpi.results_sink import Sink

_GZIP_LEVEL = 4


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Consecutive rows of one dataset, in exactly its type; perhaps none."""

    dataset: str
    start: int
    rows: NDArray[Any]


class Backend(Protocol):
    """How a results file is written."""

    def create(self, specs: Sequence[DatasetSpec], attributes: Mapping[str, Any]) -> None:
        """Make the file with its attributes and all its datasets."""

    def write(self, slabs: Sequence[Slab]) -> None:
        """Write this rank's rows."""

    def flush(self) -> None:
        """Wait until what was written is on the disk."""

    def close(self) -> None:
        """Close the file."""


def choose_backend(path: Path, comm: Comm) -> Backend:
    """Return the backend for these ranks: collective, where there are several and h5py has MPI.

    Parameters
    ----------
    path : Path
        File to write.
    comm : Comm
        The ranks.

    Returns
    -------
    Backend
        Its file is not made yet.
    """
    if comm.size > 1 and comm.raw is not None and h5py.get_config().mpi:
        return CollectiveBackend(path, comm)
    return TurnBackend(path, comm)


def create_all(file: h5py.File, specs: Sequence[DatasetSpec], attributes: Mapping[str, Any]) -> None:
    """Make attributes and datasets in an empty file."""
    file.attrs.update(attributes)
    for spec in specs:
        packed = {"compression": "gzip", "compression_opts": _GZIP_LEVEL, "shuffle": True} if spec.compressed else {}
        # every element is written, so none is filled first
        dataset = file.create_dataset(
            spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            chunks=spec.chunks,
            fillvalue=np.nan if spec.dtype.kind == "f" else None,
            fill_time="never",
            **packed,
        )
        dataset.attrs.update(spec.attributes)


def write_slab(dataset: h5py.h5d.DatasetID, slab: Slab, transfer: h5py.h5p.PropDXID) -> None:
    """Write rows, or take part in a collective write without any.

    h5py's own indexing returns early where there is nothing to write, and the other ranks would wait for ever.
    """
    there = dataset.get_space()
    if not there.get_simple_extent_npoints():
        return
    rows = np.ascontiguousarray(slab.rows)
    if len(rows):
        there.select_hyperslab((slab.start, *(0,) * (rows.ndim - 1)), rows.shape)
        here = h5py.h5s.create_simple(rows.shape)
    else:
        rows = np.zeros((1, *rows.shape[1:]), rows.dtype)
        here = h5py.h5s.create_simple(rows.shape)
        there.select_none()
        here.select_none()
    dataset.write(here, there, rows, dxpl=transfer)


class CollectiveBackend:
    """Parallel HDF5: all ranks write at once; a failure ends the job, see `Watch`.

    Parameters
    ----------
    path : Path
        File to write.
    comm : Comm
        The ranks, with MPI.
    limit : float
        Seconds that one collective step may take.

    Attributes
    ----------
    transfer : h5py.h5p.PropDXID
        Property list of all transfers; it tells how the last one was done.
    """

    def __init__(self, path: Path, comm: Comm, limit: float = STEP_SECONDS) -> None:
        self._path = path
        self._comm = comm
        self._limit = limit
        self._watch: Watch | None = None
        self._file: h5py.File | None = None
        self.transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        self.transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)

    def create(self, specs: Sequence[DatasetSpec], attributes: Mapping[str, Any]) -> None:
        """Make the file on all ranks together."""
        self._watch = Watch(self._comm, self._path, self._limit)
        with self._watch.step():
            self._file = h5py.File(self._path, "w", driver="mpio", comm=self._comm.raw)
            create_all(self._file, specs, attributes)

    def write(self, slabs: Sequence[Slab]) -> None:
        """Write every dataset in one collective transfer."""
        file, watch = self._open()
        for slab in slabs:
            with watch.step():
                write_slab(file[slab.dataset].id, slab, self.transfer)

    def flush(self) -> None:
        """Wait until what was written is on the disk."""
        file, watch = self._open()
        with watch.step():
            file.flush()

    def close(self) -> None:
        """Close the file on all ranks."""
        file, watch = self._open()
        with watch.step():
            file.close()
        watch.stop()

    def _open(self) -> tuple[h5py.File, Watch]:
        if self._file is None or self._watch is None:
            msg = "the file has not been made"
            raise ValueError(msg)
        return self._file, self._watch


class TurnBackend:
    """Serial HDF5: one process, or several that open the file one after another.

    Parameters
    ----------
    path : Path
        File to write.
    comm : Comm
        The ranks.
    """

    def __init__(self, path: Path, comm: Comm) -> None:
        self._path = path
        self._comm = comm
        self._sink: Sink | None = None

    def create(self, specs: Sequence[DatasetSpec], attributes: Mapping[str, Any]) -> None:
        """Make the file on rank 0."""

        def make() -> None:
            self._sink = Sink(self._path, "w")
            create_all(self._sink.file, specs, attributes)

        self._take_turns(range(1), make)

    def write(self, slabs: Sequence[Slab]) -> None:
        """Write in the order of ranks."""

        def put() -> None:
            if self._sink is None:
                self._sink = Sink(self._path, "r+")
            for slab in slabs:
                if len(slab.rows):
                    write_slab(self._sink.file[slab.dataset].id, slab, h5py.h5p.create(h5py.h5p.DATASET_XFER))

        self._take_turns(range(self._comm.size), put)

    def flush(self) -> None:
        """Wait until what was written is on the disk; ranks that take turns have closed their file already."""
        if self._sink is not None:
            self._sink.sync()

    def close(self) -> None:
        """Close the file."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()

    def _take_turns(self, ranks: range, action: Callable[[], None]) -> None:
        """Act one after another; alone, the file stays open, and otherwise it is closed before the next rank's turn."""
        failure: OSError | None = None
        for rank in ranks:
            if rank == self._comm.rank:
                try:
                    action()
                    self._end_turn()
                except OSError as error:
                    failure = error
            self._comm.barrier()
        if failure is not None:
            raise failure

    def _end_turn(self) -> None:
        if self._sink is None:
            return
        if self._comm.size > 1:
            self._sink.sync()
            self.close()
        else:
            self._sink.check()

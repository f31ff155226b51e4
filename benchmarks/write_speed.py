"""How fast image stacks are written, uncompressed, against a plain write of the same bytes to the same disk.

Alone, or under mpirun: ``mpirun -n 2 python -m mpi4py benchmarks/write_speed.py --folder DIR``.
Both ways end when the bytes are on the disk (fsync), and alternate, each beginning every
other round, so that both meet the same load and the same state of disk and memory. A plain
write is what a program without HDF5 would do: every rank writes its part of one file.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.mpi import connect
from sphot_mpi.results import BATCH_BYTES, batch_ends, block_of
from sphot_mpi.results_backend import Slab, choose_backend
from sphot_mpi.results_check import Receipt
from sphot_mpi.results_comm import Comm, SoloComm
from sphot_mpi.results_images import image_bytes
from sphot_mpi.results_layout import DatasetSpec, Measure, image_path, layout
from sphot_mpi.results_schema import IMAGES

FILTERS = ("F150W", "F277W")


def image_specs(n_galaxies: int, side: int, *, compress: bool) -> list[DatasetSpec]:
    """Return the image stacks of a campaign of equal cutouts."""
    galaxies = tuple(
        Galaxy(index=k, name=str(k), path=Path("x"), psf=Path("x"), filters=FILTERS) for k in range(n_galaxies)
    )
    catalogue = Catalogue(path=Path("x"), galaxies=galaxies, columns={"path": np.array(["x"] * n_galaxies)}, digest="")
    measure = Measure(shapes=dict.fromkeys(FILTERS, (side, side)), units=frozenset({"MJy/sr"}))
    specs = layout(measure, catalogue, tuple(IMAGES), compress=compress)
    return [spec for spec in specs if spec.name.startswith("images/")]


def batches(comm: Comm, n_galaxies: int, side: int) -> list[tuple[int, np.ndarray]]:
    """Return this rank's batches: first galaxy, and pixels; as `write_results` cuts them."""
    block = block_of([1] * n_galaxies, comm.rank, comm.size)
    ends = batch_ends([image_bytes({"x": (side, side)}, len(IMAGES))] * len(block), BATCH_BYTES)
    rng = np.random.default_rng(comm.rank)
    found = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        found.append((block.start + start, rng.normal(size=(end - start, side, side)).astype(np.float32)))
    return found


def write_plain(path: Path, comm: Comm, specs: Sequence[DatasetSpec], own: list[tuple[int, np.ndarray]]) -> None:
    """Write the same bytes in the same order of calls, each stack behind the other."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
    for start, pixels in own:
        for k, spec in enumerate(specs):
            rest, offset = memoryview(pixels).cast("B"), k * spec.nbytes + start * spec.row_bytes
            while len(rest):
                done = os.pwrite(descriptor, rest, offset)
                rest, offset = rest[done:], offset + done
    os.fsync(descriptor)
    os.close(descriptor)


def write_stacks(
    path: Path, comm: Comm, specs: Sequence[DatasetSpec], own: list[tuple[int, np.ndarray]]
) -> list[Receipt]:
    """Write image stacks as `write_results` does, receipts included."""
    backend = choose_backend(path, comm)
    backend.create(specs, {})
    receipts: list[Receipt] = []
    for k in range(max(comm.allgather(len(own)))):
        start, pixels = own[k] if k < len(own) else (0, own[0][1][:0])
        for name in FILTERS:
            slabs = [Slab(image_path(name, image), start, pixels) for image in IMAGES]
            receipts += [Receipt.of(slab) for slab in slabs if len(slab.rows)]
            backend.write(slabs)
    backend.flush()
    backend.close()
    return receipts


def timed(comm: Comm, path: Path, action: Callable[[], object]) -> float:
    """Return the seconds until all ranks have written a file; it is removed, so that the next finds the same memory."""
    comm.barrier()
    start = time.perf_counter()
    action()
    comm.barrier()
    seconds = time.perf_counter() - start
    if comm.rank == 0:
        path.unlink()
    comm.barrier()
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("-n", "--galaxies", type=int, default=400)
    parser.add_argument("--side", type=int, default=161, help="pixels")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compress", action="store_true", help="for comparison; this is bound by the processor")
    options = parser.parse_args()
    comm: Comm = connect() or SoloComm()
    specs = image_specs(options.galaxies, options.side, compress=options.compress)
    own = batches(comm, options.galaxies, options.side)
    ways: dict[str, tuple[Path, Callable[[], object]]] = {}
    for name, write in (("plain write", write_plain), ("image stacks", write_stacks)):
        path = options.folder / f"write_speed_{name.split()[0]}.tmp"
        ways[name] = path, partial(write, path, comm, specs, own)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name in sorted(ways, reverse=number % 2 == 0):
            taken = timed(comm, *ways[name])
            if number:  # the first round warms up
                seconds[name].append(taken)
    if comm.rank:
        return
    size = sum(spec.nbytes for spec in specs) / 1e6
    backend = type(choose_backend(options.folder / "x", comm)).__name__
    print(f"{comm.size} ranks, {backend}, {size:.0f} MB in {len(specs)} stacks, {options.rounds} rounds")
    for name, taken in seconds.items():
        speeds = sorted(size / s for s in taken)
        print(f"{name:13s} {statistics.median(speeds):6.0f} MB/s ({speeds[0]:.0f} to {speeds[-1]:.0f})")
    plain, stacks = seconds["plain write"], seconds["image stacks"]
    best, median = min(plain) / min(stacks), statistics.median(plain) / statistics.median(stacks)
    print(f"stacks / plain: {median:.2f} (medians), {best:.2f} (best rounds)")


if __name__ == "__main__":
    main()

"""All ranks write one file, collectively; rank 0 reads it back: mpirun -n N python collective.py [FILE]."""

import os
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from mpi4py import MPI


def main() -> int:
    """Return 0 if what is read is what was written."""
    world = MPI.COMM_WORLD
    default = os.path.join(tempfile.gettempdir(), f"sphot-collective-{os.getpid()}.h5")  # noqa: PTH118
    path = Path(world.bcast(sys.argv[1] if len(sys.argv) > 1 else default))
    rows = 1000
    with h5py.File(path, "w", driver="mpio", comm=world) as file:
        data = file.create_dataset("x", (world.size * rows,), "f8", chunks=(300,), compression="gzip")
        with data.collective:
            data[world.rank * rows : (world.rank + 1) * rows] = world.rank
    world.Barrier()
    if world.rank > 0:
        return 0
    with h5py.File(path) as file:
        good = np.array_equal(file["x"][:], np.repeat(np.arange(world.size), rows))
    path.unlink()
    library = MPI.Get_library_version().splitlines()[0].split(",")[0].strip()
    print(f"{world.size} ranks, {library}, HDF5 {h5py.version.hdf5_version}: {'ok' if good else 'WRONG DATA'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

"""What the tests of Slurm compare."""

import h5py
import numpy as np

#: A campaign that takes seconds.
ARGUMENTS = ("catalogue.csv", "--filters", "F150W,F277W", "--images", "none")

#: When, where and how often: no results.
INCIDENTAL = ("host", "rank", "seconds", "attempts", "memory", "started", "attempt")


def table(path, name):
    """A table without what depends on where and when it was made."""
    with h5py.File(path) as file:
        values = file[name][:]
    return {key: values[key] for key in values.dtype.names if key not in INCIDENTAL}


def same_results(a, b, tables=("galaxies", "sersic", "sources"), rtol=0.0):
    """All numbers of two results files are equal, to the bit unless told otherwise."""
    for name in tables:
        first, second = table(a, name), table(b, name)
        assert first.keys() == second.keys()
        for key in first:
            x, y = first[key], second[key]
            assert x.shape == y.shape, (name, key)
            if rtol and x.dtype.kind == "f":
                np.testing.assert_allclose(y, x, rtol=rtol, err_msg=f"{name} {key}")
            else:
                assert x.tobytes() == y.tobytes(), (name, key)

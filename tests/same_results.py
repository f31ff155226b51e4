"""Two results files of one campaign hold the same numbers."""

import h5py
import numpy as np

#: A campaign that takes seconds.
ARGUMENTS = ("catalogue.csv", "--filters", "F150W,F277W", "--images", "none")

#: When, where and how often: no results.
INCIDENTAL = ("host", "rank", "seconds", "attempts", "memory", "started", "attempt")
TABLES = ("galaxies", "sersic", "sources")

#: Columns of numbers that are measured, and of their errors.
MEASURED = {
    "sersic": {name: f"{name}_err" for name in ("x_0", "y_0", "r_eff", "n", "ellip", "theta", "total_flux", "sky")},
    "sources": {"x_fit": "x_err", "y_fit": "y_err", "flux_fit": "flux_err"},
}


def table(path, name):
    """A table without what depends on where and when it was made."""
    with h5py.File(path) as file:
        values = file[name][:]
    return {key: values[key] for key in values.dtype.names if key not in INCIDENTAL}


def same_results(a, b):
    """All numbers of two results files are equal, to the bit."""
    for name in TABLES:
        first, second = table(a, name), table(b, name)
        assert first.keys() == second.keys()
        for key in first:
            assert first[key].shape == second[key].shape, (name, key)
            assert first[key].tobytes() == second[key].tobytes(), (name, key)


def close_results(a, b):
    """Two installations have made them: the same galaxies, stars, flags, and numbers to a thousandth of their errors.

    Other versions of numpy and scipy round differently, and the fits stop at other last digits: 5e-5 of an error is
    the most that was seen in any number (kernels for AVX2 or AVX-512 make no difference). A thousandth leaves room for
    another processor and other versions; it is far below what any use of the numbers could notice. With other galaxies
    a decision at a threshold (one more pass, a star) may fall the other way for the same reason, and move numbers by a
    few hundredths of an error; with those of the tests none is so near to one.
    """
    for name in TABLES:
        first, second = table(a, name), table(b, name)
        assert first.keys() == second.keys()
        for key in first:
            assert first[key].shape == second[key].shape, (name, key)
            if first[key].dtype.kind != "f":
                assert first[key].tobytes() == second[key].tobytes(), (name, key)
        for key, error in MEASURED.get(name, {}).items():
            assert np.isfinite(first[error]).any(), (name, error)
            np.testing.assert_array_equal(np.isnan(first[key]), np.isnan(second[key]), err_msg=f"{name} {key}")
            moved = np.abs(second[key] - first[key]) / first[error]
            assert np.nanmax(moved) <= 1e-3, (name, key, np.nanmax(moved))

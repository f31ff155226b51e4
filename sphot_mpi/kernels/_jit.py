"""The one decorator of every kernel."""

from numba import njit

#: No `nnan`, no `ninf`: the data are full of NaN.
FASTMATH = {"contract", "arcp", "nsz", "reassoc"}

#: Division by zero gives inf or nan as in numpy; compiled once a machine.
jit = njit(cache=True, error_model="numpy", nogil=True)

#: The same with re-ordered sums, for loops whose input holds no NaN.
jit_fast = njit(cache=True, error_model="numpy", nogil=True, fastmath=FASTMATH)

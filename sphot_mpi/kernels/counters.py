"""How many kernels came from the cache in this process, and how many had to be compiled."""

import sys
from typing import NamedTuple

from numba.core.dispatcher import Dispatcher


class Counts(NamedTuple):
    """Numba's own counters, summed over our kernels.

    Parameters
    ----------
    loaded : int
        Kernels, once for each type of arguments, that were read from the cache.
    compiled : int
        Those that were not there.
    """

    loaded: int
    compiled: int


def count_kernels() -> Counts:
    """Return the counters of all kernels that this process has imported.

    Returns
    -------
    Counts
        Kernels that only other kernels call are part of these, and are not counted.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("sphot_mpi.kernels.")]
    kernels = {
        id(value): value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)
    }
    stats = [kernel.stats for kernel in kernels.values()]
    return Counts(
        loaded=sum(sum(stat.cache_hits.values()) for stat in stats),
        compiled=sum(sum(stat.cache_misses.values()) for stat in stats),
    )

"""The one decorator of every kernel."""

from collections.abc import Callable
from typing import Any

from numba import config as numba_config
from numba import njit

from sphot_mpi.kernel_cache import KernelCache, kernel_cache

#: No `nnan`, no `ninf`: the data are full of NaN.
FASTMATH = {"contract", "arcp", "nsz", "reassoc"}


#: Its attributes are made while it is imported, which a type checker cannot know.
config: Any = numba_config


def _use_cpu(cache: KernelCache) -> None:
    """Compile for a family of processors; with no features named, those of the family."""
    if cache.cpu is not None:
        config.CPU_NAME, config.CPU_FEATURES = cache.cpu, ""


def _decorator(cache: KernelCache, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles into the cache; only our kernels go there, not those of other packages."""

    def decorate(function: Callable[..., Any]) -> Any:
        others = config.CACHE_DIR
        config.CACHE_DIR = "" if cache.folder is None else str(cache.folder)
        try:
            return njit(cache=cache.folder is not None, error_model="numpy", nogil=True, **options)(function)
        finally:
            config.CACHE_DIR = others

    return decorate


CACHE = kernel_cache()
_use_cpu(CACHE)

#: Division by zero gives inf or nan as in numpy; compiled once a machine.
jit = _decorator(CACHE)

#: The same with re-ordered sums, for loops whose input holds no NaN.
jit_fast = _decorator(CACHE, fastmath=FASTMATH)

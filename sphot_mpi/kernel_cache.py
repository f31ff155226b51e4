"""Where compiled kernels are kept, so that they are compiled once and not by every rank.

Numba keeps what it compiled in one folder. Which one is decided here, before the first kernel is declared
(`kernels._jit`), and for the kernels of this program only:

``NUMBA_CACHE_DIR``
    Where it is set, a folder below it.
``SPHOT_KERNELS``
    A folder that another process has filled, such as that of a container image, which nobody can write, or one that
    all nodes share. Its files are copied, once a node, into a folder of the user's on the node's own disk:
    the ranks of a node read nothing else.
otherwise
    ``$XDG_CACHE_HOME/sphot-mpi/kernels``, that is ``~/.cache/sphot-mpi/kernels``.

Below these stands a folder a version: its name changes with Numba, with Python and with any line of a kernel, so
that several versions of the program share a cache, and none takes another's code. A folder that cannot be
written, or that another user owns or can write, is not used (cached code is run, after all): then it is one in
``$TMPDIR``, of this user alone. All of them can be deleted at any time.

``SPHOT_KERNELS_CPU=x86-64-v3`` compiles for any processor with AVX2 rather than for this one, which is what makes
a cache portable. On a processor without it the name is ignored, and kernels are compiled for what is there.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: Processor families that a cache can be compiled for, and the flags of /proc/cpuinfo that they ask for.
PORTABLE_CPUS = {
    "x86-64-v3": frozenset(
        ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
        + ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
    )
}

KERNELS = Path(__file__).with_name("kernels")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCache:
    """Where compiled kernels come from and go to.

    Parameters
    ----------
    folder : Path or None
        Where Numba reads and writes; None: nowhere, every process compiles for itself.
    cpu : str or None
        Processor family to compile for; None: this machine's processor.
    """

    folder: Path | None
    cpu: str | None


def kernel_cache(environ: Mapping[str, str] = os.environ, cpu_flags: frozenset[str] | None = None) -> KernelCache:
    """Choose the folder, make it, and fill it from ``SPHOT_KERNELS`` if that is set.

    Parameters
    ----------
    environ : mapping of str to str
        The environment.
    cpu_flags : frozenset of str, optional
        What the processor can do; default: what /proc/cpuinfo says.

    Returns
    -------
    KernelCache
        With a folder that exists and that only this user can write.
    """
    cpu = _portable_cpu(environ, cpu_flags)
    stamp = version_stamp()
    shipped = Path(environ["SPHOT_KERNELS"]) / stamp if environ.get("SPHOT_KERNELS") else None
    tried = (private_folder(base, below) for base, below in _candidates(environ, stamp, shipped))
    folder = next((folder for folder in tried if folder is not None), None)
    if folder is not None and shipped is not None and shipped != folder and shipped.is_dir():
        copy_missing(shipped, folder)
    return KernelCache(folder=folder, cpu=cpu)


def _portable_cpu(environ: Mapping[str, str], cpu_flags: frozenset[str] | None) -> str | None:
    """Return the family that ``SPHOT_KERNELS_CPU`` asks for, where the processor belongs to it."""
    name = environ.get("SPHOT_KERNELS_CPU", "")
    if name not in PORTABLE_CPUS or "NUMBA_CPU_NAME" in environ:
        return None
    return name if PORTABLE_CPUS[name] <= (read_cpu_flags() if cpu_flags is None else cpu_flags) else None


def read_cpu_flags(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the flags of the first processor, none where the system does not tell."""
    try:
        with path.open() as lines:  # the whole file takes long on nodes of hundreds of cores
            return next((frozenset(line.split()) for line in lines if line.startswith("flags")), frozenset())
    except OSError:
        return frozenset()


def version_stamp(sources: Iterable[Path] | None = None) -> str:
    """Return a name that changes with the versions of Numba and Python and with any line of a kernel.

    Numba itself looks at the one file of a kernel, not at those of the kernels that it calls.

    Parameters
    ----------
    sources : iterable of Path, optional
        Files of the kernels; default: all of ours.

    Returns
    -------
    str
        Such as ``numba0.68.1-py311-5d1c2a7f9e04``.
    """
    from importlib.metadata import version

    digest = hashlib.sha256()
    for path in sorted(KERNELS.glob("*.py") if sources is None else sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    tag = f"py{sys.version_info.major}{sys.version_info.minor}"
    return f"numba{version('numba')}-{tag}-{digest.hexdigest()[:12]}"


def _candidates(environ: Mapping[str, str], stamp: str, shipped: Path | None) -> Iterator[tuple[Path, str]]:
    """Folders that are the user's choice, and what we make below them, in the order in which they are tried.

    Yields
    ------
    (Path, str)
        A folder, and the path below it.
    """
    if environ.get("NUMBA_CACHE_DIR"):
        yield Path(environ["NUMBA_CACHE_DIR"]), stamp
    elif shipped is None and environ.get("XDG_CACHE_HOME"):
        yield Path(environ["XDG_CACHE_HOME"]), f"sphot-mpi/kernels/{stamp}"
    elif shipped is None and environ.get("HOME"):
        yield Path(environ["HOME"]) / ".cache", f"sphot-mpi/kernels/{stamp}"
    yield Path(environ.get("TMPDIR") or tempfile.gettempdir()), f"sphot-mpi-{os.getuid()}/kernels/{stamp}"


def private_folder(base: Path, below: str) -> Path | None:
    """Make a folder that nobody else can put code into.

    Parameters
    ----------
    base : Path
        Where the user wants it; made if missing, else taken as it is.
    below : str
        Path below `base`, of which every part must be this user's.

    Returns
    -------
    Path or None
        None if it cannot be made or written, or if another user owns or can write a part of it.
    """
    folder = base
    try:
        base.mkdir(parents=True, exist_ok=True)
        for part in below.split("/"):
            folder = folder / part
            folder.mkdir(mode=0o700, exist_ok=True)
            about, link = folder.stat(), folder.lstat()
            if {about.st_uid, link.st_uid} != {os.getuid()} or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    return folder


def copy_missing(source: Path, folder: Path) -> None:
    """Copy the files of one cache into another that does not have them; one process of a node at a time.

    A cache that cannot be read is no error: what is missing is compiled.
    """
    with _locked(folder / ".lock"):
        for path in sorted(source.rglob("*.nb?"), key=lambda path: path.suffix):  # code first, then the index to it
            target = folder / path.relative_to(source)
            if target.exists():
                continue
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as copy:
                    shutil.copyfileobj(path.open("rb"), copy)
                Path(copy.name).replace(target)
            except OSError:
                return


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the other processes; a file system without locks only costs a few copies too many."""
    with path.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

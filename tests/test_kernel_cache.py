"""Where compiled kernels go: one folder a version, of this user alone, filled from another where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sphot_mpi import kernel_cache as kc

V3 = kc.PORTABLE_CPUS["x86-64-v3"]


@pytest.fixture
def environ(tmp_path):
    """A user's folders, all below one that the test owns."""
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    return {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}


def fill(folder: Path) -> Path:
    """A cache as another process may have left it."""
    place = folder / kc.version_stamp() / "kernels_1"
    place.mkdir(parents=True)
    (place / "f.py311.nbi").write_bytes(b"index")
    (place / "f.py311.1.nbc").write_bytes(b"code")
    (place / "f.py311.2.nbc.tmp.abcd").write_bytes(b"half")
    return place


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_the_cache_is_in_the_home(environ):
    folder = kc.kernel_cache(environ).folder
    assert folder == Path(environ["HOME"]) / ".cache" / "sphot-mpi" / "kernels" / kc.version_stamp()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_numba_cache_dir_and_xdg_cache_home_come_first(environ, tmp_path):
    environ["XDG_CACHE_HOME"] = str(tmp_path / "xdg")
    assert tmp_path / "xdg" in kc.kernel_cache(environ).folder.parents
    environ["NUMBA_CACHE_DIR"] = str(tmp_path / "numba" / "deep")
    assert kc.kernel_cache(environ).folder == tmp_path / "numba" / "deep" / kc.version_stamp()


def test_without_a_home_that_can_be_written_it_is_in_tmp(environ):
    environ["HOME"] = "/proc/nobody"
    folder = kc.kernel_cache(environ).folder
    assert folder == Path(environ["TMPDIR"]) / f"sphot-mpi-{os.getuid()}" / "kernels" / kc.version_stamp()


def test_nowhere_to_write_is_no_error(environ):
    environ.update(HOME="/proc/nobody", TMPDIR="/proc/nothing")
    assert kc.kernel_cache(environ).folder is None


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_not_used(environ, mode):
    """Cached code is run: whoever can write there could run code as this user."""
    ours = Path(environ["HOME"]) / ".cache" / "sphot-mpi"
    ours.mkdir(parents=True)
    ours.chmod(mode)
    assert Path(environ["TMPDIR"]) in kc.kernel_cache(environ).folder.parents


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of somebody else")
def test_a_folder_of_another_user_is_not_used(environ):
    planted = Path(environ["TMPDIR"]) / f"sphot-mpi-{os.getuid()}"
    planted.mkdir()
    os.chown(planted, 12345, 12345)
    environ["HOME"] = "/proc/nobody"
    assert kc.kernel_cache(environ).folder is None


def test_a_link_planted_by_another_user_is_not_followed(environ, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can make a link of somebody else")
    (tmp_path / "elsewhere").mkdir()
    link = Path(environ["TMPDIR"]) / f"sphot-mpi-{os.getuid()}"
    link.symlink_to(tmp_path / "elsewhere")
    os.chown(link, 12345, 12345, follow_symlinks=False)
    environ["HOME"] = "/proc/nobody"
    assert kc.kernel_cache(environ).folder is None


def test_a_filled_cache_is_copied_to_the_node(environ, tmp_path):
    fill(tmp_path / "image")
    environ["SPHOT_KERNELS"] = str(tmp_path / "image")
    folder = kc.kernel_cache(environ).folder
    assert Path(environ["TMPDIR"]) in folder.parents
    assert files(folder) == {"f.py311.nbi", "f.py311.1.nbc"}  # no half-written file


def test_what_was_compiled_since_is_not_overwritten(environ, tmp_path):
    """Index and code belong together: an entry of this node's is newer than the one that it was filled with."""
    source = fill(tmp_path / "image")
    environ["SPHOT_KERNELS"] = str(tmp_path / "image")
    index = kc.kernel_cache(environ).folder / source.name / "f.py311.nbi"
    index.write_bytes(b"newer")
    assert kc.kernel_cache(environ).folder is not None
    assert index.read_bytes() == b"newer"


def test_a_cache_of_another_version_is_not_copied(environ, tmp_path):
    fill(tmp_path / "image").parent.rename(tmp_path / "image" / "numba0.1-py27-000000000000")
    environ["SPHOT_KERNELS"] = str(tmp_path / "image")
    assert files(kc.kernel_cache(environ).folder) == set()


def test_a_whole_node_at_once_copies_a_whole_cache(environ, tmp_path):
    fill(tmp_path / "image")
    code = "from sphot_mpi.kernel_cache import kernel_cache; print(len(list(kernel_cache().folder.rglob('*.nb?'))))"
    command = {"args": [sys.executable, "-c", code], "stdout": subprocess.PIPE, "text": True}
    surroundings = {**os.environ, **environ, "SPHOT_KERNELS": str(tmp_path / "image")}
    surroundings.pop("NUMBA_CACHE_DIR", None)
    ranks = [subprocess.Popen(**command, env=surroundings) for _ in range(6)]
    assert [rank.communicate(timeout=60)[0].strip() for rank in ranks] == ["2"] * 6


def test_a_portable_cpu_is_used_where_it_can_run(environ):
    environ["SPHOT_KERNELS_CPU"] = "x86-64-v3"
    assert kc.kernel_cache(environ, cpu_flags=V3 | {"avx512f"}).cpu == "x86-64-v3"
    assert kc.kernel_cache(environ, cpu_flags=V3 - {"avx2"}).cpu is None  # it would die of an illegal instruction
    assert kc.kernel_cache({**environ, "NUMBA_CPU_NAME": "generic"}, cpu_flags=V3).cpu is None
    assert kc.kernel_cache({**environ, "SPHOT_KERNELS_CPU": "z80"}, cpu_flags=V3).cpu is None


def test_flags_are_read_from_the_first_processor(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags\t\t: fpu avx2 fma\n\nprocessor : 1\nflags\t\t: sse\n")
    assert {"avx2", "fma"} <= kc.read_cpu_flags(info)
    assert "sse" not in kc.read_cpu_flags(info)
    assert kc.read_cpu_flags(tmp_path / "missing") == frozenset()


def test_the_version_changes_with_any_line_of_any_kernel(tmp_path):
    """Numba looks only at the file of the kernel itself, not at those that it calls."""
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    a.write_text("1")
    b.write_text("2")
    before = kc.version_stamp([a, b])
    assert kc.version_stamp([b, a]) == before
    b.write_text("3")
    assert kc.version_stamp([a, b]) != before


def test_only_our_kernels_go_there():
    """Other packages keep the cache that they would have without us."""
    from numba import config

    from sphot_mpi.kernels import stats
    from sphot_mpi.kernels._jit import CACHE

    assert CACHE.folder is not None
    assert CACHE.folder in Path(stats.median_mad.stats.cache_path).parents
    assert str(CACHE.folder) != config.CACHE_DIR


def test_counters_tell_loaded_from_compiled(tmp_path):
    """The counters that `warmup --check` and the image's test rest on: first compiled, then loaded."""
    code = (
        "import numpy as np; from sphot_mpi.kernels import stats; stats.median_mad(np.arange(9.0));"
        "from sphot_mpi.kernels.counters import count_kernels as c; print(c().loaded, c().compiled)"
    )
    surroundings = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(
            command, env=surroundings, capture_output=True, text=True, timeout=120, check=True
        ).stdout.split()
        for _ in range(2)
    )
    assert first == ["0", "2"]  # median_mad, and the kernel that it calls
    assert second == ["1", "0"]  # one file holds both


def test_the_warm_up_leaves_out_no_kernel():
    """A kernel that Python code names, and that no fit of the warm-up has called, would be compiled by every rank."""
    code = """
import importlib, pkgutil, re
from pathlib import Path
from numba.core.dispatcher import Dispatcher
import sphot_mpi.kernels
from sphot_mpi.warmup import warm_up

warm_up()
package = Path(sphot_mpi.kernels.__path__[0])
source = "".join(path.read_text() for path in package.parent.rglob("*.py") if path.parent != package)
for info in pkgutil.iter_modules([str(package)]):
    module = importlib.import_module(f"sphot_mpi.kernels.{info.name}")
    for name, kernel in vars(module).items():
        ours = isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__
        used = rf"kernels[.]{name}[(]|kernels[.]{info.name} import ([(][^)]*|[^(\\n]*)\\b{name}\\b"
        if ours and not kernel.signatures and re.search(used, source):
            print(info.name, name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=True, env=dict(os.environ)
    )
    assert done.stdout == ""

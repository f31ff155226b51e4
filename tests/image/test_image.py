"""The image: every way of running it gives the same numbers, and nothing is compiled.

`SPHOT_IMAGE` names the file; `make test-image` builds it first.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import pytest
from same_results import close_results, same_results

ROOT = Path(__file__).resolve().parents[2]
IMAGE = os.environ.get("SPHOT_IMAGE", "")

pytestmark = [
    pytest.mark.image,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path(IMAGE).is_file(), reason="SPHOT_IMAGE names no image (make image)"),
    pytest.mark.skipif(shutil.which("apptainer") is None, reason="no apptainer (container/setup_apptainer.sh)"),
]

CHOICE = ("--filters", "F150W,F277W", "--overwrite")
USER = "sphot-image-test"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that everybody can read, with a campaign of two galaxies."""
    folder = tmp_path_factory.mktemp("image")
    for path in (folder, *folder.parents):
        if path.name.startswith("pytest-"):
            path.chmod(0o755)
    apptainer("run", IMAGE, "simulate", "campaign", "-n", "2", "--seed", "5", "--kind", "easy", folder=folder)
    return folder


def environment(**more):
    """No cache and no setting of the bare program reaches the container, and no launcher."""
    names = ("PATH", "HOME", "LANG", "TERM", "USER", "APPTAINER_DROP_CAPS")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    oversubscribe = {
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    return {**{name: os.environ[name] for name in names if name in os.environ}, **allowed, **oversubscribe, **more}


def call(*command, folder, **more):
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


def apptainer(*arguments, folder, **more):
    return call("apptainer", *arguments, folder=folder, **more)


@pytest.fixture(scope="module")
def serial(folder):
    """Results of one container, started with an empty cache, and what numba's cache said on the way."""
    temporary = folder / "temporary"
    temporary.mkdir()
    own = {"APPTAINERENV_NUMBA_DEBUG_CACHE": "1", "APPTAINERENV_TMPDIR": "/mnt"}
    words = apptainer(
        *("run", "--bind", f"{temporary}:/mnt", IMAGE, "campaign/catalogue.csv", "-o", "serial.h5", *CHOICE),
        folder=folder,
        **own,
    )
    return folder / "serial.h5", words


def mpirun():
    """The host's launcher for the MPI in the image."""
    types = subprocess.run(["apptainer", "run", IMAGE, "launcher"], capture_output=True, text=True, check=True).stdout
    name = "mpirun.openmpi" if "pmix" in types.split()[0] else "mpirun.mpich"
    return shutil.which(name) or pytest.skip(f"no {name} on this machine")


def test_selftest(folder):
    assert "sphot-mpi works here." in apptainer("test", IMAGE, folder=folder)


def test_labels(folder):
    labels = apptainer("inspect", "--labels", IMAGE, folder=folder)
    version = re.search(r'__version__ = "(.*)"', (ROOT / "sphot_mpi" / "__init__.py").read_text())[1]
    assert f"org.opencontainers.image.version: {version}" in labels
    assert "org.opencontainers.image.licenses: BSD-3-Clause" in labels
    assert "srun" in apptainer("run-help", IMAGE, folder=folder)


def test_the_first_fit_in_a_new_container_compiles_nothing(serial):
    """Numba says of each file of its cache whether it was read or written."""
    words = serial[1]
    assert words.count("[cache] data loaded") > 10
    assert "[cache] data saved" not in words
    assert "[cache] index saved" not in words


def test_it_gives_what_the_bare_program_gives(folder, serial):
    call(
        *(sys.executable, "-m", "sphot_mpi", "campaign/catalogue.csv", "-o", "bare.h5", *CHOICE),
        folder=folder,
        PYTHONPATH=str(ROOT),
    )
    close_results(folder / "bare.h5", serial[0])


def test_packages_of_the_host_do_not_reach_the_program(folder):
    """Modules of a cluster set PYTHONPATH, and Apptainer hands on the environment."""
    package = folder / "host" / "sphot_mpi"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('that of the host')")
    assert "sphot-mpi, version" in apptainer("run", IMAGE, "--version", folder=folder, PYTHONPATH=folder / "host")


def test_mpirun_in_the_image(folder, serial):
    apptainer(
        *("exec", IMAGE, "mpirun", "-n", "2", "sphot-mpi", "campaign/catalogue.csv", "-o", "inside.h5", *CHOICE),
        folder=folder,
    )
    same_results(serial[0], folder / "inside.h5")


def test_the_hosts_mpirun_starts_a_container_a_rank(folder, serial):
    words = call(
        *(
            mpirun(),
            "-n",
            "2",
            shutil.which("apptainer"),
            "run",
            IMAGE,
            "campaign/catalogue.csv",
            "-o",
            "hybrid.h5",
            *CHOICE,
        ),
        folder=folder,
    )
    assert words.count("2 galaxies, tasks: 4 done") == 1  # one campaign, not two of one rank
    same_results(serial[0], folder / "hybrid.h5")
    with h5py.File(folder / "hybrid.h5") as file:
        assert file.attrs["ranks"] == 2


def test_the_hosts_mpi_in_place_of_the_images(folder, serial):
    """What is done on a Cray; here another version of MPICH stands for it."""
    launcher = mpirun()
    if not launcher.endswith("mpich"):
        pytest.skip("only the MPICH family has one binary interface")
    library = next(Path("/usr/lib").glob("*/libmpich.so.12"))
    host = folder / "hostmpi"
    call(ROOT / "container" / "host_mpi.sh", library, host, folder=folder)
    inside = (shutil.which("apptainer"), "exec", "--bind", host, "--env", f"LD_LIBRARY_PATH={host}", IMAGE)
    version = "from mpi4py import MPI; print(MPI.Get_library_version())"
    theirs, ours = (
        call(*command, "python", "-c", version, folder=folder) for command in (inside, (*inside[:2], IMAGE))
    )
    assert theirs != ours
    call(
        *(launcher, "-n", "2", *inside, "sphot-mpi", "campaign/catalogue.csv", "-o", "bind.h5", *CHOICE), folder=folder
    )
    same_results(serial[0], folder / "bind.h5")


@pytest.fixture(scope="module")
def user():
    """A user without privileges, for as long as the tests run."""
    if os.getuid() != 0:
        pytest.skip("the tests run without privileges already")
    subprocess.run(["useradd", "--create-home", USER], check=True, capture_output=True)
    entry = pwd.getpwnam(USER)
    yield entry
    shutil.rmtree(Path(tempfile.gettempdir()) / f"sphot-mpi-{entry.pw_uid}", ignore_errors=True)
    subprocess.run(["userdel", "--remove", USER], check=False, capture_output=True)


def test_without_privileges(folder, serial, user):
    home = Path(user.pw_dir)
    shutil.copytree(folder / "campaign", home / "campaign")
    subprocess.run(["chown", "-R", USER, home], check=True)
    image = home / "image.sif"
    shutil.copy(IMAGE, image)  # where the user can read it
    image.chmod(0o644)
    for command in (
        f"apptainer exec {image} mpirun -n 2 sphot-mpi campaign/catalogue.csv -o inside.h5",
        f"{mpirun()} -n 2 {shutil.which('apptainer')} run {image} campaign/catalogue.csv -o hybrid.h5",
    ):
        # the user's environment, not root's
        call("su", "-", USER, "-c", f"OMPI_MCA_rmaps_base_oversubscribe=1 {command} {' '.join(CHOICE)}", folder="/")
    same_results(serial[0], home / "inside.h5")
    same_results(serial[0], home / "hybrid.h5")

#!/usr/bin/env python3
"""Write the lock files of the image: every package that goes in, with its version and hash.

    .venv/bin/python container/lock.py

It asks pip what it would install for the image's Python from the dependencies of pyproject.toml, and writes
container/requirements.lock (what the program needs) and container/build.lock (what h5py is built with). Which index
pip asks is pip's own setting and stands in neither file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Debian trixie's, that of Apptainer.def.
PYTHON = "3.13"
PLATFORMS = ("manylinux_2_39_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
#: Built from source on the image's MPI, with these.
FROM_SOURCE = "h5py"
BUILD_TOOLS = ("setuptools>=77", "Cython>=3,<4", "pkgconfig")


def ask_pip(python: Path | str, *arguments: str) -> dict[str, tuple[str, str]]:
    """Return what pip would install: version and hash of each package by name."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-cache-dir"]
        subprocess.run([*command, "--report", report.name, *arguments], check=True)
        found = json.loads(Path(report.name).read_bytes())["install"]
    return {
        package["metadata"]["name"].lower().replace("_", "-"): (
            package["metadata"]["version"],
            package["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for package in found
    }


def for_the_image(*requirements: str) -> dict[str, tuple[str, str]]:
    """Resolve wheels for the image's Python, whatever Python runs this."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    abis = ["--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    with tempfile.TemporaryDirectory() as target:
        return ask_pip(
            sys.executable,
            *("--target", target, "--only-binary=:all:", "--python-version", PYTHON),
            *platforms,
            *abis,
            *requirements,
        )


def source_of(name: str, version: str) -> tuple[str, str]:
    """Return version and hash of a package's source archive."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *BUILD_TOOLS, "numpy"], check=True)
        return ask_pip(python, "--no-deps", "--no-build-isolation", "--no-binary", name, f"{name}=={version}")[name]


def write(path: Path, what: str, packages: dict[str, tuple[str, str]]) -> None:
    """Write pip's requirements format."""
    lines = [f"{name}=={version} --hash=sha256:{digest}" for name, (version, digest) in sorted(packages.items())]
    path.write_text(f"# {what} for Python {PYTHON}; written by container/lock.py\n" + "\n".join(lines) + "\n")
    print(f"{path}: {len(lines)} packages")


def main() -> None:
    """Resolve and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    packages = for_the_image(*project["dependencies"], *project["optional-dependencies"]["mpi"])
    packages[FROM_SOURCE] = source_of(FROM_SOURCE, packages[FROM_SOURCE][0])
    write(HERE / "requirements.lock", "What the program needs", packages)
    write(
        HERE / "build.lock",
        f"What {FROM_SOURCE} and the program are built with",
        for_the_image(*BUILD_TOOLS, "hatchling>=1.21"),
    )


if __name__ == "__main__":
    main()

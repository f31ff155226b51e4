"""The image's lock files hold what pyproject.toml asks for; no file of ours names a registry."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def locked(name: str) -> dict[str, str]:
    lines = (ROOT / "container" / name).read_text().splitlines()
    return dict(line.split(" --hash=sha256:")[0].split("==") for line in lines if not line.startswith("#"))


def version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def test_every_dependency_is_locked():
    """If this fails: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = locked("requirements.lock")
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["mpi"]):
        name, least = re.fullmatch(r"([A-Za-z0-9_-]+)>=([0-9.]+)", requirement).groups()
        assert name.lower() in packages, name
        assert version(packages[name.lower()]) >= version(least), requirement


@pytest.mark.parametrize("name", ["requirements.lock", "build.lock"])
def test_lock_files_have_hashes_and_no_addresses(name):
    lines = [line for line in (ROOT / "container" / name).read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 5
    assert all(re.fullmatch(r"[a-z0-9.-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


def test_each_script_is_executable():
    """But for what is sourced, or given to sbatch."""
    scripts = [*ROOT.glob("container/*.sh"), *ROOT.glob("slurm/*.sh"), *ROOT.glob("slurm/testbed/*.sh")]
    assert [path.name for path in scripts if not path.stat().st_mode & 0o100] == ["job.sh"]

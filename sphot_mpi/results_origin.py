"""Where a results file comes from: the attributes of its root."""

import datetime
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py

import sphot_mpi
from sphot_mpi.catalogue import Catalogue
from sphot_mpi.config import Config
from sphot_mpi.results_schema import FORMAT, FORMAT_VERSION

_LIBRARIES = ("numpy", "scipy", "astropy", "h5py", "numba", "photutils", "pydantic")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CampaignInfo:
    """What the results file tells of a campaign as a whole; the same on all ranks.

    Parameters
    ----------
    catalogue : Catalogue
        What was asked for.
    config : Config
        How.
    command_line : str
        As typed.
    ranks : int
        MPI ranks.
    restarts : int
        Times that the campaign was started again.
    images : tuple of str
        Names of `results_schema.IMAGES` to store.
    psf : bool
        Whether every fit's PSF is stored.
    photometry : bool
        Whether aperture photometry is part of the campaign.
    compress : bool
        Whether image stacks are compressed.
    """

    catalogue: Catalogue
    config: Config
    command_line: str = ""
    ranks: int = 1
    restarts: int = 0
    images: tuple[str, ...] = ()
    psf: bool = False
    photometry: bool = False
    compress: bool = True


def root_attributes(info: CampaignInfo, *, complete: bool) -> Mapping[str, Any]:
    """Return the attributes of the file's root; rank 0 makes them for all.

    Parameters
    ----------
    info : CampaignInfo
        About the campaign.
    complete : bool
        Whether every task of every galaxy has ended.

    Returns
    -------
    mapping
        By name.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "creator": "sphot-mpi",
        "creator_version": sphot_mpi.__version__,
        "git_commit": git_commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": info.command_line,
        "configuration": info.config.to_toml(),
        "configuration_sha256": info.config.digest(),
        "catalogue": str(info.catalogue.path),
        "catalogue_sha256": info.catalogue.digest,
        "versions": "\n".join(_versions()),
        "ranks": info.ranks,
        "restarts": info.restarts,
        "complete": complete,
    }


def _versions() -> list[str]:
    found = [f"python {platform.python_version()}"]
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} unknown")
    return [*found, f"hdf5 {h5py.version.hdf5_version}"]


def git_commit() -> str:
    """Return the commit of the source tree the program runs from; empty where there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

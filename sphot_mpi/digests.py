"""What a task's outcome depends on, as a digest: settings of the configuration and the row, and the bytes of its files.

A digest has three parts of 16 hex characters (64 bits of SHA-256): settings, the files' names, sizes and
times, and the files' contents. Files whose sizes and times are those of the record are taken to be the same;
others are read and compared, so that a campaign that was copied or touched does not run again.
"""

import hashlib
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import sphot_mpi
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import Config
from sphot_mpi.schedule import TaskKind

#: Hex characters of one part.
PART = 16
#: Stands for a file that cannot be read.
UNKNOWN = "0" * PART

#: Files whose identity is kept; a worker goes from galaxy to galaxy and back at most once.
_KEPT = 64


class Settings:
    """Digests of the settings that can change a task's outcome, its row's and the program's version included.

    Parameters
    ----------
    config : Config
        The campaign's configuration.
    version : str
        Version of the program.

    Notes
    -----
    Names, numbers and other columns of the catalogue that no fit looks at do not count, nor which other
    filters there are. A fit does not depend on the section ``[aperture]``. Photometry does not depend on the settings
    of the fits but through them: it runs again whenever one of them does.
    """

    def __init__(self, config: Config, version: str = sphot_mpi.__version__) -> None:
        self._config = config
        self._values = config.model_dump(mode="json", by_alias=True, exclude={"preset"})
        self._version = version
        self._known: dict[tuple[object, ...], str] = {}

    def of(self, galaxy: Galaxy, kind: TaskKind, filter_name: str) -> str:
        """Return the digest of a task's settings.

        Parameters
        ----------
        galaxy : Galaxy
            The row.
        kind : TaskKind
            Which task.
        filter_name : str
            Filter; empty for photometry.

        Returns
        -------
        str
            `PART` hex characters.
        """
        forced = filter_name in galaxy.forced
        filters = galaxy.filters if kind is TaskKind.PHOTOMETRY else ()
        key = (kind, filter_name, galaxy.base_filter, forced, filters)
        if key not in self._known:
            self._known[key] = self._digest(kind, filter_name, galaxy.base_filter, forced, filters)
        return self._known[key]

    def _digest(
        self, kind: TaskKind, filter_name: str, base_filter: str, forced: bool, filters: tuple[str, ...]
    ) -> str:
        values = {name: dict(value) if isinstance(value, dict) else value for name, value in self._values.items()}
        prep, core = values["prep"], values["core"]
        for name in ("filters", "PSF_file"):  # which filters there are, and a name; the library's bytes count
            del prep[name]
        core["base_filter"] = base_filter
        del core["scale_positions"]
        if kind is TaskKind.PHOTOMETRY:
            wanted: dict[str, Any] = {"prep": prep, "aperture": values["aperture"], "filters": list(filters)}
        else:
            blur = prep["blur_psf"]
            prep["blur_psf"] = {filter_name: blur[filter_name]} if filter_name in blur else {}
            del values["aperture"]
            wanted = values
        if kind is TaskKind.SCALE:
            wanted["positions"] = "forced" if forced else self._config.core.positions_for(filter_name)
        wanted["task"] = [kind.value, filter_name, base_filter, self._version]
        return _short(json.dumps(wanted, sort_keys=True, allow_nan=False).encode())


class InputFiles:
    """Digests of the input files of galaxies; those of the last few are remembered."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, str] = OrderedDict()

    def of(self, galaxy: Galaxy) -> str:
        """Return the parts of the digest that tell the files, for a record; ask before the files are read.

        Parameters
        ----------
        galaxy : Galaxy
            With galaxy file and PSF library.

        Returns
        -------
        str
            Two parts: names, sizes and times; contents.
        """
        return self.stat(galaxy) + self.content(galaxy)

    def stat(self, galaxy: Galaxy) -> str:
        """Return the part that tells names, sizes and times; they are looked at each time."""
        return _short("\n".join(_look(path) for path in (galaxy.path, galaxy.psf)).encode())

    def same(self, digest: str, galaxy: Galaxy, stat: str) -> bool:
        """Whether a galaxy's files are those of a recorded digest: by their `stat` of now, or else by contents."""
        then, content = digest[PART : 2 * PART], digest[2 * PART : 3 * PART]
        return then == stat or (content != UNKNOWN and content == self.content(galaxy))

    def content(self, galaxy: Galaxy) -> str:
        """Return the part that tells the contents; `UNKNOWN` if a file cannot be read."""
        parts = [self._content(path) for path in (galaxy.path, galaxy.psf)]
        return UNKNOWN if UNKNOWN in parts else _short("\n".join(parts).encode())

    def _content(self, path: Path) -> str:
        look = _look(path)
        if look not in self._contents:
            try:
                with path.open("rb") as file:
                    self._contents[look] = hashlib.file_digest(file, "sha256").hexdigest()[:PART]
            except OSError:  # the task that reads it says what is wrong
                return UNKNOWN
            while len(self._contents) > _KEPT:
                self._contents.popitem(last=False)
        self._contents.move_to_end(look)
        return self._contents[look]


def _look(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return f"{path} is not there"
    return f"{path.absolute()} {stat.st_size} {stat.st_mtime_ns}"


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:PART]

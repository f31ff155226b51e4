"""Parts of a catalogue for several jobs side by side, each with a master and a results file of its own."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.errors import UsageError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` parts, numbered from 1; a galaxy's name decides in which it is, whatever rows are added."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that ``I/N`` names.

        Raises
        ------
        UsageError
            If the text is something else, or I is not 1 to N.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            msg = f"--shard {text!r} must be I/N with I from 1 to N, like 3/10."
            raise UsageError(msg)
        return cls(int(match[1]), int(match[2]))

    def of(self, catalogue: Catalogue) -> Catalogue:
        """Return the shard's galaxies, in the order of the catalogue.

        Raises
        ------
        UsageError
            If there is none.
        """
        names = [galaxy.name for galaxy in catalogue.galaxies if self._has(galaxy.name)]
        if not names:
            msg = f"{catalogue.path}: none of its {len(catalogue.galaxies)} galaxies is in shard {self}; ask for fewer."
            raise UsageError(msg)
        return catalogue.select(names)

    def path(self, output: Path) -> Path:
        """Return the shard's own results file: ``results.03-of-10.h5``."""
        width = len(str(self.count))
        return output.with_name(f"{output.stem}.{self.number:0{width}d}-of-{self.count}{output.suffix}")

    def _has(self, name: str) -> bool:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        return number % self.count == self.number - 1

    def __str__(self) -> str:
        """Return I/N."""
        return f"{self.number}/{self.count}"

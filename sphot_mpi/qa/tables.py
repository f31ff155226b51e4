"""The tables of a campaign by galaxy: what pictures and report look up again and again, read once."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.stored_inputs import petrosian_index

Rows = NDArray[np.void]


class CampaignTables:
    """Rows of the results file's tables by galaxy.

    Parameters
    ----------
    reader : ResultsReader
        Open as long as this is used.
    limit : int, optional
        Only the first so many galaxies; default: all.

    Attributes
    ----------
    galaxies : (n,) structured ndarray
        /galaxies, as far as `limit` says.
    """

    def __init__(self, reader: ResultsReader, limit: int | None = None) -> None:
        self.reader = reader
        self.galaxies: Rows = reader.array("galaxies")[:limit]
        self._tables: dict[str, tuple[Rows, NDArray[np.int64], NDArray[np.int64]]] = {}

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return {bytes(name): row for row, name in enumerate(self.galaxies["name"])}

    @cached_property
    def filters(self) -> tuple[str, ...]:
        """All filters of /sersic, as they first come."""
        return tuple(dict.fromkeys(value.decode() for value in self.table("sersic")["filter"]))

    @cached_property
    def petrosian_index(self) -> float:
        """Petrosian index of `petro_radius` in /photometry."""
        return petrosian_index(self.reader)

    def has(self, table: str) -> bool:
        """Whether the file has such a table."""
        return table in self.reader.file

    def table(self, name: str) -> Rows:
        """Return the rows of a table that belong to these galaxies, galaxy after galaxy."""
        return self._sorted(name)[0]

    def owners(self, name: str) -> NDArray[np.int64]:
        """Return the galaxy, as its row in `galaxies`, of each row of `table`."""
        return self._sorted(name)[1]

    def rows(self, name: str, galaxy: int) -> Rows:
        """Return the rows of a table that belong to one galaxy, in the order of the file."""
        table, owner, _ = self._sorted(name)
        return table[slice(*np.searchsorted(owner, [galaxy, galaxy + 1]))]

    def row(self, name: str, galaxy: int, filter_name: str) -> np.void | None:
        """Return the row of one galaxy and filter, or None."""
        rows = self.rows(name, galaxy)
        found: Rows = rows[rows["filter"] == filter_name.encode()]
        return found[0] if found.size else None

    def place(self, name: str, galaxy: int, filter_name: str) -> int | None:
        """Return where the row of one galaxy and filter stands in the file, or None."""
        table, owner, order = self._sorted(name)
        first, last = np.searchsorted(owner, [galaxy, galaxy + 1])
        found = np.flatnonzero(table["filter"][first:last] == filter_name.encode())
        return int(order[first + found[0]]) if found.size else None

    def _sorted(self, name: str) -> tuple[Rows, NDArray[np.int64], NDArray[np.int64]]:
        if name not in self._tables:
            table = self.reader.array(name)
            owner = np.array([self._index.get(bytes(value), -1) for value in table["name"]], dtype=np.int64)
            order = np.argsort(owner, kind="stable")
            order = order[owner[order] >= 0]
            self._tables[name] = table[order], owner[order], order
        return self._tables[name]


def words(value: object) -> str:
    """Return a cell's text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

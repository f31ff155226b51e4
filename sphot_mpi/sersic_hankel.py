"""The Fourier transform of the Sersic profile, from the shipped table.

`benchmarks/build_sersic_table.py` makes the table and says what is in it. It is good to 2e-8 of F(0) = 1 for
0.28 <= n <= 8.4.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np

from sphot_mpi.records import Array

#: Indices the table holds.
N_MIN, N_MAX = 0.28, 8.4

#: Points of the interpolation in ln n.
_STENCIL = 6
_CENTRE = 2.5
#: From values on the points to coefficients of powers about the centre.
_TO_POWERS = np.linalg.inv(np.vander(np.arange(_STENCIL) - _CENTRE, increasing=True))


@dataclass(frozen=True, slots=True, eq=False)
class HankelTable:
    """Nodes of F(n, kappa^2).

    Parameters
    ----------
    log_n : (n_nodes,) float64 ndarray
        Nodes, evenly spaced.
    table : (n_nodes, 2, n_edges) float64 ndarray
        F and dF/du at the edges of the cells.
    edges : (n_edges + 1,) float64 ndarray
        Lower edges of the cells in u = kappa^2; the first cell begins at 0, the last one is open.
    first, shift : int
        The cell of u is ``(bits(u) >> shift) - first``, clipped to the cells.
    """

    log_n: Array
    table: Array
    edges: Array
    first: int
    shift: int

    def cells(self, n: float) -> Array:
        """Cubics in u - edge, of F and of dF/d ln n.

        Parameters
        ----------
        n : float
            Sersic index.

        Returns
        -------
        (n_edges + 1, 8) float64 ndarray
            Four coefficients of F, four of dF/d ln n, for each cell.
        """
        step = self.log_n[1] - self.log_n[0]
        place = (np.log(n) - self.log_n[0]) / step
        start = int(np.clip(np.floor(place) - _STENCIL // 2 + 1, 0, self.log_n.size - _STENCIL))
        weights = _lagrange(place - start)
        weights[1] /= step
        nodes = (weights @ self.table[start : start + _STENCIL].reshape(_STENCIL, -1)).reshape(2, 2, -1)
        value, slope = nodes[:, 0], nodes[:, 1]
        width = np.diff(self.edges[1:])
        mean = np.diff(value) / width
        cells = np.zeros((2, 4, self.edges.size))
        cells[0, 0, 0] = 1.0
        cells[:, 1, 0] = (value[:, 0] - cells[:, 0, 0]) / self.edges[1]
        cells[:, 0, 1:] = value
        cells[:, 1, 1:-1] = slope[:, :-1]
        cells[:, 2, 1:-1] = (3.0 * mean - 2.0 * slope[:, :-1] - slope[:, 1:]) / width
        cells[:, 3, 1:-1] = (slope[:, :-1] + slope[:, 1:] - 2.0 * mean) / width**2
        return np.ascontiguousarray(cells.reshape(8, -1).T)


def _lagrange(t: float) -> Array:
    """Lagrange weights on nodes 0..5 at `t` (first row) and their derivatives (second)."""
    powers = (t - _CENTRE) ** np.arange(_STENCIL)
    slopes = np.arange(_STENCIL) * np.append(0.0, powers[:-1])
    return np.array([powers, slopes]) @ _TO_POWERS


@lru_cache(maxsize=8)
def hankel_cells(n: float) -> Array:
    """Return `HankelTable.cells` of the shipped table, the last few kept: a pinned profile asks for the same again."""
    cells = hankel_table().cells(n)
    cells.setflags(write=False)
    return cells


@lru_cache(maxsize=1)
def hankel_table() -> HankelTable:
    """Read the shipped table, once a process."""
    with resources.files("sphot_mpi").joinpath("data/sersic_hankel.npz").open("rb") as file, np.load(file) as stored:
        log_n, table = stored["log_n"], stored["table"]
        low, high = (int(v) for v in stored["octaves"])
        cell_bits = int(stored["cell_bits"])
    octaves = np.arange(low, high)
    inside = 1.0 + np.arange(2**cell_bits) / 2**cell_bits
    edges = np.concatenate([[0.0], (2.0 ** octaves[:, None] * inside).ravel(), [2.0**high]])
    return HankelTable(log_n, table, edges, ((1023 + low) << cell_bits) - 1, 52 - cell_bits)

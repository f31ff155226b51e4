"""The galaxy's modes among the dense unknowns of a joint step: names, prior, and the odds that there are any."""

from dataclasses import dataclass

import numpy as np

from sphot_mpi.galaxy_modes import N_MODES, ORDERS
from sphot_mpi.records import Image, Vector

#: Dense unknowns: amplitudes of the modes, in the order of `galaxy_modes`.
MODE_NAMES = tuple(f"mode_{k + 1}" for k in range(N_MODES))
#: Standard deviation of an amplitude over that of degree 0: galaxies have less structure on smaller scales.
FALL = np.array([(1.0 + n) ** -0.5 for n, _ in ORDERS])


@dataclass(frozen=True, slots=True, eq=False)
class ModePrior:
    """Independent Gaussian deviates that amplitudes are expected to be.

    Parameters
    ----------
    mean : (N_MODES,) float64 ndarray
        Expected amplitudes.
    spread : float
        Standard deviation of that of degree 0; of the others it falls with the root of degree + 1.
    unit : float
        Chi2 of a solve that stands for one degree of freedom.
    """

    mean: Vector
    spread: float
    unit: float

    @property
    def precision(self) -> Vector:
        """Of each amplitude (N_MODES,), in the solve's chi2."""
        return np.asarray(self.unit / (self.spread * FALL) ** 2)

    def terms(self, names: tuple[str, ...], modes: Vector) -> tuple[Vector, Vector]:
        """Diagonal of the normal matrix and right-hand side (m,) that it adds to those of dense unknowns."""
        weight, pull = np.zeros(len(names)), np.zeros(len(names))
        rows = _rows(names)
        weight[rows] = self.precision
        pull[rows] = self.precision * (self.mean - modes)
        return weight, pull

    def log_odds(self, names: tuple[str, ...], covariance: Image, modes: Vector) -> float:
        """Ln of how much likelier the data are with amplitudes of this prior than with its mean.

        Parameters
        ----------
        names : tuple of str
            Dense unknowns of a solve under this prior.
        covariance : (m, m) float64 ndarray
            Their covariance in its chi2.
        modes : (N_MODES,) float64 ndarray
            What it found.

        Notes
        -----
        The ratio of the prior's density to that after the data, both at the prior's mean (Savage & Dickey; Dickey
        1971, Ann. Math. Stat. 42, 204).
        """
        rows = _rows(names)
        own, change = covariance[np.ix_(rows, rows)], modes - self.mean
        _, narrowing = np.linalg.slogdet(own * self.precision)
        return 0.5 * float(change @ np.linalg.solve(own, change) / self.unit + narrowing)


def _rows(names: tuple[str, ...]) -> list[int]:
    """Where the modes are among the dense unknowns."""
    return [names.index(name) for name in MODE_NAMES]

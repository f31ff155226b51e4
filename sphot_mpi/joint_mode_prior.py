"""The galaxy's modes among the dense unknowns of a joint step: names, prior, and the odds that there are any."""

from dataclasses import dataclass

import numpy as np

from sphot_mpi.galaxy_modes import CORE_DEGREE, DEGREE, MOST_MODES, N_MODES, WIDE_DEGREE, orders_to
from sphot_mpi.records import Image, Vector

#: Dense unknowns: amplitudes of the modes, in the order of `galaxy_modes`: all light's, the core's, the wider disc's.
MODE_NAMES = tuple(f"mode_{k + 1}" for k in range(MOST_MODES))
#: Those of the first disc.
WHOLE_NAMES = MODE_NAMES[:N_MODES]
#: Standard deviation of an amplitude over that of degree 0: galaxies have less structure on smaller scales.
FALL = np.array([(1.0 + n) ** -0.5 for degree in (DEGREE, CORE_DEGREE, WIDE_DEGREE) for n, _ in orders_to(degree)])


@dataclass(frozen=True, slots=True, eq=False)
class ModePrior:
    """Independent Gaussian deviates that amplitudes are expected to be.

    Parameters
    ----------
    names : tuple of str
        The k modes that it is about.
    mean : (k,) float64 ndarray
        Expected amplitudes.
    spread : float
        Standard deviation of that of degree 0; of the others it falls with the root of degree + 1.
    unit : float
        Chi2 of a solve that stands for one degree of freedom.
    light : (k,) float64 ndarray, optional
        Light of each mode of amplitude 1, over the standard deviation of how their sum may differ from the mean's.
    """

    names: tuple[str, ...]
    mean: Vector
    spread: float
    unit: float
    light: Vector | None = None

    @property
    def numbers(self) -> list[int]:
        """Where they are among a galaxy's modes."""
        return [MODE_NAMES.index(name) for name in self.names]

    def are_free(self, part: slice) -> bool:
        """Whether it is about the modes of a disc."""
        return MODE_NAMES[part.start] in self.names

    @property
    def precision(self) -> Image:
        """Of the amplitudes (k, k), in the solve's chi2."""
        precision = np.diag(self.unit / (self.spread * FALL[self.numbers]) ** 2)
        if self.light is not None:
            precision += self.unit * np.outer(self.light, self.light)
        return precision

    def terms(self, names: tuple[str, ...], modes: Vector) -> tuple[Image, Vector]:
        """Parts of the normal matrix (m, m) and of the right-hand side (m,) that it adds to those of dense unknowns."""
        weight, pull = np.zeros((len(names), len(names))), np.zeros(len(names))
        rows = self._rows(names)
        weight[np.ix_(rows, rows)] = self.precision
        pull[rows] = self.precision @ (self.mean - modes[self.numbers])
        return weight, pull

    def log_odds(self, names: tuple[str, ...], covariance: Image, modes: Vector) -> float:
        """Ln of how much likelier the data are with amplitudes of this prior than with its mean.

        Parameters
        ----------
        names : tuple of str
            Dense unknowns of a solve under this prior.
        covariance : (m, m) float64 ndarray
            Their covariance in its chi2.
        modes : (m,) float64 ndarray
            The galaxy's amplitudes after it.

        Notes
        -----
        The ratio of the prior's density to that after the data, both at the prior's mean (Savage & Dickey; Dickey
        1971, Ann. Math. Stat. 42, 204).
        """
        rows = self._rows(names)
        own, change = covariance[np.ix_(rows, rows)], modes[self.numbers] - self.mean
        _, narrowing = np.linalg.slogdet(own @ self.precision)
        return 0.5 * float(change @ np.linalg.solve(own, change) / self.unit + narrowing)

    def _rows(self, names: tuple[str, ...]) -> list[int]:
        """Where they are among the dense unknowns."""
        return [names.index(name) for name in self.names]

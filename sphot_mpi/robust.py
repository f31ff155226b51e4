"""Scatter that outliers do not widen."""

import numpy as np
from numpy.typing import NDArray

#: Standard deviation of a normal distribution over its median absolute deviation, 1 / Phi^-1(3/4).
SIGMA_PER_MAD = 1.482602218505602


def robust_sigma(values: NDArray[np.float64]) -> float:
    """Standard deviation from the median absolute deviation about the median.

    Parameters
    ----------
    values : float64 ndarray
        Any shape, without NaN; not empty.
    """
    return float(SIGMA_PER_MAD * np.median(np.abs(values - np.median(values))))

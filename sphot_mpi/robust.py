"""Scatter that outliers do not widen."""

import numpy as np
from numpy.typing import NDArray

#: Standard deviation of a normal distribution over its median absolute deviation, 1 / Phi^-1(3/4).
SIGMA_PER_MAD = 1.482602218505602
#: The same to five digits, where sizes and masks of first guesses hang on it, and on them a fit's last digits.
ROUNDED_SIGMA_PER_MAD = 1.4826


def robust_sigma(values: NDArray[np.float64], per_mad: float = SIGMA_PER_MAD) -> float:
    """Standard deviation from the median absolute deviation about the median.

    Parameters
    ----------
    values : float64 ndarray
        Any shape, without NaN; not empty.
    per_mad : float
        `SIGMA_PER_MAD`, or that rounded.
    """
    return float(per_mad * np.median(np.abs(values - np.median(values))))

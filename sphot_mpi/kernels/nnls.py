"""Pieces of the non-negative least-squares solver that loop over matrix elements."""

from sphot_mpi.kernels._jit import jit


@jit
def descend(data, indices, indptr, x, gradient, sweeps, tolerance):
    """Cyclic coordinate descent for ``min 1/2 x'Gx - b'x, x >= 0``, in place.

    Each step minimises exactly along one coordinate and keeps the gradient up
    to date, so that a sweep costs one pass over the stored elements.

    Parameters
    ----------
    data, indices, indptr : ndarray
        Symmetric `G` in compressed columns, unit diagonal.
    x : (n,) float64 ndarray
        Start and result, >= 0.
    gradient : (n,) float64 ndarray
        ``G x - b``, kept up to date.
    sweeps : int
        Most sweeps.
    tolerance : float
        Stop when no coordinate moved by more.
    """
    for _ in range(sweeps):
        largest = 0.0
        for i in range(x.size):
            new = max(0.0, x[i] - gradient[i])
            step = new - x[i]
            if step == 0.0:
                continue
            x[i] = new
            largest = max(largest, abs(step))
            for k in range(indptr[i], indptr[i + 1]):
                gradient[indices[k]] += data[k] * step
        if largest <= tolerance:
            break

"""Levenberg-Marquardt fits of flux and position for groups of point sources.

As in photutils.psf.PSFPhotometry 3.0, a group is fitted to all windows of its
members, each with its own source's local background taken off, and a pixel
counts once for each window it lies in.
"""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast
from sphot_mpi.kernels.dense import cholesky, cholesky_solve
from sphot_mpi.kernels.point_windows import window_start
from sphot_mpi.kernels.psf import add_stamp, axis_nodes

#: Convergence: largest last step of a position, px, and of a flux, relative.
STEP_TOLERANCE = 1e-7
MAX_DAMPING = 1e10


@jit
def group_pixels(image, weight, background, x, y, members, height, width):
    """Pixels of a group's windows: row, column, number of windows and mean target.

    Returns
    -------
    pixel_y, pixel_x : (m,) int64 ndarray
        Usable pixels.
    count, target : (m,) float64 ndarray
        Windows that hold the pixel; image minus the mean of their backgrounds.
    """
    ny, nx = image.shape
    y0, x0 = ny, nx
    y1, x1 = 0, 0
    for s in members:
        wy, wx = window_start(y[s], height), window_start(x[s], width)
        y0, x0 = min(y0, max(0, wy)), min(x0, max(0, wx))
        y1, x1 = max(y1, min(ny, wy + height)), max(x1, min(nx, wx + width))
    times, level = np.zeros((y1 - y0, x1 - x0)), np.zeros((y1 - y0, x1 - x0))
    for s in members:
        wy, wx = window_start(y[s], height), window_start(x[s], width)
        for j in range(max(0, wy), min(ny, wy + height)):
            for i in range(max(0, wx), min(nx, wx + width)):
                if weight[j, i] > 0.0:
                    times[j - y0, i - x0] += 1.0
                    level[j - y0, i - x0] += background[s]
    local_y, local_x = np.nonzero(times)
    count, target = np.empty(local_y.size), np.empty(local_y.size)
    for m in range(local_y.size):
        j, i = local_y[m], local_x[m]
        count[m] = times[j, i]
        target[m] = image[y0 + j, x0 + i] - level[j, i] / times[j, i]
    return local_y + y0, local_x + x0, count, target


@jit
def group_columns(columns, planes, oversample, origin_y, origin_x, x, y, pixel_y, pixel_x):
    """Fill the columns P, dP/dx, dP/dy of unit-flux sources on a list of pixels.

    Parameters
    ----------
    columns : (s, 3, m) float64 ndarray
        Overwritten.
    planes, oversample, origin_y, origin_x
        As in `sphot_mpi.kernels.psf.render_stars`.
    x, y : (s,) float64 ndarray
        Positions, px.
    pixel_y, pixel_x : (m,) int64 ndarray
        Pixels.
    """
    wy, wx, dy, dx = np.empty(4), np.empty(4), np.empty(4), np.empty(4)
    ay, ax = np.empty(4, np.int64), np.empty(4, np.int64)
    sy, sx = np.empty(4, np.int64), np.empty(4, np.int64)
    y0, y1 = pixel_y.min(), pixel_y.max() + 1
    x0, x1 = pixel_x.min(), pixel_x.max() + 1
    box = np.empty((y1 - y0, x1 - x0))
    for s in range(x.size):
        axis_nodes(y[s], origin_y, oversample, wy, dy, ay, sy)
        axis_nodes(x[s], origin_x, oversample, wx, dx, ax, sx)
        for c in range(3):
            box[:] = 0.0
            add_stamp(
                box, planes, dy if c == 2 else wy, dx if c == 1 else wx,
                ay, ax, sy, sx, 1.0, y0, y1, x0, x1, y0, x0,
            )  # fmt: skip
            for m in range(pixel_y.size):
                columns[s, c, m] = box[pixel_y[m] - y0, pixel_x[m] - x0]


@jit_fast
def weighted_chi2(columns, flux, target, weight):
    """Chi2 of ``target - sum flux P``."""
    total = 0.0
    for m in range(target.size):
        value = target[m]
        for s in range(flux.size):
            value -= flux[s] * columns[s, 0, m]
        total += weight[m] * value * value
    return total


@jit_fast
def normal_equations(matrix, gradient, columns, flux, target, weight):
    """Fill ``J'WJ`` and ``J'Wr`` for the unknowns (flux, x, y) of each source.

    `weight` may hold zeros. Position columns carry the flux.
    """
    sources, pixels = flux.size, target.size
    residual = np.empty(pixels)
    for m in range(pixels):
        value = target[m]
        for s in range(sources):
            value -= flux[s] * columns[s, 0, m]
        residual[m] = value * weight[m]
    row = np.empty(pixels)
    for p in range(3 * sources):
        a = columns[p // 3, p % 3]
        fa = 1.0 if p % 3 == 0 else flux[p // 3]
        total = 0.0
        for m in range(pixels):
            total += a[m] * residual[m]
            row[m] = a[m] * weight[m]
        gradient[p] = fa * total
        for q in range(p + 1):
            b = columns[q // 3, q % 3]
            total = 0.0
            for m in range(pixels):
                total += row[m] * b[m]
            matrix[p, q] = total * fa * (1.0 if q % 3 == 0 else flux[q // 3])
            matrix[q, p] = matrix[p, q]


@jit
def hold(matrix, gradient, held):
    """Take the unknowns marked in `held` out of the normal equations."""
    for p in range(held.size):
        if held[p] or matrix[p, p] <= 0.0:
            matrix[p, :] = 0.0
            matrix[:, p] = 0.0
            matrix[p, p] = 1.0
            gradient[p] = 0.0


@jit
def solve_fluxes(columns, flux, target, weight):
    """Replace `flux` by the linear least-squares solution at the present positions."""
    n = flux.size
    matrix, gradient = np.empty((3 * n, 3 * n)), np.empty(3 * n)
    normal_equations(matrix, gradient, columns, flux, target, weight)
    small, b = matrix[::3, ::3].copy(), gradient[::3].copy()
    hold(small, b, np.zeros(n, np.bool_))
    if cholesky(small):
        cholesky_solve(small, b)
        flux += b


@jit
def mark_bounded(held, parameters, start, gradient, xy_bound):
    """Mark in `held` the coordinates that stand at their bound and would go on beyond it."""
    for p in range(held.size):
        offset = parameters[p // 3, p % 3] - start[p // 3, p % 3]
        held[p] = p % 3 > 0 and abs(offset) >= xy_bound and offset * gradient[p] > 0.0


@jit
def take_step(trial, parameters, start, step, xy_bound):
    """Fill `trial` with `parameters` after a step; a coordinate goes a pixel at most, and to its bound.

    Returns
    -------
    float
        Largest change: of a coordinate, px, or of a flux, relative.
    """
    largest = 0.0
    for p in range(step.size):
        s, c = p // 3, p % 3
        if c == 0:
            trial[s, 0] = parameters[s, 0] + step[p]
            largest = max(largest, abs(step[p]) / max(abs(parameters[s, 0]), 1e-300))
        else:
            move = min(max(parameters[s, c] + min(max(step[p], -1.0), 1.0) - start[s, c], -xy_bound), xy_bound)
            trial[s, c] = start[s, c] + move
            largest = max(largest, abs(trial[s, c] - parameters[s, c]))
    return largest


@jit
def fit_group(
    parameters,
    covariance,
    columns,
    target,
    weight,
    count,
    pixel_y,
    pixel_x,
    planes,
    oversample,
    origin_y,
    origin_x,
    xy_bound,
    max_iterations,
):
    """Fit one group by Levenberg-Marquardt with bounded positions.

    Parameters
    ----------
    parameters : (s, 3) float64 ndarray
        flux, x, y of each source; start, overwritten by the fit.
    covariance : (3 s, 3 s) float64 ndarray
        Overwritten; NaN where there is none. A pixel's noise enters once, however many
        windows hold it.
    columns : (s, 3, m) float64 ndarray
        Scratch; overwritten.
    target, weight, count : (m,) float64 ndarray
        Data, 1 / variance, and number of windows of each pixel.
    pixel_y, pixel_x : (m,) int64 ndarray
        Pixels.
    planes, oversample, origin_y, origin_x
        As in `sphot_mpi.kernels.psf.render_stars`.
    xy_bound : float
        Largest change of a coordinate, px; 0 pins positions.
    max_iterations : int
        Most accepted or rejected steps.

    Returns
    -------
    bool
        Whether the fit converged.
    """
    n = parameters.shape[0]
    size = 3 * n
    start = parameters.copy()
    trial = parameters.copy()
    matrix, factor = np.empty((size, size)), np.empty((size, size))
    gradient, step = np.empty(size), np.empty(size)
    held = np.zeros(size, np.bool_)
    total = weight * count
    group_columns(columns, planes, oversample, origin_y, origin_x, parameters[:, 1], parameters[:, 2], pixel_y, pixel_x)
    solve_fluxes(columns, parameters[:, 0], target, total)
    chi2 = weighted_chi2(columns, parameters[:, 0], target, total)
    damping, converged, fresh = 1e-3, xy_bound == 0.0, True
    for _ in range(0 if converged else max_iterations):
        if fresh:
            normal_equations(matrix, gradient, columns, parameters[:, 0], target, total)
            mark_bounded(held, parameters, start, gradient, xy_bound)
            hold(matrix, gradient, held)
        factor[:] = matrix
        for p in range(size):
            factor[p, p] *= 1.0 + damping
        if not cholesky(factor):
            damping *= 10.0
            fresh = False
            if damping > MAX_DAMPING:
                break
            continue
        step[:] = gradient
        cholesky_solve(factor, step)
        promised = 0.0
        for p in range(size):
            promised += step[p] * (gradient[p] + damping * matrix[p, p] * step[p])
        largest = take_step(trial, parameters, start, step, xy_bound)
        group_columns(columns, planes, oversample, origin_y, origin_x, trial[:, 1], trial[:, 2], pixel_y, pixel_x)
        new = weighted_chi2(columns, trial[:, 0], target, total)
        fresh = new <= chi2
        if fresh:
            parameters[:] = trial
            converged = largest < STEP_TOLERANCE or chi2 - new < 1e-14 * new
            # Nielsen 1999, IMM-REP-1999-05: the damping follows how well the linear model foretold the gain
            gain = (chi2 - new) / promised if promised > 0.0 else 1.0
            damping = max(damping * max(0.1, 1.0 - (2.0 * min(gain, 1.5) - 1.0) ** 3), 1e-12)
            chi2 = new
        else:
            damping *= 10.0
            converged = largest < STEP_TOLERANCE
        if converged or damping > MAX_DAMPING:
            break
    group_columns(columns, planes, oversample, origin_y, origin_x, parameters[:, 1], parameters[:, 2], pixel_y, pixel_x)
    group_covariance(covariance, columns, parameters[:, 0], target, weight, count, xy_bound == 0.0)
    return converged


@jit
def group_covariance(covariance, columns, flux, target, weight, count, pinned):
    """Covariance of (flux, x, y) of a group; NaN where the matrix is singular or a position pinned.

    With ``H = J' N W J`` and ``N`` the windows per pixel, it is ``H^-1 (J' N^2 W J) H^-1``.
    """
    size = 3 * flux.size
    matrix, noise, gradient = np.empty((size, size)), np.empty((size, size)), np.empty(size)
    normal_equations(matrix, gradient, columns, flux, target, weight * count)
    normal_equations(noise, gradient, columns, flux, target, weight * count * count)
    held = np.zeros(size, np.bool_)
    if pinned:
        for p in range(size):
            held[p] = p % 3 > 0
    hold(matrix, gradient, held)
    covariance[:] = np.nan
    if not cholesky(matrix):
        return
    inverse = np.eye(size)
    for p in range(size):
        cholesky_solve(matrix, inverse[p])
    free = np.flatnonzero(~held)
    result = inverse @ noise @ inverse
    for i in free:
        for j in free:
            covariance[i, j] = result[i, j]


@jit
def group_metrics(metrics, image, weight, background, x, y, members, height, width, columns, flux, pixel_y, pixel_x):
    """Sum of |residual|, residual of the central pixel and chi2 in the window of each member.

    Parameters
    ----------
    metrics : (n, 3) float64 ndarray
        Rows of the members are overwritten; the central residual is NaN where its pixel is not usable.
    image, weight, background, x, y, members, height, width
        As in `group_pixels`; `x` and `y` place the windows.
    columns : (s, 3, m) float64 ndarray
        Columns at the fitted positions.
    flux : (s,) float64 ndarray
        Fitted fluxes.
    pixel_y, pixel_x : (m,) int64 ndarray
        The group's pixels.
    """
    for s in members:
        metrics[s, 0], metrics[s, 1], metrics[s, 2] = 0.0, np.nan, 0.0
    for m in range(pixel_y.size):
        j, i = pixel_y[m], pixel_x[m]
        model = 0.0
        for k in range(members.size):
            model += flux[k] * columns[k, 0, m]
        for s in members:
            wy, wx = window_start(y[s], height), window_start(x[s], width)
            if not (wy <= j < wy + height and wx <= i < wx + width):
                continue
            value = image[j, i] - background[s] - model
            metrics[s, 0] += abs(value)
            metrics[s, 2] += weight[j, i] * value * value
            if j == window_start(y[s], 1) and i == window_start(x[s], 1):
                metrics[s, 1] = value


@jit
def fit_groups(
    parameters,
    errors,
    metrics,
    converged,
    image,
    weight,
    background,
    members,
    group_start,
    planes,
    oversample,
    origin_y,
    origin_x,
    height,
    width,
    xy_bound,
    max_iterations,
):
    """Fit flux and position of the sources of every group.

    Parameters
    ----------
    parameters : (n, 3) float64 ndarray
        flux, x, y; the starting values place the windows. Overwritten by the fit.
    errors : (n, 3) float64 ndarray
        Overwritten by the 1-sigma errors; NaN where unknown or pinned.
    metrics : (n, 3) float64 ndarray
        Overwritten by what `group_metrics` says.
    converged : (n,) bool ndarray
        Overwritten.
    image, weight : (ny, nx) float64 ndarray
        Data (finite), 1 / variance.
    background : (n,) float64 ndarray
        Local background of each source; finite.
    members : (m,) int64 ndarray
        Sources, group after group; each has at least one usable pixel in its window.
    group_start : (g + 1,) int64 ndarray
        Group k is ``members[group_start[k] : group_start[k + 1]]``.
    planes, oversample, origin_y, origin_x
        As in `sphot_mpi.kernels.psf.render_stars`.
    height, width : int
        Fit window, px.
    xy_bound, max_iterations
        As in `fit_group`.
    """
    for g in range(group_start.size - 1):
        group = members[group_start[g] : group_start[g + 1]]
        pixel_y, pixel_x, count, target = group_pixels(
            image, weight, background, parameters[:, 1], parameters[:, 2], group, height, width
        )
        w = np.empty(pixel_y.size)
        for m in range(pixel_y.size):
            w[m] = weight[pixel_y[m], pixel_x[m]]
        local = parameters[group]
        covariance = np.empty((3 * group.size, 3 * group.size))
        columns = np.empty((group.size, 3, pixel_y.size))
        done = fit_group(local, covariance, columns, target, w, count, pixel_y, pixel_x,
                         planes, oversample, origin_y, origin_x, xy_bound, max_iterations)  # fmt: skip
        group_metrics(metrics, image, weight, background, parameters[:, 1], parameters[:, 2], group, height, width,
                      columns, local[:, 0], pixel_y, pixel_x)  # fmt: skip
        for k in range(group.size):
            parameters[group[k]] = local[k]
            converged[group[k]] = done
            for c in range(3):
                errors[group[k], c] = np.sqrt(covariance[3 * k + c, 3 * k + c])

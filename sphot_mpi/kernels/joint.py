"""Kernels of the joint fit: stamps against images, neighbours, peaks."""

import numpy as np

from sphot_mpi.kernels._jit import jit, jit_fast


@jit_fast
def good_fraction(stamps, corner_y, corner_x, weight):
    """Fraction of each star's squared PSF that falls on usable pixels.

    Parameters
    ----------
    stamps : (n, 3, k, k) float64 ndarray
        Unit-flux stamps in column 0.
    corner_y, corner_x : (n,) int64 ndarray
        Frame coordinates of each stamp's first pixel; may be off the frame.
    weight : (ny, nx) float64 ndarray
        0 = masked.

    Returns
    -------
    (n,) float64 ndarray
        Between 0 and 1.
    """
    ny, nx = weight.shape
    n, k = stamps.shape[0], stamps.shape[2]
    out = np.zeros(n)
    for s in range(n):
        total = 0.0
        good = 0.0
        for j in range(k):
            y = j + corner_y[s]
            for i in range(k):
                x = i + corner_x[s]
                v = stamps[s, 0, j, i] ** 2
                total += v
                if 0 <= y < ny and 0 <= x < nx and weight[y, x] > 0.0:
                    good += v
        if total > 0.0:
            out[s] = good / total
    return out


@jit
def cell_lists(x, y, size, origin, n_x, n_y):
    """Sort points into square cells; returns (start, order) with cell = iy * n_x + ix."""
    cell = np.empty(x.size, np.int64)
    start = np.zeros(n_x * n_y + 1, np.int64)
    for i in range(x.size):
        ix = min(max(int((x[i] - origin) / size), 0), n_x - 1)
        iy = min(max(int((y[i] - origin) / size), 0), n_y - 1)
        cell[i] = iy * n_x + ix
        start[cell[i] + 1] += 1
    for c in range(n_x * n_y):
        start[c + 1] += start[c]
    order = np.empty(x.size, np.int64)
    fill = start[:-1].copy()
    for i in range(x.size):
        order[fill[cell[i]]] = i
        fill[cell[i]] += 1
    return start, order


@jit
def nearest_neighbours(x, y, reach, count):
    """Indices of at most `count` nearest points within `reach` of each point, -1 = none.

    Parameters
    ----------
    x, y : (n,) float64 ndarray
        Points.
    reach : float
        Largest distance.
    count : int
        Most neighbours kept.

    Returns
    -------
    (n, count) int64 ndarray
        Nearest first.
    """
    n = x.size
    out = np.full((n, count), -1, np.int64)
    if n < 2:
        return out
    low = min(x.min(), y.min())
    n_x = int((x.max() - low) / reach) + 1
    n_y = int((y.max() - low) / reach) + 1
    start, order = cell_lists(x, y, reach, low, n_x, n_y)
    distance = np.empty(count)
    for i in range(n):
        found = 0
        cx = min(max(int((x[i] - low) / reach), 0), n_x - 1)
        cy = min(max(int((y[i] - low) / reach), 0), n_y - 1)
        for iy in range(max(0, cy - 1), min(n_y, cy + 2)):
            for ix in range(max(0, cx - 1), min(n_x, cx + 2)):
                for p in range(start[iy * n_x + ix], start[iy * n_x + ix + 1]):
                    j = order[p]
                    if j == i:
                        continue
                    d = (x[j] - x[i]) ** 2 + (y[j] - y[i]) ** 2
                    if d > reach * reach or (found == count and d >= distance[count - 1]):
                        continue
                    slot = min(found, count - 1)
                    while slot > 0 and distance[slot - 1] > d:
                        distance[slot] = distance[slot - 1]
                        out[i, slot] = out[i, slot - 1]
                        slot -= 1
                    distance[slot] = d
                    out[i, slot] = j
                    found = min(found + 1, count)
    return out


@jit
def find_peaks(image, threshold):
    """Local 3 x 3 maxima above `threshold`, their sub-pixel offset by a parabola.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Signal-to-noise map, free of NaN.
    threshold : (ny, nx) float64 ndarray
        Level at each pixel.

    Returns
    -------
    (n, 3) float64 ndarray
        x, y, and height, the highest first.
    """
    ny, nx = image.shape
    found = np.empty((ny * nx // 4 + 1, 3))
    n = 0
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            v = image[y, x]
            if not v > threshold[y, x]:
                continue
            top = True
            for j in range(-1, 2):
                for i in range(-1, 2):
                    u = image[y + j, x + i]
                    # ties go to the first pixel in reading order
                    if u > v or (u == v and (j < 0 or (j == 0 and i < 0))):
                        top = False
            if not top:
                continue
            cx = 2.0 * v - image[y, x - 1] - image[y, x + 1]
            cy = 2.0 * v - image[y - 1, x] - image[y + 1, x]
            dx = 0.5 * (image[y, x + 1] - image[y, x - 1]) / cx if cx > 0.0 else 0.0
            dy = 0.5 * (image[y + 1, x] - image[y - 1, x]) / cy if cy > 0.0 else 0.0
            found[n, 0] = x + min(max(dx, -0.5), 0.5)
            found[n, 1] = y + min(max(dy, -0.5), 0.5)
            found[n, 2] = v
            n += 1
    peaks = found[:n]
    return peaks[np.argsort(-peaks[:, 2], kind="mergesort")]


@jit
def keep_apart(x, y, known_x, known_y, new_distance, known_distance):
    """Choose points, in the order given, that keep their distance.

    Parameters
    ----------
    x, y : (n,) float64 ndarray
        Candidates, the best first.
    known_x, known_y : (m,) float64 ndarray
        Points that stand.
    new_distance, known_distance : float
        Least distance to a chosen candidate, and to a standing point.

    Returns
    -------
    (n,) bool ndarray
        True = chosen.
    """
    n, m = x.size, known_x.size
    keep = np.zeros(n, np.bool_)
    if n == 0:
        return keep
    size = max(new_distance, known_distance, 1.0)
    low = min(x.min(), y.min())
    high = max(x.max(), y.max())
    if m:
        low = min(low, min(known_x.min(), known_y.min()))
        high = max(high, max(known_x.max(), known_y.max()))
    cells = int((high - low) / size) + 1
    first = np.full((cells, cells), -1, np.int64)
    following = np.full(n + m, -1, np.int64)
    px = np.concatenate((known_x, x))
    py = np.concatenate((known_y, y))
    for s in range(n + m):
        cx, cy = int((px[s] - low) / size), int((py[s] - low) / size)
        if s >= m:
            free = True
            for j in range(max(0, cy - 1), min(cells, cy + 2)):
                for i in range(max(0, cx - 1), min(cells, cx + 2)):
                    t = first[j, i]
                    while t >= 0 and free:
                        limit = new_distance if t >= m else known_distance
                        free = (px[t] - px[s]) ** 2 + (py[t] - py[s]) ** 2 >= limit * limit
                        t = following[t]
            keep[s - m] = free
            if not free:
                continue
        following[s] = first[cy, cx]
        first[cy, cx] = s
    return keep


@jit
def stamp_quality(side, corner_y, corner_x, residual, weight):
    """Sums over each star's usable pixels that tell how well it was fitted.

    Parameters
    ----------
    side : int
        Of the square about a star, px; odd.
    corner_y, corner_x : (n,) int64 ndarray
        As in `good_fraction`.
    residual, weight : (ny, nx) float64 ndarray
        Data minus model, and 1 / variance (0 = masked).

    Returns
    -------
    (n, 4) float64 ndarray
        Pixels, sum of |residual|, residual of the central pixel, chi2.
    """
    ny, nx = residual.shape
    n = corner_y.size
    out = np.zeros((n, 4))
    for s in range(n):
        for j in range(side):
            y = j + corner_y[s]
            for i in range(side):
                x = i + corner_x[s]
                if not (0 <= y < ny and 0 <= x < nx) or weight[y, x] == 0.0:
                    continue
                r = residual[y, x]
                out[s, 0] += 1.0
                out[s, 1] += abs(r)
                out[s, 3] += weight[y, x] * r * r
                if j == side // 2 and i == side // 2:
                    out[s, 2] = r
    return out


@jit
def displacement_terms(stamps, corner_y, corner_x, residual, weight):
    """Normal equations for the displacement of each star by itself.

    Parameters
    ----------
    stamps : (n, 3, k, k) float64 ndarray
        Unit-flux stamps with derivatives by x and y in columns 1 and 2.
    corner_y, corner_x : (n,) int64 ndarray
        As in `good_fraction`.
    residual, weight : (ny, nx) float64 ndarray
        Data minus model, and 1 / variance (0 = masked).

    Returns
    -------
    (n, 5) float64 ndarray
        Matrix (xx, xy, yy) and right-hand side (x, y), of a unit-flux star.
    """
    ny, nx = residual.shape
    n, k = stamps.shape[0], stamps.shape[2]
    out = np.zeros((n, 5))
    for s in range(n):
        for j in range(k):
            y = j + corner_y[s]
            for i in range(k):
                x = i + corner_x[s]
                if not (0 <= y < ny and 0 <= x < nx):
                    continue
                w = weight[y, x]
                along_x, along_y = stamps[s, 1, j, i], stamps[s, 2, j, i]
                out[s, 0] += w * along_x * along_x
                out[s, 1] += w * along_x * along_y
                out[s, 2] += w * along_y * along_y
                out[s, 3] += w * along_x * residual[y, x]
                out[s, 4] += w * along_y * residual[y, x]
    return out

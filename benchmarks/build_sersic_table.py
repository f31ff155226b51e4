"""Build the shipped table of the Sersic profile's Hankel transform.

Run once: ``python benchmarks/build_sersic_table.py sphot_mpi/data/sersic_hankel.npz``
(about half a minute). The table holds, at nodes uniform in ln n and in the
cells of u = kappa^2 that a float64's exponent and first mantissa bits make,

    F(n, u) = int x exp(-b x^(1/n)) J0(kappa x) dx / int x exp(-b x^(1/n)) dx

and dF/du, from a Mellin-Barnes integral: the Mellin transform of exp(-b x^(1/n))
is n b^(-ns) Gamma(ns), that of J0 (Gradshteyn & Ryzhik 6.561.14) gives

    F = 1/N 1/(2 pi i) int n b^(-ns) Gamma(ns) 2^(1-s) kappa^(s-2) Gamma(1-s/2) / Gamma(s/2) ds

along s = c + it, N = n b^(-2n) Gamma(2n). Crossing the pole at s = 2 adds its residue, 1.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import special

N_FIRST, N_LAST, N_NODES = 0.28, 8.4, 81
FIRST_OCTAVE, LAST_OCTAVE = -30, 26
STEP = 0.04


def u_nodes(cell_bits: int) -> np.ndarray:
    """Edges of the cells: 2^cell_bits equal ones in each octave."""
    per_octave = 2**cell_bits
    octaves = np.arange(FIRST_OCTAVE, LAST_OCTAVE)
    inside = 1.0 + np.arange(per_octave) / per_octave
    return np.append((2.0 ** octaves[:, None] * inside).ravel(), 2.0**LAST_OCTAVE)


def contours(n: float) -> np.ndarray:
    """Real parts to choose from; the trapezoid needs 0.4 to the poles at -1/n, 2 and 4.

    Cusped profiles have their left poles so close that c stays above 0.25 (the pole at 0 is cancelled).
    """
    left = 0.25 if n >= 1.5 else -1.0 / n + 0.4
    return np.concatenate([np.linspace(left, 1.6, 6), np.linspace(2.4, 3.6, 4)])


def hankel(n: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return F and dF/du at `u` for one index."""
    b = special.gammaincinv(2.0 * n, 0.5)
    log_norm = np.log(n) - 2.0 * n * np.log(b) + special.gammaln(2.0 * n)
    t = np.arange(0.0, 60.0 / min(n, 1.0) + 15.0, STEP)
    log_kappa = 0.5 * np.log(u)
    cs = contours(n)
    logs = []
    for c in cs:
        s = c + 1j * t
        logs.append(
            np.log(n) - n * s * np.log(b) + special.loggamma(n * s) + (1.0 - s) * np.log(2.0)
            + special.loggamma(1.0 - s / 2.0) - special.loggamma(s / 2.0) - log_norm
        )  # fmt: skip
    size = np.array([(log.real.max() + (c - 2.0) * log_kappa) for c, log in zip(cs, logs, strict=True)])
    best = size.argmin(axis=0)
    value, slope = np.empty_like(u), np.empty_like(u)
    for k, c in enumerate(cs):
        here = best == k
        if not here.any():
            continue
        s = c + 1j * t
        weight = np.full(t.size, STEP / np.pi)
        weight[0] *= 0.5
        integrand = np.exp(logs[k] + (s - 2.0) * log_kappa[here][:, None]) * weight
        value[here] = integrand.real.sum(axis=1) + (1.0 if c > 2.0 else 0.0)
        slope[here] = (integrand * (0.5 * (s - 2.0))).real.sum(axis=1) / u[here]
    return value, slope


def main() -> None:
    """Write the table."""
    cell_bits = 5
    u = u_nodes(cell_bits)
    log_n = np.linspace(np.log(N_FIRST), np.log(N_LAST), N_NODES)
    pairs = [hankel(float(n), u) for n in np.exp(log_n)]
    table = np.array(pairs)  # (n, 2, u)
    np.savez_compressed(
        Path(sys.argv[1]),
        log_n=log_n,
        table=np.ascontiguousarray(table),
        cell_bits=cell_bits,
        octaves=np.array([FIRST_OCTAVE, LAST_OCTAVE]),
    )


if __name__ == "__main__":
    main()

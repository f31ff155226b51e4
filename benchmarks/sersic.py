"""Speed and accuracy of the Sersic renderer and fit: ``python benchmarks/sersic.py``.

Times are process times, the best of several; the PSF is synthetic (FWHM 2 px, 60 px wide), so that no file is needed.
Set OMP_NUM_THREADS=1.
"""

import itertools
import time
from collections.abc import Callable

import numpy as np

from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SersicParams
from sphot_mpi.sersic import SersicRenderer, from_vector, to_vector
from sphot_mpi.sersic_fit import fit_sersic
from sphot_mpi.sersic_search import METHODS


def best_ms(run: Callable[[], object], repeats: int = 15) -> float:
    """Best process time in ms."""
    run()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def make_psf() -> PSF:
    """A core with a broad halo, oversampled 4 times."""
    r2 = ((np.arange(241) - 120) / 4)[:, None] ** 2 + ((np.arange(241) - 120) / 4) ** 2
    array = np.exp(-0.5 * r2 / 0.85**2) + 1e-3 * (1.0 + r2 / 4.0) ** -1.5
    return PSF(LibraryPSF.from_array(array, 4), Kernel(values=(0.5,)))


def galaxy(shape: tuple[int, int], **values: float) -> np.ndarray:
    """Vector of a galaxy a little off the centre."""
    base = {"amplitude": 1.0, "r_eff": 8.0, "n": 2.0, "ellip": 0.4, "theta": 0.5}
    base |= {"x_0": 0.5 * shape[1] + 0.3, "y_0": 0.5 * shape[0] - 0.4}
    return to_vector(SersicParams(**(base | values)))


def speed(psf: PSF) -> None:
    """Print times of images, Jacobians and kernel changes."""
    print("speed (ms)      period     value  jacobian  + kernel  new kernel + value")
    for side, size in ((161, None), (161, 256), (279, None), (279, 448)):
        shape = (side, side)
        vector = galaxy(shape)
        plain = SersicRenderer(psf, shape, size=size)
        factor = SersicRenderer(psf, shape, size=size, kernel_slopes=True)
        changed = psf.with_kernel(Kernel(values=(0.52,)))
        # the last image is kept: each is to be another
        vectors = (vector + 1e-6 * k for k in itertools.count())
        row = [
            best_ms(lambda r=plain, v=vectors: r.render(next(v))),
            best_ms(lambda r=plain, v=vectors: r.jacobian(next(v))),
            best_ms(lambda r=factor, v=vectors: r.jacobian(next(v))),
            best_ms(lambda r=plain, v=vector, k=changed: r.with_psf(k).render(v)),
        ]
        print(f"{side}x{side} {plain.period(vector)!s:>14}  " + "  ".join(f"{t:8.2f}" for t in row))


def accuracy(psf: PSF) -> None:
    """Print the chosen period's error against a period of 1800 px."""
    print("accuracy at 161x161: n, r_eff, ellip, x_0 -> period, peak error / peak, flux error")
    own, wide = SersicRenderer(psf, (161, 161)), SersicRenderer(psf, (161, 161), size=1800, tolerance=1e-8)
    for n, r_eff, ellip, x_0 in (
        (0.3, 0.5, 0.0, 80), (0.3, 100, 0.95, 80), (1, 30, 0.0, 80), (1, 100, 0.0, 80), (4, 0.5, 0.95, 80),
        (4, 10, 0.5, 80), (4, 30, 0.5, 80), (4, 100, 0.0, 80), (8, 10, 0.5, 80), (8, 100, 0.95, 80), (4, 10, 0.5, 10),
    ):  # fmt: skip
        vector = galaxy((161, 161), n=n, r_eff=r_eff, ellip=ellip, x_0=x_0 + 0.3)
        image, reference = own.render(vector), wide.render(vector)
        peak = np.abs(image - reference).max() / reference.max()
        flux = abs((image - reference).sum())
        print(f"  {n:4} {r_eff:6} {ellip:5} {x_0:4} -> {own.period(vector)!s:>10}  {peak:.1e}  {flux:.1e}")


def fits(psf: PSF) -> None:
    """Print evaluations and times of a fit from a poor start, method by method."""
    shape = (161, 161)
    renderer = SersicRenderer(psf, shape)
    rng = np.random.default_rng(1)
    vector = galaxy(shape)
    image = renderer.render(vector)
    flux = 300.0 / np.sqrt((image**2).sum())
    data = flux * image + 3.0 + rng.normal(size=shape)
    start = from_vector(vector + np.array([2.0, -3.0, 0.6, -0.5, -0.3, 0.2]), 1.5 * flux)
    print("fit at 161x161, S/N 300, poor start: method, chi2 - that of lm, evaluations, s")
    lowest = None
    for method in ("lm", *METHODS):
        begin = time.process_time()
        fit = fit_sersic(data, np.ones(shape), renderer, start=start, method=method)
        lowest = fit.chi2 if lowest is None else lowest
        print(f"  {method:15} {fit.chi2 - lowest:10.4f} {fit.n_evaluations:6d} {time.process_time() - begin:8.2f}")


if __name__ == "__main__":
    work_psf = make_psf()
    speed(work_psf)
    accuracy(work_psf)
    fits(work_psf)

"""Fits of a galaxy whose shape is known: its brightness, the sky, and a shift if wanted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import optimize

from sphot_mpi.errors import FitError
from sphot_mpi.records import Array, SersicParams
from sphot_mpi.sersic import SersicRenderer, to_vector, total_flux
from sphot_mpi.sersic_problem import SersicProblem, solve_spd
from sphot_mpi.sersic_result import SersicFit, inverse_normal, sky_plane

#: Range of the simplex's scale factor, as in the single-machine program.
_SCALE_RANGE = (0.0, 10.0)
#: The shift is fitted above this S/N and within this many px.
_SHIFT_SNR, _SHIFT_MOST = 5.0, 5.0


def fit_scale(
    data: Array,
    weight: Array,
    renderer: SersicRenderer,
    components: Sequence[SersicParams],
    *,
    fit_sky: bool = True,
    free_shift: bool = False,
    method: str = "lm",
) -> SersicFit:
    """Fit the brightness of a galaxy of known shape, a sky plane and, if wanted, a common shift.

    Parameters
    ----------
    data, weight : (ny, nx) float64 ndarray
        Image, and 1 / variance; 0 = do not use.
    renderer : SersicRenderer
        Of the same shape, with the working PSF.
    components : sequence of SersicParams
        The galaxy of another filter, in this image's pixel frame.
    fit_sky : bool
        Whether a sky plane is fitted too.
    free_shift : bool
        "lm": whether the centre may move, where the galaxy's S/N exceeds 5.
    method : {"lm", "iterative_NM"}
        Linear least squares, in which a galaxy that is not there may come out negative; or the seed's simplex on a
        scale between 0 and 10.

    Returns
    -------
    SersicFit
        The components scaled; their covariance is NaN but for amplitude (and centre, if it moved).

    Raises
    ------
    FitError
        If too few pixels are usable, or the galaxy has no light on them.
    """
    problem = ScaleProblem(data, weight, renderer, fit_sky=fit_sky)
    shift = np.zeros(2)
    if method == "iterative_NM":
        coefficients, normal, converged, count = _simplex_scale(problem, components)
    elif method == "lm" and free_shift:
        coefficients, shift, normal, converged, count = _shifted_scale(problem, components)
    elif method == "lm":
        coefficients, normal, _ = problem.solve(problem.columns(components, shift, slopes=False))
        converged, count = True, 1
    else:
        msg = f"unknown method {method!r} of a scale fit; choose lm or iterative_NM"
        raise ValueError(msg)
    if not normal[0, 0] > 0.0:
        msg = "the galaxy has no light on the usable pixels, so its brightness cannot be fitted"
        raise FitError(msg)
    moved = normal.shape[0] > coefficients.size
    inverse = inverse_normal(normal)
    scale = float(coefficients[0])
    columns = problem.columns(components, shift, slopes=False)
    flux = sum(total_flux(p) for p in components)
    sky, sky_covariance = sky_plane(problem, coefficients[1:], inverse[-3:, -3:])
    return SersicFit(
        components=tuple(
            replace(p, amplitude=scale * p.amplitude, x_0=p.x_0 + float(shift[0]), y_0=p.y_0 + float(shift[1]))
            for p in components
        ),
        covariance=_scale_covariance(components, inverse, moved),
        total_flux=scale * flux,
        total_flux_err=float(np.sqrt(inverse[0, 0])) * abs(flux),
        sky=sky,
        sky_covariance=sky_covariance,
        chi2=problem.chi2_at(columns, coefficients),
        n_pix=problem.n_pix,
        converged=converged,
        n_evaluations=count,
        at_bound=method == "iterative_NM" and not 0.01 < scale < 9.9,
        method=method,
    )


class ScaleProblem(SersicProblem):
    """The linear problem of one image of fixed shape, its derivatives by the centre, and a sky plane."""

    def columns(self, components: Sequence[SersicParams], shift: Array, *, slopes: bool) -> Array:
        """Return the image of all components moved by `shift`, with its slopes by the shift if wanted, and the sky."""
        total = np.zeros((3 if slopes else 1, *self.shape))
        for p in components:
            vector = to_vector(replace(p, x_0=p.x_0 + shift[0], y_0=p.y_0 + shift[1]))
            images = self.renderer.jacobian(vector, shape=False)[:3] if slopes else self.renderer.render(vector)[None]
            total += total_flux(p) * images
        return np.concatenate([total.reshape(total.shape[0], -1), self.plane])

    def solve(self, columns: Array) -> tuple[Array, Array, Array]:
        """Least-squares coefficients of `columns`, their normal matrix and its right-hand side."""
        weighted = columns * self.weight
        normal, rhs = weighted @ columns.T, weighted @ self.data
        return solve_spd(normal, rhs), normal, rhs

    def chi2_at(self, columns: Array, coefficients: Array) -> float:
        """Chi2 of ``coefficients @ columns``."""
        residual = self.data - coefficients @ columns
        return float(self.weight @ residual**2)


def _shifted_scale(problem: ScaleProblem, components: Sequence[SersicParams]) -> tuple[Array, Array, Array, bool, int]:
    """Fit scale, shift and sky by Gauss-Newton from zero shift.

    Returns
    -------
    coefficients : (1 + 3,) float64 ndarray
        Scale and sky.
    shift : (2,) float64 ndarray
        px; zero where the galaxy is too faint to tell.
    normal : float64 ndarray
        Normal matrix of scale, shift in x and y, sky; or of scale, sky without a shift.
    converged : bool
        Whether the shift became quiet inside its range.
    n_evaluations : int
        Models rendered.
    """
    shift = np.zeros(2)
    columns = problem.columns(components, shift, slopes=True)
    values = np.delete(np.arange(columns.shape[0]), [1, 2])
    coefficients, normal, _ = problem.solve(columns[values])
    if coefficients[0] * np.sqrt(normal[0, 0]) < _SHIFT_SNR:
        return coefficients, shift, normal, True, 1
    for count in range(1, 20):
        columns[1:3] *= coefficients[0]
        solution, normal, _ = problem.solve(columns)
        step = np.clip(solution[1:3], -1.0, 1.0)
        shift = np.clip(shift + step, -_SHIFT_MOST, _SHIFT_MOST)
        columns = problem.columns(components, shift, slopes=True)
        coefficients = problem.solve(columns[values])[0]
        # a hundredth of the shift's own error
        if np.all(np.abs(step) * np.sqrt(np.diag(normal)[1:3]) < 0.01):
            return coefficients, shift, normal, True, count + 1
    return coefficients, shift, normal, False, 20


def _simplex_scale(problem: ScaleProblem, components: Sequence[SersicParams]) -> tuple[Array, Array, bool, int]:
    """Fit the scale in [0, 10] by a simplex, the sky solved for at each trial.

    Returns
    -------
    coefficients : (1 + 3,) float64 ndarray
        Scale and sky.
    normal : float64 ndarray
        Their normal matrix.
    converged : bool
        Whether the simplex shrank to its tolerance.
    n_evaluations : int
        Values of chi2.
    """
    columns = problem.columns(components, np.zeros(2), slopes=False)
    _, normal, rhs = problem.solve(columns)

    def best_sky(scale: float) -> Array:
        sky = solve_spd(normal[1:, 1:], rhs[1:] - scale * normal[1:, 0])
        return np.concatenate([[scale], sky])

    def chi2(point: Array) -> float:
        coefficients = best_sky(float(point[0]))
        return problem.data_norm - float((2.0 * rhs - normal @ coefficients) @ coefficients)

    found = optimize.minimize(
        chi2, np.array([1.0]), method="Nelder-Mead", bounds=[_SCALE_RANGE], options={"xatol": 1e-7, "fatol": 1e-6}
    )
    return best_sky(float(found.x[0])), normal, bool(found.success), int(found.nfev)


def _scale_covariance(components: Sequence[SersicParams], inverse: Array, shifted: bool) -> Array:
    """Covariance (7 k, 7 k) of scaled components: amplitudes share the scale, centres the shift, the rest is NaN.

    Parameters
    ----------
    components : sequence of SersicParams
        Of scale 1.
    inverse : float64 ndarray
        Covariance of scale (and shift) and sky.
    shifted : bool
        Whether the shift is in `inverse`.
    """
    k = len(components)
    covariance = np.full((7 * k, 7 * k), np.nan)
    rows, turn = [], []
    for c, p in enumerate(components):
        rows.append(7 * c)
        turn.append([p.amplitude, 0.0, 0.0])
        if shifted:
            rows += [7 * c + 3, 7 * c + 4]
            turn += [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    matrix = np.array(turn)[:, : 3 if shifted else 1]
    used = matrix.shape[1]
    covariance[np.ix_(rows, rows)] = matrix @ inverse[:used, :used] @ matrix.T
    return covariance

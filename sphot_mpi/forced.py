"""Photometry at given positions, without any detection."""

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.errors import FitError
from sphot_mpi.flags import FitFlag, SourceFlag
from sphot_mpi.flux_solve import solve_pinned
from sphot_mpi.kernels.point_windows import local_backgrounds
from sphot_mpi.ladder import LadderResult, finish
from sphot_mpi.ladder_refit import Scene, with_solution
from sphot_mpi.psf import PSF
from sphot_mpi.records import SOURCE_DTYPE, Image, SersicParams

#: Solves in all; from the second on the smooth level of the residual is taken off, as in the final refits.
ROUNDS = 3


def forced_photometry(
    image: Image,
    error: Image,
    mask: NDArray[np.bool_],
    psf: PSF,
    x: Image,
    y: Image,
    flux_init: Image,
    config: PsfConfig,
    *,
    signed: bool = False,
    galaxy: SersicParams | None = None,
) -> LadderResult:
    """Fluxes of sources whose positions are known, all solved together.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Data without galaxy and sky; NaN counts as masked.
    error : (ny, nx) float64 ndarray
        1-sigma errors, data unit.
    mask : (ny, nx) bool ndarray
        True = do not use.
    psf : PSF
        Working PSF.
    x, y : (n,) float64 ndarray
        Positions, px; may lie off the image.
    flux_init : (n,) float64 ndarray
        Fluxes in the filter that the positions come from, for the table; the solve needs no guess.
    config : PsfConfig
        Section ``[psf]``.
    signed : bool
        Allow negative fluxes; else they are non-negative.
    galaxy : SersicParams or None
        As in `sphot_mpi.ladder.fit_ladder`.

    Returns
    -------
    LadderResult
        One row per position, in the order given; `base_id` counts them from 1.

    Raises
    ------
    FitError
        If a position is not finite, or `raise_error` is set and the solve does not converge.
    """
    x, y = np.ascontiguousarray(x, dtype=np.float64), np.ascontiguousarray(y, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        msg = "forced photometry needs finite positions; drop the rows without"
        raise FitError(msg)
    scene = Scene.build(image, error, mask, psf, config)
    sources = np.zeros(x.size, SOURCE_DTYPE)
    for name, values in (("x", x), ("y", y), ("flux", np.asarray(flux_init, dtype=np.float64))):
        sources[f"{name}_init"] = sources[f"{name}_fit"] = values
        sources[f"{name}_err"] = np.nan
    sources["base_id"] = np.arange(1, x.size + 1)
    sources["flags"] = int(SourceFlag.ANCHORED)
    messages: tuple[str, ...] = ()
    if x.size:
        if scene.fit.annulus is not None:
            sources["local_bkg"] = local_backgrounds(
                scene.image, scene.weight, x, y, *scene.fit.annulus, scene.fit.clip, 10
            )
        image = scene.image
        for _ in range(ROUNDS):
            solution = solve_pinned(image, scene.weight, psf, x, y, radius=scene.radius, signed=signed)
            sources = with_solution(sources, solution)
            image = scene.flattened(sources)
        sources = scene.measured(sources)
        if not solution.converged.all():
            messages = (f"the non-negative solve for {x.size} forced sources did not converge",)
            if config.raise_error:
                raise FitError(messages[0])
    flags = FitFlag.FORCED | (FitFlag.STEP_FAILED if messages else FitFlag(0))
    sigma = scene.scatter(scene.residual(sources))[1]
    return finish(scene, sources, galaxy, background_std=sigma, flags=flags, messages=messages)

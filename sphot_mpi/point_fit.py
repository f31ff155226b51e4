"""Grouped fits of point sources, with the columns and flags of photutils.psf."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from sphot_mpi.config_sections import PsfConfig
from sphot_mpi.flux_solve import solve_pinned
from sphot_mpi.kernels.point_fit import fit_groups
from sphot_mpi.kernels.point_windows import aperture_fluxes, local_backgrounds, window_pixels
from sphot_mpi.point_quality import data_flags, fill_quality, fit_flags
from sphot_mpi.point_render import contiguous, render_sources
from sphot_mpi.psf import PSF
from sphot_mpi.records import SOURCE_DTYPE, Image

Sources = NDArray[np.void]
Labels = NDArray[np.int64]

#: Fits of a step of the ladder; the share of a star's light that its background takes, a few per cent
#: with a narrow annulus, falls by that factor each time.
BACKGROUND_ROUNDS = 3

#: Rounds in which the pieces of a split group are fitted with each other's light taken off.
PIECE_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFitSettings:
    """How sources are grouped and fitted; lengths in px.

    Parameters
    ----------
    fit_shape : (int, int)
        (ny, nx) of the fit window, odd.
    separation : float
        Sources nearer than this are fitted together.
    largest_group : int
        Larger groups are split, and their pieces fitted in turn.
    annulus : (float, float) or None
        Radii of the local background; None: none is subtracted.
    clip : float
        Of the local background, standard deviations.
    background_rounds : int
        Fits in all. The annulus holds light of the star itself: from the second on the background is
        measured with the stars of the fit before taken off. With 1 it is that of photutils.
    aperture_radius : float
        For the first guess of the flux.
    max_iterations : int
        Of Levenberg-Marquardt.
    xy_bound : float
        Largest change of a coordinate; 0 pins positions.
    """

    fit_shape: tuple[int, int]
    separation: float
    largest_group: int = 10
    annulus: tuple[float, float] | None = None
    clip: float = 3.0
    background_rounds: int = 1
    aperture_radius: float = 3.0
    max_iterations: int = 300
    xy_bound: float = float("inf")

    @classmethod
    def from_config(cls, config: PsfConfig, psf: PSF) -> "PointFitSettings":
        """Settings of the ladder's fits for a PSF.

        A position may leave the fit window's centre by the window's half-size; one that wants
        to go further belongs to another source, and is flagged as at its bound.
        """
        side = fit_side(config.PSFPhotometry_fit_shape_in_fwhm * psf.fwhm)
        inner, outer = config.localbkg_bounds_in_psfsigma
        return cls(
            fit_shape=(side, side),
            separation=config.grouper_separation_in_psfsigma * psf.sigma,
            largest_group=config.PSFPhotometry_group_warning_threshold,
            annulus=(inner * psf.sigma, outer * psf.sigma) if inner < outer else None,
            background_rounds=BACKGROUND_ROUNDS,
            aperture_radius=config.PSFPhotometry_aperture_radius,
            max_iterations=config.PSFPhotometry_fitter_maxiters,
            xy_bound=side / 2,
        )


def fit_side(length: float) -> int:
    """Return the smallest odd number that is at least `length`, and at least 3."""
    return max(3, 2 * int(np.ceil((length - 1.0) / 2.0)) + 1)


def group_sources(x: Image, y: Image, separation: float, largest: int) -> tuple[Labels, Labels]:
    """Friends-of-friends groups, and the pieces that large groups are split into.

    Parameters
    ----------
    x, y : (n,) float64 ndarray
        Positions, px.
    separation : float
        Linking length, px.
    largest : int
        Groups with more members are linked anew with ever shorter lengths.

    Returns
    -------
    group, piece : (n,) int64 ndarray
        Numbers from 0; a piece lies within one group.
    """
    if x.size == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    tree = cKDTree(np.column_stack((x, y)))
    pairs = tree.query_pairs(separation, output_type="ndarray")
    length = np.hypot(x[pairs[:, 0]] - x[pairs[:, 1]], y[pairs[:, 0]] - y[pairs[:, 1]])
    group = _components(pairs, x.size)
    piece, keep = group.copy(), np.ones(length.size, dtype=bool)
    while True:
        big = np.bincount(piece)[piece] > largest
        if not big.any():
            return group, piece
        # the longest tenth of the links inside what is too large goes, so that it ends with single sources
        inside = np.flatnonzero(keep & big[pairs[:, 0]])
        keep[inside[np.argsort(length[inside], kind="stable")[int(0.9 * inside.size) :]]] = False
        piece = _components(pairs[keep], x.size)


def _components(pairs: NDArray[np.intp], n: int) -> Labels:
    """Label the connected components of an undirected graph."""
    links = sparse.coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels: Labels = sparse.csgraph.connected_components(links, directed=False)[1].astype(np.int64)
    return labels


def fit_points(image: Image, weight: Image, psf: PSF, x: Image, y: Image, settings: PointFitSettings) -> Sources:
    """Fit flux and position of point sources, group by group.

    Parameters
    ----------
    image : (ny, nx) float64 ndarray
        Data without galaxy and sky; finite where `weight` is positive, and 0 elsewhere.
    weight : (ny, nx) float64 ndarray
        1 / variance, 0 = do not use.
    psf : PSF
        Working PSF.
    x, y : (n,) float64 ndarray
        First guesses of the positions, px; finite.
    settings : PointFitSettings
        How.

    Returns
    -------
    (n,) ndarray of SOURCE_DTYPE
        In the order given. A source without enough pixels has NaN fits.

    Notes
    -----
    The fluxes are total fluxes of the unit-sum PSF; photutils' `ImagePSF` gives the same
    numbers when its array sums to oversampling^2.
    """
    x, y = contiguous(x, y)
    sources = np.zeros(x.size, SOURCE_DTYPE)
    sources["id"] = np.arange(1, x.size + 1)
    sources["x_init"], sources["y_init"] = x, y
    group, piece = group_sources(x, y, settings.separation, settings.largest_group)
    sources["group_id"] = group + 1
    sources["group_size"] = np.bincount(group)[group]
    pixels = window_pixels(weight, x, y, settings.fit_shape[0], settings.fit_shape[1])
    valid = pixels >= 3
    sources["n_pixels_fit"] = np.maximum(pixels, 0)
    fit = _GroupFit.empty(x.size, image=image, weight=weight, psf=psf, settings=settings)
    stars = np.zeros(image.shape)
    for turn in range(1 if settings.annulus is None else settings.background_rounds):
        if settings.annulus is not None:
            sources["local_bkg"] = local_backgrounds(image - stars, weight, x, y, *settings.annulus, settings.clip, 10)
        fit.background = np.nan_to_num(sources["local_bkg"], nan=0.0)
        if turn == 0:
            sources["flux_init"] = aperture_fluxes(image, weight, fit.background, x, y, settings.aperture_radius)
        fit.parameters = np.column_stack((sources["flux_init"], x, y))
        fit.fit_all(group, piece, valid)
        stars = fit.light(valid & (fit.parameters[:, 0] > 0.0))
    fit.parameters[~valid] = np.nan
    for k, name in enumerate(("flux", "x", "y")):
        sources[f"{name}_fit"], sources[f"{name}_err"] = fit.parameters[:, k], fit.errors[:, k]
    fill_quality(sources, fit.metrics)
    sources["flags"] = data_flags(sources, pixels, image.shape, settings.fit_shape) | fit_flags(
        sources, fit.converged, settings.xy_bound
    )
    return sources


@dataclass(slots=True, kw_only=True, eq=False)
class _GroupFit:
    """The arrays that the group fits of one call read and fill."""

    image: Image
    weight: Image
    background: Image
    psf: PSF
    settings: PointFitSettings
    parameters: Image
    errors: Image
    metrics: Image
    converged: NDArray[np.bool_]

    @classmethod
    def empty(cls, n: int, *, image: Image, weight: Image, psf: PSF, settings: PointFitSettings) -> "_GroupFit":
        """Nothing fitted yet, for `n` sources."""
        return cls(
            image=image,
            weight=weight,
            background=np.zeros(n),
            psf=psf,
            settings=settings,
            parameters=np.full((n, 3), np.nan),
            errors=np.full((n, 3), np.nan),
            metrics=np.full((n, 3), np.nan),
            converged=np.zeros(n, dtype=bool),
        )

    def fit_all(self, group: Labels, piece: Labels, valid: NDArray[np.bool_]) -> None:
        """Fit the whole groups, then the split ones piece by piece."""
        a_piece = np.zeros(group.max(initial=-1) + 1, dtype=np.int64)
        a_piece[group] = piece
        split = np.zeros(a_piece.size, dtype=bool)
        split[group[piece != a_piece[group]]] = True
        self.fit(np.flatnonzero(valid & ~split[group]), group, self.image)
        for one in np.flatnonzero(split):
            self.fit_in_turn(np.flatnonzero(valid & (group == one)), piece)

    def light(self, which: NDArray[np.bool_]) -> Image:
        """Image of the fitted sources, as far as it matters to a local background."""
        outer = 0.0 if self.settings.annulus is None else self.settings.annulus[1]
        flux, x, y = self.parameters[which].T
        shape = (self.image.shape[0], self.image.shape[1])
        return render_sources(shape, self.psf, x, y, flux, int(np.ceil(2.0 * outer)) + 1)

    def fit_in_turn(self, members: NDArray[np.intp], piece: Labels) -> None:
        """Fit the pieces of one group a few times, each with the others' light taken off.

        The first light is that of all members together at the positions of the first guess.
        """
        start = self.parameters[members].copy()
        _, x, y = contiguous(*start.T)
        radius = max(self.settings.fit_shape) // 2
        level = float(np.mean(self.background[members]))
        start[:, 0] = solve_pinned(self.image - level, self.weight, self.psf, x, y, radius=radius).flux
        self.parameters[members] = start
        for _ in range(PIECE_ROUNDS):
            for label in np.unique(piece[members]):
                inside = piece[members] == label
                flux, x, y = self.parameters[members[~inside]].T
                light = render_sources((self.image.shape[0], self.image.shape[1]), self.psf, x, y, flux)
                # windows stay where the first guess put them
                self.parameters[members[inside]] = start[inside]
                self.fit(members[inside], piece, self.image - light)

    def fit(self, members: NDArray[np.intp], label: Labels, image: Image) -> None:
        """Fit the `members`, those of equal `label` together."""
        if members.size == 0:
            return
        order = members[np.argsort(label[members], kind="stable")]
        starts = np.concatenate(([0], np.flatnonzero(np.diff(label[order])) + 1, [order.size]))
        fit_groups(
            self.parameters, self.errors, self.metrics, self.converged, image, self.weight, self.background,
            order, starts, self.psf.planes, self.psf.oversample, *self.psf.origin, *self.settings.fit_shape,
            self.settings.xy_bound, self.settings.max_iterations,
        )  # fmt: skip

"""The frozen records that flow between the stages.

Images are indexed ``[y, x]``; points are ``(x, y)``; pixel centres lie at
integers counted from 0. A stage takes records and returns new ones; nothing
is changed in place, and a residual is always derived, never stored.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import FitFlag

#: An image, a list of numbers, and an array of any shape; pixels or elements that are chosen.
Image = NDArray[np.float64]
Vector = NDArray[np.float64]
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: One point source; the names are those of photutils.psf where it has one.
SOURCE_DTYPE = np.dtype(
    [
        ("id", "i8"),  # 1, 2, ... within one galaxy and filter
        ("group_id", "i8"),  # sources fitted together share it
        ("group_size", "i8"),
        ("x_init", "f8"),
        ("y_init", "f8"),
        ("flux_init", "f8"),
        ("x_fit", "f8"),
        ("y_fit", "f8"),
        ("flux_fit", "f8"),  # total flux of the source, data unit * px
        ("flux_measured", "f8"),  # the same when the galaxy was measured
        ("x_err", "f8"),
        ("y_err", "f8"),
        ("flux_err", "f8"),
        ("local_bkg", "f8"),
        ("n_pixels_fit", "i8"),
        ("qfit", "f8"),
        ("cfit", "f8"),
        ("reduced_chi2", "f8"),
        ("snr", "f8"),  # flux_fit / flux_err
        ("base_id", "i8"),  # id of the anchoring source of the base filter, or 0
        ("flags", "i8"),  # SourceFlag
    ]
)

SERSIC_PARAMETERS = ("amplitude", "r_eff", "n", "x_0", "y_0", "ellip", "theta")


@dataclass(frozen=True, slots=True, kw_only=True)
class SersicParams:
    """One Sersic component, in the terms of `astropy.modeling.models.Sersic2D`.

    Parameters
    ----------
    amplitude : float
        Surface brightness at `r_eff`, in the data's unit.
    r_eff : float
        Semi-major axis of the ellipse that holds half of the light, px.
    n : float
        Sersic index.
    x_0, y_0 : float
        Centre, px, in the pixel frame of the image that was fitted.
    ellip : float
        1 - b/a.
    theta : float
        Position angle of the major axis, rad, counter-clockwise from +x.
    """

    amplitude: float
    r_eff: float
    n: float
    x_0: float
    y_0: float
    ellip: float
    theta: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SkyPlane:
    """A sky level with a tilt: ``level + slope_x (x - x_ref) + slope_y (y - y_ref)``."""

    level: float = 0.0
    slope_x: float = 0.0
    slope_y: float = 0.0
    x_ref: float = 0.0
    y_ref: float = 0.0

    def render(self, shape: tuple[int, int]) -> Image:
        """Return the plane on an image of `shape` (ny, nx)."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        return self.level + self.slope_x * (x - self.x_ref) + self.slope_y * (y - self.y_ref)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cutout:
    """One filter's image of one galaxy, cropped and ready to be fitted.

    Parameters
    ----------
    galaxy, filter : str
        Whose image it is.
    data : (ny, nx) float64 ndarray
        Surface brightness in `unit`; NaN where there is no data.
    error : (ny, nx) float64 ndarray or None
        1-sigma error of `data`, in `unit`; None: measure it on the image.
    mask : (ny, nx) bool ndarray
        True = do not use. Covers at least the pixels where `data` is NaN.
    unit : str
        Unit of `data`.
    pixel_scale : float
        Pixel size, arcsec.
    wcs : str
        FITS header text of the full image's WCS; empty: unknown.
    origin : (int, int)
        (x, y) in the full image of this cutout's pixel (0, 0).
    full_shape : (int, int)
        (ny, nx) of the image in the file.
    """

    galaxy: str
    filter: str
    data: Image
    error: Image | None
    mask: NDArray[np.bool_]
    unit: str = "MJy/sr"
    pixel_scale: float = 0.03
    wcs: str = ""
    origin: tuple[int, int] = (0, 0)
    full_shape: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (ny, nx)."""
        return self.data.shape[0], self.data.shape[1]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """True where there are data with a known error."""
        good = ~self.mask & np.isfinite(self.data)
        return good if self.error is None else good & (self.error > 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFit:
    """The kernel that turns the library PSF into the field's, as measured.

    Parameters
    ----------
    family : str
        "gaussian", "moffat" or "drizzle".
    values, errors : tuple of float
        Parameters in px, in the order of the family's `parameter_names`.
    fwhm : float
        Full width at half maximum of the working PSF, px.
    n_anchors : int
        Stars that carried the measurement.
    """

    family: str = "gaussian"
    values: tuple[float, ...] = (0.0,)
    errors: tuple[float, ...] = (float("nan"),)
    fwhm: float = float("nan")
    n_anchors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenLight:
    """Mean light of stars that are in no table, because nobody can place them.

    Parameters
    ----------
    outside : float
        Light per pixel of the stars beyond the data, of which the wings fall on them; data unit.
    faint : tuple of float
        Light per pixel of the stars that cannot be told from the galaxy, in annuli of 0.5 r_eff from the centre
        outwards, data unit; empty where that was not measured.
    """

    outside: float = 0.0
    faint: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StarExcess:
    """Light of a galaxy that stars on it hold: lumps and arms that no Sersic has.

    Parameters
    ----------
    flux, error : float
        Light of the stars on the galaxy beyond what the field lets expect there, data unit * px, and its error by the
        chance of the field's stars; 0 where there is nothing unusual. Where it may be chance, there is an error only.
    limit : float
        Flux in the base filter of the faintest of these stars; inf = there are none.
    """

    flux: float = 0.0
    error: float = 0.0
    limit: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FilterFit:
    """Everything that the fit of one filter of one galaxy has found.

    Positions are in the cutout's pixel frame; `Cutout.origin` leads to the
    full image. The model is ``sersic + sources + sky``, the unseen stars' light
    being part of that of the sources; the residual is ``data`` minus that.

    Parameters
    ----------
    components : tuple of SersicParams
        One component or two (disk, bulge); empty: no galaxy was fitted.
    covariance : (k, k) float64 ndarray
        Covariance of the components' parameters, in the order of
        `SERSIC_PARAMETERS`, component after component (k = 7 a component),
        marginal over sources, sky and kernel. NaN where a parameter was pinned
        without an error.
    total_flux, total_flux_err : float
        Analytic total of all components (to infinity), what the modes add and the stars' excess, data unit * px; the
        error contains that of the shape.
    flux_in_cutout : float
        The model galaxy's light inside the cutout.
    sky : SkyPlane
        Fitted sky.
    sky_covariance : (3, 3) float64 ndarray
        Of level, slope_x, slope_y.
    sources : (n,) ndarray of SOURCE_DTYPE
        All sources in the model; `report` marks those that count as found.
    report : (n,) bool ndarray
        True for the sources that pass the reporting threshold and quality cuts.
    kernel : KernelFit
        Kernel of the working PSF that belongs to this fit.
    shift : (float, float)
        (x, y) displacement of this filter's galaxy and stars against the base
        filter's frame, px; already contained in the positions above.
    noise : float
        White pixel noise in the emptiest part of the image, data unit.
    correlation : float
        Factor by which correlated noise widens the error of a point source.
    chi2_reduced : float
        Chi squared over `n_pix`.
    n_pix : int
        Pixels used.
    masked_fraction : float
        Of the cutout.
    star_density_ratio : float
        Stars per area on the galaxy over those outside: their number in joint fits, their light in the seed's.
    faint_limits : tuple of float
        Base-filter flux below which stars are not found on the galaxy, in annuli of 0.5 r_eff from the centre outwards;
        empty where that was not measured.
    position_scatter : float
        Of the base filter's joint fit: median error of a star's place along x or y times its flux, px * data unit, when
        the galaxy was measured; a star's error is this over its flux. NaN otherwise.
    unseen : UnseenLight
        Expected light of stars that are not among the sources.
    excess : StarExcess
        The galaxy's light among the sources.
    modes : tuple of float
        Amplitudes of the smooth departures of the galaxy's light from its components (`galaxy_modes`) in this filter;
        none: empty.
    passes : int
        Passes of the main loop.
    converged : bool
        Whether the loop became quiet.
    flags : FitFlag
        What was noteworthy.
    seconds : float
        Process time of the fit.
    """

    galaxy: str
    filter: str
    components: tuple[SersicParams, ...]
    covariance: Image
    total_flux: float
    total_flux_err: float
    flux_in_cutout: float
    sky: SkyPlane
    sky_covariance: Image
    sources: NDArray[np.void]
    report: NDArray[np.bool_]
    kernel: KernelFit
    shift: tuple[float, float] = (0.0, 0.0)
    noise: float = float("nan")
    correlation: float = 1.0
    chi2_reduced: float = float("nan")
    n_pix: int = 0
    masked_fraction: float = float("nan")
    star_density_ratio: float = float("nan")
    faint_limits: tuple[float, ...] = ()
    position_scatter: float = float("nan")
    unseen: UnseenLight = UnseenLight()
    excess: StarExcess = StarExcess()
    modes: tuple[float, ...] = ()
    passes: int = 0
    converged: bool = False
    flags: FitFlag = FitFlag(0)
    seconds: float = 0.0
    messages: tuple[str, ...] = field(default=())

    @property
    def model_variance(self) -> float:
        """Variance of ln(flux) of the model galaxy, its light among the stars left out; NaN where it has no light."""
        flux, variance = self.total_flux - self.excess.flux, self.total_flux_err**2 - self.excess.error**2
        return max(variance, 0.0) / flux**2 if flux != 0.0 and np.isfinite(variance) else float("nan")

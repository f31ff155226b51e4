"""Sections of the configuration: their keys, and what each may be; defaults live in ``presets/*.toml``."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        msg = "must be [low, high] with low <= high"
        raise ValueError(msg)
    return pair


def _odd(pair: tuple[int, int]) -> tuple[int, int]:
    if pair[0] % 2 == 0 or pair[1] % 2 == 0:
        msg = "must be two odd numbers, so that the window has a centre"
        raise ValueError(msg)
    return pair


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names or len(set(names)) != len(names):
        msg = "must name at least one filter, and each once"
        raise ValueError(msg)
    return names


def _falling(steps: tuple[float, ...]) -> tuple[float, ...]:
    if any(b > a for a, b in zip(steps, steps[1:], strict=False)):
        msg = "must not rise from step to step"
        raise ValueError(msg)
    return steps


def _none_text(value: object) -> object:
    return None if value == "none" else value


def _positions(value: object) -> object:
    allowed = ("anchored", "free", "forced")
    given = list(value.values()) if isinstance(value, dict) else [value]
    if not given or any(v not in allowed for v in given):
        msg = 'must be "anchored", "free" or "forced", or a table filter -> one of them'
        raise ValueError(msg)
    return value


Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
CountFromOne = Annotated[int, Field(ge=1, le=1_000_000)]
Side = Annotated[int, Field(ge=1, le=10_001)]
FilterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]{0,31}$")]
Range = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_ordered)]
Sides = Annotated[tuple[Side, Side], Field(strict=False)]
Window = Annotated[tuple[Side, Side], Field(strict=False), AfterValidator(_odd)]
Positions = Literal["anchored", "free", "forced"]
Stage = Literal[
    "data", "sersic_modelimg", "psf_modelimg", "sersic_residual", "psf_sub_data", "residual", "residual_masked"
]


class Section(BaseModel):
    """Frozen, and strict: no unknown key, no silent conversion, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True)


class PrepConfig(Section):
    """Section ``[prep]``: what is loaded and how it is cropped."""

    filters: Annotated[tuple[FilterName, ...], Field(strict=False), AfterValidator(_unique)]
    PSF_file: Annotated[str, Field(min_length=1)]
    blur_psf: dict[FilterName, NotNegative]
    custom_initial_crop: Fraction
    sigma_guess: Positive
    auto_crop: bool
    auto_crop_factor: Positive


class CoreConfig(Section):
    """Section ``[core]``: the main loop and the Sersic fits."""

    base_filter: FilterName
    iter_basefit: CountFromOne
    iter_scalefit: CountFromOne
    fit_complex_model: bool
    allow_refit: bool
    mainloop_convergence_atol: Positive
    mainloop_convergence_patience: CountFromOne
    mainloop_min_iter: Count
    use_dual_annealing: bool
    use_final_polish: bool
    sersic_method: Literal["lm", "seed", "iterative_NM", "dual_annealing", "BFGS", "lbfgsb_polish"]
    scale_positions: Annotated[Positions | dict[str, Positions], BeforeValidator(_positions)]
    max_components: Annotated[int, Field(ge=1, le=2)]
    profile_by_filter: bool
    light_modes: bool

    def positions_for(self, filter_name: str) -> Positions:
        """How the sources of a scale fit of `filter_name` get their positions."""
        if isinstance(self.scale_positions, dict):
            return self.scale_positions.get(filter_name, self.scale_positions.get("default", "anchored"))
        return self.scale_positions


class PsfCalibConfig(Section):
    """Section ``[psf-calib]``: the kernel on top of the library PSF."""

    method: Literal["joint", "anchors"]
    in_mainloop: bool
    kernel_family: Literal["gaussian", "moffat", "drizzle"]
    kernel_anchor_K: CountFromOne
    kernel_fit_skip_on_convergence: bool
    kernel_skip_threshold: Positive
    kernel_fit_objective: Literal["multi_source", "single_source"]
    kernel_fit_stamp_half_min: Side
    kernel_fit_stamp_half_in_sigmaeff: Positive
    kernel_fit_max_neighbors: Count
    kernel_fit_neighbor_pad_pix: NotNegative
    center_mask_r_in_galaxy_size: NotNegative
    calib_xy_bounds: Annotated[Positive | None, BeforeValidator(_none_text)]
    scan_method: Literal["lm", "nnls"]
    scan_metric: Literal["sum_snr", "resid_mad", "count"]
    scan_top_k: Count
    fwhm_method: Literal["empirical", "scan"]


class FinderConfig(Section):
    """Table ``psf.finder_kwargs``: what goes to photutils' DAOStarFinder."""

    roundness_range: Range
    sharpness_range: Range


class PsfConfig(Section):
    """Section ``[psf]``: detection and photometry of point sources."""

    method: Literal["joint", "ladder"]
    snr_ladder: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1), AfterValidator(_falling)]
    keep_snr: NotNegative
    report_snr: NotNegative
    colour_prior: bool
    th_min: Positive
    th_max: Positive
    th_iter: CountFromOne
    th_max_consec_empty: CountFromOne
    bkg_refit_per_iteration: bool
    bkg_floor_factor: NotNegative
    ladder_dedup_psfsigma: NotNegative
    final_refit_method: Literal["iterative", "nnls", "none"]
    final_joint_refit: bool
    final_refit_xy_bounds: NotNegative
    final_refit_iterations: Count
    final_refit_detect_th: Positive
    final_refit_dedup_psfsigma: NotNegative
    final_refit_residual_tol: NotNegative
    final_refit_catastrophic_flux_factor: Positive
    final_refit_fit_shape: Window
    leftover_max_iterations: Count
    leftover_detect_k_sigma: Positive
    leftover_dedup_psfsigma: NotNegative
    leftover_box_size: Side
    mask_aper_size_in_r_eff: NotNegative
    raise_error: bool
    residual_clip_sigma: Positive
    finder_kwargs: FinderConfig
    grouper_separation_in_psfsigma: Positive
    bkg_sigma_clip: Positive
    bkg_box_size: Sides
    bkg_filter_size: Window
    localbkg_bounds_in_psfsigma: Range
    center_mask_r_in_fwhm: NotNegative
    PSFPhotometry_aperture_radius: Positive
    PSFPhotometry_fitter_maxiters: CountFromOne
    PSFPhotometry_fit_shape_in_fwhm: Positive
    modelimg_render_shape: Window
    PSFPhotometry_group_warning_threshold: CountFromOne
    cuts_pos_err_max: Positive
    cuts_res_cen_sigma_clip: Positive
    cuts_cfit_sigma_clip: Positive
    cuts_chi2dof_median_factor: Positive
    cuts_pos_diff_median_factor: Positive
    cuts_flux_SNR_min: float

    @model_validator(mode="after")
    def _thresholds(self) -> Self:
        if self.th_min > self.th_max:
            msg = f"th_min = {self.th_min} must not be above th_max = {self.th_max}"
            raise ValueError(msg)
        if self.keep_snr > self.report_snr:
            msg = f"keep_snr = {self.keep_snr} must not be above report_snr = {self.report_snr}"
            raise ValueError(msg)
        return self


class ApertureConfig(Section):
    """Section ``[aperture]``: isophotal apertures."""

    size: Literal["petro", "fraction", "radius"]
    petro: Fraction
    petro_factor: Positive
    fraction: Fraction
    radius: Annotated[Positive | None, BeforeValidator(_none_text)]
    min_fwhm: NotNegative
    star_light: Literal["auto", "fitted", "field"]
    stars_per_aperture: NotNegative
    center_mask: NotNegative
    plot: bool
    isophot_base_filter: FilterName
    isophot_frac_min: Fraction
    isophot_frac_max: Fraction
    fit_isophot_to: Stage
    measure_on: Stage
    error_on: Literal["data_error", "psf_sub_data_error", "residual_error", "residual_masked_error"]
    measure_sky_on: Stage
    fill_max_nan_frac: Annotated[float, Field(ge=0, le=1)]
    fill_replace_with: Literal["median", "sersic_modelimg"]
    PSF_corr_base_filter: FilterName

    @model_validator(mode="after")
    def _levels(self) -> Self:
        if self.isophot_frac_min >= self.isophot_frac_max:
            msg = f"isophot_frac_min = {self.isophot_frac_min} must be below isophot_frac_max = {self.isophot_frac_max}"
            raise ValueError(msg)
        if self.size == "radius" and self.radius is None:
            msg = 'size = "radius" needs radius, the semi-major axis of the aperture in px'
            raise ValueError(msg)
        return self

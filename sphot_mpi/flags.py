"""Bit flags of fits and sources, each with the one sentence that explains it."""

from enum import IntFlag


class FitFlag(IntFlag):
    """What was noteworthy in the fit of one filter of one galaxy."""

    NOT_CONVERGED = 1
    AT_BOUND = 2
    NO_DATA = 4
    FEW_PIXELS = 8
    CENTRE_UNCOVERED = 16
    STAR_EXCESS = 32
    SECOND_COMPONENT = 64
    OWN_PROFILE = 128
    NO_SOURCES = 256
    KERNEL_AT_BOUND = 512
    KERNEL_FEW_ANCHORS = 1024
    KERNEL_BOOTSTRAP = 2048
    ERROR_ESTIMATED = 4096
    HIGH_CHI2 = 8192
    STEP_FAILED = 16384
    FORCED = 32768
    STRUCTURED = 65536
    DISPLACED = 131072
    COMPANION = 262144
    WINGS_UNTOLD = 524288
    SHAPE_WEIGHED = 1048576
    MODULATED = 2097152


FIT_FLAG_DESCRIPTIONS: dict[FitFlag, str] = {
    FitFlag.NOT_CONVERGED: "the alternation stopped at its last pass before the parameters were quiet",
    FitFlag.AT_BOUND: "a Sersic parameter lies within 1 % of its bound",
    FitFlag.NO_DATA: "the filter has no usable pixel, and nothing was fitted",
    FitFlag.FEW_PIXELS: "less than a quarter of the cutout is usable",
    FitFlag.CENTRE_UNCOVERED: "less than half of the pixels within r_eff of the galaxy are usable",
    FitFlag.STAR_EXCESS: "stars on the galaxy are not 0.8 to 1.3 times as dense as outside, or hold light of it",
    FitFlag.SECOND_COMPONENT: "the galaxy needed a second Sersic component",
    FitFlag.OWN_PROFILE: "the base filter's profile or ellipse does not fit this filter, which has its own",
    FitFlag.NO_SOURCES: "no point source was found",
    FitFlag.KERNEL_AT_BOUND: "a parameter of the PSF kernel lies at its bound",
    FitFlag.KERNEL_FEW_ANCHORS: "too few bright stars to trust the PSF kernel; where nothing else told it, it was held",
    FitFlag.KERNEL_BOOTSTRAP: "the PSF kernel comes from the bootstrap grid",
    FitFlag.ERROR_ESTIMATED: "no error map was given; noise was measured on the image",
    FitFlag.HIGH_CHI2: "the reduced chi2 is above 2",
    FitFlag.STEP_FAILED: "a step inside the fit failed and was skipped",
    FitFlag.FORCED: "sources were measured at the base filter's positions only",
    FitFlag.STRUCTURED: "the galaxy is not smooth: errors on it were widened, and its lumps are kept from being stars",
    FitFlag.DISPLACED: "the galaxy's centre is more than 0.1 px from the base filter's, shifted as the stars are",
    FitFlag.COMPANION: "the second component is so far off that it may be another galaxy, whose light the total has",
    FitFlag.WINGS_UNTOLD: "another shape fits better, but its wings would be the field's light; the total may be off",
    FitFlag.SHAPE_WEIGHED: "r_eff and n lie between the base filter's and those that this filter's data hardly tell",
    FitFlag.MODULATED: "the galaxy's light departs smoothly from its Sersic components, as the columns mode_* say",
}


class SourceFlag(IntFlag):
    """Quality of one point source; bits 1 to 2048 are those of photutils.psf."""

    PARTIAL = 1
    OUTSIDE = 2
    NEGATIVE = 4
    NO_CONVERGENCE = 8
    NO_COVARIANCE = 16
    NEAR_BOUND = 32
    NO_OVERLAP = 64
    FULLY_MASKED = 128
    FEW_PIXELS = 256
    NON_FINITE_POSITION = 512
    NON_FINITE_FLUX = 1024
    NON_FINITE_LOCAL_BKG = 2048
    ANCHORED = 4096
    IN_GALAXY = 8192
    PRIOR_DRIVEN = 16384
    CUT = 32768


#: Photutils' bit values (photutils.psf, 3.0) are kept so that its readers work.
SOURCE_FLAG_DESCRIPTIONS: dict[SourceFlag, str] = {
    SourceFlag.PARTIAL: "part of the fit window is off the image or masked",
    SourceFlag.OUTSIDE: "the fitted position is off the image",
    SourceFlag.NEGATIVE: "the fitted flux is not positive",
    SourceFlag.NO_CONVERGENCE: "the fit did not converge",
    SourceFlag.NO_COVARIANCE: "the covariance could not be computed",
    SourceFlag.NEAR_BOUND: "the position is at the bound of its range",
    SourceFlag.NO_OVERLAP: "the fit window does not overlap the image",
    SourceFlag.FULLY_MASKED: "every pixel of the fit window is masked",
    SourceFlag.FEW_PIXELS: "fewer usable pixels than parameters",
    SourceFlag.NON_FINITE_POSITION: "the position is not finite",
    SourceFlag.NON_FINITE_FLUX: "the flux is not finite",
    SourceFlag.NON_FINITE_LOCAL_BKG: "the local background is not finite",
    SourceFlag.ANCHORED: "the position carries a prior from, or is held at, the base filter's",
    SourceFlag.IN_GALAXY: "the source lies within one r_eff of the galaxy",
    SourceFlag.PRIOR_DRIVEN: "a colour prior contributes more to the flux than the data",
    SourceFlag.CUT: "a quality cut removed the source from the table used by later steps",
}


class ApertureFlag(IntFlag):
    """What was noteworthy in the aperture photometry of one filter of one galaxy."""

    NO_GALAXY = 1
    NO_DATA = 2
    OTHER_BASE = 4
    BEYOND_CUTOUT = 8
    FILLED = 16
    MOSTLY_FILLED = 32
    INDEX_NOT_REACHED = 64
    MODEL_SIZES = 128
    SKY_EXTRAPOLATED = 256
    SKY_NEAR = 512
    NO_SKY = 1024
    NEGATIVE = 2048
    OTHER_REFERENCE = 4096
    ENLARGED = 8192
    FIELD_STARS = 16384
    FIELD_TOO_SMALL = 32768


APERTURE_FLAG_DESCRIPTIONS: dict[ApertureFlag, str] = {
    ApertureFlag.NO_GALAXY: "there is no galaxy to set the aperture, or none in this filter; not measured",
    ApertureFlag.NO_DATA: "no usable pixel lies in the aperture; not measured",
    ApertureFlag.OTHER_BASE: "aperture.isophot_base_filter has no galaxy; core.base_filter sets the aperture",
    ApertureFlag.BEYOND_CUTOUT: "part of the aperture lies outside the cutout and was filled with the model",
    ApertureFlag.FILLED: "pixels without data in the aperture were filled",
    ApertureFlag.MOSTLY_FILLED: "more than half of the model's light in the aperture stands where pixels were filled",
    ApertureFlag.INDEX_NOT_REACHED: "the data do not tell the aperture's size; the model does, or else the cutout",
    ApertureFlag.MODEL_SIZES: "petro_radius or r20, r50, r80 come from the model, not the measured curve",
    ApertureFlag.SKY_EXTRAPOLATED: "few empty apertures fit; their scatter is extrapolated from smaller ones",
    ApertureFlag.SKY_NEAR: "too little sky lies outside aperture.center_mask; it was measured nearer to the galaxy",
    ApertureFlag.NO_SKY: "no empty aperture fits; the sky is that of the fit, and its error too",
    ApertureFlag.NEGATIVE: "the flux in the aperture is not positive; it has no magnitude",
    ApertureFlag.ENLARGED: "the aperture was enlarged to aperture.min_fwhm times the widest PSF's FWHM",
    ApertureFlag.FIELD_STARS: "all but the brightest stars on the galaxy were taken off by the field's mean star light",
    ApertureFlag.FIELD_TOO_SMALL: "too little field to tell its mean star light; each fitted star was taken off",
    ApertureFlag.OTHER_REFERENCE: "aperture.PSF_corr_base_filter has no fit; the base filter's PSF is the reference",
}

"""Random outcomes of every kind, full of what is hard to store: NaN of both signs, odd text, empty tables."""

from dataclasses import fields

import numpy as np
from astropy.wcs import WCS

from sphot_mpi.flags import ApertureFlag, FitFlag
from sphot_mpi.galaxy_modes import CORE, WHOLE, WIDE
from sphot_mpi.outcomes import Failure, Frame, Status, TaskOutcome, Timing
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.records import (
    SERSIC_PARAMETERS,
    SOURCE_DTYPE,
    FilterFit,
    KernelFit,
    SersicParams,
    SkyPlane,
    StarExcess,
    UnseenLight,
)
from sphot_mpi.schedule import Task, TaskKind
from sphot_mpi.sky_coordinates import wcs_text

HARD = (np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3)
TEXTS = ("", "plain", "Grüße, 星系", "a; b", "; ;", "line\nline", "nul\0here", "\udc80 half", '"quoted" \\', " space ")
ORIGIN = (137, 52)


def _some_wcs() -> str:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [10.0, 20.0], [150.0, 90.0], [-0.03 / 3600, 0.03 / 3600]
    return wcs_text(wcs)


SOME_WCS = _some_wcs()


def number(rng) -> float:
    return float(rng.choice(HARD)) if rng.random() < 0.3 else float(rng.normal() * 10.0 ** rng.integers(-8, 8))


def text(rng) -> str:
    return str(rng.choice(np.array(TEXTS, dtype=object)))


def position(rng) -> float:
    return float(rng.choice([np.nan, 0.0, -0.0, -1e-12])) if rng.random() < 0.1 else float(rng.uniform(-50.0, 900.0))


def matrix(rng, n) -> np.ndarray:
    return np.array([number(rng) for _ in range(n * n)]).reshape(n, n)


def sources(rng, n) -> np.ndarray:
    table = np.zeros(n, SOURCE_DTYPE)
    for name in SOURCE_DTYPE.names:
        if SOURCE_DTYPE[name].kind == "i":
            table[name] = rng.integers(0, 2**40, n)
        else:
            draw = position if name[:2] in ("x_", "y_") and not name.endswith("_err") else number
            table[name] = [draw(rng) for _ in range(n)]
    return table


def random_fit(rng, galaxy="ga", filter_name="F150W") -> FilterFit:
    components = int(rng.integers(0, 3))
    n = int(rng.integers(0, 6))
    family, count = [("gaussian", 1), ("moffat", 2), ("drizzle", 2)][rng.integers(3)]
    params = [
        SersicParams(**{p: position(rng) if p in ("x_0", "y_0") else number(rng) for p in SERSIC_PARAMETERS})
        for _ in range(components)
    ]
    return FilterFit(
        galaxy=galaxy,
        filter=filter_name,
        components=tuple(params),
        covariance=matrix(rng, 7 * max(components, 1)),
        total_flux=number(rng),
        total_flux_err=number(rng),
        flux_in_cutout=number(rng),
        sky=SkyPlane(
            level=number(rng), slope_x=number(rng), slope_y=number(rng), x_ref=position(rng), y_ref=position(rng)
        ),
        sky_covariance=matrix(rng, 3),
        sources=sources(rng, n),
        report=rng.random(n) < 0.5,
        kernel=KernelFit(
            family=family,
            values=tuple(number(rng) for _ in range(count)),
            errors=tuple(number(rng) for _ in range(int(rng.integers(1, count + 1)))),
            fwhm=number(rng),
            n_anchors=int(rng.integers(0, 9)),
        ),
        shift=(number(rng), number(rng)),
        noise=number(rng),
        correlation=number(rng),
        chi2_reduced=number(rng),
        n_pix=int(rng.integers(0, 2**33)),
        masked_fraction=number(rng),
        star_density_ratio=number(rng),
        faint_limits=tuple(float(v) for v in rng.choice([np.inf, 0.5, 3.25], 5)) if rng.random() < 0.5 else (),
        position_scatter=number(rng),
        unseen=UnseenLight(
            outside=number(rng),
            faint=tuple(float(v) for v in rng.choice([0.0, 0.5, 3.25], 5)) if rng.random() < 0.5 else (),
        ),
        modes=tuple(rng.normal(size=int(rng.choice([0, WHOLE.stop, CORE.stop, WIDE.stop]))).tolist()),
        excess=StarExcess(flux=number(rng), error=number(rng), limit=number(rng)),
        passes=int(rng.integers(0, 30)),
        converged=bool(rng.random() < 0.5),
        flags=FitFlag(int(rng.integers(0, 2**22))),
        seconds=number(rng),
        messages=tuple(text(rng) for _ in range(rng.integers(0, 4))),
    )


def random_photometry(rng, galaxy="ga", filter_name="F150W", origin=ORIGIN) -> AperturePhotometry:
    values = {
        f.name: number(rng) for f in fields(AperturePhotometry) if f.type is float or f.type == "float"
    } | {"x": position(rng), "y": position(rng)}  # fmt: skip
    return AperturePhotometry(
        galaxy=galaxy,
        filter=filter_name,
        flags=ApertureFlag(int(rng.integers(0, 2**13))),
        unit="MJy / sr",
        origin=origin,
        n_sky=int(rng.integers(0, 99)),
        curve=np.array([number(rng) for _ in range(192)]).reshape(4, 48),
        **values,
    )


def timing(rng) -> Timing:
    return Timing(
        rank=int(rng.integers(0, 99)), host="node1", started=1.7e9 + rng.random(), seconds=rng.random(), memory=99.5
    )


def frame(rng, wcs="") -> Frame:
    return Frame(shape=(61, 75), origin=ORIGIN, full_shape=(400, 300), unit="MJy / sr", pixel_scale=0.03, wcs=wcs)


def random_outcome(
    rng, kind=None, status=None, *, index=0, galaxy="ga", filter_name="F150W", filters=()
) -> TaskOutcome:
    """An outcome of a random kind and status, or of those that are given."""
    kind = list(TaskKind)[rng.integers(3)] if kind is None else kind
    if status is None:
        status = list(Status)[rng.integers(4)] if kind is not TaskKind.PHOTOMETRY else Status.DONE
    photometry = kind is TaskKind.PHOTOMETRY
    has_fit = status in (Status.DONE, Status.NO_DATA) and not photometry
    failure = Failure(stage="fit", error="FitError", message="it failed", traceback="x" * 5000 + text(rng))
    return TaskOutcome(
        task=Task(kind=kind, galaxy=index, filter="" if photometry else filter_name),
        status=status,
        timing=timing(rng),
        fit=random_fit(rng, galaxy, filter_name) if has_fit else None,
        frame=frame(rng, SOME_WCS if rng.random() < 0.5 else "") if has_fit else None,
        failure=failure if status is Status.FAILED else None,
        photometry=tuple(random_photometry(rng, galaxy, f) for f in filters) if photometry else (),
    )


def difference(a, b, path="") -> str:
    """Return where two records differ in any bit, or an empty text."""
    if type(a) is not type(b):
        return f"{path}: {a!r} is no {type(b).__name__}"
    if hasattr(a, "__dataclass_fields__"):
        return next(
            (d for f in fields(a) if (d := difference(getattr(a, f.name), getattr(b, f.name), f"{path}.{f.name}"))), ""
        )
    if isinstance(a, tuple):
        if len(a) != len(b):
            return f"{path}: {a!r} != {b!r}"
        return next(
            (d for k, (x, y) in enumerate(zip(a, b, strict=True)) if (d := difference(x, y, f"{path}[{k}]"))), ""
        )
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    elif isinstance(a, float):
        same = np.float64(a).tobytes() == np.float64(b).tobytes()
    else:
        same = a == b
    return "" if same else f"{path}: {a!r} != {b!r}"

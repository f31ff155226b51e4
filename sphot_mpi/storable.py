"""Outcomes as the journal and the results file keep them, so that both give back the same, bit for bit.

The results file has positions in the full image, a fit has them in its cutout. Multiples of
2^-32 px survive the way there and back exactly, as long as both stay below 2^20 px.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.outcomes import Failure, Frame, TaskOutcome
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.psf_kernel import FAMILIES
from sphot_mpi.records import SERSIC_PARAMETERS, FilterFit, Image, KernelFit

#: Smallest step of a stored position, px.
QUANTUM = 2.0**-32
_FAR = 2.0**20

#: Columns of `SOURCE_DTYPE` that are positions.
SOURCE_POSITIONS = {"x_init": 0, "y_init": 1, "x_fit": 0, "y_fit": 1}

#: Annuli in which a fit says how faint the stars are that it can find, and the light of those that it cannot.
N_ANNULI = 5

#: Longest text, characters, of a message, a traceback (its end), and a fit's remarks together.
LONGEST = 4000
#: Between a fit's remarks in one text.
SEPARATOR = "; "

T = TypeVar("T", float, NDArray[np.float64])


def storable(outcome: TaskOutcome) -> TaskOutcome:
    """Return an outcome of which nothing is lost in a file.

    Parameters
    ----------
    outcome : TaskOutcome
        As a task brings it back.

    Returns
    -------
    TaskOutcome
        Positions are multiples of `QUANTUM`; kernels have as many errors as parameters; texts have no bytes that a
        file cannot hold, and at most `LONGEST` characters.
    """
    return replace(
        outcome,
        fit=None if outcome.fit is None else _fit(outcome.fit),
        frame=None if outcome.frame is None else _frame(outcome.frame),
        failure=None if outcome.failure is None else _failure(outcome.failure),
        photometry=tuple(_photometry(record) for record in outcome.photometry),
    )


def snapped(positions: T) -> T:
    """Return positions (px) as multiples of `QUANTUM`; what is 2^20 px away or not finite stays as it is."""
    near = np.abs(positions) < _FAR
    # + 0.0: a zero has no sign, as it has none once a corner was added and taken off
    rounded = np.where(near, np.round(np.where(near, positions, 0.0) / QUANTUM) * QUANTUM + 0.0, positions)
    result: T = rounded if isinstance(positions, np.ndarray) else float(rounded)
    return result


def plain(text: str) -> str:
    """Return a text that UTF-8 of fixed length can hold: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def _fit(fit: FilterFit) -> FilterFit:
    sources = fit.sources.copy()
    for name in SOURCE_POSITIONS:
        sources[name] = snapped(sources[name])
    return replace(
        fit,
        covariance=_covariance(fit),
        components=tuple(replace(c, x_0=snapped(c.x_0), y_0=snapped(c.y_0)) for c in fit.components),
        sky=replace(fit.sky, x_ref=snapped(fit.sky.x_ref), y_ref=snapped(fit.sky.y_ref)),
        sources=sources,
        kernel=_kernel(fit.kernel),
        faint_limits=_annuli(fit.faint_limits),
        unseen=replace(fit.unseen, faint=_annuli(fit.unseen.faint)),
        messages=_remarks(fit.messages),
    )


def _covariance(fit: FilterFit) -> Image:
    """Return the covariance of a fit; without a galaxy it has the shape of one component's, and says nothing."""
    k = len(SERSIC_PARAMETERS)
    return fit.covariance if fit.components or fit.covariance.shape == (k, k) else np.full((k, k), np.nan)


def _annuli(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return as many values of annuli as there are columns, or none where all are unknown."""
    padded = (*values, *[float("nan")] * N_ANNULI)[:N_ANNULI]
    return () if np.isnan(padded).all() else padded


def _kernel(kernel: KernelFit) -> KernelFit:
    count = len(FAMILIES[kernel.family].parameter_names)
    nan = (float("nan"),) * count
    return replace(kernel, values=(*kernel.values, *nan)[:count], errors=(*kernel.errors, *nan)[:count])


def _remarks(messages: tuple[str, ...]) -> tuple[str, ...]:
    """Return remarks that can be one text and be taken apart again; the first `LONGEST` characters of them."""
    text = SEPARATOR.join(plain(m).replace(SEPARATOR, ", ").rstrip("; ") for m in messages if m.strip("; "))
    text = text[:LONGEST].rstrip("; ")
    return tuple(text.split(SEPARATOR)) if text else ()


def _frame(frame: Frame) -> Frame:
    return replace(frame, unit=plain(frame.unit), wcs=plain(frame.wcs))


def _failure(failure: Failure) -> Failure:
    return Failure(
        stage=plain(failure.stage),
        error=plain(failure.error),
        message=plain(failure.message)[:LONGEST],
        traceback=plain(failure.traceback)[-LONGEST:],
    )


def _photometry(record: AperturePhotometry) -> AperturePhotometry:
    return replace(record, x=snapped(record.x), y=snapped(record.y), unit=plain(record.unit))

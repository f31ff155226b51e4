"""Colours, ticks and words that all pictures share."""

import textwrap
from pathlib import Path

import numpy as np

from sphot_mpi.errors import UsageError
from sphot_mpi.flags import FIT_FLAG_DESCRIPTIONS, FitFlag

#: Okabe and Ito's colours, told apart with any colour vision; each also has its own line style or marker.
BLACK, ORANGE, BLUE, GREEN = "#000000", "#D55E00", "#0072B2", "#009E73"

#: Maps that differ in lightness (cividis) or run from red to blue through white.
BRIGHTNESS, DIFFERENCE = "cividis", "RdBu_r"
NO_DATA = "0.75"

#: Endings that pictures may have.
ENDINGS = (".png", ".pdf", ".svg")

#: Lengths that a scale bar may have, arcsec.
_LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)


def check_ending(output: Path) -> None:
    """Refuse a picture of a kind that is not written, before any work is done.

    Raises
    ------
    UsageError
        If its ending is none of `ENDINGS`.
    """
    if output.suffix.lower() not in ENDINGS:
        msg = f"{output}: a picture's name ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}; choose another -o."
        raise UsageError(msg)


def flag_words(flags: FitFlag) -> list[str]:
    """Return the sentence of every flag that is set, lowest bit first."""
    return [text for flag, text in FIT_FLAG_DESCRIPTIONS.items() if flag & flags]


def wrapped(sentences: list[str], width: int) -> str:
    """Return sentences as one text of lines of at most `width` characters."""
    return "\n".join(textwrap.wrap("; ".join(sentences), width))


def with_error(value: float, error: float, digits: int) -> str:
    """Return a value with its error, of which two digits count; without an error `digits` after the point.

    An error of 0 is none. A value that needs digits that count, not decimals, gets three of them.
    """
    if np.isfinite(error) and error > 0.0:
        digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 9))
        return f"{value:.{digits}f} \u00b1 {error:.{digits}f}"
    return f"{value:.{digits}f}" if value == 0.0 or abs(value) >= 10.0 ** (1 - digits) else f"{value:.3g}"


def bar_length(width: float) -> float:
    """Return a round length, arcsec, below a third of an image `width` arcsec wide."""
    return max((length for length in _LENGTHS if length < 0.35 * width), default=_LENGTHS[0])


def plain(value: float, _position: int | None = None) -> str:
    """Return a tick's label without powers of ten."""
    return f"{value:g}"

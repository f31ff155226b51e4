"""Colours, ticks and words that all pictures share."""

import textwrap

from sphot_mpi.flags import FIT_FLAG_DESCRIPTIONS, FitFlag

#: Okabe and Ito's colours, told apart with any colour vision; each also has its own line style or marker.
BLACK, ORANGE, BLUE, GREEN = "#000000", "#D55E00", "#0072B2", "#009E73"

#: Maps that differ in lightness (cividis) or run from red to blue through white.
BRIGHTNESS, DIFFERENCE = "cividis", "RdBu_r"
NO_DATA = "0.75"

#: Lengths that a scale bar may have, arcsec.
_LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)


def flag_words(flags: FitFlag) -> list[str]:
    """Return the sentence of every flag that is set, lowest bit first."""
    return [text for flag, text in FIT_FLAG_DESCRIPTIONS.items() if flag & flags]


def wrapped(sentences: list[str], width: int) -> str:
    """Return sentences as one text of lines of at most `width` characters."""
    return "\n".join(textwrap.wrap("; ".join(sentences), width))


def bar_length(width: float) -> float:
    """Return a round length, arcsec, below a third of an image `width` arcsec wide."""
    return max((length for length in _LENGTHS if length < 0.35 * width), default=_LENGTHS[0])


def plain(value: float, _position: int | None = None) -> str:
    """Return a tick's label without powers of ten."""
    return f"{value:g}"

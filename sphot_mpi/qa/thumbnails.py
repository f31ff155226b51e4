"""Small pictures for the gallery: data, cleaned data and residual of one filter, side by side."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image as PillowImage

from sphot_mpi.qa.draw_images import common_norm, sigma_of
from sphot_mpi.qa.panels import Panel
from sphot_mpi.qa.style import BRIGHTNESS, DIFFERENCE
from sphot_mpi.records import Image

#: Side of each of the three squares, px, and the gap between them.
SIDE, GAP = 104, 3
SIZE = (3 * SIDE + 2 * GAP, SIDE)

_GREY = 190
_RESIDUAL_RANGE = 5.0


def write_thumbnail(path: Path, panel: Panel) -> None:
    """Write data, cleaned data and residual of a panel as one WebP picture.

    Parameters
    ----------
    path : Path
        File to write.
    panel : Panel
        With at least one pixel of data.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    shown = panel.data - panel.sky
    norm = common_norm(shown, panel.noise)
    limits = Normalize(-_RESIDUAL_RANGE, _RESIDUAL_RANGE)
    squares = [
        _square(shown, BRIGHTNESS, norm),
        _square(panel.cleaned, BRIGHTNESS, norm),
        _square(panel.residual / sigma_of(panel), DIFFERENCE, limits),
    ]
    strip = np.full((SIDE, SIZE[0], 3), 255, dtype=np.uint8)
    for k, square in enumerate(squares):
        strip[:, k * (SIDE + GAP) : k * (SIDE + GAP) + SIDE] = square
    PillowImage.fromarray(strip).save(path, quality=82, method=4)


def _square(image: Image, cmap: str, norm: Normalize) -> NDArray[np.uint8]:
    """Colour an image and fit it into a square; grey where there is no data."""
    finite = np.isfinite(image)
    colours = (colormaps[cmap](norm(np.where(finite, image, 0.0)))[..., :3] * 255.0).astype(np.uint8)
    colours[~finite] = _GREY
    # row 0 is the lowest of the sky and the topmost of a picture
    picture = PillowImage.fromarray(np.ascontiguousarray(colours[::-1]))
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((size[0], size[1]), PillowImage.Resampling.LANCZOS)
    square = PillowImage.new("RGB", (SIDE, SIDE), (_GREY,) * 3)
    square.paste(picture, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(square)

"""The light of stars that were not fitted, as noise: much more than that of the pixels in a real field."""

from dataclasses import dataclass

import numpy as np

from sphot_mpi.joint_regions import outside
from sphot_mpi.joint_scene import PAD, Frame, Galaxy, components_of
from sphot_mpi.records import Image
from sphot_mpi.robust import median, robust_sigma
from sphot_mpi.unseen_light import half_light_distance

#: Rows and columns of the image from which it is measured, at least.
ENOUGH = 80


@dataclass(frozen=True, slots=True)
class Confusion:
    """What the residual of the field shows beyond the pixels' noise.

    Parameters
    ----------
    variance : float
        Of the unfitted stars' light, data unit squared.
    share : float
        Its share in the whole variance of the field.
    """

    variance: float
    share: float

    def part_of_pixels(self, frame: Frame) -> Image:
        """Return the share (ny, nx) that the pixels' own variance has in the sum with it; 1 where masked."""
        return np.divide(1.0, 1.0 + frame.weight * self.variance)


def confusion(frame: Frame, galaxy: Galaxy | None, residual: Image) -> Confusion:
    """Measure the unfitted stars' scatter on a residual (ny, nx) off the galaxy."""
    # neighbouring pixels show the same stars
    step = max(min(frame.shape) // ENOUGH, 1)
    sample = slice(None, None, step), slice(None, None, step)
    good, weight = frame.good[sample], frame.weight[sample]
    if not good.any():
        return Confusion(0.0, 0.0)
    if galaxy is not None:
        good = outside(good, half_light_distance(components_of(galaxy), frame.shape, PAD, step))
    total = robust_sigma(residual[sample][good]) ** 2
    # the weights' own level where half of the field lies; bright stars have larger errors
    known = 1.0 / median(weight[good])
    excess = max(total - known, 0.0)
    return Confusion(excess, excess / max(total, known))


def told_by(frame: Frame, galaxy: Galaxy | None, residual: Image) -> Image:
    """Factor (ny, nx) on the pixels' weights in what tells the kernel; 0 where it is not measured.

    Stars that nobody fits are noise to it: one in the dark knows it hardly better than one in the light. Where it is
    measured everywhere, the galaxy is still being found, and so are these stars; or bright stars are few, and count.
    """
    if frame.anchored_area.all():
        return np.ones(frame.shape)
    return frame.anchored_area * confusion(frame, galaxy, residual).part_of_pixels(frame)

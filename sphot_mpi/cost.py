"""How long a campaign takes: measured core-seconds of a fit, and from them the time that a job needs.

The figures are of one core of a 2023 Xeon, by ``benchmarks/cost.py``. Between galaxies of one size the time of a fit
varies by a factor of two to three, with the number of stars and of passes; other processors differ by
about as much. The sum over a campaign is much better known than one fit.
"""

import math
from dataclasses import dataclass

from sphot_mpi.schedule import TaskKind

#: Core-seconds of a fit: (fixed, a megapixel) by method of star photometry and kind of fit; between simulated
#: fields, which need half of this, and real ones behind thousands of stars, which need twice as much.
SECONDS = {
    "joint": {TaskKind.BASE: (1.0, 25.0), TaskKind.SCALE: (0.3, 8.0)},
    "ladder": {TaskKind.BASE: (2.0, 450.0), TaskKind.SCALE: (0.3, 40.0)},
}

#: By how much a campaign may be cheaper or dearer than the figures say.
UNCERTAINTY = 3.0

#: Seconds from the launch to the first fit, and what a time limit leaves for draining before it (--signal=USR1@300).
STARTUP, DRAIN = 30.0, 300.0

#: How much longer than expected a job may run; it is asked for in steps of five minutes.
SAFETY, STEP = 2.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GalaxyCost:
    """Core-seconds of a galaxy's fits.

    Parameters
    ----------
    base : float
        The base fit, which the others wait for.
    scales : float
        All other fits together.
    longest : float
        The longest of these.
    """

    base: float
    scales: float
    longest: float


def galaxy_cost(method: str, pixels: int, n_filters: int) -> GalaxyCost:
    """Estimate the fits of one galaxy.

    Parameters
    ----------
    method : str
        The configuration's ``psf.method``.
    pixels : int
        Of its image.
    n_filters : int
        Filters with data, the base filter among them; 0: nothing to do.

    Returns
    -------
    GalaxyCost
        Core-seconds.
    """
    base, scale = (
        fixed + slope * pixels / 1e6
        for fixed, slope in (SECONDS[method][TaskKind.BASE], SECONDS[method][TaskKind.SCALE])
    )
    others = max(n_filters - 1, 0)
    return GalaxyCost(base=base if n_filters else 0.0, scales=others * scale, longest=scale if others else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The fits of a campaign.

    Parameters
    ----------
    seconds : float
        Core-seconds of all.
    longest : float
        Seconds that the slowest galaxy takes if nothing waits: its base fit and then one other.
    """

    seconds: float = 0.0
    longest: float = 0.0

    def __add__(self, galaxy: GalaxyCost) -> "Work":
        """Return the work with one galaxy more."""
        return Work(
            seconds=self.seconds + galaxy.base + galaxy.scales,
            longest=max(self.longest, galaxy.base + galaxy.longest),
        )

    def walltime(self, ranks: int) -> float:
        """Return the expected seconds from launch to end.

        Parameters
        ----------
        ranks : int
            Processes; one of several hands out work and fits nothing.

        Returns
        -------
        float
            Graham's bound for a list schedule: all workers are busy until the last galaxy starts.

        References
        ----------
        Graham 1969, SIAM J. Appl. Math. 17, 416, for tasks that wait for others.
        """
        workers = max(ranks - 1, 1)
        return STARTUP + self.seconds / workers + self.longest * (1.0 - 1.0 / workers)

    def time_limit(self, ranks: int) -> float:
        """Return the seconds to ask a queue for: with a margin, and with time to drain."""
        return STEP * math.ceil((SAFETY * self.walltime(ranks) + DRAIN) / STEP)


def clock(seconds: float) -> str:
    """Return a time as Slurm reads it: D-HH:MM:SS, without days if there are none."""
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hour:02d}:{minute:02d}:{second:02d}"

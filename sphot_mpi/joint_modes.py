"""Smooth departures of the galaxy's light from its Sersic components: whether it has any, and how large they are.

Real galaxies are lopsided, have rings, bars and arms. What a Sersic leaves of them is filled with stars, pulls n and
with it the wings, and stays in the residual. The galaxy is therefore measured with the amplitudes of `galaxy_modes` as
well, under a prior (`joint_mode_prior`), if that is likelier.

Dust and the stars that arms are made of differ from filter to filter. Another filter is measured with the base
filter's amplitudes, for with its own it would take from its stars what its wings lose; they become its own when its
total is settled, and leave that as it is. Those of its core, whose image is the PSF's as much as its own, are from the
beginning each filter's own, the base filter's too.
"""

from dataclasses import dataclass, replace

import numpy as np

from sphot_mpi.galaxy_modes import CORE, N_MODES, REACH, WHOLE, WIDE, WIDE_REACH, core_of
from sphot_mpi.joint import Keep, State, prune, solve
from sphot_mpi.joint_measure import Measurement, chance, with_confusion, with_correlations
from sphot_mpi.joint_mode_prior import FALL, MODE_NAMES, WHOLE_NAMES, ModePrior
from sphot_mpi.joint_regions import galaxy_radius, star_reach
from sphot_mpi.joint_render import Freedom, light_of_modes
from sphot_mpi.joint_scene import Galaxy, components_of, galaxy_of
from sphot_mpi.joint_settle import settle
from sphot_mpi.records import Mask

#: Standard deviation of an amplitude of degree 0, and of how it differs from that of the base filter.
SPREAD = 0.2
#: Standard deviation, as a part of the galaxy's light, of what modes add where it is held, and where so much is left
#: that it cannot have been measured better.
HELD, LOOSE = 1e-6, 2e-3
#: Within so many half-light radii of a galaxy, its core or its nucleus, a mean chi2 of a pixel as large as this is not
#: left by noise and confusion, nor is light of so many of its errors.
LEFT_WITHIN, LEAST_LEFT, SIGNIFICANT = 2.0, 3.0, 3.0
#: A mean chi2 of core and nucleus, or of the galaxy beside a wider disc, as small as this is not worth a trial. Modes
#: that leave less than some part of a larger one are no chance, whatever the odds: without them the model is wrong.
SOME_LEFT, MOST_KEPT = 1.5, 0.5
#: Least log odds for modes, and those after one solve that may become as much.
LEAST_ODDS, PROMISING_ODDS = 0.0, -5.0
#: Least S/N of a galaxy in which they are looked for once more when it is measured, unless what is left stands out.
LEAST_SNR = 5.0
#: A step that moves a galaxy farther than this, px, is followed by another one before a wider disc is tried, for no
#: image is linear in its place.
STILL = 0.05
#: Most solves in which the stars follow before the last one for modes.
FOLLOWING_PASSES = 3
#: Light and error of a galaxy that lacks none.
NOTHING = (0.0, 0.0)


def with_modes(state: State, freedom: Freedom, keep: Keep) -> tuple[State, Freedom] | None:
    """Solve once with modes beside the stars as they are.

    Parameters
    ----------
    state : State
        With the stars that the galaxy is to be measured with.
    freedom : Freedom
        What is free; the galaxy has to be.
    keep : Keep
        Which stars stay.

    Returns
    -------
    state : State
        With modes.
    freedom : Freedom
        With them free. None instead of both: the galaxy is likelier without, and will remain so.
    """
    galaxy = state.scene.galaxy
    # modes have one centre: beside two they would only trade light with the components
    if galaxy is None or galaxy.apart:
        return None
    none = np.zeros(N_MODES)
    freer = replace(freedom, modes=ModePrior(names=WHOLE_NAMES, mean=none, spread=SPREAD, unit=chance(state)))
    tried = replace(state, scene=replace(state.scene, galaxy=replace(galaxy, modes=none)))
    tried = prune(solve(tried, freer), keep, merge=False)
    return (tried, freer) if log_odds(tried, freer.modes) > PROMISING_ODDS else None


def light_left(state: State) -> tuple[float, float]:
    """Light that a galaxy lacks as it was measured, and its error: none where what is left may be noise or confusion.

    Parameters
    ----------
    state : State
        With the stars that the galaxy was measured with.
    """
    left, *_ = _left_on_parts(state)
    told = left.chi2 > LEAST_LEFT and abs(left.light) > SIGNIFICANT * left.error
    return (left.light, left.error) if told else NOTHING


def with_own_modes(
    state: State, measurement: Measurement, keep: Keep, *, lacking: tuple[float, float], whole: bool
) -> State:
    """Let a measured galaxy's light depart from its components as this filter's image has it, where that is likelier.

    One solve finds how, for the model is linear in modes, and another one where the stars have come to since.

    Parameters
    ----------
    state : State
        With a galaxy whose light is held: what its modes add in all changes by no more than it lacks, and where they
        reach beyond the first disc by `LOOSE` of its light.
    measurement : Measurement
        Of that galaxy.
    keep : Keep
        Which stars stay.
    lacking : (float, float)
        Light and error, as `light_left` told, which must not hang on how deep the stars are fitted.
    whole : bool
        Whether those of the first disc are free, and with them the galaxy's place, at which had pulled what they take
        up; the base filter has them already.
    """
    galaxy = state.scene.galaxy
    if galaxy is None or galaxy.fluxes.sum() <= 0.0:
        return state
    frame = state.optics.frame
    # modes describe the structure for which errors had been widened
    plain = state.with_frame(frame.unwidened())
    found = _with_modes_told(plain, measurement, keep, lacking, whole)
    if found is plain:
        return state
    near = _stars_near(found, wide=bool(_galaxy_of(found).modes[WIDE].any()))
    settled, _ = settle(found.with_frame(frame), Freedom(stars=near), keep, most=FOLLOWING_PASSES)
    return _once_more(settled.with_frame(plain.optics.frame), keep, whole).with_frame(frame)


def _with_modes_told(
    state: State, measurement: Measurement, keep: Keep, lacking: tuple[float, float], whole: bool
) -> State:
    """As `with_own_modes`, of a galaxy with light, by the weights as they are."""
    galaxy, left = _galaxy_of(state), _left_on_parts(state)
    seen = galaxy.fluxes.sum() > LEAST_SNR * measurement.flux_error
    if not seen and all(part.chi2 <= LEAST_LEFT for part in left):
        return state
    first, core = [WHOLE] if whole else [], [CORE] if max(part.chi2 for part in left[1:]) > SOME_LEFT else []
    parts, found = [*first, *core], state
    if parts:
        found = _better(state, left, *_freed(state, parts, keep, NOTHING))
        moved = np.hypot(*(_galaxy_of(found).centres - galaxy.centres)[galaxy.main])
        if moved > STILL and _left_on_parts(found)[0].chi2 > SOME_LEFT:
            found, _ = _freed(found, parts, keep, NOTHING)
    # where a core needs none, odds for many count against the few that are needed
    if found is state and first and core:
        found = _better(state, left, *_freed(state, first, keep, NOTHING))
    left = left if found is state else _left_on_parts(found)
    if left[0].chi2 <= SOME_LEFT:
        return found
    placed = replace(state, scene=replace(state.scene, galaxy=replace(galaxy, centres=_galaxy_of(found).centres)))
    return _better(found, left, *_freed(placed, [*parts, WIDE], keep, lacking))


def _once_more(state: State, keep: Keep, whole: bool) -> State:
    """Solve again for the modes that a galaxy has; if the wider disc's are among them, for its core's alone.

    The prior is about those that it has: what they add in all stays as it is.
    """
    modes = _galaxy_of(state).modes
    parts = [WHOLE] if whole and modes.size <= CORE.stop else []
    parts += [CORE] if modes[CORE].any() else []
    return _freed(state, parts, keep, NOTHING)[0] if parts else state


def _better(state: State, left: list["_Left"], tried: State, odds: float) -> State:
    """Return the one of two states that describes the galaxy.

    `left` is what the first one leaves of it, `odds` are the second one's log odds.
    """
    if odds > LEAST_ODDS:
        return tried
    if all(part.chi2 <= SOME_LEFT for part in left):
        return state
    for before, after in zip(left, _left_on_parts(tried), strict=True):
        if before.chi2 > SOME_LEFT and after.chi2 < MOST_KEPT * before.chi2:
            return tried
    return state


def _galaxy_of(state: State) -> Galaxy:
    """Return the galaxy of a state that has one."""
    assert state.scene.galaxy is not None
    return state.scene.galaxy


@dataclass(frozen=True, slots=True)
class _Left:
    """What a model leaves of some light: mean chi2 of its pixels, counting confusion, their sum, and its error."""

    chi2: float
    light: float
    error: float


def _left_on_parts(state: State) -> list[_Left]:
    """Return what is left of the galaxy, of its core, and of that one's nucleus, no larger than the PSF."""
    galaxy, (weighed, unit) = _galaxy_of(state), with_confusion(state)
    core = core_of(components_of(galaxy))
    nucleus = replace(core, r_eff=min(core.r_eff, state.optics.fwhm))
    frame, residual = weighed.optics.frame, state.residual
    parts = []
    for part in (galaxy, galaxy_of((core,)), galaxy_of((nucleus,))):
        there = frame.good & (galaxy_radius(part, frame.shape) < LEFT_WITHIN)
        weight, left = frame.weight[there], residual[there]
        chi2 = float((weight * left**2).mean()) if weight.size else 0.0
        parts.append(_Left(chi2, float(left.sum()), float(np.sqrt(unit * (1.0 / weight).sum()))))
    return parts


def _freed(state: State, parts: list[slice], keep: Keep, more: tuple[float, float]) -> tuple[State, float]:
    """Solve once with the modes of some discs free, which add some light within its error; returns log odds as well."""
    galaxy, frame, wide = _galaxy_of(state), state.optics.frame, WIDE in parts
    modes = np.zeros(max(parts[-1].stop, galaxy.modes.size))
    modes[: galaxy.modes.size] = galaxy.modes
    galaxy = replace(galaxy, modes=modes)
    free, light = np.concatenate([np.arange(modes.size)[own] for own in parts]), light_of_modes(galaxy, state.optics)
    light = light[free]
    if not light.any():
        return state, -np.inf
    tried, unit = with_correlations(replace(state, scene=replace(state.scene, galaxy=galaxy)))
    # amplitudes that are likeliest to add it
    variance = (SPREAD * FALL[free]) ** 2
    mean = modes[free] + variance * light * (more[0] / (variance @ light**2))
    prior = ModePrior(
        names=tuple(MODE_NAMES[k] for k in free),
        mean=mean,
        spread=SPREAD,
        unit=unit,
        light=light / max(more[1], (LOOSE if wide else HELD) * float(galaxy.fluxes.sum())),
    )
    near = _stars_near(state, wide=wide)
    # in another filter what they take up had pulled at the galaxy's place; so many do what a small move does
    freedom = Freedom(modes=prior, stars=near, galaxy_move=WHOLE in parts and not wide)
    tried = prune(solve(tried, freedom), keep, merge=False, solved=near)
    return tried.with_frame(frame), log_odds(tried, prior)


def _stars_near(state: State, *, wide: bool) -> Mask:
    """Where stars tell something of modes: those far off tell nothing, and all are solved for when it is settled."""
    return star_reach(_galaxy_of(state), state.optics, WIDE_REACH if wide else REACH)


def log_odds(state: State, prior: ModePrior | None) -> float:
    """Ln of how much likelier the last solve's modes are than those expected."""
    assert state.step is not None
    assert prior is not None
    return prior.log_odds(state.step.names, state.step.covariance, _galaxy_of(state).modes)

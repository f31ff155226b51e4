"""The light of stars inside an aperture, star by star and by the field's mean."""

from dataclasses import replace

import numpy as np
import pytest

from sphot_mpi.aperture_stars import FieldStars, use_field
from sphot_mpi.config import load_config
from sphot_mpi.flags import FitFlag

SIDE, RADIUS = 240.0, 14.0
AREA = np.pi * RADIUS**2
FIELD_AREA = SIDE**2 - np.pi * 40.0**2


def sky_of_stars(rng, density=0.02):
    """Stars of a steep flux distribution all over an image, and how much of their light is in the aperture."""
    n = rng.poisson(density * SIDE**2)
    x, y = rng.uniform(-SIDE / 2, SIDE / 2, (2, n))
    flux = rng.pareto(1.6, n) + 1.0
    distance = np.hypot(x, y)
    return FieldStars(
        base_id=np.arange(1, n + 1),
        flux=flux,
        base_flux=flux,
        part=(distance < RADIUS).astype(float),
        in_field=distance > 40.0,
        variance=np.full(n, 0.01),
        field_area=FIELD_AREA,
        area=AREA,
    )


@pytest.mark.parametrize("threshold", [0.0, 3.0, 8.0])
def test_the_estimate_is_unbiased_and_its_error_right(threshold):
    rng = np.random.default_rng(1)
    deviations, errors = [], []
    for _ in range(300):
        stars = sky_of_stars(rng)
        deviations.append(stars.light(threshold) - (stars.flux * stars.part).sum())
        errors.append(np.sqrt(stars.shot(threshold).variance()))
    if threshold == 0.0:
        # every star counts by itself
        assert np.abs(deviations).max() < 1e-9
        return
    pulls = np.array(deviations) / np.sqrt(np.mean(np.square(errors)))
    assert abs(pulls.mean()) < 4.0 / np.sqrt(300)
    assert pulls.std() == pytest.approx(1.0, abs=0.15)


def test_a_bright_star_counts_by_itself():
    stars = sky_of_stars(np.random.default_rng(2))
    threshold = stars.bright_flux(0.1)
    flux, part = stars.flux.copy(), stars.part.copy()
    flux[0], part[0] = 1000.0 * threshold, 0.8
    outside = stars.in_field.copy()
    outside[0] = False
    before = replace(stars, part=np.where(np.arange(part.size) == 0, 0.0, part), in_field=outside)
    after = replace(stars, flux=flux, base_flux=flux, part=part, in_field=outside)
    assert after.light(threshold) - before.light(threshold) == pytest.approx(800.0 * threshold, rel=1e-6)


def test_the_threshold_is_what_the_field_says():
    stars = sky_of_stars(np.random.default_rng(3))
    for per_aperture in (0.1, 1.0, 5.0):
        brighter = np.count_nonzero(stars.base_flux[stars.in_field] > stars.bright_flux(per_aperture))
        assert brighter == int(per_aperture * FIELD_AREA / AREA)
    assert stars.bright_flux(1e6) == 0.0


def test_stars_of_the_galaxys_colour_change_no_colour():
    stars = sky_of_stars(np.random.default_rng(4))
    red = replace(stars, flux=2.5 * stars.flux)
    shot, red_shot = stars.shot(5.0), red.shot(5.0)
    assert red_shot.colour_variance(250.0, shot, 100.0) == pytest.approx(0.0, abs=1e-20)
    bluer = red_shot.colour_variance(500.0, shot, 100.0)
    assert bluer == pytest.approx(shot.variance() * (2.5 / 500.0 - 1.0 / 100.0) ** 2)


def test_stars_that_filters_do_not_share_add_up():
    stars = sky_of_stars(np.random.default_rng(5))
    own = replace(stars, base_id=np.zeros_like(stars.base_id)).shot(5.0)
    both = own.variance() / 50.0**2 + stars.shot(5.0).variance() / 100.0**2
    assert own.colour_variance(50.0, stars.shot(5.0), 100.0) == pytest.approx(both)


@pytest.mark.parametrize(
    ("choice", "flags", "expected"),
    [
        ("fitted", FitFlag.STRUCTURED, False),
        ("field", FitFlag(0), True),
        ("auto", FitFlag.ERROR_ESTIMATED, False),
        ("auto", FitFlag.STAR_EXCESS, True),
        ("auto", FitFlag.HIGH_CHI2 | FitFlag.NOT_CONVERGED, True),
    ],
)
def test_who_tells_the_stars(choice, flags, expected):
    config = load_config(preset="best").replaced({"aperture": {"star_light": choice}})
    assert use_field(config.aperture, flags) is expected

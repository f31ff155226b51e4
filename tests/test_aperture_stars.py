"""The light of stars inside an aperture, star by star and by the field's mean."""

from dataclasses import replace

import numpy as np
import pytest

from sphot_mpi.aperture_stars import FieldStars, use_field
from sphot_mpi.config import load_config
from sphot_mpi.flags import FitFlag

SIDE, RADIUS = 240.0, 14.0
FIELD_AREA = SIDE**2 - np.pi * 40.0**2


def sky_of_stars(rng, density=0.02, lumps_within=20.0):
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
        may_be_lump=distance < lumps_within,
        in_field=distance > 40.0,
        variance=np.full(n, 0.01),
        hidden=np.zeros(n),
        field_area=FIELD_AREA,
        area=np.pi * min(RADIUS, lumps_within) ** 2,
        faint=0.0,
    )


@pytest.mark.parametrize("lumps_within", [8.0, 20.0])
@pytest.mark.parametrize("threshold", [0.0, 3.0, 8.0])
def test_where_all_are_stars_none_is_in_excess_within_the_error(threshold, lumps_within):
    rng = np.random.default_rng(1)
    deviations, errors = [], []
    for _ in range(300):
        stars = sky_of_stars(rng, lumps_within=lumps_within)
        deviations.append(stars.excess(threshold))
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
    # of a thousand times the threshold, a part of 1e-12 counts in the mean
    assert after.excess(threshold) == pytest.approx(before.excess(threshold), abs=1e-6 * threshold)
    assert after.fit_variance(threshold) - before.fit_variance(threshold) == pytest.approx(0.01 * 0.8**2)


def test_stars_that_can_be_no_lumps_count_by_themselves():
    stars = sky_of_stars(np.random.default_rng(6), lumps_within=8.0)
    beyond = ~stars.may_be_lump & (stars.part > 0.0)
    brighter = replace(stars, flux=np.where(beyond, 3.0, 1.0) * stars.flux)
    assert beyond.any()
    assert brighter.excess(5.0) == stars.excess(5.0)
    assert brighter.shot(5.0).variance() == stars.shot(5.0).variance()
    # their own errors count whole, those of faint stars on the galaxy hardly
    assert stars.fit_variance(1e6) == pytest.approx(0.01 * np.count_nonzero(beyond))
    assert replace(stars, may_be_lump=~stars.in_field).fit_variance(1e6) == pytest.approx(0.0, abs=1e-9)


def test_stars_hidden_where_no_lumps_are_add_their_chance():
    stars = sky_of_stars(np.random.default_rng(7))
    expected = np.where(stars.flux < 2.0, 0.3, 0.0)
    added = replace(stars, hidden=expected).shot(5.0).variance() - stars.shot(5.0).variance()
    assert added == pytest.approx((expected * stars.flux**2)[stars.in_field].sum())


def test_a_galaxy_that_never_outshines_its_field_has_no_lumps():
    stars = replace(sky_of_stars(np.random.default_rng(8), lumps_within=0.0), area=0.0)
    threshold = stars.bright_flux(0.1)
    assert stars.excess(threshold) == 0.0
    assert stars.shot(threshold).variance() == 0.0


def test_the_threshold_is_what_the_field_says():
    stars = sky_of_stars(np.random.default_rng(3))
    for per_aperture in (0.1, 1.0, 5.0):
        brighter = np.count_nonzero(stars.base_flux[stars.in_field] > stars.bright_flux(per_aperture))
        assert brighter == int(per_aperture * FIELD_AREA / stars.area)
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
        ("auto", FitFlag.STRUCTURED | FitFlag.NOT_CONVERGED, True),
        ("auto", FitFlag.HIGH_CHI2 | FitFlag.NOT_CONVERGED, False),
    ],
)
def test_who_tells_the_stars(choice, flags, expected):
    config = load_config(preset="best").replaced({"aperture": {"star_light": choice}})
    assert use_field(config.aperture, flags) is expected

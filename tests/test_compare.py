"""Two campaigns side by side: differences, their sigma, and the exit status."""

import shutil

import h5py
import matplotlib.image
import numpy as np
import pytest
from astropy.table import Table
from campaigns import call, put_table, run_campaign

from sphot_mpi.compare import compare_campaigns, worst


@pytest.fixture
def pair(files):
    """Two results files with the same content."""
    a = run_campaign(files, output="a.h5")
    b = files.folder / "b.h5"
    shutil.copy(a, b)
    return a, b


def change(path, table, **columns):
    """Overwrite columns of a table: {name: function of the table}."""
    with h5py.File(path, "r+") as file:
        rows = file[table][:]
        for name, function in columns.items():
            rows[name] = function(rows)
        file[table][...] = rows


def of(path_a, path_b, quantity):
    return next(d for d in compare_campaigns(path_a, path_b).differences if d.quantity == quantity)


def test_a_campaign_agrees_with_itself(pair):
    a, b = pair
    comparison = compare_campaigns(a, b)
    assert comparison.n_galaxies == 3
    assert comparison.agrees(1e-6)
    assert worst(comparison, 10) == []
    done = call("compare", a, b)
    assert done.exit_code == 0, done.output
    assert "agree within 5 sigma" in done.output


def test_a_difference_is_counted_in_sigma_of_both(pair):
    a, b = pair
    change(b, "sersic", r_eff=lambda t: t["r_eff"] + 0.5, r_eff_err=lambda t: 0.3 + 0.0 * t["r_eff"])
    d = of(a, b, "r_eff")
    np.testing.assert_allclose(d.difference, 0.5)
    # the fakes' error is sqrt(0.01) = 0.1
    np.testing.assert_allclose(d.pull, 0.5 / np.hypot(0.1, 0.3))
    assert compare_campaigns(a, b).agrees(2.0)
    assert not compare_campaigns(a, b).agrees(1.5)
    assert call("compare", a, b, "--sigma", "2").exit_code == 0
    moved = call("compare", a, b, "--sigma", "1.5")
    assert moved.exit_code == 3
    assert "do not agree within 1.5 sigma" in moved.output
    assert worst(compare_campaigns(a, b), 1)[0].quantity == "r_eff"


def test_where_one_error_is_unknown_the_other_counts(pair):
    a, b = pair
    change(b, "sersic", n=lambda t: t["n"] + 0.2, n_err=lambda t: np.nan * t["n"])
    np.testing.assert_allclose(of(a, b, "n").pull, 0.2 / 0.1)
    change(a, "sersic", n_err=lambda t: np.nan * t["n"])
    assert np.isnan(of(a, b, "n").pull).all()
    assert of(a, b, "n").unjudged.all()
    assert compare_campaigns(a, b).agrees(5.0)


def test_an_ellipse_is_the_same_after_half_a_turn(pair):
    a, b = pair
    change(b, "sersic", theta=lambda t: t["theta"] + np.pi - 0.05)
    np.testing.assert_allclose(of(a, b, "theta").difference, -0.05)
    change(b, "sersic", theta=lambda t: t["theta"] - 3 * np.pi + 0.10)
    np.testing.assert_allclose(of(a, b, "theta").difference, 0.05)


def test_a_common_change_of_magnitude_is_none_of_colour(pair):
    a, b = pair
    change(b, "sersic", mag=lambda t: t["mag"] + 0.7)
    np.testing.assert_allclose(of(a, b, "mag").difference, 0.7)
    colour = of(a, b, "colour")
    assert len(colour.keys) == 6  # two filters beside the base filter, three galaxies
    assert all(filter_name != "F150W" for _, filter_name in colour.keys)
    np.testing.assert_allclose(colour.difference, 0.0, atol=1e-12)
    change(b, "sersic", mag=lambda t: t["mag"] - 0.1 * (t["filter"] == b"F277W"))
    colour = of(a, b, "colour")
    expected = [-0.1 if filter_name == "F277W" else 0.0 for _, filter_name in colour.keys]
    np.testing.assert_allclose(colour.difference, expected, atol=1e-12)


def test_counts_are_compared_as_poisson(pair):
    a, b = pair
    change(a, "sersic", n_sources=lambda t: 100)
    change(b, "sersic", n_sources=lambda t: 130)
    np.testing.assert_allclose(of(a, b, "sources").pull, 30 / np.sqrt(230))


def test_a_value_that_only_one_has_is_disagreement(pair):
    a, b = pair
    change(b, "sersic", mag=lambda t: np.where(t["name"] == b"gb", np.nan, t["mag"]))
    comparison = compare_campaigns(a, b)
    assert not comparison.agrees(1e6)
    first = worst(comparison, 3)
    assert {(o.galaxy, o.quantity) for o in first} <= {("gb", "mag"), ("gb", "colour")}
    done = call("compare", a, b)
    assert done.exit_code == 3


def test_galaxies_and_fits_in_one_only_are_named(pair, files):
    a, _ = pair
    files.catalogue.write_text("name,path\nga,ga.h5\nnew,gb.h5\n")
    with h5py.File(files.galaxy("ga"), "r+") as file:
        del file["F277W"]
    other = run_campaign(files, output="other.h5")
    comparison = compare_campaigns(a, other)
    assert (comparison.only_a, comparison.only_b) == (("gb", "gc"), ("new",))
    assert (comparison.fits_only_a, comparison.fits_only_b) == ((("ga", "F277W"),), ())
    assert not comparison.agrees(5.0)
    assert comparison.agrees(5.0, common=True)
    assert call("compare", a, other).exit_code == 3
    done = call("compare", a, other, "--common")
    assert done.exit_code == 0
    assert "only in a: 2 (gb, gc)" in done.output
    assert "ga F277W" in done.output


def test_photometry_is_compared_where_both_have_it(pair):
    a, b = pair
    for path, magnitude in ((a, 20.0), (b, 20.3)):
        numbers = {"mag_corr": [magnitude], "mag_corr_err": [0.1], "area": [1.0]}  # an area has no error
        put_table(path, "photometry", Table({"name": ["ga"], "filter": ["F150W"], **numbers}))
    d = of(a, b, "aperture mag_corr")
    assert list(d.keys) == [("ga", "F150W")]
    np.testing.assert_allclose(d.pull, 0.3 / np.hypot(0.1, 0.1))
    assert not [d for d in compare_campaigns(a, b).differences if "area" in d.quantity]


def test_the_picture_is_drawn(pair, tmp_path):
    a, b = pair
    change(b, "sersic", mag=lambda t: t["mag"] + 0.01 * np.arange(len(t)), r_eff=lambda t: 1.01 * t["r_eff"])
    picture = tmp_path / "x.png"
    done = call("compare", a, b, "-o", picture)
    assert f"Picture: {picture}" in done.output
    pixels = matplotlib.image.imread(picture)
    assert pixels[..., :3].std() > 0.05  # not a blank page
    refused = call("compare", a, b, "-o", tmp_path / "x.doc")
    assert refused.exit_code == 2
    assert "ends in .png, .pdf or .svg" in refused.output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["none.h5", "b.h5"], 2, "none.h5: there is no such file"),
        (["a.h5", "ga.h5"], 1, "no results file"),
        (["a.h5", "b.h5", "--sigma", "0"], 2, "--sigma"),
        (["a.h5"], 2, "Missing argument"),
    ],
)
def test_a_mistake_gets_its_sentence_and_status(arguments, status, words, pair, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    done = call("compare", *arguments)
    assert done.exit_code == status, done.output
    assert words in done.output


def test_nothing_in_common_is_said(pair):
    a, b = pair
    change(b, "galaxies", name=lambda t: np.char.add(b"x", t["name"].astype("S1")))
    done = call("compare", a, b)
    assert done.exit_code == 2
    assert "no galaxy in common" in done.output

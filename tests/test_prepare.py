"""Cropping: the window lies about the galaxy, whatever stars, sky and holes say."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from sphot_mpi.config import load_config
from sphot_mpi.errors import DegenerateCutoutError, InputError
from sphot_mpi.prepare import apply_crop, block_medians, find_crop, fit_gaussian_size
from sphot_mpi.records import Cutout

SHAPE = (221, 275)
REAL = Path(os.environ.get("SPHOT_REAL_DATA", Path(__file__).parents[1] / ".." / "shared" / "data" / "real"))
CONFIG = load_config(preset="sphot")


def scene(x, y, sigma, *, height=2.0, n_stars=400, seed=0, shape=SHAPE):
    """A Gaussian galaxy on a tilted sky with bright narrow stars."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    data = 0.5 + 2e-4 * xx + rng.normal(0.0, 0.01, shape)
    data += height * np.exp(-0.5 * ((xx - x) ** 2 + (yy - y) ** 2) / sigma**2)
    for _ in range(n_stars):
        sx, sy = rng.uniform(0, shape[1]), rng.uniform(0, shape[0])
        window = slice(max(0, int(sy) - 6), int(sy) + 7), slice(max(0, int(sx) - 6), int(sx) + 7)
        star = np.exp(-0.5 * ((xx[window] - sx) ** 2 + (yy[window] - sy) ** 2) / 1.2**2)
        data[window] += 0.05 * (1.0 + rng.pareto(1.0)) * star
    return data


def cutout(data, name="F150W", **changes):
    values = {"galaxy": "g", "filter": name, "data": data, "error": None, "mask": ~np.isfinite(data)}
    return Cutout(**{**values, "full_shape": data.shape, **changes})


@pytest.mark.parametrize(
    ("x", "y", "sigma"), [(140.0, 105.0, 10.0), (120.0, 118.0, 5.0), (150.0, 90.0, 16.0), (60.0, 160.0, 8.0)]
)
def test_fit_gaussian_size_finds_the_galaxy_among_stars(x, y, sigma):
    data = scene(x, y, sigma)
    data[:60, :100] = np.nan
    found = fit_gaussian_size(data, 10.0)
    # medians in 5 px blocks widen a Gaussian of sigma 5 by 3 %; a crop needs a pixel or two
    np.testing.assert_allclose(found[:2], (x, y), atol=1.0)
    assert found[2] == pytest.approx(sigma, rel=0.1)


def test_fit_gaussian_size_without_data_returns_the_guess():
    assert fit_gaussian_size(np.full((50, 71), np.nan), 7.0) == (35.0, 24.5, 7.0)


def test_block_medians_leave_out_blocks_without_data():
    data = np.arange(6.0 * 8).reshape(6, 8)
    data[:2, :2] = np.nan
    x, y, value = block_medians(data, 2)
    assert x.size == 11
    np.testing.assert_allclose(value[0], np.median(data[:2, 2:4]))
    np.testing.assert_allclose((x[0], y[0]), (2.5, 0.5))


def test_crop_is_the_factor_times_sigma_about_the_centre():
    crop = find_crop(cutout(scene(140.0, 105.0, 8.0)), CONFIG)
    assert crop.nx == crop.ny == pytest.approx(2 * 8 * 8 + 1, rel=0.1)
    assert crop.x0 + (crop.nx - 1) / 2 == pytest.approx(140.0, abs=1.5)
    assert crop.y0 + (crop.ny - 1) / 2 == pytest.approx(105.0, abs=1.5)


def test_crop_near_an_edge_is_clipped_and_not_square():
    crop = find_crop(cutout(scene(50.0, 105.0, 8.0)), CONFIG)
    assert crop.x0 == 0
    assert crop.nx < crop.ny
    assert crop.nx == pytest.approx(50 + 8 * 8, abs=8)


def test_crop_keeps_room_for_a_tiny_galaxy():
    crop = find_crop(cutout(scene(140.0, 105.0, 2.0, n_stars=0)), CONFIG)
    assert min(crop.nx, crop.ny) >= 61


def test_initial_crop_without_auto_crop_is_the_central_fraction():
    config = CONFIG.replaced({"prep": {"custom_initial_crop": 0.5, "auto_crop": False}})
    crop = find_crop(cutout(scene(140.0, 105.0, 8.0)), config)
    assert (crop.nx, crop.ny) == (138, 110)
    assert crop.x0 == (275 - 138) // 2
    assert crop.y0 == (221 - 110) // 2


def test_initial_crop_bounds_the_auto_crop():
    config = CONFIG.replaced({"prep": {"custom_initial_crop": 0.6}})
    crop = find_crop(cutout(scene(140.0, 105.0, 14.0)), config)
    assert crop.nx <= 165
    assert crop.x0 >= 55


def test_all_filters_are_cropped_alike_and_keeps_the_way_back():
    base = scene(140.0, 105.0, 8.0)
    other = base * 2.0
    other[100, 130] = 0.0
    other[101, 131] = np.nan
    error = np.full(SHAPE, 0.01)
    error[102, 132] = 0.0
    cutouts = {"F150W": cutout(base), "F814W": cutout(other, "F814W", error=error, origin=(3, 4))}
    crop = find_crop(cutouts["F150W"], CONFIG)
    ready = {name: apply_crop(full, crop) for name, full in cutouts.items()}
    x0, y0 = ready["F150W"].origin
    assert ready["F814W"].origin == (x0 + 3, y0 + 4)
    assert ready["F814W"].shape == ready["F150W"].shape
    assert ready["F814W"].full_shape == SHAPE
    np.testing.assert_array_equal(
        ready["F150W"].data, base[y0 : y0 + ready["F150W"].shape[0], x0 : x0 + ready["F150W"].shape[1]]
    )
    mask = ready["F814W"].mask
    assert mask.sum() == 3
    assert mask[100 - y0, 130 - x0]
    assert mask[101 - y0, 131 - x0]
    assert mask[102 - y0, 132 - x0]
    assert np.isnan(ready["F814W"].data[100 - y0, 130 - x0])
    # the caller's arrays stay as they were
    assert other[100, 130] == 0.0
    assert not cutouts["F814W"].mask[100, 130]


def test_a_filter_of_another_shape_is_named():
    base = cutout(scene(140.0, 105.0, 8.0))
    small = cutout(np.ones((50, 60)), "F814W")
    with pytest.raises(InputError, match="F814W is 60 x 50 px.*275 x 221"):
        apply_crop(small, find_crop(base, CONFIG))


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_base_filter_without_data_is_degenerate(value):
    with pytest.raises(DegenerateCutoutError, match="F150W has no usable pixel"):
        find_crop(cutout(np.full(SHAPE, value)), CONFIG)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real galaxies are not here")
@pytest.mark.parametrize("name", ["g004", "g096", "g144", "g200", "g225", "g232", "g260", "g273", "g310", "g327"])
def test_crop_is_centred_on_real_galaxies(name):
    with h5py.File(REAL / f"{name}.h5") as file:
        data = np.asarray(file["F150W"][()], dtype=np.float64)
    crop = find_crop(cutout(data), CONFIG)
    # centres read off the images by eye, to a few px
    x, y = {
        "g004": (118, 135), "g096": (126, 129), "g144": (123, 132), "g200": (125, 134), "g225": (130, 128),
        "g232": (118, 144), "g260": (126, 133), "g273": (128, 128), "g310": (127, 130), "g327": (125, 141),
    }[name]  # fmt: skip
    found = fit_gaussian_size(np.where(data == 0.0, np.nan, data), CONFIG.prep.sigma_guess)
    np.testing.assert_allclose(found[:2], (x, y), atol=4.0)
    assert 95 <= crop.nx <= 255

"""The scan of the star finder's matched filter."""

import numpy as np
import pytest
from analytic import gaussian_library, gaussian_stars

from sphot_mpi import fwhm_scan
from sphot_mpi.config import load_config
from sphot_mpi.fwhm_scan import BRACKET, bracketed, scan_fwhm
from sphot_mpi.psf import PSF

SHAPE, NOISE, SIGMA = (90, 111), 0.01, 1.3
CONFIG = load_config(preset="sphot-calibrated").replaced({"psf-calib": {"fwhm_method": "scan"}})


def field(seed=0, n=60):
    rng = np.random.default_rng(seed)
    x, y, flux = rng.uniform(0, SHAPE[1], n), rng.uniform(0, SHAPE[0], n), 0.3 * (1.0 + rng.pareto(1.5, n))
    return gaussian_stars(SHAPE, x, y, flux, SIGMA) + rng.normal(0.0, NOISE, SHAPE)


def scan(image, **changes):
    config = CONFIG.replaced({"psf-calib": changes})
    return scan_fwhm(
        image, np.full(SHAPE, NOISE), np.zeros(SHAPE, bool), PSF(gaussian_library(SIGMA)), config, (50.0, 40.0)
    )


@pytest.mark.parametrize("method", ["lm", "nnls"])
@pytest.mark.parametrize("metric", ["sum_snr", "resid_mad", "count"])
def test_the_best_filter_is_not_far_from_the_psf(method, metric):
    factor = scan(field(), scan_method=method, scan_metric=metric)
    assert BRACKET[0] <= factor <= BRACKET[1]


def test_every_key_rules_what_is_scored(monkeypatch):
    seen = []
    for name in ("fit_points", "solve_pinned"):
        original = getattr(fwhm_scan, name)

        def spy(image, weight, psf, x, y, *args, name=name, original=original, **kwargs):
            seen.append((name, x.size))
            return original(image, weight, psf, x, y, *args, **kwargs)

        monkeypatch.setattr(fwhm_scan, name, spy)
    image = field()
    scan(image, scan_method="lm", scan_top_k=7)
    assert {name for name, _ in seen} == {"fit_points"}
    assert {count for _, count in seen} == {7}
    seen.clear()
    scan(image, scan_method="nnls", scan_top_k=0)
    assert {name for name, _ in seen} == {"solve_pinned"}
    assert max(count for _, count in seen) > 15


@pytest.mark.parametrize("method", ["lm", "nnls"])
def test_metrics_measure_what_they_say(method):
    image = field()
    scores = {}
    for metric in ("sum_snr", "resid_mad", "count"):
        config = CONFIG.replaced({"psf-calib": {"scan_method": method, "scan_metric": metric}})
        scene = fwhm_scan.Scene.build(
            image, np.full(SHAPE, NOISE), np.zeros(SHAPE, bool), PSF(gaussian_library(SIGMA)), config.psf
        )
        blocked = np.zeros(SHAPE, bool)
        x, y = fwhm_scan.find_stars(image, blocked, 5.0 * NOISE, scene.psf.fwhm, config.psf)
        scores[metric] = [fwhm_scan._score(scene, x[:n], y[:n], config) for n in (3, x.size)]
    # more stars: more signal, less scatter, a higher count, which is at most their number
    for few, many in scores.values():
        assert many > few
    assert 0 < scores["count"][0] <= 3
    assert scores["count"][1] <= x.size
    assert scores["resid_mad"][1] < 0.0
    # each counted star is above 3 errors
    assert scores["sum_snr"][1] > 3.0 * scores["count"][1]


def test_nothing_to_find_leaves_the_psfs_own_width():
    assert scan(np.zeros(SHAPE)) == 1.0
    assert scan(np.random.default_rng(1).normal(0.0, 0.2 * NOISE, SHAPE) - 5.0, scan_metric="count") == pytest.approx(
        1.0, abs=0.9
    )


@pytest.mark.parametrize("best", [0.65, 1.0, 1.3, 1.75])
def test_the_bracket_closes_in_on_a_maximum(best):
    # six points over a factor of 3 and two halvings: a twentieth
    assert bracketed(lambda factor: -abs(np.log(factor / best))) == pytest.approx(best, rel=0.06)


def test_ties_go_to_the_psfs_own_width():
    assert abs(np.log(bracketed(lambda factor: 1.0))) < 0.12
    assert bracketed(lambda factor: -np.inf) == 1.0

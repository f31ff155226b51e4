"""Configuration: presets, overlay, ranges, and the report of everything that is wrong."""

import tomllib

import numpy as np
import pytest
from pydantic import ValidationError

from sphot_mpi.config import PRESETS, known_keys, load_config
from sphot_mpi.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "sphot_config.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_a_round_trip_through_toml(preset, tmp_path):
    config = load_config(None, preset)
    again = load_config(write(tmp_path, config.to_toml()))
    assert again == config
    assert again.digest() == config.digest()


def test_presets_differ_as_documented():
    best, seed, calibrated = (load_config(None, name) for name in PRESETS)
    assert (best.core.sersic_method, best.psf.method, best.psf_calib.method) == ("lm", "joint", "joint")
    assert (best.core.scale_positions, best.core.max_components, best.psf_calib.in_mainloop) == ("anchored", 2, True)
    assert (seed.core.sersic_method, seed.psf.method, seed.psf_calib.method) == ("seed", "ladder", "anchors")
    assert (seed.core.scale_positions, seed.core.max_components, seed.psf_calib.in_mainloop) == ("free", 1, False)
    assert (calibrated.core.iter_basefit, calibrated.core.iter_scalefit, calibrated.psf.th_min) == (20, 10, 1.0)
    assert calibrated.psf.final_refit_method == calibrated.psf_calib.scan_method == "nnls"
    assert calibrated.psf.cuts_pos_diff_median_factor == 3.0
    assert calibrated.core.sersic_method == "seed"


def test_the_default_is_best_and_a_file_may_name_another(tmp_path):
    assert load_config().preset == "best"
    path = write(tmp_path, 'preset = "sphot"\n[psf]\nth_min = 4\n')
    assert (load_config(path).preset, load_config(path).psf.th_min, load_config(path).psf.th_max) == (
        "sphot",
        4.0,
        30.0,
    )
    assert load_config(path, "best").core.sersic_method == "lm"


#: A file of the single-machine program, with its integers for floats and its tables.
EXISTING = """
[prep]
filters = ['F555W', 'F814W', 'F090W', 'F150W', 'F160W', 'F277W']
PSF_file = 'PSFdata.h5'
blur_psf = {F555W = 5, F814W = 4.5}
custom_initial_crop = 1
sigma_guess = 10
auto_crop = true
auto_crop_factor = 8
[core]
base_filter = 'F150W'
iter_basefit = 10
mainloop_convergence_atol = 1e-3
[psf-calib]
calib_xy_bounds = 3
center_mask_r_in_galaxy_size = 0
[psf]
th_min = 5
final_refit_fit_shape = [11, 11]
finder_kwargs = {roundness_range = [-1, 1], sharpness_range = [0.2, 1]}
localbkg_bounds_in_psfsigma = [2, 5]
[aperture]
petro = 0.5
measure_on = 'psf_sub_data'
"""


def test_files_of_the_single_machine_program_are_accepted_unchanged(tmp_path):
    config = load_config(write(tmp_path, EXISTING), "sphot")
    assert config.prep.blur_psf == {"F555W": 5.0, "F814W": 4.5}
    assert config.psf.finder_kwargs.roundness_range == (-1.0, 1.0)
    assert config.psf_calib.center_mask_r_in_galaxy_size == 0.0


def test_every_key_of_every_section_can_be_set(tmp_path):
    """What to_toml writes are all keys; a file of them must be accepted, key by key."""
    values = tomllib.loads(load_config(None, "sphot").to_toml())
    for section, keys in values.items():
        if isinstance(keys, dict):
            assert set(keys) == set(known_keys()[section])
            for key in keys:
                assert load_config(None, "sphot").replaced({section: {key: keys[key]}}) == load_config(None, "sphot")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[psf]\nth_mn = 3", ["[psf] th_mn = 3", "nearest is th_min"]),
        ("[core]\nth_min = 3", ["[core] th_min = 3", "there is [psf] th_min"]),
        ("[psff]\nth_min = 3", ["psff", "nearest is psf"]),
        ("sead = 3", ["sead = 3", "nearest is seed"]),
        ("[psf]\nth_min = 'a'", ["[psf] th_min = 'a'", "valid number"]),
        ("[psf]\nth_min = true", ["[psf] th_min = true", "valid number"]),
        ("[psf]\nth_iter = 1.5", ["[psf] th_iter = 1.5", "valid integer"]),
        ("[psf]\nth_min = -1", ["[psf] th_min = -1", "greater than 0"]),
        ("[psf]\nth_min = nan", ["[psf] th_min = nan", "finite"]),
        ("[psf]\nth_min = 31", ["th_min = 31", "not be above th_max"]),
        ("[psf]\nmethod = 'x'", ["[psf] method = 'x'", "'joint' or 'ladder'"]),
        ("[psf]\nfinal_refit_fit_shape = [10, 11]", ["[10, 11]", "odd"]),
        ("[psf]\nbkg_box_size = [10]", ["bkg_box_size", "one value more"]),
        ("[psf]\nlocalbkg_bounds_in_psfsigma = [5, 2]", ["[5, 2]", "low <= high"]),
        ("[psf.finder_kwargs]\nfoo = 1", ["[psf.finder_kwargs] foo = 1", "not a known key"]),
        ("[core]\nscale_positions = {F277W = 'forcd'}", ["forcd", '"forced"']),
        ("[core]\nmax_components = 3", ["max_components = 3", "less than or equal to 2"]),
        ("[core]\nbase_filter = 'F999W'", ["base_filter = F999W", "prep.filters"]),
        ("[prep]\nfilters = ['../x']", ["'../x'", "letters, digits"]),
        ("[prep]\nfilters = []", ["filters = []", "at least one"]),
        ("prep = 3", ["prep = 3", "section"]),
        ("preset = 'bst'", ["preset = 'bst'", "best, sphot, sphot-calibrated"]),
    ],
)
def test_a_mistake_is_named_with_section_key_value_and_what_is_allowed(text, words, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for word in words:
        assert word in message
    assert "\n" not in message


def test_all_problems_come_in_one_report(tmp_path):
    path = write(tmp_path, "[psf]\nth_mn = 3\nth_max = 'a'\n[core]\niter_basefit = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert "3 problems" in lines[0]
    assert len(lines) == 4


@pytest.mark.parametrize("content", [b"[psf\n", b"\xff\xfe"])
def test_what_is_no_toml_is_said_to_be_none(content, tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: the configuration file cannot be read"):
        load_config(tmp_path / "none.toml")


def test_the_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_config().psf.th_min = 1.0


def test_scale_positions_a_filter_at_a_time():
    config = load_config().replaced({"core": {"scale_positions": {"F277W": "forced"}}})
    assert config.core.positions_for("F277W") == "forced"
    assert config.core.positions_for("F555W") == "anchored"  # the preset's word for all others
    assert load_config(None, "sphot").core.positions_for("F277W") == "free"


def test_the_digest_follows_values_not_names():
    config = load_config()
    assert config.replaced({"psf": {"th_min": 4.0}}).digest() != config.digest()
    assert config.replaced({"psf": {"th_min": config.psf.th_min}}).digest() == config.digest()
    assert config.replaced({"preset": "sphot"}).digest() == config.digest()


def test_random_numbers_depend_on_seed_galaxy_and_filter_only():
    config = load_config()
    draw = [config.random("g1", "F150W").random(), config.random("g1", "F150W").random()]
    assert draw[0] == draw[1]
    others = [
        config.random("g2", "F150W"),
        config.random("g1", "F277W"),
        config.replaced({"seed": 1}).random("g1", "F150W"),
    ]
    assert len({draw[0], *(r.random() for r in others)}) == 4
    assert isinstance(others[0], np.random.Generator)
    # names are kept apart: ("a", "bc") is not ("ab", "c")
    assert config.random("a", "bc").random() != config.random("ab", "c").random()


def test_an_unset_bound_survives(tmp_path):
    config = load_config(write(tmp_path, "[psf-calib]\ncalib_xy_bounds = 'none'\n"))
    assert config.psf_calib.calib_xy_bounds is None
    assert load_config(write(tmp_path, config.to_toml())).psf_calib.calib_xy_bounds is None


def test_a_calibration_that_belongs_to_other_photometry_is_refused():
    best = load_config(preset="best")
    with pytest.raises(ConfigError, match='psf-calib.method = "anchors"'):
        best.replaced({"psf-calib": {"method": "anchors"}})
    with pytest.raises(ConfigError, match='psf.method = "ladder"'):
        best.replaced({"psf": {"method": "ladder"}})
    # where nothing is calibrated it does not matter
    assert best.replaced({"psf": {"method": "ladder"}, "psf-calib": {"in_mainloop": False}}).psf.method == "ladder"

"""A digest changes if, and only if, something changes that the task's outcome depends on."""

import os
from dataclasses import replace

import pytest
from fakes import FILTERS

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import load_config
from sphot_mpi.digests import PART, UNKNOWN, InputFiles, Settings
from sphot_mpi.schedule import TaskKind

BASE, SCALE, PHOTOMETRY = TaskKind


def all_digests(galaxy, config, version="1"):
    settings = Settings(config, version)
    tasks = [(BASE, FILTERS[0]), (SCALE, FILTERS[1]), (SCALE, FILTERS[2]), (PHOTOMETRY, "")]
    return [settings.of(galaxy, *task) for task in tasks]


def changed(before, after):
    return "".join("x" if a != b else "-" for a, b in zip(before, after, strict=True))


@pytest.fixture
def galaxy(files):
    return read_catalogue(files.catalogue, load_config(files.config)).galaxies[0]


# which of: base fit, two scale fits, photometry
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 5}, "xxx-"),
        ({"psf": {"keep_snr": 2.5}}, "xxx-"),
        ({"psf-calib": {"kernel_family": "moffat"}}, "xxx-"),
        ({"psf": {"finder_kwargs": {"roundness_range": [-0.5, 0.5]}}}, "xxx-"),
        ({"aperture": {"petro": 0.3}}, "---x"),
        ({"core": {"scale_positions": "free"}}, "-xx-"),
        ({"core": {"scale_positions": {FILTERS[1]: "forced"}}}, "-x--"),
        ({"prep": {"blur_psf": {FILTERS[2]: 0.77}}}, "--xx"),
        ({"prep": {"auto_crop_factor": 9.0}}, "xxxx"),
        ({"prep": {"PSF_file": "other.h5"}}, "----"),
        ({"prep": {"filters": [*FILTERS, "F814W"]}}, "----"),
        ({}, "----"),
    ],
)
def test_the_configuration_counts_where_it_matters(files, galaxy, change, expected):
    config = load_config(files.config)
    assert changed(all_digests(galaxy, config), all_digests(galaxy, config.replaced(change))) == expected


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_every_value_of_the_configuration_counts_somewhere(files, galaxy):
    """A key that is added later is in the digest by itself."""
    config = load_config(files.config)
    before = all_digests(galaxy, config)
    for section in ("core", "psf", "psf-calib", "aperture"):
        values = config.model_dump(by_alias=True)[section]
        for key, value in values.items():
            if key in ("base_filter", "scale_positions"):
                continue
            other = not value if isinstance(value, bool) else "other"
            attribute = section.replace("-", "_")
            # unchecked copies: it only matters that a value differs
            mutated = config.model_copy(
                update={attribute: getattr(config, attribute).model_copy(update={key: other})}
            )  # fmt: skip
            assert "x" in changed(before, all_digests(galaxy, mutated)), (section, key)


def test_the_row_and_the_program_count_where_they_matter(files, galaxy):
    config = load_config(files.config)
    before = all_digests(galaxy, config)
    cases = {
        "-x--": replace(galaxy, forced=(FILTERS[1],)),
        "---x": replace(galaxy, filters=(*FILTERS, "F090W")),
        "xxxx": replace(galaxy, filters=FILTERS[::-1]),
        "----": replace(galaxy, index=7, name="other", ra=1.0, dec=2.0, priority=3.0),
    }
    for expected, row in cases.items():
        assert changed(before, all_digests(row, config)) == expected
    assert changed(before, all_digests(galaxy, config, "2")) == "xxxx"
    # a preset's name is nothing; its values are
    assert changed(before, all_digests(galaxy, config.model_copy(update={"preset": "sphot"}))) == "----"


def test_files_are_known_by_size_and_time_and_else_by_contents(files, galaxy, tmp_path):
    first = InputFiles().of(galaxy)
    assert len(first) == 2 * PART
    assert InputFiles().of(galaxy) == first
    os.utime(galaxy.path, (1, 1))
    touched = InputFiles().of(galaxy)
    assert (touched[:PART] != first[:PART], touched[PART:] == first[PART:]) == (True, True)
    inputs = InputFiles()
    assert inputs.same(UNKNOWN + first, galaxy, inputs.stat(galaxy))
    copy = tmp_path / "copy.h5"
    copy.write_bytes(galaxy.path.read_bytes())
    assert InputFiles().content(replace(galaxy, path=copy)) == first[PART:]
    data = bytearray(galaxy.path.read_bytes())
    data[-1] ^= 1
    galaxy.path.write_bytes(data)
    assert InputFiles().content(galaxy) != first[PART:]
    assert not inputs.same(UNKNOWN + first, galaxy, inputs.stat(galaxy))
    galaxy.psf.write_bytes(b"another library")
    assert InputFiles().content(galaxy) not in (first[PART:], UNKNOWN)


def test_the_two_files_are_not_interchangeable(galaxy):
    swapped = replace(galaxy, path=galaxy.psf, psf=galaxy.path)
    assert InputFiles().content(swapped) != InputFiles().content(galaxy)


def test_a_file_that_is_gone_is_known_as_gone(galaxy):
    galaxy.path.unlink()
    files = InputFiles()
    assert files.content(galaxy) == UNKNOWN
    assert not files.same(UNKNOWN * 3, galaxy, files.stat(galaxy))
    assert files.stat(galaxy) == InputFiles().stat(galaxy)


def test_a_file_is_read_once_while_it_stays_the_same(galaxy, monkeypatch):
    files = InputFiles()
    files.of(galaxy)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert files.of(galaxy) == files.of(galaxy)

"""Catalogues: formats, aliases, defaults, and all problems of all rows together."""

import logging

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fakes import FILTERS, galaxy_image

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import load_config
from sphot_mpi.errors import CatalogueError, UsageError


@pytest.fixture
def config(files):
    return load_config(files.config)


def rewrite(files, text):
    files.catalogue.write_text(text)
    return files.catalogue


def problems(files, config, text):
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(rewrite(files, text), config)
    return str(caught.value)


def test_rows_take_the_configurations_defaults(files, config):
    catalogue = read_catalogue(files.catalogue, config)
    assert [g.name for g in catalogue.galaxies] == ["ga", "gb", "gc"]
    first = catalogue.galaxies[0]
    assert (first.path, first.psf) == (files.galaxy("ga"), files.psf)
    assert (first.filters, first.base_filter, first.forced, first.priority) == (FILTERS, "F150W", (), 0.0)
    assert np.isnan(first.ra)
    assert list(catalogue.columns) == ["name", "path", "redshift"]
    assert len(catalogue.digest) == 64


def test_a_row_may_say_otherwise(files, config):
    text = "name,path,filters,base_filter,forced,priority,ra,dec\nga,ga.h5,F555W;F277W,F277W,F555W,3,150.1,-2\n"
    galaxy = read_catalogue(rewrite(files, text), config).galaxies[0]
    assert (galaxy.filters, galaxy.base_filter, galaxy.forced) == (("F277W", "F555W"), "F277W", ("F555W",))
    assert (galaxy.priority, galaxy.ra, galaxy.dec) == (3.0, 150.1, -2.0)
    own = galaxy.config(config)
    assert (own.core.base_filter, own.prep.filters) == ("F277W", ("F277W", "F555W"))
    assert own.core.positions_for("F555W") == "forced"
    assert own.core.positions_for("F814W") == "anchored"


def test_names_stay_text(files, config):
    catalogue = read_catalogue(rewrite(files, "name,path\n0042,ga.h5\n1e5,gb.h5\n"), config)
    assert [g.name for g in catalogue.galaxies] == ["0042", "1e5"]


def test_the_name_defaults_to_the_files(files, config):
    assert [g.name for g in read_catalogue(rewrite(files, "path\nga.h5\ngb.h5\n"), config).galaxies] == ["ga", "gb"]


def test_aliases_comments_and_byte_order_mark(files, config, caplog):
    text = "\ufeff# made by hand\nObjID, FILE ,ALPHA_J2000,dec\n\nx1,ga.h5,10.5,1\n"
    with caplog.at_level(logging.INFO, "sphot_mpi"):
        galaxy = read_catalogue(rewrite(files, text), config).galaxies[0]
    assert (galaxy.name, galaxy.path.name, galaxy.ra) == ("x1", "ga.h5", 10.5)
    assert "'ObjID' is taken as 'name'" in caplog.text


def test_the_exact_name_goes_before_its_aliases(files, config):
    catalogue = read_catalogue(rewrite(files, "id,name,path\n7,seven,ga.h5\n"), config)
    assert catalogue.galaxies[0].name == "seven"
    assert list(catalogue.columns) == ["id", "name", "path"]


@pytest.mark.parametrize("suffix", ["ecsv", "fits"])
def test_ecsv_and_fits_tables(suffix, files, config):
    path = files.folder / f"table.{suffix}"
    Table({"name": [5, 6], "path": ["ga.h5", "gb.h5"], "ra": [1.5, np.nan]}).write(path)
    catalogue = read_catalogue(path, config)
    assert [g.name for g in catalogue.galaxies] == ["5", "6"]
    assert catalogue.galaxies[0].ra == 1.5
    assert np.isnan(catalogue.galaxies[1].ra)
    assert catalogue.columns["ra"].dtype == np.float64
    assert catalogue.columns["ra"].dtype.isnative


def test_masked_cells_are_unknown(files, config):
    path = files.folder / "table.ecsv"
    table = Table(
        {"name": ["a", "b"], "path": ["ga.h5", "gb.h5"], "filters": ["F150W", "x"], "priority": [1, 2]}, masked=True
    )
    table["filters"].mask = table["priority"].mask = [False, True]
    table.write(path)
    second = read_catalogue(path, config).galaxies[1]
    assert (second.filters, second.priority) == (FILTERS, 0.0)


@pytest.mark.parametrize("suffix", ["h5", "fits"])
def test_a_galaxy_file_is_a_catalogue_of_one(suffix, files, config):
    path = files.galaxy("ga")
    if suffix == "fits":
        path = files.folder / "ga.fits"
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(galaxy_image(1), name="F150W")]).writeto(path)
    catalogue = read_catalogue(path, config)
    assert [(g.name, g.path) for g in catalogue.galaxies] == [("ga", path)]


def test_all_problems_of_all_rows_come_together(files, config):
    text = (
        "name,path,base_filter,ra,dec,psf,forced,priority\n"
        "ga,ga.h5,F999W,,,,,\n"
        ",gb.h5,,abc,,,,\n"
        "gc,none.h5,,,91,,,\n"
        "gc,gc.h5,,,,none.h5,,\n"
        "ok,ga.h5,,,,,,\n"
        "ok,gb.h5,,,,,,\n"
        f"{'x' * 65},gb.h5,,,,,F555W,inf\n"
        "e,,,,,,F150W,\n"
    )
    message = problems(files, config, text)
    for words in (
        "row 1 (ga): the base filter F999W is not one of the filters",
        "row 2 (gb.h5): ra = 'abc' must be a number",
        "row 3 (gc): there is no file",
        "row 3 (gc): dec = '91' must be a number from -90 to 90",
        "row 4 (gc): the PSF library is unusable",
        "row 4 (gc): the name is that of row 3",
        "row 6 (ok): the name is that of row 5",
        "the name is longer than 64 bytes",
        "priority = 'inf'",
        "row 8 (e): the path is empty",
        "row 8 (e): forced filter F150W is not one of",
        "--skip-invalid",
    ):
        assert words in message


def test_skip_invalid_runs_the_rest(files, config):
    path = rewrite(files, "name,path\nga,none.h5\ngb,gb.h5\ngb,gc.h5\n")
    catalogue = read_catalogue(path, config, skip_invalid=True)
    assert [(g.index, g.name) for g in catalogue.galaxies] == [(0, "gb")]
    assert list(catalogue.columns["name"]) == ["gb"]
    assert len(catalogue.problems) == 2


def test_nothing_left_is_an_error(files, config):
    with pytest.raises(CatalogueError, match="no galaxy to fit"):
        read_catalogue(rewrite(files, "name,path\nga,none.h5\n"), config, skip_invalid=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no row"),
        ("name,path\n", "no row"),
        ("name,where\nga,ga.h5\n", "no column 'path' among name, where"),
        ("name,path\nga\n", "row 1 has 1 values for 2 columns"),
        ("name,name,path\na,b,c\n", "repeated names"),
        ("name,path\ng\x07a,ga.h5\n", "cannot be printed"),
        ("name,path\nga,g\x07a.h5\n", "characters that no path has"),
        ("name,path,filters\nga,ga.h5,../F150W\n", "'../F150W' is no filter name"),
        ("name,path\nga,.\n", "there is no file"),
    ],
)
def test_a_bad_catalogue_gets_its_sentence(text, words, files, config):
    assert words in problems(files, config, text)


def test_what_is_no_text_is_said_to_be_none(files, config):
    files.catalogue.write_bytes(b"name,path\n\xff\xfe,ga.h5\n")
    with pytest.raises(CatalogueError, match="no text in UTF-8"):
        read_catalogue(files.catalogue, config)


def test_a_missing_catalogue_is_named(files, config):
    with pytest.raises(CatalogueError, match=r"none\.csv: there is no such file"):
        read_catalogue(files.folder / "none.csv", config)


def test_a_library_without_the_base_filter_is_a_problem_of_the_row(files, config):
    with h5py.File(files.psf, "r+") as file:
        del file["F150W"]
    assert "has no PSF for the base filter F150W" in problems(files, config, files.catalogue.read_text())


def test_where_a_library_that_nobody_named_is_looked_for_is_said(files, config):
    files.psf.unlink()
    message = problems(files, config, "name,path,psf\nga,ga.h5,\ngb,gb.h5,none.h5\n")
    assert f"row 1 (ga): there is no PSF library {files.psf}; put PSFdata.h5 beside catalogue.csv, " in message
    assert "or name it in column psf or key prep.PSF_file." in message
    assert "row 2 (gb): the PSF library is unusable: " in message


def test_select(files, config):
    catalogue = read_catalogue(files.catalogue, config)
    assert [g.name for g in catalogue.select(("gc", "ga")).galaxies] == ["ga", "gc"]
    assert [g.name for g in catalogue.select(limit=2).galaxies] == ["ga", "gb"]
    chosen = catalogue.select(("gc",))
    assert list(chosen.columns["name"]) == ["gc"]
    assert chosen.galaxies[0].index == 0  # its row in the results
    with pytest.raises(UsageError, match="'gd' is not in the catalogue; the nearest is 'g"):
        catalogue.select(("gd",))

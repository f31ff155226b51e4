"""Exports: what is written reads back equal, with units and words; the one-galaxy file has the layout it claims."""

import csv
import json

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable, Table
from astropy.wcs import WCS
from campaigns import call, put_table, run_campaign

from sphot_mpi.config import load_config
from sphot_mpi.export import FORMATS, export_tables, magnitudes_table
from sphot_mpi.export_sphot import PSF_TABLE_COLUMNS
from sphot_mpi.flags import FIT_FLAG_DESCRIPTIONS, SOURCE_FLAG_DESCRIPTIONS
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.sky_coordinates import wcs_text

NAME = 'gä 1,"2"'  # a name is any printable text


@pytest.fixture
def results(files):
    """A campaign with a name that needs care, a failure with a traceback of many lines, and a WCS."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cdelt = [-1e-5, 1e-5]
    wcs.wcs.crval = [150.0, 2.0]
    with h5py.File(files.galaxy("ga"), "r+") as file:
        file.attrs["wcs"] = wcs_text(wcs)
    with files.catalogue.open("w", newline="") as file:
        csv.writer(file).writerows([("name", "path"), (NAME, "ga.h5"), ("bad", "gb.h5"), ("gc", "gc.h5")])
    return run_campaign(files, images="all")


def text(column):
    """A text column as str: FITS hands out bytes, ECSV and CSV mask the empty."""
    values = np.asarray(np.ma.filled(column, b"" if column.dtype.kind == "S" else ""))
    return np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)


def assert_equal(original: Table, found: Table):
    assert found.colnames == original.colnames
    assert len(found) == len(original)
    for name in original.colnames:
        if original[name].dtype.kind in "SU":
            assert list(text(found[name])) == list(text(original[name])), name
        else:
            np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(original[name]), err_msg=name)


@pytest.mark.parametrize("format_name", ["ecsv", "fits", "parquet"])
def test_a_table_reads_back_equal_in_astropy(format_name, results, tmp_path):
    with ResultsReader(results) as reader:
        paths = export_tables(reader, tmp_path / "out", format_name)
        names = reader.tables()
        assert "\n" in reader.array("failures")["traceback"][0].decode()
        assert {"catalogue", "galaxies", "sersic", "sources", "sources_index", "failures", "provenance"} <= set(names)
        assert [p.stem for p in paths] == [*names, "magnitudes", "columns"]
        for name, path in zip(names, paths, strict=False):
            original = Table.read(reader.file, path=name, format="hdf5", character_as_bytes=False)
            found = Table.read(path, format=FORMATS[format_name])
            if format_name != "parquet":
                # these two formats hold no line ends, as tracebacks have them, and no blanks at the end
                for column in original.itercols():
                    if column.dtype.kind == "U" and "\n" in "".join(column):
                        words = column.description
                        original[column.name] = np.char.rstrip(np.char.replace(np.asarray(column), "\n", r"\n"))
                        original[column.name].description = words
            assert_equal(original, found)
            for column in original.colnames:
                words = found[column].description
                assert words.startswith(original[column].description)
                if found[column].unit != original[column].unit:
                    # what FITS has no unit for is named in words
                    assert format_name == "fits"
                    assert words.endswith(f"; in {original[column].unit}")
    assert QTable.read(paths[names.index("sersic")], format=FORMATS[format_name])["r_eff"].unit == u.pix


def test_a_csv_reads_back_equal_in_pandas_and_its_columns_are_explained(results, tmp_path):
    pandas = pytest.importorskip("pandas")
    with ResultsReader(results) as reader:
        paths = export_tables(reader, tmp_path / "out", "csv")
        names = reader.tables()
        for name, path in zip(names, paths, strict=False):
            original = Table.read(reader.file, path=name, format="hdf5", character_as_bytes=False)
            frame = pandas.read_csv(path, keep_default_na=False, na_values=["nan"], engine="python")
            assert_equal(original, Table.from_pandas(frame.fillna(np.nan)))
        explained = Table.read(paths[-1], format="ascii.csv")
        described = set(zip(explained["table"], explained["column"], strict=True))
        assert described >= {(name, column) for name in names for column in reader.array(name).dtype.names}
    assert explained["unit"][list(explained["column"]).index("r_eff")] == "pix"


def test_parquet_reads_back_equal_in_pandas(results, tmp_path):
    pandas = pytest.importorskip("pandas")
    with ResultsReader(results) as reader:
        paths = export_tables(reader, tmp_path, "parquet", ["sersic", "sources", "failures"])
        for path in paths[:3]:
            original = Table.read(reader.file, path=path.stem, format="hdf5", character_as_bytes=False)
            assert_equal(original, Table.from_pandas(pandas.read_parquet(path)))


@pytest.mark.parametrize("format_name", ["csv", "parquet"])
def test_a_long_table_is_written_in_parts_and_reads_back_whole(format_name, results, tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr("sphot_mpi.export._CHUNK", 7)  # of 30 rows; names of different lengths fall in different parts
    with ResultsReader(results) as reader:
        (path, *_) = export_tables(reader, tmp_path / "out", format_name, ["sources"])
        original = Table.read(reader.file, path="sources", format="hdf5", character_as_bytes=False)
    assert len(original) == 30
    if format_name == "csv":
        assert_equal(original, Table.from_pandas(pandas.read_csv(path, engine="python")))
    else:
        found = Table.read(path)
        assert_equal(original, found)
        assert found["flux_fit"].description == original["flux_fit"].description
        assert_equal(original, Table.from_pandas(pandas.read_parquet(path)))
    assert [p.name for p in (tmp_path / "out").glob("sources*")] == [f"sources.{format_name}"]


def test_flags_and_origin_go_along(results, tmp_path):
    with ResultsReader(results) as reader:
        sersic, sources = (
            Table.read(path) for path in export_tables(reader, tmp_path, "ecsv", ["sersic", "sources"])[:2]
        )
        fits = Table.read(export_tables(reader, tmp_path, "fits", ["sersic"])[0])
    for table, words in ((sersic, FIT_FLAG_DESCRIPTIONS), (sources, SOURCE_FLAG_DESCRIPTIONS)):
        # one line a bit, although some of the sentences hold a semicolon
        assert table.meta["flags"] == [f"{flag.value} {flag.name}: {sentence}" for flag, sentence in words.items()]
    assert sersic.meta["creator"] == "sphot-mpi"
    assert sersic.meta["results_file"] == "results.h5"
    assert sum(line.startswith("flag ") for line in fits.meta["comments"]) == len(FIT_FLAG_DESCRIPTIONS)


def test_position_on_the_sky_is_there_where_a_wcs_is(results, tmp_path):
    with ResultsReader(results) as reader:
        (path, *_) = export_tables(reader, tmp_path, "ecsv", ["sersic"])
    table = QTable.read(path)
    of_first = table["name"] == NAME
    for column in ("ra", "dec", "pa"):
        assert table[column].unit == u.deg
        assert np.isfinite(table[column][of_first]).all()
        assert np.isnan(table[column][~of_first]).all()


def test_magnitudes_have_a_row_a_galaxy_and_filter_and_take_photometry_along(results):
    photometry = Table({"name": ["gc", NAME], "filter": ["F150W"] * 2, "mag_corr": [21.5, 20.5], "sky": [1.0, 2.0]})
    photometry["mag_corr"].unit = "mag(AB)"
    put_table(results, "photometry", photometry)
    with ResultsReader(results) as reader:
        table = magnitudes_table(reader)
        rows = list(zip(table["name"], table["filter"], strict=True))
        assert rows == [(r["name"].decode(), r["filter"].decode()) for r in reader.array("sersic")]
    assert table["mag_corr"][rows.index(("gc", "F150W"))] == 21.5
    assert table["aperture_sky"][rows.index((NAME, "F150W"))] == 2.0  # /sersic has a sky as well
    assert np.isnan(table["mag_corr"][rows.index(("gc", "F555W"))])
    assert table["mag_corr"].unit == u.Unit("mag(AB)")


def read_like_the_single_machine_program(path):
    """As its reader does: groups are filters; bytes are JSON; all else is taken as it is."""

    def value(dataset):
        found = dataset[()]
        return json.loads(found) if isinstance(found, bytes) else found

    with h5py.File(path) as file:
        return {
            key: {k: value(d) for k, d in node.items()} if isinstance(node, h5py.Group) else value(node)
            for key, node in file.items()
        }


def test_the_one_galaxy_file_has_the_single_machine_layout(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    done = call("export", "results.h5", "--sphot", "gc")
    assert done.exit_code == 0, done.output
    galaxy = read_like_the_single_machine_program("gc_sphot.h5")
    assert galaxy["name"] == "gc"
    assert galaxy["filters"] == ["F150W", "F555W", "F277W"]
    with ResultsReader(results) as reader:
        x0, y0 = reader.images("gc", "F150W").origin
        sources = reader.sources("gc", "F277W")
        row = next(r for r in reader.array("sersic") if r["name"] == b"gc" and r["filter"] == b"F277W")
    for filter_name in galaxy["filters"]:
        cd = galaxy[filter_name]
        assert cd["filtername"] == filter_name
        # the identities by which that program's images hang together; rounding only (single precision is stored)
        raw, sky = cd["_rawdata"], cd["sky_model"]
        close = {"rtol": 0, "atol": 1e-6 * np.nanmax(np.abs(raw))}
        np.testing.assert_allclose(cd["data"], raw - cd["_bkg_level"], **close)
        np.testing.assert_allclose(cd["sersic_residual"], raw - cd["sersic_modelimg"] - sky, **close)
        np.testing.assert_allclose(cd["residual"], cd["sersic_residual"] - cd["psf_modelimg"], **close)
        kept = np.isfinite(cd["residual_masked"])
        np.testing.assert_allclose(cd["residual_masked"][kept], cd["residual"][kept], **close)
        np.testing.assert_allclose(cd["psf_sub_data"][kept], (raw - cd["psf_modelimg"] - sky)[kept], **close)
        assert cd["psf_table"].dtype.names == PSF_TABLE_COLUMNS
    cd = galaxy["F277W"]
    reported = sources[sources["reported"]]
    np.testing.assert_allclose(cd["psf_table"]["x_fit"], reported["x_fit"] - x0)
    np.testing.assert_array_equal(cd["psf_table"]["flux_fit"], reported["flux_fit"])
    physical = cd["sersic_params_physical"]
    assert physical["x_0"] == pytest.approx(row["x_0"] - x0)
    assert physical["y_0"] == pytest.approx(row["y_0"] - y0)
    assert (physical["r_eff"], cd["n"], cd["ellip"]) == (row["r_eff"], row["n"], row["ellip"])
    # scaled to its bounds: the centre between 0 and the side, r_eff between 0.5 px and the side, n between 0.1 and 10
    ny, nx = cd["data"].shape
    scaled = cd["sersic_params"]
    assert scaled.shape == (8,)
    assert scaled[0] * nx == pytest.approx(physical["x_0"])
    assert 0.5 + scaled[3] * (ny - 0.5) == pytest.approx(physical["r_eff"])
    assert 0.1 + scaled[4] * 9.9 == pytest.approx(physical["n"])


def test_the_psf_of_the_one_galaxy_file_is_the_working_psf(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    assert call("export", "results.h5", "--sphot", "gc").exit_code == 0
    galaxy = read_like_the_single_machine_program("gc_sphot.h5")
    with h5py.File(files.psf) as file:
        for name in ("F150W", "F555W"):  # an odd and an even side
            library = LibraryPSF.from_array(file[name][:], 2)
            cd = galaxy[name]
            assert cd["psf_oversample"] == 2
            assert cd["psf"].shape == library.array.shape
            assert cd["psf"].sum() == pytest.approx(1.0)
            assert cd["kernel_params"] == {"sigma_data": 0.7}
            # centred in its array, as the library is: the array is symmetric
            np.testing.assert_allclose(cd["psf"], cd["psf"][::-1, ::-1], atol=1e-9)
            working = PSF(library, Kernel("gaussian", (0.7,)))
            assert cd["psf"].max() == pytest.approx(working.array.max(), rel=0.05)  # the crop has lost a little


def test_aperture_magnitudes_go_into_the_one_galaxy_file(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    names = ("mag_raw", "mag_raw_err", "mag_corr", "mag_corr_err")
    numbers = dict(zip(names, ([21.0], [0.1], [20.7], [0.2]), strict=True))
    put_table(results, "photometry", Table({"name": ["gc"], "filter": ["F555W"], **numbers}))
    assert call("export", "results.h5", "--sphot", "gc").exit_code == 0
    galaxy = read_like_the_single_machine_program("gc_sphot.h5")
    cd = galaxy["F555W"]
    assert [cd[name] for name in names] == [21.0, 0.1, 20.7, 0.2]
    # there, mag_corr = mag_raw - dmag_PSFcorr
    assert cd["dmag_PSFcorr"] == pytest.approx(0.3)
    assert cd["aper_petro"] == load_config(files.config).aperture.petro
    assert "mag_raw" not in galaxy["F277W"]


def test_images_that_are_not_stored_are_made_anew(files, monkeypatch):
    monkeypatch.chdir(files.folder)
    run_campaign(files, images="all")
    assert call("export", "results.h5", "--sphot", "gc", "-o", "stored.h5").exit_code == 0
    run_campaign(files)
    assert call("export", "results.h5", "--sphot", "gc", "-o", "anew.h5").exit_code == 0
    stored, anew = (read_like_the_single_machine_program(name) for name in ("stored.h5", "anew.h5"))
    for key in ("_rawdata", "sersic_modelimg", "psf_modelimg", "residual", "psf"):
        # single precision is stored
        np.testing.assert_allclose(stored["F555W"][key], anew["F555W"][key], rtol=1e-6, atol=1e-6, err_msg=key)
    files.galaxy("gc").unlink()
    gone = call("export", "results.h5", "--sphot", "gc", "--overwrite")
    assert gone.exit_code in (1, 3)
    assert "gc.h5" in gone.output
    assert "Traceback" not in gone.output


def test_without_a_psf_library_the_file_says_so(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    files.psf.unlink()
    done = call("export", "results.h5", "--sphot", "gc")
    assert done.exit_code == 0, done.output
    assert "without the PSF" in done.output
    assert "psf" not in read_like_the_single_machine_program("gc_sphot.h5")["F150W"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["none.h5", "-o", "x"], 2, "there is no such file"),
        (["results.h5"], 2, "-o DIR"),
        (["results.h5", "-o", "x", "--format", "xls"], 2, "xls"),
        (
            ["results.h5", "-o", "x", "--table", "stars"],
            2,
            "there is no table stars; it holds catalogue, failures, galaxies",
        ),
        (["results.h5", "-o", "results.h5"], 1, "this folder cannot be made"),
        (["results.h5", "--sphot", "gx"], 2, "there is no galaxy 'gx'"),
        (["results.h5", "--sphot", "bad"], 2, "has no fit"),
        (["results.h5", "--sphot", "gc", "--table", "sersic"], 2, "leave out --table"),
        (["results.h5", "--sphot", "gc", "-o", "results.h5"], 1, "the file exists"),
    ],
)
def test_a_mistake_gets_its_sentence_and_status(arguments, status, words, results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    done = call("export", *arguments)
    assert done.exit_code == status, done.output
    assert words in done.output
    assert "Traceback" not in done.output


def test_files_that_exist_are_kept_unless_told(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    assert call("export", "results.h5", "-o", "out", "--table", "sersic").exit_code == 0
    before = (files.folder / "out/sersic.ecsv").read_bytes()
    refused = call("export", "results.h5", "-o", "out", "--table", "sersic")
    assert refused.exit_code == 1
    assert "give --overwrite" in refused.output
    assert call("export", "results.h5", "-o", "out", "--table", "sersic", "--overwrite").exit_code == 0
    assert (files.folder / "out/sersic.ecsv").read_bytes() == before


def test_parquet_without_pyarrow_is_one_sentence(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr("sphot_mpi.export.find_spec", lambda name: None)
    done = call("export", "results.h5", "-o", "out", "--format", "parquet")
    assert done.exit_code == 2
    assert (
        done.output
        == "Error: --format parquet needs pyarrow, which is not installed; run pip install 'sphot-mpi[parquet]'.\n"
    )


def test_a_name_does_not_get_into_a_path(results, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    done = call("export", "results.h5", "--sphot", NAME)
    assert done.exit_code == 0, done.output
    assert (files.folder / "g__1__2__sphot.h5").is_file()

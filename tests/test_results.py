"""The results file: what is in it, in which frame and unit, and that it is whole or not there."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.table import QTable
from astropy.wcs import WCS
from fakes import FAKES, FILTERS, fake_base, fake_scaled

from sphot_mpi.campaign import Campaign
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import load_config
from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.flags import FitFlag
from sphot_mpi.inputs import read_libraries
from sphot_mpi.outcomes import Frame
from sphot_mpi.progress import Quiet
from sphot_mpi.records import SOURCE_DTYPE
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_schema import FORMAT, IMAGES, TABLES
from sphot_mpi.serial import run_serial
from sphot_mpi.sky_coordinates import wcs_text
from sphot_mpi.storable import QUANTUM
from sphot_mpi.tasks import Fitters


def campaign_of(files, images=(), **changes):
    config = load_config(files.config).replaced(changes)
    catalogue = read_catalogue(files.catalogue, config)
    output = files.folder / "results.h5"
    return Campaign(catalogue=catalogue, config=config, output=output, images=images, command_line="sphot-mpi x")


def run(files, fitters=FAKES, images=(), **changes):
    campaign = campaign_of(files, images, **changes)
    return campaign.output, run_serial(campaign, lambda: fitters, Quiet())


def test_every_table_opens_with_astropy_and_every_dataset_says_what_it_is(files):
    output, end = run(files, images=tuple(IMAGES))
    for name in TABLES:
        table = QTable.read(output, path=name)
        assert table.meta["description"]
        assert all(table[column].info.description for column in table.colnames)
    with h5py.File(output) as file:
        seen = []
        file.visititems(lambda name, node: seen.append(node) if isinstance(node, h5py.Dataset) else None)
        assert all("unit" in node.attrs and node.attrs["description"] for node in seen)
        assert len(seen) == 2 * len(TABLES) + 3 + len(FILTERS) * len(IMAGES)
        # variable-length text cannot be written in parallel
        assert all(h5py.check_string_dtype(node.dtype) is None or node.dtype.kind == "S" for node in seen)
    assert end.exit_status(strict=True) == 0


def test_root_attributes_tell_where_it_comes_from(files):
    output, _ = run(files)
    campaign = campaign_of(files)
    with ResultsReader(output) as reader:
        attributes = dict(reader.file.attrs)
    assert (attributes["format"], attributes["ranks"], attributes["command_line"]) == (FORMAT, 1, "sphot-mpi x")
    assert attributes["catalogue_sha256"] == campaign.catalogue.digest
    assert "numpy" in attributes["versions"]
    copy = files.folder / "again.toml"
    copy.write_text(attributes["configuration"])
    assert load_config(copy) == campaign.config


def test_units_of_the_columns(files):
    output, _ = run(files)
    sersic = QTable.read(output, path="sersic")
    assert sersic["amplitude"].unit == u.MJy / u.sr
    assert sersic["total_flux"].unit == u.MJy / u.sr * u.pix
    assert sersic["sky_slope_x"].unit == u.MJy / u.sr / u.pix
    assert sersic["x_0"].unit == u.pix
    assert sersic["theta"].unit == u.rad
    assert sersic["mag"].unit == u.ABmag
    assert QTable.read(output, path="sources")["flux_fit"].unit == u.MJy / u.sr * u.pix


def test_rows_are_sorted_by_catalogue_and_filter(files):
    files.catalogue.write_text("name,path,priority\nga,ga.h5,0\ngb,gb.h5,9\ngc,gc.h5,5\n")
    output, _ = run(files)
    with ResultsReader(output) as reader:
        ran = reader.array("provenance")
        ran = ran[np.argsort(ran["started"], kind="stable")]
        assert [r.decode() for r in ran["name"]] == ["gb"] * 3 + ["gc"] * 3 + ["ga"] * 3
        rows = reader.array("sersic")
        assert [r.decode() for r in rows["name"]] == ["ga"] * 3 + ["gb"] * 3 + ["gc"] * 3
        assert [r.decode() for r in rows["filter"][:3]] == list(FILTERS)
        assert reader.names() == ["ga", "gb", "gc"]
        assert reader.filters("gb") == list(FILTERS)
        index = reader.array("sources_index")
        np.testing.assert_array_equal(index["start"], np.arange(9) * 5)
        assert len(reader.sources("gc", "F277W")) == 5
        assert reader.sources("gc", "F999W").size == 0


def test_positions_are_those_of_the_full_image(files):
    seen = {}

    def scaled(cutout, *arguments):
        fit = fake_scaled(cutout, *arguments)
        seen[cutout.galaxy, cutout.filter] = Frame.of(cutout), fit
        return fit

    output, _ = run(files, Fitters(fake_base, scaled))
    with ResultsReader(output) as reader:
        galaxies, rows = reader.array("galaxies"), reader.array("sersic")
        sources = reader.sources("gb", "F555W")
    frame, fit = seen["gb", "F555W"]
    assert frame.origin != (0, 0)  # the crop moved it, so this test can fail
    assert (galaxies["crop_x"][1], galaxies["crop_y"][1]) == frame.origin
    assert (galaxies["crop_ny"][1], galaxies["crop_nx"][1]) == frame.shape
    assert (galaxies["full_ny"][1], galaxies["full_nx"][1]) == (90, 110)
    assert rows["x_0"][4] == fit.components[0].x_0 + frame.origin[0]
    assert rows["sky_y"][4] == fit.sky.y_ref + frame.origin[1]
    for k, name in enumerate(("x_fit", "y_fit")):
        np.testing.assert_allclose(sources[name], fit.sources[name] + frame.origin[k], rtol=0.0, atol=QUANTUM)
    assert set(SOURCE_DTYPE.names) <= set(sources.dtype.names)


def test_errors_come_from_the_covariance(files):
    output, _ = run(files)
    with ResultsReader(output) as reader:
        rows = reader.array("sersic")
        covariance = reader.file["sersic_covariance"][:]
    assert covariance.shape == (9, 7, 7)
    np.testing.assert_allclose(rows["n_err"], 0.1)
    np.testing.assert_allclose(rows["sky_slope_y_err"], 0.01)
    assert np.isnan(rows["r_eff_2"]).all()
    assert np.isnan(rows["r_eff_2_err"]).all()


def test_two_components_and_one_in_the_same_table(files):
    def double(cutout, library, config):
        fit = fake_base(cutout, library, config)
        from dataclasses import replace

        return replace(fit, components=fit.components * 2, covariance=np.diag(np.arange(1.0, 15.0)))

    output, _ = run(files, Fitters(double, fake_scaled))
    with ResultsReader(output) as reader:
        rows, covariance = reader.array("sersic"), reader.file["sersic_covariance"][:]
    assert covariance.shape == (9, 14, 14)
    assert list(rows["n_components"][:3]) == [2, 1, 1]
    np.testing.assert_allclose(rows["amplitude_2_err"][0], np.sqrt(8.0))
    assert np.isnan(covariance[1, 7:]).all()
    assert np.isfinite(covariance[1, :7, :7]).all()


def test_negative_fluxes_have_no_magnitude(files):
    output, _ = run(files)
    with ResultsReader(output) as reader:
        sources = reader.sources("ga", "F150W")
    assert np.isnan(sources["mag"][0])
    assert np.isfinite(sources["mag"][1:]).all()
    # five times the flux of 1 MJy/sr in a pixel of 0.03 arcsec: 28.0 - 2.5 log10(...), JWST's zero point at that scale
    np.testing.assert_allclose(sources["mag"][1], -6.10 - 2.5 * np.log10(np.deg2rad(0.03 / 3600) ** 2), atol=0.001)


def test_images_add_up_to_the_data(files):
    output, _ = run(files, images=tuple(IMAGES))
    with ResultsReader(output) as reader:
        stored = reader.images("gb", "F277W")
        row = reader.array("sersic")[5]
        stack = reader.file["images/F277W/data"]
        assert stack.shape[0] == 3
        assert stack.dtype == np.float32
    y, x = np.mgrid[: stored.data.shape[0], : stored.data.shape[1]]
    x, y = x + stored.origin[0], y + stored.origin[1]
    sky = row["sky"] + row["sky_slope_x"] * (x - row["sky_x"]) + row["sky_slope_y"] * (y - row["sky_y"])
    total = stored.sersic_model + stored.psf_model + sky + stored.residual
    # float32 of values up to a few thousand times the unit of least precision
    np.testing.assert_allclose(total, stored.data, rtol=1e-5, atol=1e-5)
    assert stored.sersic_model.max() > 0.1
    assert stored.psf_model.max() > 0.1


def test_images_beyond_a_cutout_are_nan(files):
    output, _ = run(files, images=("residual",))
    with ResultsReader(output) as reader:
        shapes = {(int(g["crop_ny"]), int(g["crop_nx"])) for g in reader.array("galaxies")}
        stack = reader.file["images/F150W/residual"][:]
        assert list(reader.file["images/F150W"]) == ["residual"]
        assert reader.images("ga", "F150W").data is None
    assert stack.shape[1:] == tuple(np.max(list(shapes), axis=0))
    for image, galaxy in zip(stack, range(3), strict=True):
        assert np.isfinite(image).any(), galaxy


def test_psfs_are_the_library_and_the_kernel_of_the_fit(files):
    campaign = replace(campaign_of(files), psf=True)
    run_serial(campaign, lambda: FAKES, Quiet())
    libraries = read_libraries(files.psf, FILTERS, campaign.config.prep.blur_psf)
    for name in FILTERS:  # odd and even sides
        library = libraries[name]
        with ResultsReader(campaign.output) as reader:
            psf, oversample = reader.psf_at(1, name), reader.oversample(name)
        assert (psf.shape, oversample) == (library.array.shape, library.oversample)
        grid = np.arange(psf.shape[0]) - (psf.shape[0] - 1) / 2
        # centred on its array to the precision of float32 sums
        assert abs((psf * grid).sum()) < 1e-5
        assert abs((psf * grid[:, None]).sum()) < 1e-5
        spread = [(image * grid**2).sum() / image.sum() for image in (psf, library.array)]
        # variances add up: 0.7 px is 1.4 samples; the light beyond 4 sigma is cut off
        np.testing.assert_allclose(spread[0] - spread[1], (0.7 * oversample) ** 2, rtol=0.02)


def test_sky_positions_follow_the_wcs(files):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [10.0, 20.0], [1.0, 1.0]
    wcs.wcs.cdelt = [-0.03 / 3600, 0.03 / 3600]
    with h5py.File(files.galaxy("ga"), "r+") as file:
        for name in FILTERS:
            file[name].attrs["wcs"] = wcs_text(wcs)
    output, _ = run(files)
    with ResultsReader(output) as reader:
        galaxies, rows, sources = reader.array("galaxies"), reader.array("sersic"), reader.sources("ga", "F150W")
    expected = wcs.pixel_to_world_values(rows["x_0"][0], rows["y_0"][0])
    # through the header's text: 1e-10 deg
    np.testing.assert_allclose([galaxies["ra"][0], galaxies["dec"][0]], expected, atol=1e-9)
    np.testing.assert_allclose(
        sources["dec"], wcs.pixel_to_world_values(sources["x_fit"], sources["y_fit"])[1], atol=1e-9
    )
    assert np.isnan(galaxies["ra"][1])


def test_a_failure_is_a_row_and_the_others_go_on(files):
    files.catalogue.write_text("name,path\nga,ga.h5\nbad,gb.h5\ngc,gc.h5\n")
    output, end = run(files)
    assert end.exit_status(strict=False) == 3
    with ResultsReader(output) as reader:
        galaxies, failures = reader.array("galaxies"), reader.array("failures")
        assert len(reader.array("sersic")) == 6
    assert [s.decode() for s in galaxies["status"]] == ["done", "failed", "done"]
    assert [f.decode() for f in failures["filter"]] == list(FILTERS)
    assert (failures["error"][0], failures["stage"][0]) == (b"FitError", b"fit")
    assert failures["message"][0] == b"this galaxy cannot be fitted"
    assert b"fakes.py" in failures["traceback"][0]
    assert b"base fit" in failures["message"][1]


def test_a_broken_filter_fails_alone(files):
    with h5py.File(files.galaxy("gb"), "r+") as file:
        del file["F555W"]
        file["F555W"] = np.ones((3, 4))  # another shape than the base filter's
    with h5py.File(files.psf, "r+") as file:
        del file["F277W"]
    output, end = run(files)
    with ResultsReader(output) as reader:
        galaxies, failures = reader.array("galaxies"), reader.array("failures")
    assert [s.decode() for s in galaxies["status"]] == ["partial"] * 3
    assert [(f["name"].decode(), f["filter"].decode(), f["stage"].decode()) for f in failures] == [
        ("ga", "F277W", "psf"),
        ("gb", "F555W", "crop"),
        ("gb", "F277W", "psf"),
        ("gc", "F277W", "psf"),
    ]
    assert end.exit_status(strict=False) == 3


def test_a_failure_for_want_of_data_names_the_file(files):
    with h5py.File(files.galaxy("gb"), "r+") as file:
        file["F150W"][:] = np.nan
    output, _ = run(files)
    with ResultsReader(output) as reader:
        message = reader.array("failures")["message"][0].decode()
    assert message.startswith(f"{files.galaxy('gb')}: filter F150W has no usable pixel: each is 0, NaN, masked or ")
    assert message.endswith("choose another base filter, or leave the galaxy out.")


def test_a_missing_filter_is_no_failure_unless_strict(files):
    with h5py.File(files.galaxy("gb"), "r+") as file:
        del file["F555W"]
    output, end = run(files)
    with ResultsReader(output) as reader:
        galaxy = reader.array("galaxies")[1]
        assert reader.array("failures").size == 0
    assert (galaxy["status"], galaxy["filters_missing"], galaxy["filters_done"]) == (b"done", b"F555W", b"F150W,F277W")
    assert (end.exit_status(strict=False), end.exit_status(strict=True)) == (0, 3)


def test_no_base_filter_is_a_failure_that_says_what_is_there(files):
    with h5py.File(files.galaxy("gb"), "r+") as file:
        del file["F150W"]
    output, _ = run(files)
    with ResultsReader(output) as reader:
        failures = reader.array("failures")
    assert b"the base filter F150W is not in it (it holds F277W, F555W)" in failures["message"][0]


def test_flags_of_a_galaxy_are_those_of_its_filters(files):
    from dataclasses import replace

    def flagged(cutout, library, base, base_cutout, config):
        flag = FitFlag.HIGH_CHI2 if cutout.filter == "F555W" else FitFlag.NO_SOURCES
        return replace(fake_base(cutout, library, config), flags=flag)

    output, _ = run(files, Fitters(fake_base, flagged))
    with ResultsReader(output) as reader:
        assert reader.array("galaxies")["flags"][0] == FitFlag.HIGH_CHI2 | FitFlag.NO_SOURCES


def test_a_bug_is_a_failure_with_its_traceback_and_the_others_go_on(files, caplog):
    files.catalogue.write_text("name,path\nbug,ga.h5\ngb,gb.h5\n")
    output, end = run(files)
    assert end.exit_status(strict=False) == 3
    with ResultsReader(output) as reader:
        failures = reader.array("failures")
        assert reader.filters("gb") == list(FILTERS)
    assert failures["error"][0] == b"ZeroDivisionError"
    assert b"a bug in the fit" in failures["message"][0]
    assert b"in fake_base" in failures["traceback"][0]
    assert [r.levelname for r in caplog.records if "a bug in the base task of 'bug'" in r.message] == ["ERROR"]


def test_a_seed_changes_random_numbers_and_nothing_else_does(files):
    def sources(**changes):
        output, _ = run(files, **changes)
        with ResultsReader(output) as reader:
            return reader.array("sources")

    a, b, c = sources(), sources(), sources(seed=7)
    assert a.tobytes() == b.tobytes()
    assert (a["x_fit"] != c["x_fit"]).all()


def test_carried_columns_come_back(files):
    output, _ = run(files)
    with ResultsReader(output) as reader:
        table = reader.table("catalogue")
    assert list(table["redshift"]) == ["0.0", "0.1", "0.2"]


@pytest.mark.parametrize("content", [None, b"hello", "hdf5"])
def test_what_is_no_results_file_is_said_to_be_none(content, tmp_path):
    path = tmp_path / "x.h5"
    if content == "hdf5":
        h5py.File(path, "w").close()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError if content is None else OutputError, match="results file"):
        ResultsReader(path)


def test_an_unknown_galaxy_is_named(files):
    output, _ = run(files)
    with ResultsReader(output) as reader, pytest.raises(UsageError, match="no galaxy 'x'; it holds ga, gb, gc"):
        reader.images("x", "F150W")

"""Galaxy files and PSF libraries: what is read, and the sentence for everything that cannot be."""

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from fakes import FILTERS, SHAPE, galaxy_image, gaussian_psf

from sphot_mpi import raw_image
from sphot_mpi.errors import InputError
from sphot_mpi.inputs import list_filters, read_galaxy, read_libraries
from sphot_mpi.magnitudes import ab_magnitude
from sphot_mpi.sky_coordinates import brightness_factor, parse_wcs, pixel_to_sky, position_angle, wcs_text

AREA = np.deg2rad(0.03 / 3600.0) ** 2  # sr, of the default pixel


def tan_wcs(scale_arcsec=0.05, rotation_deg=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [56.0, 46.0]  # FITS counts from 1: pixel (55, 45)
    angle, scale = np.deg2rad(rotation_deg), scale_arcsec / 3600.0
    wcs.wcs.cd = scale * np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return wcs


def hdf5(path, **members):
    """Write datasets; a tuple is (values, attributes)."""
    with h5py.File(path, "w") as file:
        for name, value in members.items():
            values, attributes = value if isinstance(value, tuple) else (value, {})
            file[name.replace("__", "/")] = values
            file[name.replace("__", "/")].attrs.update(attributes)
    return path


def only(path, name="F150W"):
    return read_galaxy(path, "g", (name,)).cutouts[name]


@pytest.mark.parametrize("dtype", [">f8", "<f8", ">f4", "<f4", ">i4", "<i2", "u1"])
def test_every_type_and_byte_order_becomes_native_float64(dtype, tmp_path):
    values = np.arange(1, 13).reshape(3, 4)
    cutout = only(hdf5(tmp_path / "g.h5", F150W=values.astype(dtype)))
    assert cutout.data.dtype == np.float64
    assert cutout.data.dtype.isnative
    assert cutout.data.flags.c_contiguous
    np.testing.assert_array_equal(cutout.data, values)


def test_zero_nan_and_infinity_are_no_data(tmp_path):
    values = galaxy_image(1)
    values[3, 4], values[5, 6], values[7, 8] = 0.0, np.nan, np.inf
    cutout = only(hdf5(tmp_path / "g.h5", F150W=values))
    assert cutout.mask.sum() == 3
    assert cutout.mask[[3, 5, 7], [4, 6, 8]].all()
    assert np.isnan(cutout.data[cutout.mask]).all()
    assert (cutout.shape, cutout.full_shape, cutout.origin) == (SHAPE, SHAPE, (0, 0))


def test_groups_with_errors_masks_and_attributes(tmp_path):
    data, error, mask = galaxy_image(1), np.full(SHAPE, 0.1), np.zeros(SHAPE, "u1")
    mask[1, 2], error[3, 4], error[5, 6] = 1, 0.0, np.nan
    path = hdf5(tmp_path / "g.h5", F150W__data=data, F150W__error=error.astype(">f4"), F150W__mask=mask)
    with h5py.File(path, "r+") as file:
        file["F150W"].attrs.update({"pixel_scale": 0.06, "unit": "MJy/sr", "wcs": wcs_text(tan_wcs())})
    cutout = only(path)
    assert set(zip(*np.nonzero(cutout.mask), strict=True)) == {(1, 2), (3, 4), (5, 6)}
    assert np.isfinite(cutout.data[1, 2])  # a masked pixel still has its value
    assert cutout.pixel_scale == 0.06
    # float32 in the file
    np.testing.assert_allclose(cutout.error[10, 10], 0.1, rtol=1e-7)
    assert parse_wcs(cutout.wcs).has_celestial


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("MJy/sr", 1.0),
        ("Jy/arcsec2", 1e-6 * (180 / np.pi * 3600) ** 2),
        ("nJy", 1e-15 / AREA),
        ("nJy/pix", 1e-15 / AREA),
    ],
)
def test_flux_units_are_converted(unit, factor, tmp_path):
    values = galaxy_image(2)
    cutout = only(hdf5(tmp_path / "g.h5", F150W=(values, {"unit": unit})))
    assert cutout.unit == "MJy/sr"
    np.testing.assert_allclose(cutout.data, values * factor, rtol=1e-12)


def test_counts_stay_counts(tmp_path):
    cutout = only(hdf5(tmp_path / "g.h5", F150W=(galaxy_image(2), {"unit": "electron/s"})))
    assert cutout.unit == "electron/s"
    assert brightness_factor("electron/s", 0.03) is None


def test_fits_gives_the_same_as_hdf5(tmp_path):
    data, error, mask = galaxy_image(3), np.full(SHAPE, 0.2), np.zeros(SHAPE, bool)
    mask[2, 3] = True
    header = tan_wcs().to_header()
    header["BUNIT"] = "MJy/sr"
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(data, header, name="F150W"),
            fits.ImageHDU(error, name="F150W_ERR"),
            fits.ImageHDU(mask.astype("u1"), name="F150W_MASK"),
            fits.ImageHDU(2 * data, name="F277W"),
        ]
    ).writeto(tmp_path / "g.fits")
    images = read_galaxy(tmp_path / "g.fits", "g", ("F277W", "F150W", "F555W"))
    assert list(images.cutouts) == ["F277W", "F150W"]
    assert images.missing == ("F555W",)
    assert list_filters(tmp_path / "g.fits") == ("F150W", "F277W")
    cutout = images.cutouts["F150W"]
    np.testing.assert_array_equal(cutout.data, data)
    np.testing.assert_array_equal(cutout.error, error)
    np.testing.assert_array_equal(cutout.mask, mask)
    # the pixel scale is that of the WCS: 0.05 arcsec, to the rounding of the header's numbers
    np.testing.assert_allclose(cutout.pixel_scale, 0.05, rtol=1e-9)
    assert images.cutouts["F277W"].wcs == ""
    assert images.cutouts["F277W"].pixel_scale == 0.03


def test_empty_filters_are_kept_and_named(tmp_path):
    path = hdf5(tmp_path / "g.h5", F150W=galaxy_image(1), F555W=np.full(SHAPE, np.nan), F277W=np.zeros(SHAPE))
    images = read_galaxy(path, "g", FILTERS)
    assert images.empty == ("F555W", "F277W")
    assert images.cutouts["F555W"].mask.all()


def test_the_sky_is_where_the_wcs_says():
    # pixel (55, 45) counted from 0 is the reference pixel
    ra, dec = pixel_to_sky(tan_wcs(), np.array([55.0, 55.0]), np.array([45.0, 65.0]))
    np.testing.assert_allclose([ra[0], dec[0]], [150.0, 2.0], atol=1e-10)
    np.testing.assert_allclose((dec[1] - dec[0]) * 3600.0, 20 * 0.05, rtol=1e-6)


@pytest.mark.parametrize(("theta_deg", "expected"), [(90.0, 0.0), (180.0, 90.0), (0.0, 90.0), (45.0, 135.0)])
def test_position_angle_is_east_of_north(theta_deg, expected):
    # north up, east left: +y is north (0 deg), -x is east (90 deg)
    angle = position_angle(tan_wcs(), 55.0, 45.0, np.deg2rad(theta_deg))
    assert min(abs(angle - expected), 180.0 - abs(angle - expected)) < 1e-3  # the sphere, over one pixel


def test_magnitudes_follow_the_zero_point():
    # 3631 Jy in one pixel is magnitude 0, and a tenth of it with 1 % error is 2.5 with 0.0109
    flux = np.array([3631e-6 / AREA, 363.1e-6 / AREA, -1.0, np.nan])
    magnitude, error = ab_magnitude(flux, 0.01 * np.abs(flux), "MJy/sr", 0.03)
    np.testing.assert_allclose(magnitude, [0.0, 2.5, np.nan, np.nan], atol=1e-12)
    np.testing.assert_allclose(error[:2], 0.01 * 2.5 / np.log(10), rtol=1e-12)
    assert np.isnan(ab_magnitude(flux, flux, "electron/s", 0.03)[0]).all()


def wrong_shape(path):
    return hdf5(path, F150W=np.ones((2, 3, 4)))


def wrong_type(path):
    return hdf5(path, F150W=np.ones((3, 4), complex))


def text(path):
    return hdf5(path, F150W=np.full((3, 4), b"abc"))


def group_without_data(path):
    return hdf5(path, F150W__error=np.ones((3, 4)))


def error_of_other_shape(path):
    return hdf5(path, F150W__data=np.ones((3, 4)), F150W__error=np.ones((4, 3)))


def error_of_other_sign(path):
    return hdf5(path, F150W__data=np.ones((3, 4)), F150W__error=np.full((3, 4), -0.1))


def unknown_unit(path):
    return hdf5(path, F150W=(np.ones((3, 4)), {"unit": "parrot"}))


def unit_of_number(path):
    return hdf5(path, F150W=(np.ones((3, 4)), {"unit": 3.0}))


def bad_scale(path):
    return hdf5(path, F150W=(np.ones((3, 4)), {"pixel_scale": -1.0}))


def bad_wcs(path):
    return hdf5(path, F150W=(np.ones((3, 4)), {"wcs": "CTYPE1 = nonsense"}))


def outside_link(path):
    hdf5(path.with_name("other.h5"), F150W=np.ones((3, 4)))
    with h5py.File(path, "w") as file:
        file["F150W"] = h5py.ExternalLink("other.h5", "F150W")
    return path


def dangling_link(path):
    with h5py.File(path, "w") as file:
        file["F150W"] = h5py.SoftLink("/nowhere")
    return path


def external_storage(path):
    path.with_name("raw.bin").write_bytes(bytes(96))
    with h5py.File(path, "w") as file:
        file.create_dataset("F150W", (3, 4), "f8", external=[(str(path.with_name("raw.bin")), 0, 96)])
    return path


def huge(path):
    """A few bytes on disk that would be 8 TB in memory."""
    with h5py.File(path, "w") as file:
        file.create_dataset("F150W", (1_000_000, 1_000_000), "f8", chunks=(1000, 1000))
    return path


def huge_chunk(path):
    """A small image in a chunk that would be unpacked into 3 GB."""
    with h5py.File(path, "w") as file:
        file.create_dataset("F150W", (3, 4), "f8", maxshape=(None, None), chunks=(20_000, 20_000))
    return path


def truncated(path):
    whole = hdf5(path, F150W=np.ones((300, 400))).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def damaged_chunk(path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("F150W", data=np.ones((64, 64)), chunks=(64, 64), compression="gzip")
        start = dataset.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[start : start + 8] = b"garbage!"
    path.write_bytes(content)
    return path


def no_hdf5(path):
    path.write_text("name,path\n")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (wrong_shape, ["'F150W'", "(2, 3, 4)", "2-D"]),
        (wrong_type, ["'F150W'", "complex", "real numbers"]),
        (text, ["'F150W'", "real numbers"]),
        (group_without_data, ["'F150W'", "'data'"]),
        (error_of_other_shape, ["error of 'F150W'", "(4, 3)", "(3, 4)"]),
        (error_of_other_sign, ["error of 'F150W'", "nowhere positive"]),
        (unknown_unit, ["'parrot'", "not known"]),
        (unit_of_number, ["'unit'", "must be text"]),
        (bad_scale, ["pixel_scale of 'F150W' is -1.0; ", "arcsec"]),
        (bad_wcs, ["WCS of 'F150W'"]),
        (outside_link, ["'F150W'", "another file"]),
        (dangling_link, ["'F150W'", "nowhere"]),
        (external_storage, ["'F150W'", "other files"]),
        (huge, ["'F150W'", "1000000 x 1000000"]),
        (huge_chunk, ["'F150W'", "chunks"]),
        (truncated, ["cannot be read as HDF5"]),
        (damaged_chunk, ["'F150W'", "cannot be read"]),
        (no_hdf5, ["cannot be read as HDF5"]),
        (lambda path: path, ["no such file"]),
    ],
)
def test_a_bad_file_gets_one_sentence(make, words, tmp_path):
    path = make(tmp_path / "g.h5")
    with pytest.raises(InputError) as caught:
        read_galaxy(path, "g", ("F150W",))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_bad_wcs_brings_no_remarks_of_astropys(tmp_path, recwarn):
    with pytest.raises(InputError, match="WCS of 'F150W'"):
        only(hdf5(tmp_path / "g.h5", F150W=(np.ones((3, 4)), {"wcs": "a=b"})))
    assert not recwarn.list


def test_a_huge_fits_image_is_refused_by_its_header(tmp_path):
    hdu = fits.ImageHDU(np.ones((3, 4)), name="F150W")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "g.fits")
    content = (tmp_path / "g.fits").read_bytes()
    for axis, side in ((1, 4), (2, 3)):
        old = f"NAXIS{axis}  = {side:20d}".encode()
        assert old in content
        content = content.replace(old, f"NAXIS{axis}  = {100_000:20d}".encode())
    (tmp_path / "g.fits").write_bytes(content)
    with pytest.raises(InputError, match="100000 x 100000"):
        read_galaxy(tmp_path / "g.fits", "g", ("F150W",))


@pytest.mark.parametrize("content", [b"SIMPLE  = nonsense", b"", b"hello"])
def test_what_is_no_fits_is_said_to_be_none(content, tmp_path):
    (tmp_path / "g.fits").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as FITS"):
        read_galaxy(tmp_path / "g.fits", "g", ("F150W",))


def test_the_cap_is_on_pixels_not_on_shape(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_image, "MAX_PIXELS", 12)
    assert only(hdf5(tmp_path / "a.h5", F150W=np.ones((3, 4)))).shape == (3, 4)
    with pytest.raises(InputError, match="at most 12 px"):
        only(hdf5(tmp_path / "b.h5", F150W=np.ones((1, 13))))


@pytest.mark.parametrize("side", [21, 22])
def test_libraries_of_even_and_odd_size_have_unit_sum(side, tmp_path):
    path = hdf5(tmp_path / "p.h5", F150W=(7.0 * gaussian_psf(side, 2.0).astype(">f4"), {"oversample": 4}))
    library = read_libraries(path, ("F150W", "F999W"))["F150W"]
    assert library.oversample == 4
    assert library.array.shape == (side, side)
    np.testing.assert_allclose(library.array.sum(), 1.0, rtol=1e-12)


def test_the_datasets_oversampling_goes_before_the_roots(tmp_path):
    path = hdf5(tmp_path / "p.h5", F150W=(gaussian_psf(21, 2.0), {"oversample": 3}), F277W=gaussian_psf(21, 2.0))
    with h5py.File(path, "r+") as file:
        file.attrs["oversample"] = 5
    libraries = read_libraries(path, ("F150W", "F277W"))
    assert (libraries["F150W"].oversample, libraries["F277W"].oversample) == (3, 5)


def test_a_psf_without_the_pixel_gets_it(tmp_path):
    with_pixel = hdf5(tmp_path / "a.h5", F150W=(gaussian_psf(41, 3.0), {"oversample": 3}))
    without = hdf5(tmp_path / "b.h5", F150W=(gaussian_psf(41, 3.0), {"oversample": 3, "pixel_response": False}))
    a, b = (read_libraries(p, ("F150W",))["F150W"].array for p in (with_pixel, without))

    def variance(array):
        r = np.arange(array.shape[1]) - (array.shape[1] - 1) / 2
        return (array.sum(axis=0) * r**2).sum()

    # a top-hat of 3 px has the variance 3^2 / 12 (continuous); the FFT's band limit and the cut wings cost a percent
    np.testing.assert_allclose(variance(b) - variance(a), 9 / 12, rtol=0.02)


def test_blur_adds_its_variance(tmp_path):
    path = hdf5(tmp_path / "p.h5", F150W=(gaussian_psf(61, 3.0), {"oversample": 3}))
    sharp = read_libraries(path, ("F150W",))["F150W"].array
    blurred = read_libraries(path, ("F150W",), {"F150W": 2.0})["F150W"].array
    r = np.arange(blurred.shape[1]) - (blurred.shape[1] - 1) / 2
    s = np.arange(sharp.shape[1]) - (sharp.shape[1] - 1) / 2
    added = (blurred.sum(axis=0) * r**2).sum() - (sharp.sum(axis=0) * s**2).sum()
    np.testing.assert_allclose(added, 4.0, rtol=0.01)  # SciPy cuts its Gaussian at 4 sigma


@pytest.mark.parametrize(
    ("value", "attributes", "words"),
    [
        (gaussian_psf(21, 2.0), {}, ["'oversample'"]),
        (gaussian_psf(21, 2.0), {"oversample": 0}, ["oversample = 0; "]),
        (gaussian_psf(21, 2.0), {"oversample": 2.5}, ["whole number"]),
        (gaussian_psf(21, 2.0), {"oversample": 1000}, ["1 to 32"]),
        (gaussian_psf(21, 2.0), {"oversample": "4"}, ["oversample = "]),
        (gaussian_psf(21, 2.0), {"oversample": 4, "pixel_response": "no"}, ["true or false"]),
        (np.zeros((21, 21)), {"oversample": 4}, ["positive sum"]),
        (np.full((21, 21), np.nan), {"oversample": 4}, ["finite"]),
        (np.ones(21), {"oversample": 4}, ["2-D"]),
        (np.ones((2, 2)), {"oversample": 4}, ["3 x 3"]),
    ],
)
def test_a_bad_psf_gets_one_sentence(value, attributes, words, tmp_path):
    path = hdf5(tmp_path / "p.h5", F150W=(value, attributes))
    with pytest.raises(InputError) as caught:
        read_libraries(path, ("F150W",))
    assert str(caught.value).startswith(str(path))
    for word in ["'F150W'", *words]:
        assert word in str(caught.value)

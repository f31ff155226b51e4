"""The simulator against GalSim and exact sums, and its campaigns against their specification."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import QTable, Table
from scipy import fft, integrate, special

from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.inputs import read_galaxy, read_libraries
from sphot_mpi.records import SersicParams
from sphot_mpi.simulate import read_library, simulate_campaign
from sphot_mpi.simulate_draw import ZERO_POINT, chip_edge, draw_galaxy, draw_stars
from sphot_mpi.simulate_image import simulate_galaxy
from sphot_mpi.simulate_kinds import FILTERS, KINDS, STAR_BREAK, STAR_FAINTEST
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_render import (
    ScenePSF,
    SersicScene,
    correlated_noise,
    correlation_factor,
    render_stars,
    total_flux,
    with_total_flux,
)

galsim = pytest.importorskip("galsim")

SHAPE = (51, 70)  # not square


@pytest.fixture(scope="module")
def library() -> dict[str, ScenePSF]:
    return synthetic_library()


def test_synthetic_library_has_the_traits_of_a_real_one(library: dict[str, ScenePSF]) -> None:
    assert set(library) == set(FILTERS)
    for psf in library.values():
        assert psf.array.sum() == pytest.approx(1.0, abs=1e-12)
        assert psf.array.min() >= 0.0
    assert {psf.array.shape[0] % 2 for psf in library.values()} == {0, 1}
    halo = library["F150W"].array
    assert halo.shape[0] / 8 > 80
    f160w = library["F160W"].array
    index = np.arange(f160w.shape[0]) - (f160w.shape[0] - 1) / 2
    centroid = (f160w @ index).sum() / 4, (index @ f160w).sum() / 4
    assert centroid == pytest.approx((0.19, 0.34), abs=0.01)  # the halo is cut unevenly: 2 %
    # the diffraction limit, 1.03 lambda / D, in px of 0.03 arcsec, widened by the pixel: 1.7 px for JWST at 1.5 um
    assert library["F150W"].fwhm() == pytest.approx(1.8, abs=0.2)


@pytest.mark.parametrize("name", ["F150W", "F814W"])
@pytest.mark.parametrize("sigma", [0.0, 0.9])
def test_stars_are_exact_shifts_of_the_psf(library: dict[str, ScenePSF], name: str, sigma: float) -> None:
    psf, (x, y) = library[name].blurred(sigma), (30.37, 20.81)
    padded = np.pad(psf.array, 200)
    start = [(padded.shape[0] - 1) / 2 - 4 * v for v in (y, x)]
    whole = [int(np.floor(v)) for v in start]
    phase = [np.exp(2j * np.pi * fft.fftfreq(padded.shape[0]) * (v - w)) for v, w in zip(start, whole, strict=True)]
    shifted = fft.ifft2(fft.fft2(padded) * phase[0][:, None] * phase[1][None, :]).real
    exact = 16.0 * shifted[whole[0] :: 4, whole[1] :: 4][: SHAPE[0], : SHAPE[1]]
    image = render_stars(SHAPE, psf, np.array([x]), np.array([y]), np.array([1.0]))
    # the gridding kernel of 10 samples is good to 1e-7; the array's edge rings at 1e-7 where it is cut early
    assert np.abs(image - exact).max() < 1e-6 * exact.max()


def test_stars_add_up_and_leave_no_trace_from_afar(library: dict[str, ScenePSF]) -> None:
    psf = library["F814W"]
    x, y, flux = np.array([10.2, 60.7, 200.0]), np.array([8.8, 40.1, 25.0]), np.array([1.0, 5.0, 1e6])
    image = render_stars(SHAPE, psf, x, y, flux)
    singly = sum(render_stars(SHAPE, psf, x[k : k + 1], y[k : k + 1], flux[k : k + 1]) for k in range(2))
    np.testing.assert_allclose(image, singly, atol=1e-9)
    inside = render_stars((151, 160), psf, np.array([80.3]), np.array([75.9]), np.array([3.0]))
    assert inside.sum() == pytest.approx(3.0, rel=1e-4)  # sampling a band-limited PSF keeps its sum


@pytest.mark.parametrize(
    ("name", "n", "r_eff", "ellip"),
    [("F150W", 1.0, 10.0, 0.3), ("F814W", 4.0, 8.0, 0.5), ("F814W", 1.0, 12.0, 0.9), ("F150W", 0.8, 3.0, 0.0)],
)
def test_sersic_agrees_with_galsim(
    library: dict[str, ScenePSF], name: str, n: float, r_eff: float, ellip: float
) -> None:
    psf = library[name].blurred(0.9)
    params = SersicParams(amplitude=1.3, r_eff=r_eff, n=n, x_0=36.3, y_0=24.6, ellip=ellip, theta=0.7)
    accuracy = galsim.GSParams(
        maxk_threshold=1e-5, kvalue_accuracy=1e-7, folding_threshold=1e-4, maximum_fft_size=16384
    )
    effective = galsim.InterpolatedImage(
        galsim.ImageD(psf.array, scale=0.25), x_interpolant=galsim.Lanczos(15), flux=1.0, normalization="flux"
    )
    galaxy = galsim.Sersic(
        n=n, half_light_radius=r_eff * np.sqrt(1.0 - ellip), flux=total_flux(params), gsparams=accuracy
    ).shear(q=1.0 - ellip, beta=0.7 * galsim.radians)
    expected = galsim.Convolve(galaxy, effective, gsparams=accuracy).drawImage(
        nx=SHAPE[1], ny=SHAPE[0], scale=1.0, method="no_pixel", offset=(36.3 - 34.5, 24.6 - 25.0)
    )
    image = SersicScene.of(params).render(SHAPE, psf)
    # 1e-4 of the peak, the tolerance of rendering; GalSim's own interpolation is at 5e-5
    assert np.abs(image - expected.array).max() < 1e-4 * expected.array.max()
    assert image.sum() == pytest.approx(expected.array.sum(), rel=2e-5)


@pytest.mark.parametrize(("n", "r_eff"), [(0.8, 10.0), (4.0, 3.0), (6.0, 10.0), (4.0, 0.5)])
def test_sersic_under_a_gaussian_is_the_integral(n: float, r_eff: float) -> None:
    width, offset = 0.8, np.mgrid[-40:41, -40:41] / 4.0
    array = np.exp(-0.5 * (offset[0] ** 2 + offset[1] ** 2) / width**2)
    params = SersicParams(amplitude=1.0, r_eff=r_eff, n=n, x_0=30.0, y_0=24.0, ellip=0.0, theta=0.0)
    image = SersicScene.of(params).render(SHAPE, ScenePSF(array / array.sum(), 4))
    b = special.gammaincinv(2.0 * n, 0.5)

    def integrand(log_r: float, distance: float) -> float:
        # the angle's integral of a Gaussian at a distance is a Bessel function
        r = np.exp(log_r)
        gauss = np.exp(-0.5 * (r - distance) ** 2 / width**2) * special.ive(0, r * distance / width**2)
        return float(r**2 / width**2 * gauss * np.exp(-b * ((r / r_eff) ** (1.0 / n) - 1.0)))

    def exact(distance: int) -> float:
        return float(integrate.quad(integrand, -40, np.log(distance + 12), (distance,), epsabs=0, limit=400)[0])

    for distance in (0, 1, 2, 5):
        # aliasing of the cusp on the 1/32 px cells: 2e-6 of the peak at r_eff = 0.5 px
        assert image[24, 30 + distance] == pytest.approx(exact(distance), abs=5e-6 * exact(0))


def test_a_galaxy_outside_the_frame_lights_it(library: dict[str, ScenePSF]) -> None:
    psf = library["F814W"]
    params = SersicParams(amplitude=1.0, r_eff=9.0, n=2.0, x_0=-6.4, y_0=20.2, ellip=0.4, theta=1.1)
    wide = SersicParams(amplitude=1.0, r_eff=9.0, n=2.0, x_0=33.6, y_0=20.2, ellip=0.4, theta=1.1)
    image = SersicScene.of(params).render(SHAPE, psf)
    part = SersicScene.of(wide).render((51, 110), psf)[:, 40:]
    # beyond the PSF's array lies light that neither frame needs
    np.testing.assert_allclose(image, part, atol=1e-6 * part.max())


def test_total_flux_is_the_integral_of_the_profile() -> None:
    params = SersicParams(amplitude=2.0, r_eff=5.0, n=2.5, x_0=0.0, y_0=0.0, ellip=0.4, theta=0.0)
    b = 2.0 * 2.5 - 1.0 / 3.0 + 4.0 / (405.0 * 2.5) + 46.0 / (25515.0 * 2.5**2)  # Ciotti & Bertin 1999: 1e-6 here
    value, _ = integrate.quad(lambda r: r * np.exp(-b * ((r / 5.0) ** 0.4 - 1.0)), 0.0, 4000.0, limit=400)
    assert total_flux(params) == pytest.approx(2.0 * 2.0 * np.pi * 0.6 * value, rel=1e-5)
    assert total_flux(with_total_flux(params, 7.0)) == pytest.approx(7.0)


def test_zero_point_is_that_of_mjy_per_sr() -> None:
    jansky = 1e6 * (0.03 / 206264.806) ** 2
    assert pytest.approx(8.9 - 2.5 * np.log10(jansky), abs=2e-3) == ZERO_POINT  # 3631 Jy is 8.9 to 0.0001 mag


def test_correlated_noise_has_the_variance_and_the_factor_that_are_claimed(library: dict[str, ScenePSF]) -> None:
    psf, sigma = library["F150W"].blurred(0.9), 0.5
    noise = correlated_noise(np.random.default_rng(3), (400, 500), sigma)
    assert noise.std() == pytest.approx(1.0, abs=0.01)  # 2e5 px, each worth 0.6 of a free one: 0.2 %
    stamp = psf.stamp()
    half = stamp.shape[0] // 2
    stamp = stamp[half - 10 : half + 11, half - 10 : half + 11]
    measured = fft.irfft2(fft.rfft2(noise) * np.conj(fft.rfft2(stamp, noise.shape)), noise.shape)
    factor = measured.std() / np.sqrt(np.sum(stamp**2))
    assert factor == pytest.approx(correlation_factor(psf, sigma), rel=0.02)  # 2e5 px / 15 px a star: 0.6 %
    assert correlation_factor(psf, 0.0) == 1.0


def test_noise_area_gives_the_error_of_a_lone_star(library: dict[str, ScenePSF]) -> None:
    psf = library["F277W"].blurred(1.8)
    star = render_stars((161, 171), psf, np.array([85.31]), np.array([80.12]), np.array([1.0]))
    assert psf.noise_area() == pytest.approx(1.0 / np.sum(star**2), rel=1e-3)  # sub-pixel phase: band-limited


def test_stars_follow_the_broken_power_law() -> None:
    rng = np.random.default_rng(5)
    stars = draw_stars(rng, KINDS["reallike"], (900, 1000), 0.12)
    flux = np.sort(stars.flux["F150W"])
    assert flux[0] >= STAR_FAINTEST
    assert flux[-1] <= 17.0 * STAR_BREAK

    def count(low: float, high: float) -> int:
        return int(np.sum((flux >= low) & (flux < high)))

    # number above f goes as f^-0.4 below the break (between bounds far below it) and as f^-2.5 above
    inner = (0.1**-0.4 - 1.0) / (1.0 - 10.0**-0.4)
    assert count(0.1, 1.0) / count(1.0, 10.0) == pytest.approx(inner, rel=0.05)  # 30,000 stars: 1 to 2 %
    assert count(10.0, 20.0) / count(20.0, 150.0) == pytest.approx((1 - 2**-2.5) / (2**-2.5 - 15**-2.5), rel=0.25)
    area = 980 * 1080 / 255.0**2
    assert 2450 * area < count(0.12, np.inf) < 2850 * area


def test_colours_scatter_as_specified() -> None:
    stars = draw_stars(np.random.default_rng(6), KINDS["crowded"], (600, 600), 0.12)
    for name, levels in FILTERS.items():
        colour = -2.5 * np.log10(stars.flux[name] / stars.flux["F150W"])
        error = levels.star_scatter / np.sqrt(colour.size)
        assert colour.mean() == pytest.approx(levels.star_colour, abs=5 * error + 1e-9)
        assert colour.std() == pytest.approx(levels.star_scatter, rel=0.1, abs=1e-9)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_keeps_its_ranges(kind: str) -> None:
    settings, shape = KINDS[kind], (KINDS[kind].side, KINDS[kind].side)
    missing = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        galaxy = draw_galaxy(rng, settings, shape)
        assert settings.r_eff[0] <= galaxy.r_eff <= settings.r_eff[1]
        assert settings.n[0] <= galaxy.n <= settings.n[1]
        assert settings.ellip[0] <= galaxy.ellip <= settings.ellip[1]
        magnitude = ZERO_POINT - 2.5 * np.log10(total_flux(galaxy))
        assert settings.magnitude[0] - 1e-9 <= magnitude <= settings.magnitude[1] + 1e-9
        distance = np.hypot(galaxy.x_0 - (shape[1] - 1) / 2, galaxy.y_0 - (shape[0] - 1) / 2)
        assert settings.off_centre[0] - 5.7 <= distance <= settings.off_centre[1] + 5.7  # a scatter cut at 4 px an axis
        missing.append(chip_edge(rng, settings, shape).mean())
    edges = np.array([m for m in missing if m > 0.0])
    assert len(edges) / 20 == pytest.approx(settings.chip_edge, abs=0.35)  # 3 sigma of 20 draws at a half
    assert ((edges > 0.195) & (edges < 0.405)).all()


def test_data_are_truth_plus_noise_of_the_stated_size(library: dict[str, ScenePSF]) -> None:
    few = {name: library[name] for name in ("F150W", "F555W")}
    galaxy = simulate_galaxy(few, 0, 3, "masked", shape=(120, 150))
    for name, image in galaxy.images.items():
        assert image.data.shape == (120, 150)
        good = np.isfinite(image.data)
        light = image.sersic + image.sources
        sigma = np.sqrt(image.noise**2 + image.noise_per_light * light)
        pull = ((image.data - light - image.sky) / sigma)[good]
        assert pull.std() == pytest.approx(1.0, abs=0.03)  # 11,000 px at least: 0.7 %
        assert abs(pull.mean()) < 0.04
        assert image.noise == FILTERS[name].noise
    missing = {name: np.isnan(image.data).mean() for name, image in galaxy.images.items()}
    assert missing["F150W"] > 0.2 > 0.01 > missing["F555W"]


def test_second_typical_galaxy_has_correlated_noise(library: dict[str, ScenePSF]) -> None:
    few = {"F814W": library["F814W"]}
    factors = [simulate_galaxy(few, k, 3, "typical", shape=(64, 64)).images["F814W"].correlation for k in (0, 1, 2)]
    assert factors[0] == factors[2] == 1.0
    assert 1.3 < factors[1] < 1.7


def test_covered_stars_have_data_under_them(library: dict[str, ScenePSF]) -> None:
    galaxy = simulate_galaxy({"F150W": library["F150W"]}, 1, 4, "masked", shape=(128, 140))
    image, stars = galaxy.images["F150W"], galaxy.stars
    i, j = np.rint(stars.x).astype(int), np.rint(stars.y).astype(int)
    inside = (i >= 2) & (i < 138) & (j >= 2) & (j < 126)
    good = np.isfinite(image.data)
    blocks = np.array([good[b - 2 : b + 3, a - 2 : a + 3].mean() for a, b in zip(i[inside], j[inside], strict=True)])
    covered = image.covered[inside]
    assert covered[blocks == 1.0].all()
    assert not covered[blocks == 0.0].any()
    assert (blocks == 0.0).any()
    assert not image.covered[(stars.x < -1) | (stars.y > 129)].any()


def test_a_galaxy_does_not_depend_on_the_other_filters(library: dict[str, ScenePSF]) -> None:
    both = {name: library[name] for name in ("F814W", "F555W")}
    one = simulate_galaxy(both, 2, 9, "easy", shape=(64, 80)).images["F814W"]
    two = simulate_galaxy({"F814W": library["F814W"]}, 2, 9, "easy", shape=(64, 80)).images["F814W"]
    np.testing.assert_array_equal(one.data, two.data)
    other = simulate_galaxy({"F814W": library["F814W"]}, 2, 10, "easy", shape=(64, 80)).images["F814W"]
    assert not np.array_equal(other.data, two.data)


@pytest.fixture(scope="module")
def psf_file(library: dict[str, ScenePSF], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("psf") / "two.h5"
    with h5py.File(path, "w") as file:
        file.attrs["oversample"] = 4
        for name in ("F150W", "F814W"):
            file[name] = 17.0 * library[name].array
    return path


def test_campaign_is_read_back_and_agrees_with_its_truth(tmp_path: Path, psf_file: Path) -> None:
    simulate_campaign(tmp_path / "a", 2, 11, "demo", psf_file)
    simulate_campaign(tmp_path / "b", 1, 11, "demo", psf_file)
    catalogue = Table.read(tmp_path / "a" / "catalogue.csv")
    assert list(catalogue["name"]) == ["demo001", "demo002"]
    truth = QTable.read(tmp_path / "a" / "truth.ecsv")
    assert truth.meta["seed"] == 11
    assert len(truth) == 4
    galaxy = read_galaxy(tmp_path / "a" / catalogue["path"][0], "demo001", ("F150W", "F814W"))
    again = read_galaxy(tmp_path / "b" / "demo001.h5", "demo001", ("F150W", "F814W"))
    stars = Table.read(tmp_path / "a" / "truth_sources.ecsv")
    with h5py.File(tmp_path / "a" / "truth_images.h5") as images:
        for row in truth[truth["name"] == "demo001"]:
            data = galaxy.cutouts[row["filter"]].data
            np.testing.assert_array_equal(data, again.cutouts[row["filter"]].data)
            parts = images["demo001"][row["filter"]]
            model = sum(parts[part][...] for part in ("sersic", "sources", "sky"))
            noise = np.nanmedian(np.abs(data - model)) * 1.4826
            assert noise == pytest.approx(row["noise"], rel=0.2)  # grows with light: a little above
            mine = stars[stars["name"] == "demo001"]
            inside = (mine["x"] > 0) & (mine["x"] < 160) & (mine["y"] > 0) & (mine["y"] < 160)
            light = mine[f"flux_{row['filter']}"][inside].sum()
            assert parts["sources"][...].sum() == pytest.approx(light, rel=0.1)  # wings cross the edge both ways
            assert row["total_flux"] == pytest.approx(10 ** (-0.4 * (row["magnitude"] - ZERO_POINT)))
            assert row["kernel_sigma"] == pytest.approx(FILTERS[row["filter"]].kernel, rel=0.35)  # 8 % scatter


def test_exact_psf_writes_the_library_with_its_kernel(tmp_path: Path, psf_file: Path) -> None:
    simulate_campaign(tmp_path / "exact", 1, 2, "easy", psf_file, exact_psf=True)
    written = read_libraries(tmp_path / "exact" / "PSFdata.h5", ("F150W", "F814W"))
    for name, psf in read_library(psf_file).items():
        np.testing.assert_allclose(written[name].array, psf.blurred(FILTERS[name].kernel).array, atol=1e-12)
    assert set(QTable.read(tmp_path / "exact" / "truth.ecsv")["kernel_sigma"]) == {0.0}


def test_a_campaign_is_replaced_only_on_demand(tmp_path: Path, psf_file: Path) -> None:
    simulate_campaign(tmp_path, 1, 11, "easy", psf_file)
    before = (tmp_path / "easy001.h5").read_bytes()
    with pytest.raises(OutputError, match=r"catalogue\.csv: the file exists; give --overwrite"):
        simulate_campaign(tmp_path, 1, 12, "easy", psf_file)
    assert (tmp_path / "easy001.h5").read_bytes() == before
    simulate_campaign(tmp_path, 1, 12, "easy", psf_file, overwrite=True)
    assert (tmp_path / "easy001.h5").read_bytes() != before


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown kind 'odd'"):
        simulate_campaign(tmp_path, 1, 1, "odd")
    with pytest.raises(UsageError, match="at least one galaxy"):
        simulate_campaign(tmp_path, 0, 1)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/sim: this cannot be written"):
        simulate_campaign(tmp_path / "file" / "sim", 1, 1)
    with h5py.File(tmp_path / "no.h5", "w") as file:
        file["other"] = np.ones((5, 5))
    with pytest.raises(UsageError, match=r"no\.h5 holds no PSF"):
        read_library(tmp_path / "no.h5")

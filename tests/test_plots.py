"""Pictures and tables of a campaign whose fits are the truth itself."""

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import QTable, Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from sphot_mpi.campaign import Campaign
from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import Config, load_config
from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.flags import FitFlag
from sphot_mpi.psf import LibraryPSF
from sphot_mpi.qa.draw import _words, draw_galaxy, figure_for
from sphot_mpi.qa.panels import Panel, PanelReader
from sphot_mpi.qa.plots import plot_galaxy
from sphot_mpi.qa.profile import MJY_SR_ZERO_POINT, elliptical_profile, growth_in_cutout
from sphot_mpi.records import SERSIC_PARAMETERS, SOURCE_DTYPE, Cutout, FilterFit, KernelFit, SersicParams, SkyPlane
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.serial import run_serial
from sphot_mpi.simulate import simulate_campaign
from sphot_mpi.simulate_psf import synthetic_library
from sphot_mpi.simulate_truth import compare_with_truth
from sphot_mpi.tasks import Fitters

NAME = "demo001"
IMAGES = ("data", "sersic_model", "psf_model")


class Oracle:
    """Fits that know the truth; the F090W fit finds no data."""

    def __init__(self, folder: Path) -> None:
        self.truth = QTable.read(folder / "truth.ecsv")
        self.stars = Table.read(folder / "truth_sources.ecsv")

    def base(self, cutout: Cutout, library: LibraryPSF, config: Config) -> FilterFit:
        name = cutout.filter
        row = self.truth[(self.truth["name"] == cutout.galaxy) & (self.truth["filter"] == name)][0]
        values = {key: float(row[key]) for key in SERSIC_PARAMETERS}
        values["x_0"] -= cutout.origin[0]
        values["y_0"] -= cutout.origin[1]
        stars = self.stars[self.stars["name"] == cutout.galaxy]
        sources = np.zeros(len(stars), SOURCE_DTYPE)
        sources["id"] = np.arange(1, len(stars) + 1)
        sources["x_fit"], sources["y_fit"] = stars["x"] - cutout.origin[0], stars["y"] - cutout.origin[1]
        sources["flux_fit"], sources["flux_err"] = stars[f"flux_{name}"], 0.1
        sky = SkyPlane(
            level=row["sky_level"], slope_x=row["sky_slope_x"], slope_y=row["sky_slope_y"],
            x_ref=row["sky_x_ref"] - cutout.origin[0], y_ref=row["sky_y_ref"] - cutout.origin[1],
        )  # fmt: skip
        return FilterFit(
            galaxy=cutout.galaxy, filter=name, components=(SersicParams(**values),), covariance=np.eye(7),
            total_flux=1.01 * row["total_flux"] if name == "F150W" else row["total_flux"], total_flux_err=1.0,
            flux_in_cutout=1.0, sky=sky, sky_covariance=np.eye(3), sources=sources, report=sources["id"] > 0,
            kernel=KernelFit(values=(float(row["kernel_sigma"]),), errors=(0.0,)), noise=float(row["noise"]),
            flags=FitFlag.ERROR_ESTIMATED,
        )  # fmt: skip

    def scaled(
        self, cutout: Cutout, library: LibraryPSF, base: FilterFit, base_cutout: Cutout, config: Config
    ) -> FilterFit:
        return self.base(cutout, library, config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated galaxy in two filters with `full.h5` (images stored) and `bare.h5` (tables only)."""
    path = tmp_path_factory.mktemp("campaign")
    with h5py.File(path / "two.h5", "w") as file:
        file.attrs["oversample"] = 4
        for name, psf in synthetic_library().items():
            if name in ("F150W", "F814W"):
                file[name] = psf.array
    simulate_campaign(path, 1, 5, "demo", path / "two.h5")
    config = load_config().replaced({"prep": {"filters": ["F150W", "F814W"], "PSF_file": str(path / "PSFdata.h5")}})
    oracle = Oracle(path)
    catalogue = read_catalogue(path / "catalogue.csv", config)
    for output, images in (("full.h5", IMAGES), ("bare.h5", ())):
        campaign = Campaign(catalogue=catalogue, config=config, output=path / output, images=images)
        run_serial(campaign, lambda: Fitters(oracle.base, oracle.scaled), Silent())  # noqa: B023
    return path


class Silent:
    def update(self, counts: object) -> None:
        """Take no notice."""


@pytest.mark.parametrize("results", ["full.h5", "bare.h5"])
@pytest.mark.parametrize("name", ["F150W", "F814W"])
def test_panel_of_the_truth_leaves_noise(folder: Path, results: str, name: str) -> None:
    with ResultsReader(folder / results) as reader:
        panel = PanelReader(reader).read(NAME, name)
    sigma = np.sqrt(panel.noise**2 * (1.0 + 0.5 * (panel.sersic + panel.sources) / panel.sky))
    pull = panel.residual / sigma
    pull = pull[np.isfinite(pull)]
    # 15,000 px at least: 0.6 %; rendering differs by less than 1e-3 of a star's peak where its noise is 3 %
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    assert abs(pull.mean()) < 0.03
    np.testing.assert_allclose(panel.cleaned - panel.sersic, panel.residual)


def test_rendered_panel_agrees_with_the_simulators_images(folder: Path) -> None:
    with ResultsReader(folder / "bare.h5") as reader:
        panel = PanelReader(reader).read(NAME, "F150W")
        galaxy = reader.array("galaxies")[0]
    window = (
        slice(galaxy["crop_y"], galaxy["crop_y"] + galaxy["crop_ny"]),
        slice(galaxy["crop_x"], galaxy["crop_x"] + galaxy["crop_nx"]),
    )
    with h5py.File(folder / "truth_images.h5") as file:
        true = {part: file[f"{NAME}/F150W/{part}"][window] for part in ("sersic", "sources", "sky")}
    # two renderers that share no code, to the tolerance of rendering
    assert np.abs(panel.sersic - true["sersic"]).max() < 1e-4 * true["sersic"].max()
    # stars are rendered until a fraction of the noise is left
    assert np.abs(panel.sources - true["sources"]).max() < 1e-3 * true["sources"].max()
    np.testing.assert_allclose(panel.sky, true["sky"], rtol=1e-6)


@pytest.mark.parametrize("results", ["full.h5", "bare.h5"])
def test_plot_galaxy_writes_a_picture(folder: Path, tmp_path: Path, results: str) -> None:
    plot_galaxy(folder / results, NAME, tmp_path / "x.png")
    picture = imread(tmp_path / "x.png")
    assert picture.shape[0] > 400
    assert picture[..., :3].std() > 0.05  # not blank
    plot_galaxy(folder / results, NAME, tmp_path / "one.png", filters=["F814W"])
    assert imread(tmp_path / "one.png").shape[0] < picture.shape[0]


def test_plot_as_pdf_has_a_page_a_filter_and_the_same_bytes_each_time(folder: Path, tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        plot_galaxy(folder / "full.h5", NAME, tmp_path / name)
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 2
    assert pdf == (tmp_path / "b.pdf").read_bytes()


def test_plot_without_psf_library_shows_all_but_the_kernel(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved.h5"
    copy.write_bytes((folder / "full.h5").read_bytes())
    with h5py.File(copy, "r+") as file:
        file.attrs["catalogue"] = str(tmp_path / "gone.csv")
    with ResultsReader(copy) as reader:
        panel = PanelReader(reader).read(NAME, "F150W")
    assert panel.check is None
    assert "gone.csv" in panel.check_note
    plot_galaxy(copy, NAME, tmp_path / "x.png", filters=["F150W"])


def test_stored_images_are_shown_whatever_the_configuration_says(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other.h5"
    copy.write_bytes((folder / "full.h5").read_bytes())
    with h5py.File(copy, "r+") as file:
        text = str(file.attrs["configuration"])
        file.attrs["configuration"] = "\n".join(line for line in text.splitlines() if not line.startswith("petro ="))
    with ResultsReader(copy) as reader:
        panel = PanelReader(reader).read(NAME, "F150W")
    assert panel.petrosian == 0.5  # an older file lacks a key: its preset's value
    assert panel.check is not None
    with h5py.File(copy, "r+") as file:
        file.attrs["configuration"] = "[a newer format"
    with ResultsReader(copy) as reader:
        panel = PanelReader(reader).read(NAME, "F150W")
    assert np.isnan(panel.petrosian)
    assert panel.check is None
    assert np.isfinite(panel.residual).any()


def test_plot_galaxy_names_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no galaxy 'nobody'"):
        plot_galaxy(folder / "full.h5", "nobody", tmp_path / "x.png")
    with pytest.raises(UsageError, match="has no fit of F999W; it has F150W, F814W"):
        plot_galaxy(folder / "full.h5", NAME, tmp_path / "x.png", filters=["F999W"])
    with pytest.raises(UsageError, match="ends in .png, .pdf or .svg"):
        plot_galaxy(folder / "full.h5", NAME, tmp_path / "x.nonsense")
    with pytest.raises(OutputError, match="cannot be written"):
        plot_galaxy(folder / "full.h5", NAME, tmp_path / "nowhere" / "x.png")
    with pytest.raises(OutputError, match="no results file"):
        plot_galaxy(folder / "truth_images.h5", NAME, tmp_path / "x.png")


def test_plot_without_images_and_without_input_says_how_to_mend_it(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved.h5"
    copy.write_bytes((folder / "bare.h5").read_bytes())
    with h5py.File(copy, "r+") as file:
        file.attrs["catalogue"] = str(tmp_path / "gone.csv")
    with pytest.raises(OutputError, match="run with --images all"):
        plot_galaxy(copy, NAME, tmp_path / "x.png")


def all_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_draw_galaxy_shows_flags_components_and_missing_data() -> None:
    shape = (40, 60)
    rng = np.random.default_rng(1)
    galaxy = SersicParams(amplitude=1.0, r_eff=6.0, n=1.0, x_0=30.0, y_0=20.0, ellip=0.4, theta=0.5)
    y, x = np.indices(shape)
    model = np.exp(-np.hypot(x - 30.0, y - 20.0) / 5.0)
    zero = np.zeros(shape)
    panels = [
        Panel(
            filter="F150W", data=model + rng.normal(0.0, 0.01, shape), sersic=model, sources=zero, sky=zero,
            components=(galaxy, galaxy), noise=0.01, magnitude=20.0, flags=FitFlag.STAR_EXCESS, unit=unit,
            photometry={"radius": 9.0, "flux": -2.0, "flux_err": 0.5, "snr": -4.0},
        )
        for unit in ("MJy/sr", "electron/s")
    ]  # fmt: skip
    nothing = np.full(shape, np.nan)
    panels.append(Panel(filter="F090W", data=nothing, sersic=zero, sources=zero, sky=zero, flags=FitFlag.NO_DATA))
    figure = figure_for(panels)
    draw_galaxy(figure, panels, "a $galaxy_")
    figure.canvas.draw()
    texts = all_texts(figure)
    assert sum("stars on the galaxy are not 0.8 to 1.3 times as dense" in text for text in texts) == 2
    assert sum("Second component r_eff" in text for text in texts) == 2
    assert sum("flux -2.00 \u00b1 0.50 MJy/sr px, no magnitude" in text for text in texts) == 1
    # a filter without data is a line, no row of empty images
    assert sum(text.startswith("no data; the filter has no usable pixel") for text in texts) == 1
    assert len(figure.axes) == 2 * (6 + 2 + 1 + 1 + 4)
    assert figure_for(panels).get_figheight() < figure_for(panels[:2]).get_figheight() + 1.0
    assert texts.count("PSF library\nnot at hand") == 2
    assert "a $galaxy_" in texts
    assert {"mag / arcsec$^2$", "-2.5 log10(electron/s)"} <= set(texts)


def test_words_above_the_images_leave_their_room() -> None:
    # more lines than three would run into the images' titles
    zero = np.zeros((8, 8))
    panel = Panel(
        filter="F150W", data=zero + 1.0, sersic=zero, sources=zero, sky=zero, flags=~FitFlag(0),
        photometry={"radius": 9.0, "flux": 2.0, "snr": 4.0, "mag_corr": 20.123, "mag_corr_err": 0.012},
    )  # fmt: skip
    words = _words(panel)
    assert words.startswith('Aperture 9.0 px = 0.270": 20.123 \u00b1 0.012 AB')
    assert words.count("\n") == 2
    assert re.search(r"and \d+ more$", words)
    assert _words(replace(panel, flags=FitFlag(0), photometry={})) == "No flags."


def test_profile_follows_the_ellipse() -> None:
    galaxy = SersicParams(amplitude=1.0, r_eff=10.0, n=1.0, x_0=41.3, y_0=30.6, ellip=0.5, theta=0.6)
    y, x = np.indices((61, 90), dtype=float)
    c, s = np.cos(0.6), np.sin(0.6)
    radius = np.hypot((x - 41.3) * c + (y - 30.6) * s, ((y - 30.6) * c - (x - 41.3) * s) / 0.5)
    image = np.exp(-radius / 8.0)
    data = image.copy()
    data[10:14, :] = np.nan
    data[40, 50] = 1e6  # a leftover star does not show in a median
    profile = elliptical_profile(data, image, galaxy)
    far = profile.radius > 4.0  # the innermost annuli hold few pixels
    # an annulus is 26 % wide: median against the value at its mean radius
    np.testing.assert_allclose(profile.data[far], np.exp(-profile.radius[far] / 8.0), rtol=0.05)
    np.testing.assert_allclose(profile.model[far], profile.data[far], rtol=0.02)


def test_growth_in_the_cutout_of_an_exponential_with_a_gap() -> None:
    h, q = 6.0, 0.6
    galaxy = SersicParams(amplitude=1.0, r_eff=10.0, n=1.0, x_0=80.2, y_0=70.4, ellip=1.0 - q, theta=0.3)
    y, x = np.indices((150, 165), dtype=float)
    c, s = np.cos(0.3), np.sin(0.3)
    radius = np.hypot((x - 80.2) * c + (y - 70.4) * s, ((y - 70.4) * c - (x - 80.2) * s) / q)
    model = np.exp(-radius / h)
    data = np.where(x > 90.0, np.nan, model)
    curve = growth_in_cutout(data, model, galaxy)
    r = curve.radius
    assert r[-1] > 60.0  # to the cutout's edge
    light = 2.0 * np.pi * q * h**2 * (1.0 - (1.0 + r / h) * np.exp(-r / h))
    mean = light / (np.pi * q * r**2)
    far = r > 4.0
    np.testing.assert_allclose(curve.flux[far], light[far], rtol=0.01)  # pixels of a steep centre
    # the index is smoothed over five radii
    np.testing.assert_allclose(curve.index()[far], (np.exp(-r / h) / mean)[far], rtol=0.03, atol=5e-3)


def test_petrosian_picture_shows_the_curve_of_the_photometry(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "measured.h5"
    copy.write_bytes((folder / "full.h5").read_bytes())
    rows = [(NAME, "F814W", 12.0, 9.0), (NAME, "F150W", 15.0, 10.0)]
    kinds = [("name", "S64"), ("filter", "S8"), ("radius", "f8"), ("petro_radius", "f8")]
    radius = np.geomspace(1.0, 40.0, 48)
    # ellipses that flatten outwards: areas grow as r^1.6, and light that grows as r^1.5 has an index of 1.5 / 1.6
    index = np.full(48, 1.5 / 1.6)
    curves = np.stack([np.stack([radius, k * radius**1.5, index, radius]) for k in (1.0, 2.0)])
    with h5py.File(copy, "r+") as file:
        for name in ("photometry", "photometry_curve"):
            if name in file:
                del file[name]
        file["photometry"] = np.array(rows, dtype=kinds)
        file["photometry_curve"] = curves
    with ResultsReader(copy) as reader:
        panel = PanelReader(reader).read(NAME, "F150W")
    assert panel.photometry["radius"] == 15.0
    figure = figure_for([panel])
    draw_galaxy(figure, [panel], NAME)
    ax = next(ax for ax in figure.findobj(Axes) if ax.get_title().startswith("Petrosian"))
    lines = {line.get_label(): line for line in ax.lines}
    scale, total = panel.pixel_scale, panel.total_flux
    np.testing.assert_allclose(lines["flux inside / total, data"].get_ydata(), 2.0 * radius**1.5 / total)
    np.testing.assert_allclose(lines["Petrosian index, data"].get_ydata(), 1.5 / 1.6)
    # the model's light grows as r in the same ellipses
    np.testing.assert_allclose(lines["Petrosian index, model"].get_ydata(), 1.0 / 1.6, rtol=0.01)
    assert lines["aperture"].get_xdata()[0] == pytest.approx(15.0 * scale)
    assert lines["Petrosian radius"].get_xdata()[0] == pytest.approx(10.0 * scale)


def test_surface_brightness_zero_point() -> None:
    # 1 MJy/sr = 2.3504e-5 Jy / arcsec^2
    assert pytest.approx(8.9 - 2.5 * np.log10(2.3504e-5), abs=1e-3) == MJY_SR_ZERO_POINT


def test_compare_with_truth_finds_the_error_that_was_made(folder: Path) -> None:
    text = compare_with_truth(folder / "full.h5", folder / "truth.ecsv")
    lines = [line for line in text.splitlines() if "F150W" in line or "F814W" in line]
    assert len(lines) == 2
    base = next(line for line in lines if "F150W" in line)
    assert "-0.0108" in base  # 1 % too bright is -2.5 log10(1.01)
    assert "+0.0108" in next(line for line in lines if "F814W" in line)  # and so the other's colour is red
    assert "+0.00" in base
    assert max(len(line) for line in text.splitlines()) <= 150


def test_compare_with_truth_of_other_galaxies_is_refused(folder: Path, tmp_path: Path) -> None:
    truth = QTable.read(folder / "truth.ecsv")
    truth["name"] = [f"other{k}" for k in range(len(truth))]
    truth.write(tmp_path / "other.ecsv")
    with pytest.raises(UsageError, match="no galaxy in common"):
        compare_with_truth(folder / "full.h5", tmp_path / "other.ecsv")
    with pytest.raises(UsageError, match="cannot be read as a table"):
        compare_with_truth(folder / "full.h5", folder / "full.h5")
    with pytest.raises(UsageError, match="no truth of a simulation"):
        compare_with_truth(folder / "full.h5", folder / "truth_sources.ecsv")

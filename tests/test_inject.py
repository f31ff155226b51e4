"""Injection and recovery: what is put in is what the truth says, and the scores say what a known fitter does."""

import zlib

import h5py
import numpy as np
import pytest
from astropy.table import Table
from campaigns import call, run_campaign
from fakes import FAKES, FILTERS, fake_base, gaussian_psf

from sphot_mpi import cli
from sphot_mpi.config import load_config
from sphot_mpi.inject import inject_campaign
from sphot_mpi.inject_draw import Injection, Move, StarPopulation, draw_fluxes, light_noise, scene_psf
from sphot_mpi.inject_score import score_injection, score_table
from sphot_mpi.inputs import read_galaxy
from sphot_mpi.psf import PSF, LibraryPSF
from sphot_mpi.psf_kernel import Kernel
from sphot_mpi.records import SOURCE_DTYPE, Cutout, SersicParams
from sphot_mpi.simulate_render import render_stars, total_flux
from sphot_mpi.tasks import Fitters

QUIET = Injection(stars=5, photon_noise=False, snr=(50.0, 500.0))


def run(files, fitters=FAKES, catalogue=None, config=None, output="results.h5"):
    return run_campaign(files, fitters, catalogue=catalogue, config=config, output=output)


def one_filter(files):
    """Rendering galaxies takes time; one filter tells as much."""
    files.config.write_text('[prep]\nfilters = ["F150W"]\n')


def injected(files, plan=QUIET, folder="inj", **options):
    target = files.folder / folder
    if not (files.folder / "results.h5").exists():
        run(files)
    inject_campaign(files.catalogue, files.folder / "results.h5", target, plan, **options)
    return target, Table.read(target / "truth.ecsv")


def pixels(folder, name):
    rows = Table.read(folder / "catalogue.csv", format="ascii.csv")
    path = folder / rows["path"][list(rows["name"]).index(name)]
    return read_galaxy(path, name, FILTERS).cutouts


def test_the_new_image_is_the_old_one_plus_the_stars_of_the_truth(files):
    folder, truth = injected(files)
    old, new = read_galaxy(files.galaxy("gb"), "gb", FILTERS).cutouts, pixels(folder, "gb_inj1")
    for name in FILTERS:
        stars = truth[(truth["name"] == "gb_inj1") & (truth["filter"] == name) & (truth["kind"] == "star")]
        assert len(stars) == 5
        difference = new[name].data - old[name].data
        library = LibraryPSF.from_array(h5py.File(files.psf)[name][:], 2)
        psf = scene_psf(PSF(library, Kernel("gaussian", (0.7,))))  # the fakes' kernel
        x, y, flux = (np.asarray(stars[key]) for key in ("x", "y", "flux"))
        np.testing.assert_allclose(difference, render_stars(difference.shape, psf, x, y, flux), atol=1e-9)
        # an independent look: each star's own window holds its flux, and its centroid is its position
        for star in stars:
            j, i = round(star["y"]), round(star["x"])
            if not (8 <= j < difference.shape[0] - 8 and 8 <= i < difference.shape[1] - 8):
                continue
            others = np.hypot(x - star["x"], y - star["y"])
            if np.sort(others)[1] < 20:
                continue
            window = difference[j - 7 : j + 8, i - 7 : i + 8]
            # the library's array ends 5 px from its centre, the kernel's tail a bit further out
            assert window.sum() == pytest.approx(star["flux"], rel=2e-3)
            v, u = np.mgrid[j - 7 : j + 8, i - 7 : i + 8]
            assert (window * u).sum() / window.sum() == pytest.approx(star["x"], abs=0.01)
            assert (window * v).sum() / window.sum() == pytest.approx(star["y"], abs=0.01)


def test_snr_is_the_flux_over_the_error_of_a_lone_star(files):
    _, truth = injected(files, Injection(stars=10, photon_noise=False, snr=(5.0, 50.0)))
    base = truth[truth["filter"] == "F150W"]
    assert ((base["snr"] >= 5.0) & (base["snr"] <= 50.0)).all()
    library = LibraryPSF.from_array(gaussian_psf(21, 2.0), 2)
    psf = scene_psf(PSF(library, Kernel("gaussian", (0.7,))))
    # the fakes report noise 0.01 and no correlation; the galaxy's own photon noise only adds
    lone = base["flux"] / (0.01 * np.sqrt(psf.noise_area()))
    assert (base["snr"] <= lone * (1 + 1e-9)).all()
    assert np.median(base["snr"] / lone) > 0.8


def test_nothing_depends_on_the_other_galaxies_and_all_on_the_seed(files):
    folder, truth = injected(files)
    alone, truth_alone = injected(files, folder="alone", only=("gb",))
    assert set(truth_alone["original"]) == {"gb"}
    of_gb = truth[truth["original"] == "gb"]
    assert np.array_equal(of_gb["flux"], truth_alone["flux"])
    for name in FILTERS:
        assert np.array_equal(pixels(folder, "gb_inj1")[name].data, pixels(alone, "gb_inj1")[name].data)
    _, other = injected(files, Injection(stars=5, photon_noise=False, seed=2), folder="other", only=("gb",))
    assert not np.isin(other["x"], truth_alone["x"]).any()


def test_copies_differ_and_stars_keep_apart(files):
    _, truth = injected(files, Injection(stars=6, copies=2, photon_noise=False))
    one, two = (truth[(truth["name"] == f"ga_inj{k}") & (truth["filter"] == "F150W")] for k in (1, 2))
    assert not np.isin(one["x"], two["x"]).any()
    x, y = np.asarray(one["x"]), np.asarray(one["y"])
    distance = np.hypot(x[:, None] - x, y[:, None] - y)[~np.eye(x.size, dtype=bool)]
    assert distance.min() >= 2.0 * max(truth["fwhm"])


def test_photon_noise_grows_with_the_light(files):
    rng = np.random.default_rng(5)
    light = np.tile(np.linspace(0.0, 10.0, 150), (150, 1))
    noise, per_light, sky = 0.05, 0.002, 0.5
    data = sky + light + rng.normal(size=light.shape) * np.sqrt(noise**2 + per_light * light)
    cutout = Cutout(galaxy="g", filter="F150W", data=data, error=None, mask=np.zeros(data.shape, dtype=bool))
    fit = fake_base(cutout, None, load_config(files.config))
    fit = type(fit)(**{**{k: getattr(fit, k) for k in fit.__dataclass_fields__}, "noise": noise})
    variance, slope = light_noise(cutout, light, fit)
    assert variance[0, 0] == pytest.approx(noise**2)
    # robust scatter of 22500 pixels in 12 bins: a few per cent
    assert slope == pytest.approx(per_light, rel=0.15)
    with_map = Cutout(
        galaxy="g", filter="F150W", data=data, error=np.sqrt(noise**2 + per_light * light), mask=cutout.mask
    )
    variance, slope = light_noise(with_map, light, fit)
    assert slope == pytest.approx(per_light, rel=1e-6)  # the map is exact
    np.testing.assert_allclose(variance, noise**2, rtol=1e-6)


def test_a_moved_galaxy_keeps_its_light_and_changes_its_place(files):
    one_filter(files)
    folder, truth = injected(files, Injection(stars=0, galaxy=True, photon_noise=False), only=("gc",))
    row = truth[(truth["original"] == "gc") & (truth["filter"] == "F150W")][0]
    old, new = read_galaxy(files.galaxy("gc"), "gc", FILTERS).cutouts, pixels(folder, "gc_inj1")
    difference = new["F150W"].data - old["F150W"].data
    ny, nx = difference.shape
    y, x = np.mgrid[:ny, :nx]
    light = np.where(difference > 0, difference, 0.0).sum()
    # n = 1.5 and r_eff = 5 px: within 40 px there is all but 1e-4 of the light
    assert abs(difference.sum()) < 1e-3 * light
    # the fakes' galaxy stands at the middle of the cutout with total flux from its parameters: first moments move
    component = SersicParams(amplitude=1.0, r_eff=5.0, n=1.5, x_0=0.0, y_0=0.0, ellip=0.3, theta=0.0)
    with h5py.File(files.folder / "results.h5") as file:
        fitted = next(r for r in file["sersic"][:] if r["name"] == b"gc" and r["filter"] == b"F150W")
    for coordinate, moved, start in ((x, row["x"], fitted["x_0"]), (y, row["y"], fitted["y_0"])):
        moment = (difference * coordinate).sum() / total_flux(component)
        assert moment == pytest.approx(moved - start, abs=0.02)
    # a quarter of r_eff at most, but 2 px are allowed
    assert 0.0 < np.hypot(row["x"] - fitted["x_0"], row["y"] - fitted["y_0"]) <= 2.0
    assert (row["r_eff"], row["n"], row["ellip"]) == (5.0, 1.5, 0.3)


def test_a_move_is_the_same_ellipse_elsewhere():
    move = Move(dx=1.5, dy=-2.0, turn=3.0)
    moved = move.applied(SersicParams(amplitude=2.0, r_eff=4.0, n=1.0, x_0=10.0, y_0=20.0, ellip=0.5, theta=1.0))
    assert (moved.x_0, moved.y_0, moved.theta) == (11.5, 18.0, pytest.approx(4.0 - np.pi))
    assert (moved.amplitude, moved.r_eff, moved.n, moved.ellip) == (2.0, 4.0, 1.0, 0.5)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_a_power_law_of_fluxes_has_its_slope(slope):
    plan = Injection(slope=slope, snr=(2.0, 200.0))
    empty = StarPopulation(np.empty(0), {})
    snr = draw_fluxes(np.random.default_rng(1), plan, empty, np.full(20000, 0.1)) / 0.1
    assert snr.min() >= 2.0
    assert snr.max() <= 200.0
    edges = np.geomspace(2.0, 200.0, 9)
    counts = np.histogram(snr, edges)[0]
    if slope == 1.0:
        expected = np.full(8, 1 / 8)
    else:
        expected = np.diff(edges ** (1 - slope)) / (200.0 ** (1 - slope) - 2.0 ** (1 - slope))
    # binomial errors, 5 sigma
    np.testing.assert_array_less(np.abs(counts - 20000 * expected), 5 * np.sqrt(20000 * expected) + 5)


def test_fitted_fluxes_and_colours_are_those_of_the_stars_found():
    def fit(flux, base_id=None, identity=None):
        table = np.zeros(len(flux), SOURCE_DTYPE)
        table["flux_fit"], table["id"] = flux, identity if identity is not None else np.arange(1, len(flux) + 1)
        table["base_id"] = base_id if base_id is not None else 0
        return type("Fit", (), {"sources": table, "report": np.ones(len(flux), dtype=bool)})()

    galaxies = [{"B": fit([1.0, 2.0, 4.0]), "R": fit([20.0, 30.0], base_id=[2, 0])}]
    population = StarPopulation.of(galaxies, "B", ["B", "R"])
    assert list(population.flux) == [1.0, 2.0, 4.0]
    np.testing.assert_array_equal(population.ratio["R"], [np.nan, 10.0, np.nan])
    ratios = population.colours(np.random.default_rng(0), 50, ["R"])["R"]
    assert set(ratios) == {10.0}  # one star tells the colour; its median stands for the others
    plan = Injection(fluxes="fitted", snr=(0.1, 1000.0))
    drawn = draw_fluxes(np.random.default_rng(0), plan, population, np.ones(200))
    assert set(drawn) == {1.0, 2.0, 4.0}


def oracle(truth, found=1.0, scatter=1.0, offset=0.0):
    """A fitter that reports the truth's stars with a flux error of 0.1, scattered by `scatter` times that."""

    def fit(cutout, library, config):
        rows = truth[(truth["name"] == cutout.galaxy) & (truth["filter"] == cutout.filter) & (truth["kind"] == "star")]
        rng = np.random.default_rng(zlib.crc32(f"{cutout.galaxy} {cutout.filter}".encode()))
        rows = rows[rng.uniform(size=len(rows)) < found]
        sources = np.zeros(len(rows), SOURCE_DTYPE)
        sources["id"] = np.arange(1, len(rows) + 1)
        sources["x_fit"], sources["y_fit"] = rows["x"] - cutout.origin[0], rows["y"] - cutout.origin[1]
        sources["flux_err"] = 0.01 * rows["flux"]
        sources["flux_fit"] = rows["flux"] * (1.0 + offset + 0.01 * scatter * rng.normal(size=len(rows)))
        base = fake_base(cutout, library, config)
        values = {k: getattr(base, k) for k in base.__dataclass_fields__}
        return type(base)(**{**values, "sources": sources, "report": np.ones(len(rows), dtype=bool)})

    return Fitters(fit, lambda cutout, library, base, base_cutout, config: fit(cutout, library, config))


@pytest.fixture
def many(files):
    """An injection of some hundred stars, all in one S/N bin."""
    one_filter(files)
    return injected(files, Injection(stars=8, copies=8, photon_noise=False, snr=(25.0, 45.0)))


def scored(files, many, before=None, **behaviour):
    folder, truth = many
    config = folder / "sphot_config.toml"
    results = run(files, oracle(truth, **behaviour), folder / "catalogue.csv", config, "after.h5")
    scores = score_injection(folder / "truth.ecsv", results, before)
    table = score_table(scores)
    return table[(table["filter"] == "F150W") & (table["what"] == "S/N 20-50")][0]


def test_a_perfect_fitter_is_complete_unbiased_and_honest(files, many):
    row = scored(files, many)
    assert row["n"] == 3 * 8 * 8
    assert row["completeness"] == 1.0
    assert 0.0 < row["completeness_err"] < 0.01  # not certain, although nothing was missed
    # the errors that the table itself gives, 4 sigma
    assert abs(row["bias"]) < 4 * row["bias_err"]
    assert abs(row["error_factor"] - 1.0) < 4 * row["error_factor_err"]


def test_errors_that_are_too_small_are_told_by_how_much(files, many):
    row = scored(files, many, scatter=3.0)
    assert abs(row["error_factor"] - 3.0) < 4 * row["error_factor_err"]


def test_bias_and_completeness_are_measured(files, many):
    row = scored(files, many, found=0.6, offset=0.05)
    assert abs(row["completeness"] - 0.6) < 4 * row["completeness_err"]
    assert abs(row["bias"] - 0.05) < 4 * row["bias_err"]
    assert abs(row["pull"] - 5.0) < 4 * row["pull_err"]


def test_a_flux_beyond_a_factor_of_two_is_not_a_recovery(files, many):
    assert scored(files, many, offset=1.2)["completeness"] == 0.0


def test_a_real_star_that_was_there_before_does_not_pass_for_an_artificial_one(files, many):
    folder, truth = many
    # the original campaign found a star at every place, 1.5 times as bright, and the injected one finds only those
    originals = truth.copy()
    originals["name"] = originals["original"]
    originals["flux"] *= 1.5
    before = run(files, oracle(originals, scatter=0.0), output="before.h5")
    assert scored(files, many, offset=0.5)["completeness"] == 1.0
    assert scored(files, many, before=before, offset=0.5)["completeness"] < 0.2


def test_moved_galaxies_are_scored(files):
    one_filter(files)
    folder, truth = injected(files, Injection(stars=0, galaxy=True, photon_noise=False), only=("gc",))
    config = folder / "sphot_config.toml"

    def fit(cutout, library, config):
        row = truth[(truth["name"] == cutout.galaxy) & (truth["filter"] == cutout.filter)][0]
        base = fake_base(cutout, library, config)
        component = SersicParams(
            amplitude=1.0, r_eff=row["r_eff"] * 1.02, n=row["n"] - 0.2, x_0=row["x"] - cutout.origin[0],
            y_0=row["y"] - cutout.origin[1], ellip=row["ellip"], theta=row["theta"] + np.pi + 0.05,
        )  # fmt: skip
        values = {k: getattr(base, k) for k in base.__dataclass_fields__}
        flux = {"total_flux": 0.9 * row["flux"], "total_flux_err": 0.05 * row["flux"]}
        return type(base)(**{**values, "components": (component,), **flux})

    fitters = Fitters(fit, lambda cutout, library, base, base_cutout, config: fit(cutout, library, config))
    results = run(files, fitters, folder / "catalogue.csv", config, "after.h5")
    table = score_table(score_injection(folder / "truth.ecsv", results))
    rows = {row["what"]: row for row in table[table["kind"] == "galaxy"] if row["filter"] == "F150W"}
    assert rows["total_flux"]["bias"] == pytest.approx(-0.1)
    assert rows["total_flux"]["pull"] == pytest.approx(-2.0)
    assert rows["r_eff"]["bias"] == pytest.approx(0.02)
    assert rows["n"]["pull"] == pytest.approx(-2.0)  # the fakes' error is 0.1
    assert rows["theta"]["bias"] == pytest.approx(0.05)


def test_the_command_injects_the_unmodified_program_runs_and_the_command_scores(files, monkeypatch):
    monkeypatch.chdir(files.folder)
    monkeypatch.setattr(cli, "pipeline_fitters", lambda: FAKES)
    one_filter(files)
    run(files)
    wanted = ("--stars", 3, "--galaxies", "--limit", 2)
    done = call("inject", "catalogue.csv", "--results", "results.h5", "-o", "inj", *wanted)
    assert done.exit_code == 0, done.output
    assert "Injected into 2 galaxies" in done.output
    command = next(line for line in done.output.splitlines() if "--config" in line).split()[1:]
    ran = call(*command, "--images", "none")
    assert ran.exit_code == 0, ran.output
    score = next(line for line in done.output.splitlines() if "--score" in line).split()[1:]
    scored = call(*score, "-o", "scores.ecsv")
    assert scored.exit_code == 0, scored.output
    assert "Artificial stars" in scored.output
    assert "Turned and moved galaxies" in scored.output
    assert {"star", "galaxy"} == set(Table.read("scores.ecsv")["kind"])
    again = call("inject", "catalogue.csv", "--results", "results.h5", "-o", "inj")
    assert again.exit_code == 1
    assert "give --overwrite" in again.output


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["catalogue.csv", "-o", "x"], 2, "--results"),
        (["catalogue.csv", "--results", "none.h5", "-o", "x"], 2, "none.h5: there is no such file"),
        (["none.csv", "--results", "results.h5", "-o", "x"], 2, "none.csv: there is no such file"),
        (["catalogue.csv", "--results", "results.h5", "-o", "x", "--snr", "9", "3"], 2, "this is no range"),
        (["catalogue.csv", "--results", "results.h5", "-o", "x", "--stars", "0"], 2, "nothing to inject"),
        (["catalogue.csv", "--results", "results.h5", "-o", "results.h5"], 1, "cannot be written"),
        (["catalogue.csv", "--results", "results.h5", "-o", "x", "--only", "gx"], 2, "'gx' is not in the catalogue"),
        (["results.h5", "--score", "none.ecsv"], 2, "none.ecsv"),
        (["results.h5", "--score", "catalogue.csv"], 2, "catalogue.csv"),
    ],
)
def test_a_mistake_gets_its_sentence_and_status(arguments, status, words, files, monkeypatch):
    monkeypatch.chdir(files.folder)
    run(files)
    done = call("inject", *arguments)
    assert done.exit_code == status, done.output
    assert words in done.output
    assert isinstance(done.exception, SystemExit)

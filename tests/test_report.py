"""The report: every page is whole, every link leads somewhere, every number is the table's, no name is markup."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from fakes import Files, write_campaign
from PIL import Image
from report_campaign import run_fakes

from sphot_mpi.cli import main
from sphot_mpi.errors import UsageError
from sphot_mpi.flags import FitFlag
from sphot_mpi.qa.charts import histogram, scatter, spreads
from sphot_mpi.qa.gallery import gallery_script, page_stem
from sphot_mpi.qa.pages import galaxy_page
from sphot_mpi.qa.report import ReportOptions, write_report
from sphot_mpi.qa.summary import PERCENTILES, Summary, summarise
from sphot_mpi.qa.tables import CampaignTables
from sphot_mpi.qa.thumbnails import SIZE
from sphot_mpi.results_reader import ResultsReader

EVIL = '<img src=x onerror="alert(1)">&/../..'
NAMES = ("ga", EVIL, "bad", "naïve 'quoted'")
FILES = ("ga", "gb", "gc", "gc")
VOID = {"meta", "link", "img", "input", "path", "rect", "circle", "br"}


class Page(HTMLParser):
    """Reads a page: its tags must nest; collects ids, links and pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path, self.open = path, []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.images: list[dict[str, str]] = []
        self.tags: list[str] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"{path}: {self.open} not closed"

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.labels += values.get("aria-labelledby", "").split()
        self.links += [values[key] for key in ("href", "src") if key in values]
        assert not any(key.startswith("on") for key in values), f"{self.path}: {values}"
        if tag == "img":
            self.images.append(values)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{self.path}: </{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Path:
    """Results of four galaxies, one of which fails and two of which have nasty names."""
    files: Files = write_campaign(tmp_path_factory.mktemp("report"))
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}",{path}.h5' for name, path in zip(NAMES, FILES, strict=True)]
    files.catalogue.write_text("name,path\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return run_fakes(files, ("F150W", "F277W"))


@pytest.fixture(scope="module")
def report(campaign: Path) -> Path:
    folder = campaign.parent / "qa"
    assert write_report(campaign, folder, ReportOptions()) == 1  # the galaxy that failed
    return folder


def pages(folder: Path) -> list[Page]:
    return [Page(path) for path in sorted(folder.rglob("*.html"))]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_page_is_whole_and_every_link_leads_somewhere(report: Path) -> None:
    found = pages(report)
    assert len(found) == 2 + len(NAMES)
    for page in found:
        assert page.source.startswith("<!DOCTYPE html>")
        assert {"html", "title", "main", "h1", "nav"} <= set(page.tags)
        assert len(set(page.ids)) == len(page.ids)
        assert set(page.labels) <= set(page.ids)
        for link in page.links:
            target, _, fragment = unquote(link).partition("#")
            assert "://" not in link
            assert not target.startswith("/")
            assert (page.path.parent / target).resolve().is_relative_to(report)
            assert not target or (page.path.parent / target).is_file(), f"{page.path}: {link}"
            if not target:
                assert fragment in page.ids
        assert all(image["alt"] and image["width"] and image["height"] for image in page.images)


def test_no_page_needs_a_network(report: Path) -> None:
    for path in (path for pattern in ("*.html", "*.js", "*.css") for path in report.rglob(pattern)):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(https?:)?//[a-z0-9.]+\.[a-z]{2,}", text), path
        assert "@import" not in text


def test_names_are_text_and_never_paths_or_markup(report: Path) -> None:
    for page in pages(report):
        assert "<img src=x" not in page.source
    page = next(page for page in pages(report) if page.path.name.startswith("000002"))
    assert EVIL in page.text
    files = [path.name for path in report.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in files), files
    script = (report / "gallery-data.js").read_text(encoding="utf-8")
    assert "<" not in script
    assert page_stem(1, EVIL) == "000002-img-src-x-onerror-alert-1"
    assert page_stem(2, "///") == "000003"
    assert page_stem(6, "x" * 500) == "000007-" + "x" * 40


def test_a_page_holds_the_galaxys_numbers_flags_and_failures(campaign: Path, report: Path) -> None:
    by_stem = {page.path.stem: page for page in pages(report)}
    good, bad = by_stem["000001-ga"], by_stem["000003-bad"]
    with ResultsReader(campaign) as reader:
        row = reader.array("sersic")[0]
    # the fakes' covariance says 0.1 for each parameter; two digits of an error are shown
    for key in ("r_eff", "n", "x_0", "ellip"):
        assert f"{row[key]:.2f} \u00b1 0.10" in good.text
    assert f"{row['total_flux']:.1f} \u00b1 1.0" in good.text
    assert "no error map was given" not in good.text  # the fakes set no flag
    assert len(good.images) == 2
    assert "ga in F150W" in good.images[0]["alt"]
    assert "F150W, fit: this galaxy cannot be fitted" in bad.text
    assert "There is no fit to show." in bad.text
    assert not bad.images


def test_thumbnails_and_pictures_are_pictures(report: Path) -> None:
    thumbs = sorted(report.glob("thumbs/*"))
    assert [path.stem[:6] for path in thumbs] == ["000001", "000002", "000004"]
    for path in thumbs:
        with Image.open(path) as image:
            assert image.size == SIZE
            assert np.asarray(image).std() > 10.0  # not blank
    pictures = sorted(report.glob("pictures/*"))
    assert len(pictures) == 6
    with Image.open(pictures[0]) as image:
        assert np.asarray(image).std() > 10.0


def test_same_file_same_bytes_whatever_the_number_of_processes(campaign: Path, report: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        write_report(campaign, tmp_path / f"bare{jobs}", ReportOptions(jobs=jobs, pages=False))
    assert tree(tmp_path / "bare1") == tree(tmp_path / "bare2")
    write_report(campaign, tmp_path / "some", ReportOptions(limit=1))
    first = {name: text for name, text in tree(tmp_path / "some").items() if "000001" in name and ".webp" in name}
    assert len(first) == 3
    assert all(text == tree(report)[name] for name, text in first.items())


def test_a_report_replaces_a_report_and_nothing_else(campaign: Path, tmp_path: Path) -> None:
    options = ReportOptions(pages=False)
    write_report(campaign, tmp_path / "qa", options)
    (tmp_path / "qa" / "galaxies" / "000009-gone.html").write_text("old")
    write_report(campaign, tmp_path / "qa", options)
    assert not (tmp_path / "qa" / "galaxies" / "000009-gone.html").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all my work")
    with pytest.raises(UsageError, match="holds something else than a report"):
        write_report(campaign, tmp_path / "mine", options)
    with pytest.raises(UsageError, match="this is a file"):
        write_report(campaign, tmp_path / "mine" / "thesis.tex", options)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all my work"


def test_without_pages_and_limited(campaign: Path, tmp_path: Path) -> None:
    arguments = ["report", str(campaign), "-o", str(tmp_path / "qa"), "--no-pages", "--limit", "2"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Report: " in result.output
    assert not list(tmp_path.glob("qa/galaxies/*")) + list(tmp_path.glob("qa/pictures/*"))
    assert len(list(tmp_path.glob("qa/thumbs/*"))) == 2
    index = Page(tmp_path / "qa" / "index.html")
    assert "Only the first 2 galaxies of 4" in index.text
    assert not [link for link in index.links if "galaxies/" in link]


def test_report_of_results_without_images_and_inputs_says_so(campaign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "moved.h5"
    copy.write_bytes(campaign.read_bytes())
    with h5py.File(copy, "r+") as file:
        del file["images"]
        file.attrs["catalogue"] = str(tmp_path / "gone.csv")
    assert write_report(copy, tmp_path / "qa", ReportOptions(limit=1)) == 1
    page = Page(tmp_path / "qa" / "galaxies" / "000001-ga.html")
    assert page.text.count("run with --images all") == 2


def test_summary_is_what_numpy_finds_in_the_tables(campaign: Path) -> None:
    with ResultsReader(campaign) as reader:
        summary = summarise(CampaignTables(reader))
        galaxies, sersic, failures = (reader.array(name) for name in ("galaxies", "sersic", "failures"))
    assert summary.n_galaxies == galaxies.size == 4
    assert summary.statuses == {"done": 3, "partial": 0, "failed": 1}
    assert summary.n_fits == sersic.size == 6
    assert summary.total_seconds == pytest.approx(galaxies["seconds"].sum())
    assert sum(reason.count for reason in summary.reasons) == failures.size == 2
    assert len(summary.reasons) == np.unique(failures[["stage", "error"]]).size == 2
    assert summary.reasons[0].count >= summary.reasons[1].count
    assert all(reason.galaxies == 1 for reason in summary.reasons)
    assert summary.base_filter == "F150W"
    for name in summary.filters:
        rows = sersic[sersic["filter"] == name.encode()]
        for quantity in ("r_eff", "chi2_reduced", "mag", "kernel_1"):
            spread = summary.spread(quantity, name)
            finite = rows[quantity][np.isfinite(rows[quantity])]
            assert spread.n == finite.size
            if finite.size:
                assert spread.percentiles == pytest.approx(np.percentile(finite, PERCENTILES))
    assert {c.filter for c in summary.colours} == {"F277W"}
    for colour in summary.colours:
        one, base = (
            sersic[(sersic["filter"] == f.encode()) & (sersic["name"] == b"ga")]["mag"][0]
            for f in (colour.filter, "F150W")
        )
        assert colour.colour[0] == pytest.approx(one - base)
        assert colour.magnitude[0] == pytest.approx(base)


def test_a_status_of_a_newer_program_is_counted_too(campaign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "stopped.h5"
    copy.write_bytes(campaign.read_bytes())
    with h5py.File(copy, "r+") as file:
        old = file["galaxies"][:]
        kinds = {key: old.dtype[key] for key in old.dtype.names} | {"status": "S16"}
        table = old.astype(list(kinds.items()))
        table["status"][0] = b"unfinished"
        del file["galaxies"]
        file["galaxies"] = table
    with ResultsReader(copy) as reader:
        assert summarise(CampaignTables(reader)).statuses == {"done": 2, "partial": 0, "failed": 1, "unfinished": 1}


def test_flags_are_counted_by_filter(campaign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "flagged.h5"
    copy.write_bytes(campaign.read_bytes())
    with h5py.File(copy, "r+") as file:
        table = file["sersic"][:]
        table["flags"] = 0
        table["flags"][[0, 1, 2]] = [int(FitFlag.HIGH_CHI2), int(FitFlag.HIGH_CHI2 | FitFlag.FORCED), 8192]
        file["sersic"][...] = table
    with ResultsReader(copy) as reader:
        flags = summarise(CampaignTables(reader)).flags
    assert [(flag.name, flag.counts) for flag in flags] == [("HIGH_CHI2", (2, 1)), ("FORCED", (0, 1))]


def summarise_file(path: Path) -> Summary:
    with ResultsReader(path) as reader:
        return summarise(CampaignTables(reader))


def test_photometry_rules_magnitudes_where_it_is(campaign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "measured.h5"
    copy.write_bytes(campaign.read_bytes())
    kinds = [("name", "S64"), ("filter", "S8"), ("mag_corr", "f8"), ("mag_corr_err", "f8"), ("radius", "f8")]
    rows = [("ga", "F150W", 20.0, 0.1, 9.0), ("ga", "F277W", 19.25, 0.2, 9.0), (EVIL, "F277W", np.nan, 0.1, 9.0)]
    naive = NAMES[3].encode()
    # noise has no colour: S/N is 1.09 / 0.5
    rows += [(EVIL, "F150W", 24.0, 0.1, 9.0), (naive, "F150W", 24.0, 0.1, 9.0), (naive, "F277W", 27.0, 0.5, 9.0)]
    with h5py.File(copy, "r+") as file:
        for name in ("photometry", "photometry_curve"):
            if name in file:
                del file[name]
        file["photometry"] = np.array(rows, dtype=kinds)
    with ResultsReader(copy) as reader:
        summary = summarise(CampaignTables(reader))
    bare = tmp_path / "bare.h5"
    bare.write_bytes(copy.read_bytes())
    with h5py.File(bare, "r+") as file:
        del file["photometry"]
        file["photometry"] = np.empty(0, dtype=kinds)  # a campaign that was not measured
    assert summarise_file(bare).magnitude_kind == "total Sersic magnitude; S/N above 3"
    assert summary.magnitude_kind == "aperture magnitude, PSF-corrected; S/N above 3"
    assert [(c.filter, c.colour.tolist()) for c in summary.colours] == [("F277W", [-0.75])]
    write_report(copy, tmp_path / "qa", ReportOptions(limit=1))
    text = Page(tmp_path / "qa" / "galaxies" / "000001-ga.html").text
    assert "Aperture photometry" in text
    assert "19.25 \u00b1 0.20" in text


def test_a_page_says_at_which_index_the_petrosian_radius_is(campaign: Path, tmp_path: Path) -> None:
    copy = tmp_path / "measured.h5"
    copy.write_bytes(campaign.read_bytes())
    with h5py.File(copy, "r+") as file:
        del file["photometry"]
        kinds = [("name", "S64"), ("filter", "S8"), ("petro_radius", "f8")]
        file["photometry"] = np.array([("ga", "F150W", 9.0)], dtype=kinds)
    with ResultsReader(copy) as reader:
        (line,) = galaxy_page(CampaignTables(reader), 0).photometry
    assert (line.label, line.cells) == ("radius of Petrosian index 0.5, px", ("9.00", ""))


def test_gallery_data_are_the_tables(campaign: Path) -> None:
    with ResultsReader(campaign) as reader:
        script = gallery_script(CampaignTables(reader), [True, True, False, True], pages=True)
        sersic = reader.array("sersic")
    data = json.loads(script.removeprefix("window.sphotGallery=").removesuffix(";\n"))
    assert tuple(data["names"]) == NAMES
    columns = {column["key"]: column["values"] for column in data["columns"]}
    base = sersic[sersic["filter"] == b"F150W"]
    assert [v for v in columns["mag0"] if v is not None] == pytest.approx(base["mag"], abs=6e-4)
    assert columns["r_eff"] == [5.0, 5.0, None, 5.0]
    assert data["status"] == ["done", "done", "failed", "done"]
    assert [len(kinds) > 0 for kinds in data["failures"]] == [False, False, True, False]


def test_histogram_counts_every_value() -> None:
    values = np.array([1.0] * 50 + [2.0] * 25 + [3.0] * 25 + [np.nan] * 7)
    svg = str(histogram("a title", "x", values))
    heights = [float(h) for h in re.findall(r'class="bar"[^>]*height="([0-9.]+)"', svg)]
    assert len(heights) == 3
    # drawn to 0.1 px on a height of about 200
    assert np.array(heights) / heights[0] == pytest.approx([1.0, 0.5, 0.5], abs=2e-3)
    assert "100 values, median 1.5" in svg


def test_scatter_is_one_element_however_many_points() -> None:
    rng = np.random.default_rng(0)
    svg = str(scatter("t", "x", "y", rng.normal(size=5000), rng.normal(size=5000)))
    outside = int(re.search(r"(\d+) outside the frame", svg).group(1))
    assert svg.count("h0") + outside == 5000
    assert outside < 0.03 * 5000  # half a percent at each end of each axis
    assert svg.count('class="dots') == 1


def test_charts_without_values_and_with_nasty_labels() -> None:
    nothing = np.array([np.nan])
    assert "no values" in histogram("t", "x", nothing)
    assert "no values" in scatter("t", "x", "y", nothing, nothing)
    assert "n 0" in spreads("t", "x", {"F": nothing})
    assert "<b>" not in spreads("<b>", "<b>", {"<b>": np.array([1.0, 2.0])}, log=True)
    assert "nan" not in str(spreads("t", "x", {"F": np.array([3.0]), "G": nothing}))

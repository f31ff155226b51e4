"""The report in a real browser, from the disk; where there is none, these tests are skipped."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from browser import CHROMIUM, Browser
from fakes import write_campaign
from report_campaign import run_fakes

from sphot_mpi.flags import FitFlag
from sphot_mpi.qa.report import ReportOptions, write_report
from sphot_mpi.results_reader import ResultsReader

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium"),
    pytest.mark.timeout(180),
]

N = 10_000
EVIL = '<b id="evil">x</b> & "y"'

#: Elements of a page of the gallery: 48 cards of at most 8, or 100 rows of at most 25 cells with a link, and the rest.
MOST_ELEMENTS = 3500


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of three galaxies with all images."""
    files = write_campaign(tmp_path_factory.mktemp("small"))
    return run_fakes(files, ("F150W",))


@pytest.fixture(scope="module")
def small_report(small: Path) -> Path:
    write_report(small, small.parent / "qa", ReportOptions())
    return small.parent / "qa"


@pytest.fixture(scope="module")
def large(small: Path) -> Path:
    """The small file's tables blown up to ten thousand galaxies with numbers of their own."""
    rng = np.random.default_rng(7)
    path = small.parent / "large.h5"
    with ResultsReader(small) as reader, h5py.File(path, "w") as file:
        file.attrs.update(reader.file.attrs)
        file.attrs["catalogue"] = "/nowhere/catalogue.csv"
        names = [f"galaxy {k:05d}" for k in range(N - 1)] + [EVIL]
        for table in ("galaxies", "sersic", "catalogue", "failures", "sources", "sources_index"):
            few = reader.array(table)
            wide = [(k, "S48" if k in ("name", "status") else few.dtype[k]) for k in few.dtype.names]
            rows = np.zeros(N if few.size else 0, wide)
            for key in few.dtype.names:
                rows[key] = few[key][0] if few.size else 0
            if few.size:
                rows["name"] = [name.encode() for name in names]
            if table == "sersic":
                rows["r_eff"], rows["mag"] = rng.uniform(1.0, 90.0, N), rng.normal(22.0, 1.5, N)
                rows["chi2_reduced"] = rng.lognormal(0.0, 0.3, N)
                rows["r_eff"][5] = np.nan
            if table == "galaxies":
                rows["status"] = np.where(np.arange(N) % 100 == 3, b"failed", b"done")
                rows["flags"] = np.where(np.arange(N) % 10 == 0, int(FitFlag.HIGH_CHI2), 0)
            file[table] = rows
    return path


@pytest.fixture(scope="module")
def large_report(large: Path) -> Path:
    write_report(large, large.parent / "large", ReportOptions(pages=False))
    return large.parent / "large"


def count_shown(browser: Browser) -> int:
    return int(browser.run("document.getElementById('count').textContent").split()[0])


def choose(browser: Browser, control: str, value: str) -> None:
    """Set a control as a hand would, and let the page hear of it."""
    browser.run(
        f"(() => {{ const c = document.getElementById({control!r}); c.value = {value!r};"
        "c.dispatchEvent(new Event(c.type === 'number' ? 'change' : 'input', {bubbles: true})); })()"
    )


def names_shown(browser: Browser) -> list[str]:
    shown: list[str] = browser.run(
        "[...document.querySelectorAll('#cards h2 > :first-child, #rows tbody th')].map(e => e.textContent)"
    )
    return shown


def test_every_page_opens_without_an_error_and_with_all_pictures(browser: Browser, small_report: Path) -> None:
    for page in ("index.html", "gallery.html", "galaxies/000001-ga.html"):
        browser.open(small_report / page)
        # pictures wait until they are near the window
        broken = browser.run(
            "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); }))"
            ".then(() => [...document.images].filter(i => i.naturalWidth === 0).length)"
        )
        assert broken == 0
        assert browser.run("document.querySelectorAll('h1').length") == 1
    browser.open(small_report / "gallery.html")
    assert browser.run("document.images.length") == 3
    browser.run("document.querySelector('#cards a').click()")
    while browser.run("document.title") != "ga" or browser.run("document.readyState") != "complete":
        pass
    assert browser.run("document.images.length") == 1
    assert browser.problems == []


def test_nothing_is_wider_than_a_small_window(browser: Browser, small_report: Path) -> None:
    for page in ("index.html", "gallery.html", "galaxies/000001-ga.html"):
        browser.open(small_report / page)
        assert browser.run("document.documentElement.scrollWidth - innerWidth") <= 0


def test_ten_thousand_galaxies_are_a_screenful_of_elements(browser: Browser, large_report: Path) -> None:
    for page, fragment in (("index.html", ""), ("gallery.html", ""), ("gallery.html", "#view=table")):
        browser.open(large_report / page, fragment)
        elements = browser.run("document.querySelectorAll('*').length")
        assert 50 < elements < MOST_ELEMENTS
    assert count_shown(browser) == N
    choose(browser, "page", "100")
    assert browser.run("document.querySelectorAll('*').length") < MOST_ELEMENTS
    assert names_shown(browser)[-1] == EVIL
    assert browser.run("document.getElementById('evil')") is None
    assert browser.problems == []


def test_gallery_searches_filters_sorts_and_turns_pages(browser: Browser, large: Path, large_report: Path) -> None:
    with ResultsReader(large) as reader:
        sersic = reader.array("sersic")
    r_eff = np.round(sersic["r_eff"], 2)
    names = [name.decode() for name in sersic["name"]]
    browser.open(large_report / "gallery.html")
    choose(browser, "query", "0123 Galaxy")
    expected = [name for name in names if "0123" in name]
    assert names_shown(browser) == expected
    assert count_shown(browser) == len(expected)
    choose(browser, "query", "<B ID")
    assert names_shown(browser) == [EVIL]
    choose(browser, "query", "")
    choose(browser, "status", "failed")
    assert count_shown(browser) == 100
    choose(browser, "status", "")
    choose(browser, "flag", "HIGH_CHI2")
    assert count_shown(browser) == 1000
    choose(browser, "flag", "")
    choose(browser, "sort", "r_eff")
    choose(browser, "direction", "down")
    falling = np.argsort(np.where(np.isnan(r_eff), np.inf, -r_eff), kind="stable")
    assert names_shown(browser) == [names[k] for k in falling[:48]]
    browser.run("document.getElementById('next').click()")
    assert names_shown(browser) == [names[k] for k in falling[48:96]]
    # unknown values are last in both directions
    for direction in ("down", "up"):
        choose(browser, "direction", direction)
        choose(browser, "page", "209")
        assert names_shown(browser)[-1] == names[5]


def test_the_address_keeps_what_was_chosen(browser: Browser, large_report: Path) -> None:
    browser.open(large_report / "gallery.html")
    choose(browser, "view", "table")
    choose(browser, "sort", "chi2")
    choose(browser, "page", "3")
    address, shown = browser.run("location.hash"), names_shown(browser)
    browser.open(large_report / "gallery.html", address)
    assert names_shown(browser) == shown
    assert browser.run("document.querySelector('th[aria-sort=ascending]').textContent").startswith("reduced chi2")
    # what makes no sense in an address is ignored
    browser.open(large_report / "gallery.html", "#sort=nonsense&page=-7&view=x&flag=y")
    assert count_shown(browser) == N
    assert browser.problems == []


def test_the_keyboard_is_enough(browser: Browser, large_report: Path) -> None:
    browser.open(large_report / "gallery.html")
    browser.key("ArrowRight")
    assert browser.run("document.getElementById('page').value") == "2"
    browser.key("ArrowLeft")
    assert browser.run("document.getElementById('page').value") == "1"
    browser.key("/")
    assert browser.run("document.activeElement.id") == "query"
    for letter in "9998":
        browser.key(letter)
    assert names_shown(browser) == ["galaxy 09998"]
    browser.open(large_report / "gallery.html", "#view=table")
    browser.run("document.querySelectorAll('#rows th button')[1].focus()")
    for order in ("ascending", "descending"):
        browser.key("Enter")
        assert browser.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == order
        # the heading was made anew, and still has the focus
        assert browser.run("document.activeElement.textContent").startswith("r_eff")

"""The bench of core-seconds: what counts of its rounds, and a whole run with fits that cost nothing."""

import importlib
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the script sets them for its process; here they go back after the test
    return importlib.import_module("cpu")


def test_rounds_go_over_all_galaxies_in_turn_and_the_first_counts_for_nothing(cpu: ModuleType) -> None:
    clock = count(1)
    seconds = cpu.timed({"a": lambda: float(next(clock)), "b": lambda: float(next(clock))}, 3)
    assert seconds == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}


def test_the_least_round_is_held_against_the_target(cpu: ModuleType) -> None:
    text = cpu.render({"g260": [19.0, 14.9, 16.0], "typical 0": [1.9, 2.6, 2.2], "typical 1": [2.3, 2.2, 2.4]})
    lines = text.splitlines()
    assert "| g260 | 14.9 | <= 15 | ok |" in lines
    assert "| typical galaxies, median of 2 | 2.05 | <= 2 | **miss** |" in lines
    assert "| typical 0 | 1.90 | 2.20 | 2.60 |" in lines


def test_without_real_galaxies_the_simulated_ones_are_timed(
    cpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[int] = []

    def fit(index: int, task: object) -> SimpleNamespace:
        done.append(index)
        return SimpleNamespace(seconds=1.25)

    monkeypatch.setattr(cpu.accuracy, "run_galaxy", fit)
    monkeypatch.setattr(cpu.accuracy, "real_psf_file", lambda: None)
    page = tmp_path / "cpu.md"
    assert cpu.main(["--data", str(tmp_path), "-n", "2", "--rounds", "2", "-o", str(page)]) == 0
    assert done == [0, 1, 0, 1, 0, 1]
    assert "| typical galaxies, median of 2 | 1.25 | <= 2 | ok |" in page.read_text()
    assert "g260" not in page.read_text().split("\n\n", 2)[2]

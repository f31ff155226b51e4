"""Core-seconds of whole galaxies, each fitted several times: on a machine that others use, one time tells little.

    python benchmarks/cpu.py --only g260 -n 8 --rounds 5 -o docs/cpu.md

Whoever shares the caches and the memory can only add to a fit's process time, and often adds half of it: the least of
several rounds is nearest to what the fit itself takes. Each round is for all galaxies in turn, so that a bad minute is
one round of each, and not all rounds of one.
"""

import os

# one core a process; to be said before numpy is loaded
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import accuracy
import numpy as np
from accuracy_tables import TYPICAL_SECONDS, Line
from real import CATALOGUE, DATA, Job, run_bench, run_galaxy
from real_tables import SECONDS, SINGLE_MACHINE_GALAXY, table

from sphot_mpi.catalogue import read_catalogue
from sphot_mpi.config import Config, load_config
from sphot_mpi.simulate import read_library
from sphot_mpi.simulate_psf import synthetic_library

#: Simulated galaxies are those of `accuracy.py`.
KIND, SEED = "typical", 1
#: CPU seconds of a galaxy, fitted once.
Fit = Callable[[], float]


def simulated_fits(count: int, config: Config) -> dict[str, Fit]:
    """Fits of simulated galaxies whose true PSF is known, by name."""
    path = accuracy.real_psf_file()
    task = accuracy.make_task(KIND, SEED, config, synthetic_library() if path is None else read_library(path))
    return {f"{KIND} {index}": partial(_seconds_of_simulated, index, task) for index in range(count)}


def _seconds_of_simulated(index: int, task: accuracy.Task) -> float:
    return accuracy.run_galaxy(index, task).seconds


def real_fits(folder: Path, name: str, config: Config) -> dict[str, Fit]:
    """Fits of a real galaxy, none where the folder of these is not there."""
    if not (folder / CATALOGUE).is_file():
        return {}
    (galaxy,) = read_catalogue(folder / CATALOGUE, config).select((name,)).galaxies
    return {galaxy.name: partial(_seconds_of_real, Job(galaxy=galaxy, config=config))}


def _seconds_of_real(job: Job) -> float:
    return run_galaxy(job).seconds


def timed(fits: Mapping[str, Fit], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each fit in each round, after a round that counts for nothing: it loads kernels and libraries."""
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    for index in range(rounds + 1):
        for name, fit in fits.items():
            value = fit()
            if index > 0:
                seconds[name].append(value)
        sys.stderr.write(f"round {index} of {rounds}: {sum(map(sum, seconds.values())):.1f} CPU s so far\n")
    return seconds


def render(seconds: Mapping[str, Sequence[float]]) -> str:
    """Return the tables as Markdown."""
    lines = []
    if SINGLE_MACHINE_GALAXY in seconds:
        lines.append(Line(label=SINGLE_MACHINE_GALAXY, value=min(seconds[SINGLE_MACHINE_GALAXY]), high=SECONDS))
    if simulated := [min(values) for name, values in seconds.items() if name.startswith(KIND)]:
        label = f"{KIND} galaxies, median of {len(simulated)}"
        lines.append(Line(label=label, value=float(np.median(simulated)), high=TYPICAL_SECONDS))
    rows = [
        [name, *(f"{value:.2f}" for value in (min(values), np.median(values), max(values)))]
        for name, values in seconds.items()
    ]
    targets = ["| least of the rounds | CPU s | target | |", "|---|---|---|---|", *(line.row() for line in lines)]
    return "\n".join([*targets, "", *table(["galaxy", "least", "median", "most"], rows)]) + "\n"


def bench(args: argparse.Namespace) -> str:
    """Fit what the command line asks for, as often as it does, and return the tables."""
    config = load_config(args.config, args.preset)
    fits = real_fits(args.data, args.only, config) | simulated_fits(args.n, config)
    return f"CPU seconds of six filters, {args.rounds} rounds.\n\n" + render(timed(fits, args.rounds))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0 even where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real galaxies")
    parser.add_argument("--only", default=SINGLE_MACHINE_GALAXY, help="a real galaxy")
    parser.add_argument("-n", type=int, default=8, help="simulated galaxies")
    parser.add_argument("--rounds", type=int, default=5, help="how often each galaxy is fitted")
    parser.add_argument("--preset", default="best")
    parser.add_argument("--config", type=Path, help="configuration file on top of the preset")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    return run_bench(parser, bench, "Core-seconds", "benchmarks/cpu.py", arguments)


if __name__ == "__main__":
    sys.exit(main())

"""Core-seconds of a fit, for `sphot_mpi.cost`: what results files say of the fits in them.

    sphot-mpi simulate typical -n 4 --kind typical && sphot-mpi typical/catalogue.csv -o typical.h5 --images none
    python benchmarks/cost.py typical.h5 ...

The first galaxy of a run is left out: it may have compiled kernels.
"""

import argparse
from pathlib import Path

import numpy as np

from sphot_mpi.config import load_config
from sphot_mpi.cost import SECONDS
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.schedule import TaskKind


def rows(path: Path) -> list[tuple[str, str, float, float, float, float]]:
    """Return, for each kind of fit, file, kind, megapixels, stars, and the mean and largest seconds."""
    with ResultsReader(path) as results:
        galaxies, index, provenance = (results.array(name) for name in ("galaxies", "sources_index", "provenance"))
    pixels = {row["name"]: row["full_nx"] * row["full_ny"] for row in galaxies}
    stars = {(row["name"], row["filter"]): row["count"] for row in index}
    first = galaxies["name"][0] if len(galaxies) > 1 else None
    out = []
    for kind in (TaskKind.BASE, TaskKind.SCALE):
        chosen = [
            row
            for row in provenance
            if row["task"].decode() == kind and row["name"] != first and (row["name"], row["filter"]) in stars
        ]
        if not chosen:
            continue
        seconds = np.array([row["seconds"] for row in chosen])
        out.append(
            (
                path.name,
                str(kind),
                float(np.mean([pixels[row["name"]] for row in chosen])) / 1e6,
                float(np.mean([stars[row["name"], row["filter"]] for row in chosen])),
                float(seconds.mean()),
                float(seconds.max()),
            )
        )
    return out


def main() -> None:
    """Print a line a file and kind of fit, beside what the estimate takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--preset", default="best", help="that the files were made with")
    arguments = parser.parse_args()
    model = SECONDS[load_config(None, arguments.preset).psf.method]
    print(f"{'file':24} {'fit':6} {'Mpx':>6} {'stars':>6} {'mean s':>7} {'max s':>7} {'estimate':>8}")
    for path in arguments.results:
        for name, kind, megapixels, stars, mean, largest in rows(path):
            fixed, slope = model[TaskKind(kind)]
            estimate = fixed + slope * megapixels
            print(f"{name:24} {kind:6} {megapixels:6.3f} {stars:6.0f} {mean:7.2f} {largest:7.2f} {estimate:8.2f}")


if __name__ == "__main__":
    main()

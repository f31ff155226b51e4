"""Parallel efficiency of a campaign under mpirun.

``python benchmarks/efficiency.py CATALOGUE --ranks 3`` runs a catalogue and prints the part
of their time that the workers spent on tasks, from the first word of the master to its
call to write the file; and how long everything else took.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalogue", type=Path)
    parser.add_argument("--ranks", type=int, default=3)
    options, others = parser.parse_known_args()
    launcher = shutil.which(os.environ.get("MPIRUN", "mpirun.openmpi")) or shutil.which("mpirun")
    if launcher is None:
        sys.exit("there is no mpirun; make mpi installs it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [launcher, "--oversubscribe", "-n", str(options.ranks), sys.executable, "-m", "sphot_mpi"]
        files = ["-o", str(folder / "results.h5"), "--log-dir", str(folder)]
        start = time.monotonic()
        done = subprocess.run([*command, str(options.catalogue), *files, *others], check=False)
        wall = time.monotonic() - start
        if done.returncode not in (0, 3):
            sys.exit(done.returncode)
        spans = [_span(folder / f"rank-{rank:06d}.log") for rank in range(1, options.ranks)]
    busy, there = (sum(values) for values in zip(*spans, strict=True))
    print(
        f"{len(spans)} workers: {busy:.0f} s of work in {there:.0f} s, parallel efficiency {busy / there:.1%}; "
        f"the job took {wall:.0f} s, {wall - there / len(spans):.0f} s of them for start and results file"
    )


def _span(path: Path) -> tuple[float, float]:
    """Return the seconds that a worker worked, and was there for it."""
    found = re.search(r"worked for ([0-9.]+) of ([0-9.]+) s", path.read_text())
    if found is None:
        sys.exit(f"{path} does not tell how long the worker worked")
    return float(found[1]), float(found[2])


if __name__ == "__main__":
    main()

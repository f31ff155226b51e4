"""A results file gives back every outcome, bit for bit."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import numpy.lib.recfunctions as rfn
import pytest
from random_outcomes import difference, random_outcome

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.config import load_config
from sphot_mpi.errors import OutputError
from sphot_mpi.galaxy_modes import MOST_MODES
from sphot_mpi.outcomes import Status, TaskKey
from sphot_mpi.results import write_results
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.results_outcomes import StoredOutcomes
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import TaskKind
from sphot_mpi.storable import storable

FILTERS = ("F150W", "F555W", "F277W")


class Kept:
    """A source of outcomes with digests and attempts."""

    def __init__(self, kept):
        self._kept = kept

    def tasks(self, galaxy):
        return [task for task in self._kept if task.galaxy == galaxy]

    def load(self, task):
        return self._kept[task]


def random_campaign(seed, n=8):
    """Galaxies with outcomes of all sorts; some tasks have not run, and without a base fit there is no other."""
    rng = np.random.default_rng(seed)
    galaxies, kept = [], {}
    for index in range(n):
        name = f"g{index}"
        galaxies.append(Galaxy(index=index, name=name, path=Path(f"{name}.h5"), psf=Path("p.h5"), filters=FILTERS))
        statuses = [Status.DONE, Status.NO_DATA, Status.FAILED]
        base_status = statuses[rng.integers(3)]
        for position, filter_name in enumerate(FILTERS):
            status = base_status if not position else list(Status)[rng.integers(4)]
            if base_status is Status.FAILED and position:
                status = Status.FAILED
            if position and rng.random() < 0.2:
                continue
            kind = TaskKind.SCALE if position else TaskKind.BASE
            keep(kept, rng, random_outcome(rng, kind, status, index=index, galaxy=name, filter_name=filter_name))
        if base_status is not Status.FAILED and rng.random() < 0.7:
            some = FILTERS[: rng.integers(0, 4)]
            outcome = random_outcome(rng, TaskKind.PHOTOMETRY, Status.DONE, index=index, galaxy=name, filters=some)
            keep(kept, rng, outcome)
    return galaxies, kept


def keep(kept, rng, outcome):
    digest = rng.bytes(24).hex()
    kept[outcome.task] = KeptOutcome(outcome=storable(outcome), digest=digest, attempts=int(rng.integers(1, 4)))


def write(path, galaxies, kept):
    columns = {"name": np.array([g.name for g in galaxies]), "path": np.array([str(g.path) for g in galaxies])}
    catalogue = Catalogue(path=Path("c.csv"), galaxies=tuple(galaxies), columns=columns, digest="0")
    info = CampaignInfo(catalogue=catalogue, config=load_config(None, "best"), photometry=True)
    write_results(path, info, Kept(kept), SoloComm())
    return path


@pytest.mark.parametrize("seed", range(6))
def test_outcomes_come_back_bit_for_bit(tmp_path, seed):
    galaxies, kept = random_campaign(seed)
    with StoredOutcomes(write(tmp_path / "r.h5", galaxies, kept)) as stored:
        rows = {key: row for row, key in enumerate(stored.keys())}
        assert len(rows) == len(kept)
        found = dict(stored.ended())
        for task, expected in kept.items():
            key = TaskKey(galaxies[task.galaxy].name, task.kind, task.filter)
            back = stored.load(rows[key])
            assert difference(back.outcome, expected.outcome) == ""
            assert (back.digest, back.attempts) == (expected.digest, expected.attempts)
            entry = found[key]
            assert (entry.ref.offset, entry.digest, entry.status) == (rows[key], expected.digest, task_status(expected))
            assert (entry.start, entry.attempt, entry.final) == (0, expected.attempts, False)


def task_status(kept):
    return kept.outcome.status


def test_a_file_written_from_what_was_read_is_the_same(tmp_path):
    galaxies, kept = random_campaign(11)
    first = write(tmp_path / "a.h5", galaxies, kept)
    with StoredOutcomes(first) as stored:
        again = {task: stored.load(row) for row, task in enumerate(kept)}
    second = write(tmp_path / "b.h5", galaxies, again)
    with h5py.File(first) as a, h5py.File(second) as b:
        names = []
        a.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        for name in names:
            assert a[name].dtype == b[name].dtype
            assert a[name][:].tobytes() == b[name][:].tobytes(), name


@pytest.mark.parametrize("harm", ["digest", "sersic", "failures"])
def test_a_file_that_lacks_something_is_refused_with_a_sentence(tmp_path, harm):
    path = write(tmp_path / "r.h5", *random_campaign(0))
    with h5py.File(path, "r+") as file:
        if harm == "digest":
            table = file["provenance"][:]
            del file["provenance"]
            file["provenance"] = table[[name for name in table.dtype.names if name != "digest"]]
        elif harm == "sersic":
            table = file["sersic"][:-1]
            del file["sersic"]
            file["sersic"] = table
        else:
            del file["failures"]
    with pytest.raises(OutputError, match="older sphot-mpi"):
        StoredOutcomes(path)


def test_tables_that_do_not_belong_together_are_noticed(tmp_path):
    galaxies, kept = random_campaign(0)
    path = write(tmp_path / "r.h5", galaxies, kept)
    with h5py.File(path, "r+") as file:
        table = file["sersic"][:]
        table["name"] = np.roll(table["name"], 1)
        table["filter"] = np.roll(table["filter"], 1)
        file["sersic"][:] = table
    row = next(row for row, one in enumerate(kept.values()) if one.outcome.fit is not None)
    with StoredOutcomes(path) as stored, pytest.raises(OutputError, match="damaged"):
        stored.load(row)


@pytest.mark.parametrize(("version", "modes"), [("1.1", 0), ("1.2", 28), ("1.3", 56), ("1.5", 246), ("1.6", 287)])
def test_a_file_that_knows_less_is_read_with_that(tmp_path, version, modes):
    galaxies, kept = random_campaign(1)
    path = write(tmp_path / "r.h5", galaxies, kept)
    with h5py.File(path, "r+") as file:
        unknown = {"sersic": {f"mode_{k + 1}" for k in range(modes, MOST_MODES)}, "sources": {"flux_measured"}}
        for dataset, names in unknown.items():
            table = file[dataset][()]
            old = [name for name in table.dtype.names if name not in names]
            assert len(old) < len(table.dtype.names)
            attributes = dict(file[dataset].attrs)
            del file[dataset]
            file[dataset] = rfn.repack_fields(table[old])
            file[dataset].attrs.update(attributes)
        file.attrs["format_version"] = version
    with StoredOutcomes(path) as stored:
        rows = {key: row for row, key in enumerate(stored.keys())}
        for task, expected in kept.items():
            back = stored.load(rows[TaskKey(galaxies[task.galaxy].name, task.kind, task.filter)])
            if expected.outcome.fit is not None:
                sources = expected.outcome.fit.sources.copy()
                sources["flux_measured"] = 0.0
                known = replace(expected.outcome.fit, modes=expected.outcome.fit.modes[:modes], sources=sources)
                assert difference(back.outcome.fit, known) == ""

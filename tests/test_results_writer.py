"""Writing the results file: the same file by any number of ranks and either backend, whole or not there."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import QTable
from writer_campaign import FILTERS, Case, PSFs, make_catalogue, make_fit, make_images, make_outcomes, write_case

from sphot_mpi.errors import OutputError
from sphot_mpi.photometry_record import AperturePhotometry
from sphot_mpi.results import batch_ends, block_of, partial_path
from sphot_mpi.results_backend import Slab, TurnBackend
from sphot_mpi.results_check import Receipt, check_counts, check_receipts
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_layout import Measure, join_all, layout
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_schema import IMAGES, PHOTOMETRY, TABLES

MPIRUN = shutil.which(os.environ.get("MPIRUN", "mpirun"))
PROGRAM = Path(__file__).with_name("writer_campaign.py")

#: Attributes of the root that tell who wrote the file, and when.
PROVENANCE = {"created", "ranks"}

needs_mpi = pytest.mark.skipif(
    MPIRUN is None or not h5py.get_config().mpi, reason="there is no mpirun, or h5py has no MPI"
)


def mpi_write(path: Path, ranks: int, **settings) -> tuple[int, list[dict], str]:
    """Write on several ranks; return exit status, what each rank says of its transfers, and the errors."""
    command = [MPIRUN, "--oversubscribe", "-n", str(ranks), sys.executable, "-m", "mpi4py", str(PROGRAM)]
    done = subprocess.run(
        [*command, str(path), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"], done.stderr


def content(path: Path) -> dict[str, object]:
    """All that a file holds, bit for bit, by name: values, types, chunks, filters, attributes."""
    found: dict[str, object] = {}

    def look(name: str, node: h5py.HLObject) -> None:
        found[name + "@"] = {k: v for k, v in node.attrs.items() if name or k not in PROVENANCE}
        if isinstance(node, h5py.Dataset):
            filters = node.compression, node.compression_opts, node.shuffle, str(node.fillvalue)
            found[name] = node[:].tobytes(), node.dtype, node.shape, node.chunks, filters

    with h5py.File(path) as file:
        look("", file)
        file.visititems(look)
    return found


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("serial") / "results.h5"
    write_case(path, Case(), SoloComm())
    return path


@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "mode", "batch_bytes"), [(2, "collective", 10**8), (3, "collective", 40_000), (3, "turns", 40_000)]
)
def test_any_number_of_ranks_writes_the_same_file(serial, tmp_path, ranks, mode, batch_bytes):
    path = tmp_path / "results.h5"
    status, reports, errors = mpi_write(path, ranks, mode=mode, batch_bytes=batch_bytes)
    assert status == 0, errors
    assert [report["rank"] for report in reports] == list(range(ranks))
    assert {report["unrendered"] for report in reports} == {2}  # an image and a PSF
    # one rank after another nothing is collective, so the test below can fail
    assert all((report.get("none", 0) > 0) == (mode == "turns") for report in reports)
    expected, got = content(serial), content(path)
    assert list(got) == list(expected)
    assert [name for name in expected if got[name] != expected[name]] == []
    assert not partial_path(path).exists()


@needs_mpi
@pytest.mark.parametrize("compress", [True, False])
def test_every_transfer_is_collective_also_on_ranks_without_rows(tmp_path, compress):
    """HDF5 itself says how it did each transfer; of one galaxy's rows at least one of three ranks has none."""
    path = tmp_path / "results.h5"
    status, reports, errors = mpi_write(path, 3, n_galaxies=1, compress=compress)
    assert status == 0, errors
    totals = {report.get("rows", 0) + report.get("empty", 0) for report in reports}
    assert len(totals) == 1  # all ranks took part in each
    assert any(report.get("rows", 0) == 0 for report in reports)
    for report in reports:
        assert report.get("chunk collective", 0) + report.get("contiguous collective", 0) in totals
    write_case(tmp_path / "serial.h5", Case(n_galaxies=1, compress=compress), SoloComm())
    assert content(path) == content(tmp_path / "serial.h5")


@needs_mpi
@pytest.mark.parametrize(("ranks", "mode"), [(2, "collective"), (3, "turns")])
def test_a_rank_that_cannot_write_ends_all_of_them_with_one_sentence(tmp_path, ranks, mode):
    """One rank may not write beyond 20 kB, as on a full disk; HDF5 would leave the others waiting for ever."""
    path = tmp_path / "results.h5"
    status, _, errors = mpi_write(path, ranks, mode=mode, fails="20000", limit=4, compress=False)
    assert status != 0
    sentences = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1, errors
    assert f"{partial_path(path)}: this cannot be written" in sentences[0]
    assert not path.exists()


def test_a_full_disk_is_one_sentence_and_no_crash(tmp_path):
    """In a process of its own: HDF5 used to bring it down when it ended."""
    path = tmp_path / "results.h5"
    program = (
        f"import resource, sys; sys.path.insert(0, {str(PROGRAM.parent)!r})\n"
        "from pathlib import Path\n"
        "from writer_campaign import *\n"
        "from sphot_mpi.results_comm import SoloComm\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))\n"
        "try: write_case(Path(sys.argv[1]), Case(), SoloComm())\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{partial_path(path)}: this cannot be written (File too large); free space or choose another -o.\n"
    )
    assert "Traceback" not in done.stderr
    assert not path.exists()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("sphot_mpi.results.shutil.disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"takes .* GB or more, but 1e-06 GB are free"):
        write_case(tmp_path / "results.h5", Case(), SoloComm())
    assert list(tmp_path.iterdir()) == []


def test_the_batch_changes_nothing(serial, tmp_path):
    for batch_bytes in (1, 10**9):
        path = tmp_path / f"{batch_bytes}.h5"
        write_case(path, Case(batch_bytes=batch_bytes), SoloComm())
        assert content(path) == content(serial)


def test_what_is_held_is_bounded_by_the_batch(tmp_path, monkeypatch):
    held = []
    write = TurnBackend.write

    def watched(self, slabs):
        held.append(sum(slab.rows.nbytes for slab in slabs))
        write(self, slabs)

    monkeypatch.setattr(TurnBackend, "write", watched)
    limit = 70_000  # more than any one galaxy takes
    write_case(tmp_path / "results.h5", Case(n_galaxies=12, batch_bytes=limit), SoloComm())
    known, *batches = held
    assert max(batches) <= limit
    # and batches are filled: they hold together what they would hold apart, in few pieces
    assert len(batches) < 2 * sum(batches) / limit + len(FILTERS)


def test_what_happened_is_in_the_tables(serial):
    with ResultsReader(serial) as reader:
        galaxies, photometry = reader.array("galaxies"), reader.array("photometry")
        curves, covariance = reader.file["photometry_curve"][:], reader.file["sersic_covariance"][:]
        assert not reader.file.attrs["complete"]
        failures, provenance = reader.array("failures"), reader.array("provenance")
    status = [s.decode() for s in galaxies["status"]]
    assert status == ["done", "unfinished", "done", "done", "unfinished", "unfinished", "done"]
    assert len(failures) == 3
    assert set(provenance["task"]) == {b"base", b"scale", b"photometry"}
    first = make_fit(make_catalogue(1).galaxies[0], FILTERS[0])
    assert photometry["flux"][0] == first.total_flux
    assert photometry["x"][1] == 5.5 + 3.0  # in the full image: the second filter's cutout begins there
    assert (curves[0] == first.total_flux).all()
    assert covariance.shape[1:] == (14, 14)


def test_no_field_of_a_photometry_record_is_left_out():
    elsewhere = {"galaxy", "origin", "curve"}  # /galaxies has the origin
    assert {f.name for f in fields(AperturePhotometry)} - elsewhere == {c.name for c in PHOTOMETRY} - {"name"}


def test_every_table_opens_with_astropy(serial):
    for name in TABLES:
        table = QTable.read(serial, path=name)
        assert all(table[column].info.description for column in table.colnames), name
    photometry = QTable.read(serial, path="photometry")
    assert str(photometry["flux"].unit) == "MJy pix / sr"
    assert str(photometry["area"].unit) == "pix2"


def test_images_are_what_was_rendered(serial):
    galaxy = make_catalogue(7).galaxies[3]
    outcome = make_outcomes(galaxy)[2]
    cutout, model = make_images(outcome, galaxy)
    ny, nx = cutout.shape
    with h5py.File(serial) as file:
        stacks = {name: file[f"images/{FILTERS[2]}/{name}"] for name in IMAGES}
        images = {name: stack[3] for name, stack in stacks.items()}
        assert {stack.chunks[0] for stack in stacks.values()} == {1}
        gone = file[f"images/{FILTERS[2]}/data"][6]
    np.testing.assert_array_equal(images["data"][:ny, :nx], cutout.data.astype("f4"))
    np.testing.assert_array_equal(images["psf_sub_data"][:ny, :nx], (cutout.data - model.sources).astype("f4"))
    np.testing.assert_array_equal(images["residual"][:ny, :nx], model.residual(cutout.data).astype("f4"))
    assert np.isnan(images["data"][ny:]).all()
    assert np.isnan(images["data"][:, nx:]).all()
    assert np.isnan(gone).all()


def test_psfs_are_stored_with_their_own_shape_and_sampling(serial):
    with ResultsReader(serial) as reader:
        assert set(reader.file["psf"]) == set(FILTERS)
        expected = PSFs().psf(make_outcomes(make_catalogue(3).galaxies[2])[0], make_catalogue(3).galaxies[2])
        stored = reader.psf_at(2, FILTERS[0])
        assert reader.file[f"psf/{FILTERS[0]}"].shape == (7, 13, 15)
        assert (reader.oversample(FILTERS[0]), reader.oversample(FILTERS[1])) == (4, 0)
        with pytest.raises(OutputError, match="holds no PSF"):
            reader.psf_at(6, FILTERS[2])
    np.testing.assert_array_equal(stored, expected.astype("f4"))


def test_the_same_layout_from_parts_as_from_the_whole():
    catalogue = make_catalogue(7)
    whole = Measure(rows={"sersic": 9}, shapes={"A": (9, 7)}, units=frozenset({"Jy"}), widths={("sersic", "name"): 5})
    parts = [
        Measure(rows={"sersic": 4}, shapes={"A": (9, 2)}, widths={("sersic", "name"): 5}, units=frozenset({"Jy"})),
        Measure(),
        Measure(rows={"sersic": 5}, shapes={"A": (3, 7)}, widths={("sersic", "name"): 2}, units=frozenset({"Jy"})),
    ]
    assert join_all(parts) == whole
    specs = layout(whole, catalogue, ("data",), compress=True)
    assert {spec.name: spec.shape for spec in specs}["images/A/data"] == (7, 9, 7)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("weights", [[1] * 7, [9, 1, 1, 1, 1, 1, 1], [0, 0, 5], [], [3]])
def test_blocks_cover_all_galaxies_in_order(weights, size):
    blocks = [block_of(weights, rank, size) for rank in range(size)]
    assert [k for block in blocks for k in block] == list(range(len(weights)))


def test_blocks_are_balanced():
    weights = [6] * 1000
    counts = [len(block_of(weights, rank, 7)) for rank in range(7)]
    assert max(counts) - min(counts) <= 1


def test_batches_stay_within_the_limit_but_hold_one_at_least():
    assert batch_ends([3, 3, 3, 20, 1, 1], 6) == [2, 3, 4, 6]
    assert batch_ends([], 6) == []


def broken_file(path: Path) -> list[Receipt]:
    rows = np.arange(10.0)
    with h5py.File(path, "w") as file:
        file["x"] = rows
    return [Receipt.of(Slab("x", 0, rows[:4])), Receipt.of(Slab("x", 4, rows[4:]))]


def test_a_file_that_was_damaged_is_not_accepted(tmp_path):
    path = tmp_path / "x.h5"
    receipts = broken_file(path)
    check_receipts(path, receipts)
    with h5py.File(path, "r+") as file:
        file["x"][7] = 7.5
    check_receipts(path, receipts[:1])
    with pytest.raises(OutputError, match="/x, rows 4 to 9 do not read back"):
        check_receipts(path, receipts)


def test_rows_that_nobody_wrote_or_two_did_are_noticed(tmp_path):
    path = tmp_path / "x.h5"
    receipts = broken_file(path)
    spec = layout(Measure(), make_catalogue(10), (), compress=True)[0]
    spec = replace(spec, name="x", shape=(10,))
    assert check_counts(path, receipts[::-1], [spec]) == {"x": 10}
    for wrong in (receipts[:1], [*receipts, receipts[0]]):
        with pytest.raises(OutputError, match="10 rows, but not each"):
            check_counts(path, wrong, [spec])


def test_a_file_that_does_not_read_back_is_not_renamed(tmp_path, monkeypatch):
    path = tmp_path / "results.h5"
    path.write_bytes(b"the old file")
    seen = []
    monkeypatch.setattr("sphot_mpi.results.check_receipts", lambda path, receipts: seen.append(len(receipts)) or bad())

    def bad():
        msg = "the file does not read back"
        raise OutputError(msg)

    with pytest.raises(OutputError, match="does not read back"):
        write_case(path, Case(), SoloComm())
    assert seen
    assert path.read_bytes() == b"the old file"
    assert partial_path(path).exists()


def test_cases_are_what_the_program_takes():
    assert Case(**{**json.loads(json.dumps(asdict(Case()))), "images": Case.images}) == Case()

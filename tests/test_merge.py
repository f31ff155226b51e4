"""Merging results files: everything is as it was in the parts, and what does not go together is refused."""

import logging
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from test_results_outcomes import FILTERS, Kept, random_campaign

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.cli import main
from sphot_mpi.config import load_config
from sphot_mpi.errors import OutputError, UsageError
from sphot_mpi.merge import joined_columns, merge_results
from sphot_mpi.model_images import ModelImages
from sphot_mpi.outcomes import Status
from sphot_mpi.records import Cutout
from sphot_mpi.results import write_results
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.results_origin import CampaignInfo
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_schema import IMAGES
from sphot_mpi.schedule import TaskKind

CONFIG = load_config(None, "best")


def render(outcome, galaxy):
    """Images that hang on the galaxy's name and the filter."""
    rng = np.random.default_rng([*galaxy.name.encode(), *outcome.task.filter.encode()])
    data, sersic, sources, sky = rng.normal(size=(4, *outcome.frame.shape))
    cutout = Cutout(galaxy=galaxy.name, filter=outcome.task.filter, data=data, error=None, mask=np.isnan(data))
    return cutout, ModelImages(sersic=sersic, sources=sources, sky=sky)


def complete_campaign(seed, n=8):
    """All tasks have ended: filters that have not run are none of the galaxy's."""
    galaxies, kept = random_campaign(seed, n)
    ran = {g.index: [t for t in kept if t.galaxy == g.index] for g in galaxies}
    galaxies = [replace(g, filters=tuple(t.filter for t in ran[g.index] if t.filter)) for g in galaxies]
    return galaxies, kept


def write(path, galaxies, kept, config=CONFIG, images=tuple(IMAGES), catalogue="c.csv", **columns):
    chosen = [replace(g, index=k) for k, g in enumerate(galaxies)]
    place = {g.index: k for k, g in enumerate(galaxies)}
    own = {}
    for task, one in kept.items():
        if task.galaxy in place:
            moved = replace(task, galaxy=place[task.galaxy])
            own[moved] = replace(one, outcome=replace(one.outcome, task=moved))
    table = {"name": np.array([g.name for g in chosen]), "mass": np.array([float(g.name[1:]) for g in chosen])}
    table |= {name: np.array([value] * len(chosen)) for name, value in columns.items()}
    catalogue = Catalogue(path=Path(catalogue), galaxies=tuple(chosen), columns=table, digest="77")
    info = CampaignInfo(catalogue=catalogue, config=config, images=images, ranks=2, restarts=1)
    write_results(path, info, Kept(own), SoloComm(), render if images else None)
    return path


def datasets(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(lambda name, node: found.update({name: node[:]}) if isinstance(node, h5py.Dataset) else None)
        return found


def test_shards_merge_into_the_file_that_one_campaign_would_have_written(tmp_path):
    galaxies, kept = complete_campaign(1)
    whole = write(tmp_path / "whole.h5", galaxies, kept)
    parts = [write(tmp_path / f"{k}.h5", galaxies[k::3], kept, catalogue=tmp_path / "c.csv") for k in range(3)]
    (tmp_path / "c.csv").write_text("name,path\n" + "".join(f"{g.name},x.h5\n" for g in galaxies))
    written = merge_results(tmp_path / "out.h5", parts, command_line="sphot-mpi merge x")
    expected, merged = datasets(whole), datasets(written.path)
    assert merged.keys() == expected.keys()
    for name, values in expected.items():
        assert merged[name].dtype == values.dtype, name
        assert merged[name].tobytes() == values.tobytes(), name
    with ResultsReader(written.path) as reader:
        attributes = dict(reader.file.attrs)
    assert (attributes["ranks"], attributes["restarts"], bool(attributes["complete"])) == (6, 3, True)
    assert (attributes["catalogue"], attributes["catalogue_sha256"]) == (str(tmp_path / "c.csv"), "77")
    assert attributes["command_line"] == "sphot-mpi merge x"


def test_without_a_common_catalogue_the_galaxies_stand_in_the_order_of_the_files(tmp_path):
    galaxies, kept = complete_campaign(2)
    a = write(tmp_path / "a.h5", galaxies[4:], kept, catalogue="a.csv", note="first")
    b = write(tmp_path / "b.h5", galaxies[:4], kept, catalogue="b.csv", size=5)
    written = merge_results(tmp_path / "out.h5", [a, b])
    with ResultsReader(written.path) as reader:
        assert reader.names() == [f"g{k}" for k in (4, 5, 6, 7, 0, 1, 2, 3)]
        table = reader.array("catalogue")
        assert reader.file.attrs["catalogue"] == "a.csv, b.csv"
    assert table.dtype.names == ("name", "mass", "note", "size")
    assert list(table["mass"]) == [4, 5, 6, 7, 0, 1, 2, 3]
    assert list(table["note"]) == [b"first"] * 4 + [b""] * 4
    np.testing.assert_array_equal(table["size"], [np.nan] * 4 + [5.0] * 4)


def test_columns_of_several_kinds():
    joined = joined_columns(
        [
            {"a": np.array([1, 2]), "b": np.array(["x", "y"]), "c": np.array([True, False])},
            {"a": np.array(["z"]), "d": np.array([3])},
        ]
    )
    assert list(joined["a"]) == ["1", "2", "z"]
    assert list(joined["b"]) == ["x", "y", ""]
    np.testing.assert_array_equal(joined["c"], [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(joined["d"], [np.nan, np.nan, 3.0])


def test_files_that_do_not_go_together_are_refused(tmp_path):
    galaxies, kept = complete_campaign(3)
    a = write(tmp_path / "a.h5", galaxies[:5], kept)
    b = write(tmp_path / "b.h5", galaxies[3:], kept)
    with pytest.raises(UsageError, match=r"a.h5 and .*b.h5 have 2 galaxies in common \(g3, g4\)"):
        merge_results(tmp_path / "out.h5", [a, b])
    other = write(tmp_path / "c.h5", galaxies[5:], kept, CONFIG.replaced({"psf": {"keep_snr": 2.5}}))
    with pytest.raises(UsageError, match=r"psf.keep_snr = .* and 2.5"):
        merge_results(tmp_path / "out.h5", [a, other])
    with pytest.raises(UsageError, match="named twice"):
        merge_results(tmp_path / "out.h5", [a, a])
    with pytest.raises(UsageError, match="named twice"):
        merge_results(a, [a, other])
    (tmp_path / "there.h5").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        merge_results(tmp_path / "there.h5", [a])
    with pytest.raises(OutputError, match="cannot be read as HDF5"):
        merge_results(tmp_path / "out.h5", [a, tmp_path / "there.h5"])
    assert not (tmp_path / "out.h5").exists()
    assert (tmp_path / "there.h5").read_text() == "mine"


def test_a_file_with_work_left_is_refused(tmp_path):
    galaxies, kept = complete_campaign(4)
    more = [replace(galaxies[0], filters=(*FILTERS, "F090W")), *galaxies[1:]]
    path = write(tmp_path / "a.h5", more, kept)
    with pytest.raises(UsageError, match="tasks are left in it"):
        merge_results(tmp_path / "out.h5", [path])


def test_a_shard_whose_fits_all_failed_costs_the_others_no_image(tmp_path):
    galaxies, kept = complete_campaign(5)
    fitted = {task.galaxy for task, one in kept.items() if one.outcome.fit is not None}
    parts = [[g for g in galaxies if (g.index in fitted) == some] for some in (False, True)]
    assert all(parts)
    paths = [write(tmp_path / f"{k}.h5", part, kept) for k, part in enumerate(parts)]
    merge_results(tmp_path / "ab.h5", paths)
    with ResultsReader(tmp_path / "ab.h5") as reader:
        assert set(reader.image_names()) == set(IMAGES)


def test_only_images_that_all_have_are_taken_over(tmp_path, caplog):
    galaxies, kept = complete_campaign(5)
    a = write(tmp_path / "a.h5", galaxies[:4], kept)
    b = write(tmp_path / "b.h5", galaxies[4:], kept, images=("residual",))
    with caplog.at_level(logging.WARNING, logger="sphot_mpi"):
        merge_results(tmp_path / "ab.h5", [a, b])
    assert "only images that all files hold" in caplog.text
    with ResultsReader(tmp_path / "ab.h5") as reader:
        assert reader.image_names() == ("residual",)
        fitted = next(t for t, one in kept.items() if t.galaxy > 4 and one.outcome.fit is not None)
        name = f"g{fitted.galaxy}"
        image = reader.images(name, fitted.filter).residual
    cutout, model = render(kept[fitted].outcome, galaxies[fitted.galaxy])
    np.testing.assert_array_equal(image, model.residual(cutout.data).astype(np.float32))


def test_the_command(tmp_path):
    galaxies, kept = complete_campaign(6)
    a, b = (write(tmp_path / f"{k}.h5", galaxies[k::2], kept) for k in range(2))
    done = CliRunner().invoke(main, ["merge", str(tmp_path / "out.h5"), str(a), str(b)])
    assert (done.exit_code, done.output) == (0, f"Merged: 8 galaxies of 2 files. Results: {tmp_path / 'out.h5'}\n")
    again = CliRunner().invoke(main, ["merge", str(tmp_path / "out.h5"), str(a), str(b)])
    assert again.exit_code == 1
    twice = CliRunner().invoke(main, ["merge", str(tmp_path / "x.h5"), str(a), str(tmp_path / "out.h5")])
    assert twice.exit_code == 2
    assert "4 galaxies in common" in twice.output
    over = CliRunner().invoke(main, ["merge", "--overwrite", str(tmp_path / "out.h5"), str(a)])
    assert "4 galaxies of 1 file." in over.output


def test_random_campaigns_have_all_that_can_be_merged():
    """The laws above say something about failures, missing filters, photometry and empty fits."""
    seen = set()
    for seed in range(1, 7):
        for one in complete_campaign(seed)[1].values():
            seen.add((one.outcome.task.kind, one.outcome.status))
    assert seen >= {(TaskKind.SCALE, status) for status in Status} | {(TaskKind.PHOTOMETRY, Status.DONE)}

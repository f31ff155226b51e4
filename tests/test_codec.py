"""Records to bytes and back: every bit returns, and bytes that are no record are refused."""

import contextlib
import json
import struct
from dataclasses import dataclass, replace

import numpy as np
import pytest
from random_outcomes import difference, random_fit, random_outcome

from sphot_mpi.codec import VERSION, decode, encode, pack, unpack
from sphot_mpi.errors import CodecError
from sphot_mpi.outcomes import Status
from sphot_mpi.schedule import TaskKind
from sphot_mpi.storable import QUANTUM, snapped, storable


@pytest.mark.parametrize("kind", list(TaskKind))
@pytest.mark.parametrize("status", list(Status))
def test_every_kind_of_outcome_comes_back_bit_for_bit(kind, status):
    for seed in range(20):
        outcome = random_outcome(np.random.default_rng(seed), kind, status, filters=("F1", "F2"))
        back = decode(encode(outcome))
        assert difference(back, outcome) == ""
        assert encode(back) == encode(outcome)


def test_arrays_come_back_writable_contiguous_and_in_native_order():
    fit = replace(
        random_fit(np.random.default_rng(1)),
        covariance=np.arange(49.0).reshape(7, 7).T[::-1],
        sky_covariance=np.arange(9.0, dtype=">f8").reshape(3, 3),
    )
    back = unpack(type(fit), pack(fit))
    np.testing.assert_array_equal(back.covariance, fit.covariance)
    np.testing.assert_array_equal(back.sky_covariance, fit.sky_covariance)
    for array in (back.covariance, back.sky_covariance, back.sources):
        # a read-only or foreign array would have the compiled kernels compiled once more
        assert array.flags.writeable
        assert array.flags.c_contiguous
        assert array.dtype.isnative


def test_numpy_scalars_are_numbers():
    outcome = random_outcome(np.random.default_rng(2), TaskKind.BASE, Status.DONE)
    fit = replace(outcome.fit, total_flux=np.float64(1.5), n_pix=np.int64(7), converged=np.bool_(True))
    back = decode(encode(replace(outcome, fit=fit))).fit
    assert (back.total_flux, back.n_pix, back.converged) == (1.5, 7, True)
    assert (type(back.total_flux), type(back.n_pix), type(back.converged)) == (float, int, bool)


@dataclass(frozen=True, kw_only=True)
class Old:
    a: int
    gone: str = "x"


@dataclass(frozen=True, kw_only=True)
class New:
    a: int
    b: tuple[float, ...] = (1.0,)
    c: str | None = None


@dataclass(frozen=True, kw_only=True)
class Needy:
    a: int
    b: int


def test_fields_go_by_name_across_versions_of_a_record():
    assert unpack(New, pack(Old(a=3))) == New(a=3)
    assert unpack(Old, pack(New(a=4, c="y"))) == Old(a=4)
    with pytest.raises(CodecError, match="a Needy lacks b"):
        unpack(Needy, pack(Old(a=3)))


def test_a_newer_format_is_refused():
    data = pack(Old(a=1))
    header = json.loads(data[4:])
    header["version"] = VERSION + 1
    text = json.dumps(header).encode()
    with pytest.raises(CodecError, match="newer"):
        unpack(Old, struct.pack("<I", len(text)) + text)


@pytest.mark.parametrize(
    ("value", "words"),
    [(Old(a=1.5), "whole number"), (Old(a=1, gone=b"x"), "no text"), (New(a=1, b=("1.5",)), "no number")],
)
def test_a_value_of_another_type_is_never_written(value, words):
    with pytest.raises(CodecError, match=words):
        pack(value)


def test_objects_are_neither_written_nor_read():
    fit = replace(random_fit(np.random.default_rng(3)), covariance=np.array([{}], dtype=object))
    with pytest.raises(CodecError, match="cannot be written"):
        pack(fit)
    data = pack(random_fit(np.random.default_rng(3)))
    with pytest.raises(CodecError):
        unpack(type(fit), data.replace(b'"<f8"', b'"|O8"'))


def test_cut_or_mangled_bytes_raise_our_error_and_nothing_else():
    data = encode(random_outcome(np.random.default_rng(4), TaskKind.BASE, Status.DONE))
    for length in (*range(0, len(data), 37), len(data) - 1):
        with pytest.raises(CodecError):
            decode(data[:length])
    with pytest.raises(CodecError):
        decode(data + b"\0")
    rng = np.random.default_rng(5)
    (header,) = struct.unpack_from("<I", data)
    for _ in range(300):
        broken = bytearray(data)
        broken[rng.integers(header)] = rng.integers(256)
        with contextlib.suppress(CodecError):
            decode(bytes(broken))  # a digit for a digit is another record; the journal's checksum finds that


def test_positions_survive_the_way_to_the_full_image_and_back():
    x = snapped(np.random.default_rng(6).uniform(-500.0, 9000.0, 10000))
    for origin in (0, 1, 137, 65535):
        np.testing.assert_array_equal((x + origin) - origin, x)
    assert snapped(0.1) != 0.1  # so that the law above says something
    assert abs(snapped(0.1) - 0.1) <= QUANTUM / 2
    for odd in (np.nan, np.inf, -np.inf, 1e300):
        assert snapped(odd) == odd or np.isnan(odd)


def test_what_is_storable_once_stays_as_it_is():
    for seed in range(60):
        once = storable(random_outcome(np.random.default_rng(seed), filters=("F1",)))
        assert difference(storable(once), once) == ""

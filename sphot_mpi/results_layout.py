"""The results file before it is written: its datasets, all derived from one schema, the same on every rank.

A rank measures its own galaxies (rows, longest texts, largest images); the merged
measure fixes shape and type of every dataset, so that all ranks create the same file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from astropy.table import Table, meta
from numpy.typing import NDArray

from sphot_mpi.catalogue import Catalogue
from sphot_mpi.outcomes import TaskOutcome
from sphot_mpi.photometry_record import no_curve
from sphot_mpi.records import SERSIC_PARAMETERS
from sphot_mpi.results_schema import (
    DESCRIPTIONS,
    IMAGES,
    TABLE_COLUMNS,
    TABLE_FLAGS,
    Column,
    column_unit,
    structured,
)

#: Bytes of a chunk of a table's rows; pixels along a side of a chunk of an image.
_CHUNK_BYTES, _CHUNK_SIDE = 2**18, 512

#: Ends the name of the dataset from which astropy reads units and descriptions of a table.
SIBLING = ".__table_column_meta__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What some galaxies need in the file.

    Parameters
    ----------
    rows : mapping of str to int
        Rows by dataset.
    widths : mapping of (str, str) to int
        Bytes of the longest text by table and column.
    parameters : int
        Largest number of Sersic parameters of a fit.
    shapes : mapping of str to (int, int)
        Largest cutout, (ny, nx), by filter.
    units : frozenset of str
        Units of the data.
    pixels : int
        Pixels of all cutouts.
    psfs : mapping of str to (int, int, int)
        Largest PSF, (ny, nx), and oversampling by filter; oversampling 0: they differ.
    """

    rows: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[tuple[str, str], int] = field(default_factory=dict)
    parameters: int = len(SERSIC_PARAMETERS)
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    units: frozenset[str] = frozenset()
    pixels: int = 0
    psfs: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], outcomes: Iterable[TaskOutcome]) -> "Measure":
        """Measure rows, and the outcomes they were made of."""
        shapes: dict[str, tuple[int, int]] = {}
        frames = [(o.task.filter, o.frame) for o in outcomes if o.fit is not None and o.frame is not None]
        for name, frame in frames:
            ny, nx = shapes.get(name, (0, 0))
            shapes[name] = max(ny, frame.shape[0]), max(nx, frame.shape[1])
        return cls(
            rows={name: len(array) for name, array in arrays.items()},
            widths={
                (name, column.name): arrays[name].dtype[column.name].itemsize
                for name, columns in TABLE_COLUMNS.items()
                for column in columns
                if column.kind == "S"
            },
            parameters=arrays["sersic_covariance"].shape[-1],
            shapes=shapes,
            units=frozenset(frame.unit for _, frame in frames),
            pixels=sum(frame.shape[0] * frame.shape[1] for _, frame in frames),
        )

    def joined(self, other: "Measure") -> "Measure":
        """Return the measure of both."""
        shapes = dict(self.shapes)
        for name, (ny, nx) in other.shapes.items():
            shapes[name] = max(ny, shapes.get(name, (0, 0))[0]), max(nx, shapes.get(name, (0, 0))[1])
        return Measure(
            rows={k: self.rows.get(k, 0) + other.rows.get(k, 0) for k in {**self.rows, **other.rows}},
            widths={k: max(self.widths.get(k, 1), other.widths.get(k, 1)) for k in {**self.widths, **other.widths}},
            parameters=max(self.parameters, other.parameters),
            shapes=shapes,
            units=self.units | other.units,
            pixels=self.pixels + other.pixels,
            psfs={k: _larger_psf(self.psfs.get(k), other.psfs.get(k)) for k in {**self.psfs, **other.psfs}},
        )


def _larger_psf(a: tuple[int, int, int] | None, b: tuple[int, int, int] | None) -> tuple[int, int, int]:
    if a is None or b is None:
        return a or b or (0, 0, 0)
    return max(a[0], b[0]), max(a[1], b[1]), a[2] if a[2] == b[2] else 0


def join_all(measures: Iterable[Measure]) -> Measure:
    """Return the measure of all."""
    return reduce(Measure.joined, measures, Measure())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DatasetSpec:
    """One dataset to be created.

    Parameters
    ----------
    name : str
        Path in the file.
    shape : tuple of int
        Rows first.
    dtype : dtype
        Of an element; text is of fixed length.
    attributes : mapping of str to str or int
        With `unit` and `description`.
    chunks : tuple of int or None
        Shape of a chunk; None: contiguous.
    compressed : bool
        Whether chunks are compressed.
    values : ndarray or None
        What is in it, where that is known beforehand.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    attributes: Mapping[str, str | int]
    chunks: tuple[int, ...] | None
    compressed: bool
    values: NDArray[Any] | None = None

    @property
    def is_stack(self) -> bool:
        """Whether this is a (galaxy, y, x) stack, not a table."""
        return self.dtype == np.float32

    @property
    def row_bytes(self) -> int:
        """Bytes of a row without compression."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all rows without compression."""
        return self.shape[0] * self.row_bytes

    def fitted(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return rows in exactly this dataset's type, so that nothing is converted on the way to the file.

        Matrices and images that are smaller than the dataset's are padded with NaN.
        """
        if rows.dtype == self.dtype and rows.shape[1:] == self.shape[1:]:
            return np.ascontiguousarray(rows)
        if rows.dtype.names is not None:
            return rows.astype(self.dtype)
        padded = np.full((len(rows), *self.shape[1:]), np.nan, self.dtype)
        padded[tuple(slice(n) for n in rows.shape)] = rows
        return padded


def layout(measure: Measure, catalogue: Catalogue, images: Sequence[str], *, compress: bool) -> list[DatasetSpec]:
    """Return all datasets of a results file, in the order in which they are made.

    Parameters
    ----------
    measure : Measure
        Of all ranks together.
    catalogue : Catalogue
        Its rows become /catalogue.
    images : sequence of str
        Names of `IMAGES` to store.
    compress : bool
        Whether image stacks are compressed.

    Returns
    -------
    list of DatasetSpec
        The same for the same arguments.
    """
    unit = next(iter(measure.units)) if len(measure.units) == 1 else ""
    specs: list[DatasetSpec] = []
    columns, values = catalogue_table(catalogue)
    specs += _table_specs("catalogue", columns, values.dtype, len(values), "", values)
    for name, table in TABLE_COLUMNS.items():
        fields = [(c.name, f"S{measure.widths.get((name, c.name), 1)}" if c.kind == "S" else c.kind) for c in table]
        specs += _table_specs(name, table, np.dtype(fields), measure.rows.get(name, 0), unit)
    specs.append(_stack_spec("sersic_covariance", measure, (measure.parameters, measure.parameters)))
    specs.append(_stack_spec("sky_covariance", measure, (3, 3)))
    specs.append(_stack_spec("photometry_curve", measure, no_curve().shape))
    for filter_name in sorted(measure.shapes):
        for name in images:
            text = f"{IMAGES[name]}; (galaxy, y, x), NaN beyond a galaxy's own cutout, whose corner is in /galaxies"
            shape = (len(catalogue.galaxies), *measure.shapes[filter_name])
            attributes = {"unit": unit, "description": text}
            specs.append(_image_spec(image_path(filter_name, name), shape, attributes, compress=compress))
    for filter_name, (ny, nx, oversample) in sorted(measure.psfs.items()):
        described: dict[str, str | int] = {"unit": "", "description": DESCRIPTIONS["psf"], "oversample": oversample}
        shape = (len(catalogue.galaxies), ny, nx)
        specs.append(_image_spec(psf_path(filter_name), shape, described, compress=compress))
    return specs


def _table_specs(
    name: str,
    columns: Sequence[Column],
    dtype: np.dtype[Any],
    rows: int,
    unit: str,
    values: NDArray[np.void] | None = None,
) -> list[DatasetSpec]:
    """Return a table, and the sibling from which astropy reads units and descriptions."""
    header = Table(np.empty(0, dtype))
    for column in columns:
        header[column.name].unit = column_unit(column, unit)
        header[column.name].description = column.description
    header.meta["description"] = DESCRIPTIONS[name]
    lines = np.array([line.encode() for line in meta.get_yaml_from_table(header)])
    attributes = {"unit": "", "description": DESCRIPTIONS[name]}
    if name in TABLE_FLAGS:
        attributes["flags"] = TABLE_FLAGS[name]
    words = {"unit": "", "description": f"units and descriptions of the columns of /{name}, for astropy"}
    return [
        _row_spec(name, (rows,), dtype, attributes, values),
        DatasetSpec(
            name=name + SIBLING,
            shape=lines.shape,
            dtype=lines.dtype,
            attributes=words,
            chunks=None,
            compressed=False,
            values=lines,
        ),
    ]


def _row_spec(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    attributes: Mapping[str, str | int],
    values: NDArray[Any] | None = None,
) -> DatasetSpec:
    row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    chunks = (max(1, min(shape[0], _CHUNK_BYTES // row)), *shape[1:]) if shape[0] else None
    return DatasetSpec(
        name=name,
        shape=shape,
        dtype=dtype,
        attributes=attributes,
        chunks=chunks,
        compressed=chunks is not None,
        values=values,
    )


def _stack_spec(name: str, measure: Measure, shape: tuple[int, ...]) -> DatasetSpec:
    attributes = {"unit": "", "description": DESCRIPTIONS[name]}
    return _row_spec(name, (measure.rows.get(name, 0), *shape), np.dtype("f8"), attributes)


def _image_spec(
    name: str, shape: tuple[int, int, int], attributes: Mapping[str, str | int], *, compress: bool
) -> DatasetSpec:
    """Return a (galaxy, y, x) stack; no chunk holds two galaxies."""
    _, ny, nx = shape
    return DatasetSpec(
        name=name,
        shape=shape,
        dtype=np.dtype("f4"),
        attributes=attributes,
        # without compression a batch of galaxies is one run of bytes, written at once
        chunks=(1, min(ny, _CHUNK_SIDE), min(nx, _CHUNK_SIDE)) if compress else None,
        compressed=compress,
    )


def psf_path(filter_name: str) -> str:
    """Return the path of a stack of PSFs."""
    return f"psf/{filter_name}"


def image_path(filter_name: str, name: str) -> str:
    """Return the path of a stack of images."""
    return f"images/{filter_name}/{name}"


def catalogue_table(catalogue: Catalogue) -> tuple[list[Column], NDArray[np.void]]:
    """Return the catalogue's columns, as read, as a table."""
    columns = [
        Column(name, "S" if values.dtype.kind in "SU" else values.dtype.str, "", "as read")
        for name, values in catalogue.columns.items()
    ]
    return columns, structured(columns, catalogue.columns)

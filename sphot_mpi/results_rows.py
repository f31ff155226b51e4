"""From task outcomes to the rows of all tables: what became of galaxies and tasks, and what the fits have found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.catalogue_rows import Galaxy
from sphot_mpi.outcomes import Status, TaskOutcome
from sphot_mpi.results_fit_rows import (
    Row,
    covariance_stack,
    curve_stack,
    photometry_table,
    sersic_table,
    sky_covariance_stack,
    sky_position,
    source_tables,
    table_of,
    wcs_table,
)
from sphot_mpi.results_schema import FAILURES, GALAXIES, PROVENANCE
from sphot_mpi.results_source import KeptOutcome
from sphot_mpi.schedule import TaskKind
from sphot_mpi.storable import LONGEST


def galaxy_table(galaxies: Sequence[Galaxy], kept: Sequence[KeptOutcome], *, photometry: bool) -> NDArray[np.void]:
    """Return /galaxies, one row a galaxy."""
    by_galaxy: dict[int, list[KeptOutcome]] = {galaxy.index: [] for galaxy in galaxies}
    for one in kept:
        by_galaxy[one.outcome.task.galaxy].append(one)
    return table_of(GALAXIES, (_galaxy_row(galaxy, by_galaxy[galaxy.index], photometry) for galaxy in galaxies))


def _galaxy_row(galaxy: Galaxy, kept: Sequence[KeptOutcome], photometry: bool) -> Row:
    outcomes = [one.outcome for one in kept]
    base = next((o for o in outcomes if o.task.kind is TaskKind.BASE), None)
    frame = base.frame if base is not None else None
    flags = 0
    for outcome in outcomes:
        flags |= int(outcome.fit.flags) if outcome.fit is not None else 0
    row: Row = {
        "name": galaxy.name,
        "status": galaxy_status(outcomes, len(galaxy.filters) + photometry),
        "flags": flags,
        "base_filter": galaxy.base_filter,
        "n_filters": len(galaxy.filters),
        "attempts": max((one.attempts for one in kept), default=0),
        "host": base.timing.host if base is not None else "",
        "rank": base.timing.rank if base is not None else -1,
        "seconds": sum(o.timing.seconds for o in outcomes),
        "ra": galaxy.ra,
        "dec": galaxy.dec,
    }
    for column, status in (("done", Status.DONE), ("missing", Status.MISSING), ("failed", Status.FAILED)):
        ended = (o.task.filter for o in outcomes if o.status is status and o.task.kind is not TaskKind.PHOTOMETRY)
        row[f"filters_{column}"] = ",".join(ended)
    row["crop_x"], row["crop_y"] = frame.origin if frame else (0, 0)
    row["crop_ny"], row["crop_nx"] = frame.shape if frame else (0, 0)
    row["full_ny"], row["full_nx"] = frame.full_shape if frame else (0, 0)
    if frame is not None and base is not None and base.fit is not None and base.fit.components:
        centre = base.fit.components[0]
        ra, dec = sky_position(frame, centre.x_0 + frame.origin[0], centre.y_0 + frame.origin[1])
        if np.isfinite(ra):
            row["ra"], row["dec"] = ra, dec
    return row


def galaxy_status(outcomes: Sequence[TaskOutcome], expected: int) -> str:
    """Say how a galaxy fared.

    Parameters
    ----------
    outcomes : sequence of TaskOutcome
        Of its tasks that have ended.
    expected : int
        Tasks that it has.

    Returns
    -------
    str
        "done"; "partial" (some tasks failed); "failed" (no fit at all); "unfinished" (some tasks have not run).
    """
    if len(outcomes) < expected:
        return "unfinished"
    if not any(o.status is Status.FAILED for o in outcomes):
        return "done"
    return "partial" if any(o.status is Status.DONE for o in outcomes) else "failed"


def failure_table(galaxies: Sequence[Galaxy], kept: Sequence[KeptOutcome]) -> NDArray[np.void]:
    """Return /failures."""
    return table_of(
        FAILURES,
        (
            {
                **_task_columns(galaxies, one.outcome),
                "stage": one.outcome.failure.stage,
                "error": one.outcome.failure.error,
                "message": one.outcome.failure.message,
                "traceback": one.outcome.failure.traceback[-LONGEST:],
                "attempt": one.attempts,
            }
            for one in kept
            if one.outcome.failure is not None
        ),
    )


def provenance_table(galaxies: Sequence[Galaxy], kept: Sequence[KeptOutcome]) -> NDArray[np.void]:
    """Return /provenance."""
    return table_of(
        PROVENANCE,
        (
            {
                **_task_columns(galaxies, one.outcome),
                "status": one.outcome.status,
                "rank": one.outcome.timing.rank,
                "host": one.outcome.timing.host,
                "started": one.outcome.timing.started,
                "seconds": one.outcome.timing.seconds,
                "memory": one.outcome.timing.memory,
                "attempts": one.attempts,
                "digest": one.digest,
            }
            for one in kept
        ),
    )


def _task_columns(galaxies: Sequence[Galaxy], outcome: TaskOutcome) -> Row:
    # a block of the catalogue is contiguous
    name = galaxies[outcome.task.galaxy - galaxies[0].index].name
    return {"name": name, "filter": outcome.task.filter, "task": outcome.task.kind}


def _without_wcs(outcome: TaskOutcome) -> TaskOutcome:
    return outcome if outcome.frame is None else replace(outcome, frame=replace(outcome.frame, wcs=""))


def block_arrays(
    galaxies: Sequence[Galaxy], kept: Sequence[KeptOutcome], *, photometry: bool, positions: bool = True
) -> dict[str, NDArray[Any]]:
    """Return the rows of all tables but /catalogue for some of the galaxies.

    Parameters
    ----------
    galaxies : sequence of Galaxy
        A contiguous part of the catalogue.
    kept : sequence of KeptOutcome
        Of its ended tasks, in the catalogue's order.
    photometry : bool
        Whether photometry is one of a galaxy's tasks.
    positions : bool
        False: positions on the sky are left NaN, which saves most of the time where only rows and texts count.

    Returns
    -------
    dict of str to ndarray
        By dataset; texts are as long as the longest of these rows, and `start` in `sources_index` counts from the
        first of these sources.
    """
    outcomes = [one.outcome for one in kept]
    wcs = wcs_table(outcomes)
    if not positions:
        kept = [replace(one, outcome=_without_wcs(one.outcome)) for one in kept]
        outcomes = [one.outcome for one in kept]
    sources, index = source_tables(outcomes)
    return {
        "galaxies": galaxy_table(galaxies, kept, photometry=photometry),
        "sersic": sersic_table(outcomes),
        "sersic_covariance": covariance_stack(outcomes),
        "sky_covariance": sky_covariance_stack(outcomes),
        "wcs": wcs,
        "sources": sources,
        "sources_index": index,
        "photometry": photometry_table(outcomes),
        "photometry_curve": curve_stack(outcomes),
        "failures": failure_table(galaxies, kept),
        "provenance": provenance_table(galaxies, kept),
    }

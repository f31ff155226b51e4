"""The gallery's data: one compact file of columns, which the page sorts, searches and shows a screenful of."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sphot_mpi.flags import FIT_FLAG_DESCRIPTIONS
from sphot_mpi.qa.summary import magnitude_table
from sphot_mpi.qa.tables import CampaignTables, words

_LONGEST_SLUG = 40

#: Columns of numbers: key, heading, column of /sersic, decimals.
_NUMBERS = (
    ("r_eff", "r_eff, px", "r_eff", 2),
    ("n", "Sersic n", "n", 2),
    ("ellip", "ellipticity", "ellip", 3),
    ("chi2", "reduced chi2", "chi2_reduced", 2),
    ("kernel", "PSF kernel, px", "kernel_1", 3),
    ("sources", "point sources", "n_sources", 0),
)
_MAG_DECIMALS, _SECONDS_DECIMALS = 3, 2


def page_stem(index: int, name: str) -> str:
    """Return a file's name for a galaxy: its number, and what is harmless of its name."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_LONGEST_SLUG].strip("-")
    return f"{index + 1:06d}-{slug}" if slug else f"{index + 1:06d}"


def gallery_script(tables: CampaignTables, pictured: Sequence[bool], *, pages: bool) -> str:
    """Return the text of ``gallery-data.js``.

    Parameters
    ----------
    tables : CampaignTables
        Of the results file.
    pictured : sequence of bool
        Which galaxies have a thumbnail.
    pages : bool
        Whether there are pages to link to.

    Returns
    -------
    str
        JavaScript: one assignment of JSON. Numbers that are not finite are null.
    """
    names = [words(value) for value in tables.galaxies["name"]]
    magnitudes, kind = magnitude_table(tables)
    base = _base_rows(tables)
    columns = [_column(key, heading, base[column], decimals) for key, heading, column, decimals in _NUMBERS]
    for k, name in enumerate(tables.filters):
        columns.append(_column(f"mag{k}", f"mag {name}", magnitudes[:, k], _MAG_DECIMALS))
    columns.append(_column("seconds", "seconds", tables.galaxies["seconds"], _SECONDS_DECIMALS))
    statuses = [words(value) for value in tables.galaxies["status"]]
    errors, failures = _failures(tables)
    data = {
        "names": names,
        "stems": [page_stem(index, name) for index, name in enumerate(names)],
        "pictured": [int(value) for value in pictured],
        "pages": pages,
        "status": statuses,
        "flags": [int(value) for value in tables.galaxies["flags"]],
        "flagNames": [
            [int(flag), str(flag.name).lower().replace("_", " "), text] for flag, text in FIT_FLAG_DESCRIPTIONS.items()
        ],
        "errors": errors,
        "failures": failures,
        "magnitude": kind,
        "columns": columns,
    }
    # the escapes keep the text harmless even inside an HTML page
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f"window.sphotGallery={text};\n"


def _base_rows(tables: CampaignTables) -> dict[str, NDArray[np.float64]]:
    """Return columns of /sersic in each galaxy's base filter; NaN where that has no fit."""
    rows, owner = tables.table("sersic"), tables.owners("sersic")
    chosen = (rows["filter"] == tables.galaxies["base_filter"][owner]) & (rows["n_components"] > 0)
    found = {}
    for _, _, column, _ in _NUMBERS:
        found[column] = np.full(tables.galaxies.size, np.nan)
        found[column][owner[chosen]] = rows[column][chosen]
    return found


def _failures(tables: CampaignTables) -> tuple[list[str], list[list[int]]]:
    """Return the kinds of errors, most frequent first, and of each galaxy the kinds that it has."""
    kinds = [words(value) for value in tables.table("failures")["error"]]
    errors = [kind for kind, _ in sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0]))]
    failures: list[list[int]] = [[] for _ in range(tables.galaxies.size)]
    for kind, galaxy in zip(kinds, tables.owners("failures"), strict=True):
        number = errors.index(kind)
        if number not in failures[galaxy]:
            failures[galaxy].append(number)
    return errors, failures


def _column(key: str, label: str, values: NDArray[Any], decimals: int) -> dict[str, Any]:
    rounded = [round(float(value), decimals) if math.isfinite(value) else None for value in values]
    return {"key": key, "label": label, "decimals": decimals, "values": rounded}

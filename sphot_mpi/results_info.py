"""Show a results file on the terminal."""

from collections import Counter

from rich.console import Group
from rich.table import Table

from sphot_mpi.flags import FitFlag
from sphot_mpi.results_reader import ResultsReader
from sphot_mpi.results_schema import TABLES

_ATTRIBUTES = ("creator_version", "git_commit", "created", "command_line", "catalogue", "ranks")

#: Rows of a galaxy's table: label, column of /sersic, digits.
_SHOWN = (
    ("mag AB", "mag", 3),
    ("r_eff px", "r_eff", 2),
    ("n", "n", 2),
    ("ellip", "ellip", 3),
    ("theta rad", "theta", 3),
    ("x_0 px", "x_0", 2),
    ("y_0 px", "y_0", 2),
    ("sky", "sky", 4),
    ("chi2", "chi2_reduced", 3),
    ("FWHM px", "fwhm", 2),
)


def describe_file(reader: ResultsReader) -> Group:
    """Return what is in the file: where it comes from, its tables, how the galaxies fared."""
    origin = Table(title=str(reader.path), show_header=False)
    for name in _ATTRIBUTES:
        origin.add_row(name, str(reader.file.attrs.get(name, "")))
    content = Table("table", "rows", "holds")
    for name in TABLES:
        content.add_row(f"/{name}", str(reader.file[name].shape[0]), str(reader.file[name].attrs["description"]))
    for name, group in reader.file.get("images", {}).items():
        content.add_row(f"/images/{name}", str(len(next(iter(group.values())))), ", ".join(group))
    galaxies = reader.array("galaxies")
    status = ", ".join(f"{n} {s.decode()}" for s, n in sorted(Counter(galaxies["status"]).items()))
    parts: list[Table | str] = [origin, content, f"galaxies: {status}"]
    failures = reader.array("failures")
    if failures.size:
        reasons = Table("failures", "error", "first message")
        for error, count in Counter(failures["error"]).most_common():
            first = failures["message"][failures["error"] == error][0]
            reasons.add_row(str(count), error.decode(), first.decode())
        parts.append(reasons)
    return Group(*parts)


def describe_galaxy(reader: ResultsReader, name: str) -> Group:
    """Return one galaxy's numbers."""
    galaxy = reader.array("galaxies")[reader.row(name)]
    sersic = reader.array("sersic")
    rows = sersic[sersic["name"] == name.encode()]
    table = Table("", *(row["filter"].decode() for row in rows))
    for label, key, digits in _SHOWN:
        table.add_row(label, *(f"{row[key]:.{digits}f}" for row in rows))
        if f"{key}_err" in rows.dtype.names:
            table.add_row("  error", *(f"{row[f'{key}_err']:.{digits}f}" for row in rows), style="dim")
    table.add_row("stars", *(str(row["n_sources"]) for row in rows))
    table.add_row("flags", *(_flag_names(int(row["flags"])) for row in rows))
    parts: list[Table | str] = [f"{name}: {galaxy['status'].decode()}, {float(galaxy['seconds']):.1f} s", table]
    failures = reader.array("failures")
    for row in failures[failures["name"] == name.encode()]:
        parts.append(f"{row['filter'].decode()} failed: {row['message'].decode()}")
    return Group(*parts)


def _flag_names(flags: int) -> str:
    return "\n".join((flag.name or "").lower().replace("_", " ") for flag in FitFlag if flags & flag) or "-"

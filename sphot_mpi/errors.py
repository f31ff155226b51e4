"""The exceptions that sphot-mpi raises on purpose.

::

    SphotError                     exit status
    ├── UsageError                 2   the command line
    ├── ConfigError                2   the configuration file
    ├── CatalogueError             2   the catalogue
    ├── InputError                 3   one galaxy's file; the others go on
    ├── FitError                   3   one fit; the others go on
    │   ├── DegenerateCutoutError  3   nothing in the cutout to fit
    │   └── ProcessDiedError       3   the fit killed its process; it is not tried again
    └── OutputError                1   the results file
        └── JournalError           1   the journal beside it
            └── CodecError         1   one record of it

A message is one sentence that names the file, the row or key, what is wrong
and the mend. Anything that is not a `SphotError` is a bug.
"""

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names as a message shows them: the first `most`, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, given in the singular."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else many}"


class SphotError(Exception):
    """Base of every expected failure."""

    exit_status = 1


class UsageError(SphotError):
    """The command line asks for something that cannot be done."""

    exit_status = 2


class ConfigError(SphotError, ValueError):
    """The configuration file is wrong."""

    exit_status = 2


class CatalogueError(SphotError, ValueError):
    """The catalogue, as a whole or in some rows, is wrong."""

    exit_status = 2


class InputError(SphotError, ValueError):
    """A galaxy or PSF file cannot be used."""

    exit_status = 3


class FitError(SphotError, RuntimeError):
    """A fit could not be done."""

    exit_status = 3


class DegenerateCutoutError(FitError):
    """A cutout holds nothing that could be fitted."""


class ProcessDiedError(FitError):
    """The process that ran a task died of it, twice; the task is not tried again."""


class OutputError(SphotError, RuntimeError):
    """A results file cannot be written or read."""


class JournalError(OutputError):
    """The journal of a campaign cannot be written or read."""


class CodecError(JournalError, ValueError):
    """Bytes are no record, or a record cannot be written as bytes."""

"""Outcomes by their reference, wherever they stand: in the journal, or in the results file of before."""

from pathlib import Path

from sphot_mpi.journal import read_ended
from sphot_mpi.outcome_index import RecordRef
from sphot_mpi.results_outcomes import StoredOutcomes
from sphot_mpi.results_source import KeptOutcome


class OutcomeStore:
    """Loads outcomes; use it in a ``with`` statement or `close` it.

    Parameters
    ----------
    folder : Path
        The journal's folder.
    results : Path
        The finished results file; it is opened when an outcome in it is first asked for, and may be replaced later.
    """

    def __init__(self, folder: Path, results: Path) -> None:
        self._folder = folder
        self._results = results
        self._stored: StoredOutcomes | None = None

    def load(self, ref: RecordRef) -> KeptOutcome:
        """Return an outcome with its digest and attempts.

        Parameters
        ----------
        ref : RecordRef
            From a journal or from `known_outcomes`.

        Returns
        -------
        KeptOutcome
            Its `task.galaxy` is that of the time of writing; rows may have moved since.

        Raises
        ------
        OutputError
            If it cannot be read, or is damaged.
        """
        if ref.file:
            head, outcome = read_ended(self._folder, ref)
            return KeptOutcome(outcome=outcome, digest=head.digest, attempts=head.attempt)
        if self._stored is None:
            self._stored = StoredOutcomes(self._results)
        return self._stored.load(ref.offset)

    def close(self) -> None:
        """Close the results file, if it was opened."""
        if self._stored is not None:
            self._stored.close()
            self._stored = None

    def __enter__(self) -> "OutcomeStore":
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the results file."""
        self.close()

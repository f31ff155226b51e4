"""What is known of a campaign: the outcomes of a finished results file, and those of the journal beside it.

They are one, and the journal's are newer.
"""

from dataclasses import dataclass
from pathlib import Path

from sphot_mpi.decisions import Anew
from sphot_mpi.errors import OutputError
from sphot_mpi.journal import journal_files, journal_folder, next_start
from sphot_mpi.journal_index import JournalIndex, scan
from sphot_mpi.outcome_index import OutcomeIndex
from sphot_mpi.results_outcomes import StoredOutcomes


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What results file and journal hold.

    Parameters
    ----------
    index : JournalIndex
        Outcomes of both, the journal's on top.
    start : int
        Number of the start that is to come.
    complete : bool
        Whether there is a results file with all tasks ended, and no journal.
    images : tuple of str
        Names of the images in the results file.
    psf : bool
        Whether it holds PSFs.
    """

    index: JournalIndex
    start: int = 1
    complete: bool = False
    images: tuple[str, ...] = ()
    psf: bool = False


def known_outcomes(output: Path, anew: Anew = Anew.NO, *, verify: bool = True) -> Known:
    """Find out what earlier runs have left.

    Parameters
    ----------
    output : Path
        The results file; its journal lies beside it.
    anew : Anew
        If it says so, the results file is not looked at; its replacement may have begun in the journal.
    verify : bool
        Check every byte of the journal, so that what is damaged runs again now, and is not found when it is needed.

    Returns
    -------
    Known
        Nothing, if there is neither file nor journal.

    Raises
    ------
    OutputError
        If the file is no results file of ours, or the journal cannot be read.
    """
    ended, complete, psf = OutcomeIndex(), False, False
    images: tuple[str, ...] = ()
    if output.exists() and not anew:
        with _stored(output) as stored:
            for key, found in stored.ended():
                ended.add(key, found)
            complete = bool(stored.reader.file.attrs.get("complete", False))
            images = stored.reader.image_names()
            psf = "psf" in stored.reader.file
    folder = journal_folder(output)
    index = scan(folder, verify=verify, ended=ended)
    return Known(index, next_start(folder), complete and not journal_files(folder), images, psf)


def _stored(output: Path) -> StoredOutcomes:
    try:
        return StoredOutcomes(output)
    except OutputError as error:
        reason = str(error).removeprefix(f"{output}: ").split(";")[0]
        msg = f"{output}: the file exists, and cannot be gone on with: {reason}; give --overwrite, or another -o."
        raise OutputError(msg) from error

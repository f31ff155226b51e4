"""A campaign in one process."""

from collections.abc import Callable

from sphot_mpi.campaign import Campaign, End, announce, end, prepare, write
from sphot_mpi.conductor import Progress
from sphot_mpi.interrupts import Interrupts
from sphot_mpi.messages import Report
from sphot_mpi.outcome_store import OutcomeStore
from sphot_mpi.results_comm import SoloComm
from sphot_mpi.task_log import TaskLabel
from sphot_mpi.tasks import Fitters
from sphot_mpi.worker import Worker


def run_serial(
    campaign: Campaign, make_fitters: Callable[[], Fitters], progress: Progress, label: TaskLabel | None = None
) -> End:
    """Run a campaign in this process, and write its results file.

    Parameters
    ----------
    campaign : Campaign
        What is to be done.
    make_fitters : callable
        Function of a module that returns the fits.
    progress : Progress
        Told after every task.
    label : TaskLabel or None
        Told which task is running, for the log.

    Returns
    -------
    End
        How it ended.
    """
    limits = campaign.limits
    with Interrupts(limits.grace, exit_if_hung=True) as interrupts:
        job = prepare(campaign)
        announce(job, progress)
        if job.nothing_to_do:
            return end(job, interrupts)
        conductor = job.conductor(progress)
        with job.journal(ranks=1) as journal, OutcomeStore(job.folder, campaign.output) as store:
            worker = Worker(
                campaign.config,
                make_fitters,
                journal,
                store,
                interrupts,
                task_timeout=limits.task_timeout,
                label=label or TaskLabel(),
            )
            while not interrupts.stopping and (assignment := conductor.next_assignment()) is not None:
                answer = worker.do(assignment)
                if isinstance(answer, Report):
                    conductor.take(answer)
                else:
                    conductor.give_back(answer.task)
            journal.close("finished" if conductor.finished else "drained")
        write(job.order(ranks=1), SoloComm(), worker.renderer)
    return end(job, interrupts)

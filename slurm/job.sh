# shellcheck shell=bash
# What the job scripts beside this file share.  They source it from the folder that you submit from:
#
#     cp -r .../slurm .            beside your catalogue, once
#     sbatch slurm/many-nodes.sbatch catalogue.csv
#
# What your cluster needs goes here, once, for all of them: modules, a virtual environment.
#
#     module load python openmpi
#     source "$HOME/sphot/.venv/bin/activate"

# The program of a rank: one thread, always.  With more, every rank would start a thread a core of the node.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
export MPLBACKEND=agg PYTHONNOUSERSITE=1
# Parallel file systems are often mounted without locks; a results file has one campaign at a time anyway.
export HDF5_USE_FILE_LOCKING=${HDF5_USE_FILE_LOCKING:-BEST_EFFORT}

# How this job is called where it must be named: a task of an array is one of its own.
SPHOT_JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
SPHOT_JOB=${SPHOT_JOB:-$SLURM_JOB_ID}

# say WORDS: a line in the job's log
say() {
  echo "$(date '+%F %T') job $SPHOT_JOB${SLURM_RESTART_COUNT:+, restart $SLURM_RESTART_COUNT}: $*"
}

# mpi_type COMMAND...: what to give to `srun --mpi=`, for the MPI that COMMAND (sphot-mpi, or a container with it)
# uses and of what this Slurm offers.  SPHOT_MPI, if set, is taken instead.
mpi_type() {
  local offered wanted
  [ -n "${SPHOT_MPI:-}" ] && { echo "$SPHOT_MPI"; return; }
  offered=$(srun --mpi=list 2>&1) || return
  for wanted in $("$@" launcher); do
    grep -qw -- "$wanted" <<<"$offered" && { echo "$wanted"; return; }
  done
  echo "job.sh: this Slurm offers none of what the MPI speaks: $("$@" launcher); it offers: $offered" >&2
  return 1
}

# launch COMMAND...: start it once a task of the job, and return its exit status.  A rank that ends first, be it
# with 3 or 75, must not have the others killed: sphot-mpi ends all ranks by itself when one is lost.
launch() {
  local type
  type=$(mpi_type "${SPHOT_PROGRAM[@]}") || return
  say "$SLURM_JOB_NUM_NODES nodes, $SLURM_NTASKS ranks, srun --mpi=$type $*"
  srun --mpi="$type" --kill-on-bad-exit=0 "$@"
}

# warm_up: compile the kernels, on one core, into a folder that all nodes see; a minute, once a version.  Ranks copy
# it to their node's own disk, one rank a node, and read them from there.
warm_up() {
  local shared=${SPHOT_KERNELS:-$SLURM_SUBMIT_DIR/.sphot-kernels}
  NUMBA_CACHE_DIR=$shared "${SPHOT_PROGRAM[@]}" warmup || return
  export SPHOT_KERNELS=$shared
}

# finish STATUS: put the job back into the queue where work is left, and end it with STATUS.
#    0, 1, 2, 3   the end: all done, an unexpected error, a mistake in what was asked for, some galaxies failed
#    75           drained before the time limit, or a rank is lost: go on, at most SPHOT_RESTARTS times (100)
#    else         killed: go on, at most SPHOT_RETRIES times (3) in a row; what is finished is not lost
finish() {
  local status=$1 count=$SLURM_SUBMIT_DIR/.sphot-retries-$SPHOT_JOB retries=0 again=no
  case $status in
    0 | 1 | 2 | 3) ;;
    75) [ "${SLURM_RESTART_COUNT:-0}" -lt "${SPHOT_RESTARTS:-100}" ] && again=yes ;;
    *)
      [ -r "$count" ] && retries=$(<"$count")
      [ "$retries" -lt "${SPHOT_RETRIES:-3}" ] && again=yes
      retries=$((retries + 1))
      ;;
  esac
  if [ $again = yes ]; then
    if [ $retries = 0 ]; then rm -f "$count"; else echo $retries >"$count"; fi
    say "status $status; back into the queue"
    scontrol requeue "$SPHOT_JOB" || say "could not be requeued; submit it again by hand to go on"
  else
    rm -f "$count"
    say "status $status"
  fi
  exit "$status"
}

SPHOT_PROGRAM=(sphot-mpi)

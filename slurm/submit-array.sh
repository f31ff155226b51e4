#!/bin/bash
# Submit a campaign as an array of N jobs, and the job that merges their results after them:
#
#     slurm/submit-array.sh N catalogue.csv [-o results.h5] [OPTIONS OF sphot-mpi]
#
# Options of sbatch for the array go into SPHOT_SBATCH, such as SPHOT_SBATCH="--time=60 --ntasks-per-node=32".
# Submitted again, each job goes on where it stood.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
jobs=${1:?usage: submit-array.sh N CATALOGUE [-o results.h5] [...]}
shift
output=results.h5
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    -o | --output)
      output=$2
      shift
      ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
files=()
for ((i = 1; i <= jobs; i++)); do
  files+=("$(printf "%s.%0${#jobs}d-of-%d.h5" "${output%.h5}" "$i" "$jobs")")
done

# shellcheck disable=SC2086  # several options
array=$(sbatch --parsable ${SPHOT_SBATCH:-} --array="1-$jobs" "$here/array.sbatch" "${arguments[@]}" -o "$output")
merge=$(sbatch --parsable --dependency="afterany:$array" "$here/merge.sbatch" "$output" "${files[@]}")
echo "array job $array writes ${files[0]} to ${files[-1]}; job $merge merges them into $output"

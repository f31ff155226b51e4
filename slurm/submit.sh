#!/bin/bash
# Submit a job script with the time that the campaign needs, as `sphot-mpi check --estimate` has it:
#
#     slurm/submit.sh [OPTIONS OF SBATCH] slurm/many-nodes.sbatch catalogue.csv [OPTIONS OF sphot-mpi]
#
# The number of ranks is nodes x tasks a node, from the options or else from the script.
set -euo pipefail

usage="usage: submit.sh [--nodes=N] [--ntasks-per-node=N] [...] SCRIPT.sbatch CATALOGUE [...]"
options=()
while [ $# -gt 0 ] && [[ $1 == -* ]]; do
  [[ $1 == --*=* ]] || [[ $1 == --exclusive ]] || [[ $1 == --hold ]] || { echo "submit.sh: write options as --name=value, not $1" >&2; exit 2; }
  options+=("$1")
  shift
done
script=${1:?$usage}
shift

# value NAME: of an option of sbatch, the last one given wins, as for sbatch
value() {
  { sed -n "s/^#SBATCH --$1=//p" "$script"; printf '%s\n' "${options[@]}" | sed -n "s/^--$1=//p"; } | tail -n 1
}

ranks=$(($(value nodes) * $(value ntasks-per-node)))
# what `check` must know: the catalogue, which is the first argument but for an image, and what chooses fits
image=0
[[ ${1:-} == *.sif ]] && image=1
checked=("${@:1+image:1}")
for ((i = 2 + image; i <= $#; i++)); do
  case ${!i} in
    --config | --preset | --filters | --only | --limit)
      checked+=("${!i}" "${@:i+1:1}")
      ;;
    --config=* | --preset=* | --filters=* | --only=* | --limit=* | --skip-invalid) checked+=("${!i}") ;;
  esac
done
[ ${#checked[@]} -gt 0 ] || { echo "$usage" >&2; exit 2; }
estimate=$(sphot-mpi check "${checked[@]}" --estimate "$ranks") || {
  status=$?
  echo "$estimate"
  exit $status
}
echo "$estimate"
sbatch --time="$(sed -n 's/.*--time=//p' <<<"$estimate")" "${options[@]}" "$script" "$@"

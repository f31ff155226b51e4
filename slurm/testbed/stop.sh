#!/bin/bash
# Stop the Slurm that start.sh has started in FOLDER, and nothing else:
#
#     slurm/testbed/stop.sh FOLDER
set -uo pipefail

base=$(realpath -m "${1:?usage: stop.sh FOLDER}")
[ -d "$base/run" ] || exit 0

# jobs first: their processes are not the daemons' children once these are gone
if [ -s "$base/run/slurmctld.pid" ] && kill -0 "$(cat "$base/run/slurmctld.pid")" 2>/dev/null; then
  export SLURM_CONF="$base/slurm.conf"
  timeout 10 scancel --signal=KILL --full --user="$(id -un)" 2>/dev/null
  timeout 10 scancel --user="$(id -un)" 2>/dev/null
  for _ in $(seq 50); do
    [ -z "$(timeout 5 squeue -h -t running,completing 2>/dev/null)" ] && break
    sleep 0.2
  done
fi
for file in "$base"/run/slurmd-*.pid "$base"/run/slurmctld.pid "$base"/run/munged.pid; do
  [ -s "$file" ] || continue
  pid=$(cat "$file")
  kill -TERM "$pid" 2>/dev/null || continue
  for _ in $(seq 50); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null
done
# what a job left behind: steps that write into this folder's logs, and the processes below them
for process in /proc/[0-9]*; do
  [[ $({ tr '\0' ' ' <"$process/cmdline"; } 2>/dev/null) == slurmstepd* ]] || continue
  [ -n "$(find "$process/fd" -lname "$base/*" 2>/dev/null | head -n 1)" ] || continue
  for child in $(ps -o pid= --ppid "${process##*/}"); do kill -KILL "$child" 2>/dev/null; done
  kill -KILL "${process##*/}" 2>/dev/null
done
exit 0

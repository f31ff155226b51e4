#!/bin/bash
# Start a Slurm of several nodes on this one machine (as root; no systemd needed):
#
#     slurm/testbed/start.sh FOLDER [NODES] [pmix|pmi2]
#     export SLURM_CONF=FOLDER/slurm.conf
#     srun -N2 hostname
#     slurm/testbed/stop.sh FOLDER
#
# Keys, logs and state lie in FOLDER.  Everything listens on loopback.
set -euo pipefail

base=$(realpath -m "${1:?usage: start.sh FOLDER [NODES] [pmix|pmi2]}")
nodes=${2:-3}
mpi=${3:-pmix}
port=${SPHOT_TESTBED_PORT:-16817}
here=$(cd "$(dirname "$0")" && pwd)

[ "$(id -u)" = 0 ] || { echo "testbed: slurmd needs root" >&2; exit 2; }
"$here/setup.sh"
umask 022
mkdir -p "$base"/{state,spool,log,run,tmp}
memory=$(awk -v n="$nodes" '/MemTotal/ {print int($2 / 1024 / n * 0.9)}' /proc/meminfo)
sed "s#@BASE@#$base#g; s#@HOST@#$(hostname -s)#g; s#@MPI@#$mpi#; s#@NODES@#$nodes#g; s#@MEMORY@#$memory#
  s#@PORT@#$port#; s#@FIRST@#$((port + 101))#; s#@LAST@#$((port + 100 + nodes))#" "$here/slurm.conf.in" >"$base/slurm.conf"
export SLURM_CONF="$base/slurm.conf"
# Slurm sets what this prints in the environment of each rank.  Open MPI 5 asks the kernel for a route to the other node,
# and takes that to the machine's own address for none.
cat >"$base/task-prolog" <<'PROLOG'
#!/bin/sh
echo export OMPI_MCA_reachable=weighted
PROLOG
chmod 755 "$base/task-prolog"

# whatever fails from here on, no daemon stays behind
trap '[ $? = 0 ] || { tail -n 20 "$base"/log/*.log >&2; "$here/stop.sh" "$base"; }' EXIT

[ -s "$base/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$base/munge.key")
chmod 400 "$base/munge.key"
munged --force --key-file="$base/munge.key" --socket="$base/run/munge.sock" \
  --pid-file="$base/run/munged.pid" --log-file="$base/log/munged.log" --seed-file="$base/run/munge.seed"
slurmctld -f "$SLURM_CONF"
for node in $(scontrol show hostnames "n[1-$nodes]"); do
  mkdir -p "$base/spool/$node" "$base/tmp/$node"
  chmod 1777 "$base/tmp/$node"
  slurmd -f "$SLURM_CONF" -N "$node"
done
for _ in $(seq 120); do
  [ "$(sinfo -h -N -o '%T' 2>/dev/null | grep -c -E '^(idle|mixed|allocated)$')" -ge "$nodes" ] && { sinfo; exit 0; }
  sleep 0.5
done
echo "testbed: the nodes did not come up" >&2
exit 1

#!/bin/sh
# tests/slurm.sh COMMAND...: run COMMAND beside a Slurm cluster of this machine alone: a controller
# and the nodes `one` and `two`, in a network namespace that has loopback alone.
#
# $CLUSTER is the directory of its configuration, logs and pids (one.pid is a node's). Builds go
# through it by RUN='srun -Q -n1 docker run ...'. Needs root, and Debian's slurmctld, slurmd,
# slurm-client and munge.
set -eu

if [ -z "${CLUSTER:-}" ]; then
	CLUSTER=$(mktemp -d) exec unshare --net "$0" "$@"
fi
export CLUSTER SLURM_CONF="$CLUSTER/slurm.conf"

stop() {
	for daemon in one two slurmctld munged; do
		kill "$(cat "$CLUSTER/$daemon.pid")" 2>/dev/null || :
	done
	until rm -rf "$CLUSTER" 2>/dev/null; do sleep 0.2; done         # they write to the last
}

# Slurm resolves no address where loopback is all that there is.
ip link set lo up
ip address add 192.0.2.1/32 dev lo
chmod 700 "$CLUSTER"
mkdir "$CLUSTER/state"
host=$(hostname -s)
trap stop EXIT
trap 'exit 130' INT TERM HUP

(umask 077 && head -c 64 /dev/urandom >"$CLUSTER/key")
munged --force --key-file="$CLUSTER/key" --socket="$CLUSTER/munge" --pid-file="$CLUSTER/munged.pid" \
	--log-file="$CLUSTER/munged.log" --seed-file="$CLUSTER/seed" 2>/dev/null
cat >"$SLURM_CONF" <<END
ClusterName=panux
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17000
AuthInfo=socket=$CLUSTER/munge
SlurmUser=root
StateSaveLocation=$CLUSTER/state
SlurmdSpoolDir=$CLUSTER/%n
SlurmctldPidFile=$CLUSTER/slurmctld.pid
SlurmdPidFile=$CLUSTER/%n.pid
SlurmctldLogFile=$CLUSTER/slurmctld.log
SlurmdLogFile=$CLUSTER/%n.log
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=2
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=2
PartitionName=builds Nodes=ALL Default=YES State=UP
END
slurmctld -i
slurmd -N one
slurmd -N two
until srun -Q -N2 true 2>/dev/null; do sleep 0.5; done
"$@"

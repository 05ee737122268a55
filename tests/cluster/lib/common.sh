# shellcheck shell=bash
# Owns the names, addresses and paths of the cluster, and how scripts report. Sourced first by every script here; does
# nothing by itself.
# shellcheck disable=SC2034  # most of these are for the files that source this one

# Which cluster is meant. CLUSTER=far: a second one of one node, another site, beside the first. They have nothing in common but
# this machine, and a cable between their networks.
case ${CLUSTER:-near} in
  near)
    readonly PREFIX=em NODE_COUNT=3 NET_PREFIX=198.18.0 POD_BASE=128 POD_BITS=17 SERVICE_PREFIX=198.19.0 SERVICE_BITS=16
    readonly CLUSTER_FOLDER=cluster OTHER_PREFIX=emf OTHER_NET_PREFIX=198.18.1
    ;;
  far)
    readonly PREFIX=emf NODE_COUNT=1 NET_PREFIX=198.18.1 POD_BASE=64 POD_BITS=18 SERVICE_PREFIX=198.18.32 SERVICE_BITS=20
    readonly CLUSTER_FOLDER=cluster-far OTHER_PREFIX=em OTHER_NET_PREFIX=198.18.0
    ;;
  *)
    echo "error: CLUSTER is '$CLUSTER'; it is far, or not set" >&2
    exit 2
    ;;
esac

CLUSTER_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
REPO=$(cd "$CLUSTER_SOURCE/../.." && pwd)
readonly CLUSTER_SOURCE REPO
readonly BUILD=$REPO/.build
readonly BIN=$BUILD/bin
readonly IMAGES=$BUILD/images
readonly CLUSTER_DIR=$BUILD/$CLUSTER_FOLDER       # everything a running cluster writes
readonly MACHINES_DIR=$CLUSTER_DIR/machines
readonly PKI=$CLUSTER_DIR/pki
readonly LOG_DIR=$CLUSTER_DIR/log
readonly KUBECONFIG_FILE=$CLUSTER_DIR/kubeconfig
readonly ENV_FILE=$CLUSTER_DIR/env
readonly KUBECTL_CACHE=$CLUSTER_DIR/kubectl-cache

# What has to be found by another checkout of this repository. On a tmpfs: a reboot forgets it, and the cluster with it.
readonly STATE_DIR=/run/$PREFIX-cluster

# 198.18.0.0/15 is set aside for benchmarks: no host on any network has such an address.
readonly BRIDGE=$PREFIX-br0
readonly HOST_ADDRESS=$NET_PREFIX.1
readonly POD_NET=198.18.$POD_BASE.0/$POD_BITS
readonly SERVICE_NET=$SERVICE_PREFIX.0/$SERVICE_BITS
readonly API_SERVICE_ADDRESS=$SERVICE_PREFIX.1
readonly DNS_SERVICE_ADDRESS=$SERVICE_PREFIX.10

readonly CONTROL=$PREFIX-control
readonly SITE=$PREFIX-site
NODES=()
# shellcheck disable=SC2004  # the keys are names, not numbers
declare -A ADDRESS=([$CONTROL]=$NET_PREFIX.10 [$SITE]=$NET_PREFIX.100) POD_SUBNET=()
for ((number = 1; number <= NODE_COUNT; number++)); do
  NODES+=("$PREFIX-node$number")
  ADDRESS[$PREFIX-node$number]=$NET_PREFIX.$((10 + number))
  POD_SUBNET[$PREFIX-node$number]=198.18.$((POD_BASE + number)).0/24
done
unset number
readonly NODES ADDRESS POD_SUBNET
readonly MACHINES=("$CONTROL" "${NODES[@]}" "$SITE")
readonly API_URL=https://${ADDRESS[$CONTROL]}:6443

# Images that only the cluster itself and its tests use.
readonly IMAGE_PREFIX=localhost/event-mesh/test
readonly PAUSE_IMAGE=$IMAGE_PREFIX/pause:1

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

note() {
  printf '         %s\n' "$*"
}

# step TITLE CMD...: run CMD and tell how long it took. CMD runs in this shell, so it can set variables.
step() {
  local title=$1 begun
  begun=${EPOCHREALTIME/./}
  shift
  "$@"
  local spent=$(((${EPOCHREALTIME/./} - begun) / 100000))
  printf '%5d.%d s  %s\n' $((spent / 10)) $((spent % 10)) "$title"
}

# wait_until SECONDS WHAT CMD...: try CMD five times a second; die when it has not succeeded in time.
wait_until() {
  local limit=$1 what=$2 deadline
  shift 2
  deadline=$((SECONDS + limit))
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die "no $what after $limit s; the logs are in ${LOG_DIR#"$REPO"/}/"
    sleep 0.2
  done
}

require_root() {
  ((EUID == 0)) || die "the local cluster makes network namespaces and mounts, which takes root: run it with sudo"
}

# take_lock: until this script and its helpers end, no other `up` or `down` runs, of any checkout. The folder is locked, so
# that no lock file is left. What stays running must close the lock: see machine.sh.
take_lock() {
  exec 9</run
  flock --timeout 600 9 || die "another tests/cluster/up or down has been running for ten minutes"
}

# machine_of NAME: the machine that a person means by NAME (node1, em-node1, site, control).
machine_of() {
  local name=${1:-}
  [[ $name == "$PREFIX"-* ]] || name=$PREFIX-$name
  [[ -n ${ADDRESS[$name]:-} ]] || die "there is no machine '${1:-}'; there are: ${MACHINES[*]#"$PREFIX"-}"
  echo "$name"
}

node_of() {
  local name
  name=$(machine_of "$1")
  [[ -n ${POD_SUBNET[$name]:-} ]] || die "'$1' is not a node; the nodes are: ${NODES[*]#"$PREFIX"-}"
  echo "$name"
}

# kubectl's cache of API kinds is kept per cluster, as the next one at this address may have others.
kubectl() {
  "$BIN/kubectl" --kubeconfig "$KUBECONFIG_FILE" --cache-dir "$KUBECTL_CACHE" "$@"
}

# wait_all PID...: for background jobs of this shell; fails when one has failed.
wait_all() {
  local pid status=0
  for pid in "$@"; do
    wait "$pid" || status=1
  done
  return "$status"
}

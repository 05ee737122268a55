# shellcheck shell=bash
# Owns the order in which the local cluster comes up and goes, and the judgement whether one that runs is good. Each step
# is a function of the library beside this file that bears its name.

# shellcheck source=network.sh
source "$CLUSTER_SOURCE/lib/network.sh"
# shellcheck source=cgroups.sh
source "$CLUSTER_SOURCE/lib/cgroups.sh"
# shellcheck source=machine.sh
source "$CLUSTER_SOURCE/lib/machine.sh"
# shellcheck source=sysctls.sh
source "$CLUSTER_SOURCE/lib/sysctls.sh"
# shellcheck source=images.sh
source "$CLUSTER_SOURCE/lib/images.sh"
# shellcheck source=pki.sh
source "$CLUSTER_SOURCE/lib/pki.sh"
# shellcheck source=control.sh
source "$CLUSTER_SOURCE/lib/control.sh"
# shellcheck source=node.sh
source "$CLUSTER_SOURCE/lib/node.sh"
# shellcheck source=site.sh
source "$CLUSTER_SOURCE/lib/site.sh"
# shellcheck source=addons.sh
source "$CLUSTER_SOURCE/lib/addons.sh"
# shellcheck source=cleanup.sh
source "$CLUSTER_SOURCE/lib/cleanup.sh"

# Daemons of each kind of machine, as local_healthy expects them.
readonly CONTROL_DAEMONS=(etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
readonly NODE_DAEMONS=(containerd kubelet kube-proxy)

local_up() {
  check_machine
  if local_healthy; then
    write_env
    echo "the cluster is up and healthy"
    return
  fi
  local begun=$SECONDS
  step "clean up what an earlier run left" clean_all
  step "images" images_build
  step "state, certificates" prepare_state
  step "network" network_start
  step "machines" start_machines
  step "etcd and API server started, site started" start_services
  step "containerd ready, images imported" start_containerds
  step "API server ready" wait_until 240 "ready API server" apiserver_ready
  step "controllers, kubelets and kube-proxies started, addons applied" start_kubernetes
  step "nodes ready" wait_until 300 "ready nodes" nodes_ready
  step "DNS ready" wait_until 240 "ready DNS" deployment_ready kube-system coredns
  step "volumes ready" wait_until 240 "ready volume provisioner" deployment_ready local-path-storage local-path-provisioner
  step "services and site reachable" start_finished
  fingerprint >"$STATE_DIR/fingerprint"
  write_env
  echo "the cluster is up after $((SECONDS - begun)) s: export KUBECONFIG=${KUBECONFIG_FILE#"$REPO"/}"
}

local_down() {
  require_root
  step "everything stopped and removed" clean_all
}

# check_machine: say at once what a later step would only hint at.
check_machine() {
  require_root
  local command module
  for command in containerd ctr runc nft conntrack ip nsenter unshare flock buildah musl-gcc busybox mosquitto \
    mosquitto_passwd mosquitto_pub openssl jq /usr/lib/cni/bridge; do
    command -v "$command" >/dev/null || die "'$command' is missing: run tests/tools/build cluster"
  done
  for command in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns \
    local-path-provisioner; do
    [[ -x $BIN/$command ]] || die "'$command' is not built: run tests/tools/build cluster"
  done
  for module in overlay tmpfs; do
    grep --quiet --word-regexp "$module" /proc/filesystems || modprobe "$module" 2>/dev/null ||
      die "this kernel has no $module filesystem, which containers need"
  done
  [[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || modprobe br_netfilter 2>/dev/null ||
    die "this kernel has no br_netfilter, which kube-proxy needs: modprobe br_netfilter"
  [[ -n $(cgroup_roots) ]] || die "no cgroups are mounted below /sys/fs/cgroup"
}

prepare_state() {
  mkdir -p "$STATE_DIR" "$CLUSTER_DIR" "$LOG_DIR"
  echo "$CLUSTER_DIR" >"$STATE_DIR/owner"
  rm -rf "${LOG_DIR:?}"/*
  sysctls_set
  pki_create
}

start_machines() {
  local machine
  for machine in "${MACHINES[@]}"; do
    machine_start "$machine"
  done
}

start_services() {
  control_start
  site_start
}

start_containerds() {
  local node name pids=() archives=()
  for name in "${CLUSTER_IMAGES[@]}"; do
    archives+=("$IMAGES/test-$name.tar")
  done
  for node in "${NODES[@]}"; do
    node_prepare "$node"
    node_start_containerd "$node"
  done
  for node in "${NODES[@]}"; do
    wait_until 120 "containerd on $node" containerd_ready "$node"
    images_import "$node" "${archives[@]}" &
    pids+=($!)
  done
  wait_all "${pids[@]}"
}

start_kubernetes() {
  local node
  control_start_controllers
  for node in "${NODES[@]}"; do
    node_start_kubelet "$node"
  done
  addons_apply
  wait_until 120 "Node objects" kubectl get node "${NODES[@]}"
  for node in "${NODES[@]}"; do
    start_kube_proxy "$node"
  done
  start_kube_proxy "$CONTROL" "${NODES[0]}"
}

start_finished() {
  wait_until 120 "way from the host to services" services_reachable
  wait_until 60 "MQTT broker at the site" mosquitto_ready
}

# local_healthy: the cluster that runs was started from this checkout, by these scripts and programs, and all of it works.
local_healthy() {
  [[ $(cat "$STATE_DIR/owner" 2>/dev/null) == "$CLUSTER_DIR" ]] || return 1
  [[ $(cat "$STATE_DIR/fingerprint" 2>/dev/null) == "$(fingerprint)" ]] || return 1
  local machine daemon
  for machine in "${MACHINES[@]}"; do
    machine_alive "$machine" || return 1
    [[ $(cat "/sys/class/net/$machine/operstate" 2>/dev/null) == up ]] || return 1
  done
  for daemon in "${CONTROL_DAEMONS[@]}"; do
    daemon_alive "$CONTROL" "$daemon" || return 1
  done
  for machine in "${NODES[@]}"; do
    for daemon in "${NODE_DAEMONS[@]}"; do
      daemon_alive "$machine" "$daemon" || return 1
    done
    containerd_ready "$machine" >/dev/null 2>&1 || return 1
  done
  {
    apiserver_ready && nodes_ready && deployment_ready kube-system coredns &&
      deployment_ready local-path-storage local-path-provisioner && services_reachable && mosquitto_ready
  } >/dev/null 2>&1
}

# fingerprint: changes when a cluster started now would differ from the one that runs.
fingerprint() {
  {
    find "$CLUSTER_SOURCE"/{lib,manifests,images} -type f -print0 | sort --zero-terminated | xargs --null cat
    find "$BIN" -type l -printf '%f %l\n' | sort
  } | sha256sum
}

write_env() {
  cat >"$ENV_FILE.new" <<ENV
KUBECONFIG=$KUBECONFIG_FILE
KUBECACHEDIR=$KUBECTL_CACHE
SITE_ADDRESS=${ADDRESS[$SITE]}
CLUSTER_KIND=local
ENV
  mv "$ENV_FILE.new" "$ENV_FILE"
}

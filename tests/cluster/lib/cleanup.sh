# shellcheck shell=bash
# Owns the removal of a cluster, whole or in pieces, of this checkout or of another. What is killed is only what is found
# by membership: in a network namespace or a cgroup that bears one of our names. The order matters: first what runs, then
# what it ran in.

clean_all() {
  kill_processes
  network_stop
  wait_until 60 "empty cgroups" cgroups_empty
  sysctls_restore
  remove_files
}

# Killing a machine's init kills the machine; the rest are helpers that outlived one, or a machine half started.
kill_processes() {
  local pids deadline=$((SECONDS + 90))
  while pids=$(our_processes) && [[ -n $pids ]]; do
    ((SECONDS < deadline)) || die "these processes survive SIGKILL: ${pids//$'\n'/ }"
    # shellcheck disable=SC2086  # one word a pid
    kill -KILL $pids 2>/dev/null || true
    sleep 0.1
  done
}

our_processes() {
  {
    network_processes
    cgroups_processes
  } | sort --unique | without_zombies
}

network_processes() {
  local machine process
  for machine in "${MACHINES[@]}"; do
    namespace_there "$machine" || continue
    for process in /proc/[0-9]*; do
      [[ ! $process/ns/net -ef /run/netns/$machine ]] || echo "${process#/proc/}"
    done
  done
}

# The dead whom nobody has collected yet hold nothing.
without_zombies() {
  local pid state
  while read -r pid; do
    state=$(sed --quiet 's/^State:\t\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || true
    [[ -z $state || $state == Z ]] || echo "$pid"
  done
}

cgroups_empty() {
  local root
  cgroups_remove
  while read -r root; do
    [[ ! -d $root/$PREFIX ]] || return 1
  done < <(cgroup_roots)
}

# remove_files: of this checkout, and of the one that the running cluster was started from. Logs stay, to be read.
remove_files() {
  local owner folder
  owner=$(cat "$STATE_DIR/owner" 2>/dev/null) || true
  for folder in "$CLUSTER_DIR" "$owner"; do
    [[ $folder == */.build/"$CLUSTER_FOLDER" ]] || continue
    refuse_mounted "$folder"
    rm -rf "$folder"/{machines,pki,kubeconfig,kubectl-cache,env}
  done
  rm -rf "$BUILD"/image.?????? "$STATE_DIR"
}

# A machine's mounts die with it. If one is here all the same, deleting would reach through it.
refuse_mounted() {
  ! grep --fixed-strings --quiet " $1/" /proc/self/mountinfo ||
    die "something is mounted below $1 (see /proc/self/mountinfo): unmount it, then run this again"
}

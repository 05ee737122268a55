# shellcheck shell=bash
# Owns the kernel settings that are the whole machine's and not a namespace's: saved before a cluster changes them, put
# back when it goes.

# The kubelet sets the first six to its own taste. Each kubelet and containerd takes a few of root's inotify instances,
# of which the kernel allows 128.
readonly SYSCTLS=(
  vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
  kernel.keys.root_maxkeys kernel.keys.root_maxbytes
  fs.inotify.max_user_instances fs.inotify.max_user_watches
)

sysctls_set() {
  local name
  for name in "${SYSCTLS[@]}"; do
    echo "$name=$(sysctl --values "$name")"
  done >"$STATE_DIR/sysctls"
  raise fs.inotify.max_user_instances 1024
  raise fs.inotify.max_user_watches 524288
}

raise() {
  (($(sysctl --values "$1") >= $2)) || sysctl --quiet --write "$1=$2"
}

sysctls_restore() {
  local line
  [[ -e $STATE_DIR/sysctls ]] || return 0
  while read -r line; do
    sysctl --quiet --write "$line"
  done <"$STATE_DIR/sysctls"
}

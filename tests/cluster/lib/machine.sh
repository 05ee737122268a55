# shellcheck shell=bash
# Owns the machines: what a node, the control plane and the outside site run in. A machine is a set of namespaces
# (network, mounts, processes, hostname, IPC) around one init process, with a root folder under .build. When its init
# dies the kernel kills all the rest and undoes all its mounts: that is what makes cleaning up certain.

machine_root() {
  echo "$MACHINES_DIR/$1/root"
}

# machine_start MACHINE: make its root folder and start its init, see machine-init.
machine_start() {
  local machine=$1 root
  root=$(machine_root "$machine")
  mkdir -p "$root"/{etc/alternatives,opt/em/bin,proc,sys,dev,run,tmp,usr,var/{lib,log/em}} "$LOG_DIR/$machine"
  ln -sfn usr/bin "$root/bin"
  ln -sfn usr/sbin "$root/sbin"
  ln -sfn usr/lib "$root/lib"
  [[ ! -e /lib64 ]] || ln -sfn usr/lib64 "$root/lib64"
  ln -sfn ../run "$root/var/run"
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  printf '127.0.0.1 localhost\n%s %s\n' "${ADDRESS[$machine]}" "$machine" >"$root/etc/hosts"
  md5sum <<<"$machine" | cut -c 1-32 >"$root/etc/machine-id"
  : >"$root/etc/resolv.conf" # nobody outside is to be asked
  rm -f "$root/init.pid"

  cgroups_create "$machine"
  # A clean environment: no proxy, token or path of the caller gets into the cluster.
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setsid --fork nsenter --net="/run/netns/$machine" -- \
    unshare --mount --uts --ipc --pid --fork --propagation private -- \
    "$CLUSTER_SOURCE/lib/machine-init" "$machine" "$root" "$BIN" "$LOG_DIR/$machine" "$PREFIX" \
    </dev/null >"$LOG_DIR/$machine/init.log" 2>&1 9<&-
  wait_until 60 "init process of $machine" machine_alive "$machine"
}

# machine_alive MACHINE: its init runs, and is the one in its network namespace rather than a stranger with its pid.
machine_alive() {
  local pid
  pid=$(cat "$(machine_root "$1")/init.pid" 2>/dev/null) || return 1
  [[ -n $pid && /proc/$pid/ns/net -ef /run/netns/$1 ]]
}

# machine_run MACHINE CMD...: run CMD inside.
machine_run() {
  local machine=$1 pid
  shift
  machine_alive "$machine" || die "$machine is not running: tests/cluster/up starts it"
  pid=$(<"$(machine_root "$machine")/init.pid")
  nsenter --target "$pid" --mount --uts --ipc --net --pid --root --wd -- \
    env -i PATH=/opt/em/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/ "$@" 9<&-
}

# daemon_start MACHINE NAME CMD...: leave CMD running inside. Its log is .build/cluster/log/MACHINE/NAME.log.
daemon_start() {
  local machine=$1 name=$2
  shift 2
  # shellcheck disable=SC2016  # expanded inside
  machine_run "$machine" setsid --fork sh -c \
    'echo $$ >"/run/$0.pid"; exec "$@" >>"/var/log/em/$0.log" 2>&1 </dev/null' "$name" "$@"
}

# The program is compared too, since the pid may be another's by now.
daemon_alive() {
  # shellcheck disable=SC2016
  machine_run "$1" sh -c \
    'pid=$(cat "/run/$0.pid") && exe=$(readlink "/proc/$pid/exe") && case ${exe##*/} in "$0"*) ;; *) exit 1 ;; esac' \
    "$2" 2>/dev/null
}

# daemon_signal MACHINE NAME SIGNAL
daemon_signal() {
  # shellcheck disable=SC2016
  machine_run "$1" sh -c 'kill -s "$1" "$(cat "/run/$0.pid")"' "$2" "$3"
}

daemon_stop() {
  daemon_alive "$1" "$2" || return 0
  daemon_signal "$1" "$2" TERM
  wait_until 60 "end of $2 on $1" daemon_gone "$1" "$2"
}

daemon_gone() {
  ! daemon_alive "$1" "$2"
}

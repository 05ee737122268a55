# shellcheck shell=bash
# Owns the cgroups of the machines: /PREFIX/MACHINE in every hierarchy. A node's kubelet makes those of its pods below. Run
# with cgroup v1 only; what is said of v2 follows the kernel's documentation.

# cgroup_roots: the mount points of all hierarchies, one a line; one only where cgroup v2 rules alone.
cgroup_roots() {
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    echo /sys/fs/cgroup
  else
    awk '$3 == "cgroup" { print $2 }' /proc/self/mounts
  fi
}

# cgroups_create MACHINE: its cgroup, and in it `machine` for the programs of the machine itself.
cgroups_create() {
  local machine=$1 root group
  while read -r root; do
    group=$root
    for part in "$PREFIX" "$machine" machine; do
      # cgroup v2 hands controllers down level by level.
      if [[ -e $group/cgroup.controllers ]]; then
        sed 's/\</+/g' "$group/cgroup.controllers" >"$group/cgroup.subtree_control" 2>/dev/null || true
      fi
      mkdir -p "$group/$part"
      # A new cpuset of v1 is empty, and no process may enter it.
      if [[ -e $group/$part/cpuset.cpus && ! -e $group/cgroup.controllers ]]; then
        cat "$group/cpuset.cpus" >"$group/$part/cpuset.cpus"
        cat "$group/cpuset.mems" >"$group/$part/cpuset.mems"
      fi
      group=$group/$part
    done
  done < <(cgroup_roots)
}

# cgroups_processes: the processes in any cgroup of ours.
cgroups_processes() {
  local root
  while read -r root; do
    [[ ! -d $root/$PREFIX ]] || find "$root/$PREFIX" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done < <(cgroup_roots) | sort --unique
}

cgroups_remove() {
  local root
  while read -r root; do
    [[ ! -d $root/$PREFIX ]] || find "$root/$PREFIX" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done < <(cgroup_roots)
}

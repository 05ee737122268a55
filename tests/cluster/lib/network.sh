# shellcheck shell=bash
# Owns the network: one bridge in the root namespace, one named network namespace a machine, the routes between
# them, and the cable to the other cluster. Nothing here or behind it has a way out of this machine.

network_start() {
  check_addresses_free
  ip link add "$BRIDGE" type bridge
  ip address add "$HOST_ADDRESS/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up

  local machine
  for machine in "${MACHINES[@]}"; do
    attach "$machine"
  done
  for machine in "$CONTROL" "${NODES[@]}"; do
    route_pods_in "$machine"
  done

  # The host, where tests run, reaches pods by their node, and services by the control machine's kube-proxy, which no
  # fault cuts off.
  for machine in "${NODES[@]}"; do
    ip route add "${POD_SUBNET[$machine]}" via "${ADDRESS[$machine]}" dev "$BRIDGE"
  done
  ip route add "$SERVICE_NET" via "${ADDRESS[$CONTROL]}" dev "$BRIDGE"
  join_sites
}

# join_sites: the cable between the two clusters, when both are there. Machines reach each other over it, and so node ports; there is
# no way to pods and services of the other.
join_sites() {
  [[ -e /sys/class/net/$OTHER_PREFIX-br0 ]] || return 0
  ip link delete "$OTHER_PREFIX-wan" 2>/dev/null || true
  ip link add "$PREFIX-wan" type veth peer name "$OTHER_PREFIX-wan"
  ip link set "$PREFIX-wan" master "$BRIDGE" up
  ip link set "$OTHER_PREFIX-wan" master "$OTHER_PREFIX-br0" up
}

check_addresses_free() {
  local taken
  taken=$(ip -4 -oneline address show | grep -E ' 198\.1[89]\.' | grep -vF " $OTHER_PREFIX-br0 " || true)
  [[ -z $taken ]] || die "addresses in 198.18.0.0/15 are in use on this machine: $taken"
}

# attach MACHINE: its namespace, and a cable to the bridge. The cable's end at the bridge bears the machine's name; the
# other is eth0.
attach() {
  local machine=$1
  ip netns add "$machine"
  ip link add "$machine" type veth peer name eth0 netns "$machine"
  ip link set "$machine" master "$BRIDGE" up

  ip -netns "$machine" -batch - <<COMMANDS
link set lo up
link set eth0 up
address add ${ADDRESS[$machine]}/24 dev eth0
route add blackhole default
route add $OTHER_NET_PREFIX.0/24 dev eth0
COMMANDS
}

# route_pods_in MACHINE: the way to pods and services.
route_pods_in() {
  local machine=$1 node
  for node in "${NODES[@]}"; do
    [[ $node == "$machine" ]] || ip -netns "$machine" route add "${POD_SUBNET[$node]}" via "${ADDRESS[$node]}"
  done
  # A process of the machine itself looks up its route before kube-proxy's rules translate the service address: without
  # this route it would meet the blackhole.
  ip -netns "$machine" route add "$SERVICE_NET" dev eth0

  in_network "$machine" sysctl --quiet --write net.ipv4.ip_forward=1
  if [[ -n ${POD_SUBNET[$machine]:-} ]]; then
    # Pods of one node talk over its bridge; replies that kube-proxy has to translate back must still pass its rules.
    in_network "$machine" sysctl --quiet --write net.bridge.bridge-nf-call-iptables=1
    # Outside systems see a pod under its node's address, as in most clusters. Among themselves pods keep theirs.
    in_network "$machine" nft --file - <<RULES
table ip $PREFIX-masquerade {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr ${POD_SUBNET[$machine]} ip daddr != $POD_NET masquerade
  }
}
RULES
  fi
}

# in_network MACHINE CMD...: only the network is the machine's. `ip netns exec` would mount another /sys, without cgroups.
in_network() {
  local machine=$1
  shift
  nsenter --net="/run/netns/$machine" -- "$@"
}

# cut and heal: the cable is pulled and plugged in at the bridge.
cut_cable() {
  ip link set "$1" down
}

heal_cable() {
  ip link set "$1" up
}

# namespace_there MACHINE: a file that a crash or a failed `ip netns add` left is not a namespace; and no name of ours may
# ever stand for the root namespace, since whatever runs in a namespace of ours gets killed.
namespace_there() {
  local file=/run/netns/$1
  [[ -e $file && ! $file -ef /proc/self/ns/net && $(stat --file-system --format=%T "$file") == nsfs ]]
}

network_stop() {
  local machine file
  for machine in "${MACHINES[@]}"; do
    file=/run/netns/$machine
    if [[ -e $file ]]; then
      ip netns delete "$machine" 2>/dev/null || rm -f "$file"
    fi
    ip link delete "$machine" 2>/dev/null || true
  done
  ip link delete "$PREFIX-wan" 2>/dev/null || true
  ip link delete "$BRIDGE" 2>/dev/null || true

  # `ip netns add` mounts this folder onto itself; the last to go undoes it.
  if [[ -d /run/netns && -z $(ls -A /run/netns) ]]; then
    umount /run/netns 2>/dev/null || true
    rmdir /run/netns
  fi
}

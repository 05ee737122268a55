# shellcheck shell=bash
# Owns a worker node: containerd, kubelet and kube-proxy in one machine, and their configuration.

node_prepare() {
  local node=$1 root
  root=$(machine_root "$node")
  pki_install "$node" ca.crt "$node".{crt,key} "$node.kubeconfig" kube-proxy.kubeconfig
  mkdir -p "$root"/{etc/containerd,etc/cni/net.d,opt/local-path-provisioner}
  containerd_config >"$root/etc/containerd/config.toml"
  network_config "$node" >"$root/etc/cni/net.d/10-$PREFIX.conflist"
  kubelet_config "$node" >"$root/etc/kubernetes/kubelet.yaml"
}

# restrict_oom_score_adj: where root may not lower a process's OOM score, runc dies with "can't get final child's PID".
containerd_config() {
  cat <<CONFIG
version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"
CONFIG
}

# Addresses are kept in /run, as the pods are gone after a restart of the machine. The masquerading is lib/network.sh's.
network_config() {
  cat <<CONFIG
{
  "cniVersion": "0.4.0",
  "name": "$PREFIX",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
      "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "${POD_SUBNET[$1]}"}]]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
CONFIG
}

# - imageGCHighThresholdPercent 100: never remove an image, for none can be pulled again.
# - evictionHard: in absolute terms, as a developer's disk may be nine tenths full and well.
# - syncFrequency: changed Secrets and ConfigMaps reach mounted volumes in seconds.
kubelet_config() {
  local node=$1
  cat <<CONFIG
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: ${ADDRESS[$node]}
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/$node.crt
tlsPrivateKeyFile: /etc/kubernetes/$node.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$PREFIX/$node
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [$DNS_SERVICE_ADDRESS]
resolvConf: /etc/resolv.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
syncFrequency: 10s
volumePluginDir: /var/lib/kubelet/plugins # the default lies below /usr, which is read-only here
enableProfilingHandler: false
CONFIG
}

node_start_containerd() {
  daemon_start "$1" containerd containerd --log-level warn
}

containerd_ready() {
  machine_run "$1" ctr --connect-timeout 1s version
}

node_start_kubelet() {
  daemon_start "$1" kubelet kubelet \
    --config /etc/kubernetes/kubelet.yaml --kubeconfig "/etc/kubernetes/$1.kubeconfig" \
    --hostname-override "$1" --node-ip "${ADDRESS[$1]}" --v 1
}

# shellcheck shell=bash
# Owns the control plane: etcd, API server, controller manager and scheduler, on a machine of their own. Pods do not run
# there, a kube-proxy does: by it the API server reaches webhooks, and the host reaches services.

control_start() {
  pki_install "$CONTROL" ca.crt ca.key service-account.key service-account.pub apiserver.{crt,key} \
    apiserver-kubelet-client.{crt,key} {controller-manager,scheduler,kube-proxy}.kubeconfig
  start_etcd
  start_apiserver
}

# Not before the API server is ready, see `up`: the controller manager gives up when it finds no API.
control_start_controllers() {
  start_controller_manager
  start_scheduler
}

# --unsafe-no-fsync: a test cluster that loses its state with the machine is no loss, and this is twice as fast.
start_etcd() {
  daemon_start "$CONTROL" etcd etcd \
    --name "$CONTROL" --data-dir /var/lib/etcd --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "$CONTROL=http://127.0.0.1:2380"
}

# The tolerations let pods leave a dead node in seconds rather than five minutes. Without InternalIP `kubectl logs` and
# `exec` would ask the name service for the node.
start_apiserver() {
  local etc=/etc/kubernetes
  daemon_start "$CONTROL" kube-apiserver kube-apiserver \
    --etcd-servers http://127.0.0.1:2379 \
    --advertise-address "${ADDRESS[$CONTROL]}" --secure-port 6443 \
    --service-cluster-ip-range "$SERVICE_NET" \
    --client-ca-file $etc/ca.crt --tls-cert-file $etc/apiserver.crt --tls-private-key-file $etc/apiserver.key \
    --kubelet-client-certificate $etc/apiserver-kubelet-client.crt \
    --kubelet-client-key $etc/apiserver-kubelet-client.key \
    --kubelet-certificate-authority $etc/ca.crt --kubelet-preferred-address-types InternalIP \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file $etc/service-account.pub --service-account-signing-key-file $etc/service-account.key \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --default-not-ready-toleration-seconds 30 --default-unreachable-toleration-seconds 30 \
    --profiling=false --v 1
}

apiserver_ready() {
  kubectl get --raw /readyz
}

start_controller_manager() {
  local etc=/etc/kubernetes
  daemon_start "$CONTROL" kube-controller-manager kube-controller-manager \
    --kubeconfig $etc/controller-manager.kubeconfig --use-service-account-credentials --leader-elect=false \
    --root-ca-file $etc/ca.crt --service-account-private-key-file $etc/service-account.key \
    --cluster-signing-cert-file $etc/ca.crt --cluster-signing-key-file $etc/ca.key \
    --profiling=false --v 1
}

start_scheduler() {
  daemon_start "$CONTROL" kube-scheduler kube-scheduler \
    --kubeconfig /etc/kubernetes/scheduler.kubeconfig --leader-elect=false --profiling=false --v 1
}

# start_kube_proxy MACHINE [NODE]: translate service addresses there. A kube-proxy without a Node object of its name waits
# half a minute for one, so the control machine's bears a node's name; only node ports and local traffic policies, which
# nobody asks of the control machine, depend on it. The sysctls of connection tracking cannot be written in a namespace.
# Not mode nftables: README.md, "What bites".
start_kube_proxy() {
  daemon_start "$1" kube-proxy kube-proxy \
    --kubeconfig /etc/kubernetes/kube-proxy.kubeconfig --hostname-override "${2:-$1}" \
    --proxy-mode iptables --cluster-cidr "$POD_NET" --conntrack-max-per-core 0 --conntrack-min 0 --v 1
}

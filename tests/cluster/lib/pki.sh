# shellcheck shell=bash
# Owns keys, certificates and kubeconfig files. All are made anew for each cluster and lie under .build/cluster/pki.

pki_create() {
  local node
  mkdir -p "$PKI"
  chmod 700 "$PKI"
  make_key ca
  openssl req -x509 -new -key "$PKI/ca.key" -subj "/CN=$PREFIX-cluster" -days 3650 -out "$PKI/ca.crt" 2>/dev/null
  make_key service-account
  openssl pkey -in "$PKI/service-account.key" -pubout -out "$PKI/service-account.pub"

  # The serving certificate names the first service address: pods speak to the API server by it.
  make_certificate apiserver /CN=kube-apiserver "IP:${ADDRESS[$CONTROL]},IP:127.0.0.1,IP:$API_SERVICE_ADDRESS,$(
  )DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  make_certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  make_certificate admin /O=system:masters/CN=admin
  make_certificate controller-manager /CN=system:kube-controller-manager
  make_certificate scheduler /CN=system:kube-scheduler
  make_certificate kube-proxy /CN=system:kube-proxy
  for node in "${NODES[@]}"; do
    make_certificate "$node" "/O=system:nodes/CN=system:node:$node" "IP:${ADDRESS[$node]},DNS:$node"
  done

  for name in admin controller-manager scheduler kube-proxy "${NODES[@]}"; do
    make_kubeconfig "$name" >"$PKI/$name.kubeconfig"
  done
  install -m 600 "$PKI/admin.kubeconfig" "$KUBECONFIG_FILE"
}

make_key() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$PKI/$1.key" 2>/dev/null
}

# make_certificate NAME SUBJECT [SUBJECT-ALT-NAMES]: good for both ends of a connection.
make_certificate() {
  local name=$1 subject=$2 names=${3:-}
  make_key "$name"
  openssl req -new -key "$PKI/$name.key" -subj "$subject" |
    openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 3650 -extfile <(
      echo "keyUsage = critical, digitalSignature"
      echo "extendedKeyUsage = serverAuth, clientAuth"
      [[ -z $names ]] || echo "subjectAltName = $names"
    ) -out "$PKI/$name.crt" 2>/dev/null
}

make_kubeconfig() {
  local name=$1
  cat <<CONFIG
apiVersion: v1
kind: Config
clusters:
- name: $PREFIX
  cluster:
    server: $API_URL
    certificate-authority-data: $(base64 --wrap 0 "$PKI/ca.crt")
users:
- name: $name
  user:
    client-certificate-data: $(base64 --wrap 0 "$PKI/$name.crt")
    client-key-data: $(base64 --wrap 0 "$PKI/$name.key")
contexts:
- name: $PREFIX
  context: {cluster: $PREFIX, user: $name}
current-context: $PREFIX
CONFIG
}

# pki_install MACHINE FILE...: copy what the machine needs, and only that, into its /etc/kubernetes.
pki_install() {
  local folder
  folder=$(machine_root "$1")/etc/kubernetes
  shift
  mkdir -p "$folder"
  chmod 700 "$folder"
  (cd "$PKI" && cp "$@" "$folder")
}

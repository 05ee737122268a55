# shellcheck shell=bash
# Owns what runs in the cluster before any test: DNS and volumes, from manifests/.

addons_apply() {
  local manifest
  for manifest in "$CLUSTER_SOURCE"/manifests/*.yaml; do
    render "$manifest"
    echo ---
  done | kubectl apply --filename - >/dev/null
}

render() {
  sed -e "s|@IMAGE_PREFIX@|$IMAGE_PREFIX|" -e "s|@SITE_ADDRESS@|${ADDRESS[$SITE]}|" \
    -e "s|@DNS_PODS@|$((NODE_COUNT > 1 ? 2 : 1))|" \
    -e "s|@DNS_SERVICE_ADDRESS@|$DNS_SERVICE_ADDRESS|" "$1"
}

# deployment_ready NAMESPACE NAME: every replica answers.
deployment_ready() {
  local status
  status=$(kubectl --namespace "$1" get deployment "$2" \
    --output 'jsonpath={.spec.replicas}/{.status.availableReplicas}/{.status.observedGeneration}') || return 1
  [[ $status =~ ^([0-9]+)/([0-9]+)/ && ${BASH_REMATCH[1]} == "${BASH_REMATCH[2]}" ]]
}

nodes_ready() {
  local ready
  ready=$(kubectl get nodes --output \
    'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep --count True) || true
  ((ready == ${#NODES[@]}))
}

# services_reachable: the host reaches a service by its address, so the whole path through kube-proxy works.
services_reachable() {
  timeout 2 bash -c "exec 3<>/dev/tcp/$DNS_SERVICE_ADDRESS/53"
}

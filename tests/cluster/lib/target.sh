# shellcheck shell=bash
# Owns the decision which cluster the scripts mean: given | kind | local.

# shellcheck source=given.sh
source "$CLUSTER_SOURCE/lib/given.sh"
# shellcheck source=kind.sh
source "$CLUSTER_SOURCE/lib/kind.sh"
# shellcheck source=local.sh
source "$CLUSTER_SOURCE/lib/local.sh"

# choose_target: for a cluster that is to be started.
choose_target() {
  if [[ -n ${CLUSTER:-} ]]; then
    echo local
  elif [[ -n ${KUBECONFIG_UNDER_TEST:-} ]]; then
    echo given
  elif kind_usable; then
    echo kind
  else
    echo local
  fi
}

# current_target: of the cluster that `up` has started last.
current_target() {
  local kind
  kind=$(sed --quiet 's/^CLUSTER_KIND=//p' "$ENV_FILE" 2>/dev/null) || true
  echo "${kind:-local}"
}

require_local() {
  [[ $(current_target) == local ]] || die "$1 works on the local cluster only; this one is '$(current_target)'"
}

# shellcheck shell=bash
# Owns a cluster that somebody else runs, named by KUBECONFIG_UNDER_TEST: nothing is started there, stopped or cleaned.
# Written where no such cluster could be had, so nobody has seen this file run against one.

given_up() {
  local kubeconfig
  kubeconfig=$(readlink --canonicalize-existing "$KUBECONFIG_UNDER_TEST") ||
    die "KUBECONFIG_UNDER_TEST names no file: $KUBECONFIG_UNDER_TEST"
  "$BIN/kubectl" --kubeconfig "$kubeconfig" get --raw /readyz >/dev/null ||
    die "the cluster of $KUBECONFIG_UNDER_TEST does not answer"
  mkdir -p "$CLUSTER_DIR"
  {
    echo "KUBECONFIG=$kubeconfig"
    echo "SITE_ADDRESS=${SITE_ADDRESS:-}" # set it when tests may use an MQTT broker that the cluster can reach
    echo "CLUSTER_KIND=given"
  } >"$ENV_FILE"
  echo "using the cluster of $KUBECONFIG_UNDER_TEST"
}

given_down() {
  rm -f "$ENV_FILE"
}

given_load_image() {
  die "this cluster is not ours, so images cannot be put onto its nodes: push them to a registry that it pulls from, and" \
    "set IMAGE_REGISTRY to that registry's name"
}

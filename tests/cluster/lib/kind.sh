# shellcheck shell=bash
# Owns the cluster where a Docker daemon and kind are at hand. The site is a container beside kind's nodes.
# Written where Docker cannot run, so nobody has seen this file work.

readonly KIND_NAME=$PREFIX-cluster
readonly KIND_SITE=$PREFIX-site
readonly KIND_SITE_IMAGE=${KIND_SITE_IMAGE:-eclipse-mosquitto:2}

kind_usable() {
  command -v kind >/dev/null && command -v docker >/dev/null && timeout 10 docker info >/dev/null 2>&1
}

kind_up() {
  mkdir -p "$CLUSTER_DIR"
  kind get clusters 2>/dev/null | grep --quiet --line-regexp "$KIND_NAME" ||
    kind create cluster --name "$KIND_NAME" --config "$CLUSTER_SOURCE/kind.yaml" --wait 120s
  kind get kubeconfig --name "$KIND_NAME" >"$KUBECONFIG_FILE"
  chmod 600 "$KUBECONFIG_FILE"
  kind_site_up
  {
    echo "KUBECONFIG=$KUBECONFIG_FILE"
    echo "SITE_ADDRESS=$(docker inspect --format '{{.NetworkSettings.Networks.kind.IPAddress}}' "$KIND_SITE")"
    echo "CLUSTER_KIND=kind"
  } >"$ENV_FILE"
}

# The same listeners as lib/site.sh; its name is not known to kind's DNS, so tests use the address.
kind_site_up() {
  local folder=$CLUSTER_DIR/site
  mkdir -p "$folder"
  printf '%s\n' 'per_listener_settings true' 'persistence true' 'persistence_location /mosquitto/data/' \
    'max_inflight_messages 1000' 'max_queued_messages 0' \
    'listener 1883' 'allow_anonymous true' \
    'listener 1884' 'allow_anonymous false' 'password_file /tmp/passwords' >"$folder/mosquitto.conf"
  docker rm --force "$KIND_SITE" >/dev/null 2>&1 || true
  docker run --detach --name "$KIND_SITE" --network kind --volume "$folder/mosquitto.conf:/site.conf:ro" \
    "$KIND_SITE_IMAGE" sh -c \
    'mosquitto_passwd -b -c /tmp/passwords bridge site-secret && exec mosquitto -c /site.conf' >/dev/null
}

kind_down() {
  docker rm --force "$KIND_SITE" >/dev/null 2>&1 || true
  kind delete cluster --name "$KIND_NAME"
  rm -rf "$CLUSTER_DIR/site" "$KUBECONFIG_FILE" "$ENV_FILE"
}

kind_load_image() {
  kind load image-archive --name "$KIND_NAME" "$1"
}

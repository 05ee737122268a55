# shellcheck shell=bash
# Owns the site outside Kubernetes: a machine with an MQTT broker. Pods know it as site.example and all names below.

# Port 1883 lets anybody in, 1884 asks for user and password. Messages wait for absent sessions without a limit; sessions
# and messages survive a restart.
site_start() {
  local etc
  etc=$(machine_root "$SITE")/etc/mosquitto
  mkdir -p "$etc" "$(machine_root "$SITE")/var/lib/mosquitto"
  rm -f "$etc/passwords"
  mosquitto_passwd -b -c "$etc/passwords" bridge site-secret
  cat >"$etc/mosquitto.conf" <<CONFIG
user root
per_listener_settings true
persistence true
persistence_location /var/lib/mosquitto/
autosave_interval 30
max_inflight_messages 1000
max_queued_messages 0
log_dest stdout
log_timestamp_format %Y-%m-%dT%H:%M:%S

listener 1883
allow_anonymous true

listener 1884
allow_anonymous false
password_file /etc/mosquitto/passwords
CONFIG
  mosquitto_start
}

mosquitto_start() {
  daemon_start "$SITE" mosquitto mosquitto -c /etc/mosquitto/mosquitto.conf
}

mosquitto_ready() {
  mosquitto_pub -h "${ADDRESS[$SITE]}" -p 1883 -t "$PREFIX/check" -n &&
    mosquitto_pub -h "${ADDRESS[$SITE]}" -p 1884 -u bridge -P site-secret -t "$PREFIX/check" -n
}

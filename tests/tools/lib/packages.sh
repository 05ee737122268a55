# shellcheck shell=bash
# Owns the installation of Debian packages: only what is missing, and without letting a package start its service.
# Sourced; needs nothing but bash and apt.

# ensure_packages NAME...: install the named packages that are not there yet.
ensure_packages() {
  local name missing=()
  for name in "$@"; do
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0

  if ((EUID != 0)); then
    echo "error: Debian packages are missing and only root can install them: sudo apt-get install ${missing[*]}" >&2
    return 1
  fi
  # A mirror that fails once, or another apt that is at work, as on a machine that has just started.
  local log=$REPO/.build/apt.log apt=(apt-get --option Acquire::Retries=5 --option DPkg::Lock::Timeout=300)
  mkdir -p "$REPO/.build"
  echo "    installing ${missing[*]}"
  if ! {
    "${apt[@]}" update &&
      without_services "${apt[@]}" install --yes --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "error: apt-get failed, its whole output is in $log" >&2
    return 1
  fi
}

# without_services CMD...: run CMD while Debian's policy hook forbids that packages start their services. A mosquitto on
# port 1883 or a containerd on its default socket would stand in the way of the ones that the tests run.
without_services() {
  local hook=/usr/sbin/policy-rc.d status=0
  if [[ -e $hook ]]; then
    "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$hook"
  chmod +x "$hook"
  DEBIAN_FRONTEND=noninteractive "$@" || status=$?
  rm -f "$hook"
  return "$status"
}

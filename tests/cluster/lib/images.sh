# shellcheck shell=bash
# Owns the images that the cluster itself needs, and how any image gets onto the nodes. There is no registry: an image is
# a docker-archive file, imported into each node's containerd.

readonly CLUSTER_IMAGES=(pause tools coredns local-path-provisioner)

# images_build: archives .build/images/test-NAME.tar, each made again only when what goes into it has changed.
images_build() {
  local name
  mkdir -p "$IMAGES" "$BIN"
  build_pause
  for name in "${CLUSTER_IMAGES[@]}"; do
    build_image "$name"
  done
}

build_pause() {
  local source=$CLUSTER_SOURCE/images/pause/pause.c
  [[ ! -x $BIN/em-pause || $source -nt $BIN/em-pause ]] || return 0
  musl-gcc -static -Os -s -o "$BIN/em-pause.part" "$source" ||
    die "cannot compile $source: tests/tools/build cluster installs the compiler"
  mv "$BIN/em-pause.part" "$BIN/em-pause"
}

build_image() {
  local name=$1 context archive stamp
  archive=$IMAGES/test-$name.tar
  stamp=$(cat "$CLUSTER_SOURCE/images/$name/Containerfile" "$(image_program "$name")" <(image_program "$name") | sha256sum)
  [[ ! -s $archive || $(cat "$archive.stamp" 2>/dev/null) != "$stamp" ]] || return 0

  context=$(mktemp --directory "$BUILD/image.XXXXXX")
  fill_context "$name" "$context"
  # The storage stays in the build folder, and vfs needs no mount and no kernel feature.
  local storage=(--root "$BUILD/buildah" --runroot "$BUILD/buildah-run" --storage-driver vfs)
  buildah "${storage[@]}" build --quiet --isolation chroot --timestamp 0 \
    --file "$CLUSTER_SOURCE/images/$name/Containerfile" --tag "$IMAGE_PREFIX/$name:1" "$context" >/dev/null
  rm -f "$archive"
  buildah "${storage[@]}" push --quiet "$IMAGE_PREFIX/$name:1" "docker-archive:$archive:$IMAGE_PREFIX/$name:1"
  buildah "${storage[@]}" rmi --force "$IMAGE_PREFIX/$name:1" >/dev/null
  rm -rf "$context"
  echo "$stamp" >"$archive.stamp"
}

# image_program NAME: the one file that makes the image what it is.
image_program() {
  case $1 in
    pause) echo "$BIN/em-pause" ;;
    tools) echo /bin/busybox ;;
    *) readlink --canonicalize-existing "$BIN/$1" || die "$1 is not built: run tests/tools/build cluster" ;;
  esac
}

fill_context() {
  local name=$1 context=$2 applet
  if [[ $name == tools ]]; then
    mkdir -p "$context"/{bin,etc}
    cp "$(image_program tools)" "$context/bin/busybox"
    for applet in $(busybox --list); do
      [[ $applet == busybox ]] || ln -s busybox "$context/bin/$applet"
    done
    echo 'root:x:0:0:root:/:/bin/sh' >"$context/etc/passwd"
  else
    cp "$(image_program "$name")" "$context/$name"
  fi
}

# images_import NODE FILE...: into the node's containerd. The files are read by this process, since a machine does not see
# the host's folders.
images_import() {
  local node=$1 file
  shift
  for file in "$@"; do
    machine_run "$node" ctr --namespace k8s.io images import - <"$file" >/dev/null
  done
}

# images_import_everywhere FILE...: into all nodes at once.
images_import_everywhere() {
  local node pids=()
  for node in "${NODES[@]}"; do
    images_import "$node" "$@" &
    pids+=($!)
  done
  wait_all "${pids[@]}"
}

# image_names FILE: the names in a docker-archive.
image_names() {
  tar --extract --to-stdout --file "$1" manifest.json | jq --raw-output '.[].RepoTags[]'
}

image_present() {
  [[ -n $(machine_run "$1" ctr --namespace k8s.io images list --quiet "name==$2") ]]
}

# image_tag NODE OLD NEW
image_tag() {
  machine_run "$1" ctr --namespace k8s.io images tag --force "$2" "$3" >/dev/null
}

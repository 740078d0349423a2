#!/bin/sh
# Builds the image without a Docker daemon or a registry, and tries it: Debian's buildah in chroot isolation, on a base
# that debootstrap makes. Then the image's own command runs as its own user, as PID 1, on a read-only root, answers a
# txt2img (the front, with nothing behind it, what needs no picture), and has to exit with 0 on SIGTERM.
#
#   sudo apt-get install buildah debootstrap jq curl
#   sudo knative/image/build-local.sh [cpu|cuda|front] [options for `buildah build`, such as --build-arg or --volume]
#
# WORK (default /var/tmp/knative-diffusion-image) keeps the base for the next time. Networks with a proxy, an index or
# certificates of their own: see PIP_ARGS in the Dockerfile, and --volume.
set -eu

variant=${1:-cpu}
[ $# -gt 0 ] && shift
here=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
work=${WORK:-/var/tmp/knative-diffusion-image}
base=localhost/knative-diffusion-base
image=localhost/knative-diffusion:local-$variant
port=18000

for tool in buildah debootstrap jq curl unshare setpriv; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install buildah debootstrap jq curl" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root: run this with sudo" >&2; exit 2; }
export BUILDAH_ISOLATION=chroot
mkdir -p "$work"
policy=$work/policy.json
printf '{"default": [{"type": "insecureAcceptAnything"}]}\n' >"$policy"

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
  echo "== base: Debian 12 with its Python 3.11"
  rm -rf "$work/base"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python-is-python3 bookworm "$work/base" \
    >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log" >&2; exit 1; }
  rm -rf "$work/base"/var/cache/apt/archives/*.deb "$work/base"/var/lib/apt/lists/*
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/base" / >/dev/null
  buildah commit --quiet --rm --signature-policy "$policy" "$container" "$base" >/dev/null
  rm -rf "$work/base"
fi

echo "== build: $image"
case $variant in
  front) what="--target front" ;;
  *) what="--build-arg VARIANT=$variant" ;;
esac
# shellcheck disable=SC2086
buildah build --signature-policy "$policy" --layers --build-arg "BASE=$base" $what \
  --build-arg "REVISION=$(git -C "$here" rev-parse HEAD 2>/dev/null || true)" --tag "$image" "$@" "$here"

echo "== size"
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep -F localhost/knative-diffusion
container=$(buildah from --signature-policy "$policy" "$image")
root=$(buildah mount "$container")
server=""
finish() {
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  buildah umount "$container" >/dev/null
  buildah rm "$container" >/dev/null
}
trap finish EXIT
du -xsm "$root" | awk '{print "unpacked: " $1 " MB, of which"}'
find "$root"/opt/venv/lib/python3*/site-packages "$root/app" -mindepth 1 -maxdepth 1 -exec du -sm {} + | sort -rn | head -12 |
  sed "s|$root||"

echo "== run: as the image says, PID 1, read-only root"
buildah inspect --type image "$image" >"$work/config.json"
user=$(jq -r '.OCIv1.config.User' "$work/config.json")
jq -r '.OCIv1.config.Env[]' "$work/config.json" >"$work/environment"
jq -r '(.OCIv1.config.Entrypoint + .OCIv1.config.Cmd)[]' "$work/config.json" >"$work/command"
[ "$user" = 10001:10001 ] || { echo "the image runs as '$user'" >&2; exit 1; }
cat >"$work/run.sh" <<'RUN'
# In a mount namespace of its own: the image read-only, /proc, a few devices, and /tmp to write to.
set -eu
root=$1 work=$2 port=$3 variant=$4
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=1g,mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do : >"$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
mkdir "$root/dev/shm"
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$root/dev/shm"
mount -o remount,bind,ro "$root"
set --
while read -r line; do set -- "$@" "$line"; done <"$work/environment"
set -- "$@" "SD_HOST=127.0.0.1" "SD_PORT=$port" SD_CPU_THREADS=1 SD_DEVICE=cpu
[ "$variant" != front ] || set -- "$@" SD_UPSTREAM=http://127.0.0.1:9
while read -r line; do set -- "$@" "$line"; done <"$work/command"
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set -all --inh-caps -all \
  --no-new-privs env -i "$@"
RUN
: >"$work/server.log"
unshare --mount --pid --fork --propagation private sh "$work/run.sh" "$root" "$work" "$port" "$variant" >"$work/server.log" 2>&1 &
outer=$!
began=$(date +%s)
until curl -fs -o /dev/null "http://127.0.0.1:$port/readyz"; do
  kill -0 "$outer" 2>/dev/null || { echo "the service ended" >&2; cat "$work/server.log" >&2; exit 1; }
  [ $(($(date +%s) - began)) -lt 600 ] || { echo "not ready after 600 s" >&2; tail "$work/server.log" >&2; exit 1; }
  sleep 1
done
server=$(cat "/proc/$outer/task/$outer/children" | tr -d ' ')
echo "ready after $(($(date +%s) - began)) s"
grep -E '^(Uid|Gid|NoNewPrivs|CapEff|CapBnd|NSpid):' "/proc/$server/status"
tr '\0' ' ' <"/proc/$server/cmdline"; echo
if nsenter --target "$server" --mount --root touch /app/written 2>/dev/null; then echo "the root is writable" >&2; exit 1; fi
echo "root is read-only: touch /app/written was refused"
if [ "$variant" = front ]; then
  curl -fsS "http://127.0.0.1:$port/sdapi/v1/samplers" | jq -r '"samplers: \(length)"'
  grep VmRSS "/proc/$server/status"
else
  curl -fsS -d '{"prompt": "pretty dog", "steps": 8, "seed": 1}' "http://127.0.0.1:$port/sdapi/v1/txt2img" |
    jq -r '.images[0]' | base64 -d >"$work/dog.png"
  head -c 8 "$work/dog.png" | od -An -c | head -1
  echo "txt2img: $(wc -c <"$work/dog.png") bytes, $work/dog.png"
fi
kill -TERM "$server"
server=""
code=0
wait "$outer" || code=$?
echo "exit code after SIGTERM: $code"
[ "$code" = 0 ]

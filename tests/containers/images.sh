#!/bin/sh
# images.sh: makes every image that the tests in this folder need, and prints what stands in for what.
#
# Images of others are taken from this machine, or else pulled; where no registry answers, stand-ins are built of Debian's
# packages (make_base.sh, stand_ins/). Grafana has none: without its image the tests leave that service out. Our own images
# are built anew from the Dockerfile, all three targets, for the user that `make up` would take.
#
# FEDKD_TORCH_INDEX  where torch comes from; without it the Dockerfile's default, or, on a stand-in base, wherever pip
#                    looks on this machine
set -eu
cd "$(dirname "$0")/../.."
here() { docker image inspect "$1" > /dev/null 2>&1; }
pulled() { timeout 300 docker pull --quiet "$1" > /dev/null 2>&1; }
is_stand_in() { [ -n "$(docker image inspect --format '{{index .Config.Labels "stand-in"}}' "$1" 2> /dev/null)" ]; }

base=$(sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)
others=$(sed -n 's/^ *image: //p' compose.yaml | grep -v '^asyncfedkd/' | sort -u)
here "$base" || pulled "$base" || sh tests/containers/make_base.sh "$base"

stand_in() { # image, name of its Dockerfile, other files
    image=$1 name=$2
    shift 2
    context=$(mktemp -d)
    cp "tests/containers/stand_ins/$name.Dockerfile" "$context/Dockerfile"
    for file; do cp "$file" "$context"; done
    docker build --quiet --network host --build-arg BASE="$base" --label stand-in=debian --tag "$image" "$context"
    rm -r "$context"
}
for image in $others; do
    # A stand-in is built anew: its files may have changed.
    if ! is_stand_in "$image" && { here "$image" || pulled "$image"; }; then continue; fi
    case $image in
    eclipse-mosquitto:*) stand_in "$image" broker ;;
    influxdb:*)
        folder=tests/containers/stand_ins
        stand_in "$image" influxdb benchmarks/influxd.py "$folder/influxdb_server.py" "$folder/influx.py"
        ;;
    *) echo "$image cannot be had here: its service is left out" ;;
    esac
done

user=$(id -u) group=$(id -g)
[ "$user" != 0 ] || user=10001 group=10001
set -- --build-arg "UID=$user" --build-arg "GID=$group"
if is_stand_in "$base" || [ -n "${FEDKD_TORCH_INDEX+set}" ]; then
    set -- "$@" --build-arg "TORCH_INDEX=${FEDKD_TORCH_INDEX-}"
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
for target in aggregator device simulators; do
    docker build --quiet --network host "$@" --target "$target" --tag "asyncfedkd/$target:$version" .
done
for image in "$base" $others; do
    if is_stand_in "$image"; then echo "$image is a stand-in made of Debian's packages"; fi
done

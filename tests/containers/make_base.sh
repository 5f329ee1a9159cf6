#!/bin/sh
# make_base.sh IMAGE: a stand-in for the Dockerfile's base image where no image registry can be reached, made of Debian's
# own packages. Needs root, debootstrap and a Debian mirror (DEBIAN_MIRROR). pip works in it as on this machine: its
# system-wide configuration, its certificates, and the local folders that it looks for wheels in (find-links) are copied.
set -eu
image=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$folder" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$folder.log" || { tail "$folder.log" >&2; exit 1; }
rm -f "$folder.log"
ln -sf python3 "$folder/usr/bin/python"
# pip may change the image's Python, as in the image that this one stands for.
rm -f "$folder"/usr/lib/python3*/EXTERNALLY-MANAGED
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$folder/etc/"; fi
links=
for place in ${PIP_FIND_LINKS:-$(python3 -m pip config get global.find-links 2>/dev/null || true)}; do
    [ -d "$place" ] || continue
    mkdir -p "$folder$place"
    cp -R "$place/." "$folder$place"
    links="$links $place"
done
mkdir -p "$folder/etc/xdg/pip"
if [ -n "$links" ]; then printf '[global]\nfind-links =%s\n' "$links" > "$folder/etc/xdg/pip/pip.conf"; fi
tar -C "$folder" -c . | docker import --change "LABEL stand-in=debian" - "$image"

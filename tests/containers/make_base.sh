#!/bin/sh
# make_base.sh IMAGE: a stand-in for the Dockerfile's base image where no registry can be reached, made from Debian's own
# packages. Needs root, debootstrap, and a mirror of Debian; what pip needs to find packages is copied from this machine.
set -eu
image=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$folder" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" > "$folder.log" || { tail "$folder.log" >&2; exit 1; }
rm -f "$folder.log"
ln -sf python3 "$folder/usr/bin/python"
# The image's Python is nobody else's: pip may change it, as in the image that this stands for.
rm -f "$folder"/usr/lib/python3*/EXTERNALLY-MANAGED
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$folder/etc/"; fi
tar -C "$folder" -c . | docker import - "$image"

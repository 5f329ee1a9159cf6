#!/bin/sh
# make-once.sh FILE COMMAND …: runs the command unless the file that it creates exists.
set -eu
file=$1
shift
[ -e "$file" ] || exec "$@"

#!/bin/sh
# make-once.sh FILE COMMAND …: the command, unless the file that it makes is there.
set -eu
file=$1
shift
[ -e "$file" ] || exec "$@"

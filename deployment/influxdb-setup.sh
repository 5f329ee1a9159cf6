#!/bin/sh
# Completes the setup that InfluxDB's image does on its first start: maps an InfluxQL database to the bucket, and creates one
# token that can only write this bucket (aggregator) and one that can only read it (Grafana). Creates only what is missing;
# runs before every start.
#
# INFLUX_HOST, INFLUX_ORG  variables of the influx command
# INFLUX_TOKEN_FILE        the administrator's token
# BUCKET                   name of the bucket and of the InfluxQL database
# TOKENS                   folder for the tokens
# WAIT_SECONDS             how long to wait for a server that is still being set up
set -eu
umask 077
INFLUX_TOKEN=$(cat "$INFLUX_TOKEN_FILE")
export INFLUX_TOKEN

# A new server answers before its bucket and token exist.
left=$WAIT_SECONDS
complaint=$(mktemp)
buckets=
until buckets=$(influx bucket list --name "$BUCKET" --hide-headers 2> "$complaint") && [ -n "$buckets" ]; do
    if [ "$left" -le 0 ]; then
        echo "influxdb-setup: $INFLUX_HOST has no bucket $BUCKET for this token: $(cat "$complaint")" >&2
        exit 1
    fi
    left=$((left - 1))
    sleep 1
done
bucket=$(printf '%s\n' "$buckets" | cut -f 1)

case $(influx v1 dbrp list --bucket-id "$bucket") in
    *"$bucket"*) ;;
    *) influx v1 dbrp create --bucket-id "$bucket" --db "$BUCKET" --rp autogen --default ;;
esac

token() { # name permission
    file=$TOKENS/$1
    [ -e "$file" ] && return
    influx auth create "$2" "$bucket" --description "asyncfedkd $1" --json |
        sed -n 's/.*"token": *"\([^"]*\)".*/\1/p' > "$file.new"
    [ -s "$file.new" ] || { echo "influxdb-setup: no $1 token was made" >&2; exit 1; }
    mv "$file.new" "$file"
}
token write --write-bucket
token read --read-bucket
echo "influxdb-setup: database mapping and tokens are ready"

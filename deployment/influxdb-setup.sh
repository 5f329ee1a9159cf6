#!/bin/sh
# What the image's own first start leaves open: InfluxQL needs to know that database means bucket, and aggregator and
# Grafana get tokens that only write and only read this one bucket. Makes what is missing; runs before every start.
#
# INFLUX_HOST, INFLUX_ORG  as the influx command knows them
# INFLUX_TOKEN_FILE        the administrator's token
# BUCKET                   name of the bucket, and of the database in InfluxQL
# TOKENS                   folder for the tokens
# WAIT_SECONDS             how long to wait for a server that is still setting itself up
set -eu
umask 077
INFLUX_TOKEN=$(cat "$INFLUX_TOKEN_FILE")
export INFLUX_TOKEN

# A server that has just been made answers before its bucket and token are there.
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
echo "influxdb-setup: database and tokens are in their place"

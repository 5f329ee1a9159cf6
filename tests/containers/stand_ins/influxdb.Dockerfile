# Debian's InfluxDB 1.6.7 in place of the pinned image of InfluxDB 2, for machines that reach no image registry. The server
# beside it takes InfluxDB 2's write path and tokens; `influx` knows the few commands that deployment/ and compose.yaml use.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends influxdb \
    && rm -rf /var/lib/apt/lists/*
COPY influxd.py influxdb_server.py influx.py /stand-in/
RUN install --mode=0755 /stand-in/influx.py /usr/local/bin/influx
ENTRYPOINT ["python", "/stand-in/influxdb_server.py"]

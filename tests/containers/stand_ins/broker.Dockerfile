# Debian's mosquitto 2.0.11 in place of the pinned eclipse-mosquitto image, for machines that reach no image registry.
ARG BASE
FROM ${BASE}
RUN apt-get update \
    && apt-get install --yes --no-install-recommends mosquitto mosquitto-clients \
    && rm -rf /var/lib/apt/lists/*

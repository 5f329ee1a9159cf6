# All images; `docker compose build` builds each from its target:
#   aggregator   the server and the enrolment commands; no PyTorch
#   device       devices, evaluator, initial model, teacher; PyTorch for the CPU
#   simulators   as device, and the live web page
# Base images are pinned by tag; `docker compose config --resolve-image-digests` prints their digests.
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm

# -- build stages; their tools do not get into the images -----------------------------------------------------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The environment has no pip: this stage's pip installs into it and is left behind.
RUN python -m venv --without-pip /opt/venv
ENV PIP_PYTHON=/opt/venv/bin/python
WORKDIR /source

FROM build AS build-aggregator
COPY . .
RUN pip install /source

# -- runtime base: not root, and only volumes and /tmp are written ----------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
# Owner of the volumes' contents; `make up` passes the caller's IDs. --non-unique: macOS users have group 20, which exists here.
ARG UID=1000
ARG GID=1000
RUN groupadd --non-unique --gid "${GID}" fedkd \
    && useradd --non-unique --uid "${UID}" --gid "${GID}" --home-dir /tmp --no-create-home --shell /usr/sbin/nologin fedkd \
    && install --directory --owner="${UID}" --group="${GID}" --mode=0700 /state /models \
    && pip uninstall --yes pip setuptools wheel
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
WORKDIR /tmp

FROM base AS aggregator
ARG UID=1000
ARG GID=1000
# An empty volume gets the owner of the folder that it is first mounted on. `setup` mounts these volumes first, so that
# broker, InfluxDB and Grafana, whose images come from elsewhere, can write to them without running as root.
RUN install --directory --owner="${UID}" --group="${GID}" --mode=0700 \
    /volumes /volumes/broker /volumes/influxdb /volumes/influxdb-config /volumes/influxdb-tokens /volumes/grafana
COPY --from=build-aggregator /opt/venv /opt/venv
USER ${UID}:${GID}
ENTRYPOINT ["python", "-m", "aggregator"]

# -- with PyTorch, below the aggregator: a builder without BuildKit builds all stages above its target ----------------
# PyTorch first, so that a source change does not download it again. Another index provides CUDA builds, or a mirror's
# wheels; with an empty one, pip uses its configured index.
FROM build AS build-device
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} torch==2.13.0
# This wheel contains the data set of the physiotherapy task; the program checks its SHA-256. It is not installed.
RUN pip download --no-deps --only-binary=:all: --dest /opt/data seglearn==1.2.5
COPY . .
# hadolint ignore=DL3013
RUN pip install '.[device]'

FROM build-device AS build-simulators
# hadolint ignore=DL3013
RUN pip install '.[simulators]'

FROM base AS device
ARG UID=1000
ARG GID=1000
COPY --from=build-device /opt/data /opt/data
COPY --from=build-device /opt/venv /opt/venv
ENV FEDKD_WHEEL_FOLDER=/opt/data
USER ${UID}:${GID}
ENTRYPOINT ["python", "-m", "device_client"]

FROM base AS simulators
ARG UID=1000
ARG GID=1000
COPY --from=build-simulators /opt/data /opt/data
COPY --from=build-simulators /opt/venv /opt/venv
ENV FEDKD_WHEEL_FOLDER=/opt/data
USER ${UID}:${GID}
ENTRYPOINT ["python", "-m", "simulators"]

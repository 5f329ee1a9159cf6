"""Flags of `asyncfedkd demo`. Each can also be set as an environment variable FEDKD_…; the flag takes precedence."""

from pathlib import Path

from pydantic import Field

from device_client.settings import OptionalBrokerUrl
from operations.watch.settings import WEBSOCKET_HELP, WebsocketUrl
from wire_contract.settings import ConnectionSettings

REPORT = "report.html"
"""File name of the report in the output folder."""
LAST_PAGE = "page.html"
"""File name of the page's final state."""
SUMMARY = "summary.json"
"""File name of the figures as JSON."""


class DemoSettings(ConnectionSettings):
    """Runs a complete federation on this machine, with devices of different speed and reliability; writes a report."""

    flag_groups = {  # noqa: RUF012 — see CommandSettings
        "data": "what is learned",
        "out": "",
        "seed": "what is learned",
        "versions": "how long",
        "plain": "what is shown",
    }

    task: str = Field(
        "physiotherapy",
        min_length=1,
        description="the task; it must list its devices. Named as for `device run`",
    )
    data: Path | None = Field(None, description="folder with the task's data, if the task needs one")
    broker: OptionalBrokerUrl = Field(
        "", description="URL of an existing broker; default: an embedded one with a random password"
    )
    root: str = Field("", description="topic prefix; default: a new one for each run")
    out: Path = Field(Path("out/demo"), description="folder for report.html, page.html, summary.json, logs and ledgers")
    seed: int = Field(
        0, ge=0, description="random seed for initial weights, teacher, shuffling, augmentation and dropout"
    )
    versions: int | None = Field(
        None, ge=1, description="stop training at this version; default: 150, or fewer on a slow machine"
    )
    seconds: float | None = Field(None, gt=0, description="stop training this long after the devices started, seconds")
    devices: int | None = Field(None, ge=1, description="use only the first N devices of the task")
    quick: bool = Field(
        False, description="a short run, under a minute on two cores: fewer versions, and less training for the teacher"
    )
    baselines_seconds: float | None = Field(
        None,
        ge=0,
        description="how long the report waits, after the federation, for the baselines (training on pooled data and on"
        " one device's data), seconds; later ones are listed as missing. Default: 120, with --quick 15",
    )
    plain: bool = Field(
        False, description="print lines instead of the live view, as is done when the output is not a terminal"
    )
    page: bool = Field(True, description="serve a live page for a browser and print its URL")
    websocket: WebsocketUrl = Field("", description=f"{WEBSOCKET_HELP}; with --broker, the page needs it")

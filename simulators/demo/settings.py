"""Flags of `python -m simulators demo`; as everywhere, FEDKD_… variables are the same, and the flag wins."""

from pathlib import Path

from pydantic import Field

from device_client.settings import OptionalBrokerUrl
from operations.watch.settings import WEBSOCKET_HELP, WebsocketUrl
from wire_contract.settings import ConnectionSettings

REPORT = "report.html"
"""Name of the report in the folder of a run."""
LAST_PAGE = "page.html"
"""…of the page with the last state."""
SUMMARY = "summary.json"
"""…and of the figures."""


class DemoSettings(ConnectionSettings):
    """Real devices, as processes unlike one another, teach one model over MQTT; then a report."""

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
        description="a task that lists its devices, named as for `device run`",
    )
    data: Path | None = Field(None, description="folder of the task's data, where the task needs one")
    broker: OptionalBrokerUrl = Field(
        "", description="URL of a broker of your own; else one is embedded, with a password"
    )
    root: str = Field("", description="first levels of every topic; else one that is made for this run")
    out: Path = Field(Path("out/demo"), description="folder for report.html, page.html, summary.json, logs and ledgers")
    seed: int = Field(0, ge=0, description="random seed of weights, teacher, shuffling, augmentation and dropout")
    versions: int | None = Field(
        None, ge=1, description="training stops at this version; else at 150, or as many as this machine has time for"
    )
    seconds: float | None = Field(None, gt=0, description="training stops so long after the devices started, seconds")
    devices: int | None = Field(None, ge=1, description="only the first so many devices of the task")
    quick: bool = Field(
        False, description="a short run, under a minute on two cores: fewer versions, a teacher trained for less long"
    )
    baselines_seconds: float | None = Field(
        None,
        ge=0,
        description="seconds that the report waits for training on pooled data and on one person's, once the"
        " federation is over; what takes longer is named as missing. Else 120, with --quick 15",
    )
    plain: bool = Field(False, description="lines instead of the live view, as when the output is no terminal")
    page: bool = Field(True, description="serve the page that shows the run live in a browser; its URL is printed")
    websocket: WebsocketUrl = Field(
        "", description=f"for the page over a broker of your own: {WEBSOCKET_HELP}; else there is none then"
    )

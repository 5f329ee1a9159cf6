"""A whole device on a disk that is really full, in a mount namespace of its own. Run by `test_full_disk.py`.

`python -m tests.device_client.uplink.device_on_a_small_disk FOLDER` mounts 8 MiB of memory there, which needs the
rights of a (mapped) root, and prints what became of the device as JSON.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from device_client.events import EventLog
from device_client.uplink.outbox import Outbox
from device_client.uplink.outbox_errors import OutboxBlocked
from tests.device_client.stage import DEVICE, TASK, Stage, model
from wire_contract.layout import Layout, TensorSpec

LARGE = Layout((TensorSpec("a", (20_000,)),))
"""An update is 80 kB, and so are the local student and the model."""
SIZE_BYTES = 8 << 20


def fill(folder: Path) -> None:
    """Until not one byte is left."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as ballast:
        for size in (4_096, 1):
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(size))


def main(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "none", str(folder)], check=True)
    stage = Stage(folder, retrain_after_seconds=1.0, local_rounds_max=8)
    stage.layout = LARGE
    stage.aggregator.publish(model(0, layout=LARGE))
    found: dict[str, object] = {}
    ballast = folder / "ballast"

    with (folder / "log").open("w") as out:
        log = EventLog(out, unix=lambda: stage.time.now, log_format="json")
        emit = stage.emit

        def emit_to_both(event: str, **fields: object) -> None:
            emit(event, **fields)
            log(event, **fields)

        stage.emit = emit_to_both  # type: ignore[method-assign]
        stage.upload_unmet = ("metered",)
        stage.run(lambda: len(stage.told("queued")) == 6)
        fill(folder)
        stage.upload_unmet = ()
        stage.run(lambda: len(stage.told("receipt")) == 2)
        stage.run_for(600.0)  # it is started again while the disk is full
        found["merged at full"] = len(stage.aggregator.merged)
        found["held"] = [fields["reasons"] for fields in stage.told("held") if fields["what"] == "writing"]
        try:
            Outbox(folder / "new" / "outbox.sqlite", task=TASK, device=DEVICE).close()
        except OutboxBlocked as error:
            found["opened at full"] = str(error)

        def free() -> None:
            if stage.time.now > began + 300.0:
                ballast.unlink(missing_ok=True)

        began, stage.at_turn = stage.time.now, free
        stage.run(lambda: len(stage.aggregator.merged) == 8 and not stage.queued_now())
    found["merged"] = [update.sequence for update in stage.aggregator.merged]
    found["duplicates"] = stage.aggregator.duplicates
    with Outbox(stage.path, task=TASK, device=DEVICE) as outbox:
        line = outbox.local_student()
    assert line is not None
    assert line.residual is not None
    told = sum((stage.aggregator.difference(update, LARGE) for update in stage.aggregator.merged), line.residual)
    found["off by"] = float(np.abs(told - sum(stage.trainer.steps.values())).max())
    found["log"] = (folder / "log").read_text()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A real device — runner, outbox, MQTT link — that kills itself at a chosen point. Its training is one addition.

    python -m tests.e2e.crashes.crashing_device PORT STATE DEVICE ROUNDS [OWNER.METHOD:CALL:before|after]

`OWNER.METHOD:CALL:after` sends SIGKILL to itself right after the so-manieth call of the method has returned. Without a
point it ends by itself once it has trained ROUNDS rounds in all its lives and its outbox is empty.
"""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from device_client.presence import subscriptions, will
from device_client.runner import Runner, RunnerSettings
from device_client.trainer import Tick, Trained
from device_client.uplink.outbox import Outbox
from wire_contract.layout import Layout, TensorSpec, Vector
from wire_contract.link.mqtt import MqttLink
from wire_contract.link.mqtt_settings import MqttSettings
from wire_contract.program.clock import SYSTEM_CLOCK
from wire_contract.topics import DEFAULT_ROOT

TASK = "synthetic"
LAYOUT = Layout((TensorSpec("a", (64, 8)), TensorSpec("b", (8,))))

OWNERS: dict[str, type] = {"Outbox": Outbox, "MqttLink": MqttLink}


class AddingTrainer:
    """Adds a number that the device and the round determine."""

    def __init__(self, device: str, rounds_left: Callable[[], int]) -> None:
        self._device = device
        self._rounds_left = rounds_left

    def train(self, weights: Vector, *, version: int, round: int, tick: Tick) -> Trained | None:  # noqa: A002 - the protocol's name
        if self._rounds_left() <= 0 or not tick():
            return None
        step = np.random.default_rng([version, round, sum(self._device.encode())]).normal(size=weights.size)
        return Trained(weights=weights + step.astype(np.float32), samples=10, steps=1, metrics={})


def kill_at(point: str) -> None:
    """Makes one method of one class the last that this process calls."""
    where, call, when = point.split(":")
    owner_name, method_name = where.split(".")
    owner = OWNERS[owner_name]
    method = getattr(owner, method_name)
    calls = 0

    def deadly(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if method_name == "publish" and "/update/" not in arguments[0]:
            return method(self, *arguments, **named)
        calls += 1
        if calls == int(call) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(self, *arguments, **named)
        if calls == int(call):
            if method_name == "publish":
                result.wait(10)  # until the broker has it: the hardest moment to die
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, method_name, deadly)


def main(port: str, state: str, device: str, rounds: str, point: str = "") -> None:
    if point:
        kill_at(point)
    settings = MqttSettings(
        host="127.0.0.1",
        port=int(port),
        client_id=f"device-{device}",
        protocol="3.1.1",
        subscriptions=subscriptions(DEFAULT_ROOT, TASK, device),
        will=will(DEFAULT_ROOT, TASK, device, firmware="test"),
        reconnect_delay_seconds=0.1,
        reconnect_delay_max_seconds=0.5,
    )
    link = MqttLink(settings)
    with Outbox(Path(state), task=TASK, device=device) as outbox:
        wanted = int(rounds)

        def rounds_left() -> int:
            left = wanted - (outbox.next_identity.sequence - 1)
            if left <= 0 and not len(outbox):
                runner.stop()
            return left

        runner = Runner(
            task_name=TASK,
            device=device,
            layout=LAYOUT,
            link=link,
            root=DEFAULT_ROOT,
            outbox=outbox,
            trainer=AddingTrainer(device, rounds_left),
            training_unmet=tuple,
            upload_unmet=tuple,
            clock=SYSTEM_CLOCK,
            uniform=random.uniform,
            emit=lambda event, **fields: print(event, fields, flush=True),
            settings=RunnerSettings(
                retrain_after_seconds=0.0, local_rounds_max=1000, receipt_timeout_seconds=1.0, firmware="test"
            ),
        )
        runner.run()
    link.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

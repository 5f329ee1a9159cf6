"""When a device trains: starts the round that is due as soon as the policy allows it, and queues its update.

The trainer calls back before each batch. In that call the device does all its other work (`turn`), rests as its duty
cycle requires, and waits while the policy no longer allows training.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from device_client.events import Emit
from device_client.policy.duty_cycle import DutyCycle
from device_client.policy.gate import Gate
from device_client.trainer import Trained, Trainer, not_finite
from device_client.uplink.outbox import Outbox
from device_client.uplink.rounds import Round, after_failed_round, make_update, next_round, with_unmerged
from device_client.uplink.write_retry import WriteRetry
from wire_contract.compression.choice import EncodingChoice
from wire_contract.errors import EncodeError
from wire_contract.program.clock import Clock
from wire_contract.publication.manifest import PublishedVersion
from wire_contract.signatures.signing import SigningKey

PATIENCE_SECONDS = 0.25
"""Longest wait for an event of the link; a stop request, an open gate or a due round is noticed at most this late."""

Turn = Callable[[float], bool]
"""Does all other work, waiting for the link at most the given seconds. Returns whether to go on."""
DeviceMetrics = Callable[[], Mapping[str, float]]
"""Metrics of the device itself, by name (battery_percent); sent with each update."""


class TrainingSchedule:
    """Keeps the local student, which is stored in the outbox."""

    def __init__(
        self,
        *,
        task: str,
        outbox: Outbox,
        trainer: Trainer,
        gate: Gate,
        duty_cycle: DutyCycle,
        writes: WriteRetry,
        clock: Clock,
        emit: Emit,
        turn: Turn,
        encoding: EncodingChoice,
        local_rounds_max: int,
        retrain_after_seconds: float,
        signing_key: SigningKey | None = None,
        device_metrics: DeviceMetrics = dict,
        discarded: Callable[[str], object] = lambda _reason: None,
    ) -> None:
        """`discarded` is called with the reason when a round is discarded, and with nothing after one that is not."""
        self._task = task
        self._outbox = outbox
        self._trainer = trainer
        self._gate = gate
        self._duty_cycle = duty_cycle
        self._writes = writes
        self._clock = clock
        self._emit = emit
        self._turn = turn
        self._encoding = encoding
        self._local_rounds_max = local_rounds_max
        self._retrain_after_seconds = retrain_after_seconds
        self._signing_key = signing_key
        self._device_metrics = device_metrics
        self._discarded = discarded
        self._local_student = outbox.local_student()

    def due(self, newest: PublishedVersion) -> Round | None:
        """The round to train now; None: no round is due, or it has to wait.

        Args:
            newest: the newest model; it has the student's layout.
        """
        todo = next_round(
            newest,
            self._local_student,
            now=self._clock.unix(),
            rounds_max=self._local_rounds_max,
            retrain_after_seconds=self._retrain_after_seconds,
        )
        if todo is None:
            return None
        # No update is ever discarded to make room, so a full outbox stops training.
        reasons = []
        if self._outbox.is_full:
            reasons.append(f"the outbox is full ({len(self._outbox)} updates wait)")
        if self._writes.is_blocked:
            reasons.append("the disk takes no writes")
        return todo if self._gate.is_open(*reasons) else None

    def train(self, todo: Round) -> None:
        """Trains the round and queues its update. If it is stopped halfway, nothing is kept and the round is repeated.

        While the disk takes no writes, it keeps the result in memory while the device carries on.

        Raises:
            OutboxError: the outbox can no longer be read or written.
        """
        todo = with_unmerged(todo, self._outbox.unmerged())
        self._emit("training", base_version=todo.base.version, round=todo.number)
        self._duty_cycle.begin()
        trained = self._trainer.train(
            todo.start, version=todo.base.version, round=todo.number, tick=self._between_batches
        )
        if trained is None:
            return
        seconds = self._duty_cycle.seconds
        wrong = not_finite(trained)
        if not wrong:
            self._emit(
                "trained",
                base_version=todo.base.version,
                round=todo.number,
                steps=trained.steps,
                seconds=round(seconds, 3),
                metrics=trained.metrics,
                loss=trained.metrics.get("loss"),
                accuracy=trained.metrics.get("accuracy"),
            )
            self._queue(todo, replace(trained, metrics={**trained.metrics, **self._device_metrics()}), seconds)
        else:
            self._drop(todo, f"training diverged: {wrong}")
        self._rest()  # for the last batch; only after queueing, so that a kill while resting loses nothing

    def _queue(self, todo: Round, trained: Trained, seconds: float) -> None:
        identity = self._outbox.next_identity
        try:
            payload, student = make_update(
                todo,
                trained,
                task=self._task,
                identity=identity,
                encoding=self._encoding,
                train_seconds=seconds,
                now=self._clock.unix(),
                signing_key=self._signing_key,
            )
        except EncodeError as error:
            self._drop(todo, str(error))
            return
        if not self._written(lambda: self._outbox.add(identity, payload, student, carried_over=todo.carried_over)):
            return
        self._local_student = student
        self._discarded("")
        self._emit("queued", sequence=identity.sequence, base_version=todo.base.version, bytes=len(payload))

    def _drop(self, todo: Round, reason: str) -> None:
        """The round counts, so that a device does not train forever on a base that always diverges."""
        student = after_failed_round(todo, now=self._clock.unix())
        if not self._written(lambda: self._outbox.save_local_student(student, carried_over=todo.carried_over)):
            return
        self._local_student = student
        self._emit("warning", message=f"round {todo.number} on model {todo.base.version} is discarded: {reason}")
        self._discarded(reason)

    def _written(self, write: Callable[[], object]) -> bool:
        """Retries until the disk takes the write; False: stopped before that."""
        while not self._writes.try_write("round", write):
            if not self._turn(PATIENCE_SECONDS):
                return False
        return True

    def _between_batches(self) -> bool:
        """The tick of the trainer; returns whether training goes on."""
        goes_on = self._rest()
        held_since = self._clock.monotonic()
        while goes_on and not self._gate.is_open():
            goes_on = self._turn(PATIENCE_SECONDS)
        self._duty_cycle.resume(held_seconds=self._clock.monotonic() - held_since)
        return goes_on

    def _rest(self) -> bool:
        """Rests as long as the duty cycle requires, while serving the link. Returns whether to go on."""
        resting_until = self._duty_cycle.rest_until()
        goes_on = self._turn(0.0)
        while goes_on and (left := resting_until - self._clock.monotonic()) > 0:
            goes_on = self._turn(min(left, PATIENCE_SECONDS))
        return goes_on

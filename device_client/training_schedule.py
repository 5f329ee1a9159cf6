"""The learning half of a device: makes the round that is due, when it may, and leaves its update in the outbox.

While the trainer computes it calls back before each batch. In that call the device does everything else that it has to
do (`turn`), rests as its duty cycle wants it, and waits while the policy no longer lets it train.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from device_client.events import Emit
from device_client.policy.duty_cycle import Pace
from device_client.policy.gate import Gate
from device_client.trainer import Trained, Trainer, is_finite
from device_client.uplink.outbox import Outbox
from device_client.uplink.rounds import Round, dropped, make_update, next_round, telling_again
from device_client.uplink.write_retry import Disk
from wire_contract.compression.choice import EncodingChoice
from wire_contract.errors import EncodeError
from wire_contract.program.clock import Clock
from wire_contract.publication.manifest import Published
from wire_contract.signatures.signing import SigningKey

PATIENCE_SECONDS = 0.25
"""Longest wait for the link: so late at most a stop request, an open gate or a due round is seen."""

Turn = Callable[[float], bool]
"""Does all else, waiting for the link so many seconds at most. Whether the device goes on working."""
Vitals = Callable[[], Mapping[str, float]]
"""How the device itself is, by name (battery_percent); told with each update."""


class Study:
    """Knows the local student; it is kept in the outbox."""

    def __init__(
        self,
        *,
        task: str,
        outbox: Outbox,
        trainer: Trainer,
        gate: Gate,
        pace: Pace,
        disk: Disk,
        clock: Clock,
        emit: Emit,
        turn: Turn,
        encoding: EncodingChoice,
        local_rounds_max: int,
        retrain_after_seconds: float,
        signing_key: SigningKey | None = None,
        vitals: Vitals = dict,
    ) -> None:
        self._task = task
        self._outbox = outbox
        self._trainer = trainer
        self._gate = gate
        self._pace = pace
        self._disk = disk
        self._clock = clock
        self._emit = emit
        self._turn = turn
        self._encoding = encoding
        self._local_rounds_max = local_rounds_max
        self._retrain_after_seconds = retrain_after_seconds
        self._signing_key = signing_key
        self._vitals = vitals
        self._line = outbox.line()

    def due(self, newest: Published) -> Round | None:
        """The round to make now, if there is one and it may be made.

        Args:
            newest: the newest model; it fits the student.
        """
        todo = next_round(
            newest,
            self._line,
            now=self._clock.unix(),
            rounds_max=self._local_rounds_max,
            retrain_after_seconds=self._retrain_after_seconds,
        )
        if todo is None:
            return None
        # Nothing that was learned is thrown away, so a full outbox stops the learning.
        against = []
        if self._outbox.is_full:
            against.append(f"the outbox is full ({len(self._outbox)} updates wait)")
        if self._disk.is_blocked:
            against.append("the disk takes no writes")
        return todo if self._gate.is_open(*against) else None

    def make(self, todo: Round) -> None:
        """Trains, and queues the update. Stopped halfway: nothing has happened, the round is made anew.

        While the disk takes no write, it waits with what was learned, and the device does all else meanwhile.

        Raises:
            OutboxError: the outbox cannot be read or written any more.
        """
        todo = telling_again(todo, self._outbox.untold())
        self._emit("training", base_version=todo.base.version, round=todo.number)
        self._pace.begin()
        trained = self._trainer.train(
            todo.start, version=todo.base.version, round=todo.number, tick=self._between_batches
        )
        if trained is None:
            return
        seconds = self._pace.seconds
        if is_finite(trained):
            self._emit(
                "trained",
                base_version=todo.base.version,
                round=todo.number,
                steps=trained.steps,
                seconds=round(seconds, 3),
                loss=trained.metrics.get("loss"),
                accuracy=trained.metrics.get("accuracy"),
            )
            self._queue(todo, replace(trained, metrics={**trained.metrics, **self._vitals()}), seconds)
        else:
            self._drop(todo, "training diverged (a value is not finite)")
        self._rest()  # for the last batch, and only now: a kill while resting costs nothing

    def _queue(self, todo: Round, trained: Trained, seconds: float) -> None:
        identity = self._outbox.next_identity
        try:
            payload, line = make_update(
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
        if not self._written(lambda: self._outbox.add(identity, payload, line, retold=todo.retold)):
            return
        self._line = line
        self._emit("queued", sequence=identity.sequence, base_version=todo.base.version, bytes=len(payload))

    def _drop(self, todo: Round, reason: str) -> None:
        """The round counts, so that a base which always diverges is not trained on without end."""
        line = dropped(todo, now=self._clock.unix())
        if not self._written(lambda: self._outbox.save_line(line, retold=todo.retold)):
            return
        self._line = line
        self._emit("warning", message=f"round {todo.number} on model {todo.base.version} is dropped: {reason}")

    def _written(self, write: Callable[[], object]) -> bool:
        """Whether the disk took it; False: told to stop before that."""
        while not self._disk.takes("round", write):
            if not self._turn(PATIENCE_SECONDS):
                return False
        return True

    def _between_batches(self) -> bool:
        """Whether training may go on."""
        goes_on = self._rest()
        holding_since = self._clock.monotonic()
        while goes_on and not self._gate.is_open():
            goes_on = self._turn(PATIENCE_SECONDS)
        self._pace.resume(held_seconds=self._clock.monotonic() - holding_since)
        return goes_on

    def _rest(self) -> bool:
        """As long as the duty cycle wants it, with an ear at the link."""
        resting_until = self._pace.rest_until()
        goes_on = self._turn(0.0)
        while goes_on and (left := resting_until - self._clock.monotonic()) > 0:
            goes_on = self._turn(min(left, PATIENCE_SECONDS))
        return goes_on

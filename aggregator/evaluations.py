"""Evaluations: which of them count."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from aggregator.model_line import ModelLine
from wire_contract.codec import decode
from wire_contract.errors import DecodeError
from wire_contract.messages import Evaluation
from wire_contract.topics import ParsedTopic

log = logging.getLogger(__name__)

_NAMES_LOGGED_MAX = 256
"""Names of non-evaluators that are logged, once each; bounded because anybody can invent names."""


class Evaluated(NamedTuple):
    """An accepted evaluation."""

    evaluation: Evaluation
    size_bytes: int
    """Size of its payload."""


class EvaluationReader:
    """Decodes evaluations, and logs why one is ignored."""

    def __init__(self, is_evaluator: Callable[[str], bool]) -> None:
        """`is_evaluator` tells whether evaluations from a device of this name count."""
        self._is_evaluator = is_evaluator
        self._logged: set[str] = set()

    def read(self, topic: ParsedTopic, payload: bytes, line: ModelLine) -> Evaluated | None:
        """The evaluation in `payload`, or None if it is ignored."""
        device = topic.device
        if not self._is_evaluator(device):
            if device not in self._logged and len(self._logged) < _NAMES_LOGGED_MAX:
                self._logged.add(device)
                log.warning("ignored evaluations of %s: not an evaluator; see --evaluator", device)
            return None
        try:
            evaluation = decode(payload, Evaluation)
        except DecodeError as error:
            log.warning("ignored an evaluation of %s: %s", device, error)
            return None
        if evaluation.device != device or evaluation.task != topic.task:
            log.warning("ignored an evaluation of %s: it names another device or task", device)
            return None
        if not line.knows(evaluation.version, evaluation.digest):
            log.warning("ignored an evaluation of %s: no version %d here", device, evaluation.version)
            return None
        return Evaluated(evaluation, len(payload))

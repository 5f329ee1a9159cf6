"""A bounded number of damaged payloads in every test run; `make fuzz` takes a million. And: the fuzzer finds things."""

import pytest

from tests.fuzz import target
from tests.fuzz.batches import Finding, run_batch
from tests.fuzz.target import Seen
from wire_contract import codec
from wire_contract.encoding import low_rank
from wire_contract.errors import DecodeError

SEED = 1
BATCHES = 10


def test_damaged_payloads_are_messages_or_decode_errors() -> None:
    total = Seen()
    for batch in range(BATCHES):
        result = run_batch(batch, seed=SEED)
        assert not isinstance(result, Finding), str(result)
        total.add(result)
    assert total.payloads == 20_000
    assert total.decoded > 0.2 * total.payloads, "damage that is always found at once tries nothing behind the frame"
    assert total.values > 0.1 * total.payloads
    assert total.refused > 0.4 * total.payloads


def test_a_batch_is_the_same_again() -> None:
    one, again, other = (run_batch(batch, seed=7, payloads=100) for batch in (3, 3, 4))
    assert isinstance(one, Seen)
    assert isinstance(again, Seen)
    assert isinstance(other, Seen)
    counts = [(seen.decoded, seen.values, seen.refused) for seen in (one, again, other)]
    assert counts[0] == counts[1] != counts[2]


# Each check is broken once, and must go red.


def found(**settings: int) -> Finding:
    result = run_batch(0, seed=SEED, **settings)
    assert isinstance(result, Finding)
    return result


def test_an_exception_of_another_kind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_check_finite", lambda message: 1 // (getattr(message, "train_seconds", 1) != 0.5))
    finding = found()
    assert "ZeroDivisionError" in finding.what
    assert finding.payload.hex() in str(finding)
    assert "seed 1, batch 0" in str(finding)


def test_a_warning_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_care(left: object, right: object, out: object) -> None:
        _ = left, right, out
        import warnings  # noqa: PLC0415 - only here

        warnings.warn("overflow encountered", RuntimeWarning, stacklevel=1)

    monkeypatch.setattr(low_rank, "_product_into", without_care)
    assert "RuntimeWarning" in found().what


def test_too_much_memory_and_time_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(target, "MEMORY_BASE_BYTES", 100)
        patched.setattr(target, "MEMORY_PER_ELEMENT", 0)
        assert "bytes at once" in found().what
    monkeypatch.setattr(target, "SECONDS_MAX", 0.0)
    assert "CPU time" in found().what


def test_an_error_that_would_break_the_log_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_message: object) -> None:
        raise DecodeError("a\nb")

    monkeypatch.setattr(codec, "_check_finite", refuse)
    assert "reach the log" in found().what

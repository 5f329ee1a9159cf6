"""The doctor as a command: which checks run, in which order, and what a failed probe means."""

import contextlib
import dataclasses
import json
import logging
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence

from operations.doctor import access, capacity, connection, delivery
from operations.doctor.broker_under_test import CLEAN_UP_SECONDS_MAX, BrokerUnderTest, NotChecked, Role
from operations.doctor.client import OutOfTime, ProbeError, TimeBudget
from operations.doctor.finding import REACHABLE, Finding, exit_code
from operations.doctor.reachability import Reached, Unreached, reach
from operations.doctor.report import as_json, shown, summary
from operations.doctor.settings import PROBE_PREFIX, DoctorSettings
from wire_contract.errors import LinkError, TopicError
from wire_contract.link.mqtt import MqttSettings
from wire_contract.program.command_settings import UsageError
from wire_contract.program.exit_codes import INTERRUPTED
from wire_contract.topics import check_name

EXAMINATION_SECONDS_MAX = 50.0
"""For all checks; with cleaning up, the examination stays under a minute."""
REACH_SECONDS_MAX = 5.0
"""For name look-up, TCP and TLS."""

Check = Callable[[BrokerUnderTest], Iterator[Finding]]

CHECKS: Sequence[tuple[str, Check]] = (
    ("broker's memory", connection.identity),
    ("anonymous access", connection.anonymous_access),
    ("access", access.permissions),
    ("isolation", access.isolation),
    ("retained", delivery.retained),
    ("durable session", delivery.durable_session),
    ("newest only", delivery.unqueued),
    ("session's life", delivery.session_expiry),
    ("will", delivery.last_will),
    ("packet limit", capacity.packet_limit),
    ("queue limit", capacity.queue_and_flight),
    ("topic depth", delivery.depth),
    ("WebSocket", connection.websocket),
    ("QoS 1 redelivery", delivery.redelivery),
)
"""In this order: later checks need results of earlier ones, and the last may take half a minute."""


def main(settings: DoctorSettings) -> int:
    """Runs the examination and prints each finding as it is made; returns the exit code.

    Raises:
        UsageError: contradictory settings.
    """
    broker = broker_under_test(settings, TimeBudget(EXAMINATION_SECONDS_MAX))
    address = broker.roles["device"].address
    print(f"broker {address}, probed below {broker.root}/{broker.task}\n", flush=True)
    started = time.monotonic()
    findings = []
    # On SIGTERM as on Ctrl-C: cleans up the broker first.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _quiet(), contextlib.closing(examine(broker, now_unix=time.time())) as found:
            for finding in found:
                findings.append(finding)
                print(shown(finding, broker.kind), flush=True)
    except KeyboardInterrupt:
        print("doctor: interrupted; the remaining checks were not run", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    seconds = time.monotonic() - started
    print(f"\n{summary(findings, seconds)}")
    if settings.json_file is not None:
        report = as_json(findings, address=address, broker=broker.kind, seconds=seconds)
        try:
            settings.json_file.parent.mkdir(parents=True, exist_ok=True)
            settings.json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--json {settings.json_file}: {error.strerror}") from None
    return exit_code(findings)


def broker_under_test(settings: DoctorSettings, budget: TimeBudget) -> BrokerUnderTest:
    """The broker as the settings describe it, before any connection.

    Raises:
        UsageError: contradictory settings.
    """
    prefix = f"{PROBE_PREFIX}-{secrets.token_hex(4)}"
    task = settings.probe_task or prefix
    aggregator = _aggregator(settings)
    roles: dict[Role, MqttSettings] = {
        "device": _mqtt(settings, task),
        "aggregator": _mqtt(aggregator or settings, task),
    }
    return BrokerUnderTest(
        roles=roles,
        two_roles=aggregator is not None,
        root=settings.root,
        task=task,
        device=settings.device or _device(roles["device"].username, task),
        client_prefix=prefix,
        queue_messages=settings.queue_messages,
        websocket=_websocket(settings, roles["device"], task),
        budget=budget,
        protocol=settings.mqtt,
        kind=settings.kind,
    )


def _mqtt(settings: DoctorSettings, client_id: str) -> MqttSettings:
    return settings.model_copy(update={"client_id": None}).mqtt_settings(client_id=client_id)


def _aggregator(settings: DoctorSettings) -> DoctorSettings | None:
    """The settings with the aggregator's user; None: not given."""
    if settings.aggregator_username is None and settings.aggregator_certificate is None:
        return None
    return settings.model_copy(
        update={
            "broker": re.sub(r"://[^/]*@", "://", settings.broker),  # may contain the device's user
            "username": settings.aggregator_username,
            "password": settings.aggregator_password,
            "password_file": settings.aggregator_password_file,
            "tls_certificate": settings.aggregator_certificate,
            "tls_key": settings.aggregator_key,
        }
    )


def _websocket(settings: DoctorSettings, device: MqttSettings, client_id: str) -> MqttSettings | None:
    """The device's settings at the WebSocket listener; None: not given."""
    if not settings.websocket:
        return None
    changes: dict[str, object] = {"broker": settings.websocket, "username": device.username}
    if settings.websocket.startswith("ws://"):
        changes |= {"tls_ca": None, "tls_certificate": None, "tls_key": None}
    return dataclasses.replace(_mqtt(settings.model_copy(update=changes), client_id), password=device.password)


def _device(username: str | None, task: str) -> str:
    """The device name: the user name, as in access lists with one pattern for all devices."""
    try:
        return check_name(username or "", "device")
    except TopicError:
        return f"{task}-device"


def examine(broker: BrokerUnderTest, *, now_unix: float) -> Generator[Finding, None, None]:
    """Yields all findings; cleans up the broker, also if the caller stops early.

    Raises:
        UsageError: the given users have sessions in use.
    """
    device = broker.roles["device"]
    reached = reach(device.host, device.port, device.tls_context(), seconds_max=REACH_SECONDS_MAX, clock=time.monotonic)
    if isinstance(reached, Unreached):
        yield Finding(name=REACHABLE, verdict="missing", line=reached.line, advice=reached.advice)
        return
    broker.is_local, broker.certificate_ends_unix = reached.is_local, reached.certificate_ends_unix
    try:
        yield from _inside(broker, reached, now_unix)
    finally:
        left = broker.clean_up(TimeBudget(CLEAN_UP_SECONDS_MAX))
    if left:
        line = f"could not be removed: {', '.join(left)}"
        yield Finding(name="cleaning up", verdict="warning", line=line, advice="delete it by hand")


def _inside(broker: BrokerUnderTest, reached: Reached, now_unix: float) -> Iterator[Finding]:
    """The checks from the first CONNECT on."""
    try:
        entered = list(connection.versions_and_login(broker))
    except connection.CannotContinue as none:
        if none.finding.name != REACHABLE:
            yield _reached(reached.seconds)
        yield none.finding
        return
    yield _reached(reached.seconds)
    yield from connection.encryption(broker, now_unix)
    yield from entered
    for name, check in CHECKS:
        yield from guarded(name, check, broker)


def _reached(seconds: float) -> Finding:
    return Finding(name=REACHABLE, verdict="ok", line=f"answered in {1000 * seconds:.0f} ms")


def guarded(name: str, check: Check, broker: BrokerUnderTest) -> Iterator[Finding]:
    """The findings of one check; if it cannot be completed, that is a finding as well."""
    try:
        broker.budget.limit(1.0)
        yield from check(broker)
    except NotChecked as needed:
        yield Finding(name=name, verdict="not checked", line=str(needed))
    except OutOfTime as late:
        yield Finding(name=name, verdict="not checked", line=str(late))
    except (ProbeError, LinkError) as error:
        line = f"the check failed: {error}"
        yield Finding(name=name, verdict="missing", line=line, advice="look at the broker's log")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the link's warnings, which the findings report better."""
    log = logging.getLogger("wire_contract")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)

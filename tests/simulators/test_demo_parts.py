"""The parts of the demo: who is like what, lines, processes, stories, the balance of both ledgers, the views."""

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from device_client.uplink.outbox import Outbox
from device_client.uplink.rounds import Line as LocalLine
from operations.proxy import Exchange, Line, Target
from simulators.__main__ import PROGRAM, main
from simulators.audit.exactly_once import OutboxCount, Sent, balance, read_outbox
from simulators.demo.baselines import budget_epochs
from simulators.demo.calibration import OVERHEAD, versions_within
from simulators.demo.command import Interrupted, interruptible
from simulators.demo.connection import Wiring
from simulators.demo.plan import CHARACTERS, Plan, characters
from simulators.processes import orphan_guard
from simulators.processes.processes import ChildDied, Processes, child_environment
from simulators.processes.signals import interruptions_deferred
from simulators.reporting.baselines import Baselines
from simulators.reporting.device_timeline import EventLines, Story
from simulators.reporting.frame import sparkline
from simulators.reporting.live_view import LiveView, PlainView
from simulators.reporting.snapshot import DeviceRow, Scene
from tests.waiting import PATIENCE_SECONDS, eventually

# --- the plan -------------------------------------------------------------------------------------------------------


def test_every_kind_of_trouble_occurs_and_never_two_at_once() -> None:
    absences = sorted(
        (absence for character in CHARACTERS for absence in character.absences), key=lambda absence: absence.begin
    )
    assert {absence.kind for absence in absences} == {"offline", "killed", "held"}
    assert all(0 < absence.begin < absence.end < 1 for absence in absences)
    assert all(one.end <= other.begin for one, other in pairwise(absences))
    duties = [character.duty_cycle for character in CHARACTERS]
    assert max(duties) == pytest.approx(10 * min(duties))


@pytest.mark.parametrize(("devices", "expected"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 4), (12, 8)])
def test_versions_come_with_one_away_and_one_slow(devices: int, expected: int) -> None:
    assert Plan.of(devices).updates_per_version == expected


@pytest.mark.parametrize(
    ("seconds", "cores", "expected"),
    [(60.3, 2, 100), (60.3, 1, 50), (30.3, 2, 50), (0.01, 2, 1), (1e6, 2, Plan.of(6).versions)],
)
def test_as_many_versions_as_there_is_time_for(seconds: float, cores: int, expected: int) -> None:
    """Of 4 updates of 2 epochs of 0.05 s, three times: the federation, pooled, and alone."""
    epoch_seconds = 0.05 / OVERHEAD
    assert versions_within(seconds, Plan.of(6), epochs=2, epoch_seconds=epoch_seconds, cores=cores) == expected


def test_pace_is_measured_or_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pace", "--task", f"{Path(__file__).parents[2]}/examples/own_task.py:task"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["epoch_seconds"] < PATIENCE_SECONDS
    assert main(["pace", "--task", "nothing"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_more_devices_than_characters() -> None:
    names = [f"person-{number}" for number in range(len(CHARACTERS) + 1)]
    assert characters(names)[names[-1]] == CHARACTERS[0]


def test_budget_of_the_baselines_is_that_of_the_federation() -> None:
    assert budget_epochs(versions=60, updates_per_version=3, epochs=2, devices=6) == 60


# --- lines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(4_096):
                    peer.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def line(echo: int) -> Iterator[Line]:
    with Exchange(Target(host="127.0.0.1", port=echo)) as exchange:
        yield exchange.line()


def connect(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=PATIENCE_SECONDS)


def hung_up(device: socket.socket) -> bool:
    """Whether the other end is gone, in order or not."""
    try:
        return device.recv(10) == b""
    except ConnectionResetError:
        return True


def test_a_line_carries_and_counts(line: Line) -> None:
    with connect(line) as device:
        device.sendall(b"12345")
        assert device.recv(10) == b"12345"
    assert (line.bytes_up, line.bytes_down) == (5, 5)


def test_a_cut_ends_the_connection_and_holds_the_next_one_until_it_is_mended(line: Line) -> None:
    with connect(line) as device:
        device.sendall(b"1")
        assert device.recv(10) == b"1"
        line.cut()
        assert hung_up(device)
    with connect(line) as device:
        device.sendall(b"2")
        device.settimeout(0.1)
        with pytest.raises(TimeoutError):
            device.recv(10)
        device.settimeout(PATIENCE_SECONDS)
        line.mend()
        assert device.recv(10) == b"2"


def test_who_hung_up_while_the_line_was_cut_is_not_put_through(line: Line) -> None:
    line.cut()
    with connect(line) as gone:
        gone.sendall(b"old")
    line.mend()
    with connect(line) as device:
        device.sendall(b"new")
        assert device.recv(10) == b"new"
    assert line.bytes_up == 3


def test_a_line_without_a_broker_behind_it_hangs_up() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = Target(host="127.0.0.1", port=unused.getsockname()[1])
        with Exchange(target) as exchange, connect(exchange.line()) as device:
            device.sendall(b"1")
            assert hung_up(device)


def test_wiring_hides_the_password_and_leads_over_the_line() -> None:
    wiring = Wiring(
        broker="wss://broker.example:443/mqtt",
        root="fedkd/demo-1",
        protocol="auto",
        environment={"FEDKD_PASSWORD": "secret"},
        tls_flags=("--tls-ca", "ca.pem"),
    )
    near, far = wiring.arguments("a", task="t", line_port=1234), wiring.arguments("a", task="t")
    assert "ws://127.0.0.1:1234/mqtt" in near
    assert "--tls-ca" not in near
    assert far[-4:] == ["--broker", "wss://broker.example:443/mqtt", "--tls-ca", "ca.pem"]
    assert not any("secret" in argument for argument in near + far)


# --- processes ------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except OSError:
        return False


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)


def test_leaving_ends_everybody_even_the_stubborn(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("stubborn", ["-c", STUBBORN])
        eventually(lambda: child.last_lines() == ["ready"])
        processes.stop(child, patience_seconds=0.1)
        other = processes.start("usual", ["-c", "import time; time.sleep(600)"])
    assert child.process.returncode == -signal.SIGKILL
    assert other.process.returncode == -signal.SIGTERM


def test_an_unexpected_end_names_the_program_and_its_last_words(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("broken", ["-c", "import sys; print('one'); sys.exit('two')"])
        child.process.wait()
        with pytest.raises(ChildDied, match=r"broken ended with code 1 [\s\S]*\| one\n  \| two"):
            processes.check()


def test_who_is_not_needed_may_fail(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("baseline", ["-c", "import sys; sys.exit(3)"], lasting=False, needed=False)
        child.process.wait()
        processes.check()
    assert child.process.returncode == 3


def test_who_has_done_its_work_may_end(tmp_path: Path) -> None:
    with Processes(tmp_path) as processes:
        child = processes.start("teacher", ["-c", "pass"], lasting=False)
        child.process.wait()
        processes.check()
        killed = processes.start("device", ["-c", "import time; time.sleep(600)"])
        processes.kill(killed)
        processes.check()


def test_nobody_outlives_a_demo_that_is_killed_by_force(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from simulators.processes.processes import Processes\n"
        f"p = Processes(Path({str(tmp_path)!r})); c = p.start('c', ['-c', 'import time; time.sleep(600)'])\n"
        "print(c.process.pid, flush=True); time.sleep(600)"
    )
    demo = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=child_environment(os.environ), text=True
    )
    assert demo.stdout is not None
    pid = int(demo.stdout.readline())
    assert alive(pid)
    demo.kill()
    demo.wait()
    demo.stdout.close()
    eventually(lambda: not alive(pid))


def test_the_leash_holds_who_was_not_taken_back() -> None:
    assert orphan_guard.left_at_the_end(["+1\n", "+2\n", "-1\n", "-7\n"]) == {2}


def test_children_do_not_inherit_the_users_federation() -> None:
    inherited = child_environment({"FEDKD_BROKER": "mqtt://real", "FEDKD_WHEEL_FOLDER": "w", "HOME": "h"})
    assert "FEDKD_BROKER" not in inherited
    assert inherited["FEDKD_WHEEL_FOLDER"] == "w"
    assert inherited["HOME"] == "h"


def test_a_signal_interrupts_once() -> None:
    tidied = []

    def work() -> None:
        with interruptible():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)  # while tidying up: nothing happens
                tidied.append(True)

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert tidied


def test_an_interruption_waits_until_a_new_program_is_known() -> None:
    steps = []

    def work() -> None:
        with interruptible(), interruptions_deferred():
            signal.raise_signal(signal.SIGINT)
            steps.append("known")

    with pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert steps == ["known"]


# --- stories --------------------------------------------------------------------------------------------------------


def test_a_story_out_of_event_lines(tmp_path: Path) -> None:
    lines = [
        {"at": 1.0, "event": "started", "task": "t", "device": "d", "pid": 1},
        {"at": 1.1, "event": "connected", "session_present": False},
        {"at": 1.2, "event": "model", "version": 0, "bytes": 10},
        {"at": 2.0, "event": "training", "base_version": 0, "round": 1},
        {"at": 3.0, "event": "trained", "base_version": 0, "round": 1},
        {"at": 3.1, "event": "queued", "sequence": 1, "base_version": 0, "bytes": 5},
        {"at": 3.2, "event": "held", "what": "upload", "reasons": ["not charging"]},
    ]
    path, story = tmp_path / "events", Story(device="d")
    reader = EventLines(path)
    assert list(reader.new()) == []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "Traceback\n" + '{"at": 4.0, "ev')
    for event in reader.new():
        story.take(event)
    assert (story.state, story.held_reason, story.made, story.base_version) == ("held", "not charging", 1, 0)
    with path.open("a") as file:
        file.write('ent": "released", "what": "upload"}\n')
        file.write('{"at": 5, "event": "sent", "sequence": 1, "attempt": 1, "bytes": 5}\n')
    for event in reader.new():
        story.take(event)
    assert story.state == "sending"
    story.take({"at": 6, "event": "receipt", "sequence": 1, "outcome": "merged", "staleness": 4, "reason": None})
    assert (story.state, story.merged, story.staleness) == ("waiting", 1, [4])
    assert [(span.kind, span.start, span.stop) for span in story.spans] == [("training", 2.0, 3.0)]


def test_a_kill_ends_the_training_and_is_shown_before_all_else() -> None:
    story = Story(device="d")
    story.take({"at": 1, "event": "training", "base_version": 0, "round": 1})
    story.trouble("killed", 2.0)
    assert story.state == "killed"
    story.over("killed", 5.0)
    assert [(span.kind, span.stop) for span in story.spans] == [("training", 2.0), ("killed", 5.0)]
    assert story.state == "starting"


@pytest.mark.parametrize(
    "end", [{"event": "held", "what": "training", "reasons": ["battery"]}, {"event": "stopped"}], ids=str
)
def test_a_round_that_is_given_up_is_no_training_any_more(end: dict[str, object]) -> None:
    """The battery is low: the device gives up its round, which no event names."""
    story = Story(device="d")
    for at, event in enumerate(({"event": "training", "base_version": 4, "round": 1}, end), start=1):
        story.take(event | {"at": float(at)})
    assert story.state != "training"
    story.finish(9.0)
    assert [(span.kind, span.start, span.stop) for span in story.spans] == [("training", 1.0, 2.0)]


def test_refused_for_the_rate_is_not_refused_for_ever() -> None:
    story = Story(device="d")
    for reason in ("rate", "norm"):
        story.take({"at": 1, "event": "receipt", "sequence": 3, "outcome": "refused", "reason": reason})
    assert story.refused == {3: "norm"}


# --- the balance ----------------------------------------------------------------------------------------------------


def count(device: str, last: int, **waiting: int) -> OutboxCount:
    return OutboxCount(
        device=device, incarnation="aa", last_sequence=last, waiting={int(k[1:]): v for k, v in waiting.items()}
    )


def test_sent_is_what_left_the_device_at_least_once() -> None:
    assert count("a", 4, s3=2, s4=0).sent == {Sent("a", "aa", 1), Sent("a", "aa", 2), Sent("a", "aa", 3)}


def test_both_ledgers_agree() -> None:
    compared = balance([count("a", 2), count("b", 2)], {"b": [1]}, [("a", 1), ("b", 2), ("a", 2)])
    assert compared.agrees
    assert "3 updates merged, exactly the 4 sent" in str(compared)


def test_what_still_waits_in_an_outbox_is_not_lost() -> None:
    """A slow machine may end a run before every receipt has come."""
    compared = balance([count("a", 4, s2=1, s3=3, s4=0)], {}, [("a", 1), ("a", 2)])
    assert compared.agrees
    assert "exactly the 3 sent without the 0 refused and the 1 that still wait" in str(compared)
    assert not balance([count("a", 4, s3=3)], {}, [("a", 1), ("a", 2)]).agrees, (
        "4 has left the outbox without a receipt"
    )


@pytest.mark.parametrize(
    ("merged", "word"),
    [
        ([("a", 1)], "missing: a 2"),
        ([("a", 1), ("a", 2), ("a", 2)], "unexpected: a 2"),
        ([("a", 1), ("a", 2), ("x", 1)], "unexpected: x 1"),
        ([("a", 1), ("x", 1)], "missing: a 2; unexpected: x 1"),
    ],
)
def test_each_kind_of_difference_is_found_and_named(merged: list[tuple[str, int]], word: str) -> None:
    compared = balance([count("a", 2)], {}, merged)
    assert not compared.agrees
    assert word in str(compared)


def test_a_real_outbox_is_read_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    assert read_outbox(path, device="a") is None
    local = LocalLine(0, bytes(32), 1, np.zeros(3, dtype=np.float32), 1.0)
    with Outbox(path, task="t", device="a") as outbox:
        for payload in (b"1", b"2", b"3"):
            outbox.add(outbox.next_identity, payload, local)
        head = outbox.head()
        assert head is not None
        outbox.attempted(head)
        outbox.settle(1)
        outbox.record()
        second = outbox.head()
        assert second is not None
        outbox.attempted(second)
        found = read_outbox(path, device="a")
        assert found is not None
        assert found.incarnation == outbox.incarnation.hex()
    assert (found.last_sequence, dict(found.waiting)) == (3, {2: 1, 3: 0})
    assert {one.sequence for one in found.sent} == {1, 2}


def test_an_outbox_that_is_just_being_made_is_none_yet(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    sqlite3.connect(path).close()
    assert read_outbox(path, device="a") is None


# --- baselines and views --------------------------------------------------------------------------------------------


def test_baselines_out_of_their_lines() -> None:
    baselines = Baselines(epochs=3)
    baselines.take({"who": "centralised", "metrics": {"accuracy": 0.9}})
    for device, accuracy in (("a", 0.5), ("b", 0.7)):
        assert not baselines.is_complete("ab")
        baselines.take({"who": "local", "device": device, "metrics": {"accuracy": accuracy}})
    assert baselines.is_complete("ab")
    assert baselines.local_mean() == pytest.approx(0.6)


def test_baselines_that_were_not_measured_are_named() -> None:
    baselines = Baselines(epochs=3)
    assert (baselines.pooled(), baselines.local_mean()) == (None, None)
    assert baselines.missing(["a", "b"]) == ("pooled data", "a alone", "b alone")
    baselines.take({"who": "local", "device": "b", "metrics": {"accuracy": 0.7}})
    assert baselines.missing(["a", "b"]) == ("pooled data", "a alone")
    assert baselines.local_mean() == 0.7


def scene(stage: str = "federation") -> Scene:
    row = DeviceRow(
        name="person-03",
        title="fast",
        state="offline",
        detail=" (2 kept)",
        base_version=4,
        staleness_last=1,
        waiting=2,
        merged=5,
        bytes_up=21_000,
        bytes_down=42_000,
    )
    return Scene(
        stage=stage,
        seconds=12.0,
        version=6,
        versions_planned=60,
        accuracies=(0.1, 0.5, 0.812),
        accuracy_version=6,
        merged=18,
        staleness_mean=1.5,
        devices=(row,),
        notes=("pooled data 87.6%",),
    )


def test_plain_lines_come_at_their_pace_and_with_each_stage() -> None:
    lines: list[str] = []
    now = [0.0]
    with PlainView(lines.append, clock=lambda: now[0]) as view:
        view.show(scene())
        now[0] = 4.9
        view.show(scene())
        view.news(5.0, "person-03 is back")
        view.show(scene("outboxes drain"))
        now[0] = 10.0
        view.show(scene("outboxes drain"))
    assert len(lines) == 4
    assert "version 6/60" in lines[0]
    assert "person-03 offline" in lines[0]
    assert lines[1].endswith("person-03 is back")


def test_live_view_shows_what_matters() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, color_system=None)
    with LiveView(console) as view:
        view.news(3.0, "person-03 has lost its connection")
        view.show(scene())
    shown = out.getvalue()
    for expected in ("version 6 of 60", "81.2%", "person-03", "● offline (2 kept)", "18 updates merged", "pooled data"):
        assert expected in shown


def test_sparkline_is_bounded() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline([0.5] * 500, columns=40)) == 40


# --- the command ----------------------------------------------------------------------------------------------------


def test_contents_and_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in PROGRAM.commands)
    assert main(["dance"]) == 2
    assert main(["demo", "--versions", "none"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2

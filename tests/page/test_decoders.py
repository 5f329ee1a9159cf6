"""The page's decoders against the project's own: the test vectors, and damaged bytes that both must judge alike."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import lz4.frame
import msgpack
import pytest

from operations.watch.server import PageServer
from operations.watch.settings import PageConfig
from tests.page.browser import Browser, Page
from tests.vectors.form import load
from wire_contract.codec import decode
from wire_contract.errors import DecodeError
from wire_contract.messages import AggregatorStatus, Evaluation, Manifest, Presence
from wire_contract.signatures import envelope

READ: dict[str, tuple[str, Callable[[bytes], object]]] = {
    "Manifest": ("readManifest", lambda payload: envelope.read_unverified(payload, Manifest)),
    "Presence": ("readPresence", lambda payload: decode(payload, Presence)),
    "Evaluation": ("readEvaluation", lambda payload: decode(payload, Evaluation)),
    "AggregatorStatus": ("readStatus", lambda payload: decode(payload, AggregatorStatus)),
}
"""What the page reads, with what, and with what the project does."""

NO_TEXT = "refused for its text"
"""The page decodes the text of unknown fields, which the project passes over unread: the one thing it refuses alone."""

BEGIN = f"({(Path(__file__).parent / 'workbench.js').read_text(encoding='utf-8').strip()})({json.dumps(NO_TEXT)})"


@pytest.fixture(scope="module")
def workbench(browser: Browser) -> Iterator[Page]:
    """A page with the modules at hand, that looks for a broker in vain."""
    with PageServer(PageConfig(websocket="ws://127.0.0.1:9/", root="nobody", task=None), port=0) as server:
        page = browser.open(server.url)
        page.run(BEGIN)
        yield page
        page.close()


def told(payloads: list[bytes], reader: str, page: Page) -> list[str]:
    """What the page's reader makes of each: read, refused, or an exception that nobody expects."""
    listed = json.dumps([payload.hex() for payload in payloads])
    script = f"{listed}.map((hex) => judged(() => {{ messages.{reader}(bytes(hex)); return 'read'; }}))"
    answers: list[str] = page.run(script)
    return answers


def judged(payload: bytes, read: Callable[[bytes], object]) -> str:
    try:
        read(payload)
    except DecodeError:
        return "refused"
    return "read"


@pytest.mark.parametrize("vector", load("messages"), ids=lambda vector: str(vector["name"]))
def test_every_message_vector_decodes_to_its_values(workbench: Page, vector: dict[str, Any]) -> None:
    payload = vector["payload"]
    assert workbench.run(f"hex(frame.unframed(bytes('{payload}'), wide))") == vector["content"]
    found = workbench.run(f"plain(msgpack.unpack(bytes('{vector['content']}')))")
    if vector["canonical"]:
        assert found == vector["message"]
    if vector["kind"] in READ:
        assert told([bytes.fromhex(payload)], READ[vector["kind"]][0], workbench) == ["read"]


@pytest.mark.parametrize(
    ("name", "key", "main"),
    [
        ("aggregator status with a summary", "e", ["accuracy", True]),
        ("aggregator status with a summary of another main metric", "ev", ["mae", False]),
    ],
)
def test_a_status_says_what_its_vector_says(workbench: Page, name: str, key: str, main: list[object]) -> None:
    [vector] = [vector for vector in load("messages") if vector["name"] == name]
    summary = workbench.run(f"messages.readStatus(bytes('{vector['payload']}')).summary")
    message = vector["message"]["s"]
    assert [[told[part] for part in ("version", "evaluator", "value", "at")] for told in summary["evaluations"]] == (
        message[key]
    )
    assert all(list(told["main"].values()) == main for told in summary["evaluations"])
    assert [list(bucket.values()) for bucket in summary["staleness"]] == message["h"]
    assert [list(seen.values()) for seen in summary["devices"]] == message["k"]
    named = [summary[name] for name in ("at", "since", "updatesPerMinute", "bytesUp", "bytesDown")]
    assert named == [message[key] for key in ("at", "a", "r", "u", "w")]


def test_every_refused_vector_is_refused(workbench: Page) -> None:
    vectors = load("refused_payloads")
    for kind, (reader, _) in READ.items():
        of_kind = [bytes.fromhex(vector["payload"]) for vector in vectors if vector["kind"] == kind]
        assert set(told(of_kind, reader, workbench)) <= {"refused"}, kind
    broken_frames = [bytes.fromhex(vector["payload"]) for vector in vectors if vector["error"] == "frame"]
    assert len(broken_frames) > 5
    assert set(told(broken_frames, "readPresence", workbench)) == {"refused"}


def test_frames_of_every_form_are_read(workbench: Page) -> None:
    random = Random(5)
    parts = [b"a", b"abcd" * 40_000, random.randbytes(70_000), bytes(200_000) + random.randbytes(99)]
    forms = [
        {"block_size": size, "block_linked": linked, "content_checksum": content, "block_checksum": block}
        for size in (lz4.frame.BLOCKSIZE_MAX64KB, lz4.frame.BLOCKSIZE_MAX256KB)
        for linked in (True, False)
        for content in (True, False)
        for block in (True, False)
    ]
    for content in parts:
        for form in forms:
            payload = bytes(lz4.frame.compress(content, store_size=True, **form))
            listed = f"frame.unframed(bytes('{payload.hex()}'), wide)"
            assert workbench.run(f"frame.xxh32({listed}) + ':' + {listed}.length") == (
                f"{workbench.run(f'frame.xxh32(bytes({content.hex()!r}))')}:{len(content)}"
            )
            if form["content_checksum"]:  # the checksum is its last four bytes
                wrong = payload[:-1] + bytes([payload[-1] ^ 1])
                assert told([wrong], "readManifest", workbench) == ["refused"]


def damaged(payload: bytes, random: Random) -> bytes:
    """Cut, longer, with bits turned; every other time the frame is whole and what is in it is damaged."""
    inside = random.random() < 0.6
    spoiled = bytearray(lz4.frame.decompress(payload) if inside else payload)
    for _ in range(random.choice([1, 1, 2, 8])):
        match random.randrange(5):
            case 0:
                spoiled[random.randrange(len(spoiled))] ^= 1 << random.randrange(8)
            case 1:
                spoiled[random.randrange(len(spoiled))] = random.choice([0xC0, 0xC1, 0xD9, 0xDD, 0xDF, 0xCB, 0xFF])
            case 2:
                del spoiled[random.randrange(len(spoiled)) :]
                spoiled = spoiled or bytearray(b"\x80")
            case 3:
                at = random.randrange(len(spoiled))
                spoiled[at:at] = random.randbytes(random.randrange(1, 6))
            case _:
                at = random.randrange(len(spoiled))
                del spoiled[at : at + random.randrange(1, 4)]
                spoiled = spoiled or bytearray(b"\x80")
    return bytes(lz4.frame.compress(bytes(spoiled), store_size=True)) if inside else bytes(spoiled)


@pytest.mark.parametrize("kind", READ)
def test_damaged_bytes_are_judged_as_the_project_judges_them(workbench: Page, kind: str) -> None:
    reader, read = READ[kind]
    random = Random(kind)
    sound = [bytes.fromhex(vector["payload"]) for vector in load("messages") if vector["kind"] == kind]
    sound += [bytes.fromhex(v["payload"]) for v in load("messages") if kind == "Manifest" and "signed man" in v["name"]]
    payloads = [damaged(random.choice(sound), random) for _ in range(1_500)]
    before = workbench.call("Runtime.getHeapUsage")["usedSize"]
    ours, theirs = told(payloads, reader, workbench), [judged(payload, read) for payload in payloads]
    pairs = zip(payloads, ours, theirs, strict=True)
    odd = [(payload.hex(), own, other) for payload, own, other in pairs if own not in {other, NO_TEXT}]
    assert not odd, (len(odd), odd[:3])
    alone = [own for own, other in zip(ours, theirs, strict=True) if own == NO_TEXT and other == "read"]
    assert len(alone) < len(ours) / 20
    assert 50 < ours.count("refused") < len(ours), "both answers were asked for"
    workbench.call("HeapProfiler.collectGarbage")
    assert workbench.call("Runtime.getHeapUsage")["usedSize"] - before < 16 << 20


def test_what_promises_much_gets_nothing(workbench: Page) -> None:
    def framed(content: bytes) -> bytes:
        return bytes(lz4.frame.compress(content, store_size=True))

    honest = bytearray(framed(bytes(1 << 20)))
    liar = bytearray(framed(b"\x81\xa1v\x01"))
    liar[6:14] = (1 << 40).to_bytes(8, "little")
    bombs = {
        "a megabyte of nothing": bytes(honest),
        "a frame that states a terabyte": bytes(liar),
        "a list of 2^32 - 1": framed(b"\x81\xa1v\xdd\xff\xff\xff\xff"),
        "a map of 2^32 - 1": framed(b"\xdf\xff\xff\xff\xff"),
        "bytes of 4 GiB": framed(b"\x81\xa1v\xc6\xff\xff\xff\xff"),
        "lists in lists": framed(b"\x81\xa1v" + b"\x91" * 200_000 + b"\xc0"),
        "many lists in one": framed(b"\x82\xa1v\x01\xa1z\xdd\x00\x03\x00\x00" + b"\x90" * 0x30000),
        "over the size of a packet": b"\x04\x22\x4d\x18" + bytes(1 << 20),
    }
    before = workbench.call("Runtime.getHeapUsage")["usedSize"]
    for reader, _ in READ.values():
        answers = dict(zip(bombs, told(list(bombs.values()), reader, workbench), strict=True))
        assert set(answers.values()) == {"refused"}, (reader, answers)
    many = (b"\xdd\x00\x03\x00\x00" + b"\x90" * 0x30000).hex()
    assert workbench.run(f"judged(() => msgpack.unpack(bytes('{many}')))") == "refused", "too many values"
    workbench.call("HeapProfiler.collectGarbage")
    assert workbench.call("Runtime.getHeapUsage")["usedSize"] - before < 16 << 20


def test_numbers_are_those_of_msgpack(workbench: Page) -> None:
    values = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53, -1, -32, -33, -128, -129, -32_769]
    values += [-(2**31), -(2**31) - 1, -(2**53), 0.5, -1e300, None, True, False, "ü" * 40, "a" * 70_000, [1] * 20, []]
    for value in values:
        packed = msgpack.packb(value).hex()
        assert workbench.run(f"plain(msgpack.unpack(bytes('{packed}')))") == value
    assert workbench.run(f"plain(msgpack.unpack(bytes('{msgpack.packb(0.5, use_single_float=True).hex()}')))") == 0.5


def test_packets_may_come_in_any_pieces(workbench: Page) -> None:
    publish = "[0x32, 9, 0, 3, 97, 47, 98, 1, 2, 7, 8]"
    script = f"""(() => {{
      const stream = Uint8Array.from([...{publish}, 0x20, 2, 0, 0, ...{publish}]);
      const told = (packets) => JSON.stringify(packets.map((p) => p.type === 3 ? mqtt.publication(p) : [...p.body]));
      const whole = told(new mqtt.Packets().take(stream));
      const byOne = new mqtt.Packets();
      const pieces = told([...stream].flatMap((byte) => byOne.take(Uint8Array.of(byte))));
      const small = new mqtt.Packets(5);
      const cut = [...stream].flatMap((byte) => small.take(Uint8Array.of(byte)));
      return {{ whole, same: whole === pieces, left: cut.map((p) => p.type), skipped: small.skipped }};
    }})()"""
    found = workbench.run(script)
    assert found["same"]
    first, connack, _ = json.loads(found["whole"])
    assert (first["topic"], first["id"], connack) == ("a/b", 258, [0, 0])
    assert (found["left"], found["skipped"]) == ([2], 2), "what is too large is passed over, what follows is read"
    for hostile in ("[0x30, 0xff, 0xff, 0xff, 0xff, 1]", "[0x30, 1, 0]", "[0x36, 4, 0, 0, 0, 0]", "[0x32, 3, 0, 9, 0]"):
        assert workbench.run(f"isNoPacket(Uint8Array.from({hostile}))") is True, hostile


def test_waiting_grows_has_full_jitter_and_an_end(workbench: Page) -> None:
    script = """[0.25, 1].map((chance) => {
      const seconds = [];
      const client = new mqtt.Client({ url: "ws://127.0.0.1:9/", username: null, password: null, filters: [],
        random: () => chance, on: { state: (state) => seconds.push(state.seconds), message() {}, broken() {} } });
      for (let time = 0; time < 7; time += 1) client.retry("nothing there");
      client.stop();
      return seconds; })"""
    assert workbench.run(script) == [[0.25, 0.5, 1, 2, 3.75, 3.75, 3.75], [1, 2, 4, 8, 15, 15, 15]]


def test_axes_have_round_ticks(workbench: Page) -> None:
    for low, high, expected in ((0, 57, [0, 20, 40]), (0.4, 1, [0.4, 0.6, 0.8, 1]), (3, 3, [3]), (0, 0.9, [0, 0.5])):
        found = workbench.run(f"charts.ticks({low}, {high}, 3)")
        assert found == expected, (low, high)
    assert workbench.run("metric.axisRange([0.5, 0.893], true)") == [0.5, 0.9]
    assert workbench.run("metric.axisRange([1, 1], true)") == [0.8, 1]
    assert workbench.run("metric.axisRange([0], true)") == [0, 0.2]


def test_a_page_of_one_task_takes_nothing_of_another(workbench: Page) -> None:
    """A broker may send what nobody asked for."""
    [vector] = [vector for vector in load("messages") if vector["name"] == "aggregator status with a summary"]
    script = f"""
        (async () => {{
            const {{ Watch }} = await import('./state.js');
            return [null, 'mine', 'other'].map((only) => {{
                const watch = new Watch('fedkd/v1', only);
                watch.take({{ topic: 'fedkd/v1/other/aggregator/0', payload: bytes('{vector["payload"]}') }}, 0);
                return [...watch.tasks.keys()].join();
            }});
        }})()
    """
    assert workbench.run(script) == ["other", "", "other"]

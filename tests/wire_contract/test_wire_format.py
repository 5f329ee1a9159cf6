"""docs/wire-format.md says what the code says: each name, key, limit and reason; its C decoder is compiled and run."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import get_args

import msgspec
import numpy as np
import pytest

from tests.vectors import bit_by_bit
from tests.vectors.form import load
from wire_contract import codec, limits, topics
from wire_contract.codec import SCHEMAS
from wire_contract.encoding import EncodedTensor, decode_vector, scales
from wire_contract.encoding.gap_coded import encode_levels
from wire_contract.encoding.heads import LEVELS_MAX
from wire_contract.encoding.low_rank import RANK_MAX
from wire_contract.encoding.subsets import SET_MAX
from wire_contract.errors import TopicError
from wire_contract.layout import Vector
from wire_contract.line_description import LineDescription
from wire_contract.message_fields import Grid, Outcome, RefusalReason, Status
from wire_contract.messages import Delta, Message
from wire_contract.publication.deltas import GRIDS
from wire_contract.publication.manifest import decode_snapshot
from wire_contract.summary import Summary

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text()
UNITS = {"MIB", "KIB"}


def section(title: str) -> str:
    """What stands below a heading that begins with `title`, up to the next one of its depth."""
    found = re.search(rf"^(#+) {re.escape(title)}.*?$(.*?)(?=^\1 |^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section {title}"
    return found[0]


def row_of(name: str, text: str) -> list[str]:
    """The cells of the table row that begins with `name`."""
    found = re.search(rf"^\| `{re.escape(name)}` \|(.*)\|$", text, re.MULTILINE)
    assert found is not None, f"no row for {name}"
    return [cell.strip() for cell in found[1].split("|")]


@pytest.mark.parametrize("kind", topics.TOPICS)
def test_every_topic_has_its_row(kind: topics.Kind) -> None:
    row = topics.TOPICS[kind]
    payload = "raw bytes" if row.payload is None else row.payload.__name__
    retained = "yes" if row.retain else "no"
    expected = [f"`{row.pattern}`", payload, str(row.qos), str(row.listen_qos), retained, row.writer]
    assert row_of(kind, section("Topics")) == expected


def test_the_root_has_so_many_slashes() -> None:
    topics.check_root("a/b/c/d")
    with pytest.raises(TopicError, match="at most 3"):
        topics.check_root("a/b/c/d/e")
    assert "a root has at most 3" in DOCUMENT
    assert f"`{topics.DEFAULT_ROOT}`" in section("Topics")


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: str(kind.__name__))
def test_every_key_of_a_message_stands_in_its_section_in_the_order_that_is_written(kind: type[Message]) -> None:
    told = section(f"{kind.__name__} (schema {SCHEMAS[kind]})")
    keys = re.findall(r"`([a-z]+)`", "\n".join(_key_places(told)))
    assert keys == [field.encode_name for field in msgspec.structs.fields(kind)]


def _key_places(told: str) -> list[str]:
    """The first cells of a table's rows, or what begins each part between dots, without the values in quotes."""
    rows = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    if rows:
        return rows
    parts = " ".join(told.splitlines()[1:]).split(" · ")
    return [re.split(r" (?=[^`\s])", part.strip().replace("` and `", "` `"), maxsplit=1)[0] for part in parts] + (
        ["`n`"] if "and `n` count" in told else []
    )


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: str(kind.__name__))
def test_what_may_be_left_out_is_marked(kind: type[Message]) -> None:
    told = section(f"{kind.__name__} (schema {SCHEMAS[kind]})")
    marked: set[str] = set()
    for line in told.splitlines():
        if line.startswith("| `"):
            keys, types = (re.split(r"(?<!\\)\|", line)[at] for at in (1, 2))
            names = re.findall(r"`(\w+)`", keys)
            parts = types.split(",") if types.count("(") == len(names) else [types] * len(names)
            marked |= {name for name, part in zip(names, parts, strict=True) if re.search(r"\(.*\)\s*$", part)}
    fields = [field for field in msgspec.structs.fields(kind) if field.encode_name != "v"]
    assert marked == {field.encode_name for field in fields if not field.required}


def test_every_key_of_a_summary_stands_in_its_section() -> None:
    listed = section("Summary, in").strip().split("\n\n")[-1]
    keys = set(re.findall(r"`([a-z]+)`", "\n".join(_key_places("\n" + listed))))
    assert keys == {field.encode_name for field in msgspec.structs.fields(Summary)}


def test_every_key_of_a_description_stands_in_its_section() -> None:
    described = section("Description of a line")
    keys = re.findall(r"^\| `([a-z]+)` \|", described, re.MULTILINE)
    assert keys == [field.encode_name for field in msgspec.structs.fields(LineDescription)]


@pytest.mark.parametrize("entry", get_args(EncodedTensor), ids=lambda entry: str(entry.__name__))
def test_every_encoding_has_its_row(entry: type[msgspec.Struct]) -> None:
    form = ", ".join([f'"{entry.__struct_config__.tag}"', *entry.__struct_fields__])
    assert f"`[{form}]`" in section("Tensor entries")


def test_the_closed_lists_are_complete() -> None:
    refused = section("What is refused")
    reasons = re.findall(r"^\| `(\w+)` \|", refused, re.MULTILINE)
    assert sorted(reasons) == sorted(get_args(RefusalReason))
    for values, kind in (
        (get_args(Outcome), "Receipt"),
        (get_args(Grid), "Delta"),
        (get_args(Status), "Presence"),
        (get_args(Status), "AggregatorStatus"),
    ):
        assert all(f'`"{value}"`' in section(f"{kind} (schema") for value in values)


def test_every_limit_stands_with_its_number() -> None:
    told = section("Limits")
    named = {name: value for name, value in vars(limits).items() if name.isupper() and name not in UNITS}
    named |= {"RANK_MAX": RANK_MAX, "LEVELS_MAX": LEVELS_MAX}
    named |= {"EXPONENT_MIN": scales.EXPONENT_MIN, "EXPONENT_MAX": scales.EXPONENT_MAX}
    assert set(re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)) == set(named)
    for name, value in named.items():
        cells = row_of(name, told)
        if isinstance(value, limits.Limits):
            expected = f"`compressed_bytes` {value.compressed_bytes}, `decompressed_bytes` {value.decompressed_bytes}"
            assert cells[0] == expected
        else:
            assert cells[0] == str(value)
    assert f"`elements` {limits.MODEL_LIMITS.elements} " in told
    assert limits.MODEL_LIMITS.elements <= SET_MAX, "no tensor of a model is too large for a gap-coded entry"


def test_the_table_of_scales_is_that_of_the_code() -> None:
    table = re.search(r"M\[8\] = \{(.*?)\}", DOCUMENT)
    assert table is not None
    words = [int(word, 16) for word in table[1].split(",")]
    assert words == scales.OCTAVE.view(np.uint32).tolist() == list(bit_by_bit.OCTAVE)


def test_the_document_is_short() -> None:
    assert len(DOCUMENT.splitlines()) <= 510


# The program in the document.

Decode = Callable[[bytes, Sequence[int]], bytes | None]
STATIC_BYTES_MAX = 512
"""For all that the program keeps between calls, its table of scales included."""


@pytest.fixture(scope="module", params=["-O1", "-O2"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of the document, compiled."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is here to try the program of the document")
    program = re.search(r"^```c\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert program is not None
    folder = tmp_path_factory.mktemp("c")
    source, made = folder / "gap.c", folder / "gap.so"
    source.write_text("#include <math.h>\n#include <stdint.h>\n#include <string.h>\n" + program[1])
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-misleading-indentation", "-ffp-contract=off"]
    subprocess.run(["cc", request.param, *strict, "-shared", "-fPIC", "-o", made, source, "-lm"], check=True)
    return made


@pytest.fixture(scope="module")
def in_c(library: Path) -> Decode:
    function = ctypes.CDLL(str(library)).gap_decode

    def decode(data: bytes, sizes: Sequence[int]) -> bytes | None:
        out = (ctypes.c_float * sum(sizes))()
        counts = (ctypes.c_uint32 * len(sizes))(*sizes)
        return bytes(out) if function(data, len(data), len(sizes), counts, out) else None

    return decode


@pytest.fixture(scope="module")
def follow_in_c(library: Path) -> Callable[[Vector, Vector, str], Vector]:
    function = ctypes.CDLL(str(library)).follow
    function.restype = None

    def follow(weights: Vector, difference: Vector, grid: str) -> Vector:
        moved, added = ((ctypes.c_float * one.size)(*one.tolist()) for one in (weights, difference))
        function(moved, added, weights.size, int(grid == "float16"))
        return np.array(moved, dtype=np.float32)

    return follow


def test_the_program_keeps_next_to_nothing_between_calls(library: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm is here to look")
    source = library.with_suffix(".c")
    made = library.with_suffix(".o")
    subprocess.run(["cc", "-O1", "-std=c99", "-c", "-o", made, source], check=True)
    told = subprocess.run(["nm", "-S", made], check=True, capture_output=True, text=True).stdout
    sizes = [int(size, 16) for size in re.findall(r"^\w+ (\w+) [bBdDrRC] ", told, re.MULTILINE)]
    assert sizes, "the table of scales at least"
    assert sum(sizes) <= STATIC_BYTES_MAX, told


def test_the_program_follows_the_deltas_of_the_vectors(follow_in_c: Callable[[Vector, Vector, str], Vector]) -> None:
    line, grid, fused = load("deltas")
    for vector in (line, fused):
        held = decode_snapshot(bytes.fromhex(vector["snapshot"]))
        weights = held.weights
        for step in vector["steps"]:
            delta = codec.decode(bytes.fromhex(step["delta"]), Delta)
            weights = follow_in_c(weights, decode_vector(delta.tensors, held.layout), delta.grid)
            assert weights.astype("<f4").tobytes().hex() == step["weights"]
    start = np.frombuffer(bytes.fromhex(grid["from"]), dtype="<f4").astype(np.float32)
    assert follow_in_c(start, np.zeros_like(start), "float16").astype("<f4").tobytes().hex() == grid["to"]
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    some = bits.view(np.float32)[np.isfinite(bits.view(np.float32))]
    some = np.concatenate([some, some * np.float32(1e-30), np.float32(2.0**-24) * (bits % 4096) / 2]).astype(np.float32)
    expected = GRIDS["float16"](some + np.float32(0))
    assert follow_in_c(some, np.zeros_like(some), "float16").tobytes() == expected.tobytes()


def plainly(data: bytes, sizes: Sequence[int]) -> bytes | None:
    try:
        return bit_by_bit.read(data, sizes).float32
    except bit_by_bit.Refused:
        return None


@pytest.mark.parametrize("vector", load("gap_coded"), ids=lambda vector: str(vector["why"]))
def test_the_program_reads_the_vectors(in_c: Decode, vector: dict[str, object]) -> None:
    sizes = vector["sizes"]
    assert isinstance(sizes, list)
    read = in_c(bytes.fromhex(str(vector["data"])), sizes)
    assert read is not None
    assert read.hex() == vector["float32"]


def test_the_program_reads_and_refuses_what_the_plain_reader_does(in_c: Decode) -> None:
    random = Random(0)
    refused = 0
    for number in range(1_500):
        sizes = [random.randint(1, 70) for _ in range(random.randint(1, 5))]
        density, mean = random.choice([0, 0.05, 0.3, 0.5, 0.8, 1]), random.choice([0.1, 0.5, 5, 60])
        magnitudes = [min(127, 1 + int(random.expovariate(1 / mean))) for _ in range(sum(sizes))]
        levels = [random.choice([-1, 1]) * level if random.random() < density else 0 for level in magnitudes]
        exponents = [random.randint(scales.EXPONENT_MIN, scales.EXPONENT_MAX) for _ in sizes]
        data = bytearray(encode_levels(np.array(levels), exponents, sizes).data)
        for _ in range(number % 3):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        read = in_c(bytes(data), sizes)
        assert read == plainly(bytes(data), sizes), (sizes, data.hex())
        refused += read is None
    assert 300 < refused < 1_000, "both answers were asked for"

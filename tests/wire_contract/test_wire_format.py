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
from wire_contract import limits, topics
from wire_contract.codec import SCHEMAS
from wire_contract.encoding import EncodedTensor, scales
from wire_contract.encoding.gap_coded import code_levels
from wire_contract.encoding.heads import LEVELS_MAX
from wire_contract.encoding.low_rank import RANK_MAX
from wire_contract.encoding.subsets import SET_MAX
from wire_contract.errors import TopicError
from wire_contract.messages import Grid, Message, Outcome, RefusalReason, Status, Summary

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
    assert "a root has 3 at most" in DOCUMENT
    assert f"`{topics.DEFAULT_ROOT}`" in section("Topics")


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: str(kind.__name__))
def test_every_key_of_a_message_stands_in_its_section(kind: type[Message]) -> None:
    told = section(f"{kind.__name__} (schema {SCHEMAS[kind]})")
    keys = set(re.findall(r"`([a-z]+)`", "\n".join(_key_places(told))))
    expected = {field.encode_name for field in msgspec.structs.fields(kind)}
    assert keys == expected


def _key_places(told: str) -> list[str]:
    """The first cells of a table's rows, or what begins each part between dots, without the values in quotes."""
    rows = [line.split("|")[1] for line in told.splitlines() if line.startswith("| `")]
    if rows:
        return rows
    parts = " ".join(told.splitlines()[1:]).split(" · ")
    return [re.split(r" (?=[^`\s])", part.strip().replace("` and `", "` `"), maxsplit=1)[0] for part in parts] + (
        ["`n`"] if "and `n` count" in told else []
    )


def test_every_key_of_a_summary_stands_in_its_section() -> None:
    listed = section("Summary, in").strip().split("\n\n")[-1]
    keys = set(re.findall(r"`([a-z]+)`", "\n".join(_key_places("\n" + listed))))
    assert keys == {field.encode_name for field in msgspec.structs.fields(Summary)}


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
    named |= {"RANK_MAX": RANK_MAX, "LEVELS_MAX": LEVELS_MAX, "SET_MAX": SET_MAX}
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


def test_the_table_of_scales_is_that_of_the_code() -> None:
    table = re.search(r"M\[8\] = \{(.*?)\}", DOCUMENT)
    assert table is not None
    words = [int(word, 16) for word in table[1].split(",")]
    assert words == scales.OCTAVE.view(np.uint32).tolist() == list(bit_by_bit.OCTAVE)


def test_the_document_is_short() -> None:
    assert len(DOCUMENT.splitlines()) <= 320


# The program in the document.

Decode = Callable[[bytes, Sequence[int]], bytes | None]


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is here to try the program of the document")
    program = re.search(r"^```c\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert program is not None
    folder = tmp_path_factory.mktemp("c")
    source, library = folder / "gap.c", folder / "gap.so"
    source.write_text("#include <math.h>\n#include <stdint.h>\n#include <string.h>\n" + program[1])
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-misleading-indentation"]
    subprocess.run(["cc", "-O1", *strict, "-shared", "-fPIC", "-o", library, source, "-lm"], check=True)
    function = ctypes.CDLL(str(library)).gap_decode

    def decode(data: bytes, sizes: Sequence[int]) -> bytes | None:
        out = (ctypes.c_float * sum(sizes))()
        counts = (ctypes.c_uint32 * len(sizes))(*sizes)
        return bytes(out) if function(data, len(data), len(sizes), counts, out) else None

    return decode


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
        data = bytearray(code_levels(np.array(levels), exponents, sizes).data)
        for _ in range(number % 3):
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        read = in_c(bytes(data), sizes)
        assert read == plainly(bytes(data), sizes), (sizes, data.hex())
        refused += read is None
    assert 300 < refused < 1_000, "both answers were asked for"

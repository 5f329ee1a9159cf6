"""Topics say what they were built of, stay short enough for every cloud broker, and match their filters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.wire import COUNTS, NAMES
from wire_contract.errors import TopicError
from wire_contract.limits import NAME_CHARACTERS_MAX, TOPIC_SLASHES_MAX
from wire_contract.link.mqtt_rules import check_filter, check_topic, matches
from wire_contract.topics import TOPICS, Kind, build, check_name, check_root, parse, shard_of, topic_filter

ROOTS = st.lists(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True), min_size=1, max_size=4).map("/".join)
PARTS: dict[str, st.SearchStrategy[str]] = {
    "version": COUNTS.map(str),
    "chunk": COUNTS.map(str),
    "shard": st.integers(0, 65_535).map(str),
    "device": NAMES,
}


@st.composite
def built(draw: st.DrawFn) -> tuple[Kind, str, str, dict[str, str]]:
    kind = draw(st.sampled_from(list(TOPICS)))
    levels = [level[1:-1] for level in TOPICS[kind].pattern.split("/") if level.startswith("{")]
    parts = {name: draw(PARTS[name]) for name in levels if name != "task"}
    return kind, draw(ROOTS), draw(NAMES), parts


@given(built())
def test_parse_undoes_build(case: tuple[Kind, str, str, dict[str, str]]) -> None:
    kind, root, task, parts = case
    topic = build(kind, root=check_root(root), task=task, **parts)
    parsed = parse(topic, root=root)
    assert (parsed.kind, parsed.task, dict(parsed.parts)) == (kind, task, parts)
    assert topic.count("/") <= TOPIC_SLASHES_MAX
    check_topic(topic)


@given(built(), st.data())
def test_filters_match_their_topics_and_no_others(
    case: tuple[Kind, str, str, dict[str, str]], data: st.DataObject
) -> None:
    kind, root, task, parts = case
    topic = build(kind, root=root, task=task, **parts)
    given_parts = {name: value for name, value in parts.items() if data.draw(st.booleans())}
    wanted = topic_filter(kind, root=root, task=task, **given_parts)
    check_filter(wanted)
    assert matches(wanted, topic)
    for other in TOPICS:
        if other != kind:
            assert not matches(topic_filter(other, root=root, task=task), topic)
    assert not matches(topic_filter(kind, root=root, task=task + "x"), topic)


@given(st.text(max_size=40))
def test_any_text_is_a_topic_or_an_error(text: str) -> None:
    for topic in (text, "fedkd/v1/" + text, f"fedkd/v1/t/update/0/{text}", f"fedkd/v1/t/model/{text}/0"):
        try:
            parsed = parse(topic, root="fedkd/v1")
        except TopicError:
            continue
        assert build(parsed.kind, root="fedkd/v1", task=parsed.task, **parsed.parts) == topic


@given(st.text(max_size=70))
def test_a_name_is_one_level_of_a_topic_or_an_error(text: str) -> None:
    try:
        check_name(text, "device")
    except TopicError:
        return
    assert 0 < len(text.encode()) <= NAME_CHARACTERS_MAX
    assert not set(text) & set("/+#\0$\n ")


@pytest.mark.parametrize("name", ["", "a" * 65, "a/b", "a+", "#", "a\n", "é", "-a", ".", "a\0", "\ud800"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(TopicError):
        build("receipt", root="fedkd/v1", task="t", device=name)


@pytest.mark.parametrize("root", ["", "/", "a/", "/a", "a//b", "$SYS", "a/+", "#", "a/b/c/d/e"])
def test_roots_that_are_refused(root: str) -> None:
    with pytest.raises(TopicError):
        check_root(root)


@pytest.mark.parametrize("number", ["01", "-1", "1.5", "", "x", "1" * 17, "٣"])
def test_numbers_that_are_refused(number: str) -> None:
    with pytest.raises(TopicError):
        build("model", root="r", task="t", version=number)
    with pytest.raises(TopicError):
        build("chunk", root="r", task="t", version=number, chunk=0)
    with pytest.raises(TopicError):
        parse(f"r/t/model/{number}/0", root="r")


@given(NAMES, st.integers(1, 65_536))
def test_every_device_has_one_shard(device: str, shards: int) -> None:
    assert 0 <= shard_of(device, shards) < shards
    assert shard_of(device, 1) == 0


def test_shards_are_what_firmware_computes() -> None:
    assert [shard_of(name, 16) for name in ("watch-1", "watch-2", "123456789")] == [11, 1, 6]

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from wire_contract.link.mqtt_rules import matches, packet_bytes

LEVEL = st.sampled_from(["", "a", "b", "$x"])


@given(
    st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4),
    st.booleans(),
    st.lists(LEVEL, min_size=1, max_size=4),
)
def test_filters_match_as_paho_says(levels: list[str], rest: bool, topic: list[str]) -> None:
    topic_filter = "/".join([*levels, "#"] if rest else levels)
    if topic_filter and "/".join(topic):
        assert matches(topic_filter, "/".join(topic)) == topic_matches_sub(topic_filter, "/".join(topic))


@pytest.mark.parametrize(
    ("payload", "length_field"), [(0, 1), (119, 1), (120, 2), (16_375, 2), (16_376, 3), (2_097_143, 3), (2_097_144, 4)]
)
def test_the_size_of_a_packet(payload: int, length_field: int) -> None:
    assert packet_bytes("abc", bytes(payload)) == 1 + length_field + 2 + 3 + 2 + 1 + payload

"""The access lists of broker_config/, held against the table of the contract: a kind that is added there and not here,
or a right too many, is found without a broker. What the brokers make of the lists is seen in test_locked_broker and
test_nats.
"""

import re
from collections.abc import Callable, Iterator

import pytest

from aggregator.enrolment.nats_users import subject, users
from aggregator.enrolment.roles import NUMBERED_MAX
from tests.broker.locked import BROKER_CONFIG
from tests.broker.rights import NAMES, Place, may_read, may_write, places, role_of
from wire_contract.topics import DEFAULT_ROOT, TOPICS

Allowed = Callable[[str, str, str], bool]
"""Name, `read` or `write`, topic."""


def fits(pattern: str, topic: str, *, one: str = "+", rest: str = "#", between: str = "/") -> bool:
    wanted, levels = pattern.split(between), topic.split(between)
    if wanted[-1] == rest:
        return len(levels) >= len(wanted) - 1 and fits(
            between.join(wanted[:-1]), between.join(levels[: len(wanted) - 1])
        )
    return len(wanted) == len(levels) and all(a in {one, b} for a, b in zip(wanted, levels, strict=True))


def mosquitto(name: str, access: str, topic: str) -> bool:
    """As mosquitto does: what is denied to the user first, then the user's topics, then the patterns."""
    user, mine, everybodys = None, [], []
    for line in _settings("mosquitto.acl"):
        match line.split():
            case ["user", who]:
                user = who
            case ["topic", kind, place] if user is not None:
                if user == name:
                    mine.append((kind, place))
            case ["pattern", kind, place] if user is None:
                everybodys.append((kind, place.replace("%u", name)))
            case _:
                pytest.fail(f"not understood: {line}")
    if any(kind == "deny" and fits(place, topic) for kind, place in mine):
        return False
    return any(kind == access and fits(place, topic) for kind, place in (*mine, *everybodys))


def emqx(name: str, access: str, topic: str) -> bool:
    """As EMQX does: the first rule that fits."""
    action = {"read": "subscribe", "write": "publish"}[access]
    text = re.sub(r"^%%.*$", "", (BROKER_CONFIG / "emqx-acl.conf").read_text(), flags=re.MULTILINE)
    rules = [rule for rule in text.split("}.\n") if rule.strip()]
    assert rules[-1].strip() == "{deny, all"
    for rule in rules[:-1]:
        found = re.fullmatch(
            r'\s*\{(allow|deny), (?:all|\{username, \{re, "(.*)"\}\}), (publish|subscribe), \[(.*)\]', rule
        )
        assert found is not None, rule
        verdict, who, what, listed = found.groups()
        patterns = re.findall(r'"([^"]*)"', listed)
        if (
            (who is None or re.search(who, name))
            and what == action
            and any(fits(pattern.replace("${username}", name), topic) for pattern in patterns)
        ):
            return verdict == "allow"
    return False


def nats(name: str, access: str, topic: str) -> bool:
    """As nats-server does with what enrolment writes."""
    text = users([(name, role_of(name))], root=DEFAULT_ROOT)  # type: ignore[list-item]
    part = {"read": "subscribe", "write": "publish"}[access]
    found = re.search(rf'"{part}": {{"(allow|deny)": \[(.*?)\]}}', text)
    assert found is not None, text
    patterns = re.findall(r'"([^"]*)"', found[2])
    if found[1] == "deny":
        assert patterns == [">"]
        return False
    return any(fits(one, subject(topic), one="*", rest=">", between=".") for one in patterns)


LISTS: dict[str, Allowed] = {"mosquitto": mosquitto, "emqx": emqx, "nats": nats}


@pytest.mark.parametrize("broker", LISTS)
@pytest.mark.parametrize("name", [*NAMES, "aggregator-3", "viewer-3", "evaluator-3", "anybody"])
def test_a_list_gives_each_name_exactly_its_rights(broker: str, name: str) -> None:
    wrong = []
    for place in places():
        for access, right in (("write", may_write(name, place)), ("read", may_read(name, place))):
            if LISTS[broker](name, access, place.topic) != right and not _harmless(name, access, place):
                wrong.append(f"{access} {place.topic}: {'missing' if right else 'too much'}")
    assert not wrong


def _harmless(name: str, access: str, place: Place) -> bool:
    """To read under a name that is no device's what no list lets anybody write there."""
    return access == "read" and role_of(name) != "device" and place.owner == name


def test_every_kind_of_the_contract_is_in_every_place_list() -> None:
    assert {place.kind for place in places()} == set(TOPICS)


@pytest.mark.parametrize("broker", LISTS)
@pytest.mark.parametrize(
    "topic", ["$SYS/broker/version", "other/v1/har/model", "fedkd/v1/har", "fedkd/v1/har/x/watch-1"]
)
def test_what_is_not_of_the_contract_is_nobodys(broker: str, topic: str) -> None:
    for name in NAMES:
        assert not LISTS[broker](name, "write", topic)
        figures = topic.startswith("$SYS") and role_of(name) == "aggregator" and broker != "nats"
        assert LISTS[broker](name, "read", topic) == figures


def test_no_name_without_a_block_of_its_own_has_rights_of_its_own() -> None:
    blocks = [line.removeprefix("user ") for line in _settings("mosquitto.acl") if line.startswith("user ")]
    assert blocks == [*_numbered("aggregator"), *_numbered("viewer"), *_numbered("evaluator")]


def _numbered(role: str) -> Iterator[str]:
    yield role
    yield from (f"{role}-{number}" for number in range(1, NUMBERED_MAX + 1))


SETTINGS_OF_2_0 = {"allow_anonymous", "password_file", "acl_file", "persistence", "autosave_interval"}
SETTINGS_OF_2_1 = {
    "listener_allow_anonymous",
    "global_plugin",
    "plugin_opt_password_file",
    "plugin_opt_acl_file",
    "plugin_opt_flush_period",
    "max_packet_size",
}


def _settings(name: str) -> list[str]:
    lines = (BROKER_CONFIG / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_the_file_for_2_1_says_the_same_in_newer_words() -> None:
    old, new = _settings("mosquitto-production.conf"), _settings("mosquitto-production-2.1.conf")
    assert [line for line in old if line.split()[0] not in SETTINGS_OF_2_0] == [
        line for line in new if line.split()[0] not in SETTINGS_OF_2_1
    ]
    assert {line.split()[0] for line in old} >= SETTINGS_OF_2_0
    assert {line.split()[0] for line in new} >= SETTINGS_OF_2_1
    for setting in ("password_file", "acl_file"):
        assert next(line.split()[1] for line in old if line.startswith(setting)) == next(
            line.split()[1] for line in new if line.startswith(f"plugin_opt_{setting}")
        )
    assert new.count("listener_allow_anonymous false") == sum(line.startswith("listener ") for line in new) == 2

"""What the container tests change in compose.yaml, and nothing else. Needs no container."""

from typing import Any

import yaml

from tests.containers.compose_copy import SHORTENED, UNKNOWN_TO_1_29, adapted
from tests.deployment.compose_file import COMPOSE, REPOSITORY

DOCUMENT = yaml.safe_load(COMPOSE.read_text())


def keys(value: Any, above: str = "") -> dict[str, Any]:
    """Each leaf by its path."""
    if isinstance(value, dict):
        return {path: leaf for key, one in value.items() for path, leaf in keys(one, f"{above}/{key}").items()}
    if isinstance(value, list):
        return {path: leaf for at, one in enumerate(value) for path, leaf in keys(one, f"{above}/{at}").items()}
    return {above: value}


def test_for_1_29_exactly_the_listed_keys_go() -> None:
    before = keys({key: value for key, value in DOCUMENT.items() if not key.startswith("x-")})
    after = keys(adapted(DOCUMENT, known=False, without=()))
    added = {path for path in after if path not in before}
    gone = {path.rsplit("/", 1)[1] for path in before if path not in after}
    changed = {path.rsplit("/", 1)[1] for path in before if path in after and before[path] != after[path]}
    assert gone == set(UNKNOWN_TO_1_29)
    assert {path.rsplit("/", 1)[1] for path in added} == {name for each in SHORTENED.values() for name in each} - set(
        DOCUMENT["services"]["aggregator"]["environment"]
    )
    assert changed == {"interval", "FEDKD_VERSION_SECONDS"}


def test_a_newer_runner_gets_every_key_and_services_without_an_image_are_left_out() -> None:
    after = adapted(DOCUMENT, known=True, without={"grafana"})
    assert set(after["services"]) == set(DOCUMENT["services"]) - {"grafana"}
    assert after["name"] == DOCUMENT["name"]
    assert {path.rsplit("/", 1)[1] for path in keys(after)} >= set(UNKNOWN_TO_1_29)
    assert not any("grafana" in service.get("depends_on", {}) for service in after["services"].values())


def test_the_document_names_what_is_changed() -> None:
    text = (REPOSITORY / "docs" / "deployment.md").read_text()
    for key in UNKNOWN_TO_1_29:
        assert f"`{key}`" in text

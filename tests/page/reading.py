"""What a person reads on the page, as JavaScript conditions and as a table; and a federation that gives it plenty."""

from collections.abc import Mapping

from tests.page.browser import Page
from tests.page.federation import Federation
from wire_contract.messages import Presence

PHONE: Mapping[str, object] = {"width": 390, "height": 844, "phone": True}
JUDGE = Presence(status="online", capability={"role": "evaluator"})
NOTHING = "\N{EN DASH}"
PLOTS = "document.querySelectorAll('.plot svg').length"


def is_state(state: str) -> str:
    return f"document.querySelector('#situation').dataset.state === '{state}'"


def shows(selector: str, text: str) -> str:
    """Spaces that do not break are spaces here."""
    return f"document.querySelector('{selector}').innerText.replaceAll('\\u00a0', ' ').includes({text!r})"


def rows(page: Page) -> dict[str, list[str]]:
    """The table of devices, by device."""
    cells = "[...document.querySelectorAll('#devices tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    return {first: rest for first, *rest in page.run(cells)}


def seen(row: list[str]) -> list[str]:
    """State, staleness, merged updates and newest outcome; not how long ago."""
    return [*row[:3], row[4]]


def busy(toy: Federation) -> None:
    """Four versions by two devices, a third that hands in old work, a fourth that says nothing."""
    toy.teach([0.5])
    old = toy.base
    toy.teach([0.625, 0.75, 0.5, 0.6875, 0.875, 0.8125])
    for device in ("watch-1", "watch-2", "watch-4"):
        toy.present(device, online=device != "watch-2")
    toy.send("watch-3", base=old)
    toy.send("watch-3", base=(toy.base[0], bytes(32)))
    toy.tell()

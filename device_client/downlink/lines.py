"""Which line of its task a program follows (`wire_contract/lines.py`). Decides only.

    the line fits this program's student, and is open   → stay
    it does not fit, or has ended, and another follows  → go on to that one
    it does not fit, or has ended, and none follows     → stay, and wait for one

Lines are followed forwards only, so that no manifest can lead a program in a circle.
"""

from collections.abc import Callable

from device_client.downlink.line_check import OwnLine
from wire_contract.layout import Layout
from wire_contract.lines import is_later_line
from wire_contract.messages import Manifest

Fits = Callable[[Manifest], bool]
"""Whether a line with this manifest is one of this program's student."""
Follow = Callable[[Manifest], str | None]
"""The line to go on to, given the newest manifest of the current one; None: stay."""


def fits_student(layout: Layout, own: OwnLine) -> Fits:
    """Whether a line has the `layout` of the student, and the labels and fixed buffers of this program's task."""
    return lambda manifest: manifest.layout_fingerprint == layout.fingerprint and own.refusal(manifest.line) is None


def following_line(manifest: Manifest, *, task: str) -> str | None:
    """The line of `task` that follows the one of `manifest`; None: it is the newest."""
    name = manifest.next_line
    return name if name is not None and is_later_line(name, than=manifest.task, task=task) else None


def follower(*, task: str, fits: Fits, leaves_ended: bool = True) -> Follow:
    """What a program of `task` does; without `leaves_ended`, it stays on a line that has ended."""

    def follow(manifest: Manifest) -> str | None:
        is_left = not fits(manifest) or (manifest.closed and leaves_ended)
        return following_line(manifest, task=task) if is_left else None

    return follow


def ended(manifest: Manifest) -> tuple[str, ...]:
    """Why nothing is to be trained for the line of `manifest`; empty: it is open."""
    if not manifest.closed:
        return ()
    return (f"line {manifest.task} has ended, and no line is known that follows it",)

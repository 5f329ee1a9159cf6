"""What reports call the examples of a task, whose they are, and who has a device."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Nouns:
    """In the singular; the plural has an s."""

    example: str
    person: str
    """Whom examples are of; splits are by person."""
    owner: str
    """Who has a device."""

    def count(self, count: int, noun: str) -> str:
        """For example `two patients`, and digits from 13 on."""
        return f"{number_text(count)} {noun}{'' if count == 1 else 's'}"


_OF_TASKS: Mapping[str, Nouns] = {
    "physiotherapy": Nouns(example="window", person="person", owner="person"),
    "har": Nouns(example="window", person="person", owner="person"),
    "ecg": Nouns(example="heartbeat", person="patient", owner="patient"),
    "mammography": Nouns(example="film", person="patient", owner="hospital"),
    "mammography-crops": Nouns(example="crop", person="patient", owner="hospital"),
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def nouns_of(task: str) -> Nouns:
    """The nouns of a built-in task; of another one those that fit any."""
    return _OF_TASKS.get(task, Nouns(example="example", person="person", owner="device"))


def number_text(count: int) -> str:
    """A small number as a word."""
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)

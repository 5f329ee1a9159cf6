"""Next token: a keyboard predicts the next letter; what was typed stays on the phone.

`asyncfedkd device run --task examples/next_token.py:task --device phone-1 …`. Replace `typed` by a function that reads
your data.
"""

import zlib

import numpy as np
from torch import Tensor, nn

from device_client.task import Examples, Recipe, Task, per_token

LETTERS = " abcdefghijklmnopqrstuvwxyz"
LENGTH = 24
"""Letters of an example."""
WORDS = (
    "the cat sat on a warm mat while rain fell over hills and rivers near our small town where many people walk to work"
)


def typed(person: str, examples: int = 24) -> Examples:
    """Letters (example, 24) that one person typed, as indices, and the letter that follows each (example, 24).

    Simulated with a fixed seed for each person, who has favourite words.
    """
    random = np.random.default_rng(zlib.crc32(person.encode()))
    words = WORDS.split()
    favour = random.dirichlet(np.full(len(words), 0.7))
    text = " ".join(random.choice(words, examples * LENGTH // 3, p=favour))
    letters = np.array([LETTERS.index(letter) for letter in text[: examples * LENGTH + 1]])
    before, after = letters[:-1].reshape(examples, LENGTH), letters[1:].reshape(examples, LENGTH)
    return Examples.of(before, persons=[person] * examples, targets=after)


class Network(nn.Module):
    """Maps letters (batch, place) to logits (batch, place, letter); the output layer is the embedding."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), width)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, len(LETTERS))
        self.head.weight = self.embedding.weight

    def forward(self, letters: Tensor) -> Tensor:
        """Logits of the letters that follow."""
        hidden, _state = self.recurrent(self.embedding(letters))
        return self.head(hidden)  # type: ignore[no-any-return]


def task() -> Task:
    """The task that `--task` names."""
    return Task(
        name="keyboard",
        objective=per_token(tuple(LETTERS.replace(" ", "_"))),
        student=Network,
        device_data=typed,
        devices=tuple(f"phone-{number}" for number in range(1, 11)),
        held_out=lambda: typed("a phone that is not connected", 200),
        recipe=Recipe(epochs=2, batch_size=12, learning_rate=12e-3, schedule="cosine", schedule_versions=100),
    )

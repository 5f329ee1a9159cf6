"""What a new task of each kind begins with: made-up data, a network and an objective."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "classification", "regression", "multi-label", "segmentation", "forecasting", "next-token", "autoencoder"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The parts of a file that differ between kinds."""

    what: str
    """One phrase, for the docstring."""
    constants: str
    about: str
    """What `read` returns, for its docstring."""
    data: str
    """The body of `read`, after `random` was seeded."""
    network: str
    """Defines `network()`."""
    objective: str
    """A field of `Task`."""
    imported: tuple[str, ...] = ()
    """More names of `device_client.task`."""


STARTS: Mapping[Kind, Start] = {
    "classification": Start(
        what="which activity is it?",
        constants='CLASSES = ("still", "walking", "running")\nSAMPLES = 64',
        about="Windows of one sensor (example, channel, sample), and the index of each one's class.",
        data="""\
labels = random.integers(0, len(CLASSES), EXAMPLES)
time = np.arange(SAMPLES) + random.uniform(0, SAMPLES, (EXAMPLES, 1))
steps = np.sin(2 * np.pi * time * np.array([0.0, 0.05, 0.15])[labels, None] * random.uniform(0.9, 1.1))
windows = steps + random.normal(0, 0.3, steps.shape)
return Examples.of(windows[:, None, :], labels, persons=[person] * EXAMPLES)""",
        network='''\
def network() -> nn.Module:
    """Windows (batch, channel, sample) to logits (batch, class)."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 9, padding=4),
        nn.ReLU(),
        nn.Conv1d(16, 16, 9, padding=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, len(CLASSES)),
    )''',
        objective="classes=CLASSES",
    ),
    "regression": Start(
        what="one number from several",
        constants='NAMES = ("pulse",)\nFEATURES = 8',
        about="Features (example, feature), and the numbers to learn (example, 1).",
        data="""\
features = random.normal(size=(EXAMPLES, FEATURES))
pulse = features[:, 0] + 0.5 * features[:, 1] * features[:, 2] + random.normal(0, 0.1, EXAMPLES)
return Examples.of(features, targets=pulse[:, None], persons=[person] * EXAMPLES)""",
        network='''\
def network() -> nn.Module:
    """Features (batch, feature) to numbers (batch, 1)."""
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, len(NAMES)))''',
        objective="objective=regression(NAMES)",
        imported=("regression",),
    ),
    "multi-label": Start(
        what="any number of labels for each example",
        constants='LABELS = ("fever", "cough", "fatigue")\nFEATURES = 8',
        about="Features (example, feature), and 0 or 1 for each label (example, label).",
        data="""\
features = random.normal(size=(EXAMPLES, FEATURES))
targets = features[:, : len(LABELS)] + 0.3 * features[:, 3:4] > 0
return Examples.of(features, targets=targets.astype(np.float32), persons=[person] * EXAMPLES)""",
        network='''\
def network() -> nn.Module:
    """Features (batch, feature) to logits (batch, label)."""
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, len(LABELS)))''',
        objective="objective=multi_label(LABELS)",
        imported=("multi_label",),
    ),
    "segmentation": Start(
        what="one class for each pixel",
        constants='CLASSES = ("background", "object")\nSIZE = 16',
        about="Images (example, channel, row, column), and the index of each pixel's class (example, row, column).",
        data="""\
rows, columns = np.mgrid[:SIZE, :SIZE]
centre = random.uniform(4, SIZE - 4, (2, EXAMPLES, 1, 1))
targets = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < random.uniform(4, 16, (EXAMPLES, 1, 1))
images = targets + random.normal(0, 0.3, targets.shape)
return Examples.of(images[:, None], targets=targets.astype(np.int64), persons=[person] * EXAMPLES)""",
        network='''\
def network() -> nn.Module:
    """Images (batch, channel, row, column) to logits (batch, class, row, column)."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, len(CLASSES), 1),
    )''',
        objective="objective=per_pixel(CLASSES)",
        imported=("per_pixel",),
    ),
    "forecasting": Start(
        what="the next values of a series",
        constants="PAST, FUTURE = 32, 8",
        about="Past values (example, time), and the values that follow them (example, time).",
        data="""\
time = np.arange(PAST + FUTURE) + random.uniform(0, 100, (EXAMPLES, 1))
series = np.sin(time * random.uniform(0.2, 0.4)) + random.normal(0, 0.1, time.shape)
return Examples.of(series[:, :PAST], targets=series[:, PAST:], persons=[person] * EXAMPLES)""",
        network='''\
def network() -> nn.Module:
    """Past values (batch, time) to future ones (batch, time)."""
    return nn.Sequential(nn.Linear(PAST, 64), nn.ReLU(), nn.Linear(64, FUTURE))''',
        objective="objective=regression()",
        imported=("regression",),
    ),
    "next-token": Start(
        what="the next token of a sequence",
        constants="VOCABULARY, STEPS = 16, 24",
        about="Tokens (example, step), and the token after each (example, step).",
        data="""\
tokens = random.integers(0, VOCABULARY, (EXAMPLES, STEPS + 1))
for step in range(STEPS):
    follows = (3 * tokens[:, step] + 1) % VOCABULARY
    tokens[:, step + 1] = np.where(random.random(EXAMPLES) < 0.7, follows, tokens[:, step + 1])
return Examples.of(tokens[:, :-1], targets=tokens[:, 1:], persons=[person] * EXAMPLES)""",
        network='''\
class Network(nn.Module):
    """Tokens (batch, step) to logits (batch, step, token)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.memory = nn.GRU(16, 32, batch_first=True)
        self.out = nn.Linear(32, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _last = self.memory(self.embedding(tokens))
        logits: Tensor = self.out(hidden)
        return logits


def network() -> nn.Module:
    return Network()''',
        objective="objective=per_token(VOCABULARY)",
        imported=("per_token",),
    ),
    "autoencoder": Start(
        what="the inputs through a bottleneck",
        constants="FEATURES, BOTTLENECK = 16, 4",
        about="Features (example, feature); they are their own targets.",
        data="""\
hidden = random.normal(size=(EXAMPLES, BOTTLENECK))
mixing = np.random.default_rng(0).normal(size=(BOTTLENECK, FEATURES))
features = hidden @ mixing + random.normal(0, 0.1, (EXAMPLES, FEATURES))
return Examples.of(features, persons=[person] * EXAMPLES)""",
        network='''\
def network() -> nn.Module:
    """Features (batch, feature) to features of the same shape."""
    encoder = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, BOTTLENECK))
    decoder = nn.Sequential(nn.Linear(BOTTLENECK, 32), nn.ReLU(), nn.Linear(32, FEATURES))
    return nn.Sequential(encoder, decoder)''',
        objective="objective=reconstruction()",
        imported=("reconstruction",),
    ),
}

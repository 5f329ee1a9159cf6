"""Writes the test vectors: `python -m tests.vectors.make`. The same bytes each time; what changes is a new format."""

import sys

from tests.vectors.form import FOLDER, text_of
from tests.vectors.of_lines import deltas, layouts
from tests.vectors.of_messages import frames, messages
from tests.vectors.of_refusals import refused_payloads, refused_tensors
from tests.vectors.of_signatures import signed
from tests.vectors.of_tensors import gap_coded, tensors

FILES = {
    "messages": messages,
    "frames": frames,
    "layouts": layouts,
    "tensors": tensors,
    "gap_coded": gap_coded,
    "deltas": deltas,
    "signed": signed,
    "refused_payloads": refused_payloads,
    "refused_tensors": refused_tensors,
}


def main() -> int:
    for name, make in FILES.items():
        (FOLDER / f"{name}.json").write_text(text_of(make()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

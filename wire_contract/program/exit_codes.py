"""How every program ends: its exit code, and one line on standard error when something went wrong.

0: done, or stopped as requested. 1: the connection was lost for good; starting the program again may help. 2: something
that a restart does not fix. 130: ended by Ctrl-C.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from wire_contract.errors import ContractError, LinkError
from wire_contract.program.ascii_fallback import replace_unencodable_characters

CONNECTION_LOST = 1
USAGE_ERROR = 2
INTERRUPTED = 130
"""128 plus the number of SIGINT, which is the convention of shells."""
DISTRIBUTION = "asyncfedkd"

EXTRAS: Mapping[str, str] = {
    "torch": "device",
    "psutil": "device",
    "onnx": "device",
    "onnxscript": "device",
    "onnxruntime": "onnx",
    "amqtt": "simulators",
    "pwdlib": "simulators",
    "rich": "simulators",
    "matplotlib": "simulators",
}
"""Modules that the base installation lacks, and the extra of this distribution that installs each."""


@dataclass
class Ending:
    """How a program ended."""

    code: int = 0


@contextmanager
def one_line_errors(name: str) -> Iterator[Ending]:
    """Turns errors that a user can fix, and Ctrl-C, into an exit code and one line on standard error.

    Any other exception is a defect and keeps its traceback.

    Args:
        name: of the program, at the beginning of that line.
    """
    replace_unencodable_characters()
    ending = Ending()

    def end(code: int, line: str) -> None:
        ending.code = code
        with suppress(OSError, ValueError):  # standard error may be closed or on a full disk; the exit code remains
            print(f"{name}: {line}", file=sys.stderr)

    try:
        yield ending
    except LinkError as error:
        end(CONNECTION_LOST, str(error))
    except ContractError as error:
        end(USAGE_ERROR, str(error))
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        end(USAGE_ERROR, f"{error.name} is not installed, which this needs: pip install '{DISTRIBUTION}[{extra}]'")
    except KeyboardInterrupt:
        end(INTERRUPTED, "ended by Ctrl-C")

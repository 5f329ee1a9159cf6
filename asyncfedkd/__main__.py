"""`asyncfedkd PROGRAM …`, or `python -m asyncfedkd PROGRAM …`."""

import sys

INTERRUPTED = 130
"""128 plus the number of SIGINT, as in `wire_contract.program.exit_codes`, which is not imported yet."""


def main() -> int:
    """Returns the exit code. Importing takes half a second, during which Ctrl-C is handled too."""
    try:
        from asyncfedkd import programs  # noqa: PLC0415 — see above
    except KeyboardInterrupt:
        print("asyncfedkd: ended by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    return programs.main()


if __name__ == "__main__":
    sys.exit(main())

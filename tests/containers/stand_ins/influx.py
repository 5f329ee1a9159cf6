#!/usr/bin/env python3
"""The `influx` command of the stand-in: hands its words to influxdb_server.py, and prints what that answers.

INFLUX_HOST   where the server is, unless `--host URL` says so
INFLUX_TOKEN  the administrator's token; `influx ping` needs none
"""

import json
import os
import sys
import urllib.error
import urllib.request


def main(words: list[str]) -> int:
    host = os.environ.get("INFLUX_HOST", "http://localhost:8086")
    if "--host" in words:
        at = words.index("--host")
        host = words[at + 1]
        words = words[:at] + words[at + 2 :]
    request = urllib.request.Request(
        f"{host}/influx",
        data=json.dumps(words).encode(),
        headers={"Authorization": f"Token {os.environ.get('INFLUX_TOKEN', '')}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            print(answer.read().decode(), end="")
    except urllib.error.HTTPError as error:
        with error:
            print(f"Error: {error.read().decode()}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

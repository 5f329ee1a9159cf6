"""The page with the final state of a demo in one file that needs neither server nor broker.

Its modules are in an import map as `data:` URLs: browsers do not load modules from files beside a page opened from
disk.
"""

import json
import re
from base64 import b64encode
from dataclasses import asdict
from importlib.resources import files

from operations.watch.settings import PageConfig

MODULES = ("charts.js", "frame.js", "messages.js", "metric.js", "mqtt.js", "msgpack.js", "page.js", "state.js")
_IMPORT = re.compile(r'from "\./([a-z]+\.js)"')
_PREFIX = "fedkd/"


def saved(config: PageConfig) -> str:
    """The page of a demo that has ended, as one HTML file."""
    assert config.ended_at is not None, "a saved page cannot connect to a broker"
    folder = files("operations.watch")

    def read(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    modules = {name: _IMPORT.sub(rf'from "{_PREFIX}\1"', read(name)) for name in MODULES}
    imports = {_PREFIX + name: _data_url("text/javascript", text) for name, text in modules.items()}
    replacements = {
        '<link rel="icon" href="icon.svg" type="image/svg+xml">': (
            f'<link rel="icon" href="{_data_url("image/svg+xml", read("icon.svg"))}">'
        ),
        '<link rel="stylesheet" href="page.css">': f"<style>{read('page.css')}</style>",
        '<script type="module" src="page.js"></script>': (
            f'<script type="importmap">{json.dumps({"imports": imports})}</script>\n'
            f'<script type="application/json" id="config">{_json(asdict(config))}</script>\n'
            f'<script type="module">import "{_PREFIX}page.js";</script>'
        ),
    }
    page = read("page.html")
    for found, replacement in replacements.items():
        assert found in page, found
        page = page.replace(found, replacement)
    return page


def _data_url(kind: str, text: str) -> str:
    return f"data:{kind};base64,{b64encode(text.encode()).decode()}"


def _json(value: object) -> str:
    """JSON for a script element: its content cannot close the element."""
    return json.dumps(value).replace("<", "\\u003c")

"""Packages of the optional extras: in CI one that is missing is a failure, elsewhere a skip that names it."""

import importlib
import os
from typing import Any

import pytest


def extra(module: str) -> Any:
    """The module, or the skip of the test or test module that asks for it."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(module)
    return pytest.importorskip(module)

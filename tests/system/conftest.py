"""What the tests of programs under tools/ share: a program is a file, not a module of a package, so it is loaded by its path."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture
def load(monkeypatch):
    """A function from a program's path to its module; the files beside it can be imported by it until the test ends."""

    def load(path: Path):
        monkeypatch.syspath_prepend(str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)  # its dataclasses look for it there
        spec.loader.exec_module(module)
        return module

    return load

"""How to get an optional package: a command that works from a checkout and from a wheel."""

import tomllib
from pathlib import Path

import pytest

import wfm_ar
from wfm_ar import extras
from wfm_ar.errors import MissingDependency

PROJECT = Path(wfm_ar.__file__).resolve().parent.parent / "pyproject.toml"


@pytest.fixture
def metadata(monkeypatch):
    """Stands for the installed metadata; the answers are not kept."""

    def replace(lines: list[str] | None) -> None:
        def requires(name: str) -> list[str]:
            if lines is None:
                raise extras.PackageNotFoundError(name)
            return lines

        monkeypatch.setattr(extras, "requires", requires)
        extras.extras.cache_clear()

    yield replace
    extras.extras.cache_clear()


def test_the_packages_are_named(metadata):
    metadata(["torch>=2.10", "gymnasium<2,>=1.0; extra == 'gym'", 'h5py>=3.10; extra == "hdf5"', "wfm-ar[gym]; extra == 'dev'"])
    assert extras.extras() == {"gym": ("gymnasium<2,>=1.0",), "hdf5": ("h5py>=3.10",)}
    assert extras.how_to_install("gym") == "pip install 'gymnasium<2,>=1.0'"


def test_without_metadata_the_checkout_is_named(metadata):
    metadata(None)
    assert extras.extras() == {} and extras.how_to_install("gym") == "pip install -e '.[gym]' in the checkout"


def test_what_is_missing(metadata):
    metadata(["no-such-package>=1; extra == 'odd'", "numpy>=2; extra == 'odd'"])
    assert extras.missing("odd") == ["no-such-package>=1"]


@pytest.mark.skipif(not PROJECT.is_file(), reason="needs the checkout")
def test_messages_ask_for_extras_that_there_are():
    wanted = set()
    for path in PROJECT.parent.joinpath("wfm_ar").rglob("*.py"):
        text = path.read_text()
        assert "wfm-ar[" not in text or path.name == "extras.py", f"{path}: use extras.how_to_install"
        wanted |= {part.split("'")[0] for part in text.split("how_to_install('")[1:]}
    assert wanted and wanted <= tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"].keys()


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    from wfm_ar.data import parquet

    monkeypatch.setattr(parquet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"a set: needs the package pyarrow.*; fix: pip install .*pyarrow|lerobot"):
        parquet.need_pyarrow("a set")

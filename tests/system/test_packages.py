"""Wheel and sdist: everything that runs is inside and nothing else, and what is installed from the wheel works without the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import wfm_ar

ROOT = Path(wfm_ar.__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")


def build(source: Path, out: Path, *what: str) -> Path:
    pytest.importorskip("hatchling")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out), *what], cwd=source, check=True, capture_output=True)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "-t", "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "-t", "sdist")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that pip put the wheel into; what it needs comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    how = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *how, str(wheel)], check=True, capture_output=True)
    return folder


def kept(*folders: str) -> set[str]:
    """The files of the checkout below these folders that git keeps."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders], cwd=ROOT, capture_output=True
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    return {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()}


def test_the_wheel_holds_what_runs_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = message_from_bytes(archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))))
    wanted = kept("wfm_ar") | {name.removeprefix("kernels/") for name in kept("kernels/wfm_kernels")}
    wanted |= {f"wfm_ar/{name}" for name in kept("conf")}
    assert names == wanted, (sorted(names - wanted)[:5], sorted(wanted - names)[:5])
    assert about["Version"] == wfm_ar.__version__ and {"wfm_ar/py.typed", "wfm_kernels/py.typed"} <= names
    assert not any(part in ("tests", "benchmarks", "tools") for name in names for part in name.split("/"))


def test_the_sdist_makes_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = next(tmp_path.iterdir())
    assert source.name == f"wfm_ar-{wfm_ar.__version__}"
    assert {path.name for path in source.iterdir()} >= {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert not {"tests", "tools", "docs", "benchmarks"} & {path.name for path in source.rglob("*") if path.is_dir()}
    again = build(source, tmp_path / "again", "-t", "wheel")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        files = [{info.filename: info.CRC for info in archive.infolist() if ".dist-info/" not in info.filename} for archive in (one, other)]
    assert files[0] == files[1]


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


def test_the_installed_package_works_without_the_checkout(installed, tmp_path):
    place = run(installed, tmp_path, "-c", "import wfm_ar, wfm_kernels; print(wfm_ar.__file__, wfm_kernels.__file__)")
    assert all(Path(name).is_relative_to(installed) for name in place.stdout.split()), place
    commands = (
        ("generate", "--help"),
        ("samples", "out=samples"),
        ("generate", "image=samples/start.png", "frames=5", "out=clip.mp4", "refine=false"),
        ("train", "--cfg", "job", "experiment=smoke"),
    )
    for command in commands:
        done = run(installed, tmp_path, "-m", "wfm_ar", *command)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / "clip.mp4").is_file()


def test_what_an_extra_needs_is_named_by_the_installed_package(installed, tmp_path):
    """From a wheel as from a checkout: a command that pip takes, with the packages' own names."""
    hide = """
import sys
sys.modules["gymnasium"] = None
try:
    import wfm_ar; wfm_ar.WorldEnv
except Exception as error:
    print(error)
"""
    told = run(installed, tmp_path, "-c", hide).stdout
    assert "the package gymnasium is missing; fix: pip install 'gymnasium" in told and "wfm-ar[" not in told, told

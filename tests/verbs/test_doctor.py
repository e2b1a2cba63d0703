"""`wfm doctor`: a block that names what is there and what is missing, and never a traceback."""

import pytest

from wfm_ar import __version__
from wfm_ar.cli import main
from wfm_ar.verbs import doctor


def test_a_sound_installation(capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(f"wfm-ar     {__version__}") and "Traceback" not in out
    for words in ("torch 2", "threads", "libx264", "128x128 pixels", "GB free", "gym: here"):
        assert words in out, words
    assert out.endswith("all that every command needs is there\n")


def test_what_breaks_is_named_and_the_rest_goes_on(capsys, monkeypatch):
    monkeypatch.setitem(doctor.PROBES, "codecs", lambda: (_ for _ in ()).throw(ImportError("libavcodec.so: no such file")))
    assert doctor.run() == 2
    out = capsys.readouterr().out
    assert "codecs     BROKEN: ImportError: libavcodec.so: no such file\n" in out
    assert out.endswith("broken: codecs\n") and "\ndisk       " in out


@pytest.mark.parametrize("name", ["av", "torch"])
def test_a_missing_package_is_named_with_its_remedy(capsys, monkeypatch, name):
    monkeypatch.setattr(doctor, "installed", lambda package: None if package == name else "1.0")
    assert doctor.run() == 2
    assert f"not installed: {name}; fix: pip install {name}" in capsys.readouterr().out


def test_an_opengl_that_ends_its_process_is_told(monkeypatch):
    monkeypatch.setattr(doctor, "missing", lambda extra: [])
    monkeypatch.setattr(doctor, "DRAW", "import os; os.abort()")
    assert doctor._drawing() == ["MuJoCo cannot draw: the process ended with -6"]
    monkeypatch.setattr(doctor, "DRAW", "raise RuntimeError('no EGL')")
    assert doctor._drawing() == ["MuJoCo cannot draw: RuntimeError: no EGL"]


def test_a_missing_extra_is_no_fault(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "missing", lambda extra: ["mujoco==3.8.1"] if extra == "sim" else [])
    assert doctor.run() == 0
    out = capsys.readouterr().out
    assert "sim: missing; fix: pip install 'mujoco==3.8.1'" in out and "tabletop data cannot be made" in out

"""`wfm completion`: what a shell offers at a place in a command line, asked of the shells that are here."""

import shutil
import subprocess

import pytest

from wfm_ar.cli import main
from wfm_ar.cli_completion import SHELLS, completion, keys_of
from wfm_ar.verbs import VERBS

ASK = """
{script}
compopt() {{ :; }}
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_wfm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def offered(*words: str) -> set[str]:
    """What bash offers for the last word; it gives a function `key=val` as three."""
    script = ASK.format(script=completion(["bash"]), words=" ".join(f"'{word}'" for word in ("wfm", *words)))
    return set(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split())


def test_verbs_keys_and_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.mp4").touch()
    assert offered("gen") == {"generate"}
    assert offered("data", "c") == {"check", "convert", "curate"}
    assert offered("completion", "") == set(SHELLS)
    assert offered("generate", "text") == {"text=", "text_guidance=", "text_encoder="}
    assert offered("data", "check", "deco") == {"decode="}
    assert offered("generate", "device", "=") == {"auto", "cpu", "cuda"}
    assert offered("generate", "seed=1", "device", "=", "cu") == {"cuda"}
    assert offered("train", "experiment", "=", "ta") == {"tabletop", "tabletop_frames"}
    assert offered("generate", "refine", "=") == {"true", "false"}
    assert offered("generate", "video", "=", "giv") == {"given.mp4"}
    assert "work=" in offered("bench", "cosmos", "") and "only=" in offered("bench", "")


def test_every_key_is_offered():
    from wfm_ar.cli import settings_of

    for verb in VERBS:
        assert set(verb.literal) | set(verb.groups) <= keys_of(verb).keys(), verb.words
    fields = settings_of("samples", []).__dataclass_fields__.keys()
    assert set(keys_of(next(verb for verb in VERBS if verb.words == "samples"))) == set(fields)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_the_script(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    run = subprocess.run([shell, "-n"], input=completion([shell]), capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_fish_offers_the_same(tmp_path):
    if shutil.which("fish") is None:
        pytest.skip("no fish here")
    for line, wanted in (("wfm data c", "check"), ("wfm generate dev", "device=cpu"), ("wfm bench co", "cosmos")):
        script = f"{completion(['fish'])}\ncomplete -C '{line}'"
        out = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True).stdout
        assert any(one.split("\t")[0] == wanted for one in out.splitlines()), (line, out)


def test_another_shell_is_refused(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err.startswith("wfm completion: got tcsh, expected bash | zsh | fish; fix: ")

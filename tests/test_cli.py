"""The command line: what it prints, where, and with which exit code. In process where that is enough, for speed."""

import errno
import io
import os
import subprocess
import sys
from dataclasses import fields, make_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import wfm_ar
from wfm_ar import cli
from wfm_ar.cli import main, settings_of
from wfm_ar.cli_help import conf_dir
from wfm_ar.errors import BadClip, BadConfig, NoSpace
from wfm_ar.verbs import VERBS
from wfm_ar.verbs.data_check import Settings

FakeSettings = make_dataclass("FakeSettings", [(field.name, field.type) for field in fields(Settings)], frozen=True, kw_only=True)


@pytest.fixture
def told(capsys):
    """Runs a command line -> (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def verb_that(monkeypatch):
    """Puts a function in the place of `wfm data check`'s, to see what its end turns into."""

    def replace(act):
        fake = SimpleNamespace(Settings=FakeSettings, run=act)
        real = cli.importlib.import_module
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake if name == "wfm_ar.verbs.data_check" else real(name))

    return replace


def assert_one_line(result: tuple[int, str, str], *words: str, code: int = 2) -> None:
    got, out, err = result
    assert got == code, (got, out, err)
    assert out == "", out
    assert err.count("\n") == 1 and err.endswith("\n"), err
    assert "Traceback" not in err
    for word in words:
        assert word in err, (word, err)


def test_help_tells_the_story(told):
    for arguments in ((), ("--help",), ("-h",)):
        code, out, err = told(*arguments)
        assert (code, err) == (0, "")
        for verb in VERBS:
            assert f"wfm {verb.words}" in out and verb.line in out
        assert out.count("\n  wfm ") >= len(VERBS) + 3


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_each_verb_helps(told, verb):
    code, out, err = told(*verb.words.split(), "--help")
    assert (code, err) == (0, "")
    assert verb.line in out
    assert all(example in out for example in verb.examples) and verb.examples
    assert "hydra" not in out.replace("hydra_", ""), "what only hydra reads must not be shown"
    for key in verb.literal:
        assert f"\n  {key}:" in out, f"{key} is not in conf/{verb.module}.yaml"
    for group in verb.groups:
        assert f"\n  {group}=" in out


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.words)
def test_every_key_is_known_and_explained(told, verb):
    """The config composes, and conf/<module>.yaml and the settings have the same keys."""
    import dataclasses
    import importlib

    code, out, err = told(*verb.words.split(), "--cfg", "job")
    assert (code, err) == (0, "")
    shown = {line.partition(":")[0] for line in out.splitlines() if line and line[0] not in " -#"}
    kind = importlib.import_module(f"wfm_ar.verbs.{verb.module}").Settings
    assert shown == {field.name for field in dataclasses.fields(kind)}


def test_family_and_version(told):
    code, out, err = told("data")
    assert (code, err) == (0, "") and "wfm data make" in out and "wfm data check" in out
    code, out, err = told("version")
    assert (code, err) == (0, "") and out.startswith(f"wfm-ar {wfm_ar.__version__}\n") and "torch " in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generat"], ['did you mean "generate"', "fix:"]),
        (["data", "chekc"], ['did you mean "check"', "make | check"]),
        (["data", "make", "--cgf", "job"], ["unknown option '--cgf'", 'did you mean "--cfg"']),
        (["data", "make", "--cfg", "jobb"], ["--cfg got 'jobb'", "job | hydra | all"]),
        (["data", "make", "--cfg"], ["--cfg got ''"]),
        (["data", "make", "-m", "--cfg", "job"], ["together", "expected one"]),
        (["data", "make", "--resolve"], ["--cfg job --resolve"]),
        (["data", "make", "episods=3"], ["unknown key 'episods'", 'did you mean "episodes"']),
        (["data", "make", "out=x", "+episods=3"], ["unknown key 'episods'", 'did you mean "episodes"']),
        (["data", "make"], ["out has no value", "out=VALUE"]),
        (["data", "make", "out=x", "episodes=three"], ["episodes is 'three'", "a whole number"]),
        (["data", "make", "out=x", "episodes=1.5"], ["episodes is 1.5"]),
        (["data", "make", "out=x", "episodes=[1"], ["episodes=[1"]),
        (["data", "make", "out=x", "episodes=1,2"], ["episodes=1,2", "-m to sweep"]),
        (["data", "make", "out=x", "episodes=0"], ["episodes: got 0"]),
        (["data", "make", "out=x", "frames=${nothing}"], ["nothing"]),
        (["data", "make", "out=x", "world=tabletopp"], ['did you mean "tabletop"']),
        (["data", "make", "somewhere"], ["got 'somewhere'", "key=value"]),
        (["data", "check"], ["path has no value"]),
        (["data", "check", "a", "b"], ["got 'b'", "one path"]),
        (["data", "make", "out=x", "+_target_=os.system"], ["configs never name code"]),
        (["data", "make", "--config-dir", "no/such/folder"], ["no/such/folder"]),
    ],
)
def test_bad_command_lines_are_one_line(told, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert_one_line(told(*arguments), "wfm", *words)
    assert not list(tmp_path.iterdir()), "nothing may be written for a command line that is refused"


def test_package_that_is_not_there(told):
    code, _, err = told("data", "make", "--cfg", "job", "--package", "nothing")
    assert code == 2 and err.count("\n") == 1


def test_errors_become_exit_codes(told, verb_that):
    def act(settings):
        raise BadClip(f"{settings.path}: is cut\nshort; fix: copy it again")

    verb_that(act)
    assert_one_line(told("data", "check", "in dir/a,b (1)=c.mp4"), "wfm data check: in dir/a,b (1)=c.mp4: is cut short; fix: copy it again")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NoSpace("out: no space"), 2, ["out: no space"]),
        (OSError(errno.ENOSPC, "No space left on device", "here"), 2, ["here: no space left on the disk", "fix:"]),
        (PermissionError(errno.EACCES, "Permission denied", "here"), 2, ["here: Permission denied"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
    ],
)
def test_other_ends(told, verb_that, error, code, words):
    def act(settings):
        raise error

    verb_that(act)
    assert_one_line(told("data", "check", "x"), *words, code=code)


@pytest.mark.parametrize(("stop", "code"), [(SystemExit(143), 143), (SystemExit(None), 0), (SystemExit(0), 0)])
def test_a_verb_may_choose_its_exit_code(told, verb_that, stop, code):
    def act(settings):
        raise stop

    verb_that(act)
    assert told("data", "check", "x") == (code, "", "")


def test_a_bug_leaves_its_traceback_in_a_file(told, verb_that, tmp_path, monkeypatch):
    def act(settings):
        raise ZeroDivisionError("our mistake")

    verb_that(act)
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    assert_one_line(told("data", "check", "x"), "internal error", "ZeroDivisionError: our mistake", str(tmp_path), code=70)
    (log,) = tmp_path.iterdir()
    assert "ZeroDivisionError: our mistake" in log.read_text() and "in act" in log.read_text()


def test_sweeps_run_every_point_and_return_the_worst(told, verb_that, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def act(settings):
        seen.append((str(settings.path), settings.decode))
        return 2 if settings.decode else 0

    verb_that(act)
    code, _, err = told("data", "check", "-m", "path=a,b", "decode=true,false")
    assert (code, err) == (2, "")
    assert seen == [("a", True), ("a", False), ("b", True), ("b", False)]


def fake_train(monkeypatch, seen: list):
    """`wfm train` that only notes its settings, with the real ones."""
    from wfm_ar.verbs import train

    fake = SimpleNamespace(Settings=train.Settings, run=lambda settings: seen.append(settings))
    real = cli.importlib.import_module
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake if name == "wfm_ar.verbs.train" else real(name))


def test_training_keeps_its_config_in_the_run_folder(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list = []
    fake_train(monkeypatch, seen)
    assert told("train", "experiment=smoke", "run=here/mine", "optimizer.lr=0.5")[0] == 0
    assert str(seen[0].run) == "here/mine" and seen[0].optimizer.lr == 0.5
    (kept,) = Path("here/mine/.hydra").glob("*/config.yaml")
    assert "lr: 0.5" in kept.read_text() and "name: smoke" in kept.read_text()
    (overrides,) = Path("here/mine/.hydra").glob("*/overrides.yaml")
    assert "optimizer.lr=0.5" in overrides.read_text()


def test_every_point_of_a_sweep_has_a_run_of_its_own(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list = []
    fake_train(monkeypatch, seen)
    code, _, err = told("train", "-m", "stage=world_model", "experiment=smoke", "optimizer.lr=1e-3,3e-4", "model.layers=2,3")
    assert (code, err) == (0, "")
    assert [(settings.optimizer.lr, settings.model.layers) for settings in seen] == [(1e-3, 2), (1e-3, 3), (3e-4, 2), (3e-4, 3)]
    runs = [str(settings.run) for settings in seen]
    assert len(set(runs)) == 4 and all(run.startswith("runs/smoke/sweep/") and Path(run, ".hydra").is_dir() for run in runs)


def test_a_refused_run_leaves_no_folder(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for override in ("tokenizer.height=100", "model=nanoo", "optimizer.lr=fast", "stages.world_model.training.z_los=1", "experiment=none"):
        assert_one_line(told("train", override), "wfm train")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("made", ["", ".lock", "", "video_tokenizer/log.jsonl", "tokens/train/a.bin"])
def test_a_run_that_fails_before_it_made_anything_leaves_no_folder(told, tmp_path, monkeypatch, made):
    from wfm_ar.verbs import train

    def fail(settings):
        if made:
            path = settings.run / made
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        raise BadClip("a.mp4: is cut short; fix: copy it again")

    fake = SimpleNamespace(Settings=train.Settings, run=fail)
    real = cli.importlib.import_module
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake if name == "wfm_ar.verbs.train" else real(name))
    monkeypatch.chdir(tmp_path)
    assert_one_line(told("train", "experiment=smoke", "run=runs/mine"), "wfm train: a.mp4: is cut short")
    if "/" in made:
        assert Path("runs/mine", made).is_file() and Path("runs/mine/.hydra").is_dir(), "work was done, and its settings stay with it"
    else:
        assert not list(tmp_path.iterdir())


def test_a_run_that_was_there_before_stays_whatever_happens(told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    assert_one_line(told("train", "experiment=smoke", "run=runs/mine", "data=nothing"), "nothing: is not a folder")
    assert Path("runs/mine").is_dir()


def test_nothing_of_the_process_stays_changed(told, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = (list(sys.argv), os.getcwd())
    told("data", "make", "nonsense=1")
    assert (sys.argv, os.getcwd()) == before and "HYDRA_FULL_ERROR" not in os.environ


def test_settings_of_a_verb():
    settings = settings_of("data make", ["out=x", "episodes=3"])
    assert (settings.world, settings.episodes, settings.out) == ("tabletop", 3, Path("x"))
    with pytest.raises(BadConfig, match="episodes"):
        settings_of("data make", ["out=x", "episodes=three"])


def test_configs_lie_in_the_checkout():
    assert (conf_dir() / "train.yaml").is_file() and conf_dir().name == "conf"


@pytest.mark.slow
def test_help_is_quick_and_imports_nothing_heavy():
    script = (
        "import sys; sys.argv = ['wfm', '--help']; from wfm_ar.cli import main; code = main();"
        "print([m for m in ('torch', 'hydra', 'numpy', 'omegaconf', 'matplotlib') if m in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[] 0\n") and done.stderr == ""


@pytest.mark.slow
def test_as_a_program(tmp_path):
    """`python -m wfm_ar`, the real streams and the real exit code."""
    command = [sys.executable, "-m", "wfm_ar", "data", "check", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    done = subprocess.run([sys.executable, "-m", "wfm_ar", "train", "-h"], stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.startswith("wfm train:")


def test_a_terminal_of_ascii_alone(tmp_path, monkeypatch):
    """What it cannot show is shown escaped, on both streams."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert main(["data", "check", str(tmp_path / "Würfel")]) == 2
    out, err = (stream.buffer.getvalue().decode("ascii") for stream in streams)
    assert "W\\xfcrfel: is not a folder" in out and "W\\xfcrfel" in err and err.count("\n") == 1


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "0"}])
def test_threads_sleep_while_they_wait_unless_the_user_chose(told, monkeypatch, chosen):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert told("version")[0] == 0
    assert os.environ.get("OMP_WAIT_POLICY") == (chosen.get("OMP_WAIT_POLICY") if chosen else "passive")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # as conftest.py has it


def test_a_line_break_in_a_users_path_makes_no_second_line(told, tmp_path, monkeypatch):
    """Whatever is printed: what was made, what a command found, and what was wrong."""
    monkeypatch.chdir(tmp_path)
    odd = "a\nwfm: all is well\r"
    code, out, err = told("samples", f"out={odd}")
    assert code == 0 and out.splitlines()[0].startswith(r"a\nwfm: all is well\r: episode ") and (tmp_path / odd / "start.png").is_file()
    assert all(line.startswith("  wfm ") and r"a\nwfm: all is well\r" in line for line in out.splitlines()[1:]) and not err
    code, out, err = told("data", "convert", f"src={odd}/episodes", f"out={odd}/copy")
    assert code == 0 and len(out.splitlines()) == 2 and out.count(r"\nwfm: all is well") == 2 and not err
    code, out, err = told("data", "stats", f"path={odd}/copy", f"out={odd}/page.html", "samples=false")
    assert code == 0 and out.splitlines()[-1] == r"the page is a\nwfm: all is well\r/page.html" and "\nwfm: all" not in out
    for arguments in (
        ("data", "check", f"path={odd}/no"),
        ("info", f"{odd}/no"),
        ("samples", f"out={odd}"),
        ("data", "convert", f"src={odd}", f"out={odd}"),
    ):
        code, out, err = told(*arguments)
        assert code == 2 and err.count("\n") == 1 and "all is well" in err, (arguments, err)

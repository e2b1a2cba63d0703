"""`wfm <verb> [key=value ...]`: from the command line to a verb's settings, and from its end to an exit code.

Exit codes: 0 done; 2 something the user can mend, told in one line on stderr; 70 a mistake of ours, with the traceback in a
file; 130 interrupted. Nothing numeric happens here and nothing heavy is imported before a verb runs: `wfm --help` is quick.
It is the only file that imports hydra.
"""

import errno
import importlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wfm_ar import __version__
from wfm_ar.cli_arguments import flags_and_overrides, prepared_overrides, quoted, verb_and_rest
from wfm_ar.cli_completion import completion
from wfm_ar.cli_help import conf_dir, help_of, help_of_family, overview, versions
from wfm_ar.config_files import check_folder, check_sweep
from wfm_ar.errors import BadConfig, BadData, NoSpace, Note, WfmError, nearest
from wfm_ar.plain_text import PlainStream, print_lines, shown
from wfm_ar.verbs import VERBS, Verb

if TYPE_CHECKING:
    from omegaconf import DictConfig

BUG, INTERRUPTED = 70, 130
OF_NO_USE = (  # warnings of libraries that nobody can do anything about
    "Glyph .* missing from font",  # a text in another script: a picture shows a box for it
    "Mismatch dtype between input and weight",  # of norms under autocast on the CPU: the slower way is taken, with the same numbers
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (`argv` without the program's name) and returns the exit code. Never raises."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _let_threads_sleep()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal of fewer letters, or a path that is no text: shown escaped
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings(), _plain_streams():
        for message in OF_NO_USE:
            warnings.filterwarnings("ignore", message)
        warnings.filterwarnings("always", category=Note)
        show, said = warnings.showwarning, set[str]()
        warnings.showwarning = lambda message, kind, *rest: _note(message, said) if kind is Note else show(message, kind, *rest)
        return _guarded("wfm", lambda: _dispatch(arguments))


def _let_threads_sleep() -> None:
    """OpenMP's threads wait asleep instead of spinning, unless the user chose: spinning takes the core of whoever else computes.

    It is read once, when torch brings the library along.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _note(message: Warning | str, said: set[str]) -> None:
    """A warning as one line, without the place in the code that Python adds; each line once."""
    line = f"wfm: note: {shown(str(message))}"
    if line not in said:
        said.add(line)
        print(line, file=sys.stderr)


@contextmanager
def _plain_streams() -> Iterator[None]:
    """Whatever is printed, by us or by a library, reaches the terminal as plain text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (PlainStream(stream) if stream is not None else stream for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def settings_of(words: str, overrides: Sequence[str] = (), config_dir: Path | None = None) -> Any:
    """The validated settings of a verb, as `wfm <words> <overrides>` would build them; for tests and scripts."""
    verb = _verb_named(words)
    if config_dir is not None:
        check_folder(config_dir)
    prepared = prepared_overrides(verb, list(overrides))
    with _told_by_us(verb, prepared):
        config = _compose(verb, prepared, config_dir)
    return _build(verb, config)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("--help", "-h", "help"):
        print_lines(overview())
        return 0
    if arguments[0] in ("version", "--version"):
        print_lines(versions())
        return 0
    if arguments[0] == "completion":
        return _guarded("wfm", lambda: _print(completion(arguments[1:])))
    if arguments[0] == "doctor":
        return _guarded("wfm doctor", importlib.import_module("wfm_ar.verbs.doctor").run)
    verb, rest = verb_and_rest(arguments)
    if verb is None or "--help" in rest or "-h" in rest:
        print_lines(help_of(verb) if verb else help_of_family(arguments[0]))
        return 0
    return _guarded(f"wfm {verb.words}", lambda: _run(verb, rest))


def _print(text: str) -> int:
    print_lines(text)
    return 0


def _verb_named(words: str) -> Verb:
    return next(verb for verb in VERBS if verb.words == words)


def _run(verb: Verb, arguments: list[str]) -> int:
    """Hands the command line to hydra, which composes the config and calls the verb once, or once a sweep point."""
    flags, overrides = flags_and_overrides(verb, arguments)
    multirun = not {"-m", "--multirun"}.isdisjoint(flags)
    overrides = prepared_overrides(verb, overrides, multirun=multirun)
    if multirun:
        check_sweep(f"wfm {verb.words}", overrides)
    for flag, folder in zip(flags, flags[1:], strict=False):
        if flag in ("--config-dir", "-cd"):
            check_folder(Path(folder))
    check_folder(conf_dir(), ours=True)
    import hydra  # 0.2 s: only once there is a verb to run
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from wfm_ar.config import only_times_resolve

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, PlainStream):  # a config is many lines, whose values are quoted
            stream.several = not {"--cfg", "-c", "--info", "-i"}.isdisjoint(flags)
    codes: list[int] = []
    missing: list[Path] = []  # the run's folder and those it lies in, where hydra is to make them

    def job(config: "DictConfig") -> None:
        output = HydraConfig.get().runtime.output_dir
        typed = cast("list[str]", OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
        codes.append(_guarded(f"wfm {verb.words}", lambda: _run_verb(verb, config, output, typed)))

    try:
        if verb.keeps_folder and not flags:
            with _told_by_us(verb, overrides):
                config = _compose(verb, overrides)
            _build(verb, config)  # refused here, a mistake leaves no folder behind
            missing = [folder for folder in (Path(config.run), *Path(config.run).parents) if not folder.exists()]
        with _told_by_us(verb, overrides), _hydra_reads([f"wfm {verb.words}", *flags, *overrides]), only_times_resolve():
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb.module)(job)()
    except SystemExit as stop:  # hydra's own end of --cfg, --info; a verb's exit is caught inside the job
        return 0 if stop.code in (0, None) else 2
    if any(codes):
        _take_away(missing)
    return max(codes, default=0)


def _take_away(folders: list[Path]) -> None:
    """The folder of a run that failed before it made anything, the first of `folders`, and those around it that are empty then."""
    from wfm_ar.data.schema_file import SCHEMA

    for run in folders[:1]:
        files = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
        if all(path.parts[0] == ".hydra" or path.name in (".lock", SCHEMA) for path in files):
            shutil.rmtree(run, ignore_errors=True)
    with suppress(OSError):  # not empty, or gone already
        for folder in folders[1:]:
            folder.rmdir()


@contextmanager
def _told_by_us(verb: Verb, overrides: list[str]) -> Iterator[None]:
    """What hydra, OmegaConf and YAML raise while they put a config together becomes BadConfig, one line.

    Odd configs make them raise plain errors too (a defaults list that is a number, or that names itself); a verb's own errors
    never get here.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except RecursionError:
        raise BadConfig(f"wfm {verb.words}: the config includes itself, expected an end; fix: see its defaults list") from None
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError, AttributeError, LookupError, AssertionError) as error:
        raise BadConfig(_hydra_line(verb, error, overrides)) from error


def _run_verb(verb: Verb, config: "DictConfig", output: str, typed: list[str]) -> int:
    if "given" in config:  # what a person typed goes before what is chosen for them
        config.given = [*config.given, *(one.lstrip("+~").partition("=")[0] for one in typed)]
    if "run" in config:  # a training run lives in hydra's output folder, so that every point of a sweep has its own
        config.run = os.path.relpath(output) if Path(output).is_relative_to(Path.cwd()) else output
    settings = _build(verb, config)
    if verb.words.split()[0] != "cosmos" and any("hf:/" in str(value) for value in vars(settings).values()):
        settings = importlib.import_module("wfm_ar.verbs.downloads").with_downloads(settings)
    return int(importlib.import_module(f"wfm_ar.verbs.{verb.module}").run(settings) or 0)


def _build(verb: Verb, config: "DictConfig") -> Any:
    from wfm_ar.config import build, from_hydra, only_times_resolve

    where = f"wfm {verb.words}"
    kind = importlib.import_module(f"wfm_ar.verbs.{verb.module}").Settings
    with only_times_resolve():
        plain = from_hydra(config, where)
    return build(kind, plain, where)


def _compose(verb: Verb, overrides: list[str], config_dir: Path | None = None) -> "DictConfig":
    from hydra import compose, initialize_config_dir

    from wfm_ar.config import only_times_resolve

    # a defaults list resolves references while it is put together, and says what came of them where there is no such file
    with only_times_resolve(), initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        more = [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"] if config_dir else []
        return compose(verb.module, overrides + more)


@contextmanager
def _hydra_reads(command: list[str]) -> Iterator[None]:
    """hydra.main reads sys.argv, and raises instead of printing its own report only with this variable set."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = command, "1"
    try:
        yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def _guarded(where: str, call: Callable[[], int]) -> int:
    """Runs `call` and turns whatever it raises into one line on stderr and an exit code."""
    try:
        return call()
    except WfmError as error:
        return _complain(where, str(error), error.exit_code)
    except KeyboardInterrupt:
        return _complain(where, "interrupted", INTERRUPTED)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else _complain(where, str(stop.code), 2)
    except BrokenPipeError:  # `wfm ... | head`: the reader went away, and so may we
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            return _bug(where, error)
        told = _os_error(error)
        return _complain(where, str(told), told.exit_code)
    except Exception as error:
        return _bug(where, error)


def _complain(where: str, message: str, code: int) -> int:
    line = " ".join(message.split())
    print(line if line.startswith("wfm") else f"{where}: {line}", file=sys.stderr)
    return code


def _os_error(error: OSError) -> WfmError:
    place, reason = error.filename or "a file", error.strerror or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{place}: no space left on the disk; fix: free some space, then run again")
    return BadData(f"{place}: {reason}; fix: check the path and its permissions")


def _bug(where: str, error: Exception) -> int:
    """One line for the user, the traceback for us in a file."""
    name = f"wfm-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    log = Path(tempfile.gettempdir()) / name
    report = "".join(traceback.format_exception(error))
    try:
        log.write_text(f"wfm {__version__}\n{' '.join(sys.argv)}\n\n{report}")
    except OSError as full:
        return _complain(where, f"internal error, {type(error).__name__}: {error} (no traceback kept: {full})", BUG)
    return _complain(where, f"internal error, {type(error).__name__}: {error}; traceback in {log}; fix: please report it", BUG)


def _hydra_line(verb: Verb, error: Exception, overrides: list[str]) -> str:
    """hydra's report as one line of ours: what, where, what was expected, how to fix it."""
    from wfm_ar.config import first_line

    where, text = f"wfm {verb.words}", str(error)
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        group, _, choice = str(missing).rpartition("/")
        choices = sorted(options or ())
        expected = " | ".join(choices) if choices else "a file of that name in conf/"
        found = f"{group or 'config'} {choice!r} does not exist{nearest(choice, choices)}"
        return f"{where}: {found}, expected {expected}; fix: choose one of them"
    if found := re.search(r"Could not (?:override|append|delete)\w* (?:to config\. )?'?([\w./@-]+)'?", text):
        key = found[1].rstrip(".")
        keys = _keys(verb)
        family = [one for one in keys if "." not in one] if "." not in key else keys
        return f"{where}: unknown key '{key}'{nearest(key, family) or nearest(key, keys)}; fix: see `{where} --help` for the keys"
    if found := re.search(r"Ambiguous value for argument '(.*?)'", text):
        key = found[1].partition("=")[0]
        return f"{where}: {found[1]}: got several values, expected one; fix: {key}=[...] for a list, quotes for text, or -m to sweep"
    broken = getattr(error, "override", "")
    return f"{where}: {broken + ': ' if broken else ''}{first_line(error)}; fix: write key=value, see `{where} --help`"


def _keys(verb: Verb) -> list[str]:
    """Every key of the verb's default config, dotted, and its groups."""
    from omegaconf import DictConfig

    def walk(tree: "DictConfig", prefix: str) -> Iterator[str]:
        for name in tree:
            yield f"{prefix}{name}"
            node = tree._get_node(name)
            if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
                yield from walk(node, f"{prefix}{name}.")

    return [*walk(_compose(verb, []), ""), *verb.groups]


if __name__ == "__main__":
    raise SystemExit(main())

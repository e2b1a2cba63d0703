"""What config files and command lines may look like at all, looked at before OmegaConf or hydra parse anything.

A YAML file of two hundred bytes can cost seconds (aliases that multiply), hydra builds whatever a `_target_` names, logging
configs call what stands under `()`, and `${oc.env:...}` copies secrets into files that are kept. None of it is needed here, so
none of it passes: files are small, without aliases, tags and names of code; overrides are short, and hydra's own settings
are out of reach but for a few that say where output goes. What the settings mean is checked later, by config.py.
"""

import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from wfm_ar.errors import BadConfig

FILE_BYTES = 64 << 10
FILE_NODES = 5_000
FILES = 1_000  # in one folder of configs
DEPTH = 24
OVERRIDE_CHARACTERS = 4_096
ALL_CHARACTERS = 16_384  # of a command line; hydra's parser takes about a second for these
SWEEP_POINTS = 10_000
CODE_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_", "()", "class", "callable"}
# hydra's settings that a command line may change: where output goes, and how a sweep is run by an installed plugin
HYDRA_KEYS = re.compile(
    r"hydra\.(run\.dir|sweep\.(dir|subdir)|output_subdir|job\.(name|num|chdir)|verbose|mode|(launcher|sweeper)\.[\w.]+)"
    r"|hydra/(launcher|sweeper|job_logging|hydra_logging)"
)
_REFERENCE = re.compile(r"\$\{(?!now:)")


def check_folder(folder: Path, *, ours: bool = False) -> None:
    """Every YAML file below `folder`. Not `ours` (--config-dir): nothing in it may reach hydra's own settings."""
    found = []
    for place, _, names in os.walk(folder):
        found += [Path(place, name) for name in names if name.lower().endswith((".yaml", ".yml"))]
        if len(found) > FILES:
            raise BadConfig(f"{folder}: got more than {FILES} config files, expected fewer; fix: name a folder of configs alone")
    for path in sorted(found):
        if not ours and "hydra" in path.relative_to(folder).parts[:-1]:
            raise BadConfig(f"{path}: lies in a folder hydra/, expected configs of wfm alone; fix: move it out")
        check_text(_read(path), str(path), ours=ours)


def _read(path: Path) -> str:
    """The text of a small regular file."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > FILE_BYTES:
            what = f"{about.st_size} bytes" if stat.S_ISREG(about.st_mode) else "no regular file"
            raise BadConfig(f"{path}: got {what}, expected a config of at most {FILE_BYTES} bytes; fix: part it or take it away")
        return path.read_bytes().decode()
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read ({error.strerror}), expected a config; fix: check its permissions") from None
    except UnicodeDecodeError as error:
        raise BadConfig(f"{path}: is not UTF-8 at byte {error.start}, expected text; fix: save it as UTF-8") from None


def check_text(text: str, where: str, *, ours: bool = False) -> None:
    """One YAML document: small, plain, and naming no code. Raises BadConfig."""
    if len(text.encode()) > FILE_BYTES:
        raise BadConfig(f"{where}: got {len(text.encode())} bytes, expected at most {FILE_BYTES}; fix: part it")
    package = re.search(r"(?m)^\s*#\s*@package\s+(\S+)", text)
    if package and not ours and "hydra" in package[1]:
        raise BadConfig(f"{where}: belongs to {package[1]}, expected a part of wfm's config; fix: remove the line")
    for nodes, (value, line, depth) in enumerate(_scalars_and_nodes(text, where)):
        place = f"{where} line {line}"
        if nodes >= FILE_NODES:
            raise BadConfig(f"{place}: got more than {FILE_NODES} values, expected fewer; fix: part the file")
        if depth > DEPTH:
            raise BadConfig(f"{place}: got values {depth} levels deep, expected at most {DEPTH}; fix: write it flatter")
        if value in CODE_KEYS:
            raise BadConfig(f"{place}: {value}: configs never name code to run; fix: remove it")
        if value is not None:
            _check_references(value, place)
            if not ours and "hydra" in value.split("@")[-1].replace("override ", "").strip("/ ").split("/")[0].split(".")[:1]:
                raise BadConfig(f"{place}: {value}: hydra's own settings are not for configs here; fix: remove it")


def _scalars_and_nodes(text: str, where: str) -> Iterator[tuple[str | None, int, int]]:
    """(text of a scalar or None, line, depth) of every node, read event by event so that nothing is built."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = documents = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None or documents > 1:
                what = "a second document" if documents > 1 else f"an alias or anchor {getattr(event, 'anchor', None)!r}"
                raise BadConfig(f"{where} line {line}: got {what}, expected plain values; fix: write them out")
            if getattr(event, "tag", None) is not None:
                raise BadConfig(f"{where} line {line}: got a tag {getattr(event, 'tag', None)}, expected plain values; fix: remove it")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                yield None, line, depth
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.ScalarEvent):
                yield event.value, line, depth
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where} line {mark.line + 1}" if mark else where
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise BadConfig(f"{place}: is not YAML ({reason}), expected keys and values; fix: repair it") from None


def _check_references(value: str, where: str) -> None:
    """One reference to another key, or times: two in one value can double at every step, to any size."""
    if len(_REFERENCE.findall(value)) > 1 or value.count("${") > 8:
        shown = value if len(value) < 60 else f"{value[:60]}..."
        raise BadConfig(f"{where}: {shown} refers to several keys, expected one ${{key}} in a value; fix: write it out")


def check_overrides(where: str, overrides: Sequence[str], words: Sequence[str] = ()) -> None:
    """Arguments as typed, before hydra's parser. `words`: keys whose values are text or paths, which may say anything.

    Raises BadConfig.
    """
    total = sum(map(len, overrides))
    if total > ALL_CHARACTERS:
        raise BadConfig(f"{where}: got {total} characters of arguments, expected at most {ALL_CHARACTERS}; fix: put them into a config")
    for override in overrides:
        key, _, value = override.partition("=")
        shown = key if len(key) < 60 else f"{key[:60]}..."
        if len(override) > OVERRIDE_CHARACTERS:
            raise BadConfig(f"{where}: {shown}: got {len(override)} characters, expected at most {OVERRIDE_CHARACTERS}; fix: shorten it")
        if any(code in re.split(r"[.@/+~]", key) for code in CODE_KEYS - {"class"}):
            raise BadConfig(f"{where}: {shown}: configs never name code to run; fix: remove it")
        target = key.lstrip("+~")
        if any(re.match(r"hydra\b", part) for part in target.split("@")) and not HYDRA_KEYS.fullmatch(target):
            raise BadConfig(f"{where}: {shown}: hydra's own settings are not to be changed; fix: remove it")
        if target.startswith("hydra/") and not re.fullmatch(r"\w*", value):
            raise BadConfig(f"{where}: {shown}: got {value!r}, expected the name of an installed choice; fix: name one")
        if target in words:
            if value.startswith("${"):
                _check_references(value, f"{where}: {shown}")
            continue
        _check_references(value, f"{where}: {shown}")
        if re.search(r"_target_|_args_|_partial_|\(\)\s*:", value):
            raise BadConfig(f"{where}: {shown}: configs never name code to run; fix: remove it")
        if _depth(value) > DEPTH:
            raise BadConfig(f"{where}: {shown}: got brackets {_depth(value)} deep, expected at most {DEPTH}; fix: write it flatter")


def _depth(value: str) -> int:
    deepest = depth = 0
    for character in value:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def check_sweep(where: str, overrides: Sequence[str]) -> None:
    """How many runs a `-m` asks for. Raises BadConfig for more than anyone has time for."""
    points = math.prod(_choices(where, override.partition("=")[2]) for override in overrides)
    if points > SWEEP_POINTS:
        raise BadConfig(f"{where}: -m asks for {points} runs, expected at most {SWEEP_POINTS}; fix: fewer values")


def _choices(where: str, value: str) -> int:
    """At least as many as hydra will find: every comma parts two, a range has all its numbers."""
    count = value.count(",") + 1
    for inside in re.findall(r"range\s*\(([^()]*)\)", value):
        try:
            numbers = [float(number.partition("=")[2] or number) for number in inside.split(",")]
        except ValueError:
            continue  # hydra will say what is wrong with it
        start, stop = (0.0, numbers[0]) if len(numbers) == 1 else numbers[:2]
        step = numbers[2] if len(numbers) > 2 else 1.0
        steps = abs(stop - start) / abs(step) if step else math.inf
        if not steps <= SWEEP_POINTS:
            raise BadConfig(f"{where}: range({inside}) has {steps:g} values, expected at most {SWEEP_POINTS}; fix: a larger step")
        count += math.ceil(steps)
    return count

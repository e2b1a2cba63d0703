"""The words of a command line, read without hydra: verb, options of hydra, and overrides as hydra takes them."""

import re

from wfm_ar.cli_completion import ALONE
from wfm_ar.config_files import check_overrides
from wfm_ar.errors import BadConfig, nearest
from wfm_ar.verbs import VERBS, Verb

FLAGS = {  # hydra's own, those that make sense here -> the values they take
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--package": None,
    "-p": None,
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "--config-dir": None,
    "-cd": None,
    "--multirun": (),
    "-m": (),
    "--resolve": (),
}
MODES = {"--cfg", "-c", "--info", "-i", "--multirun", "-m"}


def verb_and_rest(arguments: list[str]) -> tuple[Verb | None, list[str]]:
    """The verb (one or two words) and what follows it; None for the help of a family such as `data`."""
    for verb in VERBS:
        words = verb.words.split()
        if arguments[: len(words)] == words:
            return verb, arguments[len(words) :]
    first, second = arguments[0], next(iter(arguments[1:]), "")
    members = [verb.words.split()[1] for verb in VERBS if verb.words.startswith(f"{first} ")]
    if members and second in ("", "--help", "-h"):
        return None, []
    if members:
        raise BadConfig(
            f"wfm {first}: unknown verb {second!r}{nearest(second, members)}, expected {' | '.join(members)}; fix: `wfm --help`"
        )
    names = sorted({verb.words.split()[0] for verb in VERBS} | ALONE.keys())
    raise BadConfig(f"wfm: unknown verb {first!r}{nearest(first, names)}, expected {' | '.join(names)}; fix: `wfm --help`")


def flags_and_overrides(verb: Verb, arguments: list[str]) -> tuple[list[str], list[str]]:
    """-> (hydra's flags with their values, overrides). Unknown flags, missing values and two modes at once are refused."""
    flags: list[str] = []
    overrides: list[str] = []
    where, rest = f"wfm {verb.words}", iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if name not in FLAGS:
            raise BadConfig(f"{where}: unknown option {name!r}{nearest(name, FLAGS)}, expected key=value; fix: see `{where} --help`")
        flags.append(name)
        choices = FLAGS[name]
        if choices == ():
            continue
        value = value if equals else next(rest, "")
        if not value or (choices is not None and value not in choices):
            expected = " | ".join(choices) if choices else "a value"
            raise BadConfig(f"{where}: option {name} got {value!r}, expected {expected}; fix: `{name} {(choices or ('VALUE',))[0]}`")
        flags.append(value)
    if len(MODES.intersection(flags)) > 1:
        raise BadConfig(f"{where}: got {sorted(MODES.intersection(flags))} together, expected one of them; fix: drop one")
    if "--resolve" in flags and MODES.isdisjoint(flags):
        raise BadConfig(f"{where}: --resolve belongs to --cfg; fix: `--cfg job --resolve`")
    return flags, overrides


def prepared_overrides(verb: Verb, overrides: list[str], multirun: bool = False) -> list[str]:
    """Bare arguments become their key; words and paths are quoted, so that `text=left, then right` needs no second quoting; lists
    get their brackets."""
    # `a,b (1)=c.mp4` is a path: what stands before an override's = is a key
    prepared, bare = [], [one for one in overrides if not re.match(r"[+~]{0,2}[\w./@-]+=|~", one)]
    if len(bare) > (1 if verb.positional else 0):
        expected = f"one {verb.positional} and key=value" if verb.positional else "key=value"
        raise BadConfig(f"wfm {verb.words}: got {bare[-1]!r}, expected {expected}; fix: see `wfm {verb.words} --help`")
    check_overrides(f"wfm {verb.words}", [one for one in overrides if one not in bare], verb.literal)
    for override in overrides:
        key, equals, value = override.partition("=") if override not in bare else (verb.positional, "=", override)
        if key in verb.literal and not multirun:
            value = quoted(value)
        elif key in verb.lists and not multirun and re.fullmatch(r"\w[\w-]*(,\w[\w-]*)*", value) and value != "null":
            value = f"[{value}]"
        prepared.append(f"{key}{equals}{value}")
    return prepared


def quoted(value: str) -> str:
    """`value` in hydra's single quotes, unless it is empty, null, an interpolation or quoted already."""
    if value in ("", "null", "~") or value.startswith("${") or re.fullmatch(r"(['\"]).*\1", value, re.DOTALL):
        return value
    # backslashes are plain characters to hydra except before a quote, where each stands doubled
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + m[2].replace("'", "\\'"), value) + "'"

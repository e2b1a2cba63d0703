"""`wfm completion bash|zsh|fish`: a script for the shell that completes verbs, their keys, and values that are known.

Everything is read off the table of verbs and the text of conf/*.yaml when the script is printed, so the shell itself starts nothing.
"""

import re
from collections.abc import Sequence

from wfm_ar.cli_help import FOR_HYDRA, conf_dir
from wfm_ar.errors import BadConfig
from wfm_ar.verbs import VERBS, Verb

SHELLS = ("bash", "zsh", "fish")
ALONE = {"version": "versions of wfm and of what it runs on", "doctor": "what this installation has and lacks"}
ALONE["completion"] = "completion for a shell: bash | zsh | fish"


def completion(shells: Sequence[str]) -> str:
    """The script. Raises BadConfig for another shell."""
    if len(shells) != 1 or shells[0] not in SHELLS:
        told = f"got {' '.join(shells) or 'nothing'}, expected {' | '.join(SHELLS)}"
        raise BadConfig(f"wfm completion: {told}; fix: source <(wfm completion bash)")
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shells[0]]()


def keys_of(verb: Verb) -> dict[str, tuple[str, ...]]:
    """A verb's keys in their order, each with the values that are known; () where any will do."""
    text = (conf_dir() / f"{verb.module}.yaml").read_text().partition(FOR_HYDRA)[0]
    rows = re.findall(r"(?m)^(\w+):[ ]*([^#\n]*)(?:#[ ]*(.*))?$", text)
    keys = {name: _values(name, default, remark) for name, default, remark in rows}
    for group in verb.groups:
        keys[group] = tuple(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))
    return keys


def _values(name: str, default: str, remark: str) -> tuple[str, ...]:
    """Those of a switch, and of a key whose comment lists them: `auto (CUDA where there is one) | cpu | cuda`."""
    if default.strip() in ("true", "false"):
        return "true", "false"
    if name == "world":
        return ("tabletop",)
    first = re.sub(r"\s*\([^)]*\)", "", remark.partition(";")[0].partition(":")[0])
    listed = tuple(one.strip() for one in first.split("|"))
    return listed if len(listed) > 1 and all(re.fullmatch(r"[\w.-]+", one) for one in listed) else ()


def _families() -> dict[str, list[str]]:
    """First words -> second words; [] for a verb of one word."""
    found: dict[str, list[str]] = {name: [] for name in ALONE}
    for verb in VERBS:
        first, _, second = verb.words.partition(" ")
        found.setdefault(first, []).extend([second] * bool(second))
    return found


def _cases(of_words: str) -> str:
    """Shell lines that set `keys` by the verb, and `values` by verb and key."""
    keys = [f'    "{verb.words}") keys="{" ".join(f"{key}=" for key in keys_of(verb))}" ;;' for verb in VERBS]
    values = [f'    "{verb.words} {key}") values="{" ".join(known)}" ;;' for verb in VERBS for key, known in keys_of(verb).items() if known]
    return (
        f'  case "{of_words}" in\n' + "\n".join(keys) + "\n  esac\n" + f'  case "{of_words} $key" in\n' + "\n".join(values) + "\n  esac\n"
    )


def _verb_lines() -> str:
    """Shell lines that set `verb` from $first and $second, and `more`, the second words that a first one takes."""
    several = {first: seconds for first, seconds in _families().items() if seconds}
    lines = [f'    {first}) more="{" ".join(seconds)}" ;;' for first, seconds in several.items()]
    return (
        '  verb=$first\n  case "$first" in\n' + "\n".join(lines) + '\n    completion) more="bash zsh fish" ;;\n  esac\n'
        '  case " $more " in *" $second "*) [ -n "$second" ] && verb="$first $second" ;; esac\n'
    )


def _bash() -> str:
    first = " ".join(_families())
    return f"""# wfm completion for bash: source <(wfm completion bash)
_wfm() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} key= keys= values= more= verb=
  local first=${{COMP_WORDS[1]}} second=${{COMP_WORDS[2]}} at=2
  COMPREPLY=()
  if [[ $cur == = ]]; then key=$prev cur=; elif [[ $prev == = ]]; then key=${{COMP_WORDS[COMP_CWORD - 2]}}; fi
  if ((COMP_CWORD == 1)); then COMPREPLY=($(compgen -W "{first}" -- "$cur")); return; fi
{_verb_lines()}{_cases("$verb")}  [[ $verb == *" "* ]] && at=3
  if [[ -n $key ]]; then
    if [[ -n $values ]]; then COMPREPLY=($(compgen -W "$values" -- "$cur")); return; fi
    COMPREPLY=($(compgen -f -- "$cur"))
    compopt -o filenames
    return
  fi
  if ((COMP_CWORD == 2)) && [[ -n $more ]]; then COMPREPLY=($(compgen -W "$more" -- "$cur")); fi
  if ((COMP_CWORD >= at)) && [[ -n $keys ]]; then
    COMPREPLY+=($(compgen -W "$keys" -- "$cur"))
    [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
  fi
}}
complete -F _wfm wfm
"""


def _zsh() -> str:
    first = " ".join(_families())
    return f"""#compdef wfm
# wfm completion for zsh: source <(wfm completion zsh)
_wfm() {{
  local cur=${{words[CURRENT]}} key= keys= values= more= verb= first=${{words[2]}} second=${{words[3]}} at=3
  if ((CURRENT == 2)); then compadd -- {first}; return; fi
  [[ $cur == *=* ]] && key=${{cur%%=*}}
{_verb_lines()}{_cases("$verb")}  [[ $verb == *" "* ]] && at=4
  if [[ -n $key ]]; then
    compset -P '*='
    if [[ -n $values ]]; then compadd -- ${{=values}}; else _files; fi
    return
  fi
  if ((CURRENT == 3)) && [[ -n $more ]]; then compadd -- ${{=more}}; fi
  if ((CURRENT >= at)) && [[ -n $keys ]]; then compadd -S '' -- ${{=keys}}; fi
}}
compdef _wfm wfm
"""


def _fish() -> str:
    lines = ["# wfm completion for fish: wfm completion fish | source", "complete -c wfm -e"]
    for name, line in ALONE.items():
        lines.append(f"complete -c wfm -f -n __fish_use_subcommand -a {name} -d {_quoted(line)}")
    lines.append('complete -c wfm -f -n "__fish_seen_subcommand_from completion" -a "bash zsh fish"')
    families = _families()
    for verb in VERBS:
        first, _, second = verb.words.partition(" ")
        here = f"__fish_seen_subcommand_from {first}"
        if second:
            lines.append(f"complete -c wfm -f -n __fish_use_subcommand -a {first}")
            others = " ".join(families[first])
            lines.append(
                f'complete -c wfm -f -n "{here}; and not __fish_seen_subcommand_from {others}" -a {second} -d {_quoted(verb.line)}'
            )
            here += f"; and __fish_seen_subcommand_from {second}"
        else:
            lines.append(f"complete -c wfm -f -n __fish_use_subcommand -a {first} -d {_quoted(verb.line)}")
            if families[first]:  # `bench` is a verb, and `bench cosmos` another
                here += f"; and not __fish_seen_subcommand_from {' '.join(families[first])}"
        words = [f"{key}={value}" for key, known in keys_of(verb).items() for value in known or ("",)]
        lines.append(f'complete -c wfm -n "{here}" -a "{" ".join(words)}"')
    return "\n".join(dict.fromkeys(lines)) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"

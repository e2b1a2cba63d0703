"""What `wfm --help`, `wfm <verb> --help` and `wfm version` print.

A verb's keys are documented once, by the comments in its config file conf/<module>.yaml, and shown from there: this file
reads text and knows nothing of hydra, so that help is quick.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wfm_ar import __version__
from wfm_ar.verbs import VERBS, Verb

FOR_HYDRA = "# -- for hydra --"  # in each conf/<module>.yaml, below the keys that users set


def conf_dir() -> Path:
    """The folder of hydra configs: the checkout's conf/, else the copy inside the installed package.

    The checkout comes first because an editable install leaves a stale copy beside it.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    return checkout / "conf" if (checkout / "pyproject.toml").is_file() else package / "conf"


def overview() -> str:
    width = max(len(verb.words) for verb in VERBS)
    verbs = "\n".join(f"  wfm {verb.words:<{width}}  {verb.line}" for verb in VERBS)
    return f"""wfm {__version__}: train, run and measure an autoregressive world model.

A clip becomes a grid of tokens, a transformer predicts the next tokens from text and actions, and a decoder turns them back
into frames. The weights of a small world, "tabletop", come with the package.

{verbs}
  wfm {"version":<{width}}  versions of wfm and of what it runs on
  wfm {"doctor":<{width}}  what this installation has and lacks, as a block to paste into a report
  wfm {"completion":<{width}}  completion for a shell: source <(wfm completion bash), zsh, fish

Three examples:
  wfm demo
  wfm generate world=tabletop text="push the red cube left" frames=49 seed=0 out=push.mp4
  wfm train stage=all experiment=clips name=mine data=path/to/a/folder/of/mp4s

Settings are key=value, `wfm <verb> --help` lists them, `wfm <verb> --cfg job` shows what a command line comes to,
and `-m key=a,b` runs every combination (hydra)."""


def help_of(verb: Verb) -> str:
    """The verb's line, examples, and its config file: the comments in it are the documentation of its keys."""
    examples = "\n".join(f"  {example}" for example in verb.examples)
    keys, marker, _ = (conf_dir() / f"{verb.module}.yaml").read_text().partition(FOR_HYDRA)
    assert marker, f"conf/{verb.module}.yaml: the line {FOR_HYDRA!r} must part the keys from what only hydra reads"
    keys = "\n".join(f"  {line}".rstrip() for line in keys.strip().splitlines())
    text = f"wfm {verb.words}: {verb.line}.\n\nExamples:\n{examples}\n\nKeys, with their defaults:\n{keys}"
    if verb.positional:
        text += f"\n\nA bare argument is {verb.positional}=."
    if verb.groups:
        choices = {group: sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) for group in verb.groups}
        text += "\n\nGroups (files in conf/):" + "".join(f"\n  {group}={' | '.join(names)}" for group, names in choices.items())
    return text


def help_of_family(first: str) -> str:
    members = [verb for verb in VERBS if verb.words.startswith(f"{first} ")]
    return "\n".join(f"wfm {verb.words}: {verb.line}\n  {verb.examples[0]}" for verb in members)


def versions() -> str:
    lines = [f"wfm-ar {__version__}", f"python {sys.version.split()[0]}"]
    for package in ("torch", "triton", "numpy", "av", "sentencepiece", "hydra-core", "mujoco"):
        try:
            lines.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package} not installed")
    return "\n".join(lines)

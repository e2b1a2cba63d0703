"""Hostile configs: alias bombs, names of code, resolvers, references that multiply, absurd sizes, broken YAML and overrides.

Run `python tools/campaigns/hostile_configs.py` from the checkout. A case is a YAML file (as an experiment in a --config-dir) or some
overrides. Each must come to valid settings or be refused in one line, in under a second of CPU time, and without any event of the
interpreter that runs code, starts a process or opens a socket. Nothing of the environment may get into the settings.
"""

import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hostile

from wfm_ar.cli import settings_of
from wfm_ar.cli_help import conf_dir
from wfm_ar.config_files import check_folder, check_sweep
from wfm_ar.errors import WfmError

SECONDS, AGAIN = 1.0, 2  # of CPU time a case; how often one that took longer is measured again
MEMORY_BYTES = 200 << 20
SECRET = "a-secret-of-the-environment"
DANGER = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect", "socket.__new__", "pickle.find_class"}
TARGETS = (
    "os.system",
    "builtins.eval",
    "numpy.load",
    "subprocess.run",
    "logging.os.system",
    "wfm_ar.cli.main",
    "torch.load",
    "pathlib.Path",
)
KEYS = (
    *(
        "model.layers",
        "model.dim",
        "model.heads",
        "model.kv_heads",
        "model.head_dim",
        "model.hidden",
        "tokenizer.height",
        "tokenizer.width",
    ),
    *(
        "tokenizer.multipliers",
        "tokenizer.levels",
        "tokenizer.encoder_channels",
        "sequence.max_latents",
        "sequence.max_text",
        "seed",
        "steps",
    ),
    *(
        "optimizer.lr",
        "optimizer.betas",
        "stages.world_model.batch_size",
        "decoder.channels",
        "keep",
        "run",
        "name",
        "data",
        "stage",
        "model",
    ),
)
VALUES = (
    *("1000000000", "-1", "0", "1e999", "-1e999", "nan", "null", "true", "[]", "{}", "[1]", "[1,[2]]", "{a:1}", "''", "x", "9" * 400),
    *("[" * 20 + "]" * 20, "[" * 400 + "]" * 400, "{a:" * 15 + "1" + "}" * 15, "[" + "1," * 900 + "1]", "a" * 3000, "a" * 5000),
    *("${oc.env:WFM_SECRET}", "${oc.${a}:WFM_SECRET}", "${oc.decode:'1+1'}", "${eval:1+1}", "${now:%Y}", "${name}", "${nowhere}"),
    *("${run}${run}", "${name}${name}${name}", "${hydra:runtime.cwd}", "${hydra:job}", "${python_version:major}", "${a:${b:${c:1}}}"),
    *("${..}", "${.}", "${", "}", "\\", "'", '"', "%", "../../etc", "/dev/zero", "!!python/object:os.system", "&a", "*a", "<<", "🦊"),
)


class Case(NamedTuple):
    """A YAML text as experiment=hostile, or None; overrides; whether they are those of a sweep."""

    text: str | None
    overrides: list[str]
    verb: str = "train"
    sweep: bool = False


def alias_bomb(levels: int, width: int, rng: random.Random) -> str:
    lines = ["l0: &l0 [x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n" + rng.choice(("", "model: *l1\n"))


def reference_bomb(levels: int, rng: random.Random) -> str:
    """References to references, each used several times."""
    if rng.random() < 0.5:
        return "".join(f"k{i}: ${{k{i + 1}}}${{k{i + 1}}}\n" for i in range(levels)) + f"k{levels}: {'x' * 50}\nname: ${{k0}}\n"
    inner = "".join(f"k{i}: {{a: ${{k{i + 1}}}, b: ${{k{i + 1}}}}}\n" for i in range(levels))
    return inner + f"k{levels}: {{a: 1}}\nname: ${{k0}}\n"


def code(rng: random.Random) -> str:
    target = rng.choice(TARGETS)
    return rng.choice(
        (
            f"_target_: {target}\n",
            f"model:\n  _target_: {target}\n  _args_: ['touch never']\n",
            f"hydra:\n  callbacks:\n    a:\n      _target_: {target}\n",
            f"hydra:\n  job_logging:\n    handlers:\n      a:\n        (): {target}\n",
            f"hydra:\n  launcher:\n    _target_: {target}\n",
            "hydra:\n  searchpath: [file:///tmp]\n",
            "hydra:\n  job:\n    env_set: {LD_PRELOAD: x}\n",
            f"# @package hydra.callbacks.x\n'_target_': {target}\n",
            "# @package hydra.job\nenv_set: {A: b}\n",
            "defaults:\n  - override /hydra/job_logging: colorlog\n",
            "defaults:\n  - /model@hydra.callbacks.x: nano\n",
            f"model: !!python/object/apply:{target} ['touch never']\n",
            f"? !!python/name:{target}\n: 1\n",
            f'"\\x5ftarget\\x5f": {target}\n',
        )
    )


def odd_yaml(rng: random.Random) -> str:
    return rng.choice(
        (
            "[" * rng.choice((30, 3000, 60_000)),
            "{a: " * rng.choice((30, 3000, 15_000)),
            "- " * rng.choice((30, 3000, 30_000)),
            "a:\n" + "".join(" " * i + f"a{i}:\n" for i in range(1, 200)),
            "".join(f"k{i}: 1\n" for i in range(rng.choice((100, 6000)))),
            "x: " + "y" * rng.choice((1000, 70_000)),
            "---\nname: a\n---\nname: b\n",
            "name: a\nname: b\n",
            "%YAML 9.9\n---\nname: a\n",
            "name: \0\n",
            "\ufeffname: a\n",
            "name: |\n" + " x\n" * 3000,
            "a: 0o7777777777777777\nseed: 0x" + "f" * 5000,
            "seed: 1:2:3:4:5:6\n",
            "seed: 2020-99-99\n",
            "<<: {seed: 1}\n",
            "? [a, b]\n: 1\n",
            "defaults: [hostile]\n",
            "defaults: [experiment: hostile]\n",
            "defaults: 7\n",
            "defaults: [model: ../../../etc/passwd]\n",
            "# @package _global_.a.b.c\nseed: 1\n",
        )
    )


def cases(count: int, seed: int) -> Iterator[tuple[str, Case]]:
    ours = [path.read_text() for path in sorted((conf_dir() / "experiment").glob("*.yaml"))]
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        how, label = rng.random(), f"[{seed}-{i}]"
        if how < 0.1:
            yield f"alias bomb {label}", Case(alias_bomb(rng.randrange(2, 40), rng.randrange(2, 9), rng), [])
        elif how < 0.16:
            yield f"reference bomb {label}", Case("# @package _global_\n" + reference_bomb(rng.randrange(2, 60), rng), [])
        elif how < 0.28:
            text = code(rng)
            yield f"code {text[:50]!r} {label}", Case(text if text.startswith("#") else "# @package _global_\n" + text, [])
        elif how < 0.38:
            text = odd_yaml(rng)
            yield f"odd {text[:30]!r} {label}", Case(text if text.startswith(("#", "%", "-")) else "# @package _global_\n" + text, [])
        elif how < 0.5:
            edit, content = hostile.mangled(rng.choice(ours).encode(), rng)
            yield f"experiment {edit} {label}", Case(content.decode("latin1"), [])
        elif how < 0.62:
            key, value = rng.choice(KEYS), rng.choice(VALUES)
            text = "# @package _global_\n" + "".join(f"{'  ' * n}{part}:\n" for n, part in enumerate(key.split(".")))[:-1] + f" {value}\n"
            yield f"file {key}={value[:30]} {label}", Case(text, [])
        elif how < 0.7:
            target = rng.choice(TARGETS)
            key = rng.choice(
                (
                    *("hydra.callbacks.x._target_", "+model._target_", "hydra.launcher._target_", "++_target_", "hydra.searchpath"),
                    *(
                        "hydra.job.env_set.A",
                        "hydra/callbacks",
                        "hydra.job_logging.root.handlers",
                        "+hydra.callbacks",
                        "model@hydra.callbacks.x",
                    ),
                    *("~hydra.job_logging", "hydra/job_logging", "hydra.help.template", "hydra.runtime.cwd", "+experiment@hydra.x"),
                )
            )
            value = rng.choice((target, f"{{a:{{_target_:{target}}}}}", f"[{target}]", "{x:{'_target_':os.system}}"))
            yield f"override {key}={value[:40]} {label}", Case(None, [f"{key}={value}"])
        elif how < 0.75:
            value = rng.choice(
                ("range(1,1000000000)", "range(0,1,0.0000001)", "range(1e9)", ",".join("12345"), "choice(1,2)", "range(0,5,0)")
            )
            yield f"sweep {value} {label}", Case(None, [f"{rng.choice(KEYS)}={value}"] * rng.choice((1, 3, 8)), sweep=True)
        else:
            pairs = [f"{rng.choice(('', '+', '++', '~'))}{rng.choice(KEYS)}={rng.choice(VALUES)}" for _ in range(rng.choice((1, 1, 3, 20)))]
            verb = rng.choice(("train", "train", "generate", "data check"))
            yield f"{verb} {' '.join(pairs)[:60]} {label}", Case(None, pairs, verb)


class Watch:
    """Notes the events of the interpreter that nothing here may cause."""

    def __init__(self) -> None:
        self.on, self.seen = False, []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.on and event in DANGER:
            self.seen.append(event)


WATCH = Watch()


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    os.environ["WFM_SECRET"] = SECRET
    settings_of("train", ["experiment=smoke", "data=x"])  # what is imported once is no case's fault
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def timed(case: Case) -> tuple[str, float]:
        """What became of it, and in how many CPU seconds."""
        began, WATCH.on = time.process_time(), True
        WATCH.seen.clear()
        outcome = "refused"
        try:
            if case.text is not None:
                (folder / "experiment" / "hostile.yaml").write_text(case.text, encoding="latin1", errors="replace")
                check_folder(folder)
            if case.sweep:
                check_sweep("wfm train", case.overrides)
            base = ["experiment=hostile" if case.text is not None else "experiment=smoke", "data=x"] if case.verb == "train" else []
            settings = settings_of(case.verb, [*base, *case.overrides], folder if case.text is not None else None)
            if SECRET in str(settings):
                raise hostile.Failure("a variable of the environment got into the settings")
            outcome = "taken"
        except WfmError as error:
            if SECRET in str(error):
                raise hostile.Failure("a variable of the environment got into the message") from None
            if "\n" in str(error) or len(str(error)) > 8000:
                raise hostile.Failure(f"expected one line, got {str(error)[:200]!r}") from None
        finally:
            WATCH.on = False
        if WATCH.seen:
            raise hostile.Failure(f"caused {WATCH.seen[:3]}")
        return outcome, time.process_time() - began

    def check(case: Case) -> str:
        outcome, spent = timed(case)
        for _ in range(AGAIN):
            if spent > SECONDS:  # a busy machine adds to a time and never takes from it
                spent = min(spent, timed(case)[1])
        if spent > SECONDS:
            raise hostile.Failure(f"took {spent:.2f} s, expected at most {SECONDS:g}")
        return outcome

    report = hostile.run_cases("hostile configs", cases(count, seed), check)
    del os.environ["WFM_SECRET"]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
    if grown > MEMORY_BYTES:
        report.failures.append(f"FAILED memory grew by {grown >> 20} MiB, expected at most {MEMORY_BYTES >> 20}")
    return report


if __name__ == "__main__":
    hostile.main(run, 2_000, __doc__)

"""`wfm evaluate`: everything that is measured of a world, as report.json and report.html."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from wfm_ar.evaluate.bars import BARS, verdict
from wfm_ar.evaluate.evaluate import HTML, JSON, TABLE, evaluate
from wfm_ar.evaluate.settings import EvaluateConfig
from wfm_ar.evaluate.verdict import block
from wfm_ar.plain_text import print_lines
from wfm_ar.rollout.find_world import samples_of
from wfm_ar.verbs.device import device_named
from wfm_ar.verbs.inputs import refuse_inputs


@dataclass(frozen=True, kw_only=True)
class Settings(EvaluateConfig):
    """The keys of conf/evaluate.yaml, which explains them."""

    world: str
    data: Path | None
    out: Path
    device: Literal["auto", "cpu", "cuda"]
    overwrite: bool


def run(settings: Settings) -> int:
    """Measures, writes the reports, and prints one line a bar."""
    config = EvaluateConfig(**{field.name: getattr(settings, field.name) for field in fields(EvaluateConfig)})
    refuse_inputs([settings.out / name for name in (HTML, JSON, TABLE)], {"data": settings.data})
    report = evaluate(
        settings.world,
        settings.data or samples_of(settings.world),
        settings.out,
        config,
        device=device_named(settings.device),
        overwrite=settings.overwrite,
        progress=sys.stderr.isatty(),
    )
    for bar, row in zip(BARS, report["bars"], strict=True):
        measured = bar.show(row["measured"])
        print(f"{row['name']:<66} {measured:>14}  {verdict(row)}")
    for section, reason in report["not_measured"].items():
        print(f"not measured, {section}: {reason}")
    print_lines(block(report["verdict"]))
    print(f"the report is {settings.out / HTML}")
    return 0

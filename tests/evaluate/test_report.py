"""The HTML report: whole, self-contained, honest about what is missing, and safe with odd names."""

import re

import numpy as np
import pytest
from tabletop_scenes import push

from wfm_ar.evaluate import control, quality
from wfm_ar.evaluate.bars import judge
from wfm_ar.evaluate.free_run import Watcher, free_run_summary
from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.objects import ObjectTally
from wfm_ar.evaluate.report import render_report
from wfm_ar.evaluate.sheets import Sheet
from wfm_ar.evaluate.text_following import absent_summary, text_alone_summary

STEP, T = 4, 17


@pytest.fixture(scope="module")
def report() -> dict:
    """A report made by the real summaries from made-up clips."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (T, 16, 16, 3), dtype=np.uint8)
    near = np.clip(truth.astype(int) + rng.integers(-9, 10, truth.shape), 0, 255).astype(np.uint8)
    tally = quality.TokenizerTally(16)
    tally.add(truth, near, rng.integers(0, 9, (5, 2, 2)))
    numbers = {"raw": quality.picture_numbers(near, truth), "refined": quality.picture_numbers(truth, truth)}
    actions = [rng.normal(0, 0.01, (T - 1, 2)) for _ in range(3)]
    trials = {
        name: [control.Trial(commanded_px=(c := control.commanded_path(np.zeros(2), a, size=64)), peg_px=c, found=1.0) for a in given]
        for name, given in control.drive(actions).items()
    }
    following = control.action_following(trials, [t.peg_px for t in trials["true"]], step=STEP)
    pushes = [control.Push(colour="red", shape="cube", direction=d) for d in ("left", "away")]
    text = control.text_following(pushes, [0.05, None]) | {"opposite": control.text_following(pushes, [None, None]), "truth_followed": 1.0}
    empty = np.full((2, 128, 128, 3), 140, np.uint8)
    text |= {"followed_interval": [0.5, 0.0, 1.0], "text_alone": text_alone_summary(pushes, [empty] * 2)}
    text |= {"absent": absent_summary(pushes, [empty] * 2)}
    scene = push(frames=9, step=0.01)
    known = {"names": scene.names, "object_xy": scene.object_xy, "peg_xy": scene.peg_xy}
    objects = ObjectTally()
    objects.add(Clip(id="0", text=None, frames=scene.frames, actions=None, **known), {"rollout": scene.frames, "tokenizer": scene.frames})
    watcher = Watcher(names=scene.names, first=scene.frames[0], copy=scene.frames[0])
    watcher.look(scene.frames[1], 1.0)
    made = {
        "world": "a <b>odd</b> & name",
        "episodes": 3,
        "started": "2025-01-01T00:00:00+00:00",
        "seconds": 61.0,
        "machine": {"name": "some machine"},
        "settings": {"seed": 0},
        "versions": {"torch": "2"},
        "not_measured": {"speed": "turned off <here>"},
        "objects": objects.summary(),
        "free_run": free_run_summary([watcher]),
        "tokenizer": tally.summary() | {"tokens_per_frame": 16.0},
        "prediction": {
            "loss": 1.0,
            "accuracy": 0.5,
            "loss_changed": 2.0,
            "accuracy_changed": 0.25,
            "tokens": 100,
            "loss_by_latent": [2.0, 1.0],
        },
        "rollout": quality.rollout_summary([quality.rollout_row("0", truth, {"tokenizer": near, "raw": near, "refined": truth})]),
        "refined": quality.refined_summary({where: [numbers] for where in quality.REFINED}),
        "actions": following | {"gate": control.action_gate(following), "r_of_truth_xy": (1.0, 1.0)},
        "text": text,
    }
    return made | {"bars": judge(made)}


def test_the_report_holds_every_section_picture_and_verdict(report):
    clip = np.zeros((T, 16, 16, 3), np.uint8)
    sheet = Sheet(title="episode <7>", note="push & pull", rows=(("truth", clip), ("rollout", clip)), mark="failure")
    page = render_report(report, {"rollout": [sheet]}, fps=10.0)
    assert "worst" not in page.split('id="text"')[1] and "text alone" in page and "rollout, raw" in page
    for section in ("objects", "free_run", "tokenizer", "prediction", "rollout", "refined", "actions", "text", "speed", "settings"):
        assert page.count(f'id="{section}"') + page.count(f"id='{section}'") == 1
    assert "a &lt;b&gt;odd&lt;/b&gt; &amp; name" in page and "episode &lt;7&gt;" in page and "push &amp; pull" in page
    assert "Not measured: turned off &lt;here&gt;" in page
    assert page.count("data:image/svg+xml;base64,") == 9 and page.count("data:image/png;base64,") == 2
    assert page.count("data:video/mp4;base64,") == 1
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "<script" not in page  # nothing is fetched
    chips = re.findall(r"class='chip (\w+)'>(?!gate|failure)", page)
    assert len(chips) == len(report["bars"])


def test_a_report_of_nothing_measured_still_renders(report):
    empty = {key: report[key] for key in ("world", "episodes", "started", "seconds", "machine", "settings", "versions")}
    empty |= {"not_measured": {}, "bars": judge({})}
    page = render_report(empty, {}, fps=10.0)
    assert page.count("Not measured: no reason given") == 13 and "<b>0</b> of 25 bars reached, 25 not measured" in page

"""The verdict: what is wrong is called so, what is good is said with its number, and what was not measured is not judged."""

import copy

from wfm_ar.evaluate.verdict import block, judge_world
from wfm_ar.evaluate.verdict_html import listening_html, reality_html, text_choice_html, verdict_html

GOOD = {
    "tokenizer": {"sorted_counts": [50] * 400 + [0] * 624, "codes": 1024, "psnr": 31.0},
    "listening": {
        "clips": 16,
        "frames": 17,
        "horizons": [1, 16],
        "loss": {"true": 90.0, "shuffled": 110.0},
        "psnr": {"true": [30.0, 25.0], "shuffled": [28.0, 20.0]},
        "loss_gap": {"shuffled": [20.0, 12.0, 28.0]},
        "psnr_gap": {"shuffled": [3.0, 2.0, 4.0]},
        "distance_gap": {"shuffled": [0.1, 0.05, 0.2]},
        "score": [20.0, 12.0, 28.0],
    },
    "reality": {
        "colour": 2.0,
        "sharpness": 0.9,
        "motion": 0.95,
        "moving": 0.02,
        "moving_true": 0.021,
        "codes_apart": 0.2,
        "codes_apart_true": 0.1,
        "clips": 16,
    },
    "rollout": {"psnr_by_frame": {"raw": [30.0, 28.0, 26.0], "repeat": [26.0, 24.0, 22.0]}},
    "text_choice": {"right": [0.9, 0.8, 1.0], "gap": [5.0, 3.0, 7.0], "chance": 0.25, "clips": 16, "texts": 4},
}


def broken(**changes) -> dict:
    report = copy.deepcopy(GOOD)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        report[section][name] = value
    return report


def test_a_good_world():
    verdict = judge_world(GOOD)
    assert verdict.alarms == verdict.not_good_for == verdict.next == ()
    text = " ".join(verdict.good_for)
    for words in ("following actions: another clip's actions cost 20.00", "(95 % interval 12.00 to 28.00), 16 held-out clips of 17 frames",
                  "motion: rollouts move 95 %", "predicting 3 frames ahead", "4.0 dB", "90 % of clips"):  # fmt: skip
        assert words in text, words


def test_three_alarms():
    collapsed = judge_world(broken(tokenizer__sorted_counts=[5000, 3, 2, 0]))
    assert collapsed.alarms[0].startswith("CODES HAVE COLLAPSED: 3 of 1024") and "video tokenizer" in collapsed.next[0]
    ignored = judge_world(broken(listening__score=[0.1, -0.5, 0.7]))
    assert ignored.alarms == (
        "ACTIONS ARE IGNORED: another clip's actions cost 0.10 nats a latent more than the true ones (95 % interval -0.50 to 0.70), "
        "16 held-out clips of 17 frames",
    )
    assert not any("following actions" in line for line in ignored.good_for) and "more clips in which different actions" in ignored.next[0]
    assert judge_world(broken(listening__score=[0.0, 0.0, 0.0])).alarms  # an action-blind world
    frozen = judge_world(broken(reality__motion=0.02))
    assert frozen.alarms == ("PICTURES FREEZE: rollouts move 2 % as much as true clips",)


def test_few_clips_raise_no_alarm_but_say_so():
    verdict = judge_world(broken(listening__score=[0.1, -0.5, 0.7], listening__clips=4))
    assert not verdict.alarms and "as far as 4 held-out clips can tell" in verdict.not_good_for[0]
    assert verdict.next[0] == "hold more clips out, to know"


def test_what_falls_short_is_said_with_what_helps():
    told = {
        "fine detail": broken(tokenizer__psnr=18.0),
        "calm pictures": broken(reality__motion=9.0),
        "long rollouts": broken(reality__colour=30.0),
        "from frame 2 on, repeating": broken(rollout__psnr_by_frame={"raw": [30, 20, 19], "repeat": [26, 24, 22]}),
        "following text": broken(text_choice__right=[0.3, 0.1, 0.5]),
        "showing what actions do": broken(listening__psnr_gap={"shuffled": [0.0, -0.2, 0.2]}),
    }
    for words, report in told.items():
        verdict = judge_world(report)
        assert len(verdict.not_good_for) == 1 and words in verdict.not_good_for[0] and len(verdict.next) == 1, verdict
    assert not judge_world(broken(reality__motion=0.0, reality__moving_true=0.0001)).alarms  # the true clips hardly move either


def test_what_was_not_measured_is_not_judged():
    nothing = judge_world({"not_measured": {"listening": "this world takes no actions"}})
    assert nothing.not_good_for == ("following actions, as far as is known: this world takes no actions",) and not nothing.alarms
    assert block(judge_world({}).to_json()) == "nothing that a verdict could rest on was measured\n"


def test_the_verdict_on_a_terminal_and_on_a_page():
    verdict = judge_world(broken(reality__motion=0.02)).to_json()
    lines = block(verdict).splitlines()
    assert lines[0].startswith("!!! PICTURES FREEZE") and lines[1].startswith("good for      following actions")
    assert lines[2].startswith(" " * 14) and any(line.startswith("do next       ") for line in lines)
    page = verdict_html(verdict | {"alarms": ["<b>bad</b>"]})
    assert "&lt;b&gt;bad" in page and "Good for" in page and "Not good for" not in page and verdict_html(None) == ""
    assert "20.00 (12.00 to 28.00)" in listening_html(GOOD["listening"]) and "<td class='n'>25.00</td>" in listening_html(GOOD["listening"])
    assert "95 % of the truth" in reality_html(GOOD["reality"]) and "0.90 (0.80 to 1.00)" in text_choice_html(GOOD["text_choice"])

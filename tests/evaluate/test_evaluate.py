"""The whole evaluation on a tiny untrained world and a tiny data set: both reports, the same numbers whatever the batch, clear refusals."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import write_video
from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadActions, BadClip, BadConfig, BadData, NoSpace, OutputExists
from wfm_ar.evaluate import evaluate as evaluating
from wfm_ar.evaluate.bench import Bench
from wfm_ar.evaluate.control import DRIVES, true_path
from wfm_ar.evaluate.evaluate import evaluate
from wfm_ar.evaluate.heldout import HeldOut
from wfm_ar.evaluate.quality import picture_numbers
from wfm_ar.evaluate.sections import speed_section
from wfm_ar.evaluate.settings import EvaluateConfig
from wfm_ar.evaluate.silhouettes import silhouette
from wfm_ar.inverse_dynamics.network import InverseDynamics, InverseDynamicsConfig
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import WorldParts, load_world, save_world
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.action import ActionTokenizer
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig

SIZE, FRAMES = 32, 9
SCHEMA = ActionSchema(channels=tuple(ActionChannel(name=n, unit="m", low=-0.025, high=0.025, bins=9) for n in ("dx", "dy")), rate_hz=10)
TEXTS = ("push the red cube left", "do nothing", "push the blue ball away", "push the green cylinder right", "move at random")
QUICK = EvaluateConfig(
    episodes=4,
    text_episodes=2,
    tokenizer_episodes=3,
    frames=FRAMES,
    batch=3,
    speed_runs=1,
    demo=False,
    examples=2,
    free_runs=2,
    free_frames=21,
)

QUICK_ONE_BY_ONE = EvaluateConfig(**vars(QUICK) | {"batch": 1, "speed_runs": 0, "free_runs": 0})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> str:
    """A world folder: 32 x 32 pixels, 4 x 4 tokens a latent, 2 frames a latent, random weights."""
    torch.manual_seed(0)
    thin = {"encoder_channels": 8, "decoder_channels": 8, "multipliers": (1, 1), "decoder_blocks": 1, "z_channels": 8, "levels": (4, 3, 3)}
    rates = {"temporal_compression": 2, "spatial_compression": 8}
    tokenizer = VideoTokenizer(VideoTokenizerConfig(height=SIZE, width=SIZE, patch_time=2, **rates, **thin))
    texts = TextTokenizer.train(TEXTS, vocab_size=300, max_tokens=40)
    grid = {"video_vocab": tokenizer.codebook_size, "grid_h": 4, "grid_w": 4, "rate": 2, "max_latents": 5}
    text = {"text_vocab": texts.vocab_size, "max_text": 40}
    sequence = SequenceConfig(**grid, **text, action_bins=ActionTokenizer(SCHEMA).bins)
    sizes = {"layers": 1, "dim": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 48}
    model = WorldModel(WorldModelConfig(**Sequence(sequence).model_vocabularies(), **sizes))
    torch.nn.init.normal_(model.head.weight, std=0.5)
    denoiser = Denoiser(DenoiserConfig(channels=(8,), blocks=(1,), embedding=8, code_channels=3, patch=4, **rates))
    networks = {"video_tokenizer": tokenizer.eval(), "world_model": model.eval(), "diffusion_decoder": denoiser.eval()}
    networks["inverse_dynamics"] = InverseDynamics(InverseDynamicsConfig(actions=2, channels=(8,), heads=1, hidden=8)).eval()
    parts = WorldParts(**networks, sequence=sequence, fps=10.0, text_tokenizer=texts, action_schema=SCHEMA)
    return str(save_world(tmp_path_factory.mktemp("worlds") / "tiny", parts))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five held-out episodes of a white tip that moves as told on a grey table, and of a red ball that rolls away."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    records = []
    for i, text in enumerate(TEXTS):
        actions = rng.uniform(-0.02, 0.02, (FRAMES - 1, 2)).astype(np.float32)
        peg_xy = np.concatenate([np.zeros((1, 2)), np.cumsum(actions, axis=0)])
        frames = np.full((FRAMES, SIZE, SIZE, 3), 90, np.uint8)
        for frame, (px, py) in zip(frames, true_path(peg_xy, size=SIZE), strict=True):
            frame[np.hypot(x - px, y - py) < 1.5] = 255
        object_xy = np.stack([np.linspace(0, 0.04, FRAMES) + 0.1, np.full(FRAMES, -0.1)], axis=1)[:, None]
        for frame, xy in zip(frames, object_xy[:, 0], strict=True):
            frame[silhouette("ball", xy, 0.0, np.arange(SIZE), np.arange(SIZE), SIZE)] = (210, 30, 30)
        state = {"peg_xy": peg_xy, "object_xy": object_xy, "names": np.array(["red ball"])}
        files = {"text": text, "actions": actions, "state": state}
        records.append(write_episode(root, id=f"e{i}", frames_THWC=frames, fps=10, split="val", **files))
    write_episodes(root, records, SCHEMA)
    return root


@pytest.fixture(scope="module")
def report(world, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, evaluate(world, data, out, QUICK, progress=False)


def test_every_section_is_measured_and_written(report, data):
    out, numbers = report
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(numbers))
    assert numbers["not_measured"] == {} and numbers["episodes"] == 4 and numbers["world"] == "tiny" and numbers["data"] == data.name
    assert {"dx", "dy"} == numbers["read_back"]["channels"].keys() and numbers["read_back"]["steps"] == 4 * 4
    assert set(numbers["verdict"]) == {"alarms", "good_for", "not_good_for", "next"} and "Verdict" in (out / "report.html").read_text()
    assert numbers["tokenizer"]["clips"] == 3 and numbers["tokenizer"]["tokens_per_frame"] == 8
    assert numbers["prediction"]["tokens"] == 4 * 5 * 16
    objects = numbers["objects"]
    assert {"rollout", "shown", "one_step", "tokenizer", "repeat"} <= set(objects) and objects["occluded_by"].startswith("colour")
    assert objects["rollout"]["groups"]["moved"]["8"]["objects"] == 4 and set(objects["rollout"]["appeared"]) == {"1", "4", "8"}
    assert objects["repeat"]["groups"]["moved"]["8"]["vanished"] == [0.0] * 3  # it is there, where it was
    assert 0 < objects["repeat"]["groups"]["moved"]["8"]["iou"][0] < 0.5
    assert numbers["free_run"]["runs"] == 2 and numbers["free_run"]["seconds"] == 2.0
    assert set(numbers["rollout"]["psnr_by_frame"]) == {"tokenizer", "raw", "refined", "shown", "repeat"}
    assert numbers["rollout"]["gain_8"] == pytest.approx(
        numbers["rollout"]["psnr_by_frame"]["raw"][7] - numbers["rollout"]["psnr_by_frame"]["repeat"][7]
    )
    assert set(numbers["actions"]["drives"]) == set(DRIVES) and numbers["actions"]["gate"]  # an untrained world follows nothing
    assert min(numbers["actions"]["r_of_truth_xy"]) > 0.9  # the measure itself works on the true frames
    assert numbers["text"]["episodes"] == 2 and numbers["text"]["opposite"]["episodes"] == 2  # of three pushes, the first two
    assert numbers["speed"]["frames_per_second"] > 0 and numbers["speed"]["driven_frames_per_second"] > 0
    assert numbers["speed"]["peak_bytes"] > 2**26
    rows = {row["key"]: row["measured"] for row in numbers["bars"]}
    assert {key for key, value in rows.items() if value is None} == {
        *(f"objects.moved_{name}" for name in ("iou_16", "iou_32", "vanished", "other_colour", "doubled")),  # clips of 9 frames
        "objects.untouched_iou_32",
        "objects.untouched_vanished_32",
        "speed.demo_peak_bytes",
    }
    assert numbers["text"]["text_alone"]["episodes"] == numbers["text"]["absent"]["episodes"] == 2
    assert (out / "table.md").read_text().count("\n") == len(rows) + 2
    page = (out / "report.html").read_text()
    assert page.count("Not measured:") == 0 and page.count("<div class='sheet") >= 2 + 2 + 2 + 2


def test_refining_is_judged_on_rollouts_as_decoded(world, data, report):
    """Nothing is kept of the given picture there: what is compared was made by the two decoders alone."""
    loaded, numbers = load_world(world), []
    for k, clip in enumerate(HeldOut(open_episodes(data, "val"), count=QUICK.episodes, num_frames=FRAMES, height=SIZE, width=SIZE)):
        inputs = {"video": clip.frames[:1], "actions": clip.actions, "num_frames": FRAMES, "seed": k}
        bare = loaded.generate(**inputs, temperature=0.0, action_guidance=1.5, keep_detail=False)
        numbers.append([picture_numbers(made[1:], clip.frames[1:]) for made in (bare.raw_frames, bare.frames)])
    refined = report[1]["refined"]
    for made, kind in enumerate(("raw", "refined")):
        for name, value in refined["rollouts"][kind].items():
            assert value == pytest.approx(np.mean([each[made][name] for each in numbers])), (kind, name)
    assert (
        refined["rollouts as shown"]["raw"] == refined["rollouts"]["raw"] and refined["edge_change"] == refined["rollouts"]["edge_change"]
    )


def test_the_batch_size_changes_no_number(world, data, report, tmp_path):
    again = evaluate(world, data, tmp_path, QUICK_ONE_BY_ONE, progress=False)
    for section in ("tokenizer", "prediction", "rollout", "refined", "objects", "actions", "text"):
        assert again[section] == report[1][section], section


def test_a_report_that_is_there_is_kept(world, data, report):
    out, _ = report
    before = (out / "report.json").read_bytes()
    with pytest.raises(OutputExists, match="report.json: exists already"):
        evaluate(world, "no such data", out, QUICK, progress=False)  # refused before anything is looked at
    assert (out / "report.json").read_bytes() == before


def test_a_full_disk_leaves_no_report(world, data, tmp_path, monkeypatch):
    quickest = replace(QUICK, episodes=2, text_episodes=1, tokenizer_episodes=1, speed_runs=0, examples=1)
    with monkeypatch.context() as broken:
        broken.setattr(evaluating, "markdown_table", full_disk)
        with pytest.raises(NoSpace):
            evaluate(world, data, tmp_path / "out", quickest, progress=False)
    assert not list(tmp_path.iterdir())
    evaluate(world, data, tmp_path / "out", quickest, progress=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.html", "table.md"}


def full_disk(*arguments):
    raise NoSpace("table.md: no space left on the disk; fix: free some space")


def test_videos_without_text_and_actions_measure_what_can_be(world, tmp_path):
    (tmp_path / "clips").mkdir()
    for i in range(3):
        clip = np.random.default_rng(i).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
        write_video(tmp_path / "clips" / f"{i}.mp4", clip, 10)
    numbers = evaluate(world, tmp_path / "clips", tmp_path / "out", QUICK_ONE_BY_ONE, progress=False)
    assert set(numbers["not_measured"]) == {
        *("objects", "free_run", "rollout", "refined", "actions", "text", "listening", "read_back", "text_choice")
    }
    assert "no held-out episode of 9 frames has actions" in numbers["not_measured"]["rollout"]
    assert numbers["tokenizer"]["psnr"] > 0 and numbers["prediction"]["loss"] > 0
    assert all(row["passed"] is not True for row in numbers["bars"] if row["key"].startswith(("rollout", "refined", "actions", "text")))


@torch.no_grad()
def test_a_world_blind_to_its_actions_scores_zero_and_is_called_so(world, data, tmp_path):
    """Every action is one token to it: whatever it is told, the next latents cost the same and the rollouts are the same."""
    parts = load_world(world).parts
    own = Sequence(parts.sequence)
    actions = slice(own.action_start, own.text_start)
    parts.world_model.embedding.weight[actions] = parts.world_model.embedding.weight[actions].mean(0)
    parts.world_model.hints.down.weight.zero_()
    config = EvaluateConfig(**vars(QUICK_ONE_BY_ONE) | {"action_guidance": 1.0, "text_guidance": 1.0, "batch": 4})
    numbers = evaluate(save_world(tmp_path / "blind", parts), data, tmp_path / "out", config, progress=False)["listening"]
    assert numbers["score"] == [0, 0, 0] and set(numbers["psnr_gap"]) == {"shuffled", "zero", "mirrored"}
    assert all(gap == [0, 0, 0] for name in ("loss_gap", "psnr_gap", "distance_gap") for gap in numbers[name].values())


def test_episodes_without_actions_are_left_out_of_what_is_driven(world, data, report, tmp_path):
    """And a world that takes no actions is rolled out all the same."""
    copy = shutil.copytree(data, tmp_path / "copy")
    lines = [json.loads(line) for line in (copy / "episodes.jsonl").read_text().splitlines()]
    del lines[1]["actions"]
    (copy / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    numbers = evaluate(world, copy, tmp_path / "some", QUICK_ONE_BY_ONE, progress=False)
    assert [row["id"] for row in numbers["rollout"]["by_episode"]] == ["e0", "e2", "e3"] and numbers["prediction"]["episodes"] == 4
    assert set(numbers["not_measured"]) == {"free_run"} and numbers["actions"]["episodes"] == 3
    assert numbers["listening"]["clips"] == 3
    parts = load_world(world).parts
    sequence = replace(parts.sequence, action_bins=())
    model = WorldModel(replace(parts.world_model.config, **Sequence(sequence).model_vocabularies())).eval()
    blind = replace(parts, sequence=sequence, world_model=model, action_schema=None, inverse_dynamics=None)
    numbers = evaluate(save_world(tmp_path / "blind", blind), data, tmp_path / "none", QUICK_ONE_BY_ONE, progress=False)
    assert numbers["rollout"]["episodes"] == 4 and numbers["refined"] is not None
    assert numbers["not_measured"]["actions"] == "this world takes no actions" and numbers["objects"]["episodes"] == 4


def test_what_does_not_fit_is_one_clear_line(world, data, tmp_path):
    with pytest.raises(BadClip, match="use 9 or 11 frames"):
        evaluate(world, data, tmp_path / "a", EvaluateConfig(frames=10), progress=False)
    with pytest.raises(BadData, match="no held-out episode of 33 frames or more"):
        evaluate(world, data, tmp_path / "b", EvaluateConfig(), progress=False)
    with pytest.raises(BadConfig, match="evaluate: batch is 0, expected 1 or more"):
        EvaluateConfig(batch=0)
    other = json.loads((data / "actions.json").read_text())
    other["rate_hz"] = 5.0
    copy = shutil.copytree(data, tmp_path / "copy")
    (copy / "actions.json").write_text(json.dumps(other))
    with pytest.raises(BadActions, match="rate_hz"):
        evaluate(world, copy, tmp_path / "c", QUICK, progress=False)
    (tmp_path / "fast").mkdir()
    for i in range(3):
        write_video(tmp_path / "fast" / f"{i}.mp4", np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8), 30)
    with pytest.raises(BadData, match="got 30 frames a second, expected the world's 10: .*; fix: fps=10 thins faster clips"):
        evaluate(world, tmp_path / "fast", tmp_path / "d", QUICK, progress=False)
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_a_demo_that_fails_is_told_in_the_report_and_loses_nothing(world, data):
    clips = HeldOut(open_episodes(data, "val"), count=1, num_frames=FRAMES, height=SIZE, width=SIZE)
    bench = Bench(world=load_world(world), config=QUICK_ONE_BY_ONE, clips=clips, track=lambda items, name, total: iter(items))
    numbers = speed_section(bench, [sys.executable, "-c", "import sys; sys.exit('no demo today')"])
    assert numbers["demo_peak_bytes"] is None and "no demo today" in numbers["demo_error"] and numbers["frames_per_second"] is None
    numbers = speed_section(bench, [sys.executable, "-c", "import time; a = bytearray(b'x') * (60 << 20); time.sleep(0.3)"])
    assert numbers["demo_peak_bytes"] > 60 * 2**20 and numbers["demo_seconds"] > 0.3


@pytest.mark.slow
def test_worker_processes_change_no_number(report, world, data, tmp_path):
    side_by_side = evaluate(world, data, tmp_path, replace(QUICK, workers=2, batch=1, speed_runs=0), progress=False)
    for section in ("objects", "rollout", "refined", "actions", "text", "free_run"):
        assert side_by_side[section] == report[1][section], section


def test_workers_share_a_cpu(world, data, tmp_path):
    with pytest.raises(BadConfig, match="workers: got 2 with device=meta, expected 1"):
        evaluate(world, data, tmp_path, replace(QUICK, workers=2), device="meta", progress=False)


def test_sampling_goes_before_what_the_config_says(tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def measured(world, data, config, device, progress):
        raise Seen(config)

    monkeypatch.setattr(evaluating, "_measured", measured)
    sampling = SamplingConfig(temperature=0.5, top_k=7, action_guidance=2.0)
    with pytest.raises(Seen) as caught:
        evaluate("tabletop", tmp_path, tmp_path / "out", replace(QUICK, temperature=1.5, top_p=0.3), sampling=sampling)
    config = caught.value.args[0]
    assert {name: getattr(config, name) for name in vars(sampling)} == vars(sampling)
    assert replace(config, **{name: getattr(QUICK, name) for name in vars(sampling)}) == QUICK

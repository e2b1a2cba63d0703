"""`torchrun -m wfm_ar train` as a user starts it: two ranks, one is killed, torchrun starts both again, the run ends."""

import random
import tempfile
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools" / "campaigns"
pytestmark = [pytest.mark.skipif(not TOOLS.is_dir(), reason="needs the checkout"), pytest.mark.timeout(900)]


def test_torchrun_starts_again_after_a_kill(tmp_path, load):
    ranks = load(TOOLS / "ranks.py")
    data, base, log = ranks.make_clips(tmp_path / "clips"), tmp_path / "base", tmp_path / "told.txt"
    words = ["stage=video_tokenizer", f"data={data}", f"run={base}", *ranks.TINY, "steps=2", "val_every=2", "checkpoint_every=2"]
    assert ranks.Child(words, log).wait() == 0, log.read_text()
    for _ in range(3):
        place = Path(tempfile.mkdtemp(dir=tmp_path))
        became, named, renewed = ranks.one_case(data, base, place, "kill 1", random.Random(0), 1)
        if became != "too late":  # the run was quicker than we
            break
    assert became == "restarted, ended" and 0 < named < 60 and 0 < renewed < 60
    folder = ranks.newest_checkpoint(place / "run" / "world_model")
    assert folder.name == f"step-{ranks.STEPS:06d}" and len(list(folder.glob("shard-*"))) == 6
    told = (place / "told.txt").read_text()
    # the launcher may be quicker to end the other rank than that one is to say who has gone
    assert told.count("going on from") == 1 and ("rank 1 has gone" in told or "(exitcode: -9) local_rank: 1" in told)

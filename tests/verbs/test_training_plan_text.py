"""What the plan of a run says to people: too little time or memory is called so."""

from wfm_ar.verbs.training_plan_text import block


def test_a_budget_that_is_too_short_is_called_so_and_a_sensible_one_is_named():
    names = ("video_tokenizer", "frame_predictor", "world_model", "diffusion_decoder")
    facts = {"clips": 9, "held_out": 1, "width": 64, "height": 48, "texts": 2}
    content = {
        **{"budget_s": 240, "machine": "2 CPU cores", "facts": facts, "used": {"clips": 7, "frames": 300}, "given": [], "size": "tiny"},
        **{"chosen": {}, "why": dict.fromkeys(("rate", "camera", "actions"), "x"), "wanted": dict.fromkeys(names, 900)},
        **{"steps": dict.fromkeys(names, 3), "seconds": dict.fromkeys(names, 20.0), "step_s": dict.fromkeys(names, 2.0)},
        **{"foretold_s": 250.0, "peak_bytes": 2**30, "spent": {}, "sensible_s": 3001.0},
    }
    lines = block(content).splitlines()
    assert "  TOO SHORT: the world model gets 3 of the 900 steps that the data can use; budget=51m would be sensible here" in lines
    assert "7 of them are used" in lines[1] and any(line.startswith("  in all 4 min as foretold at the start") for line in lines)
    tight = content | {"room_bytes": 2**30, "chosen": {"activation_checkpointing": True}}
    assert "1.0 GiB of memory of the 1.0 there are" in block(tight) and "memory is short: activations" in block(tight)
    assert "TOO LITTLE MEMORY" in block(tight) and "TOO LITTLE MEMORY" not in block(tight | {"room_bytes": 2**31})
    for changes in ({"budget_s": None}, {"given": ["steps"]}, {"steps": dict.fromkeys(names, 900)}):
        assert "TOO SHORT" not in block(content | changes)

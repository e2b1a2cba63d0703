"""For all tests: one OpenMP thread and no spinning, set before torch is imported, so that results and times are steady."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

# Files and folders whose tests start processes, train, or go through campaigns: marked slow. `-m "not slow"` is the unit suite.
SLOW = (
    "cosmos/test_cosmos_bad_input.py",
    "cosmos/test_cosmos_memory.py",
    "cosmos/test_cosmos_offload.py",
    "cosmos/test_cosmos_world.py",
    "evaluate/test_evaluate.py",
    "fuzz/test_hostile_",
    "fuzz/test_routes_outside.py",
    "fuzz/test_small_files.py",
    "kernels/test_compile.py",
    "rollout/test_robots.py",
    "rollout/test_text_context.py",
    "simulate/play/test_play_page.py",
    "system/",
    "train/test_cosmos_stage.py",
    "train/test_distributed.py",
    "train/test_resume.py",
    "verbs/test_data_",
    "verbs/test_demo.py",
    "verbs/test_generate.py",
    "verbs/test_info.py",
    "verbs/test_plan.py",
    "verbs/test_play.py",
    "verbs/test_tokenize.py",
    "verbs/test_train.py",
    "verbs/test_training_data.py",
)
SEED = int(os.environ.get("WFM_TEST_SEED", "0"))  # another number draws other weights and inputs: a tolerance that only just holds shows


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Slow files come first: where several processes share them, none is left alone with a long one at the end."""
    here = str(Path(__file__).parent) + os.sep
    slow = {item for item in items if str(item.path).removeprefix(here).startswith(SLOW)}
    for item in slow:
        item.add_marker("slow")
    items.sort(key=lambda item: item not in slow)


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers whether it runs alone or after others."""
    torch.manual_seed(SEED)


@pytest.fixture(scope="module", autouse=True)
def what_was_there_rests():
    """Collections of garbage pass over what a file of tests did not make itself: they search a million objects of libraries else."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # or libraries count as leaks what Python does not clear when it ends


@pytest.fixture
def golden():
    """golden(name) -> (tensors, JSON) of the published networks' outputs kept beside the checkout; skips by name without them."""
    import json

    from safetensors.torch import load_file

    folder = Path(__file__).parents[2] / "shared" / "golden"

    def load(name: str):
        if not (folder / f"{name}.safetensors").exists():
            pytest.skip(f"golden vectors {name} are not beside this checkout")
        return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())

    return load

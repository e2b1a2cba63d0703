"""For all tests: one OpenMP thread and no spinning, set before torch is imported, so that results and times are steady."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

SEED = int(os.environ.get("WFM_TEST_SEED", "0"))  # another number draws other weights and inputs: a tolerance that only just holds shows


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

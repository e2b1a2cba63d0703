"""What each verb may not import: a module of a second must not come back unseen into a command that has no use for it."""

import json
import subprocess
import sys

import numpy as np
import pytest

COMPILER = {"torch._dynamo", "torch._inductor", "sympy", "torch.onnx"}  # 1.5 s and more
DRAWING = {"matplotlib", "tensorboard", "rich"}
ELSEWHERE = {"mujoco", "gymnasium", "transformers", "scipy", "pandas", "cv2", "skimage", "pyarrow", "h5py"}
NUMERIC = COMPILER | DRAWING | ELSEWHERE
NO_TORCH = NUMERIC | {"torch", "triton", "sentencepiece", "av", "PIL"}
PLAIN = NO_TORCH | {"hydra", "omegaconf", "numpy"}
PLAN = ("plan", "world=tabletop", "episode=000053", "frames=5", "samples=1", "elites=1", "rounds=1", "out=plan.mp4")

WORK = (  # command line, exit code, what must not have been imported
    (("info", "tabletop"), 0, NUMERIC | {"av", "PIL"}),
    (("generate", "frames=5", "out=clip.mp4"), 0, NUMERIC),
    (("tokenize", "tokens=tokens.npy", "out=back.mp4"), 0, NUMERIC | {"PIL"}),
    (PLAN, 0, NUMERIC),
    (("cosmos", "info"), 0, NUMERIC | {"av", "PIL"}),
)
WORDS = (
    (("--help",), 0, PLAIN),
    (("generate", "--help"), 0, PLAIN),
    (("generat",), 2, PLAIN),
    (("generate", "frams=5"), 2, NO_TORCH),
    (("generate", "frames=many"), 2, NO_TORCH),
    (("generate", "world=tabletopp"), 2, NO_TORCH),
    (("generate", "image=nothing.png"), 2, NO_TORCH),
    (("generate", "out=clip.avi"), 2, NO_TORCH),
    (("plan", "samples=0"), 2, NO_TORCH),
    (("plan", "image=nothing.png", "goal=nothing.png"), 2, NO_TORCH),
    (("tokenize", "world=tabletop", "out=x.npy"), 2, NO_TORCH),
    (("demo", "world=tabletopp"), 2, NO_TORCH),
    (("data", "check", "nothing"), 2, NO_TORCH),
    (("data", "stats", "nothing"), 2, NO_TORCH),
    (("info", "tabletopp"), 2, NO_TORCH),
    (("train", "stge=all"), 2, NO_TORCH),
)
SCRIPT = """
import json, sys
from wfm_ar.cli import main
code = main(json.loads(sys.argv[1]))
print(json.dumps([code, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


def words(case: object) -> str:
    return " ".join(case) if isinstance(case, tuple) else ""


@pytest.mark.parametrize(("arguments", "code", "forbidden"), [*WORK, *WORDS], ids=words)
def test_a_verb_imports_only_what_it_needs(tmp_path, arguments, code, forbidden):
    np.save(tmp_path / "tokens.npy", np.zeros((2, 8, 8), np.int64))
    command = [sys.executable, "-c", SCRIPT, json.dumps(arguments), json.dumps(sorted(forbidden))]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    got, found = json.loads(run.stdout.splitlines()[-1])
    assert got == code, run.stderr
    assert found == [], f"wfm {' '.join(arguments)} imports {found}"

"""A stage's numbers and pictures on Weights & Biases, beside its log.jsonl and TensorBoard files. Needs the extra [wandb].

Where it goes (the service, a server of one's own, or files for `wandb sync` with WANDB_MODE=offline), as whom and into which project is
wandb's to know, by its own environment variables. Sent are the numbers, the pictures, the loop's settings and what the package tells of
the machine; no code, no git state, nothing that was printed. Training never waits for it or fails with it once it has begun.
"""

import importlib.util
import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wfm_ar.data.files import write_atomic
from wfm_ar.errors import BadConfig, MissingDependency, Note
from wfm_ar.extras import how_to_install
from wfm_ar.train.settings import LoopConfig

ID = "wandb_id.txt"  # of the stage's run there, which a resumed stage goes on with
PROJECT = "wfm-ar"  # unless WANDB_PROJECT names one
END_S = 60.0  # what has not been sent by then stays in the folder, for `wandb sync`


class WandbLog:
    """One run there for the stage whose folder is `run`, in the group of the whole run.

    Raises MissingDependency, and BadConfig where it cannot begin, such as without a login.
    """

    def __init__(self, run: Path, start: int, config: LoopConfig, describe: Mapping[str, Any]):
        """start: the step that a resumed stage goes on at, 0 for a new one. describe: what a checkpoint says of the stage."""
        need_wandb()
        import wandb

        self._image = wandb.Image
        place = run / ID
        known = place.read_text().strip() if start and place.is_file() else ""
        id = known if known.isalnum() and len(known) <= 64 else secrets.token_hex(8)
        quiet = {"silent": True, "console": "off", "disable_git": True, "disable_code": True, "finish_timeout": END_S}
        names: dict[str, Any] = {"name": f"{run.parent.name}/{run.name}", "group": run.parent.name, "job_type": run.name}
        project = os.environ.get("WANDB_PROJECT") or PROJECT
        settings = {"loop": asdict(config), "stage": dict(describe)}
        try:
            self._run: Any = wandb.init(project=project, **names, id=id, resume="allow", dir=str(run), config=settings, settings=quiet)
            self._run.define_metric("*", step_metric="step")
        except Exception as error:  # its message is the server's, or tells of a key
            fix = "`wandb login`, WANDB_MODE=offline, or logger=tensorboard"
            raise BadConfig(f"logger: wandb cannot begin ({type(error).__name__}), expected it to be set up; fix: {fix}") from None
        write_atomic(place, id.encode(), overwrite=True)

    @property
    def url(self) -> str:
        """Of the run's page; "" offline."""
        return "" if self._run.offline else self._run.url or ""

    def write(self, step: int, numbers: Mapping[str, float], pictures: Mapping[str, torch.Tensor]) -> None:
        """pictures: uint8 [H, W, 3]."""
        if self._run is None:
            return
        try:
            shown = {name: self._image(picture.numpy()) for name, picture in pictures.items()}
            self._run.log({"step": step, **{name: float(value) for name, value in numbers.items()}, **shown})
        except Exception as error:
            self._run = None
            warnings.warn(Note(f"logger: wandb failed at step {step} ({type(error).__name__}); training goes on without it"), stacklevel=2)

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            warnings.warn(Note(f"logger: wandb could not end ({type(error).__name__}); `wandb sync` sends what is left"), stacklevel=2)
        self._run = None


def need_wandb() -> None:
    """Raises MissingDependency, the line that says how to get it."""
    if importlib.util.find_spec("wandb") is None:
        raise MissingDependency(f"logger: needs the package wandb, expected it installed; fix: {how_to_install('wandb')}")

"""The tabletop world: physics, pictures and recorded episodes of a peg that pushes coloured objects about.

`TabletopWorld` owns one MuJoCo model and one renderer. `record` plays a layout with a policy and gives an Episode's content.
The same (seed, index) gives the same episode on one machine, whoever asks and in whatever order.
"""

import atexit
import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np

from wfm_ar.errors import BadActions, BadConfig, MissingDependency
from wfm_ar.extras import how_to_install
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.worlds.simulator import Recording
from wfm_ar.worlds.tabletop_policy import DIRECTIONS, MAX_STEP, POLICIES, Layout, draw_layout
from wfm_ar.worlds.tabletop_scene import (
    HIDDEN,
    PARKED,
    PEG_DAMPING,
    PEG_GAIN,
    PEG_RANGE_X,
    PEG_RANGE_Y,
    REST_HEIGHT,
    SHOWN,
    SLOTS,
    SUBSTEPS,
    TIMESTEP,
    dress_slot,
    scene_xml,
)
from wfm_ar.worlds.tabletop_view import SIZE, TIP_HEIGHT, find_object, find_peg, to_metres, to_pixels

__all__ = ["ACTIONS", "FPS", "Recording", "TabletopWorld", "find_object", "find_peg", "play", "record", "to_metres", "to_pixels"]

FPS = 10.0
ACTIONS = ActionSchema(
    channels=(
        ActionChannel(name="dx", unit="m", low=-MAX_STEP, high=MAX_STEP, motion="delta"),
        ActionChannel(name="dy", unit="m", low=-MAX_STEP, high=MAX_STEP, motion="delta"),
    ),
    rate_hz=FPS,
)
MIN_PUSH = 0.05  # metres a named object must move for a push episode to be kept
PEG = 255  # in a label map: the peg
TRIES = 6  # layouts drawn for a push episode before the last one is taken as it is


class TabletopWorld:
    """The simulated table. `reset(layout)`, then `step(action)` and `render()`; close() frees the renderer."""

    actions: ClassVar[ActionSchema] = ACTIONS
    tasks: ClassVar[Sequence[str]] = tuple(POLICIES)
    needs: ClassVar[tuple[str, str]] = ("mujoco", "sim")

    def __init__(self) -> None:
        self._mujoco = _import_mujoco()
        self.model = self._mujoco.MjModel.from_xml_string(scene_xml())
        self.data = self._mujoco.MjData(self.model)
        self.layout: Layout | None = None
        self._renderer = None
        self._slot_qpos = [int(self.model.joint(f"slot{i}").qposadr[0]) for i in range(SLOTS)]
        self._shadow_peg = int(self.model.body("shadow_peg").mocapid[0])
        self._shadows = [int(self.model.body(f"shadow{i}").mocapid[0]) for i in range(SLOTS)]

    @property
    def _laid(self) -> Layout:
        assert self.layout is not None, "reset comes first"
        return self.layout

    def reset(self, layout: Layout) -> None:
        """Puts the objects and the peg of `layout` on the table, at rest."""
        self.layout = layout
        for slot in range(SLOTS):
            colour, shape = layout.objects[slot] if slot < len(layout.objects) else (None, None)
            dress_slot(self.model, slot, shape, colour)
        self._mujoco.mj_setConst(self.model, self.data)
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:2] = layout.peg_xy
        for slot, start in enumerate(self._slot_qpos):
            if slot < len(layout.objects):
                half = layout.yaw[slot] / 2
                height = REST_HEIGHT[layout.objects[slot][1]]
                self.data.qpos[start : start + 7] = (*layout.object_xy[slot], height, np.cos(half), 0, 0, np.sin(half))
            else:
                self.data.qpos[start : start + 7] = (*PARKED, 1, 0, 0, 0)
        self._mujoco.mj_forward(self.model, self.data)

    def step(self, action: np.ndarray) -> None:
        """Moves the peg by `action` [2] metres (|action| <= 0.025, walls clamp) over 0.1 s of physics."""
        action = np.asarray(action, dtype=np.float64)
        ACTIONS.validate(action[None], "tabletop action")
        if np.linalg.norm(action) > MAX_STEP * 1.001:
            raise BadActions(f"tabletop action: got {np.linalg.norm(action):.4f} m, expected <= {MAX_STEP} m; fix: shorten it")
        room = np.array([PEG_RANGE_X, PEG_RANGE_Y])
        start = self.peg_xy
        way = np.clip(start + action, -room, room) - start
        lead = way / (SUBSTEPS * TIMESTEP) * PEG_DAMPING / PEG_GAIN  # metres; makes up for the servo's lag at speed
        for i in range(1, SUBSTEPS + 1):
            self.data.ctrl[:] = start + way * ((i - 0.5) / SUBSTEPS) + lead
            self._mujoco.mj_step(self.model, self.data)

    @property
    def peg_xy(self) -> np.ndarray:
        """[2] metres."""
        return self.data.qpos[:2].copy()

    @property
    def object_xyz(self) -> np.ndarray:
        """[n, 3] metres, centres of the objects."""
        return np.stack([self.data.qpos[a : a + 3] for a in self._slot_qpos[: len(self._laid.objects)]])

    def render(self, size: int = SIZE) -> np.ndarray:
        """The picture now, uint8 [size, size, 3]; rendered at twice the size and averaged."""
        renderer = self._renderer_of(size)
        self.data.mocap_pos[self._shadow_peg] = (*self.data.qpos[:2], 0.0004)
        for mocap, start in zip(self._shadows, self._slot_qpos, strict=True):
            self.data.mocap_pos[mocap] = (*self.data.qpos[start : start + 2], 0.0004)
        self._mujoco.mj_kinematics(self.model, self.data)
        renderer.update_scene(self.data, camera="main")
        flags = renderer.scene.flags
        flags[self._mujoco.mjtRndFlag.mjRND_SHADOW] = flags[self._mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        big = renderer.render().astype(np.uint16)
        rows = big[0::2] + big[1::2]
        return ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)

    def segment(self, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
        """Who is seen where, by MuJoCo's segmentation of what `render` shows.

        Returns:
            uint8 [size, size]: k + 1 where most of a pixel shows object k, PEG where it shows the peg, else 0; and float32 [n]:
            the share of each object's own silhouette that nothing hides.
        """
        count = len(self._laid.objects)
        whole = self._geoms_seen(size)
        label = np.zeros((size, size), np.uint8)
        for k in range(count):
            label[_mostly(whole == self._geom(k))] = k + 1
        label[_mostly(np.isin(whole, [self.model.geom("peg").id, self.model.geom("tip").id]))] = PEG
        shares = [np.sum(whole == self._geom(k)) / max(1, np.sum(self._geoms_seen(size, only=k) == self._geom(k))) for k in range(count)]
        return label, np.array(shares, np.float32)

    def _geom(self, slot: int) -> int:
        return self.model.geom(f"{self._laid.objects[slot][1]}{slot}").id

    def _geoms_seen(self, size: int, only: int | None = None) -> np.ndarray:
        """int [2 size, 2 size]: the geom seen at each pixel, -1 for none; `only`: with everything but this object left out."""
        renderer = self._renderer_of(size)
        self._mujoco.mj_kinematics(self.model, self.data)
        groups = self.model.geom_group.copy()
        try:
            if only is not None:
                self.model.geom_group[:] = HIDDEN
                self.model.geom_group[self._geom(only)] = SHOWN
            renderer.update_scene(self.data, camera="main")
            renderer.enable_segmentation_rendering()
            seen = renderer.render()
        finally:
            renderer.disable_segmentation_rendering()
            self.model.geom_group[:] = groups
        return np.where(seen[..., 1] == int(self._mujoco.mjtObj.mjOBJ_GEOM), seen[..., 0], -1)

    def _renderer_of(self, size: int):
        """The renderer of pictures of `size`, twice as large; one is open at a time."""
        if self._renderer is None or self._renderer.height != 2 * size:
            self.close()
            self._renderer = self._open_renderer(2 * size)
            atexit.register(self.close)  # after mujoco's own exit hook, so it runs before it: a late close is noisy
        return self._renderer

    def _open_renderer(self, size: int):
        _load_triton_first()
        try:
            return self._mujoco.Renderer(self.model, size, size)
        except ValueError:  # larger than the model's off-screen buffer
            limit = self.model.vis.global_.offwidth // 2
            raise BadConfig(f"tabletop picture: got size {size // 2}, expected at most {limit} pixels; fix: ask for less") from None
        except Exception as error:  # MuJoCo, PyOpenGL and the driver each have their own kinds
            raise _no_drawing(error) from error

    def record(self, seed: int, index: int, num_frames: int, task: str | None = None, *, masks: bool = False) -> Recording:
        """See the function `record`."""
        return record(self, seed, index, num_frames, task, masks=masks)

    def close(self) -> None:
        """Frees the renderer. At exit it happens by itself."""
        if self._renderer is not None:
            atexit.unregister(self.close)
            self._renderer.close()
            self._renderer = None


def _mostly(big: np.ndarray) -> np.ndarray:
    """bool [2s, 2s] -> [s, s]: pixels of which at least half are true."""
    return big.reshape(len(big) // 2, 2, -1, 2).sum((1, 3)) >= 2


def record(world: TabletopWorld, seed: int, index: int, num_frames: int, task: str | None = None, *, masks: bool = False) -> Recording:
    """Episode `index` of the data set `seed`: num_frames frames, num_frames - 1 actions. `task`: one of POLICIES; None: as TASKS has it.

    The state has peg_xy and object_xy (metres), peg_px and object_px (pixels), and names. `masks`: it holds the simulator's segmentation
    too, as `TabletopWorld.segment` has it: masks uint8 [T, H, W] and visible float32 [T, n].
    """
    return _film(world, *play(world, seed, index, num_frames, task), masks)


def play(world: TabletopWorld, seed: int, index: int, num_frames: int, task: str | None = None) -> tuple[Layout, np.ndarray, np.ndarray]:
    """The same without pictures: the layout, the actions float32 [T-1, 2], and MuJoCo's positions [T, nq].

    A push that did not push is drawn again, for the text must be true.
    """
    rng = np.random.default_rng([seed, index])
    layout = draw_layout(rng, task)
    for attempt in range(TRIES):
        if attempt:
            layout = draw_layout(rng, layout.task)
        actions, qpos = _play_layout(world, layout, rng, num_frames)
        if _kept(layout, qpos):
            break
    return layout, actions, qpos


def _play_layout(world: TabletopWorld, layout: Layout, rng: np.random.Generator, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    world.reset(layout)
    policy = POLICIES[layout.task](layout, rng)
    actions, qpos = [], [world.data.qpos.copy()]
    for _ in range(num_frames - 1):
        action = policy.act(world.peg_xy, world.object_xyz[:, :2]).astype(np.float32)  # what is recorded is what is done
        world.step(action)
        actions.append(action)
        qpos.append(world.data.qpos.copy())
    return np.array(actions, dtype=np.float32).reshape(-1, 2), np.stack(qpos)


def _kept(layout: Layout, qpos: np.ndarray) -> bool:
    """Whether a push really pushed: the object moved far enough and mostly in the named direction."""
    if layout.task != "push" or len(qpos) < 33:  # shorter clips have no time for a whole push
        return True
    target, direction = layout.push
    start = 2 + 7 * target  # the peg's two numbers, then position and quaternion of each object
    moved = qpos[-1, start : start + 2] - qpos[0, start : start + 2]
    unit = np.array(DIRECTIONS[direction])
    along = moved @ unit
    return bool(along >= MIN_PUSH and along >= 1.5 * np.linalg.norm(moved - along * unit))


def _film(world: TabletopWorld, layout: Layout, actions: np.ndarray, qpos: np.ndarray, masks: bool) -> Recording:
    frames, object_xyz, segments = [], [], []
    for position in qpos:
        world.data.qpos[:] = position
        frames.append(world.render())
        object_xyz.append(world.object_xyz)
        if masks:
            segments.append(world.segment())
    object_xyz = np.stack(object_xyz)
    tip = np.concatenate([qpos[:, :2], np.full((len(qpos), 1), TIP_HEIGHT)], axis=1)
    state = {
        "peg_xy": qpos[:, :2].astype(np.float32),
        "object_xy": object_xyz[..., :2].astype(np.float32),
        "peg_px": to_pixels(tip).astype(np.float32),
        "object_px": to_pixels(object_xyz).astype(np.float32),
        "names": np.array(layout.names),
    }
    if masks:
        state["masks"], state["visible"] = (np.stack(part) for part in zip(*segments, strict=True))
    return Recording(frames=np.stack(frames), text=layout.text, actions=actions, state=state)


def _load_triton_first() -> None:
    """Mesa's software renderer and Triton each bring an LLVM of their own: loaded after the renderer's, Triton's crashes the process.

    torch imports Triton behind the scenes, first weights are enough; so who makes a world and then a model would meet it.
    """
    with suppress(ImportError):
        import triton._C.libtriton  # noqa: F401


def _no_drawing(error: Exception) -> BadConfig:
    """What to say where there is no off-screen OpenGL."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return BadConfig(
        f"tabletop picture: MUJOCO_GL={os.environ.get('MUJOCO_GL')} cannot draw ({reason}), expected an off-screen OpenGL; "
        "fix: install libegl1 (or set MUJOCO_GL=osmesa and install libosmesa6), and set it before mujoco is imported"
    )


def _import_mujoco() -> Any:  # it ships no types
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "0")  # llvmpipe: no render threads, the workers fill the cores
    if importlib.util.find_spec("mujoco") is None:
        raise MissingDependency(f"tabletop world: the package mujoco is missing, expected 3.8.1; fix: {how_to_install('sim')}")
    try:
        import mujoco
    except Exception as error:  # it looks for OpenGL at once; PyOpenGL and ctypes have their own kinds
        raise _no_drawing(error) from error
    if not hasattr(mujoco, "Renderer"):
        raise BadConfig(f"tabletop world: mujoco {mujoco.__version__} has no Renderer; fix: pip install mujoco==3.8.1")
    return mujoco

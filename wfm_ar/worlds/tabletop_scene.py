"""The tabletop as a MuJoCo model: one XML for every episode, so that one renderer serves a worker's whole life.

An object is a slot with three geoms (cube, ball, cylinder); `dress_slot` shows one of them, gives it contacts, colour and
inertia, and hides the others. An unused slot has no contacts and is parked below the floor.
"""

import numpy as np

from wfm_ar.worlds.tabletop_view import CAMERA_POS, COLOURS, FOVY, SIZE, TIP_HEIGHT, camera_axes

HALF_X, HALF_Y = 0.265, 0.255  # metres, from the middle of the table to the walls' inner faces
TIMESTEP = 0.005  # seconds
SUBSTEPS = 20  # 0.1 s a step: actions come at 10 Hz
SLOTS = 3
PEG_RADIUS, TIP_RADIUS = 0.013, 0.0165  # metres
PEG_RANGE_X, PEG_RANGE_Y = HALF_X - 0.017, HALF_Y - 0.017  # metres, how far the peg may go
PEG_MASS, PEG_GAIN = 0.2, 2500.0  # kg, N/m: settles in 18 ms
PEG_DAMPING = 2 * (PEG_MASS * PEG_GAIN) ** 0.5  # N s/m, critical
PARKED = np.array([0.0, 0.0, -1.0])
SHAPES = ("cube", "ball", "cylinder")
RADIUS = {"cube": 0.031, "ball": 0.033, "cylinder": 0.032}  # metres; for the cube half a side
REST_HEIGHT = {"cube": 0.031, "ball": 0.033, "cylinder": 0.030}  # metres, centre above the table when at rest
MASS = 0.12  # kg
HIDDEN, SHOWN = 3, 0  # geom groups; MuJoCo draws groups 0 to 2


def scene_xml() -> str:
    """The MJCF text of the table, the walls, the peg, three object slots and their painted shadows."""
    axes = " ".join(f"{value:.9f}" for value in camera_axes()[:2].ravel())
    slots = "".join(_slot_xml(i) for i in range(SLOTS))
    wall, height, pad = 0.012, 0.022, 0.10  # metres: half thickness, half height seen, half height of the unseen wall
    walls = ""
    for name, x, y, half_x, half_y in (
        ("left", -HALF_X - wall, 0, wall, HALF_Y + 2 * wall),
        ("right", HALF_X + wall, 0, wall, HALF_Y + 2 * wall),
        ("near", 0, -HALF_Y - wall, HALF_X, wall),
        ("far", 0, HALF_Y + wall, HALF_X, wall),
    ):
        walls += f"""
    <geom name="wall_{name}" type="box" pos="{x} {y} {height - 0.01}" size="{half_x} {half_y} {height}"
          rgba="0.36 0.29 0.24 1" contype="0" conaffinity="0"/>
    <geom name="fence_{name}" type="box" pos="{x} {y} {pad}" size="{half_x} {half_y} {pad}" group="{HIDDEN}"
          friction="0.2 0.005 0.0001"/>"""
    return f"""
<mujoco model="tabletop">
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="2" iterations="30"/>
  <visual>
    <global offwidth="{2 * SIZE}" offheight="{2 * SIZE}"/>
    <quality offsamples="0" shadowsize="0"/>
    <headlight ambient="0.42 0.42 0.42" diffuse="0.18 0.18 0.18" specular="0 0 0"/>
    <map znear="0.3" zfar="4"/>
    <rgba haze="0.2 0.2 0.2 1"/>
  </visual>
  <asset>
    <material name="tip" rgba="1 1 1 1" emission="1" specular="0" shininess="0"/>
  </asset>
  <default>
    <geom friction="0.45 0.005 0.0001" solref="0.008 1" condim="4"/>
    <default class="paint"><geom contype="0" conaffinity="0" mass="0"/></default>
  </default>
  <worldbody>
    <light directional="true" castshadow="false" pos="0 0 2" dir="-0.45 0.55 -1" diffuse="0.45 0.45 0.45"
           ambient="0 0 0" specular="0 0 0"/>
    <camera name="main" pos="{" ".join(map(str, CAMERA_POS))}" xyaxes="{axes}" fovy="{FOVY}"/>
    <geom name="ground" type="box" pos="0 0 -0.09" size="1 1 0.04" rgba="0.20 0.21 0.24 1" contype="0" conaffinity="0"/>
    <geom name="table" type="box" pos="0 0 -0.02" size="{HALF_X} {HALF_Y} 0.02" rgba="0.54 0.545 0.535 1"/>
    <geom name="mat" class="paint" type="box" pos="0 0 0" size="0.205 0.195 0.0002" rgba="0.60 0.60 0.585 1"/>{walls}
    <body name="peg" pos="0 0 0">
      <joint name="peg_x" type="slide" axis="1 0 0" limited="true" range="{-PEG_RANGE_X} {PEG_RANGE_X}"/>
      <joint name="peg_y" type="slide" axis="0 1 0" limited="true" range="{-PEG_RANGE_Y} {PEG_RANGE_Y}"/>
      <geom name="peg" type="cylinder" pos="0 0 0.0515" size="{PEG_RADIUS} 0.0485" rgba="0.10 0.10 0.12 1"
            mass="{PEG_MASS}" friction="0.25 0.005 0.0001" contype="2" conaffinity="2"/>
      <geom name="tip" class="paint" type="sphere" pos="0 0 {TIP_HEIGHT}" size="{TIP_RADIUS}" material="tip"/>
    </body>
    <body name="shadow_peg" mocap="true">
      <geom class="paint" type="cylinder" size="0.019 0.0003" rgba="0 0 0 0.25"/>
    </body>{slots}
  </worldbody>
  <actuator>
    <position joint="peg_x" kp="{PEG_GAIN}" kv="{PEG_DAMPING}" forcerange="-12 12"/>
    <position joint="peg_y" kp="{PEG_GAIN}" kv="{PEG_DAMPING}" forcerange="-12 12"/>
  </actuator>
</mujoco>"""


def _slot_xml(i: int) -> str:
    side, ball, drum = RADIUS["cube"], RADIUS["ball"], RADIUS["cylinder"]
    return f"""
    <body name="slot{i}" pos="0 0 -1">
      <freejoint name="slot{i}"/>
      <geom name="cube{i}" type="box" size="{side} {side} {side}" mass="{MASS}" contype="3" conaffinity="3"/>
      <geom name="ball{i}" type="sphere" size="{ball}" mass="{MASS}" condim="6" friction="0.45 0.005 0.0018"
            contype="3" conaffinity="3"/>
      <geom name="cylinder{i}" type="cylinder" size="{drum} {REST_HEIGHT["cylinder"]}" mass="{MASS}" contype="3"
            conaffinity="3"/>
    </body>
    <body name="shadow{i}" mocap="true">
      <geom name="shade{i}" class="paint" type="cylinder" size="0.042 0.0003" rgba="0 0 0 0.22"/>
    </body>"""


def dress_slot(model, slot: int, shape: str | None, colour: str | None) -> None:
    """Makes slot number `slot` of a compiled model the given object, or empties it (shape None)."""
    for kind in SHAPES:
        geom = model.geom(f"{kind}{slot}").id
        used = kind == shape
        model.geom_contype[geom] = model.geom_conaffinity[geom] = 3 if used else 0  # 1 meets table and walls, 2 the peg
        model.geom_group[geom] = SHOWN if used else HIDDEN
        if used and colour is not None:
            model.geom_rgba[geom] = (*COLOURS[colour], 1.0)
    shade = model.geom(f"shade{slot}").id
    model.geom_group[shade] = HIDDEN if shape is None else SHOWN
    model.geom_size[shade, 0] = {"cube": 0.042, "ball": 0.034, "cylinder": 0.038, None: 0.01}[shape]
    body = model.body(f"slot{slot}").id
    model.body_mass[body] = MASS
    model.body_inertia[body] = _inertia(shape or "cube")


def _inertia(shape: str) -> np.ndarray:
    radius, half_height = RADIUS[shape], REST_HEIGHT[shape]
    if shape == "cube":
        return np.full(3, MASS * (2 * radius) ** 2 / 6)
    if shape == "ball":
        return np.full(3, 0.4 * MASS * radius**2)
    across = MASS * (3 * radius**2 + (2 * half_height) ** 2) / 12
    return np.array([across, across, MASS * radius**2 / 2])

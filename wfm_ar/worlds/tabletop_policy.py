"""Who moves the peg and what the episode is called: layouts, and the push, random, do-nothing and stray policies.

Everything is drawn from the generator that is passed in; no physics here.
"""

from dataclasses import dataclass

import numpy as np

from wfm_ar.worlds.tabletop_scene import HALF_X, HALF_Y, PEG_RADIUS, PEG_RANGE_X, PEG_RANGE_Y, RADIUS, SHAPES
from wfm_ar.worlds.tabletop_view import COLOURS

MAX_STEP = 0.025  # metres the peg may be told to move in one step
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "away": (0.0, 1.0), "closer": (0.0, -1.0)}
TASKS = {"push": 0.60, "random": 0.25, "nothing": 0.15}  # task -> share of the episodes; "stray" only where it is asked for
TEXTS = {"random": "move at random", "nothing": "do nothing", "stray": "move at random"}  # a push names what is pushed
ROOM = np.array([HALF_X, HALF_Y])  # metres


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where an episode begins and what is to be done."""

    objects: tuple[tuple[str, str], ...]  # (colour, shape) of each object
    object_xy: np.ndarray  # [n, 2] metres
    yaw: np.ndarray  # [n] radians
    peg_xy: np.ndarray  # [2] metres
    task: str  # one of POLICIES
    text: str
    target: int | None = None  # index of the object to push
    direction: str | None = None

    @property
    def names(self) -> list[str]:
        return [f"{colour} {shape}" for colour, shape in self.objects]

    @property
    def push(self) -> tuple[int, str]:
        """(target, direction) of a task that has them."""
        assert self.target is not None and self.direction is not None
        return self.target, self.direction


def draw_layout(rng: np.random.Generator, task: str | None = None) -> Layout:
    """A random layout; `task` None draws one by the shares in TASKS."""
    task = task or str(rng.choice(list(TASKS), p=list(TASKS.values())))
    count = int(rng.integers(2, 4))
    colours = rng.permutation(list(COLOURS))[:count]
    objects = tuple((str(colour), str(rng.choice(SHAPES))) for colour in colours)
    while True:
        object_xy = _draw_places(rng, count)
        pushes = task == "push" or (task == "stray" and rng.random() < 0.6)  # behind an object is mostly before a wall
        target, direction = _draw_push(rng, objects, object_xy) if pushes else (None, None)
        if target is not None and direction is not None:
            peg_xy = _draw_start(rng, object_xy, target, direction, RADIUS[objects[target][1]])
        elif task != "push":
            peg_xy = _draw_free_place(rng, object_xy)
        else:
            continue
        if peg_xy is not None:
            break
    if task == "push" and target is not None:
        text = f"push the {objects[target][0]} {objects[target][1]} {direction}"
    else:
        text, target, direction = TEXTS[task], None, None
    yaw = rng.uniform(-np.pi, np.pi, count)
    return Layout(objects=objects, object_xy=object_xy, yaw=yaw, peg_xy=peg_xy, task=task, text=text, target=target, direction=direction)


def _draw_places(rng: np.random.Generator, count: int) -> np.ndarray:
    """[n, 2] places at least 10 cm apart and clear of the walls."""
    while True:
        places = rng.uniform(-1, 1, (count, 2)) * (ROOM - 0.05)
        gaps = [np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]]
        if min(gaps) > 0.10:
            return places


def _draw_free_place(rng: np.random.Generator, object_xy: np.ndarray) -> np.ndarray:
    while True:
        place = rng.uniform(-1, 1, 2) * (PEG_RANGE_X, PEG_RANGE_Y)
        if np.linalg.norm(object_xy - place, axis=1).min() > 0.065:
            return place


def _draw_push(rng: np.random.Generator, objects: tuple, object_xy: np.ndarray) -> tuple[int | None, str | None]:
    """An object and a direction with 13 cm of free way ahead and a place for the peg behind, or (None, None)."""
    choices = []
    for i in range(len(objects)):
        for name, unit in DIRECTIONS.items():
            unit = np.array(unit)
            ahead = ROOM[np.abs(unit).argmax()] - object_xy[i] @ unit
            behind = ROOM[np.abs(unit).argmax()] + object_xy[i] @ unit
            others = np.delete(object_xy, i, axis=0) - object_xy[i]
            along, across = others @ unit, np.abs(others @ unit[::-1])
            blocked = ((across < 0.075) & (along > -0.13) & (along < 0.17)).any()
            if ahead > 0.13 + 0.035 and behind > 0.085 and not blocked:
                choices.append((i, name))
    return choices[rng.integers(len(choices))] if choices else (None, None)


def _draw_start(rng: np.random.Generator, object_xy: np.ndarray, target: int, direction: str, radius: float) -> np.ndarray | None:
    """A start for the peg 7 to 18 cm from the object, mostly behind it; None where no free place was found."""
    back = -np.array(DIRECTIONS[direction])
    for _ in range(40):
        angle = np.arctan2(back[1], back[0]) + np.clip(rng.normal(0, 0.9), -2.0, 2.0)
        reach = radius + PEG_RADIUS + rng.uniform(0.02, 0.13)
        place = object_xy[target] + reach * np.array([np.cos(angle), np.sin(angle)])
        inside = (np.abs(place) < (PEG_RANGE_X, PEG_RANGE_Y)).all()
        if inside and np.linalg.norm(object_xy - place, axis=1).min() > 0.062:
            return place
    return None


def limit(action: np.ndarray) -> np.ndarray:
    """The action [2], shortened to MAX_STEP."""
    return action * min(1.0, MAX_STEP / max(float(np.linalg.norm(action)), 1e-12))


class PushPolicy:
    """Goes round the object to its far side, pushes it in a straight line, backs off a little and stops."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        (self.target, direction), self.rng = layout.push, rng
        self.unit = np.array(DIRECTIONS[direction])
        self.side = np.array([-self.unit[1], self.unit[0]])
        self.start = layout.object_xy[self.target].copy()
        self.radius = RADIUS[layout.objects[self.target][1]]
        self.cube = layout.objects[self.target][1] == "cube"
        self.pace_to = rng.uniform(0.013, 0.023)  # metres a step while going there
        self.pace_push = rng.uniform(0.012, 0.021)  # metres a step while pushing
        self.goal = rng.uniform(0.10, 0.22)  # metres to push
        self.noise = rng.uniform(0.0003, 0.0014)  # metres a step
        self.retreat = rng.uniform(0.0, 0.07)  # metres to back off when done
        self.pushing = self.done = False

    def act(self, peg_xy: np.ndarray, object_xy: np.ndarray) -> np.ndarray:
        """The next action [2] in metres."""
        place = object_xy[self.target]
        offset = peg_xy - place
        along, across = offset @ self.unit, offset @ self.side
        moved = (place - self.start) @ self.unit
        gap = ROOM[np.abs(self.unit).argmax()] - place @ self.unit - self.radius
        self.done = self.done or moved > self.goal or gap < 0.012
        if self.done:
            return self._back_off(peg_xy)
        back_angle, angle = np.arctan2(*-self.unit[::-1]), np.arctan2(offset[1], offset[0])
        turn = (back_angle - angle + np.pi) % (2 * np.pi) - np.pi
        self.pushing = along < 0 and abs(across) < (0.022 if self.pushing else 0.008)
        if self.pushing:
            drift = (place - self.start) @ self.side
            wanted = np.clip(0.6 * drift, -0.012, 0.012)  # stand on the side it drifts to, so that it is pushed back
            step = self.pace_push * self.unit + np.clip(0.5 * (wanted - across), -0.008, 0.008) * self.side
        else:
            clear = self.radius * (1.35 if self.cube else 1.0) + PEG_RADIUS + 0.012
            ahead = angle + np.clip(turn, -0.7, 0.7)
            waypoint = place + clear * np.array([np.cos(ahead), np.sin(ahead)])
            step = waypoint - peg_xy
            step *= min(1.0, self.pace_to / max(float(np.linalg.norm(step)), 1e-9))
        return limit(step + self.rng.normal(0, self.noise, 2))

    def _back_off(self, peg_xy: np.ndarray) -> np.ndarray:
        if self.retreat < 0.004:
            return np.zeros(2)
        pace = min(self.retreat, 0.015)
        self.retreat -= pace
        return limit(-pace * self.unit + self.rng.normal(0, self.noise, 2))


class RandomPolicy:
    """Wanders smoothly from goal to goal; most goals are objects, some lie beyond the walls."""

    def __init__(self, layout: Layout | None, rng: np.random.Generator) -> None:
        self.rng = rng
        self.velocity = np.zeros(2)
        self.steps_left = 0
        self.momentum = rng.uniform(0.3, 0.8)

    def act(self, peg_xy: np.ndarray, object_xy: np.ndarray) -> np.ndarray:
        """The next action [2] in metres."""
        if self.steps_left == 0:
            self.steps_left = int(self.rng.integers(3, 13))
            self.pace = self.rng.uniform(0.0, MAX_STEP * 1.1)
            near = object_xy[self.rng.integers(len(object_xy))] + self.rng.normal(0, 0.015, 2)
            goal = near if self.rng.random() < 0.65 else self.rng.uniform(-1.15, 1.15, 2) * ROOM
            way = goal - peg_xy
            self.heading = way / max(float(np.linalg.norm(way)), 1e-6)
        self.steps_left -= 1
        wanted = self.pace * self.heading + self.rng.normal(0, 0.001, 2)
        self.velocity = self.momentum * self.velocity + (1 - self.momentum) * wanted
        return limit(self.velocity)


class StrayPolicy:
    """Goes straight and far, mostly into a wall and along it, and rests now and then: what pusher and wanderer hardly do.

    A world that is steered by hand, or told the opposite of what is wise, gets there at once.
    """

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        self.rng = rng
        self.steps_left = 0

    def act(self, peg_xy: np.ndarray, object_xy: np.ndarray) -> np.ndarray:
        """The next action [2] in metres."""
        if self.steps_left == 0:
            self.steps_left = int(self.rng.integers(4, 17))
            self.wanted, self.noise, self.turn = np.zeros(2), 0.0, 0.0  # metres and radians a step: it rests
            if self.rng.random() >= 0.2:
                way = self._draw_way(peg_xy, object_xy)
                self.wanted = self.rng.uniform(0.006, MAX_STEP) * way / max(float(np.linalg.norm(way)), 1e-6)
                self.noise, self.turn = self.rng.uniform(0.0003, 0.0014), self.rng.normal(0, 0.08)
        self.steps_left -= 1
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        self.wanted = np.array([[cos, -sin], [sin, cos]]) @ self.wanted
        return limit(self.wanted + self.rng.normal(0, 1, 2) * self.noise)

    def _draw_way(self, peg_xy: np.ndarray, object_xy: np.ndarray) -> np.ndarray:
        """A direction [2], of any length: to an object, to the nearest wall more or less, or anywhere."""
        if self.rng.random() < 0.25:
            return object_xy[self.rng.integers(len(object_xy))] - peg_xy
        if self.rng.random() >= 0.6:
            return self.rng.normal(0, 1, 2)
        gaps = np.array([PEG_RANGE_X, PEG_RANGE_Y]) - np.abs(peg_xy)
        way = self.rng.normal(0, 0.4, 2)
        way[gaps.argmin()] += np.sign(peg_xy[gaps.argmin()])
        return way


class NothingPolicy:
    """Stands still."""

    def __init__(self, layout: Layout, rng: np.random.Generator) -> None:
        pass

    def act(self, peg_xy: np.ndarray, object_xy: np.ndarray) -> np.ndarray:
        """Zero."""
        return np.zeros(2)


POLICIES = {"push": PushPolicy, "random": RandomPolicy, "nothing": NothingPolicy, "stray": StrayPolicy}

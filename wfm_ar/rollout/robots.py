"""Which robot acted in an episode, in the words of the world that is evaluated, and under the ranges it was trained with."""

from dataclasses import replace

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.errors import BadActions, BadConfig, nearest
from wfm_ar.rollout.world import World
from wfm_ar.schema import ActionSchema, MixedSchema, same_channels


def robots_of(world: World) -> dict[str, World]:
    """The world as each of its several robots acts in it; {} for a world of one robot, or none."""
    schema = world.parts.action_schema
    return {name: World(world.parts, world.name, name) for name in schema.names} if isinstance(schema, MixedSchema) else {}


def fitted(episodes: EpisodeSet, world: World, embodiment: str | None = None) -> EpisodeSet:
    """The data set with the world's schema, and each episode with the name that its robot has there.

    Ranges found in data yield to those the world was trained with; any other difference is refused. One robot's data, in a world
    of several, is that of `embodiment`, or of the robot that has its folder's name. Raises BadActions, BadConfig.
    """
    known, own = world.parts.action_schema, episodes.schema
    chosen = isinstance(known, MixedSchema) and isinstance(own, ActionSchema)
    if embodiment is not None and not chosen:
        why = "the data names its own" if isinstance(own, MixedSchema) else "there are no robots to choose from"
        raise BadConfig(f"embodiment: got {embodiment!r}, expected none: {why}; fix: leave it out")
    if known is None or own is None:
        return episodes
    if isinstance(known, MixedSchema) and isinstance(own, ActionSchema):
        robot = embodiment or episodes.path.resolve().stem
        if robot not in known.names:
            place = f"embodiment: got {robot!r}{nearest(robot, known.names)}" if embodiment else f"{episodes.path}: got one robot's actions"
            raise BadConfig(f"{place}, expected embodiment= to be one of {', '.join(known.names)}; fix: name the robot that acted")
        episodes = replace(episodes, episodes=tuple(replace(one, embodiment=robot) for one in episodes))
        pairs = [(known.of(robot), own)]
    elif isinstance(known, MixedSchema) and isinstance(own, MixedSchema):
        for name in own.names:
            if name not in known.names:
                told = f"got robot {name!r}{nearest(name, known.names)}, expected one of {', '.join(known.names)}, those of the world"
                raise BadActions(f"{episodes.path}: {told}; fix: give the robot (or its folder) that name")
        pairs = [(known.of(name), schema) for name, schema in own.embodiments]
    else:
        pairs = [(known, own)]
    for mine, theirs in pairs:
        same = episodes.schema_made and same_channels(mine, theirs)
        if not same and (difference := mine.diff(theirs)):
            line = f"{episodes.path}: the schema differs from the world's ({difference})"
            raise BadActions(f"{line}; fix: convert the actions, or train on them")
    return replace(episodes, schema=known)

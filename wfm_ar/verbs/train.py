"""`wfm train`: the stages of a run in their order.

What a stage does is wfm_ar/train's business; this file says what runs when.
"""

from dataclasses import replace
from typing import Any

import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.files import remove_dead_parts
from wfm_ar.data.formats import VIEW
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.hub import origin
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.errors import BadConfig, BadData, OutputExists
from wfm_ar.rollout.world import World, load_world
from wfm_ar.rollout.world_folder import WorldParts
from wfm_ar.schema import MixedSchema
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train import stages
from wfm_ar.train.begin import begin_from
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, step_of
from wfm_ar.train.clips import Clips, to_float
from wfm_ar.train.cosmos_stage import CosmosStage, save_finetuned
from wfm_ar.train.distributed import Ranks, all_ranks
from wfm_ar.train.loop import train
from wfm_ar.train.preflight import Needs, check_needs, refuse, unreadable
from wfm_ar.train.rng import seed_all
from wfm_ar.train.stage_protocol import Stage
from wfm_ar.train.tokens import action_vocabulary, tokenize
from wfm_ar.train.whole_run import WholeRun
from wfm_ar.train.windows import still_picture
from wfm_ar.verbs.inputs import refuse_inputs
from wfm_ar.verbs.train_settings import SIZES, Settings, loop_config, sized
from wfm_ar.verbs.train_verdict import end_with_verdict
from wfm_ar.verbs.training_data import dynamics_set, frame_cache, kept_schema, policy_set, told_framing, training_sets
from wfm_ar.verbs.training_plan import Plan, planned


def run(settings: Settings) -> int:
    """Trains the stage, or all of them in turn, and packs the world; alone, or as one of the ranks that torchrun started."""
    with all_ranks(settings.run, settings.device, settings.watchdog.ranks) as ranks:
        return _run(settings, ranks)


def _run(settings: Settings, ranks: Ranks) -> int:
    world = settings.run / "world"
    packs = settings.stage in ("world", "all")
    remove_dead_parts(settings.run)
    policy_data = settings.stages.world_model.training.policy_data
    inputs = {"init": settings.init, "data": settings.data, "dynamics_data": settings.dynamics_data, "policy_data": policy_data}
    refuse_inputs([world], inputs)
    if packs and world.exists() and not settings.overwrite:
        raise OutputExists(f"{world}: exists already, expected no such folder; fix: choose another run=, or set overwrite=true")
    plan = None
    if settings.budget is not None:
        with ranks.one_after_another():  # the first makes the plan, the others find it
            settings, plan = planned(settings, ranks.size)
        plan.begin("start")
    before = None if settings.init is None else load_world(settings.init)
    tunes = before is not None and before.parts.sequence.published
    if before is not None and not tunes and before.parts.action_schema is not None:
        kept_schema(settings.run / SCHEMA, before.parts.action_schema)  # ranges found in data are to be those it was trained with
    train_set, val_set = training_sets(settings.data, settings.run, settings.episodes, **_view(settings))
    if before is not None and tunes:
        if ranks.size > 1:
            raise BadConfig(f"init: got {ranks.size} ranks, expected one: Cosmos worlds are not sharded; fix: run it without torchrun")
        return _finetune(settings, before, train_set, val_set)
    if before is not None:
        with ranks.one_after_another():
            settings = _begin(settings, before.parts, train_set)
    settings = replace(settings, tokenizer=_tokenizer(settings))
    policy, cache = _policy_set(settings, train_set), None
    dynamics = train_set if settings.dynamics_data is None else dynamics_set(settings.dynamics_data, train_set, **_view(settings))
    if settings.stage != "world":
        with ranks.one_after_another():
            if ranks.first:
                told_framing(train_set, settings.tokenizer)
                check_needs(settings.run, _needs(settings), dynamics, val_set, policy, _workers(settings, ranks))
            if settings.frame_cache:
                sets = [one for one in (dynamics, val_set, policy) if one is not None]
                how = {"sharers": ranks.size, "workers": max(1, settings.num_workers), "told": ranks.first}
                cache = frame_cache(settings.run / "frames", settings.frame_cache, sets, settings.tokenizer, **how)
    if settings.stage == "all" and action_vocabulary(train_set.schema) is None:
        settings = replace(settings, inverse_dynamics=None)  # there is nothing to read back
    whole = None if plan is None else plan.whole
    if plan is not None and ranks.first:
        plan.end()
    for name in _stages(settings):
        if settings.stage in (name, "all"):
            if plan is not None:
                plan.begin(name)
            with ranks.one_after_another():  # what stages write once (tokens, the text tokenizer) is written by rank 0
                learnt = dynamics if name in (stages.FRAME_PREDICTOR, stages.WORLD_MODEL) else train_set
                stage = _stage(settings, name, learnt, val_set, policy, cache, whole, ranks)
                if plan is not None and ranks.first:
                    plan.end()
                    plan.begin(name)
                    settings = plan.refitted(settings, stage, settings.run)
                elif plan is not None:
                    made = Plan.of(settings.run)
                    assert made is not None, "rank 0 has made it"
                    settings = made.applied(settings)
            folder = train(stage, loop_config(settings, name), settings.run / name, settings.resume, ranks, whole)
            if plan is not None and ranks.first:
                plan.end_stage(name, folder)
    if packs and ranks.first:
        how = {"card": _card(settings, train_set, val_set), "overwrite": settings.overwrite, "sampling": settings.sampling}
        stages.pack_world(settings.run, world, train_set, val_set, **how)
        if settings.verdict:
            if plan is not None:
                plan.begin("verdict")
            budget_s = None if plan is None else plan.content["budget_s"]
            end_with_verdict(settings, world, val_set, budget_s, settings.tokenizer.temporal_compression)
            if plan is not None:
                plan.end()
        if plan is not None:
            print(plan.told_end())
        print(f"the world is in {world}; try: wfm generate world={world} out=first.mp4")
    return 0


def _begin(settings: Settings, parts: WorldParts, train_set: EpisodeSet) -> Settings:
    """The run begins with the networks of a world; -> the settings with the world's own sizes."""
    tokenizer, background = sized(parts.video_tokenizer.config, settings), None
    if tokenizer.grid != parts.video_tokenizer.config.grid:
        own = parts.video_tokenizer.config
        got = f"{tokenizer.width}x{tokenizer.height} pixels"
        raise BadConfig(f"height, width: got {got}, but init= has {own.width}x{own.height}, expected those; fix: leave them out")
    parts.video_tokenizer.config = tokenizer
    if tokenizer.background and settings.stage in (stages.VIDEO_TOKENIZER, "all"):  # tokens change anyway: let the camera be the data's
        background = to_float(still_picture(Clips(train_set, tokenizer))).permute(2, 0, 1)
    sums = parts.sequence.action_sums or settings.sequence.action_sums
    begin_from(parts, settings.run, train_set, background, sums)
    sequence = replace(settings.sequence, max_latents=parts.sequence.max_latents, max_text=parts.sequence.max_text, action_sums=sums)
    sequence = replace(sequence, hint_latents=parts.sequence.hint_latents)
    decoder = parts.diffusion_decoder.config if parts.diffusion_decoder else settings.decoder
    predictor = parts.frame_predictor.config if parts.frame_predictor else None
    reader = parts.inverse_dynamics.config if parts.inverse_dynamics else settings.inverse_dynamics
    own = {"predictor": predictor, "model": parts.world_model.config, "decoder": decoder, "inverse_dynamics": reader}
    return replace(settings, sequence=sequence, tokenizer=tokenizer, **own)


def _tokenizer(settings: Settings) -> VideoTokenizerConfig:
    """The settings of the run's video tokenizer: as it is trained now, or was. Raises BadCheckpoint, BadConfig for other sizes."""
    wanted = sized(settings.tokenizer, settings)
    if settings.stage in (stages.VIDEO_TOKENIZER, "all"):
        return wanted  # the stage itself says where it has a checkpoint of other settings
    trained = stages.trained_video_tokenizer(settings.run)[0].config
    for key in SIZES:
        if getattr(settings, key) not in (None, getattr(trained, key)):
            got = f"{key}: got {getattr(settings, key)}, but the run's video tokenizer was trained with {getattr(trained, key)}"
            raise BadConfig(f"{got}, expected that; fix: leave it out, or choose run=<another folder>")
    return trained


def _finetune(settings: Settings, world: World, train_set: EpisodeSet, val_set: EpisodeSet) -> int:
    """Trains a converted Cosmos world on, and writes the world that comes of it."""
    out = settings.run / "world"
    if settings.stage != stages.WORLD_MODEL:
        raise BadConfig(f"stage: got {settings.stage} with init={world.name}, expected world_model; fix: stage=world_model")
    if out.exists() and not settings.overwrite:
        raise OutputExists(f"{out}: exists already, expected no such folder; fix: choose another run=, or set overwrite=true")
    if isinstance(train_set.schema, MixedSchema) or any(e.actions is None for e in (*train_set, *val_set)) != (train_set.schema is None):
        raise BadData(f"{settings.data}: got several robots, or episodes without actions among others, expected one robot's with init=; "
                      "fix: part the data by robot")  # fmt: skip
    tokenizer, workers = world.parts.video_tokenizer, max(1, settings.num_workers)
    tokenizer.config = sized(tokenizer.config, settings)
    told_framing(train_set, tokenizer.config)
    refuse(unreadable([train_set, val_set], workers), settings.data)
    train_store, val_store = (
        tokenize(tokenizer, episodes, settings.run / "tokens" / split, workers=workers)
        for split, episodes in (("train", train_set), ("val", val_set))
    )
    seed_all(settings.seed)  # new rows and updates begin the same where a run is killed before its first checkpoint
    stage = CosmosStage(world, settings.finetune, train_store, val_store, train_set.schema)
    folder = train(stage, loop_config(settings, stage.name), settings.run / stage.name, settings.resume)
    tensors, _ = load_checkpoint(folder)
    save_finetuned(out, world, stage, tensors["ema"], overwrite=settings.overwrite)
    print(f"the world is in {out}; try: wfm generate world={out} image=... out=first.mp4")
    return 0


def _view(settings: Settings) -> dict[str, Any]:
    """How the data are seen."""
    return {key: getattr(settings, key) for key in VIEW}


def _policy_set(settings: Settings, train_set: EpisodeSet) -> EpisodeSet | None:
    """The episodes that the world model's steps on the policy alone are of, where they are not the run's own."""
    own = settings.stages.world_model.training
    if settings.stage not in (stages.WORLD_MODEL, "all") or not (own.policy_data and own.policy_share):
        return None
    return policy_set(own.policy_data, train_set, **_view(settings))


def _needs(settings: Settings) -> Needs:
    """What the stages asked for will be made of."""
    wanted = _stages(settings) if settings.stage == "all" else (settings.stage,)
    learn_from_pixels = (stages.VIDEO_TOKENIZER, stages.FRAME_PREDICTOR, stages.DIFFUSION_DECODER)
    return Needs(
        stages=wanted,
        tokenizer=settings.tokenizer,
        predictor=settings.predictor,
        model=settings.model,
        decoder=settings.decoder,
        windows={name: getattr(settings.stages, name).training for name in learn_from_pixels},
        world_model=settings.stages.world_model.training,
        begun=settings.init is not None,
        **vars(settings.sequence),
    )


def _workers(settings: Settings, ranks: Ranks) -> int:
    """Threads for what rank 0 does alone: the other ranks of its machine wait for it, and leave their cores."""
    return max(1, settings.num_workers) * ranks.here


def _stages(settings: Settings) -> tuple[str, ...]:
    """Those that the run's world has, in order."""
    absent = {stages.FRAME_PREDICTOR} if settings.predictor is None else set()
    absent |= {stages.INVERSE_DYNAMICS} if settings.inverse_dynamics is None else set()
    return tuple(name for name in stages.STAGES if name not in absent)


def _stage(
    settings: Settings,
    name: str,
    train_set: EpisodeSet,
    val_set: EpisodeSet,
    policy: EpisodeSet | None,
    cache: FrameCache | None,
    whole: WholeRun | None,
    ranks: Ranks,
) -> Stage:
    seed_all(settings.seed)  # first weights: a run that is killed before its first checkpoint begins again with the same ones
    own = getattr(settings.stages, name).training
    if name == stages.VIDEO_TOKENIZER:
        return stages.video_tokenizer_stage(settings.tokenizer, own, train_set, val_set, cache)
    if name == stages.FRAME_PREDICTOR:
        assert settings.predictor is not None, "a stage of runs with one"
        return stages.frame_predictor_stage(settings.run, settings.predictor, own, train_set, val_set, cache)
    if name == stages.WORLD_MODEL:
        loop: dict[str, Any] = {"workers": _workers(settings, ranks), "made": not ranks.first}
        loop["micro_batches"] = loop_config(settings, name).accumulate
        loop |= {"policy_set": policy, "cache": cache, "lookahead": settings.predictor is not None}
        loop |= {"precision": torch.bfloat16 if settings.precision == "bf16" else None, "whole": whole}
        return stages.world_model_stage(settings.run, settings.model, own, train_set, val_set, **vars(settings.sequence), **loop)
    if name == stages.INVERSE_DYNAMICS:
        assert settings.inverse_dynamics is not None, "a stage of runs with one"
        return stages.inverse_dynamics_stage(settings.run, settings.inverse_dynamics, own, train_set, val_set, cache)
    return stages.diffusion_decoder_stage(settings.run, settings.decoder, own, train_set, val_set, cache)


def _card(settings: Settings, train_set: EpisodeSet, val_set: EpisodeSet) -> str:
    """The world's README: what it was trained on and how, so that it can be made again."""
    lines = [
        f"# {settings.name}",
        "",
        f"Trained with wfm-ar on `{origin(settings.data)}`: {len(train_set)} training, {len(val_set)} held-out episodes.",
    ]
    if settings.dynamics_data is not None:
        lines.append(f"Frame predictor and world model also learnt from `{origin(settings.dynamics_data)}`.")
    lines += ["", "| stage | steps | samples a step | peak learning rate |", "|---|---|---|---|"]
    for name in _stages(settings):
        loop, newest = loop_config(settings, name), newest_checkpoint(settings.run / name)
        steps = loop.steps if newest is None else min(loop.steps, step_of(newest))
        lines.append(f"| {name} | {steps} | {loop.batch_size * loop.accumulate} | {loop.optimizer.lr:g} |")
    return "\n".join([*lines, "", f"`wfm evaluate world=... data={origin(settings.data)}` measures it.", ""])

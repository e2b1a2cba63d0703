"""`wfm info`: what a world is made of. Loading it checks every file against its hash first."""

from dataclasses import asdict, dataclass

from wfm_ar.schema import ActionChannel, ActionSchema


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/info.yaml, which explains them."""

    world: str


def run(settings: Settings) -> int:
    """Prints the world's parts, rates, actions and files."""
    from wfm_ar.rollout.find_world import find_world

    folder = find_world(settings.world)  # a wrong name is told before torch is imported
    from wfm_ar.cosmos.describe import describe_world
    from wfm_ar.rollout.sampling import SamplingConfig
    from wfm_ar.rollout.world import load_world

    if (lines := describe_world(folder)) is not None:  # without its gigabytes
        print(*lines, sep="\n")
        return 0
    world = load_world(settings.world)
    parts, tokenizer, model = world.parts, world.parts.video_tokenizer, world.parts.world_model.config
    sequence = parts.sequence
    longest = 1 + world.rate * (sequence.max_latents - 1)
    per_frame = sequence.grid_h * sequence.grid_w / world.rate
    print(f"{world.name}: {folder}")
    print(f"clips      {world.width}x{world.height} pixels, {world.fps:g} frames/s, 1 + {world.rate}*n frames; trained on up to {longest}")
    print(f"tokens     {sequence.grid_w}x{sequence.grid_h} a latent, {per_frame:g} a frame, codebook {tokenizer.codebook_size}")
    print(f"text       {f'up to {sequence.max_text} tokens of {sequence.text_vocab}' if sequence.text_vocab else 'none'}")
    fields = asdict(SamplingConfig())
    drawn = ", ".join(f"{name}={value:g}" for name, value in world.defaults().items() if name in fields and value is not None)
    print(f"sampling   {drawn}, unless told otherwise")
    print(f"model      {model.layers} layers, dim {model.dim}, {model.heads} heads on {model.kv_heads} key/value heads")
    for name, module in parts.modules().items():
        print(f"{'':<10} {name}: {sum(p.numel() for p in module.parameters()) / 1e6:.2f}M parameters")
    if (copies := world.parts.copies) is not None:
        print(f"copies     {copies.median_db:.1f} dB PSNR of held-out pictures in the middle, {copies.least_db:.1f} at least")
    schema = world.parts.action_schema
    if schema is None:
        print("actions    none")
    for name, part in [] if schema is None else [("", schema)] if isinstance(schema, ActionSchema) else schema.embodiments:
        print(f"actions    {f'embodiment {name}, ' if name else ''}{part.rate_hz:g} a second")
        for channel in part.channels:
            print(f"{'':<10} {channel.name}: {_range(channel)}")
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.parent == folder):
        print(f"{'file':<10} {file.name}, {file.stat().st_size / 1e6:.2f} MB")
    return 0


def _range(channel: ActionChannel) -> str:
    about = [word for word in (channel.motion, channel.rotation) if word]
    if channel.constant:
        return ", ".join([f"always {channel.low:g} {channel.unit}".rstrip(), *about])
    kind = "discrete" if channel.discrete else f"{channel.bins} bins"
    return ", ".join([f"{channel.low:g} to {channel.high:g} {channel.unit}".rstrip(), kind, *about])

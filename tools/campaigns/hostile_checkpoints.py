"""Corrupt checkpoints: world folders, training checkpoints and published weights, damaged in every way that is cheap to think of.

Run `python tools/campaigns/hostile_checkpoints.py` from the checkout. Each case must be refused in one line, or load what was
saved bit for bit. Where the damage makes a file that is sound in itself (its hash was made to fit again), it must load with
finite numbers of the right shapes. Memory must not grow with what a header claims.
"""

import hashlib
import json
import random
import resource
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import torch
from safetensors.torch import save_file

from wfm_ar.cosmos.loading import open_checkpoint
from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadCheckpoint
from wfm_ar.rollout.world_folder import WorldParts, read_world, save_world
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.action import ActionTokenizer
from wfm_ar.tokenizers.text import TextTokenizer
from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.train.checkpoint import load_checkpoint, save_checkpoint
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig

MEMORY_BYTES = 300 << 20  # beyond what the sound files took
ODD_VALUES = (
    None,
    True,
    -1,
    0,
    1,
    2,
    3,
    7,
    1 << 31,
    1 << 63,
    10**30,
    0.5,
    1e308,
    "",
    "x",
    "../x",
    "/etc/passwd",
    [],
    [1] * 9,
    {},
    {"a": {}},
)


class Case(NamedTuple):
    """Which file of which folder was replaced, and by what."""

    kind: str  # world, training, published
    folder: Path
    files: dict[str, bytes]  # put in place of the sound ones
    fitted: bool  # hashes were made to fit again
    links: dict[str, str]  # names that become symbolic links


def tiny_world(folder: Path) -> None:
    """A world of random weights: a network of each kind, texts and actions, 100 kB in all."""
    torch.manual_seed(0)
    widths = dict(encoder_channels=8, decoder_channels=8, multipliers=(1, 1), decoder_blocks=1, z_channels=8, levels=(4, 3, 3))
    tokenizer = VideoTokenizer(
        VideoTokenizerConfig(height=16, width=16, temporal_compression=2, spatial_compression=8, patch_time=2, **widths)
    )
    text = TextTokenizer.train(["push the red cube left", "do nothing"], vocab_size=300, max_tokens=12)
    schema = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1, bins=5),), rate_hz=10)
    sequence = SequenceConfig(
        video_vocab=36, grid_h=2, grid_w=2, rate=2, action_bins=ActionTokenizer(schema).bins, text_vocab=text.vocab_size, max_text=12
    )
    sizes = dict(layers=1, dim=16, heads=2, kv_heads=1, head_dim=8, hidden=16)
    model = WorldModel(WorldModelConfig(**Sequence(sequence).model_vocabularies(), **sizes))
    decoder = Denoiser(
        DenoiserConfig(temporal_compression=2, spatial_compression=8, channels=(8,), blocks=(1,), embedding=8, code_channels=3)
    )
    parts = WorldParts(
        video_tokenizer=tokenizer,
        sequence=sequence,
        world_model=model,
        fps=10.0,
        text_tokenizer=text,
        action_schema=schema,
        diffusion_decoder=decoder,
    )
    save_world(folder, parts, card="# tiny\n")


def sound(folder: Path) -> dict[str, Path]:
    """The undamaged folders, made below `folder`."""
    tiny_world(folder / "world")
    torch.manual_seed(1)
    weights = {"model": {"a.weight": torch.randn(8, 4), "b.bias": torch.randn(8)}, "optim": {"step": torch.ones(1), "m": torch.randn(32)}}
    training = save_checkpoint(folder / "run", 7, weights, {"step": 7, "stage": "world_model", "describe": {"model": {"dim": 8}}}, 2)
    published = folder / "published"
    published.mkdir()
    save_file({"net.a.weight": torch.randn(8, 4), "net.b.bias": torch.randn(8).bfloat16()}, published / "model.safetensors")
    torch.save({"model": {"net.a.weight": torch.randn(8, 4), "net.b.bias": torch.randn(8)}}, published / "model.pt")
    return {"world": folder / "world", "training": training, "published": published}


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a JSON tree."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def edited_json(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One value of a JSON file changed, added, or taken away, or its text damaged."""
    how = rng.random()
    if how < 0.15:
        return hostile.mangled(content, rng)
    if how < 0.22:
        return rng.choice(
            (
                ("nested", b"[" * 100_000),
                ("nested objects", b'{"a":' * 50_000),
                ("NaN", content.replace(b"1", b"NaN", 1)),
                ("infinity", content.replace(b"8", b"-Infinity", 1)),
                ("twice", content.replace(b"{", b'{"format": 1, "files": {}, "step": 1,', 1)),
                ("long number", content.replace(b": 1", b": " + b"9" * 5000, 1)),
                ("much", content + b" " * (2 << 20)),
                ("BOM", b"\xef\xbb\xbf" + content),
                ("UTF-16", content.decode().encode("utf-16")),
                ("lone surrogate", content.replace(b'"', b'"\\ud800', 1)),
            )
        )
    tree = json.loads(content)
    path = rng.choice([one for one in places(tree) if one])
    node = tree
    for key in path[:-1]:
        node = node[key]
    old = node[path[-1]]
    what = rng.choice(("odd", "odd", "odd", "odd", "near", "gone", "more"))
    if what == "gone":
        del node[path[-1]]
    elif what == "more" and isinstance(node, dict):
        node[rng.choice(("extra", "_target_", "../y", "__class__"))] = rng.choice(ODD_VALUES)
    elif what == "near" and isinstance(old, (int, float)) and not isinstance(old, bool):
        node[path[-1]] = rng.choice((old + 1, old - 1, old * 2, -old, old * 1000, float(old), str(old)))
    else:
        node[path[-1]] = rng.choice(ODD_VALUES)
    return f"{'.'.join(map(str, path))} {what} {str(node.get(path[-1]) if isinstance(node, dict) else '')[:20]}", json.dumps(tree).encode()


def edited_safetensors(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A lie in the header, or damage to the numbers."""
    (length,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    what = rng.choice(("mangled", "length", "dtype", "shape", "offsets", "twice", "gone", "more", "numbers", "not finite", "data", "swap"))
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    if what == "mangled":
        return hostile.mangled(content, rng)
    if what == "length":
        new = rng.choice((0, 1, length - 1, length + 1, 100_000_001, 1 << 40, (1 << 64) - 1))
        return f"header length {new}", struct.pack("<Q", new) + content[8:]
    if what in ("numbers", "not finite") and data:
        damaged = bytearray(data)
        at = rng.randrange(0, len(damaged) - 1, 2)
        damaged[at : at + 2] = rng.choice((b"\x00\x7c", b"\xff\x7f", b"\x00\xfc")) if what == "not finite" else rng.randbytes(2)
        return f"{what} at {at}", content[: 8 + length] + bytes(damaged)
    if what == "data":
        return "data cut or longer", content[: 8 + length] + rng.choice((data[:-2], data[: len(data) // 2], data + b"\0" * 64, b""))
    if what == "dtype":
        header[name]["dtype"] = rng.choice(("F64", "F32", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "Q9", "", None, 3))
    elif what == "shape":
        shape = header[name]["shape"]
        header[name]["shape"] = rng.choice(
            ([], [0], [*shape, 1], [1 << 40, 1 << 40], [-1], shape[::-1], [1 << 62], None, [2**64], ["8"], [10**6] * 3)
        )
    elif what == "offsets":
        start, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice(
            ([0, 0], [end, start], [start + 2, end + 2], [0, 1 << 62], [-2, end], [start], None, [start, end - 2], [0, len(data)])
        )
    elif what == "gone":
        del header[name]
    elif what == "more":
        header["extra"] = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    elif what == "swap":
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
    text = json.dumps(header).encode()
    if what == "twice":
        text = text[:-1] + b"," + json.dumps(name).encode() + b":" + json.dumps(header[name]).encode() + b"}"
    return f"{what} of {name}", struct.pack("<Q", len(text)) + text + data


def cases(count: int, seed: int, folders: dict[str, Path]) -> Iterator[tuple[str, Case]]:
    contents = {
        kind: {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for kind, folder in folders.items()
    }
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        kind = rng.choice(("world", "world", "world", "training", "training", "published"))
        names = contents[kind]
        name = rng.choice([*names, *[one for one in names if one.endswith(".json")] * 2])
        content, files, links, fitted = names[name], {}, {}, False
        how = rng.random()
        if how < 0.05:  # another file in its place
            other = rng.choice(list(names))
            label, files = f"{other} in place of {name}", {name: names[other]}
        elif how < 0.08:
            target = rng.choice(("/dev/zero", "nowhere", "..", name, "/etc/passwd"))
            label, links = f"{name} is a link to {target}", {name: target}
        else:
            edit = edited_json if name.endswith(".json") else edited_safetensors if name.endswith(".safetensors") else hostile.mangled
            label, changed = edit(content, rng)
            files = {name: changed}
            about = {"world": "world.json", "training": "MANIFEST.json"}.get(kind)
            if about and name != about and rng.random() < 0.6:
                listed = json.loads(names[about])
                listed["files"][name] = {"bytes": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}
                files[about], fitted = json.dumps(listed).encode(), True
        yield f"{kind} {name}: {label} [{seed}-{i}]", Case(kind, folders[kind], files, fitted, links)


def load(kind: str, folder: Path) -> list[torch.Tensor]:
    if kind == "world":
        return [tensor for module in read_world(folder).modules().values() for _, tensor in sorted(module.state_dict().items())]
    if kind == "training":
        tensors, state = load_checkpoint(folder)
        assert isinstance(state, dict), "a state that is no object"
        return [tensor for _, group in sorted(tensors.items()) for _, tensor in sorted(group.items())]
    loaded = []
    for path in sorted(folder.iterdir()):
        loaded += [entry.read().clone() for _, entry in sorted(open_checkpoint(path).entries.items())]
    return loaded


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    folder.mkdir(parents=True, exist_ok=True)
    folders = sound(folder / "sound")
    before = {kind: load(kind, place) for kind, place in folders.items()}
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def check(case: Case) -> str:
        place = folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(case.folder, place)
        for name, content in case.files.items():
            (place / name).write_bytes(content)
        for name, target in case.links.items():
            (place / name).unlink()
            (place / name).symlink_to(target)
        try:
            after = load(case.kind, place)
        except BadCheckpoint as error:
            hostile.one_line(error)
            return "refused"
        same = len(after) == len(before[case.kind]) and all(map(_equal, after, before[case.kind]))
        if same:
            return "the same, bit for bit"
        if case.kind == "world":
            if not case.fitted:
                raise hostile.Failure("other weights than were saved, and no error")
            if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in after):
                raise hostile.Failure("values that are not finite were taken")
            return "another sound file"
        if case.kind == "training" and not case.fitted and "MANIFEST.json" not in case.files:
            raise hostile.Failure("other weights than were saved, and no error")
        return "another sound file"

    report = hostile.run_cases("hostile checkpoints", cases(count, seed, folders), check)
    shutil.rmtree(folder / "case", ignore_errors=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
    if grown > MEMORY_BYTES:
        report.failures.append(f"FAILED memory grew by {grown >> 20} MiB, expected at most {MEMORY_BYTES >> 20}")
    return report


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


if __name__ == "__main__":
    hostile.main(run, 10_000, __doc__)

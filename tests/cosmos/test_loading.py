"""Checkpoint files of every kind, whole and broken: nothing is run, everything wrong is one line."""

import json
import warnings
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wfm_ar.cosmos.archive import Archive, named_tensors
from wfm_ar.cosmos.loading import check_names, joined, load_published, open_checkpoint, open_tensors, read_mean_std
from wfm_ar.cosmos.names import names_of
from wfm_ar.cosmos.synth import random_weights, tiny
from wfm_ar.errors import BadCheckpoint


@pytest.fixture(scope="module")
def weights():
    config = tiny("5b")
    small = {"vocab": 128, "out_vocab": 64}
    config = type(config)(**(vars(config) | small))
    return config, random_weights(config, torch.Generator().manual_seed(0))


def same(checkpoint, tensors):
    assert checkpoint.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        entry = checkpoint.entries[name]
        assert entry.shape == tuple(tensor.shape) and entry.dtype == tensor.dtype and torch.equal(entry.read(), tensor), name


def test_torch_archives(weights, tmp_path):
    _, tensors = weights
    torch.save(tensors, tmp_path / "flat.pt")
    same(open_checkpoint(tmp_path / "flat.pt"), tensors)
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    wrapped = {"model": {f"model.{name}": nn.Parameter(tensor) for name, tensor in half.items()}, "step": 7, "lr": [1e-3, None, True]}
    torch.save(wrapped, tmp_path / "wrapped.pt")
    same(open_checkpoint(tmp_path / "wrapped.pt"), half)
    odd = {"a": tensors["norm.weight"][3:9], "b": torch.arange(24.0).view(4, 6).T, "c": torch.zeros(0, 3), "d": torch.tensor(5.0)}
    torch.save(odd, tmp_path / "views.pt")
    same(open_checkpoint(tmp_path / "views.pt"), odd)


def test_transformer_engines_bookkeeping_stays_closed(weights, tmp_path):
    import io

    _, tensors = weights
    torch.save(tensors | {"layers.0.attention._extra_state": io.BytesIO(b"anything")}, tmp_path / "te.pt")
    same(open_checkpoint(tmp_path / "te.pt"), tensors)


def test_scripted_archives_are_opened_for_their_tensors(tmp_path):
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv3d(2, 3, 1)
            self.register_buffer("taps", torch.arange(4))

        def forward(self, x):
            return self.inner(x)

    module = Loud()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(tmp_path / "net.jit")
    archive = Archive(tmp_path / "net.jit")
    found = {name: archive.read(stored) for name, stored in named_tensors(archive.root).items()}
    assert archive.scripted and found.keys() == module.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())


def test_safetensors_whole_and_sharded(weights, tmp_path):
    _, tensors = weights
    save_file(tensors, tmp_path / "model.safetensors")
    same(open_checkpoint(tmp_path / "model.safetensors"), tensors)
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: shard for shard, members in shards.items() for name in members}}))
    same(open_checkpoint(folder), tensors)
    (folder / "b.safetensors").unlink()
    with pytest.raises(BadCheckpoint, match="b.safetensors are missing"):
        open_checkpoint(index)
    index.write_text(json.dumps({"weight_map": {"x": "../model.safetensors"}}))
    with pytest.raises(BadCheckpoint, match="outside"):
        open_checkpoint(index)


def test_a_network_is_filled_and_fused(weights, tmp_path):
    config, tensors = weights
    torch.save(tensors, tmp_path / "model.pt")
    checkpoint = open_checkpoint(tmp_path / "model.pt")
    model = load_published(config, checkpoint, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and model.frequencies.dtype == torch.float32
    qkv = torch.cat([tensors[f"layers.1.attention.w{x}.weight"] for x in "qkv"])
    assert torch.equal(model.blocks[1].attention.qkv.weight, qkv.bfloat16())
    for one in names_of(config):  # and back: the rows of ours are the published tensors
        pieces = joined(one, checkpoint, torch.float32).split(one.rows)
        assert all(torch.equal(piece, tensors[name]) for piece, name in zip(pieces, one.published, strict=True))


def test_what_does_not_fit_is_told_in_one_line(weights, tmp_path):
    config, tensors = weights
    wrong = dict(tensors)
    del wrong["layers.1.attention.wk.weight"]
    wrong["norm.weight"] = torch.ones(3)
    wrong["medusa_head.0.weight"] = torch.ones(3)
    wrong["output.weight"] = wrong["output.weight"].to(torch.int32)
    torch.save(wrong, tmp_path / "wrong.pt")
    with pytest.raises(BadCheckpoint) as error:
        check_names(names_of(config), open_checkpoint(tmp_path / "wrong.pt"), "5b")
    told = str(error.value)
    for words in (
        "wk.weight is missing",
        "medusa_head.0.weight is not known",
        "norm.weight is [3], expected [48]",
        "torch.int32, expected floats",
    ):
        assert words in told
    assert "\n" not in told


class Harmful:
    """Its pickle calls something; if that were ever run, `hurt` would be there."""

    def __init__(self, hurt):
        self.hurt = str(hurt)

    def __reduce__(self):
        import os

        return os.mkdir, (self.hurt,)


def test_code_in_a_pickle_is_refused_and_never_run(weights, tmp_path):
    _, tensors = weights
    hurt = tmp_path / "hurt"
    torch.save(tensors | {"extra": Harmful(hurt)}, tmp_path / "bad.pt")
    with pytest.raises(BadCheckpoint, match="mkdir.*nothing was run"):
        open_checkpoint(tmp_path / "bad.pt")
    torch.save({"x": Harmful(hurt)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(BadCheckpoint, match="bare pickle"):
        open_checkpoint(tmp_path / "old.pt")
    assert not hurt.exists()


def test_pickles_without_an_end(tmp_path):
    """Dictionaries that hold themselves, and tensors whose shape and strides do not belong together."""
    for name, pickle in (("twice.pt", b"\x80\x02}q\x00(U\x01ah\x00U\x01bh\x00u."), ("list.pt", b"\x80\x02]q\x00(h\x00h\x00e.")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("a/data.pkl", pickle)
        with pytest.raises(BadCheckpoint, match=name):
            open_tensors(tmp_path / name)
    with pytest.raises(BadCheckpoint, match="more than 262144 entries"):
        open_checkpoint(tmp_path / "twice.pt")
    torch.save({"a": torch.ones(2, 3)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as old, zipfile.ZipFile(tmp_path / "odd.pt", "w") as new:
        for one in old.namelist():
            strides, data = b"K\x03K\x01\x86", old.read(one)  # (3, 1), which becomes (3,)
            assert not one.endswith("data.pkl") or strides in data
            new.writestr(one, data.replace(strides, b"K\x03\x85"))
    with pytest.raises(BadCheckpoint, match="its pickle is damaged"):
        open_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_files(weights, tmp_path, share):
    _, tensors = weights
    torch.save(tensors, tmp_path / "model.pt")
    save_file(tensors, tmp_path / "model.safetensors")
    for name in ("model.pt", "model.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadCheckpoint, match="fix:"):
            open_checkpoint(tmp_path / name)


def test_files_that_are_none_of_these(tmp_path):
    (tmp_path / "text.pt").write_text("hello, this is no checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "plain.pt", "w") as archive:
        archive.writestr("a.txt", "b")
    for name in ("text.pt", "empty.pt", "plain.pt", "absent.pt"):
        with pytest.raises(BadCheckpoint, match=name):
            open_checkpoint(tmp_path / name)


def test_mean_and_std(tmp_path):
    mean, std = torch.randn(16, 8), torch.rand(16, 8) + 0.1
    for saved in ((mean.flatten(), std.flatten()), {"mean": mean.view(1, 16, 8, 1, 1), "std": std.view(1, 16, 8, 1, 1)}):
        torch.save(saved, tmp_path / "mean_std.pt")
        read = read_mean_std(tmp_path / "mean_std.pt", 16)
        assert torch.equal(read[0], mean) and torch.equal(read[1], std)
    for wrong in ((mean,), (mean, -std), (mean[:15], std[:15]), (mean, std[:1])):
        torch.save(wrong, tmp_path / "mean_std.pt")
        with pytest.raises(BadCheckpoint, match="mean_std.pt"):
            read_mean_std(tmp_path / "mean_std.pt", 16)
    assert len(open_tensors(tmp_path / "mean_std.pt")) == 2

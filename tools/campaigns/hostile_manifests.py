"""Corrupt manifests: `episodes.jsonl`, `actions.json`, arrays and prompt lists with every kind of bad line.

Run `python tools/campaigns/hostile_manifests.py` from the checkout. Each case must open, or be refused in one line that names the
file (and the line). No file outside the data folder is opened, whatever paths and links say: an audit hook sees every open.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hostile
import numpy as np

from wfm_ar.data.check import check_data
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.decoding import pool
from wfm_ar.errors import WfmError
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.verbs.prompts import read_requests

ODD = (
    *(None, True, False, 0, -1, 1, 2**63, 10**400, 1e308, "", " ", "x", [], {}, ["videos/0.mp4"], {"a": 1}),
    *("videos/1.mp4", "videos", ".", "..", "../outside.mp4", "videos/../../outside.mp4", "/etc/passwd", "//etc/passwd", "~/x", "C:\\x"),
    *("link.mp4", "folder-link/outside.mp4", "videos/0.mp4\0.txt", "http://127.0.0.1:9/a.mp4", "file:///etc/passwd", "concat:a|b"),
    *("\ud800", "é" * 300, "a" * 5000, "videos\\0.mp4", "loop", "train", "val", "tset"),
)


class Case(NamedTuple):
    """New contents of files of the data set."""

    files: dict[str, bytes]
    prompts: bool = False  # read as a list of prompts


def sound(root: Path) -> None:
    """A data set of three small episodes with texts, actions and states, and links that lead out of it."""
    rng = np.random.default_rng(0)
    schema = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)
    records = [
        write_episode(
            root,
            id=str(i),
            frames_THWC=rng.integers(0, 255, (3, 16, 16, 3), dtype=np.uint8),
            fps=10,
            split="val" if i == 2 else "train",
            text="go left",
            actions=np.zeros((2, 1)),
            state={"x": np.zeros((3, 2))},
        )
        for i in range(3)
    ]
    write_episodes(root, records, schema)
    shutil.copy(root / "videos/0.mp4", root.parent / "outside.mp4")
    (root / "link.mp4").symlink_to("../outside.mp4")
    (root / "folder-link").symlink_to("..")
    (root / "loop").symlink_to("loop")


def edited_line(line: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One line of JSON with one thing wrong."""
    record = json.loads(line)
    what = rng.choice(("odd",) * 8 + ("gone", "more", "bytes", "NaN", "twice", "nested", "long", "two", "utf", "mangled"))
    key = rng.choice(list(record))
    if what == "odd":
        value = rng.choice(ODD)
        return f"{key} = {str(value)[:30]!r}", json.dumps(record | {key: value}).encode()
    if what == "gone":
        return f"{key} gone", json.dumps({name: value for name, value in record.items() if name != key}).encode()
    if what == "more":
        name = rng.choice(("vidoe", "_target_", "frames", ""))
        return f"{name!r} more", json.dumps(record | {name: rng.choice(ODD)}).encode()
    if what == "bytes":
        at = rng.randrange(len(line))
        return f"bytes at {at}", line[:at] + rng.choice((b"\xff", b"\xc3", b"\0", b"\x85", b"\r", b"\xe2\x80\xa8")) + line[at:]
    if what == "NaN":
        return "fps NaN", line.replace(b"10.0", rng.choice((b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 5000)))
    if what == "twice":
        return f"{key} twice", line[:-1] + b"," + json.dumps({key: record[key]}).encode()[1:-1] + b"}"
    if what == "nested":
        deep = rng.choice((b"[", b'{"a":')) * rng.choice((30, 5000, 200_000))
        return "deep", line[:-1] + b',"state":' + deep
    if what == "long":
        return "ten megabytes", json.dumps(record | {key: "a" * (10 << 20)}).encode()
    if what == "two":
        return "two in a line", line + line
    if what == "utf":
        return "another encoding", line.decode().encode(rng.choice(("utf-16", "utf-8-sig")))
    return hostile.mangled(line, rng)


def cases(count: int, seed: int, root: Path) -> Iterator[tuple[str, Case]]:
    index, schema = (root / "episodes.jsonl").read_bytes(), (root / "actions.json").read_bytes()
    lines = index.splitlines()
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        how = rng.random()
        if how < 0.7:
            number = rng.randrange(3)
            label, line = edited_line(lines[number], rng)
            changed = b"\n".join([*lines[:number], line, *lines[number + 1 :]])
            yield f"line {number + 1}: {label} [{seed}-{i}]", Case({"episodes.jsonl": changed})
        elif how < 0.78:
            label, changed = hostile.mangled(schema, rng)
            yield f"actions.json: {label} [{seed}-{i}]", Case({"actions.json": changed})
        elif how < 0.86:
            tree = json.loads(schema)
            target = rng.choice((tree, tree["channels"][0]))
            key = rng.choice(list(target))
            target[key] = rng.choice((*ODD, [dict(tree["channels"][0])] * 2, 3.5, float("nan")))
            yield f"actions.json: {key} = {str(target[key])[:30]} [{seed}-{i}]", Case({"actions.json": json.dumps(tree).encode()})
        elif how < 0.94:
            name = rng.choice(("actions/0.npy", "states/0.npz"))
            label, changed = hostile.mangled((root / name).read_bytes(), rng)
            if rng.random() < 0.2 and name.endswith("npy"):  # a header that asks for a lot of memory, or for a pickle
                dtype = rng.choice(("<f4", "|O", "<f8", "<U9999999"))
                text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({rng.choice((10**12, 2**62, 5))}, 1), }}".encode()
                label, changed = f"header {dtype}", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)
            yield f"{name}: {label} [{seed}-{i}]", Case({name: changed})
        else:
            record = {"id": "a", "text": "go left", "video": "videos/0.mp4", "frames": 9, "seed": 1}
            label, changed = edited_line(json.dumps(record).encode(), rng)
            yield f"prompts: {label} [{seed}-{i}]", Case({"prompts.jsonl": changed}, prompts=True)


class Watch:
    """Sees every file that is opened, and says which ones lay outside the folder."""

    def __init__(self) -> None:
        self.root, self.outside = "", []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.root:
            return
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(
                (self.root, sys.prefix, sys.base_prefix, str(Path(__file__).resolve().parents[2]), "/dev/null", "/tmp/tmp")
            ):
                self.outside.append(path)
            if path.startswith(os.path.dirname(self.root)) and not path.startswith((self.root, os.path.dirname(self.root) + "/T")):
                self.outside.append(path)
        elif event in ("pickle.find_class", "os.system", "socket.connect"):
            self.outside.append(event)
        elif event == "exec" and getattr(arguments[0], "co_filename", "<").startswith("<"):  # modules imported late have a file
            self.outside.append(event)


WATCH = Watch()


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    root = folder / "data"
    root.mkdir(parents=True, exist_ok=True)
    sound(root)
    kept = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert check_data(root) == [], "the sound data set has no defects"
    record = json.dumps({"id": "a", "text": "go left", "video": "videos/0.mp4", "frames": 9, "seed": 1})
    (root / "prompts.jsonl").write_text(record)
    for prompts in (False, True):  # what is imported once is no case's doing
        assert _outcome(root, Case({"episodes.jsonl": b""}, prompts)) == "taken"

    def check(case: Case) -> str:
        for name, content in case.files.items():
            (root / name).write_bytes(content)
        WATCH.outside.clear()
        WATCH.root = os.path.realpath(root)
        try:
            return _outcome(root, case)
        finally:
            WATCH.root = ""
            for name in case.files:
                if name in kept:
                    (root / name).write_bytes(kept[name])
            if WATCH.outside:
                raise hostile.Failure(f"opened {WATCH.outside[:3]}")

    report = hostile.run_cases("hostile manifests", cases(count, seed, root), check)
    pool.close()
    return report


def _outcome(root: Path, case: Case) -> str:
    try:
        if case.prompts:
            read_requests(root / "prompts.jsonl", {})
            return "taken"
        episodes = open_episodes(root)
        for i in range(len(episodes)):
            episodes.load_actions(i)
            episodes.load_state(i)
        outcome = "taken"
    except WfmError as error:
        hostile.one_line(error)
        (name,) = case.files
        where = os.path.relpath(str(error).split(": ")[0].split(" line ")[0], root)
        if where != name and (where.startswith("..") or name != "episodes.jsonl"):
            raise hostile.Failure(f"the file is not named: {error}") from None
        if where == name and name.endswith("jsonl") and " line " not in str(error):
            raise hostile.Failure(f"the line is not named: {error}") from None
        outcome = "refused"
    if not case.prompts and random.random() < 0.1:  # looks at every video too
        for defect in check_data(root):
            if "\n" in str(defect) or "; fix: " not in str(defect):
                raise hostile.Failure(f"expected one line with a remedy, got {defect}")
    return outcome


if __name__ == "__main__":
    hostile.main(run, 10_000, __doc__)

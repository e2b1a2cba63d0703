"""README and docs say what the code does: their numbers, links, command lines and lists are held against it."""

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import wfm_ar
from wfm_ar.cli import settings_of
from wfm_ar.errors import BadConfig
from wfm_ar.verbs import VERBS

ROOT = Path(wfm_ar.__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
OTHER = ("doctor", "completion", "version", "--help", "VERB")  # words after `wfm` that are no verbs


@pytest.fixture(scope="module")
def readme():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "tools" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_lines(path: Path) -> list[str]:
    """What stands in the page's fenced blocks, line by line."""
    return [line for block in re.findall(r"(?ms)^```\w*\n(.*?)^```", path.read_text()) for line in block.splitlines()]


def words_of(line: str) -> list[str]:
    """A command line's words; what follows a # is a remark."""
    return shlex.split(line, comments=True)


def verb_of(words: list[str]) -> tuple[str, list[str]]:
    """(the verb's words, its overrides) of a command line without `wfm`."""
    for verb in VERBS:
        names = verb.words.split()
        if words[: len(names)] == names:
            return verb.words, words[len(names) :]
    raise AssertionError(f"no verb: wfm {' '.join(words)}")


def commands() -> list[tuple[str, str]]:
    """(page, command line after `wfm`) of every command that is shown, in code blocks and between backquotes."""
    found = []
    for page in PAGES:
        shown = [line for line in code_lines(page) if line.startswith("wfm ")]
        text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
        shown += [one for one in re.findall(r"`(wfm [^`]+)`", text) if "=" in one and "..." not in one and not one.endswith("=")]
        single = [one.strip() for line in shown for one in line.split("&&") if one.strip().startswith("wfm ")]
        found += [(page.name, line.removeprefix("wfm ")) for line in single if line.split()[1] not in OTHER]
    return found


def test_what_is_made_by_tools_is_up_to_date(readme):
    behind = [page.name for page in readme.pages() if readme.filled(page) != page.read_text()]
    assert not behind, f"{behind} are behind the code or report.json; fix: python tools/readme.py"


def test_a_changed_number_is_seen(readme, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(readme.between("a <!-- results --><!-- /results --> b", "results", readme.table()))
    assert readme.filled(page) == page.read_text() and readme.filled(page).count("\n| ") == len(readme.judged()) + 1
    page.write_text(page.read_text().replace("| measured |", "| guessed |"))
    assert readme.filled(page) != page.read_text()


def test_the_pictures_are_of_the_world_that_ships(readme):
    assert json.loads(readme.PICTURES.read_text())["world_sha256"] == readme.world_hash(), "fix: python tools/pictures.py"


def test_the_readme_is_two_screens():
    assert (ROOT / "README.md").stat().st_size <= 12_000


def test_the_module_map_names_every_module(readme):
    rows = set(re.findall(r"(?m)^\| `([\w.]+)` \|", readme.module_map()))
    files = {path.name for folder in ("wfm_ar", "kernels/wfm_kernels") for path in (ROOT / folder).rglob("*.py")}
    assert files == rows


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"(?ms)^```.*?^```|`[^`]*`", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            place = page.parent / target.partition("#")[0]
            assert place.exists(), f"{page.name}: {target} is not there"


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda one: one)
def test_every_command_line_is_one_that_wfm_takes(page, line):
    """Verb, keys, groups and values, as the command line itself checks them; files need not be there."""
    words, overrides = verb_of(words_of(line))
    try:
        settings_of(words, overrides)
    except BadConfig as error:  # in running text a command may leave out what is not spoken of
        assert "has no value" in str(error), error


def test_python_blocks_are_python_and_name_what_exists():
    for page in PAGES:
        for block in re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text()):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, one.name) for one in node.names), (page.name, ast.unparse(node))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "wfm_ar":
                    assert hasattr(wfm_ar, node.attr), (page.name, node.attr)


def test_every_page_is_in_the_site(readme):
    listed = set(re.findall(r"([\w]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_another_world_is_described_from_its_files(readme, tmp_path, monkeypatch):
    """Of single frames, with a frame predictor: what its settings and the heads of its weights say."""
    sizes = {"video_tokenizer": 1_500_000, "frame_predictor": 250_000, "world_model": 3_000_000}
    for name, size in sizes.items():
        save_file({"a": np.zeros(size - 4, np.float16), "b": np.zeros((2, 2), np.float32)}, tmp_path / f"{name}.safetensors")
    about = {
        "fps": 10.0,
        "sequence": {"rate": 1, "grid_h": 16, "grid_w": 16, "video_vocab": 1024},
        "video_tokenizer": {"width": 128, "height": 96, "spatial_compression": 8},
        "files": {f"{name}.safetensors": {} for name in sizes},
    }
    (tmp_path / "world.json").write_text(json.dumps(about))
    monkeypatch.setattr(readme, "WORLD", tmp_path)
    told = readme.shipped_world()
    assert "128 x 96 pixels, 10 frames a second. A latent is 1 frame, 256 tokens of 8 x 8 pixels out of 1,024 codes." in told
    assert told.endswith("video tokenizer 1.5 M, frame predictor 0.2 M, world model 3.0 M; 10 MB in all.")


def test_what_was_not_measured_is_left_out(readme, monkeypatch):
    found = readme.report()
    monkeypatch.setattr(readme, "report", lambda: {**found, "text": None})
    assert (
        "objects that were moved" in readme.in_words()
        and "pushes told" not in readme.in_words()
        and "From a text alone" not in readme.in_words()
    )

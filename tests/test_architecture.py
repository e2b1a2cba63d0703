"""The house rules that a machine can check: who may import whom, what is never used, how long a file may be."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import wfm_ar

ROOT = Path(wfm_ar.__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")

# Imports run downwards only: a module may import modules of its own part and of lower rungs, never a sibling on its rung.
LADDER = (
    {"wfm_kernels", "plain_text"},
    {"shapes", "errors"},
    {"schema", "haar", "residual_block", "decoding", "sizes", "framing", "without_memory", "machine", "extras", "progress_bar"},
    {"data", "tokenizers", "world_model", "frame_predictor", "diffusion_decoder", "inverse_dynamics"},
    {"rollout", "worlds"},
    {"cosmos"},
    {"train", "evaluate", "simulate"},
    {"config", "config_files"},
    {"verbs"},
    {"cli", "cli_arguments", "cli_help", "cli_completion"},
    {"__init__", "__main__"},
)
RUNG = {part: height for height, rung in enumerate(LADDER) for part in rung}
# these pairs stand on one rung and may still see each other: the legend raises the errors, the command line prints the help
NEIGHBOURS = {
    ("cli", "cli_arguments"),
    ("cli", "cli_help"),
    ("cli", "cli_completion"),
    ("cli_arguments", "cli_completion"),
    ("cli_completion", "cli_help"),
    ("__main__", "__init__"),
    ("shapes", "errors"),
}
ALWAYS_ALLOWED = {"__init__"}  # `from wfm_ar import __version__`: wfm_ar/__init__.py imports nothing before it is asked to

ONLY_HERE = {  # outside library -> the places that may import it
    "hydra": {"wfm_ar/cli.py"},
    "omegaconf": {"wfm_ar/cli.py", "wfm_ar/config.py"},
    "av": {
        "wfm_ar/data/video.py",
        "wfm_ar/decoding/pictures.py",
        "wfm_ar/decoding/reading.py",
    },  # to encode our frames; to decode foreign ones, in a child
    "sentencepiece": {"wfm_ar/tokenizers/text.py"},
    "pyarrow": {"wfm_ar/data/parquet.py", "wfm_ar/decoding/parquet_file.py"},
    "h5py": {"wfm_ar/decoding/hdf5_file.py"},
    "huggingface_hub": {"wfm_ar/data/hub.py"},
    "triton": {"kernels/wfm_kernels/", "wfm_ar/worlds/tabletop.py"},  # kernels; and a renderer only loads its library before its own
    "mujoco": {"wfm_ar/worlds/"},
    "wandb": {"wfm_ar/train/wandb_log.py"},
    "gymnasium": {"wfm_ar/simulate/environment.py"},
    "aiohttp": {"wfm_ar/simulate/play/"},
    "scenedetect": {"wfm_ar/data/curate/shots.py"},
    "cv2": {"wfm_ar/data/curate/shots.py"},
}
NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torchvision", "requests", "urllib.request"}
FORBIDDEN_NAMES = {"utils.py", "util.py", "misc.py", "common.py", "helpers.py", "helper.py"}
CEILING = 450


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if "__pycache__" not in path.parts]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


LIBRARY = sources("wfm_ar", "kernels")
EVERYTHING = LIBRARY + sources("tests", "tools")


def part_of(path: Path) -> str:
    """The part of the house a file belongs to: the first folder or file name below its package."""
    inside = path.relative_to(ROOT).parts
    if inside[0] == "kernels":
        return "wfm_kernels" if inside[1] == "wfm_kernels" else "benchmarks"
    return inside[1].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports_of(path: Path) -> list[tuple[str, int]]:
    """(absolute dotted module, line) of every import in the file, also those inside functions."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import; write it from the package's root"
            assert node.module is not None
            if node.module == "wfm_ar":
                found += [(f"wfm_ar.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((node.module, node.lineno))
    return found


def part_imported(module: str) -> str | None:
    """The part that a dotted import leads to; None for outside libraries."""
    names = module.split(".")
    if names[0] == "wfm_kernels":
        return "wfm_kernels"
    if names[0] != "wfm_ar":
        return None
    return names[1] if len(names) > 1 and names[1] in RUNG else "__init__"


def test_imports_run_downwards():
    wrong = []
    for path in LIBRARY:
        own = part_of(path)
        if own == "benchmarks":  # may import anything
            continue
        assert own in RUNG, f"{name_of(path)}: part {own!r} has no place on the ladder; give it one here and in the README"
        for module, line in imports_of(path):
            other = part_imported(module)
            if other is None or other == own or other in ALWAYS_ALLOWED or (own, other) in NEIGHBOURS or own == "__init__":
                continue
            if RUNG[other] >= RUNG[own]:
                wrong.append(f"{name_of(path)}:{line}: {own} imports {other}, which is not below it")
    assert not wrong, "\n".join(wrong)


def module_of(path: Path) -> str:
    """The dotted name that imports the file."""
    names = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(name for name in names if name not in ("kernels", "__init__"))


def import_graph(paths: list[Path]) -> dict[str, set[str]]:
    """module -> the modules it imports anywhere: at the top, inside functions, and for type checkers only."""
    known = {module_of(path): path for path in paths}
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        found = graph[module] = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):  # `from package import module` names a module, `from module import name` none
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                found.update(name if name in known else str(node.module) for name in names)
        found &= known.keys() - {module}
    return graph


def circles_in(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""

    def reached_from(module: str) -> set[str]:
        reached, waiting = set(), [module]
        while waiting:
            new = graph[waiting.pop()] - reached
            reached |= new
            waiting += new
        return reached

    reached = {module: reached_from(module) for module in graph}
    circles = {frozenset(other for other in reached[module] if module in reached[other]) for module in graph if module in reached[module]}
    return sorted(sorted(circle) for circle in circles)


def test_no_files_import_each_other():
    assert circles_in(import_graph(LIBRARY)) == []


def test_circles_are_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "p").mkdir()
    texts = {
        "__init__": "",
        "a": "def run():\n    from p import b",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.c import C",
        "c": "import p.a",
        "d": "from p.a import run",
    }
    for name, text in texts.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    assert circles_in(import_graph(sources("p"))) == [["p.a", "p.b", "p.c"]]


def test_importing_the_package_imports_nothing_of_it():
    """wfm_ar/__init__.py stands on no rung because everything may import it; so at import time it must not import back."""
    tree = ast.parse((ROOT / "wfm_ar/__init__.py").read_text())
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(name.startswith(("wfm_", "torch", "numpy")) for name in names), ast.unparse(node)


def test_libraries_stay_in_their_place():
    wrong = []
    for path in LIBRARY:
        for module, line in imports_of(path):
            places = ONLY_HERE.get(module.split(".")[0], {""})
            if part_of(path) != "benchmarks" and not any(name_of(path).startswith(place) for place in places):
                wrong.append(f"{name_of(path)}:{line}: imports {module}; only {sorted(places)} may")
    assert not wrong, "\n".join(wrong)


def test_kernels_stand_alone():
    allowed = {"torch", "triton", "wfm_kernels"} | sys.stdlib_module_names
    paths = [path for path in LIBRARY if part_of(path) == "wfm_kernels"]
    found = [(f"{name_of(path)}:{line}", module) for path in paths for module, line in imports_of(path)]
    wrong = [f"{place}: imports {module}; kernels may only torch, triton" for place, module in found if module.split(".")[0] not in allowed]
    assert not wrong, "\n".join(wrong)


def test_nothing_dangerous():
    """No pickle, no eval or exec, no torch.load without weights_only=True, no numpy.load that may unpickle, no shell."""
    wrong = []
    for path in EVERYTHING:
        for module, line in imports_of(path):
            if any(module == bad or module.startswith(f"{bad}.") for bad in NEVER_IMPORTED):
                wrong.append(f"{name_of(path)}:{line}: imports {module}")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and (reason := danger_of(node)):
                wrong.append(f"{name_of(path)}:{node.lineno}: {reason}")
    assert not wrong, "\n".join(wrong)


def danger_of(node: ast.Call) -> str:
    called, keywords = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
    if called in ("eval", "exec", "os.system", "os.popen", "__import__") or called.endswith(
        ("hydra.utils.instantiate", "hydra.utils.call")
    ):
        return called
    if called == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
        return "numpy.load with allow_pickle"
    if called.startswith("subprocess.") and keywords.get("shell", "False") != "False":
        return "a shell"
    return ""


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "hydra.utils.instantiate(config)",
    ],
)
def test_danger_is_seen(line):
    call = ast.parse(line).body[0].value
    assert danger_of(call)


def test_configs_name_no_code():
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        text = path.read_text()
        for word in ("_target_", "oc.env", "oc.decode", "!!python"):
            assert word not in text, f"{name_of(path)}: {word}"


def test_files_are_short_and_named_for_what_they_hold():
    long = {name_of(path): count for path in EVERYTHING if (count := path.read_text().count("\n")) > CEILING}
    assert not long, f"at most {CEILING} lines a file; part them by concept: {long}"
    vague = [name_of(path) for path in EVERYTHING if path.name in FORBIDDEN_NAMES]
    assert not vague, f"names for anything; name a file for the one thing it holds: {vague}"


def test_every_module_says_what_it_is():
    silent = [name_of(path) for path in LIBRARY if path.read_text().strip() and not ast.get_docstring(tree_of(path))]
    assert not silent, f"no docstring: {silent}"


def test_no_kernels_package():
    """A top-level package `kernels` would hide the one of that name which other libraries look for."""
    assert not (ROOT / "kernels/__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_test_files_have_names_of_their_own():
    """Without __init__.py two tests of one base name hide each other in some runners."""
    names = [path.name for path in sources("tests") if path.name != "conftest.py"]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})


def test_no_paths_of_one_machine():
    pattern = re.compile(r"""["'](/(?:work|root)/|/home/\w)""")
    paths = [path for path in EVERYTHING if path.name != "test_architecture.py"]
    found = {name_of(path): match[0] for path in paths if (match := pattern.search(path.read_text()))}
    assert not found, found


def test_pyproject_says_what_the_code_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and project["tool"]["hatch"]["version"] == {"path": "wfm_ar/__init__.py"}
    assert project["project"]["scripts"] == {"wfm": "wfm_ar.cli:main"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["wfm_ar", "kernels/wfm_kernels"]
    bounds = " ".join(project["project"]["dependencies"])
    for bound in ("torch>=2.10", "sentencepiece>=0.2.3", "hydra-core>=1.3.6", "omegaconf>=2.3,<2.4", "safetensors>=0.8"):
        assert bound in bounds, bound


def test_every_direct_dependency_is_pinned():
    """tools/requirements.txt holds one exact version of each that the commands and tests need: all but triton, which the build
    of torch chooses, and the extra t5, which only holders of gated weights can use."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(one for name in extras.keys() - {"t5"} for one in extras[name])]
    names = {re.split(r"[\[><=!; ]", one)[0] for one in wanted} - {"wfm-ar", "triton"}
    pins = re.findall(r"(?m)^([\w-]+)==\S+$", (ROOT / "tools/requirements.txt").read_text())
    assert names <= set(pins), names - set(pins)
    assert "torch==2.13.0" in (ROOT / "tools/requirements.txt").read_text()


def test_git_keeps_the_sources():
    """An unanchored `data/` in .gitignore would drop wfm_ar/data from the checkout and from the wheel."""
    ignored = [line.strip() for line in (ROOT / ".gitignore").read_text().splitlines() if line.strip() and not line.startswith("#")]
    for line in ignored:
        if line.strip("/").split("/")[-1] in {"data", "runs", "outputs", "build", "dist", "worlds", "assets"}:
            assert line.startswith("/"), f".gitignore: {line} must begin with a slash"

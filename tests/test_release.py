"""Files that machines elsewhere read: they parse, and what they name is there."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import wfm_ar

ROOT = Path(wfm_ar.__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout")


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its words) of a Dockerfile."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", path.read_text()))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_the_dockerfiles_copy_what_is_there_and_let_in(name):
    found = instructions(ROOT / "docker" / f"{name}.Dockerfile")
    assert found[0][0] == "FROM" and {one for one, _ in found} <= {"FROM", "RUN", "COPY", "USER", "WORKDIR", "ENV", "ENTRYPOINT", "CMD"}
    let_in = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for one, words in found if one == "COPY" for word in words.split()[:-1]]
    assert copied and all((ROOT / word).exists() and word in let_in for word in copied)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    wanted = {path.split("/")[0] for path in (*wheel["packages"], *wheel["force-include"])} | {"README.md", "LICENSE", "pyproject.toml"}
    assert wanted <= set(copied), wanted - set(copied)
    pin = re.search(r"(?m)^torch==(\S+)$", (ROOT / "tools/requirements.txt").read_text())[1]
    assert any(f"torch=={pin}" in words for _, words in found)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.search(r'"/src\[([\w,]+)\]"', " ".join(words for _, words in found))[1].split(",")
    assert set(asked) <= extras.keys()
    assert ("USER", "1000") in found and ("ENTRYPOINT", '["wfm"]') in found


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/workflows/*.yml")), ids=lambda path: path.name)
def test_the_workflows_parse_and_may_do_little(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"]["contents"] == "read"
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(job["timeout-minutes"] <= 120 for job in workflow["jobs"].values()) and all("uses" in one or "run" in one for one in steps)
    for step in steps:
        script = step.get("run", "").split()[0] if "run" in step else ""
        assert not script.startswith((".", "tools/")) or (ROOT / script).is_file(), script


def test_ci_runs_what_a_person_runs():
    runs = [step.get("run") for step in yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["steps"]]
    assert ".ci/run" in runs
    script = (ROOT / ".ci/run").read_text()
    assert all(words in script for words in ("./tools/test", "ruff check", "ruff format --check", "mkdocs build --strict"))


def test_the_hooks_before_a_commit():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[0] for hook in hooks] == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/python"]
    assert (ROOT / hooks[2]["entry"].split()[1]).is_file()


def test_the_citation_has_what_the_format_asks_for():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys() and cited["license"] == "Apache-2.0"
    assert cited["title"] in (ROOT / "README.md").read_text()


def test_the_changelog_knows_the_version():
    """A release names its section; what comes after it is Unreleased."""
    sections = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert sections[0] == "Unreleased" or sections[0] == wfm_ar.__version__
    assert len(sections) == len(set(sections))

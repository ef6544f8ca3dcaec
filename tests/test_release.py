"""A release: what is in the wheel and the source archive, and what public CI runs."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the source archive, built without a network."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_wheel_is_pure_python_and_whole(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "fkd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names
    others = {name for name in names - sources if ".dist-info/" not in name}
    assert others == set()
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_source_archive_has_what_its_tests_need_and_nothing_else(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened}
    for needed in (
        "tests/conftest.py",
        "requirements.lock",
        "Makefile",
        "docs/format.md",
        "recipes/README.md",
        ".ci/run",
        ".github/workflows/ci.yml",
        "drill/plugin.py",
        "benchmarks/__main__.py",
    ):
        assert needed in names
    tops = {name.partition("/")[0] for name in names if name}
    assert tops <= {
        "src",
        "tests",
        "drill",
        "benchmarks",
        "docs",
        "recipes",
        ".ci",
        ".github",
        "Makefile",
        "requirements.lock",
        "LICENSE",
        "pyproject.toml",
        "PKG-INFO",
        ".gitignore",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    }
    assert not [name for name in names if "__pycache__" in name]


def test_the_package_index_can_show_it(built):
    files = [str(path) for path in built.iterdir()]
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path):
    """A function that makes a small repository with the tag v0.0.1 on its branch main."""

    def make(changelog, *sources):
        (tmp_path / ".ci").mkdir()
        shutil.copyfile(ROOT / ".ci" / "release", tmp_path / ".ci" / "release")
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        for source in sources:
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copyfile
            copy(ROOT / source, tmp_path / source)
        for command in (["init", "-qb", "main"], ["config", "user.name", "a"]):
            git(tmp_path, *command)
        git(tmp_path, "config", "user.email", "a@b")
        for command in (["add", "."], ["commit", "-qm", "All"], ["tag", "v0.0.1"]):
            git(tmp_path, *command)
        return tmp_path

    return make


def git(folder, *words):
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def release(folder, *words):
    command = ["bash", str(folder / ".ci" / "release"), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        *(
            (words, "give a version such as 1.2.3")
            for words in ([], ["1.2"], ["v1.2.3"], ["01.2.3"], ["1.2.3rc"], ["1.2.3-rc1"])
        ),
        (["9.9.9", "branch"], "a release is made of the branch main"),
        (["9.9.9", "file"], "there are changes that are not committed"),
        (["9.9.9"], "no section '## 9.9.9'"),
        (["0.0.1"], "the tag v0.0.1 is there already"),
    ],
)
def test_what_is_no_release_is_refused(words, sentence, repository):
    """Nothing is built or tagged."""
    folder = repository("# Changelog\n\n## 9.9.9 (unreleased)\n\n## 9x9.9\n")
    if "branch" in words:
        git(folder, "switch", "-qc", "other")
    if "file" in words:
        (folder / "new").write_text("")
    done = release(folder, *words[:1])
    assert done.returncode == 1
    assert sentence in done.stderr
    assert git(folder, "tag").split() == ["v0.0.1"]


def test_a_release_is_built_and_tagged(repository):
    """All of it but the tests, whose place a script takes that does nothing."""
    tools = Path(sys.executable).parent
    if not (tools / "uv").exists():
        pytest.skip("uv is not beside this Python, as `make setup` puts it")
    sources = ["pyproject.toml", "README.md", "LICENSE", ".gitignore", "src"]
    folder = repository("# Changelog\n\n## 9.9.9\n", *sources)
    (folder / ".venv").symlink_to(tools.parent)
    (folder / ".ci" / "run").write_text("#!/bin/sh\n")
    (folder / ".ci" / "run").chmod(0o755)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "Pass")
    done = release(folder, "9.9.9")
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.name for path in (folder / "dist").iterdir()}
    assert built == {"fkd-9.9.9-py3-none-any.whl", "fkd-9.9.9.tar.gz"}
    assert git(folder, "describe", "--tags").strip() == "v9.9.9"
    again = release(folder, "--build", str(folder / "again"))  # as public CI does from the tag
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path.name for path in (folder / "again").iterdir()} == built


def test_public_ci_covers_every_python_that_is_promised():
    promised = {
        found[1]
        for line in PROJECT["classifiers"]
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line))
    }
    jobs = WORKFLOWS["ci"]["jobs"]
    assert set(jobs["versions"]["strategy"]["matrix"]["python"]) == promised
    assert PROJECT["requires-python"] == f">={min(promised, key=lambda v: int(v[2:]))}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_may_little_and_run_what_is_there(name):
    flow = WORKFLOWS[name]
    assert flow["permissions"] == {"contents": "read"}
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    for step in steps:
        if "uses" in step:
            assert re.search(r"@(v\d+|release/v\d+)$", step["uses"]), step
    commands = " ".join(step["run"] for step in steps if "run" in step)
    for path in re.findall(r"tests/[\w/.]+|\.ci/\w+", commands):
        assert (ROOT / path).exists(), path
    extras = {e for found in re.findall(r"\.\[([\w,]+)\]", commands) for e in found.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])

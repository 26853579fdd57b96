"""The files around the code agree with each other: dependency lists, lock file, Makefile, CI, metadata, sizes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
WEIGHT_SUFFIXES = {".safetensors", ".ckpt", ".pt"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load_tool() -> ModuleType:
    """Import tools/environment.py, which is a script and no part of a package."""
    spec = importlib.util.spec_from_file_location("environment_tool", ROOT / "tools" / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


environment = load_tool()


def pins() -> dict[str, str]:
    """Return {canonical name: version} of constraints.txt; every line must be a comment or an exact pin."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        assert match, f"constraints.txt: {line!r} is not NAME==VERSION"
        found[canonicalize_name(match[1])] = match[2]
    return found


def project_files() -> list[Path]:
    """Return the files that are, or would be, in git; skip where this is not a git work tree."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        pytest.skip("not a git work tree")
    files = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def test_constraints_satisfy_every_range():
    pinned = pins()
    for text in environment.requirements():
        requirement = Requirement(text)
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{text} is pinned to {version}"


def test_torch_and_torchaudio_are_a_pair():
    pinned = pins()
    assert pinned["torch"].split(".")[:2] == pinned["torchaudio"].split(".")[:2]
    ranges = {Requirement(text).name: Requirement(text).specifier for text in PROJECT["dependencies"]}
    # torchaudio does not ask for the torch it was built with, so a plain `pip install -e .` must not mix them
    assert ranges["torch"] == ranges["torchaudio"]


def test_made_environment_has_the_pinned_versions():
    if environment.read_stamp(Path(sys.prefix)) is None:
        pytest.skip("these tests run in an environment that `make` did not make")
    pinned = pins()
    installed = {canonicalize_name(item.name): item.version for item in importlib.metadata.distributions()}
    for name in {"pip", "setuptools", canonicalize_name(PROJECT["name"])}:
        installed.pop(name, None)
    assert {name: pinned.get(name) for name in installed} == installed


def test_conda_environment_lists_the_same_dependencies():
    conda = yaml.safe_load((ROOT / "musicldm_env.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip == environment.requirements()
    (python,) = [entry for entry in conda["dependencies"] if str(entry).startswith("python=")]
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert python == f"python={lowest}"


def test_citation_names_the_paper():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Karchkhadze", "Izadi", "Dubnov"]
    assert paper["year"] == 2025
    assert "2409.12346" in paper["identifiers"][0]["value"]


def test_citation_has_the_version_and_licence_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (str(citation["version"]), citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_pre_commit_hooks_need_no_network():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "system"
        assert "exec ruff " in hook["entry"]


def test_yaml_files_parse():
    files = [file for file in project_files() if file.suffix in {".yaml", ".yml", ".cff"}]
    assert ROOT / "musicldm_env.yml" in files
    for file in files:
        assert yaml.safe_load(file.read_text(encoding="utf-8")), f"{file} is empty"


def test_no_large_file_but_weights():
    large = {
        str(file.relative_to(ROOT)): file.stat().st_size
        for file in project_files()
        if file.suffix not in WEIGHT_SUFFIXES and file.stat().st_size > 1_000_000
    }
    assert not large


def test_packaging_files_name_no_machine_and_no_registry():
    names = ["constraints.txt", "pyproject.toml", "musicldm_env.yml", "Makefile", ".ci/run", ".pre-commit-config.yaml"]
    # written in pieces so that a search of the tree for such paths does not find this line
    forbidden = re.compile(r"://|--(extra-)?index-url|--find-links|/" + r"(work|root|tmp|home)/")
    for name in [*names, "tools/environment.py"]:
        found = forbidden.search((ROOT / name).read_text(encoding="utf-8"))
        assert found is None, f"{name}: {found[0]}"


def test_every_code_folder_is_a_package():
    """The build looks for folders with `__init__.py`; one without it would be missing after `pip install`."""
    for package in ("latent_diffusion", "utilities", "data"):
        for file in (ROOT / package).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"


def test_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1].split()
    result = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = dict(re.fullmatch(r"make ([\w-]+) +(\S.*)", line).groups() for line in result.stdout.splitlines())
    assert sorted(listed) == sorted(phony)
    assert {"demo", "test", "lint", "env", "clean", "help", "lock"} <= set(listed)


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").splitlines()[-1] == "make test"


# --- tools/environment.py, with pip and venv replaced so that nothing is installed ---------------------------------


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with lock files, and `execute` replaced by one that records and makes bin/python as venv would."""
    root = tmp_path / "clone"
    root.mkdir()
    (root / "pyproject.toml").write_text('[project]\ndependencies=["a>=1"]\noptional-dependencies.dev=["b"]\n')
    (root / "constraints.txt").write_text("a==1.0\n")
    monkeypatch.setattr(environment, "executed", [], raising=False)

    def execute(command: list[str], lock: int | None = None) -> None:
        environment.executed.append(command)
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()

    monkeypatch.setattr(environment, "execute", execute)
    return root


def commands() -> list[str]:
    """Return which of venv and pip ran, in order, and forget them."""
    kinds = ["venv" if "venv" in command else "pip" for command in environment.executed]
    environment.executed.clear()
    return kinds


def test_sync_makes_the_environment_once(clone: Path):
    assert environment.sync(clone) == clone / ".venv"
    assert commands() == ["venv", "pip"]
    environment.sync(clone)
    assert commands() == []


def test_sync_never_uses_a_half_built_environment(clone: Path):
    environment.sync(clone)
    environment.write_stamp(clone / ".venv", complete=False, root=clone)  # as a kill during pip leaves it
    (clone / ".venv" / "rest").touch()
    commands()
    environment.sync(clone)
    assert commands() == ["venv", "pip"]
    assert not (clone / ".venv" / "rest").exists()


def test_sync_follows_the_lock_file(clone: Path):
    environment.sync(clone)
    (clone / "constraints.txt").write_text("a==1.1\n")
    commands()
    environment.sync(clone)
    assert commands() == ["pip"]
    assert environment.is_current(clone / ".venv", clone)


def test_sync_leaves_a_foreign_environment_alone(clone: Path):
    (clone / ".venv").mkdir()
    for shared in (None, clone.parent / "envs"):
        with pytest.raises(environment.EnvironmentProblem, match=r"\.venv: found .* did not make, expected .* move it"):
            environment.sync(clone, shared)
    assert commands() == []
    assert list((clone / ".venv").iterdir()) == []


def test_shared_environment_is_linked_and_prune_keeps_the_current_one(clone: Path):
    shared = clone.parent / "envs"
    environment.sync(clone, shared)
    first = (clone / ".venv").resolve()
    assert first == shared / environment.digest(clone)
    (clone / "constraints.txt").write_text("a==1.1\n")
    commands()
    environment.sync(clone, shared)
    assert commands() == ["venv", "pip"]  # a shared environment is never changed: other clones may use it
    assert (clone / ".venv").resolve() == shared / environment.digest(clone)
    (shared / "of-someone-else").mkdir()
    assert environment.prune(shared, clone) == [first]
    assert (shared / "of-someone-else").exists() and environment.is_current(clone / ".venv", clone)


def test_prune_leaves_an_environment_that_is_being_made(clone: Path):
    shared = clone.parent / "envs"
    environment.write_stamp(shared / "older", complete=False, root=clone)
    with environment.locked(shared / "older.lock"):
        assert environment.prune(shared, clone) == []
    assert environment.prune(shared, clone) == [shared / "older"]

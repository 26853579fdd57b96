"""The wheel: what is in it, and that it works in an environment that knows nothing of this clone."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

import latent_diffusion
from tests.msgld.files import write

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "latent_diffusion", "utilities", "weights")
WEIGHTS = "latent_diffusion/weights/quickstart/model.safetensors"


def pip(*arguments: object) -> None:
    """Call pip of this environment; it may not download anything."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that nothing is built in the clone and an older build there adds nothing."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, source)
    (made,) = folder.glob("*.whl")
    return made


def installed(folder: Path, *what: object) -> Path:
    """A new environment with the project; it borrows the dependencies of this one, and no more."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # read after the environment's own packages; the .pth files in it, of editable installs for example, are not read
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    python = folder / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", "--no-build-isolation", *what)
    return folder


def call(environment: Path, folder: Path, program: str, *arguments: object) -> str:
    """Run a program of an environment in a folder; its standard output."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(environment / "bin" / program), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shipped_model(environment: Path, folder: Path) -> Path:
    """The weights that an environment finds by name."""
    code = "from latent_diffusion.models import find_checkpoint as find; print(find('quickstart', '--model'))"
    return Path(call(environment, folder, "python", "-c", code).strip())


def test_the_wheel_holds_the_method_and_the_program_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    name = f"msg_ld-{latent_diffusion.__version__}"
    assert {path.split("/")[0] for path in names} == {"latent_diffusion", "msgld", f"{name}.dist-info"}
    code = {
        str(path.relative_to(ROOT)).replace("utilities/", "msgld/", 1)
        for package in ("latent_diffusion", "utilities")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path for path in names if ".dist-info/" not in path} == code | {WEIGHTS}


def test_the_program_never_imports_itself_by_name() -> None:
    """In the wheel `utilities` is called msgld, so that it can only reach itself relatively."""
    for file in (ROOT / "utilities").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module]
            for module in imported:
                assert module.split(".")[0] not in ("utilities", "msgld", "data"), f"{file}:{node.lineno}: {module}"


def test_the_installed_command_separates_with_the_shipped_model(wheel: Path, tmp_path: Path) -> None:
    """From another folder, with its own copy of code and weights: the stems add up to the recording."""
    environment = installed(tmp_path / "environment", wheel)
    (tmp_path / "music").mkdir()
    song = write(tmp_path / "music" / "song.wav", 1.0, channels=2)
    quick = ("--average", 1, "--passes", 1, "--quiet", "--device", "cpu")
    shown = call(environment, tmp_path / "music", "msgld", "separate", "song.wav", "--out", "stems", *quick)
    assert shown.startswith("1 written, 0 skipped, 0 failed\n")
    stems = {file.stem: soundfile.read(file)[0] for file in (tmp_path / "music" / "stems" / "song").iterdir()}
    assert set(stems) == {"bass", "drums", "guitar", "piano"}
    np.testing.assert_allclose(sum(stems.values()), song, atol=1e-5)
    (weights,) = environment.glob(f"lib/python*/site-packages/{WEIGHTS}")
    assert shipped_model(environment, tmp_path) == weights
    general = ("utilities", "data", "weights", "train_musicldm")
    found = f"from importlib.util import find_spec; print([name for name in {general} if find_spec(name)])"
    assert call(environment, tmp_path, "python", "-c", found).strip() == "[]"


def test_an_editable_installation_uses_the_clone(source: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path / "environment", "--editable", source)
    assert call(environment, tmp_path, "msgld", "--version") == f"msgld {latent_diffusion.__version__}\n"
    assert shipped_model(environment, tmp_path) == source / "weights" / "quickstart" / "model.safetensors"
    where = call(environment, tmp_path, "python", "-c", "import msgld.cli; print(msgld.cli.__file__)")
    assert Path(where.strip()) == source / "utilities" / "cli" / "__init__.py"

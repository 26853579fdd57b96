#!/usr/bin/env python3
"""Make and reuse the virtual environment of this clone; the Makefile and `.ci/run` call it.

Only the standard library is used, because it runs before anything is installed.

    environment.py sync     make the environment, or do nothing if it is complete and current
    environment.py prune    delete environments of older lock files from the folder that MSGLD_ENVS names
    environment.py lock     resolve the ranges of pyproject.toml anew and write constraints.txt

By default the environment is the folder `.venv` of the clone. Where the variable MSGLD_ENVS names a folder, it is
`$MSGLD_ENVS/<digest of pyproject.toml and constraints.txt>`, shared by all clones that have the same two files, and
`.venv` is a link to it. For that reason only the dependencies are installed, never the project itself: an editable
install would tie a shared environment to the first clone. Programs run from the root of the clone instead.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "msgld-environment.json"
LOCK_HEADER = """\
# The exact versions this project was tested with: everything that `pip install .[dev]` brings in, resolved on
# Python {python}, {platform}. Written by `make lock`; do not edit by hand.
# Use: pip install -c constraints.txt -e '.[dev]'
"""

logger = logging.getLogger("environment")


class EnvironmentProblem(Exception):
    """A problem that the user can mend, told in one line (exit status 2)."""


def requirements(root: Path = ROOT) -> list[str]:
    """Return the dependencies of pyproject.toml and of its extra `dev`, as written there."""
    import tomllib  # here, so that an old Python reaches the version check and its clear message first

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def digest(root: Path = ROOT) -> str:
    """Return 12 hexadecimal digits that name the environment these lock files describe."""
    content = b"".join((root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content).hexdigest()[:12]


def read_stamp(environment: Path) -> dict | None:
    """Return what `sync` wrote into `environment`: {"digest", "complete"}; None if `sync` did not make it."""
    try:
        return json.loads((environment / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except json.JSONDecodeError:  # killed while writing it: ours, and not complete
        return {"digest": "", "complete": False}


def write_stamp(environment: Path, complete: bool, root: Path = ROOT) -> None:
    """Mark `environment` as ours, and as complete or not."""
    environment.mkdir(parents=True, exist_ok=True)
    (environment / STAMP).write_text(json.dumps({"digest": digest(root), "complete": complete}), encoding="utf-8")


def is_current(environment: Path, root: Path = ROOT) -> bool:
    """Tell whether `environment` is complete, made for the lock files of `root`, and has an interpreter that exists."""
    stamp = read_stamp(environment)
    complete = bool(stamp and stamp["complete"] and stamp["digest"] == digest(root))
    return complete and (environment / "bin" / "python").exists()


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on the file `path`; the system frees it when the last process that holds it dies.

    Yields the file descriptor. Raises BlockingIOError if `wait` is false and another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            logger.info("another process is making this environment: waiting for it (%s)", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def execute(command: list[str], lock: int | None = None) -> None:
    """Run `command`; it inherits the lock, so that a child that outlives us still keeps others away."""
    subprocess.run(command, check=True, pass_fds=() if lock is None else (lock,))


def build(environment: Path, root: Path, lock: int) -> None:
    """Make `environment` for the lock files of `root`. A complete one is brought up to date, any other made anew."""
    stamp = read_stamp(environment)
    usable = bool(stamp and stamp["complete"]) and (environment / "bin" / "python").exists()
    if not usable and environment.exists():
        logger.info("%s is half-built: starting again", environment)
        shutil.rmtree(environment)
    write_stamp(environment, complete=False, root=root)
    logger.info("installing the dependencies into %s (about 5 GB, one to three minutes)", environment)
    if not usable:
        execute([sys.executable, "-m", "venv", str(environment)], lock)
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements(root)) + "\n", encoding="utf-8")
        pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install"]
        execute([*pip, "-c", str(root / "constraints.txt"), "-r", str(listed)], lock)
    write_stamp(environment, complete=True, root=root)


def link(path: Path, target: Path) -> None:
    """Make `path` a link to `target`, replacing an older link or an environment that `sync` made there."""
    if path.is_dir() and not path.is_symlink():
        logger.info("%s becomes a link to %s", path, target)
        shutil.rmtree(path)
    temporary = path.with_name(f"{path.name}-link-{os.getpid()}")
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, path)


def sync(root: Path = ROOT, shared: Path | None = None) -> Path:
    """Return the root's `.venv`, made or brought up to date first where needed.

    root: the clone. shared: the folder of shared environments (MSGLD_ENVS), None for a `.venv` of the clone's own.
    Raises EnvironmentProblem if a `.venv` is there that `sync` did not make; CalledProcessError if pip fails.
    """
    local = root / ".venv"
    with locked(root / ".venv.lock") as local_lock:
        if local.is_dir() and read_stamp(local) is None:
            raise EnvironmentProblem(
                f"{local}: found an environment that `make` did not make, expected one that it made or none; move "
                "it away, or use it as it is with `make PYTHON=.venv/bin/python ...`"
            )
        if shared is None:
            if is_current(local, root):
                return local
            if local.is_symlink():  # a shared environment of other lock files is not ours to change
                local.unlink()
            build(local, root, local_lock)
            return local
        target = shared.resolve() / digest(root)
        if not is_current(target, root):
            with locked(target.with_name(f"{target.name}.lock")) as lock:
                if not is_current(target, root):  # it may have been finished while we waited
                    build(target, root, lock)
        if not (local.is_symlink() and local.resolve() == target):
            link(local, target)
    return local


def prune(shared: Path, root: Path = ROOT) -> list[Path]:
    """Delete the environments in the folder `shared` that other lock files describe; return what was deleted.

    One that is being made at this moment, and folders that `sync` did not make, are left alone.
    """
    gone = []
    for environment in sorted(shared.iterdir()) if shared.is_dir() else []:
        if environment.name == digest(root) or read_stamp(environment) is None:
            continue
        with (
            contextlib.suppress(BlockingIOError),
            locked(environment.with_name(f"{environment.name}.lock"), wait=False),
        ):
            logger.info("deleting %s: it belongs to older lock files", environment)
            shutil.rmtree(environment)
            gone.append(environment)
    return gone


def write_constraints(root: Path = ROOT) -> None:
    """Resolve the ranges of pyproject.toml in a new environment and write what was installed to constraints.txt."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "venv" / "bin" / "python")
        listed = Path(folder) / "requirements.txt"
        listed.write_text("\n".join(requirements(root)) + "\n", encoding="utf-8")
        execute([sys.executable, "-m", "venv", str(Path(folder) / "venv")])
        execute([python, "-m", "pip", "--disable-pip-version-check", "install", "-r", str(listed)])
        freeze = [python, "-m", "pip", "freeze", "--all", "--exclude", "pip"]  # --all: setuptools, too
        frozen = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    header = LOCK_HEADER.format(
        python="{}.{}".format(*sys.version_info), platform=f"{sys.platform} {os.uname().machine}"
    )
    temporary = root / "constraints.txt.tmp"
    temporary.write_text(header + frozen, encoding="utf-8")
    os.replace(temporary, root / "constraints.txt")
    logger.info("wrote %s; now run `make test`", root / "constraints.txt")


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit status (2 where the user can mend the cause)."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["sync", "prune", "lock"])
    command = parser.parse_args(arguments).command
    shared = Path(os.environ["MSGLD_ENVS"]) if os.environ.get("MSGLD_ENVS") else None
    try:
        if sys.version_info < (3, 11):  # noqa: UP036 - this script is run by whatever `python3` is, to say so
            raise EnvironmentProblem(
                f"{sys.executable}: found Python {sys.version.split()[0]}, expected 3.11 or newer; name another with "
                "`make BASE_PYTHON=python3.11 ...`"
            )
        if command == "sync":
            sync(shared=shared)
        elif command == "lock":
            write_constraints()
        elif shared is None:
            raise EnvironmentProblem("MSGLD_ENVS: not set, expected the folder of the shared environments")
        else:
            prune(shared)
    except EnvironmentProblem as problem:
        logger.error("%s", problem)
        return 2
    except subprocess.CalledProcessError as failure:
        logger.error("this command failed with status %s: %s", failure.returncode, " ".join(map(str, failure.cmd)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

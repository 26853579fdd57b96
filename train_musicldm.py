"""The command line of MSG-LD: `python train_musicldm.py --config FILE [key=value ...]`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from latent_diffusion.errors import MSGLDError

DESCRIPTION = """\
Train a multi-source latent diffusion model, or separate, generate and arrange music with one.
Everything is said by a YAML file; key=value overrides any key of it, for example trainer.max_steps=1000.

modes (mode: ...)
  train               train on data.params.path.train_data, validate on valid_data
  validate_and_train  validate first, then train
  validate, test      carry out the task on every window of valid_data with the weights of
                      trainer.resume_from_checkpoint (or resume) and write wavs, pictures and metrics.json

tasks (of an MSG-LD; the published rules, or task: ... outright)
  separation          stems from their mixture
  generation          all stems from nothing         (unconditional_guidance_scale: 0)
  arrangement         some stems for given others    (stems_to_inpaint: [drums, ...])

A run's checkpoints, logs and results lie in <log_directory>/<project_name>/<time>_<name>_<lr>_<version>/.
"""
EPILOG = """\
examples
  python train_musicldm.py --config config/quickstart/train.yaml --dry-run
  python train_musicldm.py --config config/quickstart/train.yaml trainer.max_steps=2000 seed=1
  python train_musicldm.py --config config/quickstart/train.yaml trainer.resume=runs/quickstart/<run folder>
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with status 2 on bad use."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    work = parser.add_mutually_exclusive_group(required=True)
    work.add_argument("--config", type=os.path.expanduser, metavar="FILE", help="YAML configuration")
    work.add_argument(
        "--inspect",
        type=os.path.expanduser,
        metavar="FILE",
        help="say what a weights file is; now the command `msgld inspect`",
    )
    work.add_argument(
        "--convert",
        type=os.path.expanduser,
        metavar="FILE",
        help="write weights in another format; now `msgld convert`",
    )
    parser.add_argument(
        "--to",
        type=os.path.expanduser,
        metavar="FILE",
        help="with --convert: NAME.safetensors, this project's format, or NAME.ckpt, the published layout",
    )
    parser.add_argument(
        "--weights",
        choices=("both", "ema", "raw"),
        default="both",
        help="with --convert: keep every tensor (default), or for inference the averaged or the raw U-Net only",
    )
    parser.add_argument("--half", action="store_true", help="with --convert: networks in 16 bit, read as 32")
    parser.add_argument(
        "--vocoder",
        type=os.path.expanduser,
        metavar="FILE",
        help="with --convert: put its vocoder into an MSG-LD model",
    )
    parser.add_argument("--force", action="store_true", help="with --convert: write over an existing file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the configuration")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would happen, do nothing")
    parser.add_argument("--strict", action="store_true", help="stop where the wanted accelerator is missing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, and more log lines")
    options = parser.parse_intermixed_args(arguments)
    if bool(options.convert) != bool(options.to):
        parser.error("--convert FILE and --to FILE belong together")
    if options.vocoder and not options.convert:
        parser.error("--vocoder FILE needs --convert")
    if options.overrides and not options.config:
        parser.error(f"{options.overrides[0]!r}: key=value needs --config")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status: 0, 2 for bad input, which is told in one line, 130 or 143 after a signal."""
    from utilities.signals import StoppedError, leave_at_once, listening, stop

    options = parse_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files may be in any encoding
    try:
        with listening(leave_at_once):  # after --help, which should not wait for libraries
            _load_libraries(options)
        with listening(stop), _logging(logging.DEBUG if options.debug else logging.INFO):
            _carry_out(options)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except MSGLDError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _load_libraries(options: argparse.Namespace) -> None:
    if options.config:
        importlib.import_module("utilities.plan" if options.dry_run else "utilities.runs")
    else:
        importlib.import_module("utilities.weights")


@contextmanager
def _logging(level: int) -> Iterator[None]:
    """The project's log lines from a level on; after the block as before, for who calls `main` from Python."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    loggers = [logging.getLogger(package) for package in ("utilities", "latent_diffusion", "data")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, former in zip(loggers, before, strict=True):
            logger.setLevel(former)


def _carry_out(options: argparse.Namespace) -> None:
    """Do what was asked for; raises `MSGLDError`s."""
    if options.inspect or options.convert:
        from utilities import weights

        old, new = ("inspect", "inspect FILE") if options.inspect else ("convert", "convert FILE --to FILE")
        print(f"note: --{old} FILE is now the command `msgld {new}`", file=sys.stderr)
        chosen = (options.convert, options.to, options.weights, options.half, options.force, options.vocoder)
        print(weights.describe_weights(options.inspect) if options.inspect else weights.convert(*chosen))
        return
    from utilities.config import load_config

    config = load_config(options.config, options.overrides, strict=options.strict)
    if options.dry_run:
        from utilities.plan import describe

        print(describe(config))
        return
    from utilities.report.listing import what_to_open
    from utilities.runs import run

    folder = run(config)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:  # one of several processes speaks for all
        print("\n".join([f"run folder: {folder}", *what_to_open(folder)]))


if __name__ == "__main__":
    sys.exit(main())

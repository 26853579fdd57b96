"""The command line of MSG-LD: `python train_musicldm.py --config FILE [key=value ...]`."""

from __future__ import annotations

import argparse
import logging
import sys

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
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML configuration")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the configuration")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print what would happen, do nothing")
    parser.add_argument("--strict", action="store_true", help="stop where the wanted accelerator is missing")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, and more log lines")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status: 0, or 2 for bad input, which is told in one line."""
    options = parse_arguments(arguments)
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    for package in ("utilities", "latent_diffusion", "data"):
        logging.getLogger(package).setLevel(level)
    try:
        from utilities.config import load_config  # after --help, which should not wait for it

        config = load_config(options.config, options.overrides, strict=options.strict)
        if options.dry_run:
            from utilities.plan import describe

            print(describe(config))
        else:
            from utilities.runs import run

            print(f"results: {run(config)}")
    except MSGLDError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The `msgld` command: its help, its errors and its exit status. The other modules here hold what it does."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading

from latent_diffusion import __version__
from latent_diffusion.errors import MSGLDError
from latent_diffusion.models import names_here

from . import latents, results, songs, weights
from .arguments import Parser

DESCRIPTION = """\
Separate songs into stems, generate new ones, or make the missing stems of one, with a trained MSG-LD model.

  msgld separate song.mp3 album/ --out stems
  msgld generate --seconds 60 --seed 7
  msgld arrange --given stems/song --make drums,bass --model model.safetensors

`msgld COMMAND --help` lists the options of a command. To train a model, see train_musicldm.py in a clone.
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with status 2 on bad use."""
    parser = Parser(
        prog="msgld",
        description=DESCRIPTION,
        epilog=f"Models known by name (--model): {names_here()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"msgld {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (songs, results, weights, latents):
        group.add_commands(commands)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status: 0, 1 where some files failed, 2 for bad use or input, told in one line."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(levelname)s: %(message)s")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names may be in any encoding
    if threading.current_thread() is threading.main_thread():
        for ending in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(ending) == signal.SIG_DFL:  # nohup has it ignored
                signal.signal(ending, signal.default_int_handler)  # tidies up, as after Ctrl-C
    try:
        return options.run(options)
    except MSGLDError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if options.debug:
            raise
        print(f"error: {error.filename or 'files'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing half-written is left behind", file=sys.stderr)
        return 130

"""`msgld inspect` and `convert`: what a weights file is, and the same weights in another format."""

from __future__ import annotations

import argparse

from .arguments import given_name


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register the commands with the parser of `msgld`; each sets `run`, called with the options."""
    inspect = commands.add_parser("inspect", help="say what a weights file is, and which configuration fits it")
    inspect.description = "Prints the facts of a weights file and the YAML that fits it. Reads the file's header only."
    inspect.add_argument("file", type=given_name, metavar="FILE", help="a .safetensors or .ckpt file")
    inspect.set_defaults(run=_inspect)

    convert = commands.add_parser("convert", help="write a weights file in another format")
    convert.description = "Writes the weights of FILE to another file. FILE stays as it is."
    add = convert.add_argument
    add("file", type=given_name, metavar="FILE", help="a .safetensors or .ckpt file")
    formats = "NAME.safetensors writes the format of this project, NAME.ckpt the published layout"
    add("--to", type=given_name, required=True, metavar="FILE", help=formats)
    keep = "both keeps every tensor (default); ema keeps only the averaged network, and raw only the network as "
    keep += "trained, which is enough for inference and makes a smaller file"
    add("--weights", choices=("both", "ema", "raw"), default="both", help=keep)
    half = "store the networks in 16 bit: half the size, read as 32 bit, less exact"
    add("--half", action="store_true", help=half)
    add("--vocoder", type=given_name, metavar="FILE", help="put the vocoder of this file into an MSG-LD model")
    add("--force", action="store_true", help="replace the file if it exists")
    convert.set_defaults(run=_convert)
    for command in (inspect, convert):
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")


def _inspect(options: argparse.Namespace) -> int:
    from ..weights import describe_weights

    print(describe_weights(options.file))
    return 0


def _convert(options: argparse.Namespace) -> int:
    from ..weights import convert

    print(convert(options.file, options.to, options.weights, options.half, options.force, options.vocoder))
    return 0

"""The `msgld` command: songs in, stems out. Also `python -m utilities.cli`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path

from latent_diffusion.errors import ConfigError, MSGLDError
from latent_diffusion.models import DEFAULT_MODEL, names_here
from latent_diffusion.plan import Plan
from utilities.arguments import Parser, given_name, given_path
from utilities.cli_results import add_commands

SAMPLING = (  # options that are fields of `SamplingSettings`
    *("sampler", "steps", "eta", "batch_size", "overlap", "average", "passes", "spacing"),
    *("guidance_interval", "precision"),
)
DESCRIPTION = """\
Take songs apart, make new ones, or make the missing stems of one, with a trained MSG-LD model.

  msgld separate song.mp3 album/ --out stems
  msgld generate --seconds 60 --seed 7
  msgld arrange --given stems/song --make drums,bass --model model.safetensors

`msgld COMMAND --help` lists a command's options. Training: train_musicldm.py.
"""


def guidance(text: str) -> float | dict[str, float]:
    """A guidance scale as typed: `2`, or `bass=2,drums=0.5`."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [(name.strip(), float(value)) for name, value in (part.split("=") for part in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number, or bass=2,drums=0.5") from None
    if len(dict(pairs)) < len(pairs):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected each stem once")
    return dict(pairs)


def names(text: str) -> list[str]:
    """Names separated by commas."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected names, for example drums,bass")
    return found


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; argparse itself exits with status 2 on bad use."""
    parser = Parser(
        prog="msgld",
        description=DESCRIPTION,
        epilog=f"Models known by name (--model): {names_here()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    separate = commands.add_parser("separate", help="take songs apart: OUT/<song>/<stem>.wav")
    separate.add_argument(
        "inputs", nargs="+", type=given_name, metavar="FILE_OR_FOLDER", help="audio files; folders are searched"
    )
    separate.add_argument(
        "--refine",
        choices=("mask", "none"),
        default="mask",
        help="mask (default): stems are cut out of the recording itself, at its rate and channels, and sum to it; "
        "none: what the vocoder makes, mono at the model's rate",
    )
    separate.add_argument(
        "--mask-exponent",
        "--mask-power",
        type=float,
        metavar="P",
        help="of the magnitudes that masks compare; more decides harder (default: 2, with --sampler mean 1.2)",
    )
    separate.add_argument(
        "--mask-rounds",
        type=int,
        default=2,
        metavar="N",
        help="in which tones and drum hits within a mel band are told apart; 0: not at all (default: %(default)s)",
    )
    separate.add_argument(
        "--average", type=int, metavar="K", help="mean of K results, for the masks (default: 1, with --sampler mean 4)"
    )
    separate.add_argument(
        "--passes",
        type=int,
        metavar="N",
        help="2 looks again at what the first result cuts out (default: 1, with --sampler mean 2)",
    )
    generate = commands.add_parser("generate", help="make a piece from nothing: OUT/generated_<seed>/<stem>.wav")
    generate.add_argument("--seconds", type=float, help="length of what is made (default: one window of the model)")
    generate.add_argument(
        "--continue",
        dest="continued",
        type=given_path,
        metavar="FILE_OR_FOLDER",
        help="begin with this and go on from it: a song, which is separated first, or a folder with all <stem>.wav; "
        "OUT/<name>_continued_<seed>/<stem>.wav",
    )
    arrange = commands.add_parser("arrange", help="make stems for given ones: OUT/<folder's name>/<stem>.wav")
    arrange.add_argument(
        "--given",
        nargs="+",
        required=True,
        type=given_name,
        metavar="DIR_OR_FILES",
        help="<stem>.wav files, or folders with such",
    )
    generate.add_argument(
        "--free",
        action="store_true",
        help="follow no plan, as published (default: a tempo and four chords, drawn from the seed)",
    )
    for command in (generate, arrange):
        _add_plan(command)
    arrange.add_argument("--make", type=names, metavar="STEM,...", help="what to make (default: all not given)")
    for command in (separate, generate, arrange):
        _add_common(command)
    separate.set_defaults(guidance=1.0)
    add_commands(commands)
    arrange.set_defaults(guidance=0.0)
    return parser.parse_args(arguments)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    """Options that say what beat and chords are followed."""
    parser.add_argument("--tempo", type=float, metavar="BPM", help="beats a minute that are followed, steady")
    parser.add_argument(
        "--chords",
        type=str.split,
        default=[],
        metavar="'Am F C G'",
        help="chords to follow, one for each bar, repeated",
    )
    parser.add_argument(
        "--beats-per-bar", type=int, default=4, metavar="N", help="beats of a bar, with --tempo (default: %(default)s)"
    )
    parser.add_argument(
        "--first-beat", type=float, default=0.0, metavar="S", help="when the first bar begins, seconds (default: 0)"
    )


def _plan(options: argparse.Namespace) -> Plan | None:
    """The plan that was asked for; None for none."""
    if options.tempo is None:
        if options.chords:
            raise ConfigError("--chords: found without --tempo, which says how long a bar lasts; give both")
        return None
    return Plan(options.tempo, tuple(options.chords), options.beats_per_bar, options.first_beat)


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    parser.add_argument(
        "--out", type=given_path, default=Path("msgld_out"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument(
        "--model",
        type=given_name,
        default=DEFAULT_MODEL,
        metavar="NAME_OR_PATH",
        help="a name (msgld --help lists them), a weights file, or the folder of a run (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="denoising steps; more are slower (default: 25 for the shipped model and its kind, 50 for others)",
    )
    parser.add_argument(
        "--sampler",
        help="ddim (default), ddpm, plms, dpm++, dpm++sde or unipc; separate: mean, too, the expected stems in one "
        "network call, and the default for masks unless the model predicts noise",
    )
    parser.add_argument(
        "--spacing",
        help="of the steps: uniform, trailing, logsnr or karras (default: what suits sampler and model)",
    )
    parser.add_argument("--eta", type=float, help="ddim: 0 deterministic (default) to 1 ancestral")
    if not parser.prog.endswith("generate"):
        parser.add_argument(
            "--guidance",
            type=guidance,
            metavar="SCALE",
            help="how closely the mixture is followed: a number, or one a stem: bass=2,drums=0.5",
        )
        parser.add_argument(
            "--guidance-interval",
            type=float,
            nargs=2,
            metavar=("LOW", "HIGH"),
            help="the part of the schedule, 0 clean to 1 noise, on which guidance counts (default: all of it)",
        )
    parser.add_argument("--precision", help="of the denoising network: float32 (default) or bfloat16, quicker")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same output (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: a GPU where there is one)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="windows at once (default: 4)")
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="PART",
        help="of a window that neighbours share and blend (default: 0.25); 0 cuts side by side",
    )
    parser.add_argument(
        "--format", choices=("wav", "flac"), default="wav", help="32-bit float wav (default), 24-bit flac"
    )
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave out what is there already, as long as it should be"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error, and more log lines")


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
        if "run" in options:  # evaluate, compare, report
            return options.run(options)
        return {"separate": _separate, "generate": _generate, "arrange": _arrange}[options.command](options)
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


def _check(options: argparse.Namespace) -> dict:
    """The options that every command hands on, and those of sampling; checked before a model is loaded."""
    from latent_diffusion.diffusion import SAMPLERS, SPACINGS
    from latent_diffusion.inference.results import POSTERIOR_MEAN, SamplingSettings

    samplers = [*SAMPLERS, *([POSTERIOR_MEAN] if options.command == "separate" else [])]
    if options.sampler not in (None, *samplers):
        raise ConfigError(f"--sampler: found {options.sampler!r}, expected one of {', '.join(samplers)}")
    if options.spacing not in (None, *SPACINGS):
        raise ConfigError(f"--spacing: found {options.spacing!r}, expected one of {', '.join(SPACINGS)}")
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"--steps: found {options.steps}, expected at least 1")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out: {options.out}: is a file; expected a folder, or nothing")
    asked = {name: getattr(options, name, None) for name in SAMPLING}
    asked = {name: value for name, value in asked.items() if value is not None}
    SamplingSettings(**asked)
    return {
        "asked": asked,
        "out": options.out,
        "seed": options.seed,
        "kind": options.format,
        "skip_existing": options.skip_existing,
        "quiet": options.quiet,
    }


def _separate(options: argparse.Namespace) -> int:
    from latent_diffusion.tasks import MaskSettings
    from utilities.songs import Tally, find_songs, load_model, separate_songs

    common, tally = _check(options), Tally()
    masks = MaskSettings(options.refine, options.mask_exponent, options.mask_rounds)
    songs = find_songs(options.inputs, options.out, tally)
    if not songs and not tally.failed:
        raise ConfigError(f"{', '.join(options.inputs)}: expected audio files, found none")
    if songs:
        pipeline = load_model(options.model, options.device)
        common["sampling"] = pipeline.suited_sampling(options.refine, **common.pop("asked"))
        try:
            separate_songs(
                pipeline,
                songs,
                tally=tally,
                guidance=options.guidance,
                masks=masks,
                **common,
            )
        except KeyboardInterrupt:
            print(tally.summary())
            raise
    print(f"{tally.summary()}\nstems lie in {options.out}" if tally.written else tally.summary())
    return 1 if tally.failed else 0


def _generate(options: argparse.Namespace) -> int:
    from utilities.songs import describe, generate_song, load_model

    common, plan = _check(options), _plan(options)
    if options.free:
        if plan is not None:
            raise ConfigError("--free: found beside --tempo; give one of them")
        plan = Plan()
    pipeline = load_model(options.model, options.device)
    common["sampling"] = pipeline.suited_sampling(**common.pop("asked"))
    made = generate_song(pipeline, seconds=options.seconds, continued=options.continued, plan=plan, **common)
    followed = None if options.continued else pipeline.plan_for(plan, options.seed)
    print(describe(made) + ("" if followed is None else f"\nplan: {followed}"))
    return 0


def _arrange(options: argparse.Namespace) -> int:
    from utilities.songs import arrange_song, describe, load_model

    common, plan = _check(options), _plan(options)
    pipeline = load_model(options.model, options.device)
    common["sampling"] = pipeline.suited_sampling(**common.pop("asked"))
    how = {"make": options.make, "guidance": options.guidance, "plan": plan}
    print(describe(arrange_song(pipeline, options.given, **how, **common)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

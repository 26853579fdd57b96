"""`msgld separate`, `generate` and `arrange`: songs in, stems out."""

from __future__ import annotations

import argparse
from pathlib import Path

from latent_diffusion.errors import ConfigError
from latent_diffusion.models import DEFAULT_MODEL
from latent_diffusion.plan import Plan

from .arguments import given_name, given_path, guidance, names

SAMPLING = (  # options that are fields of `SamplingSettings`
    *("sampler", "steps", "eta", "batch_size", "overlap", "average", "passes", "spacing"),
    *("guidance_interval", "precision"),
)


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register the commands with the parser of `msgld`; each sets `run`, called with the options."""
    separate = commands.add_parser("separate", help="separate songs into stems: OUT/<song>/<stem>.wav")
    _add_separation(separate)
    separate.set_defaults(run=_separate, guidance=1.0)

    generate = commands.add_parser("generate", help="make a new piece: OUT/generated_<seed>/<stem>.wav")
    _add_generation(generate)
    generate.set_defaults(run=_generate)

    arrange = commands.add_parser("arrange", help="make the stems that are missing: OUT/<folder's name>/<stem>.wav")
    _add_arrangement(arrange)
    arrange.set_defaults(run=_arrange, guidance=0.0)

    for command in (separate, generate, arrange):
        _add_sampling(command)
        if command is not generate:
            _add_guidance(command, "1" if command is separate else "0")
        _add_common(command)


def _add_separation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    files = "audio files, or folders of them, which are searched with all their sub-folders"
    add("inputs", nargs="+", type=given_name, metavar="FILE_OR_FOLDER", help=files)
    add(
        "--refine",
        choices=("mask", "none"),
        default="mask",
        help="mask cuts the stems out of the recording: they keep its rate and channels and add up to it (default); "
        "none writes what the vocoder makes: mono, at the rate of the model",
    )
    add(
        "--mask-exponent",
        "--mask-power",
        type=float,
        metavar="P",
        help="power that the magnitudes of the stems are raised to before they are compared. A higher power separates "
        "harder and leaves more artefacts (default: 2, or 1.2 with the sampler mean)",
    )
    add(
        "--mask-rounds",
        type=int,
        default=2,
        metavar="N",
        help="times that the masks are filtered to tell drum hits from tones; each takes time; 0 turns it off "
        "(default: %(default)s)",
    )
    add(
        "--average",
        type=int,
        metavar="K",
        help="separations to average. More is smoother and K times as slow (default: 1, or 4 with the sampler mean)",
    )
    add(
        "--passes",
        type=int,
        metavar="N",
        help="times that the network looks at the song. Each one after the first starts from the stems so far, and "
        "takes another network call for each separation (default: 1, or 2 with the sampler mean)",
    )


def _add_generation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    length = "length in seconds; time and file size grow with it (default: one window of the model)"
    add("--seconds", type=float, metavar="S", help=length)
    add(
        "--continue",
        dest="continued",
        type=given_path,
        metavar="FILE_OR_FOLDER",
        help="begin with this music and go on from it: a song, which is separated first, or a folder with a "
        "<stem>.wav for each stem. Writes OUT/<name>_continued_<seed>/<stem>.wav",
    )
    free = "follow no tempo and no chords, as published (default: follow a tempo and four chords drawn from the seed)"
    add("--free", action="store_true", help=free)
    _add_plan(parser)


def _add_arrangement(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    given = "<stem>.wav files, or folders that hold them"
    add("--given", nargs="+", required=True, type=given_name, metavar="FILE_OR_FOLDER", help=given)
    add("--make", type=names, metavar="STEM,...", help="stems to make (default: all that are not given)")
    _add_plan(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    """Options that say which beat and chords the music follows."""
    add = parser.add_argument
    add("--tempo", type=float, metavar="BPM", help="steady tempo to follow, in beats per minute")
    chords = "chords to follow, one per bar, repeated to the end; needs --tempo"
    add("--chords", type=str.split, default=[], metavar="'Am F C G'", help=chords)
    beats = "beats per bar, with --tempo (default: %(default)s)"
    add("--beats-per-bar", type=int, default=4, metavar="N", help=beats)
    first = "time of the first beat of a bar, in seconds, with --tempo (default: 0)"
    add("--first-beat", type=float, default=0.0, metavar="S", help=first)


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    """Options that say how the network is sampled."""
    add = parser.add_argument
    steps = (
        "denoising steps. More takes longer in proportion, and follows the sampler's equation more closely (default: "
    )
    add("--steps", type=int, metavar="N", help=f"{steps}25 for the shipped model and its kind, 50 for others)")
    samplers = "ddim (default), ddpm, plms, dpm++, dpm++sde or unipc"
    if parser.prog.endswith("separate"):
        samplers += (
            "; or mean, which predicts the expected stems in one network call and is the default for masks unless the "
            "model predicts noise"
        )
    add("--sampler", metavar="NAME", help=samplers)
    spacing = "where the steps lie: uniform, trailing, logsnr or karras (default: what suits sampler and model)"
    add("--spacing", metavar="NAME", help=spacing)
    eta = "noise that ddim adds at each step, from 0, none (default), to 1, as much as ddpm"
    add("--eta", type=float, metavar="E", help=eta)
    add(
        "--precision",
        metavar="TYPE",
        help="of the network: float32 (default), or bfloat16, which is faster on most GPUs",
    )
    batch = "windows in one network call. More is faster on a GPU and takes more memory (default: 4)"
    add("--batch-size", type=int, metavar="N", help=batch)
    overlap = "part of a window that it shares with the next one, from 0 to 0.9. More makes smoother joints and takes "
    add(
        "--overlap",
        type=float,
        metavar="PART",
        help=f"{overlap}more windows; 0 joins them without a blend (default: 0.25)",
    )


def _add_guidance(parser: argparse.ArgumentParser, default: str) -> None:
    """Options that say how closely the mixture is followed; `default` is the scale that the command sets."""
    add = parser.add_argument
    scale = (
        "how closely the mixture is followed: a number, or one per stem, as in bass=2,drums=0.5. Any other than 0 and "
    )
    add(
        "--guidance",
        type=guidance,
        metavar="SCALE",
        help=f"{scale}1 doubles the work of the network (default: {default})",
    )
    interval = (
        "part of the noise schedule that --guidance applies to, from 0, clean, to 1, noise; outside it the scale "
    )
    interval += "is 1 (default: 0 1)"
    add("--guidance-interval", type=float, nargs=2, metavar=("LOW", "HIGH"), help=interval)


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options that say which model works, where, and what is written."""
    add = parser.add_argument
    out = "folder for the results (default: %(default)s)"
    add("--out", type=given_path, default=Path("msgld_out"), metavar="FOLDER", help=out)
    model = "a name that msgld --help lists, a weights file, or the folder of a run (default: %(default)s)"
    add("--model", type=given_name, default=DEFAULT_MODEL, metavar="NAME_OR_PATH", help=model)
    add("--seed", type=int, default=0, metavar="N", help="the same seed gives the same result (default: %(default)s)")
    add("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    kinds = "wav is 32-bit float (default); flac is 24-bit, takes less room, and clips what is beyond full scale"
    add("--format", choices=("wav", "flac"), default="wav", help=kinds)
    existing = "leave out what exists already with the right length; other options are not compared"
    add("--skip-existing", action="store_true", help=existing)
    add("--quiet", action="store_true", help="show no progress bars")
    add("--debug", action="store_true", help="show the traceback of an error, and more log lines")


def _plan(options: argparse.Namespace) -> Plan | None:
    """The plan that was asked for; None for none."""
    if options.tempo is None:
        if options.chords:
            raise ConfigError("--chords: found without --tempo, which says how long a bar lasts; give both")
        return None
    return Plan(options.tempo, tuple(options.chords), options.beats_per_bar, options.first_beat)


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

    from ..songs import Tally, find_songs, load_model, separate_songs

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
    from ..songs import describe, generate_song, load_model

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
    from ..songs import arrange_song, describe, load_model

    common, plan = _check(options), _plan(options)
    pipeline = load_model(options.model, options.device)
    common["sampling"] = pipeline.suited_sampling(**common.pop("asked"))
    how = {"make": options.make, "guidance": options.guidance, "plan": plan}
    print(describe(arrange_song(pipeline, options.given, **how, **common)))
    return 0

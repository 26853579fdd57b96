"""`msgld latents`: encode the training data once, before a training that reads latents."""

from __future__ import annotations

import argparse
import logging

from latent_diffusion.errors import ConfigError

from .arguments import given_name


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register the command with the parser of `msgld`; it sets `run`, called with the options."""
    latents = commands.add_parser("latents", help="encode training data once, so that training need not")
    latents.description = (
        "Encodes the training tracks that the folder data.params.latent_cache lacks. A training does this by itself; "
        "with this command it can be done before, and by several processes or machines at once. It may be stopped at "
        "any time."
    )
    add = latents.add_argument
    add("--config", type=given_name, metavar="FILE", required=True, help="YAML configuration of an MSG-LD model")
    add("overrides", nargs="*", metavar="key=value", help="override a key of the configuration")
    workers = "processes that encode; each holds the encoder in memory (default: %(default)s)"
    add("--workers", type=int, default=1, metavar="N", help=workers)
    check = "also measure how far random crops of the result are from windows that are encoded alone"
    add("--check", action="store_true", help=check)
    add("--debug", action="store_true", help="show the traceback of an error, and more log lines")
    latents.set_defaults(run=_latents)


def _latents(options: argparse.Namespace) -> int:
    from latent_diffusion.first_stage import FirstStage

    from ..building import encoding_device, load_first_stage_encoder
    from ..config import latent_cache, load_config, model_settings
    from ..data.latent_check import compare, report
    from ..data.latents import TrackEncoder, build, latent_store
    from ..data.stems import StemDataset

    if not options.debug:
        logging.getLogger(__name__.partition(".")[0]).setLevel(logging.INFO)
    if options.workers < 1:
        raise ConfigError(f"--workers: found {options.workers}, expected 1 or more")
    config = load_config(options.config, options.overrides)
    folder, given = latent_cache(config), config.data.params.path.train_data
    if folder is None:
        raise ConfigError(
            f"{options.config}: data.params.latent_cache: found nothing, expected the folder to keep latents in"
        )
    if not given:
        raise ConfigError(f"{options.config}: data.params.path.train_data: found nothing, expected a folder of tracks")
    settings = model_settings(config)
    dataset = StemDataset(given, settings.stems, settings.mel, shift=True)
    first_stage = FirstStage(settings)
    load_first_stage_encoder(config, first_stage)
    encoder = TrackEncoder(first_stage, encoding_device(config))
    store = latent_store(encoder, dataset.stems, folder)
    failed = build(store, encoder, dataset.tracks, options.workers)
    print(f"latent cache: {store.folder}, {len(dataset.tracks) - len(failed)} tracks")
    if options.check:
        usable = [track for track in dataset.tracks if track.name not in failed]
        print(report(compare(store, encoder, usable)))
    return 0

"""`msgld evaluate`, `compare` and `report`: scores of results that exist, and pages about them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from latent_diffusion.errors import ConfigError

from .arguments import given_name, given_path

TASKS = ("separation", "generation", "arrangement")
_SHOWN_PROBLEMS = 8


_DESCRIPTIONS = {
    "evaluate": "Compares stems with references, and writes metrics.json (means with 95 % intervals) and, if items "
    "pair, metrics.csv (a row for each item and stem). A folder holds <track>/<stem>.wav, or is the folder of a run. "
    "Sound files may have any format and rate.",
    "compare": "Compares the scores of two systems on the items and stems that both have, and writes a page with the "
    "differences and their 95 % intervals.",
    "report": "Writes one HTML file with players, spectrograms and, for a run, scores and training curves. It opens in "
    "a browser without a server or a network.",
}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register the commands with the parser of `msgld`; each sets `run`, called with the options."""
    evaluate = commands.add_parser("evaluate", help="score the stems of any system against references")
    compare = commands.add_parser("compare", help="compare the scores of two systems item by item")
    report = commands.add_parser("report", help="write a page to hear and see a run, or any folder of stems")
    add, folder = evaluate.add_argument, {"type": given_path, "metavar": "DIR"}
    add("--est", required=True, **folder, help="the stems to score (estimates)")
    add("--ref", **folder, help="the true stems (default: the targets that the run has written)")
    mixture = "the mixtures that were separated: <track>.wav or <track>/mix.wav"
    add("--mixture", **folder, help=f"{mixture} (default: the references' mix, or else the sum of their stems)")
    add("--out", **folder, help="where the scores are written (default: EST/evaluation)")
    tasks = "separation scores each stem against its reference; generation compares whole sets, whose items need not "
    tasks += "pair; arrangement compares sets of items that pair (default: the run's task, or else separation)"
    add("--task", choices=TASKS, help=tasks)
    embeddings = "features of the Frechet audio distance: log_mel, clap, or clap:FOLDER with CLAP's weights. clap "
    embeddings += "follows what is heard more closely, and is slower (default: log_mel)"
    add("--embedding", default="log_mel", metavar="NAME", help=embeddings)
    add("--download", action="store_true", help="allow downloading the weights of the embedding")
    chunk = "seconds of a chunk of msdm_si_sdri; other values cannot be compared with papers (default: 4)"
    add("--chunk", type=float, default=4.0, metavar="S", help=chunk)
    add("--overlap", type=float, default=2.0, metavar="S", help="seconds that two chunks share (default: 2)")
    add("--report", action="store_true", help="also write report.html, a page to hear and see the results")
    add("--quiet", action="store_true", help="show no progress bar")

    compare.add_argument("first", type=given_name, metavar="A", help="a run's folder, or one that evaluate wrote")
    compare.add_argument("second", type=given_name, metavar="B", help="the same of the other system")
    page = {"type": given_path, "metavar": "FILE"}
    compare.add_argument("--out", default=Path("compare.html"), **page, help="the page (default: %(default)s)")

    report.add_argument("folder", **folder, help="a run's folder, or <track>/<stem>.wav")
    report.add_argument("--ref", **folder, help="references to hear beside the stems; a run has its own targets")
    report.add_argument("--mixture", **folder, help=mixture)
    report.add_argument("--out", **page, help="the page (default: DIR/report.html)")

    for command in (evaluate, report):
        items = "items that can be heard on the page; more make a larger file with more compressed sound (default: 20)"
        command.add_argument("--items", type=int, metavar="N", help=items)
    for command in (evaluate, compare):
        command.add_argument("--seed", type=int, default=0, help="seed of the resampling for intervals (default: 0)")
    for command in (compare, report):
        command.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)  # they show no progress
    for name, run in {"evaluate": _evaluate, "compare": _compare, "report": _report}.items():
        command = commands.choices[name]
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=run)
        command.description = _DESCRIPTIONS[name]


def _evaluate(options: argparse.Namespace) -> int:
    from ..evaluation.evaluate import Options, evaluate
    from ..evaluation.folders import newest_results
    from ..evaluation.metrics import write_metrics
    from ..evaluation.scores import score_table, write_rows

    items = _items(options)
    if options.items is not None and not options.report:
        raise ConfigError("--items: has no effect without --report; leave it out, or add --report")
    if not 0 <= options.overlap < options.chunk:
        raise ConfigError(f"--overlap: found {options.overlap:g}, expected less than --chunk ({options.chunk:g} s)")
    chosen = Options(
        options.task, options.embedding, options.download, options.chunk, options.overlap, options.seed, options.quiet
    )
    found = evaluate(options.est, options.ref, options.mixture, chosen)
    out = options.out or (newest_results(options.est) or options.est) / "evaluation"

    def write() -> None:
        write_metrics(out / "metrics.json", found.metrics)
        if found.rows:
            write_rows(out / "metrics.csv", found.rows)
        if options.report:
            from ..report.collect import evaluation_page
            from ..report.render import write_page

            write_page(out / "report.html", evaluation_page(found, options.est, items))

    _writing(out, write)
    print(f"{found.metrics['task']}: {found.metrics['items']} items of {found.metrics['tracks']} tracks")
    print(score_table(found.metrics))
    if found.problems:
        print(f"\n{len(found.problems)} notes, all of them in {out / 'metrics.json'}:")
        print("\n".join(f"  {line[:200]}" for line in found.problems[:_SHOWN_PROBLEMS]))
    print(f"\nwritten to {out}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from ..evaluation.compare import compare, comparison_table, read_scored
    from ..report.render import write_comparison

    first, second = read_scored(options.first), read_scored(options.second)
    differences = compare(first, second, options.seed)
    _writing(options.out, lambda: write_comparison(options.out, first, second, differences))
    print(comparison_table(first, second, differences))
    print(f"\npage: {options.out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from ..report.collect import report_page
    from ..report.render import write_page

    out = options.out or options.folder / "report.html"
    page = report_page(options.folder, options.ref, options.mixture, _items(options))
    _writing(out, lambda: write_page(out, page))
    print(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _items(options: argparse.Namespace) -> int:
    if options.items is not None and options.items < 0:
        raise ConfigError(f"--items: found {options.items}, expected 0 or more")
    return 20 if options.items is None else options.items


def _writing(out: Path, write: Callable[[], None]) -> None:
    """Write; a folder that cannot be written is the user's to mend."""
    try:
        write()
    except OSError as error:
        raise ConfigError(f"--out: {out}: cannot be written ({error.strerror or error})") from error

"""`msgld evaluate`, `compare` and `report`: numbers and pages about results that exist."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from latent_diffusion.errors import ConfigError

from .arguments import given_name, given_path

TASKS = ("separation", "generation", "arrangement")
_SHOWN_PROBLEMS = 8


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Register the commands with the parser of `msgld`; each sets `run`, called with the options."""
    evaluate = commands.add_parser("evaluate", help="score any system's stems: metrics.json, metrics.csv, a table")
    evaluate.add_argument(
        "--est", type=given_path, required=True, metavar="DIR", help="results: <track>/<stem>.wav, or a run's folder"
    )
    evaluate.add_argument(
        "--ref",
        type=given_path,
        metavar="DIR",
        help="the truth, laid out likewise (default: the targets beside a run)",
    )
    evaluate.add_argument(
        "--mixture",
        type=given_path,
        metavar="DIR",
        help="what was separated (default: the references' mix, or their sum)",
    )
    evaluate.add_argument("--out", type=given_path, metavar="DIR", help="default: EST/evaluation")
    evaluate.add_argument("--task", choices=TASKS, help="default: what the results say, else separation")
    evaluate.add_argument(
        "--embedding",
        default="log_mel",
        metavar="NAME",
        help="of the Frechet audio distance: log_mel (default), clap, or clap:FOLDER with its weights",
    )
    evaluate.add_argument("--download", action="store_true", help="an embedding's weights may be fetched")
    evaluate.add_argument("--chunk", type=float, default=4.0, metavar="S", help="of MSDM's protocol (default: 4)")
    evaluate.add_argument("--overlap", type=float, default=2.0, metavar="S", help="of its chunks (default: 2)")
    evaluate.add_argument("--report", action="store_true", help="write report.html, too")
    compare = commands.add_parser("compare", help="paired differences of two runs or evaluations, and a page")
    compare.add_argument("first", type=given_name, metavar="RUN_A", help="a run's folder, or one that evaluate wrote")
    compare.add_argument("second", type=given_name, metavar="RUN_B", help="likewise")
    compare.add_argument(
        "--out", type=given_path, default=Path("compare.html"), metavar="FILE", help="default: %(default)s"
    )
    report = commands.add_parser("report", help="a page to hear and see results: a run's, or any folder of stems")
    report.add_argument("folder", type=given_path, metavar="DIR", help="a run's folder, or <track>/<stem>.wav")
    report.add_argument("--ref", type=given_path, metavar="DIR", help="what it should have been, where there is such")
    report.add_argument("--mixture", type=given_path, metavar="DIR", help="what was separated")
    report.add_argument("--out", type=given_path, metavar="FILE", help="default: DIR/report.html")
    for command in (evaluate, report):
        command.add_argument("--items", type=int, default=20, metavar="N", help="heard on the page (default: 20)")
    for command, run in ((evaluate, _evaluate), (compare, _compare), (report, _report)):
        command.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
        command.add_argument("--quiet", action="store_true", help="no progress bars")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=run)


def _evaluate(options: argparse.Namespace) -> int:
    from .evaluation.evaluate import Options, evaluate
    from .evaluation.folders import newest_results
    from .evaluation.metrics import write_metrics
    from .evaluation.scores import score_table, write_rows

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
            from .report.collect import evaluation_page
            from .report.render import write_page

            write_page(out / "report.html", evaluation_page(found, options.est, options.items))

    _writing(out, write)
    print(f"{found.metrics['task']}: {found.metrics['items']} items of {found.metrics['tracks']} tracks")
    print(score_table(found.metrics))
    if found.problems:
        print(f"\n{len(found.problems)} notes, all in {out / 'metrics.json'}:")
        print("\n".join(f"  {line[:200]}" for line in found.problems[:_SHOWN_PROBLEMS]))
    print(f"\nwritten to {out}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from .evaluation.compare import compare, comparison_table, read_scored
    from .report.render import write_comparison

    first, second = read_scored(options.first), read_scored(options.second)
    differences = compare(first, second, options.seed)
    _writing(options.out, lambda: write_comparison(options.out, first, second, differences))
    print(comparison_table(first, second, differences))
    print(f"\npage: {options.out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from .report.collect import report_page
    from .report.render import write_page

    out = options.out or options.folder / "report.html"
    page = report_page(options.folder, options.ref, options.mixture, options.items)
    _writing(out, lambda: write_page(out, page))
    print(f"page: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _writing(out: Path, write: Callable[[], None]) -> None:
    """Write; a folder that cannot be written is the user's to mend."""
    try:
        write()
    except OSError as error:
        raise ConfigError(f"--out: {out}: cannot be written ({error.strerror or error})") from error

"""`attnviz runs …`: the saved runs of a folder; and `--save` of the commands that make a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.console import print_json, say
from attnviz.store import CATEGORIES, ENDING, KEPT, RunStore, StoredRun

if TYPE_CHECKING:
    from attnviz.session import TracedRun

FORMATS = ("auto", "run", "trajectory")


def add_save_options(parser: argparse.ArgumentParser) -> None:
    """Options of a command that makes a run."""
    # dest: nnsight gives every object a `save`, and argparse sets no default for what an object has already
    parser.add_argument(
        "--save", dest="to_be_saved", action="store_true", help="keep the run; `attnviz runs list` shows it"
    )
    parser.add_argument(
        "--category", default="", help=f"a label kept with the run: {', '.join(CATEGORIES)}, or one of your own"
    )
    parser.add_argument("--title", default="", help="of a saved run (the first line of the prompt)")


def save(run: TracedRun, options: argparse.Namespace) -> StoredRun | None:
    """Keep the run if that was asked for."""
    if not options.to_be_saved:
        return None
    store = RunStore()
    found = run.save(category=options.category, title=options.title, store=store)
    _tell(store)
    print(f"attnviz: saved run {found.id} in {store.folder} ({found.bytes:,} bytes)", file=sys.stderr)
    return found


def add_commands(parser: argparse.ArgumentParser) -> None:
    """`attnviz runs` and what can be done there."""
    commands = parser.add_subparsers(dest="do", required=True, metavar="DO")

    def command(name: str, act: Any, text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        added.set_defaults(act=act)
        added.add_argument("--folder", metavar="DIR", help="of the saved runs ($ATTNVIZ_HOME/runs, else ./runs)")
        return added

    listed = command("list", _list, "List saved runs, newest first.")
    listed.add_argument("--search", default="", metavar="TEXT", help="words that occur in prompt, answer or title")
    listed.add_argument("--category", default="", metavar="C", help="only of this category")
    listed.add_argument("--limit", type=int, default=KEPT, metavar="N", help=f"at most so many ({KEPT})")
    listed.add_argument("--all", action="store_const", const=0, dest="limit", help="all of them")
    listed.add_argument("--json", action="store_true", help="print JSON")

    shown = command("show", _show, "Print a saved run as JSON: what is known of it, and its tokens.")
    shown.add_argument("run", metavar="ID")

    compared = command(
        "compare", _compare, "Compare two saved runs by step: texts, evidence, and the difference B − A."
    )
    compared.add_argument("first", metavar="A")
    compared.add_argument("second", metavar="B")
    compared.add_argument("--effect", action="store_true", help="also what taking each source away does to each step")
    compared.add_argument("--out", metavar="F", help="F.html, .csv, .png, .svg or .json, instead of printing JSON")

    renamed = command("rename", _rename, "Give a saved run another title.")
    renamed.add_argument("run", metavar="ID")
    renamed.add_argument("title", metavar="TITLE")

    deleted = command("delete", _delete, "Delete saved runs and their files, for good.")
    deleted.add_argument("runs", metavar="ID", nargs="+")

    exported = command("export", _export, "Write a saved run to a file that can be sent and imported.")
    exported.add_argument("run", metavar="ID")
    exported.add_argument(
        "--out",
        metavar="PATH",
        required=True,
        help="F.safetensors: the run; F.json: its trajectory; a folder: its trajectory, entered in manifest.json",
    )
    exported.add_argument("--format", choices=FORMATS, default="auto", help="what is written (the ending of PATH says)")

    imported = command("import", _import, "Take in runs (.safetensors) and trajectories (.json), under new ids.")
    imported.add_argument("files", metavar="FILE", nargs="+")


# --------------------------------------------------------------------------------------------- commands


def _store(options: argparse.Namespace) -> RunStore:
    return RunStore(options.folder)


def _list(options: argparse.Namespace) -> None:
    store = _store(options)
    found = store.list(search=options.search, category=options.category, limit=options.limit)
    count = store.count()
    _tell(store)
    if options.json:
        print_json({"folder": str(store.folder), "runs": [run.to_jsonable() for run in found], "count": count})
        return
    for run in found:
        say(f"{run.id}  {run.created[:16].replace('T', ' ')}  {run.category:<10} {run.model:<16} {run.title}")
    hidden = count - len(found)
    if hidden and not (options.search or options.category):
        print(f"attnviz: {hidden} older runs are not listed; --all lists them", file=sys.stderr)
    if not count:
        print(
            f"attnviz: there are no saved runs in {store.folder}; `attnviz generate … --save` makes one",
            file=sys.stderr,
        )


def _show(options: argparse.Namespace) -> None:
    store = _store(options)
    found = store.find(options.run)
    run = store.read(options.run).run
    _tell(store)
    first = len(run.tokens) if run.generated_from is None else run.generated_from
    ids = run.tokens.ids.tolist()
    listed = [
        {"index": i, "id": ids[i], "label": label, "generated": i >= first} for i, label in enumerate(run.tokens.labels)
    ]
    print_json({**found.to_jsonable(), "generated_from": run.generated_from, "ended": run.ended, "token_list": listed})


def _compare(options: argparse.Namespace) -> None:
    from attnviz.registry import load_registry
    from attnviz.run_comparison import compare_runs
    from attnviz.session import Session

    store, session = _store(options), Session(load_registry())
    first, second = (session.reopen(store.read(run_id)) for run_id in (options.first, options.second))
    _tell(store)
    found = compare_runs(first, second, effect=options.effect)
    if options.out is None:
        say(found.to_json())
    else:
        print(f"attnviz: wrote {found.save(options.out)}", file=sys.stderr)


def _rename(options: argparse.Namespace) -> None:
    store = _store(options)
    found = store.rename(options.run, options.title)
    _tell(store)
    print(f"attnviz: {found.id} is now called {found.title!r}", file=sys.stderr)


def _delete(options: argparse.Namespace) -> None:
    store = _store(options)
    for run_id in options.runs:
        store.find(run_id)  # all or none
    for run_id in options.runs:
        store.delete(run_id)
    _tell(store)
    print(f"attnviz: deleted {len(options.runs)} runs", file=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    store, target = _store(options), Path(options.out)
    chosen = options.format
    if chosen == "auto":
        chosen = "run" if target.suffix.lower() == ENDING else "trajectory"
    if chosen == "run":
        written, problem = store.export(options.run, target), ""
    else:
        written, problem = _export_trajectory(store, options.run, target)
    _tell(store)
    if problem:
        print(f"attnviz: {problem}", file=sys.stderr)
    print(f"attnviz: wrote {written}", file=sys.stderr)


def _export_trajectory(store: RunStore, run_id: str, target: Path) -> tuple[Path, str]:
    from attnviz.recordings import recording_of, write_recording
    from attnviz.registry import load_registry
    from attnviz.session import Session

    about, saved = store.find(run_id), store.read(run_id)
    run = Session(load_registry()).reopen(saved)
    return write_recording(recording_of(run.run, run.model.card, run.attention, title=about.title), target)


def _import(options: argparse.Namespace) -> None:
    from attnviz.recordings import take_file

    store = _store(options)
    for name in options.files:
        for found in take_file(store, Path(name)):
            say(found.id)
    _tell(store)


def _tell(store: RunStore) -> None:
    """Repairs, to standard error."""
    while store.notices:
        print(f"attnviz: {store.notices.pop(0)}", file=sys.stderr)

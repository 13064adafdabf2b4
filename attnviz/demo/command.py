"""`attnviz demo`: questions of each category, or the held-out table."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from attnviz.agent.command import interruptible
from attnviz.demo import held_out
from attnviz.demo.questions import MODES, Answer, Bar, answers, chosen
from attnviz.errors import BadInput
from attnviz.session import LoadedModel, Session
from attnviz.store import RunStore


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command, beside those of a model."""
    parser.add_argument("--category", action="append", default=[], metavar="C", help="only this one; repeatable")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--agent", dest="modes", action="store_const", const=("agent",), help="with tools only")
    mode.add_argument("--plain", dest="modes", action="store_const", const=("plain",), help="without tools only")
    mode.add_argument("--both", dest="modes", action="store_const", const=MODES, help="both ways (the default)")
    parser.add_argument("--no-save", action="store_true", help="do not keep the runs; `attnviz runs list` shows them")
    parser.add_argument(
        "--held-out", type=int, metavar="N", help="instead: N problems it was never trained on, judged; prints a table"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be done, before a model is loaded.

    Raises:
        BadInput: an unknown category, or options that do not go together.
    """
    chosen(options.category)
    if options.held_out is None:
        return
    if options.held_out < len(held_out.KINDS):
        raise BadInput(f"--held-out: expected at least {len(held_out.KINDS)}, got {options.held_out}.")
    if options.category or options.modes:
        raise BadInput("--held-out: has problems of its own. Leave out --category, --agent, --plain and --both.")


def run(session: Session, model: LoadedModel, options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """What is to be printed, and the exit code: 130 after Ctrl-C, with what there was until then."""
    if options.held_out is not None:
        return _held_out(session, model, options.held_out)
    questions, modes = chosen(options.category), options.modes or MODES
    bar = Bar(sum(map(len, questions.values())) * len(modes))
    said = []
    store = None if options.no_save else RunStore()
    with interruptible() as given_up:
        for answer in answers(model, questions, modes, given_up.is_set):
            bar.step(f"{answer.category}, {answer.mode}: {answer.question}")
            said.append({**answer.to_jsonable(), **_saved(answer, store)})
    if store is not None:
        print(f"attnviz: saved {sum('saved' in answer for answer in said)} runs in {store.folder}", file=sys.stderr)
    failed = any("error" in answer for answer in said)
    return {"model": model.name, "runs": said}, 130 if given_up.is_set() else 2 if failed else 0


def _saved(answer: Answer, store: RunStore | None) -> dict[str, str]:
    """Keep the run of an answer under its category; its id."""
    if store is None or answer.run is None:
        return {}
    kept = answer.run.save(
        category=answer.category,
        title=f"{answer.question} ({answer.mode})",
        store=store,
        metadata={"mode": answer.mode},
    )
    return {"saved": kept.id}


def _held_out(session: Session, model: LoadedModel, n: int) -> tuple[dict[str, Any], int]:
    entry = session.registry.models.get("demo")
    if entry is None or model.spec.source != entry.source:
        raise BadInput("--held-out: the problems are those of the embedded model. Leave out --model, or give demo.")
    judged, bar = [], Bar(n)
    with interruptible() as given_up:
        for kind, problem in held_out.draw(n):
            if given_up.is_set():
                break
            judged.append(held_out.judge(model, kind, problem))
            bar.step(f"{kind}: {problem.question}")
    if not judged:
        return {"held_out": [], "required": held_out.REQUIRED, "wrong": []}, 130
    lines = held_out.rows(judged)
    print(f"\n{held_out.table(lines)}", file=sys.stderr)
    missed = not all(row.met for row in lines)
    return held_out.to_jsonable(judged), 130 if given_up.is_set() else 1 if missed else 0

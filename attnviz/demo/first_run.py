"""The saved run of the app's first screen: `python -m attnviz.demo.first_run` writes it from the shipped weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from attnviz.demo import LANGUAGE
from attnviz.runfile import SavedRun, write_run
from attnviz.session import Session, TracedRun

FILE = LANGUAGE.with_name("first_run.safetensors")
NEW_TOKENS = 40


def compute(session: Session) -> TracedRun:
    """The answer of the default model to its first example, as pressing Run gives it."""
    entry = next(e for e in session.registry.models.values() if e.default)
    question = [{"role": "user", "content": entry.examples[0][1]}]
    return session.load(entry.name).generate(messages=question, max_new_tokens=NEW_TOKENS)


def main(path: Path = FILE) -> None:
    """Compute and write, under the name of the menu: where the model lies is of this machine."""
    from attnviz.registry import load_registry

    done = compute(Session(load_registry(safe=True)))
    spec = replace(done.run.spec, source=done.model.name)
    run, card = replace(done.run, spec=spec), replace(done.model.card, name=done.model.name)
    write_run(path, SavedRun(run, card, done.captured))


if __name__ == "__main__":
    main()

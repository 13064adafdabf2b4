"""The Runs tab: saved runs, newest first; search, open, rename, delete, export, import; and the Save button's work."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from attnviz.errors import BadInput
from attnviz.recordings import recording_of, take_file, write_recording
from attnviz.session import Session, TracedRun
from attnviz.store import CATEGORIES, ENDING, RunStore, StoredRun
from attnviz.ui.background import in_words
from attnviz.ui.components.part import part, source
from attnviz.ui.files import file_value

TITLE, ID = "Runs", "runs"
LONGEST_FILE = 64 << 20
SAMPLE = 300
"""Characters of prompt and answer that the list shows."""
POLL_SECONDS = 2.0
"""How often an open list looks whether another process has saved something."""
FADES = "Here, runs are yours alone, and vanish when the Space restarts: export what you want to keep."
_OWNER = "owner"
_KEY = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Shelf:
    """The saved runs of the app.

    private  each browser sees its own runs only, as on a public Space; else everybody who reaches the app sees all
    """

    session: Session
    store: RunStore
    private: bool = False

    # ---- what the page asks for

    def version(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Differs whenever there is something new."""
        return {"version": self.store.version()}

    def listed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The runs that fit {"search", "category", "all"}."""
        version = self.store.version()
        category = _text(request, "category")
        owner = self._owner(request)
        limit = 0 if request.get("all") is True else None
        found = self.store.list(
            search=_text(request, "search"), category=category, limit=limit, owner=owner if self.private else None
        )
        notices, self.store.notices[:] = list(self.store.notices), []
        count = self.store.count(owner=owner if self.private else None)
        return {
            "version": version,
            "runs": [_line(run) for run in found],
            "count": count,
            "keep": self.store.keep,
            "notice": " ".join(notices),
        }

    def rename(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """{"id", "title"} -> {}."""
        self.store.rename(self._mine(request).id, _text(request, "title"))
        return {}

    def delete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """{"id"} -> {}."""
        self.store.delete(self._mine(request).id)
        return {}

    def export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """{"id", "format": "run" or "trajectory"} -> a file to download."""
        found = self.store.find(_text(request, "id"))
        name = "-".join(re.findall(r"[a-z0-9]+", found.title.lower()))[:40] or "run"
        with tempfile.TemporaryDirectory() as folder:
            if request.get("format") == "trajectory":
                run = self.session.reopen(self.store.read(found.id))
                recording = recording_of(run.run, run.model.card, run.attention, title=found.title)
                path, _ = write_recording(recording, Path(folder) / f"{name}.json")
                return file_value(path.name, "application/json", path.read_bytes())
            path = self.store.export(found.id, Path(folder) / f"{name}{ENDING}")
            return file_value(path.name, "application/octet-stream", path.read_bytes())

    def take(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """{"name", "base64"} of a file -> {"count"} of runs that were in it."""
        name, text = Path(_text(request, "name")).name, request.get("base64")
        if not isinstance(text, str) or len(text) > LONGEST_FILE * 4 // 3 + 4:
            raise BadInput(f"{name[:80]}: expected a file of at most {LONGEST_FILE >> 20} MiB.")
        try:
            content = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise BadInput(f"{name[:80]}: the file did not arrive whole. Try again.") from error
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / (re.sub(r"[^A-Za-z0-9._-]", "_", name)[-80:] or "file")
            path.write_bytes(content)
            about = self._about(request)
            try:
                return {"count": len(take_file(self.store, path, about))}
            except BadInput as error:
                raise BadInput(str(error).replace(f"{folder}/", "")) from error

    # ---- what the app asks for

    def keep(self, run: TracedRun, category: str, request: Mapping[str, Any]) -> StoredRun:
        """Save a run of a browser."""
        return run.save(category=category, store=self.store, metadata=self._about(request))

    def _about(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {_OWNER: self._owner(request)} if self.private else {}

    def _owner(self, request: Mapping[str, Any]) -> str:
        """Whose runs a browser's are: a hash of the key that it keeps. A browser without one owns nothing."""
        key = request.get("key")
        if not self.private:
            return ""
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise BadInput("This browser keeps no key, so its runs cannot be told from others'. Allow local storage.")
        return hashlib.sha256(key.encode()).hexdigest()

    def _mine(self, request: Mapping[str, Any]) -> StoredRun:
        """The run of a request, if this browser may change it; a stranger's is as unknown as none."""
        run_id = _text(request, "id")
        found = self.store.find(run_id)
        if self.private and found.metadata.get(_OWNER) != self._owner(request):
            self.store.find("")
        return found


def runs_list(shelf: Shelf) -> gr.HTML:
    """The list. Event `open` when a run is to be shown."""
    asked = [shelf.version, shelf.listed, shelf.rename, shelf.delete, shelf.export, shelf.take]
    names = ("runs_version", "runs_listed", "runs_rename", "runs_delete", "runs_export", "runs_take")
    functions = [_answering(function, name) for function, name in zip(asked, names, strict=True)]
    constants = {
        "categories": dict(CATEGORIES),
        "poll": POLL_SECONDS,
        "tab": TITLE,
        "folder": "" if shelf.private else str(shelf.store.folder.absolute()),
        "said": FADES if shelf.private else "",
        "largest": LONGEST_FILE,
    }
    return part(source("runs.js"), constants=constants, server_functions=functions, elem_id="app-runs")


def _answering(function: Any, name: str) -> Any:
    """The function under a name of its own, with errors as {"error": message}."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            if not isinstance(request, Mapping):
                raise BadInput("Expected one object.")
            return dict(function(request))
        except Exception as error:  # the boundary of the page
            return {"error": in_words(error)}

    answer.__name__ = name
    return answer


def _line(run: StoredRun) -> dict[str, Any]:
    """What the list shows of a run."""
    return {
        "id": run.id,
        "created": run.created,
        "title": run.title,
        "category": run.category,
        "model": run.model,
        "kind": run.kind,
        "tokens": run.tokens,
        "bytes": run.bytes,
        "prompt": _sample(run.prompt),
        "response": _sample(run.response),
    }


def _sample(text: str) -> str:
    return text if len(text) <= SAMPLE else f"{text[:SAMPLE]}…"


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name, "")
    if not isinstance(value, str):
        raise BadInput(f"{name}: expected a text, got {type(value).__name__}.")
    return value

"""Saved runs: a folder with one file per run, and an index to list and search them.

The file of a run holds everything, the index included, so the index can be made again from the files. A file is written
under another name, flushed and renamed before its row is written: a process that dies on the way leaves no row without
a file and no half file under a run's name. Several processes may save at once; nothing is overwritten.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from attnviz.errors import AttnvizError, BadInput, Unavailable
from attnviz.runfile import SavedRun, read_about, read_run, run_bytes

T = TypeVar("T")
HOME = "ATTNVIZ_HOME"
KEPT = 50
"""Runs that are listed unless more are asked for."""
INDEX, LOCK, ENDING = "index.sqlite3", "index.lock", ".safetensors"
PATIENCE = 30.0
"""Seconds to wait for another process that writes."""
SETTLED_SECONDS = 2 * PATIENCE
"""Age of a file from which on nobody is about to write its row."""
LEFTOVER_SECONDS = 24 * 3600
"""Age of half a file from which on it is removed."""
LONGEST_TITLE, LONGEST_CATEGORY, LONGEST_SEARCH = 200, 40, 10_000
WORDS_INDEXED = 16
"""Words of a search that are looked up in the index; the others are looked for in what it finds."""

CATEGORIES: Mapping[str, str] = MappingProxyType(
    {
        "Math": "#2563eb",
        "Knowledge": "#0f766e",
        "Reasoning": "#7c3aed",
        "Code": "#475569",
        "Creative": "#be185d",
        "Tool use": "#b45309",
        "ReAct": "#15803d",
        "Custom": "#6b7280",
    }
)
"""Category -> colour of its badge, on which white letters can be read. A category of one's own has that of Custom."""

_ID = re.compile(r"[0-9a-f]{24}")
_TEXTS = ("id", "created", "title", "category", "model", "kind", "provenance", "prompt", "response")
_COLUMNS = ("id", "created", "title", "category", "model", "kind", "tokens", "provenance", "prompt", "response")
_SCHEMA = """
BEGIN;
CREATE TABLE runs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, created TEXT NOT NULL, title TEXT NOT NULL,
    category TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, tokens INTEGER NOT NULL, provenance TEXT NOT NULL,
    prompt TEXT NOT NULL, response TEXT NOT NULL, bytes INTEGER NOT NULL, metadata TEXT NOT NULL
);
CREATE INDEX runs_created ON runs (created, number);
CREATE VIRTUAL TABLE runs_text USING fts5(
    prompt, response, title, content='runs', content_rowid='number', tokenize='trigram'
);
CREATE TRIGGER runs_added AFTER INSERT ON runs BEGIN
    INSERT INTO runs_text (rowid, prompt, response, title) VALUES (new.number, new.prompt, new.response, new.title);
END;
CREATE TRIGGER runs_deleted AFTER DELETE ON runs BEGIN
    INSERT INTO runs_text (runs_text, rowid, prompt, response, title)
    VALUES ('delete', old.number, old.prompt, old.response, old.title);
END;
CREATE TRIGGER runs_renamed AFTER UPDATE OF title ON runs BEGIN
    INSERT INTO runs_text (runs_text, rowid, prompt, response, title)
    VALUES ('delete', old.number, old.prompt, old.response, old.title);
    INSERT INTO runs_text (rowid, prompt, response, title) VALUES (new.number, new.prompt, new.response, new.title);
END;
PRAGMA user_version = 1;
COMMIT;
"""


@dataclass(frozen=True)
class StoredRun:
    """One line of the index.

    created   UTC, ISO 8601 with microseconds
    kind      "run", "agent" (a run with what an agent did), "trajectory" (read from such a file), or what else is kept
    bytes     of its file
    metadata  plain JSON, for whoever saves
    """

    id: str
    created: str
    title: str
    category: str
    model: str
    kind: str
    tokens: int
    provenance: str
    prompt: str
    response: str
    bytes: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_jsonable(self) -> dict[str, Any]:
        """As the command line prints it."""
        return dataclasses.asdict(dataclasses.replace(self, metadata=dict(self.metadata)))


def default_folder() -> Path:
    """$ATTNVIZ_HOME/runs, else `runs` in the current folder."""
    home = os.environ.get(HOME)
    return Path(home) / "runs" if home else Path("runs")


class RunStore:
    """The saved runs of a folder. Safe to use from several threads and processes; holds nothing open.

    notices   what had to be repaired, in words
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, *, keep: int = KEPT) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        self.keep = keep
        self.notices: list[str] = []
        self._tidied = False

    # ---- reading

    def list(
        self, *, search: str = "", category: str = "", limit: int | None = None, owner: str | None = None
    ) -> list[StoredRun]:
        """Runs, newest first.

        Args:
            search: words that all occur in prompt, answer or title, in any order and in any case; any text will do.
            category: only of this one; "" = all.
            limit: at most so many; None = `keep`, 0 = all there are.
            owner: only runs whose metadata name this "owner"; None = everybody's.

        Raises:
            BadInput: the folder cannot be read.
        """
        count = self.keep if limit is None else limit
        if type(count) is not int or count < 0:
            raise BadInput(f"limit: expected a whole number from 0 (= all), got {count!r:.40}.")
        where, values = _conditions(search, category, owner)
        if where is None or not self.folder.is_dir():
            return []
        query = f"{_SELECT} {where} ORDER BY created DESC, number DESC LIMIT ?"

        def read(connection: sqlite3.Connection) -> list[StoredRun]:
            return [_from_row(row) for row in connection.execute(query, (*values, count or -1))]

        return self._try(read)

    def count(self, *, owner: str | None = None) -> int:
        """How many runs there are, listed or not; of one owner, or of all."""
        where, values = _conditions("", "", owner)
        if not self.folder.is_dir():
            return 0
        query = f"SELECT count(*) FROM runs {where}"
        return self._try(lambda connection: int(connection.execute(query, values).fetchone()[0]))

    def find(self, run_id: str) -> StoredRun:
        """The line of a run.

        Raises:
            BadInput: there is no such run.
        """
        query = f"{_SELECT} WHERE id = ?"
        found: list[StoredRun] = []
        if isinstance(run_id, str) and _ID.fullmatch(run_id) and self.folder.is_dir():
            found = self._try(lambda connection: [_from_row(row) for row in connection.execute(query, (run_id,))])
        if not found:
            raise BadInput(
                f"There is no saved run {str(run_id)[:40]!r} here. `attnviz runs list` shows those there are."
            )
        return found[0]

    def read(self, run_id: str) -> SavedRun:
        """A run as it was kept.

        Raises:
            BadInput: there is no such run, or its file is damaged or gone.
        """
        found = self.find(run_id)
        path = self.path(found.id)
        if not path.is_file():
            raise BadInput(
                f"The file of the saved run {found.id} is gone from {self.folder}. Copy it back, or delete it."
            )
        return read_run(path)

    def path(self, run_id: str) -> Path:
        """The file of a run that is there. Raises BadInput for anything that is no id."""
        if not _ID.fullmatch(run_id):
            raise BadInput(f"There is no saved run {run_id[:40]!r} here.")
        return self.folder / f"{run_id}{ENDING}"

    def version(self) -> str:
        """Differs whenever somebody has saved, renamed or deleted; costs next to nothing."""
        seen = []
        for name in (INDEX, f"{INDEX}-wal"):
            try:
                about = (self.folder / name).stat()
                seen.append(f"{about.st_mtime_ns:x}.{about.st_size:x}.{about.st_ino:x}")
            except OSError:
                seen.append("")
        return "-".join(seen)

    # ---- writing

    def add(
        self,
        saved: SavedRun,
        *,
        prompt: str,
        response: str,
        title: str = "",
        category: str = "",
        kind: str = "run",
        provenance: str = "",
        metadata: Mapping[str, Any] | None = None,
        created: str | None = None,
    ) -> StoredRun:
        """Keep a run under a new id. When this returns, the run is on the disk.

        Raises:
            BadInput: a title or category that cannot be, or a folder that cannot be written to; nothing is then kept.
        """
        run_id = secrets.token_hex(12)
        record = StoredRun(
            id=run_id,
            created=_checked_moment(created),
            title=checked_title(title) or checked_title(_first_line(prompt)) or run_id,
            category=checked_category(category or saved.run.category),
            model=saved.run.model,
            kind=kind,
            tokens=len(saved.run.tokens),
            provenance=provenance,
            prompt=prompt,
            response=response,
            metadata=_checked_metadata(metadata or {}),
        )
        run = dataclasses.replace(saved.run, id=run_id, category=record.category)
        content = run_bytes(dataclasses.replace(saved, run=run, about=_about(record)), packed=True)
        record = dataclasses.replace(record, bytes=len(content))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._try(lambda connection: None)
            self._write(run_id, content)
        except OSError as error:
            raise self._cannot("save the run", error) from error
        try:
            self._change(_INSERT, _row(record))
        except BaseException:
            self.path(run_id).unlink(missing_ok=True)
            raise
        return record

    def rename(self, run_id: str, title: str) -> StoredRun:
        """Give a run another title.

        Raises:
            BadInput: no such run, no title, or a folder that cannot be written to.
        """
        text = checked_title(title)
        if not text:
            raise BadInput("Title: expected a text, got an empty one.")
        record = dataclasses.replace(self.find(run_id), title=text)
        saved = self.read(run_id)
        content = run_bytes(dataclasses.replace(saved, about=_about(record)), packed=True)
        try:
            self._write(run_id, content, new=False)
        except OSError as error:
            raise self._cannot("rename the run", error) from error
        self._change("UPDATE runs SET title = ?, bytes = ? WHERE id = ?", (text, len(content), run_id))
        return dataclasses.replace(record, bytes=len(content))

    def delete(self, run_id: str) -> None:
        """Delete a run and its file, for good.

        Raises:
            BadInput: no such run, or a folder that cannot be written to.
        """
        path = self.path(self.find(run_id).id)
        leaving = path.with_name(f".{path.name}.deleted")
        try:
            if path.exists():
                os.replace(path, leaving)  # from here on the run is gone, whatever happens to this process
            self._change("DELETE FROM runs WHERE id = ?", (run_id,))
            leaving.unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot("delete the run", error) from error

    def export(self, run_id: str, target: Path) -> Path:
        """Copy the file of a run, to be sent or kept; whole or not at all.

        Raises:
            BadInput: no such run, another ending than .safetensors, or a place that cannot be written to.
        """
        if target.suffix.lower() != ENDING:
            raise BadInput(f"Cannot export to {target.name!r}: expected a file ending in {ENDING}.")
        self.read(run_id)  # what is damaged is not handed on
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            try:
                part.write_bytes(self.path(run_id).read_bytes())
                os.replace(part, target)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(f"Cannot write {target}: {error.strerror or error}.") from error
        return target

    def take(self, source: Path, metadata: Mapping[str, Any] | None = None) -> StoredRun:
        """Keep the run of a file that was exported, here or elsewhere, under a new id; `metadata` goes over its own.

        Raises:
            BadInput: not the file of a run, or a folder that cannot be written to.
        """
        saved = read_run(source)
        try:
            said = _from_about("", saved.about)
        except BadInput:  # written by TracedRun.write, which says nothing beside the run
            return self.add(saved, prompt=saved.run.prompt, response=saved.run.answer, metadata=metadata)
        kept = {name: getattr(said, name) for name in _COLUMNS if name not in ("id", "model", "tokens")}
        own = {name: value for name, value in said.metadata.items() if name != "owner"}
        return self.add(saved, **kept, metadata={**own, **(metadata or {})})

    def _write(self, run_id: str, content: bytes, *, new: bool = True) -> None:
        """Write under another name, flush to disk, rename, flush the folder."""
        target = self.path(run_id)
        if new and target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        part = self.folder / f".{run_id}.{secrets.token_hex(4)}.part"
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(self.folder)

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(statement, values)

        self._try(change)

    def _cannot(self, what: str, error: OSError) -> BadInput:
        return BadInput(f"Cannot {what} in {self.folder}: {error.strerror or error}. Nothing was changed.")

    # ---- the index

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the index; make it again from the files where it turns out to be damaged."""
        try:
            with self._connection() as connection:
                self._tidy(connection)
                return work(connection)
        except (sqlite3.Error, _Damaged) as error:
            if not _is_damage(error):
                raise self._in_words(error) from error
        self._repair()
        try:
            with self._connection() as connection:
                return work(connection)
        except (sqlite3.Error, _Damaged) as error:
            raise self._in_words(error) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / INDEX
        if not os.access(self.folder, os.W_OK):  # then there is nobody else who writes
            if not path.is_file():
                raise BadInput(f"Cannot make an index of saved runs: {self.folder} cannot be written to.")
            address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
                connection.create_function("holds", 4, _holds, deterministic=True)
                yield connection
            return
        if not _has_rows(path):
            self._make()
        with closing(_connect(path)) as connection:
            yield connection

    def _make(self) -> None:
        """A new index, with every run whose file is there."""
        with self._alone():
            path = self.folder / INDEX
            if _has_rows(path):  # somebody else was first
                return
            fresh = self.folder / f"{INDEX}.new"
            try:
                for left in (fresh, *(self.folder / f"{INDEX}{ending}" for ending in ("-wal", "-shm"))):
                    left.unlink(missing_ok=True)
                with closing(_connect(fresh)) as connection:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.executescript(_SCHEMA)
                    self._take_in(connection, youngest=time.time())
                os.replace(fresh, path)  # whole from the first moment on
                _flush_folder(self.folder)
            except OSError as error:
                raise self._cannot("make the index of saved runs", error) from error

    def _repair(self) -> None:
        """Keep a damaged index aside and make a new one."""
        with self._alone():
            path = self.folder / INDEX
            if _is_sound(path):  # somebody else was first
                return
            stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
            aside = f"{INDEX}.damaged-{stamp}"
            try:
                for ending in ("", "-wal", "-shm"):
                    if (self.folder / f"{INDEX}{ending}").exists():
                        os.replace(self.folder / f"{INDEX}{ending}", self.folder / f"{aside}{ending}")
            except OSError as error:
                raise self._cannot("repair the index of saved runs", error) from error
        self._make()
        self.notices.append(
            f"The index of saved runs was damaged; it was kept as {aside} and made again from the files: "
            f"{self.count()} runs."
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process at a time makes or repairs the index; a process that dies lets go."""
        try:
            with closing(sqlite3.connect(self.folder / LOCK, timeout=PATIENCE, isolation_level=None)) as lock:
                lock.execute("BEGIN EXCLUSIVE")
                yield
        except sqlite3.OperationalError as error:
            raise self._in_words(error) from error

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """Once per store: finish what processes that died have left."""
        if self._tidied or not os.access(self.folder, os.W_OK):
            return
        self._tidied = True
        for path in self.folder.glob(f".*{ENDING}.deleted"):
            connection.execute("DELETE FROM runs WHERE id = ?", (path.name[1:25],))
            path.unlink(missing_ok=True)
        now = time.time()
        for path in self.folder.glob(".*.part"):
            if _older(path, now - LEFTOVER_SECONDS):
                path.unlink(missing_ok=True)
        self._take_in(connection, youngest=now - SETTLED_SECONDS, leftover=now - LEFTOVER_SECONDS)

    def _take_in(self, connection: sqlite3.Connection, *, youngest: float, leftover: float = 0.0) -> None:
        """Rows for files from before `youngest` that have none; what is no whole run goes if from before `leftover`."""
        known = {row[0] for row in connection.execute("SELECT id FROM runs")}
        for path in sorted(self.folder.glob(f"*{ENDING}")):
            run_id = path.name.removesuffix(ENDING)
            if run_id in known or not _ID.fullmatch(run_id) or not _older(path, youngest):
                continue
            try:
                record = dataclasses.replace(_from_about(run_id, read_about(path)), bytes=path.stat().st_size)
                connection.execute(_INSERT, _row(record))
            except (AttnvizError, OSError):
                if _older(path, leftover):
                    path.unlink(missing_ok=True)

    def _in_words(self, error: Exception) -> AttnvizError:
        text = str(error)
        if "no such module" in text or "no such tokenizer" in text:
            return Unavailable(f"Saved runs need SQLite 3.34 with FTS5; this Python has {sqlite3.sqlite_version}.")
        if "locked" in text:
            text = f"another process has been writing for more than {PATIENCE:.0f} seconds"
        return BadInput(f"Cannot use the index of saved runs in {self.folder}: {text}.")


# --------------------------------------------------------------------------------------------- texts


def checked_title(title: str) -> str:
    """The title in one line of at most LONGEST_TITLE characters. Raises BadInput for what is no text."""
    if not isinstance(title, str):
        raise BadInput(f"Title: expected a text, got {type(title).__name__}.")
    line = " ".join("".join(c if c.isprintable() else " " for c in title).split())
    return line if len(line) <= LONGEST_TITLE else f"{line[: LONGEST_TITLE - 1]}…"


def checked_category(category: str) -> str:
    """One of CATEGORIES whatever its case, a category of one's own, or Custom where there is none.

    Raises:
        BadInput: longer than LONGEST_CATEGORY characters, or no text.
    """
    if not isinstance(category, str):
        raise BadInput(f"Category: expected a text, got {type(category).__name__}.")
    line = checked_title(category)
    if len(line) > LONGEST_CATEGORY:
        raise BadInput(f"Category: expected at most {LONGEST_CATEGORY} characters, got {len(line)}.")
    known = {name.casefold(): name for name in CATEGORIES}
    return known.get(line.casefold(), line) or "Custom"


def _checked_metadata(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise BadInput(f"Metadata: expected plain JSON, got what is none ({error}).") from error
    return found


def _checked_moment(text: str | None) -> str:
    """The moment in UTC as the index sorts it; None = now. Raises BadInput for what is none."""
    try:
        moment = datetime.now(timezone.utc) if text is None else datetime.fromisoformat(text)
        return moment.astimezone(timezone.utc).isoformat(timespec="microseconds")
    except (ValueError, OverflowError) as error:
        raise BadInput(f"Created: expected a moment such as 2026-01-31T12:00:00+00:00, got {text!r:.60}.") from error


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


# --------------------------------------------------------------------------------------------- rows

_ALL = (*_COLUMNS, "bytes", "metadata")
_SELECT = f"SELECT {', '.join(_ALL)} FROM runs"
_INSERT = f"INSERT OR IGNORE INTO runs ({', '.join(_ALL)}) VALUES ({', '.join('?' * len(_ALL))})"


def _row(record: StoredRun) -> tuple[Any, ...]:
    return (*(getattr(record, name) for name in _COLUMNS), record.bytes, json.dumps(dict(record.metadata)))


def _from_row(row: tuple[Any, ...]) -> StoredRun:
    """Raises _Damaged for what no store has written."""
    *values, size, metadata = row
    about = dict(zip(_COLUMNS, values, strict=True))
    try:
        return dataclasses.replace(_from_about(about["id"], {**about, "metadata": json.loads(metadata)}), bytes=size)
    except (TypeError, ValueError) as error:  # BadInput is a ValueError
        raise _Damaged(str(error)) from error


def _about(record: StoredRun) -> dict[str, Any]:
    """What the file of a run says of it: its row."""
    return {**{name: getattr(record, name) for name in _COLUMNS}, "metadata": dict(record.metadata)}


def _from_about(run_id: str, about: Mapping[str, Any]) -> StoredRun:
    """Raises BadInput where something is missing or of another kind."""
    given = {**about, "id": run_id}
    fits = all(isinstance(given.get(name), str) for name in _TEXTS)
    metadata = given.get("metadata", {})
    if not fits or type(given.get("tokens")) is not int or not isinstance(metadata, dict):
        raise BadInput(f"{run_id}: expected what is said of a saved run, got something else.")
    return StoredRun(**{name: given[name] for name in _COLUMNS}, metadata=metadata)


# --------------------------------------------------------------------------------------------- searching


def _conditions(search: str, category: str, owner: str | None) -> tuple[str | None, list[Any]]:
    """WHERE … and its values; None where nothing can be found."""
    if len(search) > LONGEST_SEARCH:
        raise BadInput(f"Search: expected at most {LONGEST_SEARCH:,} characters, got {len(search):,}.")
    try:
        search.encode()
        category.encode()
    except UnicodeEncodeError:  # half of a surrogate pair is in no text
        return None, []
    parts: list[str] = []
    values: list[Any] = []
    if category:
        parts.append("category = ?")
        values.append(checked_category(category))
    if owner is not None:
        parts.append("json_extract(metadata, '$.owner') = ?")
        values.append(owner)
    words = search.split()
    indexed = sorted((w for w in words if len(w) >= 3 and "\0" not in w), key=len, reverse=True)[:WORDS_INDEXED]
    if indexed:
        quoted = ('"' + word.replace('"', '""') + '"' for word in indexed)
        parts.append("number IN (SELECT rowid FROM runs_text WHERE runs_text MATCH ?)")
        values.append(" AND ".join(quoted))
    if words:
        parts.append("holds(prompt, response, title, ?)")
        values.append(json.dumps(words))
    return (f"WHERE {' AND '.join(parts)}" if parts else ""), values


def _holds(prompt: str, response: str, title: str, words: str) -> bool:
    """Whether each word, a JSON list, is somewhere in one of the texts, in any case."""
    texts = [text.casefold() for text in (prompt, response, title)]
    return all(any(word.casefold() in text for text in texts) for word in json.loads(words))


# --------------------------------------------------------------------------------------------- the disk


class _Damaged(Exception):
    """A row that no store has written."""


def _is_damage(error: Exception) -> bool:
    """Whether the index is broken, rather than busy, full or read-only."""
    if type(error) in (_Damaged, sqlite3.DatabaseError):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("no such table", "no such column", "decode to utf-8", "constructor failed"))


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    connection.create_function("holds", 4, _holds, deterministic=True)
    return connection


def _is_sound(path: Path) -> bool:
    """Whether every page, every row and every word of an index can be read."""
    try:
        with closing(_connect(path)) as connection:
            for row in connection.execute(_SELECT):
                _from_row(row)
            connection.execute("INSERT INTO runs_text (runs_text) VALUES ('integrity-check')")
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except (sqlite3.Error, _Damaged):
        return False


def _has_rows(path: Path) -> bool:
    """Whether an index is there that is not empty; whether it is sound is seen when it is used."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _older(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime <= moment
    except OSError:
        return False


def _flush_folder(folder: Path) -> None:
    """So that a renamed file is found again after a power cut; Windows knows no such thing."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

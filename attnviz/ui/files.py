"""Findings as files to download."""

from __future__ import annotations

import base64
import mimetypes
from typing import Any

from attnviz.errors import UnknownName
from attnviz.hooks import Finding, Renderer, Result
from attnviz.session import Session

ORDER = (".html", ".png", ".svg", ".csv", ".json")


def savers(session: Session, kind: type[Result]) -> dict[str, Renderer]:
    """Suffix -> the renderer that writes it, best known suffixes first."""
    found = {suffix: r for r in reversed(session.renderers(kind)) for suffix in r.suffixes}
    known = [s for s in ORDER if s in found]
    return {suffix: found[suffix] for suffix in [*known, *sorted(set(found) - set(known))]}


def as_file(session: Session, finding: Finding, suffix: str) -> dict[str, Any]:
    """{"name", "type", "base64"} of the finding in the format of the suffix.

    Raises:
        UnknownName: no renderer writes this suffix.
    """
    writers = savers(session, type(finding.result))
    if suffix not in writers:
        raise UnknownName("file format", suffix, writers)
    view = writers[suffix].render(finding)
    content = view.payload.encode() if isinstance(view.payload, str) else view.payload
    kind = view.media_type or mimetypes.types_map.get(suffix, "application/octet-stream")
    name = f"{finding.analysis}-{finding.provenance[:8]}{suffix}"
    return file_value(name, kind, content)


def file_value(name: str, kind: str, content: bytes) -> dict[str, Any]:
    """A file as the page takes it."""
    return {"name": name, "type": kind, "base64": base64.b64encode(content).decode()}

"""What a file format promises: what is written is read back, junk is refused in words, no half-written file stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from attnviz.hooks import AttnvizError, Attribution, FeatureAttention, Finding, Format
from attnviz.testing.require import as_json, require

_JUNK = (b"", b"\0\xff\xfe", b"{", b"null", b"[]", b'{"a": 1}', b"[" * 100_000, b"1" * 5000, b'"\\ud800"')


def check_format(format: Format, content: Any, folder: Path) -> None:
    """Write and read `content` in an empty folder, then read junk from it."""
    title = f"Format {format.name}"
    require(
        bool(format.suffixes) and all(s.startswith(".") for s in format.suffixes),
        f"{title}: expected suffixes that start with a dot, got {format.suffixes}.",
    )
    path = folder / f"content{format.suffixes[0]}"
    if format.write is not None:
        format.write(content, path)
        left = sorted(p.name for p in folder.iterdir())
        require(left == [path.name], f"{title}: after writing {path.name} the folder holds {left}.")
    if format.write is not None and format.read is not None:
        again = format.read(path)
        expected, got = _kept(content), _kept(again)
        require(as_json(got) == as_json(expected), f"{title}: expected {expected!r:.200} back, got {got!r:.200}.")
    if format.read is not None:
        for junk in _JUNK:
            _read_junk(format, folder / f"junk{format.suffixes[0]}", junk)
        _refuses(format, folder / "absent" / f"none{format.suffixes[0]}", "a file that does not exist")


def _kept(content: Any) -> Any:
    """What must come back. Of an attribution: tokens, scores, method and model; other programs have no more places.

    Of a summary of attention all but the map.
    """
    if isinstance(content, Finding) and isinstance(content.result, FeatureAttention):
        return {"model": content.model, "result": dataclasses.replace(content.result, weights=None)}
    if not isinstance(content, Finding) or not isinstance(content.result, Attribution):
        return content
    result = content.result
    before = [source.index < result.targets[-1].stop - 1 for source in result.sources]
    sources = [source for source, kept in zip(result.sources, before, strict=True) if kept]
    return {
        "sources": [(source.label, source.id) for source in sources],
        "targets": [(target.label, target.id) for target in result.targets],
        "scores": result.scores[:, before],
        "method": result.method,
        "model": content.model,
    }


def _read_junk(format: Format, path: Path, junk: bytes) -> None:
    path.write_bytes(junk)
    _refuses(format, path, f"{junk[:20]!r}")


def _refuses(format: Format, path: Path, what: str) -> None:
    assert format.read is not None
    try:
        format.read(path)
    except AttnvizError as error:
        require(bool(str(error)), f"Format {format.name}: it refused {what} without a word.")
        return
    except Exception as error:
        raise AssertionError(
            f"Format {format.name}: {what} raised {type(error).__name__}, expected an AttnvizError."
        ) from error
    raise AssertionError(f"Format {format.name}: it read {what} as if it were content.")

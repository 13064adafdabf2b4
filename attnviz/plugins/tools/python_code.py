"""Python: runs code in a process of its own that can compute and print, and nothing else.

What is guaranteed, on Linux (x86-64, 64-bit ARM); elsewhere, and where any of it cannot be had, nothing is run:

* no file, folder, socket or device can be opened, no process or thread started, no other process seen or signalled: a
  seccomp filter set before the code is read leaves 27 system calls, of reading and writing what is open (the output),
  memory, time and the end. It holds for ctypes and for machine code alike, and cannot be taken off;
* nothing of attnviz, its environment variables or its open files is inherited;
* 512 MiB of memory, 5 s of processor time, 10 s in all, 64 KiB of output; beyond that its process group is killed;
* at most four run at once.

What is not: the kernel itself must keep what it promises, so a defect in one of those calls, or in the processor (side
channels such as timing), is not excluded. Code can waste the time and memory that it is given. That is why the tool is
for local use, and is not offered on a public server unless whoever runs it allows it.

Code may import a list of pure modules (math, statistics, datetime, json, re …); see _sealed_child.py.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from attnviz.hooks import BadInput, Tool, Unavailable, hookimpl

CHILD = Path(__file__).with_name("_sealed_child.py")
NOT_SEALED = 97
MEMORY = 512 << 20
CPU_SECONDS = 5
WALL_SECONDS = 10.0
OUTPUT = 64 << 10
"""Bytes."""
LONGEST = 20_000
"""Characters of code; less than a pipe holds, so that writing it never waits."""
_PLACES = threading.BoundedSemaphore(4)


def run_code(code: str, *, wall_seconds: float = WALL_SECONDS) -> str:
    """What the code prints; the value of a last expression is printed. "sorted([3, 1])" -> "[1, 3]".

    Raises:
        BadInput: no code, code that fails, or that goes beyond a limit.
        Unavailable: this machine cannot seal a process off, or too many run.
    """
    source = _source(code)
    if sys.platform != "linux":
        raise Unavailable(f"code is run on Linux only, where a process can be sealed off; this is {sys.platform}")
    if not _PLACES.acquire(timeout=wall_seconds):
        raise Unavailable("four other pieces of code are running; try again")
    try:
        with tempfile.TemporaryDirectory(prefix="attnviz-python-") as folder:
            return _run(source, folder, wall_seconds)
    finally:
        _PLACES.release()


def _source(code: str) -> bytes:
    if not isinstance(code, str) or not code.strip():
        raise BadInput("expected code, such as sorted([3, 1, 2])")
    if len(code) > LONGEST:
        raise BadInput(f"expected at most {LONGEST} characters of code, got {len(code)}")
    try:
        return code.strip().encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput("the code holds half a surrogate pair, which is no valid text") from None


def _run(source: bytes, folder: str, wall_seconds: float) -> str:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(CHILD), str(MEMORY), str(CPU_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={},
        close_fds=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        with process:
            with suppress(BrokenPipeError):  # if it has ended already, why is on its standard error
                process.stdin.write(source)
                process.stdin.close()
            try:
                printed, complaint = _read(process, time.monotonic() + wall_seconds)
                code = process.wait(max(0.1, wall_seconds))
            finally:
                _kill(process)
    except subprocess.TimeoutExpired:
        raise BadInput(f"the code did not end within {wall_seconds:g} s and was ended") from None
    return _outcome(code, printed, complaint)


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, str]:
    """What it writes to standard output and standard error, until it ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    taken: dict[IO[bytes], bytes] = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for stream in taken:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            if not ready:
                raise subprocess.TimeoutExpired("code", left)
            for key, _ in ready:
                stream = key.fileobj  # type: ignore[assignment]
                data = os.read(stream.fileno(), 1 << 16)
                if not data:
                    selector.unregister(stream)
                taken[stream] += data
                if len(taken[stream]) > OUTPUT:
                    raise BadInput(f"the code printed more than {OUTPUT >> 10} KiB and was ended")
    printed, complaint = (data.decode("utf-8", "replace") for data in taken.values())
    return printed, complaint


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever is in its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _outcome(code: int, printed: str, complaint: str) -> str:
    """The text of a run that ended by itself."""
    reason = complaint.strip().splitlines()[-1] if complaint.strip() else ""
    if code == NOT_SEALED:
        raise Unavailable(f"this machine cannot seal a process off, so no code is run: {reason}")
    if code == -signal.SIGKILL:
        raise BadInput(f"the code took more than {CPU_SECONDS} s of processor time and was ended")
    if code < 0:
        raise BadInput(f"the code ended by {signal.Signals(-code).name}")
    if code:
        raise BadInput(reason or f"the code ended with exit code {code}")
    return printed.rstrip("\n")


def _run_code(code: str) -> str:
    """Within the usual time."""
    return run_code(code)


@hookimpl
def attnviz_tools() -> list[Tool]:
    """Python code."""
    return [
        Tool(
            name="python",
            summary="Runs Python code without files or network and says what it prints or what its last line gives.",
            parameters={
                "type": "object",
                "properties": {"code": {"type": "string", "description": "Such as sorted([3, 1, 2])."}},
                "required": ["code"],
                "additionalProperties": False,
            },
            run=_run_code,
            local_only=True,
        )
    ]

"""The process that the python tool starts: it seals itself, then runs the code that it is given on standard input.

    python -I -S -B _sealed_child.py MEMORY CPU_SECONDS

It is a program, never imported by attnviz. In order: limits of memory, processor time and files; the modules that
code may use are loaded; standard input is read to its end; the seal is set, tried, and cannot be taken off again; only
then is the code looked at. Exit codes: 0 done, 1 the code failed (the reason is the last line on standard error), 97
the seal could not be set (nothing was run).

The seal is a seccomp filter, a list of the few system calls that are left: read and write what is open, memory, time,
signals of its own, the end. There is none to open a file, a socket or a device, to start a process or a thread, to
signal or look into another process, or to change any of this. Linux on x86-64 and 64-bit ARM.
"""

from __future__ import annotations

import ast
import ctypes
import importlib
import os
import platform
import resource
import struct
import sys

NOT_SEALED = 97
MODULES = (
    "array", "base64", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal",
    "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math", "numbers", "operator",
    "random", "re", "statistics", "string", "textwrap", "time", "typing", "unicodedata", "zlib",
)  # fmt: skip
_BEHIND = ("_strptime", "encodings.ascii", "encodings.latin_1", "encodings.utf_16", "encodings.utf_32", "abc")

# What is left, by machine: AUDIT_ARCH number, then the calls by name and number.
_NAMES = (
    "read", "write", "close", "fstat", "lseek", "mmap", "mprotect", "munmap", "brk", "rt_sigaction", "rt_sigprocmask",
    "rt_sigreturn", "mremap", "madvise", "sched_yield", "getpid", "exit", "exit_group", "futex", "gettimeofday",
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "getrandom", "sigaltstack", "getrusage",
)  # fmt: skip
MACHINES = {
    "x86_64": (0xC000003E, (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 25, 28, 24, 39, 60, 231, 202, 96, 228, 229, 230,
                            35, 318, 131, 98)),
    "aarch64": (0xC00000B7, (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 216, 233, 124, 172, 93, 94, 98,
                             169, 113, 114, 115, 101, 278, 132, 165)),
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: ld abs word, jeq, jge, ret
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: errno 1, operation not permitted
_X32 = 0x40000000  # the other numbering of x86-64
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2  # of prctl


def filter_program(machine: str) -> bytes:
    """The filter as BPF: struct sock_filter {u16 code; u8 jt, jf; u32 k}, one after another."""
    architecture, calls = MACHINES[machine]
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for number in calls:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *step) for step in [*steps, (_RETURN, 0, 0, _REFUSE)])


def seal() -> None:
    """Leave this process the calls of the list. Raises OSError where that cannot be done, or does not hold."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise OSError(f"no seal is known for {sys.platform} on {machine}")
    program = filter_program(machine)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    place = ctypes.create_string_buffer(described, len(described))
    if prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_SECCOMP, _FILTER, ctypes.addressof(place), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel sets no seccomp filter")
    try:
        os.close(os.open("/", os.O_RDONLY))
    except PermissionError:
        return
    raise OSError("the seccomp filter does not hold")


def limit(memory: int, cpu_seconds: int) -> None:
    """Limits that the kernel keeps. At the end of its processor time a process is killed."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        resource.setrlimit(name, (value, value))


class _NoOthers:
    """Asked last for a module: says that there are no others."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in MODULES:
            return
        raise ImportError(f"no module {name} here; there are {', '.join(MODULES)}")


def run(source: str) -> None:
    """Run the code; the value of a last expression is printed."""
    tree = ast.parse(source, "code")
    names: dict[str, object] = {"__name__": "__main__"}
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "code", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "code", "eval"), names)
        if value is not None:
            print(value)


def main() -> int:
    """Seal, then run."""
    memory, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    try:
        limit(memory, cpu_seconds)
        for name in (*MODULES, *_BEHIND):
            importlib.import_module(name)
        source = sys.stdin.buffer.read().decode("utf-8")
        os.close(0)
        seal()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return NOT_SEALED
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "PathFinder"]
    sys.meta_path.append(_NoOthers)  # type: ignore[arg-type]
    try:
        run(source)
        sys.stdout.flush()
    except SystemExit as error:
        sys.stdout.flush()
        code = 0 if error.code is None else error.code
        return code if isinstance(code, int) and 0 <= code < NOT_SEALED else 1
    except BaseException as error:
        words = " ".join(str(error).split())
        print(f"{type(error).__name__}: {words}"[:500], file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main())

"""The python tool: what code gives, and that code which wants more than to compute and print does not get it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from attnviz.hooks import BadInput, Unavailable
from attnviz.plugins.tools import python_code
from attnviz.plugins.tools.python_code import attnviz_tools, run_code

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="code is run on Linux only"
)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("sorted([30, 12, 5])", "[5, 12, 30]"),
        ("'garden'.upper()", "GARDEN"),
        ("'abc'[::-1]", "cba"),
        ("sum([3, 14, 15])", "32"),
        ("print('a')\nprint('b')", "a\nb"),
        ("x = 3\nx * 2", "6"),
        ("None", ""),
        ("import math, statistics\nmath.pi > 3, statistics.mean([1, 2])", "(True, 1.5)"),
        ("from datetime import datetime\ndatetime.strptime('2020-02', '%Y-%m').year", "2020"),
        ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nf(15)", "610"),
        ("class A:\n    x = 1\nA.x", "1"),
        ("'é☃'", "é☃"),
    ],
)
def test_what_code_gives(code, expected):
    assert run_code(code) == expected


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("1 +", "SyntaxError"),
        ("raise ValueError('a\\nb')", "ValueError: a b"),
        ("raise SystemExit(3)", "exit code 3"),
        ("", "expected code"),
        ("1" * 30_000, "at most 20000 characters"),
        ("'\ud800'", "half a surrogate pair"),
        ("def f(): return f()\nf()", "RecursionError"),
    ],
)
def test_code_that_fails_says_why_in_one_line(code, words):
    with pytest.raises(BadInput, match=words) as caught:
        run_code(code)
    assert "\n" not in str(caught.value)


RAW = """
import sys
ctypes = sys.modules['ctypes']
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *rest):
    answer = libc.syscall(number, *rest)
    return answer, ctypes.get_errno()
"""
REFUSED = "Operation not permitted|PermissionError|no module|not allowed"
ESCAPES = {
    "read a file": "open('/etc/passwd').read()",
    "read a file by its number": "import os\nos.open('/etc/passwd', 0)",
    "write a file": "open('left-behind', 'w').write('x')",
    "list a folder": "import os\nos.listdir('.')",
    "look for a file": "import os\nos.stat('/etc/passwd')",
    "make a link": "import os\nos.symlink('/etc/passwd', 'p')",
    "leave the folder": "import os\nos.chdir('/')",
    "read what the kernel tells of it": "open('/proc/self/status').read()",
    "read the parent's environment": "import os\nopen(f'/proc/{os.getppid()}/environ').read()",
    "start a process": "import os\nos.fork()",
    "become another program": "import os\nos.execv('/bin/sh', ['sh'])",
    "spawn": "import os\nos.posix_spawn('/bin/sh', ['sh'], {})",
    "use a shell": "import os\nprint(os.system('id'))\nraise SystemExit(os.system('id') >> 8)",
    "start a thread": "import _thread\n_thread.start_new_thread(print, ())",
    "open a connection": "import sys\nsys.modules['socket']",
    "load a module of the machine": "import socket",
    "load a library": "import sys\nsys.modules['ctypes'].CDLL('libcrypt.so.1')",
    "signal the parent": "import os\nos.kill(os.getppid(), 9)",
    "signal its group": "import os\nos.killpg(0, 9)",
    "loosen a limit": "import sys\nsys.modules['resource'].setrlimit(0, (99, 99))",
    "read its terminal": "import os\nos.ttyname(1)",
    "make a pipe": "import os\nos.pipe()",
}


@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES.keys())
def test_code_cannot(code):
    with pytest.raises(BadInput, match=f"{REFUSED}|KeyError|exit code|OSError|RuntimeError|cannot open") as caught:
        run_code(code)
    assert "root:" not in str(caught.value)


# Calls of the kernel by number, as machine code would make them: x86-64, then 64-bit ARM.
CALLS = {
    "openat": (257, 56, "-100, b'/etc/passwd', 0"),
    "openat2": (437, 437, "-100, b'/etc/passwd', 0, 0"),
    "socket": (41, 198, "2, 1, 0"),
    "clone": (56, 220, "17, 0, 0, 0, 0"),
    "clone3": (435, 435, "0, 0"),
    "execve": (59, 221, "b'/bin/sh', 0, 0"),
    "ptrace": (101, 117, "0, 0, 0, 0"),
    "process_vm_readv": (310, 270, "1, 0, 0, 0, 0, 0"),
    "kill": (62, 129, "1, 9"),
    "prctl": (157, 167, "22, 0, 0, 0, 0"),
    "seccomp": (317, 277, "0, 0, 0"),
    "io_uring_setup": (425, 425, "1, 0"),
    "memfd_create": (319, 279, "b'x', 0"),
    "mount": (165, 40, "0, 0, 0, 0, 0"),
    "unshare": (272, 97, "0x10000000"),
    "setuid": (105, 146, "0"),
    "bpf": (321, 280, "0, 0, 0"),
    "keyctl": (250, 219, "0, 0, 0, 0, 0"),
    "prlimit64": (302, 261, "0, 0, 0, 0"),
    "pidfd_open": (434, 434, "1, 0"),
    "dup": (32, 23, "1"),
    "ioctl": (16, 29, "1, 0x5412, b'x'"),
    "readlink": (89, 78, "b'/proc/self/exe', 0, 0"),
    "chroot": (161, 51, "b'/'"),
}


def test_no_call_of_the_kernel_helps():
    column = 0 if platform.machine() == "x86_64" else 1
    lines = [f"print({name!r}, *call({numbers[column]}, {numbers[2]}))" for name, numbers in CALLS.items()]
    answers = [line.split() for line in run_code(RAW + "\n".join(lines)).splitlines()]
    assert [name for name, *_ in answers] == list(CALLS)
    assert {name: (answer, errno) for name, answer, errno in answers} == dict.fromkeys(CALLS, ("-1", "1"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the other numbering is one of x86-64")
def test_the_other_numbering_of_calls_ends_the_process():
    with pytest.raises(BadInput, match="SIGSYS"):
        run_code(RAW + "call(0x40000000 + 257, -100, b'/etc/passwd', 0)")


def test_nothing_of_the_parent_is_there(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        seen = run_code(
            "import os, sys\n"
            "print(dict(os.environ))\n"
            "for number in range(3, 64):\n"
            "    try:\n"
            "        os.fstat(number)\n"
            "        print('open:', number)\n"
            "    except OSError:\n"
            "        pass\n"
            "print(sys.path, [name for name in sys.modules if 'attnviz' in name])"
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert "secret-token" not in seen
    assert "HF_TOKEN" not in seen
    assert "open:" not in seen
    assert seen.endswith("[]")


def test_it_is_ended_at_its_limits():
    for code, words in (
        ("import time\ntime.sleep(60)", "did not end within 0.8 s"),
        ("while True: pass", "did not end within 0.8 s|processor time"),
        ("import signal, sys\ntime = sys.modules['time']\nwhile True: time.sleep(9)", "did not end|no module"),
        ("print('x' * 10_000_000)", "more than 64 KiB"),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "more than 64 KiB"),
    ):
        with pytest.raises(BadInput, match=words):
            run_code(code, wall_seconds=0.8 if "64" not in words else 10)


def test_memory_ends():
    with pytest.raises(BadInput, match="MemoryError"):
        run_code("x = bytearray(10 ** 10)")
    with pytest.raises(BadInput, match="MemoryError"):
        run_code("x = []\nwhile True: x.append(bytearray(1 << 24))", wall_seconds=60)


def test_processor_time_ends(monkeypatch):
    monkeypatch.setattr(python_code, "CPU_SECONDS", 1)
    with pytest.raises(BadInput, match="more than 1 s of processor time"):
        run_code("while True: pass", wall_seconds=120)


def test_signals_do_not_keep_it_alive(monkeypatch):
    monkeypatch.setattr(python_code, "CPU_SECONDS", 1)
    stubborn = "import sys\n_signal = sys.modules['_signal']\n"
    stubborn += "for n in range(1, 32):\n    try: _signal.signal(n, _signal.SIG_IGN)\n    except Exception: pass\n"
    with pytest.raises(BadInput, match="processor time"):
        run_code(stubborn + "while True: pass", wall_seconds=120)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run_code("1 + 1") == "2"
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_sealed_nothing_is_run(monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    source = Path(python_code.CHILD).read_text("utf-8")
    child.write_text(source.replace("prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) or", "True or"), "utf-8")
    monkeypatch.setattr(python_code, "CHILD", child)
    with pytest.raises(Unavailable, match=r"cannot seal a process off, so no code is run: .*no seccomp filter"):
        run_code("print('ran')")
    child.write_text(source.replace("_SECCOMP, _FILTER, ctypes", "_SECCOMP * 0 + 8, 0, ctypes"), "utf-8")
    with pytest.raises(Unavailable, match=r"no code is run"):
        run_code("print('ran')")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Unavailable, match="this is darwin"):
        run_code("print('ran')")


def test_the_numbers_of_the_calls_are_those_of_this_machine():
    """Against the C library's own header, where there is a compiler's preprocessor to read it."""
    header = "#include <sys/syscall.h>\n"
    from attnviz.plugins.tools import _sealed_child as child

    names = child._NAMES
    architecture, numbers = child.MACHINES[platform.machine()]
    source = header + "\n".join(f"{name} = __NR_{name}" for name in names)
    try:
        done = subprocess.run(["cpp", "-P"], input=source, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no preprocessor, or no header of system calls")
    found = dict(line.split(" = ") for line in done.stdout.splitlines() if " = " in line)
    assert [int(found[name]) for name in names] == list(numbers)
    assert architecture & 0xC0000000 == 0xC0000000, "64 bits, little-endian"


def test_it_is_for_local_use():
    (tool,) = attnviz_tools()
    assert tool.local_only

"""The child that decodes photos can do nothing else; what it answers is in `test_sandbox_answers.py`."""

import ast
import errno
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines import sandbox, seccomp
from pipelines.errors import Retryable

pytestmark = pytest.mark.slow


def confined(code: str, *, with_threads: bool = False, before: str = "") -> subprocess.CompletedProcess[str]:
    """What a process that ran the child's own `confine()` does with `code`; `before` runs unconfined."""
    program = (
        "import ctypes, errno, os, resource, signal, socket, sys, threading\n"
        "from pipelines.confined import confine\n"
        f"{before}\n"
        f"confine(with_threads={with_threads})\n"
        f"{code}\n"
        "sys.stdout.flush()\n"
        "os._exit(0)\n"
    )
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", program], capture_output=True, text=True, timeout=30
    )


def errno_of(call: str, **options: Any) -> str:
    """The name of the error that `call` meets in the confined process; "done" if it went through."""
    lines = (
        "try:",
        f"    {call}",
        "    print('done')",
        "except OSError as error:",
        "    print(errno.errorcode[error.errno])",
    )
    answer = confined("\n".join(lines), **options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


FORBIDDEN = {
    "open a file to read": "open('/etc/hostname')",
    "open a file to write": "open('/tmp/sandbox-test', 'wb')",
    "list a folder": "os.listdir('/')",
    "remove a file": "os.unlink('/tmp/sandbox-test')",
    "make a socket": "socket.socket()",
    "make a pipe": "os.pipe()",
    "fork": "os.fork()",
    "run a program": "os.execv('/bin/true', ['true'])",
    "spawn a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "signal its parent": "os.kill(os.getppid(), 0)",
    "change its user": "os.setuid(12345)",
    "change its folder": "os.chdir('/')",
    "see its environment from outside": "os.readlink('/proc/self/exe')",
    "make memory without a name": "os.memfd_create('x')",
}
RAW_CALLS = {  # through the C library, past what Python checks itself
    "trace its parent": "libc.ptrace(16, os.getppid(), 0, 0)",  # PTRACE_ATTACH
    "read its parent's memory": "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)",
    "load a filter of its own": "libc.prctl(22, 2, 0, 0, 0)",
    "be dumpable again": "libc.prctl(4, 1, 0, 0, 0)",
    "set a limit": "libc.setrlimit(7, (ctypes.c_ulong * 2)(16, 16))",
    "enter a namespace": "libc.unshare(0x10000000)",
    "make memory executable": "ctypes.c_long(libc.mmap(None, 4096, 7, 0x22, -1, 0)).value",
    "make its code writable and executable": "libc.mprotect(ctypes.c_void_p(page), 4096, 7)",
    "reach the network by io_uring": "libc.syscall(425, 8, 0)",
    "open by openat2": "libc.syscall(437, -100, b'/etc/hostname', 0, 24)",
}


@pytest.mark.parametrize("with_threads", [False, True], ids=["one thread", "threads"])
@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_confined_process_cannot(what: str, with_threads: bool) -> None:
    assert errno_of(FORBIDDEN[what], with_threads=with_threads) == "EPERM"


@pytest.mark.parametrize("what", RAW_CALLS)
def test_a_confined_process_cannot_by_the_bare_call(what: str) -> None:
    before = (
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]\n"
        "page = libc.mmap(None, 4096, 3, 0x22, -1, 0)\n"
    )

    answer = confined(
        f"print({RAW_CALLS[what]}, errno.errorcode[ctypes.get_errno()])", with_threads=True, before=before
    )

    assert answer.stdout == "-1 EPERM\n", answer.stderr


def test_only_the_decoder_that_needs_threads_may_start_them() -> None:
    start = "thread = threading.Thread(target=int); thread.start(); thread.join(); print('joined')"

    assert "can't start new thread" in confined(start).stderr
    assert confined(start, with_threads=True).stdout == "joined\n"


def test_a_process_with_threads_still_cannot_clone_itself_or_a_namespace() -> None:
    clone = "print(libc.syscall(56, flags, 0, 0, 0, 0), errno.errorcode[ctypes.get_errno()])"
    if os.uname().machine != "x86_64":
        pytest.skip("the number of clone is that of x86-64")
    for flags in (17, 0x100 | 17, 0x40000000 | 0x10F00):  # fork, vfork's sharing, a thread in a new network
        before = f"libc = ctypes.CDLL(None, use_errno=True); flags = {flags}"
        assert confined(clone, with_threads=True, before=before).stdout == "-1 EPERM\n"


def test_a_call_of_another_architecture_s_table_kills_the_process() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("x32 calls exist on x86-64 only")

    answer = confined("libc.syscall(0x40000000 | 39)", before="libc = ctypes.CDLL(None)")

    assert answer.returncode == -signal.SIGSYS


def test_a_confined_process_cannot_write_what_it_has_open(tmp_path: Path) -> None:
    """The second wall behind the filter: a descriptor to a file, if there were one, takes no byte."""
    before = f"out = os.open({str(tmp_path / 'x')!r}, os.O_WRONLY | os.O_CREAT)\n"
    before += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"

    assert errno_of("os.write(out, b'x')", before=before) == "EFBIG"
    assert (tmp_path / "x").read_bytes() == b""


def test_a_confined_process_cannot_take_two_gigabytes() -> None:
    answer = confined("bytearray(2 * 1024**3)")

    assert answer.returncode == 1
    assert "MemoryError" in answer.stderr


def test_a_confined_process_is_stopped_after_its_seconds_of_work() -> None:
    before = "resource.setrlimit(resource.RLIMIT_CPU, (1, 6)); confined_limit = resource.setrlimit\n"
    before += "resource.setrlimit = lambda limit, both: confined_limit(limit, (1, 1) if limit == 0 else both)"

    answer = confined("while True: pass", before=before)

    assert answer.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_the_confined_process_s_state_as_the_kernel_tells_it() -> None:
    """Read by its parent from /proc, since the process itself can open nothing."""
    program = (
        "import sys, time\nfrom pipelines.confined import confine\n"
        "confine(with_threads=False)\nprint('x', flush=True)\nsys.stdin.read(1)"
    )
    own_net = os.readlink("/proc/self/ns/net")
    environment = {"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
    with subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"x\n"
        folder = Path(f"/proc/{child.pid}")
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        may_look = os.geteuid() == 0  # what is not dumpable belongs to root in /proc
        limits = (folder / "limits").read_text() if may_look else ""
        net = os.readlink(folder / "ns/net") if may_look else ""
        child.kill()

    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")
    if may_look:
        found = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
        assert found["Max address space"] == [str(1024**3)] * 2
        assert found["Max cpu time"] == ["6", "6"]
        assert found["Max open files"] == ["16", "16"]
        for name in ("Max file size", "Max processes", "Max core file size"):
            assert found[name] == ["0", "0"]
        assert net != own_net


def test_a_confined_process_is_neither_dumpable_nor_able_to_gain_rights() -> None:
    before = (
        "import pipelines.seccomp\n"
        "prctl = ctypes.CDLL(None).prctl\n"
        "show = lambda **kw: print(prctl(3, 0, 0, 0, 0), prctl(39, 0, 0, 0, 0))\n"
        "pipelines.seccomp.allow_decoding_only = show"
    )

    assert confined("", before=before).stdout == "0 1\n"


def test_the_child_inherits_no_descriptor_and_no_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The real command line of the real child, with a `confined` module that only says what it sees."""
    spy = tmp_path / "pipelines"
    spy.mkdir()
    (spy / "__init__.py").write_text("")
    (spy / "confined.py").write_text(
        "import os, sys\n"
        "open_now = sorted(os.listdir('/proc/self/fd'), key=int)\n"
        "seen = open_now, sorted(os.environ), os.getcwd(), sys.flags.isolated\n"
        "os.write(1, repr(seen).encode())\n"
    )
    real, secret = subprocess.Popen, os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(secret, True)
    monkeypatch.setenv("SECRET_KEY", "the key")

    def with_spy(command: list[str], **options: Any) -> Any:
        program = (
            f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_module({command[3]!r})"
        )
        return real([*command[:2], "-c", program], **options)

    monkeypatch.setattr(subprocess, "Popen", with_spy)
    try:
        seen = sandbox._ask_child(b"", time.monotonic() + 20, []).decode()
    finally:
        os.close(secret)

    fds, environment, folder, is_isolated = ast.literal_eval(seen)
    assert fds == ["0", "1", "2", "3"]  # the fourth is the listing's own
    assert set(environment) <= {"LC_CTYPE", "LD_LIBRARY_PATH"}  # LC_CTYPE is set by the interpreter itself
    assert (folder, is_isolated) == ("/", 1)


REFUSING_KERNEL = """
import pipelines.seccomp, sys, runpy
def refused(**kw):
    raise OSError(22, "Invalid argument")
pipelines.seccomp.allow_decoding_only = refused
sys.argv[1:] = {arguments!r}
runpy.run_module("pipelines.confined", run_name="__main__")
"""


def test_a_kernel_that_refuses_the_filter_is_an_error_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, selfie_jpeg: bytes
) -> None:
    real = subprocess.Popen

    def on_such_a_kernel(command: list[str], **options: Any) -> Any:
        return real([*command[:2], "-c", REFUSING_KERNEL.format(arguments=command[4:])], **options)

    expected = sandbox.clean_portrait_in_sandbox(selfie_jpeg)
    monkeypatch.setattr(subprocess, "Popen", on_such_a_kernel)

    with pytest.raises(Retryable) as error:
        sandbox.clean_portrait_in_sandbox(selfie_jpeg)

    assert (error.value.code, "kernel refused" in str(error.value)) == ("sandbox_unavailable", True)
    assert sandbox.clean_portrait_in_sandbox(selfie_jpeg, is_filter_optional=True) == expected


@pytest.mark.parametrize("with_threads", [False, True])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_jump_of_the_filter_stays_inside_and_it_ends_in_a_refusal(
    machine: str, with_threads: bool
) -> None:
    code = seccomp.filter_program(machine, with_threads=with_threads)

    lines = list(struct.iter_unpack("=HBBI", code))

    is_jump = [code & 7 == 5 for code, *_ in lines]
    for index, (_, if_true, if_false, _) in enumerate(lines):
        assert not is_jump[index] or index + 1 + max(if_true, if_false) < len(lines)
    assert lines[-1] == (0x06, 0, 0, 0x00050000 | errno.EPERM)


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "riscv64")))

    with pytest.raises(OSError, match="riscv64"):
        seccomp.allow_decoding_only(with_threads=False)

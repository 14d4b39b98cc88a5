"""Leaves a process the few system calls that decoding needs, and refuses every other one; Linux only.

An allow-list: what is not named fails with EPERM. There is no open, socket, execve, fork, kill or ptrace on
it, so the process keeps the descriptors it has and gets no others; memory can no longer be made executable.
The filter is classic BPF as in linux/filter.h, installed through prctl(2), so no library is needed.
"""

import ctypes
import errno
import os
import struct
from typing import Final

_PR_SET_SECCOMP: Final = 22  # linux/prctl.h
_SECCOMP_MODE_FILTER: Final = 2  # linux/seccomp.h, with the four below
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
_PROT_EXEC: Final = 0x4  # asm-generic/mman-common.h

_LOAD, _RETURN = 0x20, 0x06  # linux/bpf_common.h: BPF_LD|BPF_W|BPF_ABS, BPF_RET|BPF_K
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45  # BPF_JMP|BPF_K with BPF_JEQ, BPF_JGE, BPF_JSET

_X32_BIT: Final = 0x40000000  # the 32-bit pointer calls of x86-64 carry it: a second door to the same calls
_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h

# Numbers from asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64), in the order of `_ARCHITECTURES`.
_ALLOWED: Final = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "exit": (60, 93),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "getrandom": (318, 278),
}
_ALLOWED_WITHOUT_EXEC: Final = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
}  # their third argument is the protection
# libheif decodes HEVC in a thread of its own, even when told to use none.
_ALLOWED_FOR_THREADS: Final = {"set_robust_list": (273, 99), "rseq": (334, 293)}
_CLONE: Final = (56, 220)  # its first argument holds the flags
_CLONE3: Final = (435, 435)  # its flags lie behind a pointer, which a filter cannot follow
_CLONE_THREAD: Final = 0x00010000  # linux/sched.h
_CLONE_NEW_NAMESPACES: Final = 0x7E020000


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def allow_decoding_only(*, with_threads: bool) -> None:
    """From here on this thread may read, write, manage memory and exit, and start threads if it needs them.

    The process must have set PR_SET_NO_NEW_PRIVS. Raises OSError when the kernel refuses the filter, and
    with ENOSYS on a processor whose call numbers are not known here.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    code = filter_program(machine, with_threads=with_threads)
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def filter_program(machine: str, *, with_threads: bool) -> bytes:
    """The BPF program for "x86_64" or "aarch64": 8 bytes an instruction (code, two jumps, operand)."""
    column = list(_ARCHITECTURES).index(machine)
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_IF_AT_LEAST, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _KILL_PROCESS),
    ]
    for numbers in (_ALLOWED | _ALLOWED_FOR_THREADS if with_threads else _ALLOWED).values():
        lines += [(_IF_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    for numbers in _ALLOWED_WITHOUT_EXEC.values():
        lines += [
            (_IF_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, _ARGUMENTS_AT + 2 * 8),  # the lower half of 64 bits, little-endian
            (_IF_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    if with_threads:
        lines += [
            (_IF_EQUAL, 0, 1, _CLONE3[column]),
            (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # the C library then takes clone
            (_IF_EQUAL, 0, 4, _CLONE[column]),
            (_LOAD, 0, 0, _ARGUMENTS_AT),
            (_IF_ANY_BIT, 2, 0, _CLONE_NEW_NAMESPACES),
            (_IF_ANY_BIT, 0, 1, _CLONE_THREAD),
            (_RETURN, 0, 0, _ALLOW),
        ]
    lines.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)

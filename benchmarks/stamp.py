"""What a result carries beside its figures: where they come from.

A file of results is {"stamp": ..., "figures": ...}. The stamp holds `commit` (with -dirty where the code that counts
differs from it), `date`, `command`, `versions`, `processor`, and `code`, the digest that tells whether the present code
would make the same figures (`digest.py`). What nobody knows is "not recorded": results from before there were stamps
carry the commit that brought them in, and its date, alone. Where later code was seen to make the same figures
(`recheck`), `code` is that code's, and `checked` tells its commit, the seed that was made again, and on what
processor."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from benchmarks.digest import Code
from kka.project.doctor import cores
from kka.records import read_json, write_json

Stamp = dict[str, Any]
UNKNOWN = "not recorded"
FIELDS = ("commit", "date", "command", "versions", "processor", "code")
LIBRARIES = ("kka", "torch", "transformers", "trl", "diffusers", "numpy", "scikit-learn")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
WORK = Path(__file__).parent / "work"


def make(code: Code) -> Stamp:
    """The stamp of what this process is about to measure with `code`."""
    return {
        "commit": commit(code),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(code.script, sys.argv[1:]),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "processor": processor(),
        "code": code.digest(),
    }


def commit(code: Code) -> str:
    """HEAD, with -dirty where a file that counts differs from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=code.root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "-s", "--", code.script, *code.files()) else "")
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN


def command(script: str, arguments: Iterable[str]) -> str:
    """What was typed, without the folders of somebody's machine."""
    names = [a.rsplit("/", 1)[-1] if a.startswith(("/", "~")) else a for a in arguments]
    return shlex.join(["python", "-m", f"benchmarks.{Path(script).stem}", *names])


def processor(path: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Name, cores that the process may use, instruction sets that change sums; and the GPU where there is one."""
    entries: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    flags = entries.get("flags", "").split()
    found: dict[str, Any] = {
        "name": entries.get("model name") or platform.processor() or UNKNOWN,
        "cores": cores(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
    }
    return found | ({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {})


def write(path: Path, figures: Any, stamp: Stamp) -> None:
    """Writes a file of results, whole."""
    write_json(path, {"stamp": stamp, "figures": figures})


def kept(path: Path, stamp: Stamp) -> Any:
    """The figures in a file of results that the code of `stamp` made, or None: other code's have to be made again."""
    if not path.exists():
        return None
    found = read_json(path)
    return found["figures"] if found["stamp"]["code"] == stamp["code"] else None


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may make the file of results; False while another one does."""
    WORK.mkdir(parents=True, exist_ok=True)
    lock = FileLock(WORK / f"{path.parent.name}-{path.stem}.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        print(f"{os.path.relpath(path)} is left to the process that makes it", flush=True)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def line(results: Iterable[Any]) -> str:
    """The line under a table: which script made it, at which commits, on which processors."""
    stamps = [found["stamp"] for found in results]
    script = " ".join(shlex.split(stamps[0]["command"])[:3])
    commits = dict.fromkeys(_short(s["commit"]) for s in stamps)
    machines = dict.fromkeys(_machine(s["processor"]) for s in stamps)
    again = dict.fromkeys(_checked(s["checked"]) for s in stamps if "checked" in s)
    return "; ".join([f"Made by `{script}` at {', '.join(commits)} on {', '.join(machines)}", *again]) + "."


def _checked(made: Any) -> str:
    machine = _machine(made["processor"])
    return f"seed {made['seed']} makes the same figures at {_short(made['commit'])}, both on {machine}"


def _short(name: str) -> str:
    if name == UNKNOWN:
        return f"a commit {UNKNOWN}"
    digits, _, dirty = name.partition("-")
    return digits[:7] + ("-dirty" if dirty else "")


def _machine(processor: Any) -> str:
    if processor == UNKNOWN:
        return f"a processor {UNKNOWN}"
    told = ", ".join([f"{processor['cores']} cores", *processor["instructions"]])
    return f"{processor['name']} ({told})" + (f" and {processor['gpu']}" if "gpu" in processor else "")

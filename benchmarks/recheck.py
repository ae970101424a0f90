"""Whether the present code makes the figures that stand in the results: `python -m benchmarks.recheck [rounds] [gap]`.

To measure everything again takes hours, and most changes of the code change no figure. So the first seed of each arm is
made twice on this machine: at the commit `--before`, whose code made the results, and at the present one, in copies of
the project beside each other. Where all figures are equal, bit by bit, the results of the arm are said to be the
present code's too, with what was made again in their stamp, and the tables in the pages follow. Where one differs, it
is named, and nothing changes. Resumable: what a copy has finished is not made again."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import gap, rounds, stamp
from benchmarks.digest import Code
from kka.errors import KkaError
from kka.records import read_json, write_json, write_text

ROOT = Path(__file__).parent.parent
COPIES = stamp.WORK / "recheck"
_TIMES = ("seconds",)


@dataclass(frozen=True)
class Arm:
    """Results that one digest of code covers: their files in `benchmarks/results` begin with `prefix`; `arguments`
    make the first of them again. `digest` is an expression for the digest, in the module."""

    module: str
    prefix: str
    seed: int
    arguments: tuple[str, ...]
    code: Code
    digest: str

    @property
    def first(self) -> Path:
        return Path("benchmarks/results") / self.module / f"{self.prefix}{self.seed}.json"

    def results(self, root: Path) -> list[Path]:
        return sorted((root / self.first.parent).glob(f"{self.prefix}*.json"))


def arms(module: str) -> list[Arm]:
    if module == "gap":
        return [Arm("gap", "", 0, ("--seeds", "1"), gap.CODE, "gap.CODE.digest()")]
    return [
        Arm(
            "rounds", f"{name}-", 20, ("--seeds", "1", "--variants", name), rounds.code(name),
            f"rounds.code({name!r}).digest()",
        )
        for name in rounds.VARIANTS
    ]  # fmt: skip


PAGES: dict[str, dict[str, Callable[[dict[str, Any]], str]]] = {
    "rounds": {"README.md": rounds.gains, "docs/rounds.md": rounds.table},
    "gap": {"docs/explanation.md": gap.table},
}


def differences(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """What of `before` is another in `now`, by path. Times may differ, and `now` may hold more."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before:
            if key not in _TIMES:
                yield from differences(before[key], now.get(key), f"{path}/{key}")
    elif before != now:
        yield f"{path[1:]}: {before} before, {now} now"


def restamp(paths: list[Path], code: str, checked: Mapping[str, Any]) -> None:
    """Says of results that the code with this digest makes them too."""
    for path in paths:
        found = read_json(path)
        write_json(path, found | {"stamp": found["stamp"] | {"code": code, "checked": dict(checked)}})


def placed(page: str, table: str) -> str:
    """The page with the table in place of the one that begins and ends alike."""
    first, last = table.splitlines()[0], table.splitlines()[-1].split(" at ")[0]
    start = page.find(first)
    end = page.find(last, start)
    if min(start, end) < 0:
        raise KkaError(f"recheck: a page wants a table that begins with {first[:40]}..., got none.")
    end = page.find("\n", end)
    return page[:start] + table + page[end if end >= 0 else len(page) :]


def copy(commit: str, arm: Arm) -> Path:
    """The project at a commit, without the result that is to be made again."""
    folder = COPIES / commit[:12]
    if not folder.exists():
        _git("worktree", "add", "--detach", str(folder), commit)
    begun = folder / "benchmarks" / "work" / f"begun-{arm.module}-{arm.prefix}{arm.seed}"
    if not begun.exists():
        (folder / arm.first).unlink(missing_ok=True)
        write_text(begun, "")
    return folder


def made_again(folder: Path, arm: Arm) -> Any:
    """The figures of the arm's first seed by the code in the folder."""
    command = [sys.executable, "-m", f"benchmarks.{arm.module}", *arm.arguments, "--threads", "1"]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return read_json(folder / arm.first)["figures"]


def digest_in(folder: Path, arm: Arm) -> str:
    told = f"from benchmarks import {arm.module}; print({arm.digest})"
    return subprocess.run(
        [sys.executable, "-c", told], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def check(arm: Arm, before: str, side: str) -> bool:
    """Makes the arm's first seed again at the commit `before` or at the present one (`side`), or both, and where both
    are there compares them. Whether the results are the present code's now."""
    now, made = _git("rev-parse", "HEAD"), read_json(ROOT / arm.first)["stamp"]["code"]
    folders = {"before": copy(_git("rev-parse", before), arm), "now": copy(now, arm)}
    if digest_in(folders["before"], arm) != made:
        raise KkaError(f"recheck: {arm.first} wants the commit whose code made it, got {before}. Name another.")
    figures = {name: made_again(folder, arm) for name, folder in folders.items() if side in (name, "both")}
    if len(figures) < 2:
        return False
    found = list(differences(figures["before"], figures["now"]))
    if found:
        raise KkaError(f"recheck: {arm.first} would be another now ({len(found)} figures). {'; '.join(found[:3])}")
    checked = {"commit": now, "seed": arm.seed, "processor": stamp.processor()}
    restamp(arm.results(ROOT), arm.code.digest(), checked)
    return True


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def write_pages(module: str) -> None:
    results = {path.stem: read_json(path) for path in sorted((ROOT / "benchmarks/results" / module).glob("*.json"))}
    for name, table in PAGES[module].items():
        page = ROOT / name
        write_text(page, placed(page.read_text(encoding="utf-8"), table(results)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(PAGES), metavar="BENCHMARK", help=", ".join(PAGES))
    parser.add_argument("--before", required=True, help="the commit whose code made the results")
    parser.add_argument(
        "--side", default="both", choices=("both", "before", "now"), help="run one alone, for two processes"
    )
    arguments = parser.parse_args()
    if _git("status", "--short", "--untracked-files=no"):
        sys.exit("recheck wants everything committed: what is compared are commits.")
    for module in arguments.modules:
        done = [check(arm, arguments.before, arguments.side) for arm in arms(module)]
        if all(done):
            write_pages(module)


if __name__ == "__main__":
    try:
        main()
    except KkaError as mistake:
        sys.exit(f"kka: {mistake}")

"""What every stage script stands on: the run it is given, and the guard around its `main`.

The same `main(run)` runs here under DVC, with MLflow listening, and in a loop within one process (`loop.py`) without
either.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kka.errors import Collapse, KkaError, out_of_space
from kka.log import Log, silent
from kka.project.config import Config, flatten, read_config
from kka.project.doctor import cores, preflight
from kka.project.errors import sentence
from kka.records import seed_of
from pipelines.layout import BASELINE, Layout, RoundFiles
from pipelines.tracking.live import home, recording

COLLAPSED = 3  # the exit code of a stage whose own parameters made nothing of use


@dataclass(frozen=True)
class Run:
    """One stage of one round: `round` continues `previous`; files lie beneath `root`."""

    config: Config
    round: str
    previous: str
    root: Path
    log: Log = silent

    @property
    def layout(self) -> Layout:
        """The files of the project."""
        return Layout(self.root)

    @property
    def files(self) -> RoundFiles:
        """The files of this round."""
        return self.layout.round(self.round)

    @property
    def before(self) -> RoundFiles:
        """The files of the round that this one continues."""
        return self.layout.round(self.previous)

    def seed(self, stage: str, *items: object) -> int:
        """The seed of a stage's item in this round."""
        return seed_of(self.config.seed, stage, self.round, *items)

    def fit_seeds(self, n: int) -> list[int]:
        """The seeds of the detector's fits: that of the round's own, and those of its repeats."""
        return [self.seed("detect"), *(self.seed("detect", i) for i in range(1, n))]

    def seeds(self, stage: str, *items: object, n: int) -> list[int]:
        """The seeds of `n` items, numbered behind `items`."""
        return [self.seed(stage, *items, i) for i in range(n)]


def stage(main: Callable[[Run], None], *, torch: bool = True) -> None:
    """Runs `main` on the round and its previous one in argv, with params.yaml from the current folder.

    A KkaError ends the process with its sentence on stderr and exit code 1. `torch` says whether the stage computes
    with it.
    """
    name = Path(sys.argv[0]).stem
    try:
        run = make_run(read_config(Path("params.yaml")), Path.cwd(), sys.argv[1:])
        link_ignored(run.config, run.root, home().parent)
        if name in ("prepare", "baseline"):  # in the first second, not after an hour
            preflight(run.config, run.root)
        if torch:
            prepare_torch()
        with recording(home(), run.config, name, run.round, run.root) as log:
            main(replace(run, log=log))
        if name == "report":
            # results that came from the cache are recorded now: the next experiment may have other parameters, and the
            # folder of a temporary one is gone in a moment
            subprocess.run([sys.executable, "-m", "pipelines.track", "reported"], check=False)
    except KkaError as error:
        print(marked(error), file=sys.stderr)
        sys.exit(COLLAPSED if isinstance(error, Collapse) else 1)
    except Exception as error:
        if not out_of_space(error):
            raise
        sys.exit(
            f"kka: {name}: no space left to write to ({error}). Free some (`dvc gc -w` removes old results) and run it"
            " again."
        )


def link_ignored(config: Config, root: Path, project: Path) -> None:
    """Links the models and data that params.yaml names by relative paths from the `project` into `root`, its temporary
    copy that `dvc exp run --temp` works in: DVC does not copy what git ignores, such as models/."""
    if root == project:
        return
    for path in _paths(config):
        source, link = project / path, Path(os.path.normpath(root / path))
        # a path that leaves the project leads to the folder of all its temporary copies
        ours = link.is_relative_to(root) or link.is_relative_to(project / ".dvc" / "tmp")
        if ours and source.exists() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):  # another copy that works at the same time was faster
                link.symlink_to(source.resolve())


def _paths(config: Config) -> Iterator[str]:
    """What may be a path in params.yaml; of a function in a file its file."""
    options = {name: getattr(config, name).options for name in ("prepare", "synthesize", "detect")}
    for _, value in flatten(options | {"model": config.describe.model}):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and item:
                yield item.partition(":")[0]


def marked(error: KkaError) -> str:
    """A mistake as it is printed: each of its lines begins with the program's name."""
    return "\n".join(f"kka: {line}" for line in sentence(error).splitlines())


def sentences(output: str) -> list[str]:
    """The lines of what a process printed that `marked` has marked, without the mark."""
    return [line.removeprefix("kka: ") for line in output.splitlines() if line.startswith("kka: ")]


def make_run(config: Config, root: Path, arguments: Sequence[str], log: Log = silent) -> Run:
    """The run for [round, previous]; round zero where none is named. Raises KkaError for a round that params.yaml does
    not hold."""
    name = arguments[0] if arguments else BASELINE
    if name != BASELINE and name not in config.rounds:
        raise KkaError(f"params.yaml: rounds has no '{name}'. It knows: {', '.join([BASELINE, *config.rounds])}.")
    previous = BASELINE if name == BASELINE else config.rounds[name].prev
    if len(arguments) > 1 and arguments[1] != previous:
        raise KkaError(
            f"params.yaml: rounds.{name} continues {previous}, but the stage was asked to continue {arguments[1]}."
        )
    return Run(config, name, previous, root, log)


def prepare_torch() -> None:
    """Threads that fit this process, and no subnormal numbers."""
    import torch

    torch.set_flush_denormal(True)  # subnormal numbers make trained small models 10 to 20 times slower on CPUs
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or cores()))

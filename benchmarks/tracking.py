"""What MLflow's records cost a run: `python -m benchmarks.tracking`, in a project whose whole loop has just run cold.

The share is of the seconds that the stages took. The watcher works beside them, so what it costs is its processor time
over the number of cores; the end is what `python -m pipelines.track` takes when nothing has been reconciled yet, and
again when nothing is left to do."""

import subprocess
import sys
import time
from pathlib import Path

from kka.errors import KkaError
from kka.project.doctor import cores
from kka.records import read_json

HOME = Path("mlruns")


def track() -> float:
    """Seconds of one reconciliation, Python's start included."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipelines.track"], check=True)
    return time.perf_counter() - began


def main() -> None:
    log, costs = HOME / "watcher.log", HOME / "seconds.json"
    words = log.read_text(encoding="utf-8").split() if log.exists() else []
    if words[1:] != ["s", "of", "processor", "time"] or not costs.exists():
        raise KkaError(
            "tracking wants a project whose loop has just run, and whose watcher has left (it waits for 30 s)."
            " Run `make repro`."
        )
    stages = sum(cost["seconds"] for cost in read_json(costs).values())
    (HOME / "reconciled.json").unlink(missing_ok=True)
    again, nothing = track(), [track() for _ in range(5)]
    beside = float(words[0]) / cores()
    print(
        f"stages {stages:.0f} s; watcher {words[0]} s of processor time, {beside:.1f} s on {cores()} cores,"
        f" {beside / stages:.1%}"
    )
    print(
        f"a reconciliation of all that is there already {again:.1f} s, {again / stages:.1%};"
        f" of nothing new {min(nothing):.2f} s"
    )


if __name__ == "__main__":
    try:
        main()
    except KkaError as error:
        sys.exit(f"kka: {error}")

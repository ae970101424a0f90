"""What the detectors cost: `python -m benchmarks.detectors [--peers PYTHON]`.

Fit time, scoring throughput, peak memory above what the process held before, and AUROC of every detector on drawn
flowers of 64x64 pixels: 1,000 normals and 200 anomalies to train with, 1,000 pictures to score. Each runs in a process
of its own.

`--peers` names the Python of another environment with anomalib, PyOD and transformers; then PatchCore and Deep SVDD are
compared with theirs on normals alone. PatchCore has the same backbone, weights, size of bank and score of the highest
patch; ours takes each channel in its deviations, theirs reweighs a score by its neighbourhood. PyOD's Deep SVDD is a
perceptron on raw pixels, ours a LeNet. Writes benchmarks/results/detectors.json."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "detectors.json"
PEERS = ("patchcore", "deep_sad", "anomalib patchcore", "pyod deep_svdd")


def data() -> dict[str, Any]:
    """Flowers of one species and of all others, uint8 (n, 64, 64, 3)."""
    from kka.datasets import blossom

    rng = np.random.default_rng(0)

    def drawn(n: int, distance: int) -> Any:
        return blossom.draw(blossom.flowers(n, distance, rng), rng, 64)

    return {
        "normals": drawn(1000, 0),
        "anomalies": drawn(200, 2),
        "test": np.concatenate([drawn(500, 0), drawn(500, 1)]),
    }


def one(name: str, threads: int, *, alone: bool) -> dict[str, float]:
    """The figures of one detector, fitted in this process."""
    import torch

    from kka.metrics import separation

    torch.set_flush_denormal(True)
    torch.set_num_threads(threads)
    given = data()
    fit, score = _peer(name) if " " in name else _own(name, None if alone else given["anomalies"])
    torch.zeros(64, 64) @ torch.zeros(64, 64)
    before = _peak()
    started = time.perf_counter()
    fit(given["normals"])
    fitted = time.perf_counter()
    scores = score(given["test"])
    ended = time.perf_counter()
    area = separation(scores[:500], scores[500:])
    return {
        "fit, s": fitted - started,
        "scored, pictures/s": 1000 / (ended - fitted),
        "peak memory, MB": _peak() - before,
        "AUROC": area,
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _own(name: str, anomalies: Any) -> tuple[Any, Any]:
    from kka import detectors

    alike = {
        "top_share": 0.0,
        "most_stored": 6400,
    }  # the highest patch, and a bank of a tenth of all, as anomalib has it
    options: dict[str, Any] = alike if name == "patchcore" and anomalies is None else {}
    detector = detectors.create(name, 0, **options)
    if hasattr(detector, "features"):
        _ = detector.features  # loading the backbone is no part of a fit, here and there
    return (lambda normals: detector.fit(normals, anomalies)), detector.score


def _peer(name: str) -> tuple[Any, Any]:
    return _anomalib() if name.startswith("anomalib") else _pyod()


def _anomalib() -> tuple[Any, Any]:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"):
        for operation in (
            operator,
            f"_{operator}_backward",
        ):  # declared here where torchvision's own library does not load
            if not hasattr(torch.ops.torchvision, operation):
                library.define(f"{operation}(Tensor a) -> Tensor")
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    from kka.detectors.shared import backbones

    backbone = backbones.load(backbones.BUILT_IN)

    class Same(torch.nn.Module):
        def forward(self, x: Any) -> dict[str, Any]:
            maps, _ = backbone(x)
            return {"layer2": maps[1], "layer3": maps[2]}

    torch.manual_seed(0)
    model = PatchcoreModel(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False)
    model.feature_extractor = Same()

    def batches(images: Any) -> Any:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).split(64)

    def fit(normals: Any) -> None:
        model.train()
        for batch in batches(normals):
            model(batch)
        model.subsample_embedding(0.1)

    def score(images: Any) -> Any:
        model.eval()
        with torch.no_grad():
            return torch.cat([model(batch).pred_score.flatten() for batch in batches(images)]).numpy()

    return fit, score


def _pyod() -> tuple[Any, Any]:
    from pyod.models.deep_svdd import DeepSVDD

    model = DeepSVDD(n_features=64 * 64 * 3, use_ae=False, verbose=0, random_state=0)

    def flat(images: Any) -> Any:
        return images.reshape(len(images), -1) / 255.0

    return (lambda normals: model.fit(flat(normals))), (lambda images: model.decision_function(flat(images)))


def table(found: dict[str, dict[str, float]]) -> str:
    figures = list(next(iter(found.values())))
    lines = [f"| detector | {' | '.join(figures)} |", f"|---|{'---|' * len(figures)}"]
    for name, values in found.items():
        lines.append(
            f"| {name} | {' | '.join(f'{values[f]:.3f}' if f == 'AUROC' else f'{values[f]:,.1f}' for f in figures)} |"
        )
    return "\n".join(lines)


def tables(result: dict[str, Any]) -> str:
    """Markdown: the detectors, and beside their peers where those were measured."""
    from benchmarks import stamp

    return "\n\n".join([*(table(found) for found in result["figures"].values()), stamp.line([result])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the Python of an environment with anomalib, pyod and transformers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.threads, alone=arguments.alone)))
        return

    def measured(name: str, *more: str) -> dict[str, float]:
        python = arguments.peers if " " in name else sys.executable
        command = [python, "-m", "benchmarks.detectors", "--one", name, "--threads", str(arguments.threads), *more]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, check=False)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-500:]}")
        print(name, done.stdout.splitlines()[-1], flush=True)
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    from benchmarks import stamp
    from benchmarks.digest import Code
    from kka import detectors
    from kka.records import read_json

    made = stamp.make(Code("benchmarks/detectors.py", ("one",), also=("kka/detectors", "kka/mini/features")))
    results = {"detectors": {name: measured(name) for name in detectors.names()}}
    if arguments.peers:
        results["peers"] = {name: measured(name, "--alone") for name in PEERS}
    stamp.write(RESULTS, results, made)
    print(tables(read_json(RESULTS)))


if __name__ == "__main__":
    main()

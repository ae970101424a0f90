"""The frozen records that cross a stage boundary, and the one way to write a file or a folder whole.

A file of records is JSON lines, written whole and read strictly: a line that does not fit is an error with file, line
and field."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from kka.errors import BrokenFile, KkaError

Images = NDArray[np.uint8]  # RGB, (n, h, w, 3)
Image = NDArray[np.uint8]  # RGB, (h, w, 3)
Masks = NDArray[np.bool_]  # where pictures are anomalous, (n, h, w)
PARTS = ("train", "calibration", "validation", "test")  # the names of splits
T = TypeVar("T")
Outcome = Literal["kept", "normal", "unreadable", "duplicate"]
Grade = Literal["hard", "between", "easy", "hopeless"]


@dataclass(frozen=True)
class Split:
    """Images uint8 (n, h, w, 3), and for each: caption (of several each a line), label (0 normal, 1 anomalous), group
    (class, defect or distance). `masks` (n, h, w) say where; they are there where somebody has drawn them, all False
    for a normal picture, and for an anomalous one that has none."""

    images: Images
    captions: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    masks: Masks | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.captions), len(self.labels), len(self.groups)}
        if len(lengths) > 1:
            raise KkaError(
                f"a split wants as many captions, labels and groups as images, got lengths {sorted(lengths)}"
            )
        if self.masks is not None and self.masks.shape != self.images.shape[:3]:
            raise KkaError(f"a split wants masks of its images' shape {self.images.shape[:3]}, got {self.masks.shape}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: "NDArray[np.int64] | NDArray[np.bool_]") -> "Split":
        """The rows at `index`, in its order (or where it is true)."""
        rows = np.arange(len(self))[index]
        return Split(
            self.images[rows],
            tuple(self.captions[i] for i in rows),
            self.labels[rows],
            tuple(self.groups[i] for i in rows),
            None if self.masks is None else self.masks[rows],
        )


@dataclass(frozen=True)
class Changes:
    """What anomalies were made from: their `sources`, normal pictures (n, h, w, 3), and `masks` (n, h, w), outside of
    which nothing was changed."""

    sources: Images
    masks: Masks

    def __post_init__(self) -> None:
        if self.masks.shape != self.sources.shape[:3]:
            raise KkaError(
                f"changes want masks of their sources' shape {self.sources.shape[:3]}, got {self.masks.shape}"
            )

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, index: "NDArray[np.int64] | NDArray[np.bool_]") -> "Changes":
        """The rows at `index`, in its order (or where it is true)."""
        return Changes(self.sources[index], self.masks[index])


@dataclass(frozen=True)
class Splits:
    """Train and calibration hold normals only; validation and test hold both, or normals where no anomalies are
    known."""

    train: Split
    calibration: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Description:
    """One attempt of the language model. `similarity` is to the nearest normal caption (0 to 1); `likelihood` is the
    log-probability of its least likely token (nats) under the language model without its adapter."""

    id: str
    text: str
    outcome: Outcome
    similarity: float
    likelihood: float


@dataclass(frozen=True)
class Anomaly:
    """One generated image that may enter training: where it stands (`round`, `row`), and what the evaluator said.

    `score` is from the detector of the round before, which had never seen it; `score_r0` from the one of round zero.
    `effect` is how far a detector that learnt from its siblings scores it above the picture that it was made from, in
    standard deviations of that detector's scores of calibration normals; None where nobody has measured it.
    """

    id: str
    round: str
    row: int
    text: str
    score: float
    score_r0: float
    grade: Grade
    sha256: str
    effect: float | None = None


@dataclass(frozen=True)
class Pair:
    """A preference: `chosen` describes a harder anomaly than `rejected`."""

    chosen: str
    rejected: str
    part: Literal["train", "validation"]


@dataclass(frozen=True)
class Mistake:
    """A picture of the test split, at its `row`, that a detector scored as if its label were the other one."""

    row: int
    label: int
    group: str
    caption: str
    score: float


def seed_of(*names: object) -> int:
    """A seed of 63 bits from names by hashing, so that a stage, a round and an item each have their own."""
    digest = hashlib.sha256("/".join(str(n) for n in names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write to beside `path`. It takes that name when the block ends well, and is removed when it does not;
    what stood there before stays until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(path, "part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write to beside `path`. It takes that name when the block ends well, and is removed when it
    does not; a folder that stood there before stays until then."""
    part = _beside(path, "part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(part: Path, path: Path) -> None:
    """Renames the folder `part` to `path`, in place of a folder that stands there."""
    old = _beside(path, "old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    try:
        part.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, kind: str) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f"{path.name}.{os.getpid()}.{kind}")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or none, in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file or none."""
    with whole_file(path) as part:
        part.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """One JSON value, its keys in the order given; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value that `write_json` wrote. Raises BrokenFile where it is missing or broken."""
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise BrokenFile(f"{path}: wanted one JSON value, got a broken file ({error}).") from None


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Dataclass records as JSON lines, in their order; a field that is None is left out."""
    lines = ({key: value for key, value in dataclasses.asdict(r).items() if value is not None} for r in records)
    write_text(path, "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines))


def read_records(path: Path, kind: type[T]) -> list[T]:
    """Records of one kind. Raises BrokenFile with file, line and field for a line that does not fit."""
    adapter = TypeAdapter(kind)
    return [_record(adapter, path, i, line) for i, line in enumerate(_text(path).splitlines(), start=1)]


def _record(adapter: TypeAdapter[T], path: Path, number: int, line: str) -> T:
    try:
        return adapter.validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"]) or "the record"
        raise BrokenFile(f"{path}, line {number}, {field}: {first['msg']}.") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BrokenFile(f"{path} is missing.") from None
    except UnicodeDecodeError:
        raise BrokenFile(f"{path}: wanted UTF-8 text, got other bytes.") from None


def sha256(image: Image) -> str:
    """The hash of one image's pixels, that ties a record to its picture."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def texts(records: Sequence[Description], outcome: Outcome) -> list[str]:
    """The texts of the attempts that ended in `outcome`."""
    return [r.text for r in records if r.outcome == outcome]

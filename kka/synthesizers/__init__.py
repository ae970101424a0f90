"""The synthesizers, one file each, that turn descriptions into pictures: a file holds a dataclass `Synthesizer` of its
options."""

import hashlib
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from kka import images, registry
from kka.errors import KkaError
from kka.records import Images, replace_folder, sha256


class Synthesizer(Protocol):
    """What every synthesizer can do. Its repr says what its pictures depend on, as a dataclass's does."""

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> Images:
        """One picture for each text, from its seed; uint8 (n, h, w, 3)."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """A synthesizer that hands out pictures that there are, each at most once."""

    def exclude(self, hashes: Collection[str], size: int) -> None:
        """Never hands out the pictures that have these hashes (`records.sha256`) once prepared to `size`."""
        ...


def names() -> list[str]:
    """The synthesizers that there are."""
    return registry.names(__name__)


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raises KkaError for an unknown name or option, or a value of another type than the synthesizer says."""
    make = registry.find(__name__, name).Synthesizer
    registry.check_options(f"the synthesizer '{name}'", options, make)
    registry.check_types(f"the synthesizer '{name}'", options, make)


def create(name: str, options: dict[str, Any], **data: Any) -> Synthesizer:
    """A synthesizer by name. `data` says what the project's data are (dataset, dataset_options, image_size): a
    synthesizer is given what it takes of that, unless its options say otherwise. Raises KkaError for an unknown name or
    option."""
    check_options(name, options)
    make = registry.find(__name__, name).Synthesizer
    known = registry.keywords(make)
    made: Synthesizer = make(**{k: v for k, v in data.items() if k in known} | options)
    return made


def check_generates(name: str, synthesizer: Synthesizer) -> None:
    """Raises KkaError for a retriever: photographs have the right spectrum, and are told apart by their bytes."""
    if isinstance(synthesizer, Retriever):
        raise KkaError(
            f"synthesize.match_spectrum: '{name}' hands out photographs, which have nothing to match. Set it to false."
        )


def synthesize_shards(
    synthesizer: Synthesizer,
    texts: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    size: int,
    micro_batch: int,
    done: Callable[[int], None] = lambda made: None,
    *,
    earlier: Sequence[str] = (),
) -> None:
    """Writes one picture for each text to `folder`, prepared to `size`, in shards; `done` hears how many there are.

    Shards grow in a scratch folder beside `folder`, named by all that the pictures depend on, and come over when all
    are there: a run that was stopped goes on behind its last whole shard, with the same bytes. Micro-batches begin at
    fixed places in a shard, for a batch's size can change a picture's last bits. `earlier` holds the hashes of the
    pictures of earlier rounds, which a retriever does not hand out again."""
    scratch = _scratch(
        folder,
        repr((type(synthesizer).__module__, synthesizer, list(texts), list(seeds), size, micro_batch, sorted(earlier))),
    )
    _exclude(synthesizer, earlier, size)
    with tqdm(total=len(texts), desc=f"pictures for {folder.name}", unit="picture", disable=None) as bar:
        for number, start in enumerate(range(0, len(texts), images.SHARD)):
            rows = range(start, min(start + images.SHARD, len(texts)))
            shard = _finished(images.shard_path(scratch, number), len(rows), size)
            if shard is None:
                shard = _make(
                    synthesizer, [texts[i] for i in rows], [seeds[i] for i in rows], size, micro_batch, bar.update
                )
                images.write_shard(scratch, number, shard)
            else:
                bar.update(len(rows))
            _exclude(synthesizer, [sha256(picture) for picture in shard], size)
            done(rows.stop)
    _come_over(scratch, folder, -(-len(texts) // images.SHARD))


def _make(
    synthesizer: Synthesizer,
    texts: Sequence[str],
    seeds: Sequence[int],
    size: int,
    micro_batch: int,
    made: Callable[[int], object],
) -> Images:
    parts = []
    for i in range(0, len(texts), micro_batch):
        raw = synthesizer.synthesize(texts[i : i + micro_batch], seeds[i : i + micro_batch])
        parts.append(images.prepare(list(raw), size))
        made(len(raw))
    return np.concatenate(parts)


def _exclude(synthesizer: Synthesizer, hashes: Sequence[str], size: int) -> None:
    if hashes and isinstance(synthesizer, Retriever):
        synthesizer.exclude(frozenset(hashes), size)


def _scratch(folder: Path, depends: str) -> Path:
    """The scratch folder for pictures that depend on this; those of other runs that were stopped are removed."""
    scratch = folder.with_name(f"{folder.name}.{hashlib.sha256(depends.encode()).hexdigest()[:12]}.part")
    for other in folder.parent.glob(f"{folder.name}.*.part"):
        if other != scratch:
            shutil.rmtree(other)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def _finished(path: Path, n: int, size: int) -> Images | None:
    """The shard of an earlier run, or None where it is not there, broken or not what it should be."""
    if not path.exists():
        return None
    try:
        shard = images.read_shard(path)
    except KkaError:
        return None
    return shard if shard.shape == (n, size, size, 3) else None


def _come_over(scratch: Path, folder: Path, shards: int) -> None:
    """Turns the scratch folder into `folder`, without what a killed run may have left in it."""
    wanted = {images.shard_path(scratch, i) for i in range(shards)}
    for stray in set(scratch.iterdir()) - wanted:
        stray.unlink()
    replace_folder(scratch, folder)

"""The synthesizers, one file each, that turn descriptions into pictures: a file holds a dataclass `Synthesizer` of its
options."""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from kka import images, registry
from kka.errors import KkaError
from kka.records import Changes, Images, replace_folder, sha256, write_text

DETAILS = "details.jsonl"


@dataclass(frozen=True)
class Drawn:
    """Pictures (n, h, w, 3) with what they were made from, and for each what the synthesizer read in its text, as plain
    values for a line of json."""

    images: Images
    changes: Changes
    details: tuple[dict[str, Any], ...]


class Synthesizer(Protocol):
    """What every synthesizer can do. Its repr says what its pictures depend on, as a dataclass's does."""

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> Images | Drawn:
        """One picture for each text, from its seed; uint8 (n, h, w, 3). Those that begin as normal pictures come with
        their changes."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """A synthesizer that hands out pictures that there are, each at most once."""

    def exclude(self, hashes: Collection[str], size: int) -> None:
        """Never hands out the pictures that have these hashes (`records.sha256`) once prepared to `size`."""
        ...


@runtime_checkable
class Retoucher(Protocol):
    """A synthesizer that draws on photographs, and leaves them as they are beside what it draws."""

    draws_on: str

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """One picture for each text, with what it was made from; `draws_on` is the hash of all that may be that."""
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
    """Raises KkaError for a retriever, and for one that draws on photographs: those have the right spectrum, and are
    told apart by their bytes."""
    if isinstance(synthesizer, Retriever | Retoucher):
        does = "hands out" if isinstance(synthesizer, Retriever) else "draws on"
        raise KkaError(
            f"synthesize.match_spectrum: '{name}' {does} photographs, which have nothing to match. Set it to false."
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
    fixed places in a shard, for a batch's size can change a picture's last bits. Changes are written beside the
    pictures (`images.read_changes`), and a line of details for each to details.jsonl. `earlier` holds the hashes of the
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
                made = _make(
                    synthesizer, [texts[i] for i in rows], [seeds[i] for i in rows], size, micro_batch, bar.update
                )
                shard = _write(scratch, number, made)
            else:
                bar.update(len(rows))
            _exclude(synthesizer, [sha256(picture) for picture in shard], size)
            done(rows.stop)
    _come_over(scratch, folder, -(-len(texts) // images.SHARD))


def read_details(folder: Path) -> list[dict[str, Any]]:
    """What the synthesizer said of each picture of a folder; nothing where it said nothing."""
    path = folder / DETAILS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _make(
    synthesizer: Synthesizer,
    texts: Sequence[str],
    seeds: Sequence[int],
    size: int,
    micro_batch: int,
    made: Callable[[int], object],
) -> Images | Drawn:
    parts: list[Images] = []
    drawn: list[Drawn] = []
    for i in range(0, len(texts), micro_batch):
        raw = synthesizer.synthesize(texts[i : i + micro_batch], seeds[i : i + micro_batch])
        pictures = raw.images if isinstance(raw, Drawn) else raw
        parts.append(images.prepare(list(pictures), size))
        if isinstance(raw, Drawn):
            drawn.append(raw)
        made(len(pictures))
    if not drawn:
        return np.concatenate(parts)
    sources = np.concatenate([images.prepare(list(d.changes.sources), size) for d in drawn])
    masks = np.concatenate([images.prepare_masks(d.changes.masks, size) for d in drawn])
    return Drawn(np.concatenate(parts), Changes(sources, masks), tuple(line for d in drawn for line in d.details))


def _write(scratch: Path, number: int, made: Images | Drawn) -> Images:
    """Writes a shard, that of the pictures last: where it stands, all that belongs to it does."""
    if not isinstance(made, Drawn):
        images.write_shard(scratch, number, made)
        return made
    write_text(_details(scratch, number), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made.details))
    images.write_changes_shard(scratch, number, made.changes)
    images.write_shard(scratch, number, made.images)
    return made.images


def _details(folder: Path, number: int) -> Path:
    return folder / f"details-{number:05d}.jsonl"


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
    if _details(scratch, 0).exists():
        write_text(scratch / DETAILS, "".join(_details(scratch, i).read_text(encoding="utf-8") for i in range(shards)))
    wanted = {scratch / DETAILS, *(scratch / part for part in images.CHANGES)}
    wanted |= {images.shard_path(place, i) for i in range(shards) for place in (scratch, *wanted)}
    for stray in set(scratch.rglob("*")) - wanted:
        stray.unlink()
    replace_folder(scratch, folder)

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from kka import images, synthesizers
from kka.errors import KkaError
from kka.records import Changes, sha256
from kka.synthesizers import synthesize_shards

TEXTS, SEEDS = [f"text {i}" for i in range(10)], list(range(10))


@dataclass
class Noise:
    """Noise of the seed; the last bit of each picture says how large the batch was, as a real model's may."""

    calls: list[int] = field(default_factory=list, repr=False)
    stop_at: int | None = field(default=None, repr=False)

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        self.calls.append(seeds[0])
        if self.stop_at is not None and self.stop_at in seeds:
            raise KeyboardInterrupt
        pictures = [np.random.default_rng(s).integers(0, 255, (8, 8, 3)).astype(np.uint8) for s in seeds]
        return np.stack(pictures) // 16 * 16 + np.uint8(len(seeds))


@dataclass
class Shelf:
    """Hands out the numbers 0, 1, 2, ... as pictures, each once, the lowest first."""

    taken: set[int] = field(default_factory=set, repr=False)

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return np.stack([self._next() for _ in texts])

    def _next(self) -> np.ndarray:
        number = next(i for i in range(256) if i not in self.taken)
        self.taken.add(number)
        return picture(number)

    def exclude(self, hashes: Sequence[str], size: int) -> None:
        self.taken |= {i for i in range(256) if sha256(picture(i)) in set(hashes)}


def picture(number: int) -> np.ndarray:
    return np.full((8, 8, 3), number, np.uint8)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SHARD", 4)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def scratch(folder: Path) -> Path:
    (found,) = folder.parent.glob(f"{folder.name}.*.part")
    return found


def test_pictures_stand_in_order_in_shards_of_the_asked_size(tmp_path: Path) -> None:
    told: list[int] = []
    synthesize_shards(Noise(), TEXTS, SEEDS, tmp_path / "a", 16, 3, told.append)
    assert list(content(tmp_path / "a")) == ["images-00000.parquet", "images-00001.parquet", "images-00002.parquet"]
    assert images.read_images(tmp_path / "a").shape == (10, 16, 16, 3)
    assert told == [4, 8, 10]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_micro_batches_begin_at_fixed_places(tmp_path: Path) -> None:
    made = Noise()
    synthesize_shards(made, TEXTS, SEEDS, tmp_path / "a", 8, 3)
    assert made.calls == [0, 3, 4, 7, 8]


def test_a_stopped_run_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    synthesize_shards(Noise(), TEXTS, SEEDS, tmp_path / "whole", 8, 3)
    with pytest.raises(KeyboardInterrupt):
        synthesize_shards(Noise(stop_at=5), TEXTS, SEEDS, tmp_path / "a", 8, 3)
    assert not (tmp_path / "a").exists()
    first = scratch(tmp_path / "a") / "images-00000.parquet"
    (first.parent / "images-00001.parquet.99.part").write_bytes(b"left by a killed process")
    inode, again = first.stat().st_ino, Noise()
    synthesize_shards(again, TEXTS, SEEDS, tmp_path / "a", 8, 3)
    assert again.calls == [4, 7, 8]
    assert (tmp_path / "a" / first.name).stat().st_ino == inode
    assert content(tmp_path / "a") == content(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "whole"]


def test_a_killed_process_leaves_its_whole_shards(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom pathlib import Path\nimport test_shards as t\nt.images.SHARD = 4\n"
        "def done(made):\n    if made == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "t.synthesize_shards(t.Noise(), t.TEXTS, t.SEEDS, Path(sys.argv[1]), 8, 3, done)\n"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    killed = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path[:0] = {folders}\n{program}", str(tmp_path / "a")], check=False
    )
    assert killed.returncode == -9
    assert sorted(p.name for p in scratch(tmp_path / "a").iterdir()) == ["images-00000.parquet", "images-00001.parquet"]


def test_a_broken_shard_is_made_again(tmp_path: Path) -> None:
    synthesize_shards(Noise(), TEXTS, SEEDS, tmp_path / "whole", 8, 3)
    with pytest.raises(KeyboardInterrupt):
        synthesize_shards(Noise(stop_at=9), TEXTS, SEEDS, tmp_path / "a", 8, 3)
    first = scratch(tmp_path / "a") / "images-00000.parquet"
    first.write_bytes(first.read_bytes()[:100])
    again = Noise()
    synthesize_shards(again, TEXTS, SEEDS, tmp_path / "a", 8, 3)
    assert again.calls == [0, 3, 8]
    assert content(tmp_path / "a") == content(tmp_path / "whole")


def test_other_texts_start_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        synthesize_shards(Noise(stop_at=9), TEXTS, SEEDS, tmp_path / "a", 8, 3)
    again = Noise()
    synthesize_shards(again, ["other", *TEXTS[1:]], SEEDS, tmp_path / "a", 8, 3)
    assert again.calls == [0, 3, 4, 7, 8]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_stood_there_is_replaced(tmp_path: Path) -> None:
    synthesize_shards(Noise(), TEXTS, SEEDS, tmp_path / "a", 8, 3)
    synthesize_shards(Noise(), TEXTS[:3], SEEDS[:3], tmp_path / "a", 8, 3)
    assert list(content(tmp_path / "a")) == ["images-00000.parquet"]


def test_no_texts_make_an_empty_folder(tmp_path: Path) -> None:
    synthesize_shards(Noise(), [], [], tmp_path / "a", 8, 3)
    assert content(tmp_path / "a") == {}


def test_a_retriever_repeats_nothing_over_shards_rounds_and_stops(tmp_path: Path) -> None:
    earlier = [sha256(picture(i)) for i in (0, 2)]
    synthesize_shards(Shelf(), TEXTS, SEEDS, tmp_path / "whole", 8, 3, earlier=earlier)
    assert images.read_images(tmp_path / "whole")[:, 0, 0, 0].tolist() == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]

    def stop(made: int) -> None:
        if made == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize_shards(Shelf(), TEXTS, SEEDS, tmp_path / "a", 8, 3, stop, earlier=earlier)
    synthesize_shards(Shelf(), TEXTS, SEEDS, tmp_path / "a", 8, 3, earlier=earlier)
    assert content(tmp_path / "a") == content(tmp_path / "whole")


def test_the_progress_bar_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize_shards(Noise(), TEXTS, SEEDS, tmp_path / "a", 8, 3)
    assert capsys.readouterr().out == ""


def test_the_folder_is_the_registry() -> None:
    assert synthesizers.names() == ["bank", "diffusion", "retouch"]
    with pytest.raises(KkaError, match="^kka/synthesizers has no 'bnak'. Did you mean 'bank'\\?$"):
        synthesizers.create("bnak", {})


class Retouching:
    """Draws a white square on one normal picture."""

    def __repr__(self) -> str:
        return "Retouching()"

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> synthesizers.Drawn:
        sources = np.full((len(texts), 32, 32, 3), 90, np.uint8)
        masks = np.zeros((len(texts), 32, 32), bool)
        masks[:, 8:16, 8:16] = True
        drawn = np.where(masks[..., None], 255, sources).astype(np.uint8)
        return synthesizers.Drawn(drawn, Changes(sources, masks), tuple({"text": t} for t in texts))


def test_changes_and_details_stand_beside_their_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "SHARD", 4)
    folder = tmp_path / "anomalies"
    texts = [f"a scratch {i}" for i in range(9)]
    synthesizers.synthesize_shards(Retouching(), texts, list(range(9)), folder, 16, 3)
    changes = images.read_changes(folder)
    assert changes is not None and len(changes) == len(images.read_images(folder)) == 9
    assert changes.masks[:, 4:8, 4:8].all() and changes.masks.sum() == 9 * 16
    assert (changes.sources == 90).all()
    assert synthesizers.read_details(folder) == [{"text": t} for t in texts]
    assert not list(folder.glob("details-*")) and not list(tmp_path.glob("*.part"))


def test_pictures_that_begin_as_noise_have_no_changes(tmp_path: Path) -> None:
    images.write_images(tmp_path, np.zeros((2, 16, 16, 3), np.uint8))
    assert images.read_changes(tmp_path) is None and synthesizers.read_details(tmp_path) == []

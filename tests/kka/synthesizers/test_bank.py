import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kka import datasets
from kka.datasets import cifar100
from kka.errors import Collapse, KkaError
from kka.images import prepare
from kka.records import Split, sha256
from kka.synthesizers import create
from kka.synthesizers.bank import Synthesizer as Bank
from tests import standins
from tests.conftest import cached, png

THINGS = ("fox", "maple tree", "red tractor", "clock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five grey photographs of each thing in two files, each as bright as its number times ten; photograph 20 is 0 once
    more."""
    captions = [f"a photo of a {THINGS[i // 5]}" for i in range(20)] + ["a photo of a fox"]
    pictures = [encoded(i % 20) for i in range(21)]
    for name, rows in (("a", slice(0, 12)), ("b", slice(12, None))):
        write(tmp_path / "archive" / f"{name}.parquet", {"image": pictures[rows], "caption": captions[rows]})
    return tmp_path / "archive"


def encoded(number: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 32), (number * 10,) * 3).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def bank(folder: Path) -> Bank:
    return Bank(archive=str(folder), image_size=8)


def numbers(images: np.ndarray) -> list[int]:
    return [int(image[0, 0, 0]) // 10 for image in images]


def test_the_caption_that_fits_best_wins(folder: Path) -> None:
    out = bank(folder).synthesize(
        ["this picture shows a maple tree", "a clock, seen in a photo", "an old red tractor", "fox"], [1, 2, 3, 4]
    )
    assert out.shape == (4, 8, 8, 3) and out.dtype == np.uint8
    assert [n // 5 for n in numbers(out)] == [1, 3, 2, 0]


def test_each_photograph_at_most_once_though_it_stands_there_twice(folder: Path) -> None:
    out = bank(folder).synthesize(["a fox"] * 20, range(20))
    assert sorted(numbers(out)) == list(range(20))
    assert {n // 5 for n in numbers(out[:5])} == {0}  # the foxes first, then what is left


def test_an_archive_that_is_used_up_is_one_sentence(folder: Path) -> None:
    with pytest.raises(
        Collapse,
        match="^the bank wanted a photograph for 'a fox', got none: all 20 are used up. Lower describe.count, or give",
    ):
        bank(folder).synthesize(["a fox"] * 21, range(21))


def test_the_seed_breaks_ties_and_nothing_else(folder: Path) -> None:
    firsts = {numbers(bank(folder).synthesize(["a fox"], [seed]))[0] for seed in range(40)}
    assert firsts == {0, 1, 2, 3, 4}
    for seed in range(3):
        assert numbers(bank(folder).synthesize(["a fox"], [seed])) == numbers(
            bank(folder).synthesize(["a fox"], [seed])
        )


def test_batches_do_not_matter(folder: Path) -> None:
    texts, seeds = ["a fox", "a clock", "a fox", "a tractor", "a fox"], [5, 6, 7, 8, 9]
    whole, parts = bank(folder), bank(folder)
    single = [parts.synthesize([t], [s])[0] for t, s in zip(texts, seeds, strict=True)]
    assert np.array_equal(whole.synthesize(texts, seeds), np.stack(single))


def test_excluded_photographs_do_not_come_in_any_size(folder: Path) -> None:
    first = bank(folder).synthesize(["a fox"] * 3, [1, 2, 3])
    for size in (8, 4):
        later = bank(folder)
        later.exclude([sha256(p) for p in prepare(list(first), size)], size)
        again = numbers(later.synthesize(["a fox"] * 5, [1, 2, 3, 4, 5]))
        assert not set(again) & set(numbers(first))
        assert sum(n < 5 for n in again) == 2


def test_photographs_are_prepared_like_all_others(tmp_path: Path) -> None:
    """What is transparent is white, as in a data set of files."""
    buffer = io.BytesIO()
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(buffer, format="PNG")
    write(
        tmp_path / "archive" / "a.parquet",
        {"image": [{"bytes": buffer.getvalue(), "path": None}], "caption": ["nothing"]},
    )
    assert (bank(tmp_path / "archive").synthesize(["nothing"], [0]) == 255).all()


def test_an_archive_comes_from_the_hub_too(folder: Path, hub_cache: Path) -> None:
    shutil.copytree(folder, cached(hub_cache, "someone/things"), dirs_exist_ok=True)
    made = Bank(archive="someone/things", image_size=8)
    assert np.array_equal(made.synthesize(["a clock"], [0]), bank(folder).synthesize(["a clock"], [0]))
    with pytest.raises(
        KkaError, match="^synthesize.options.archive: 'someone/nothing' is no folder here and could not be had"
    ):
        Bank(archive="someone/nothing")


def test_a_text_that_shares_no_word_with_the_archive_takes_what_is_left(folder: Path) -> None:
    assert numbers(bank(folder).synthesize(["zebra"], [1])) == numbers(bank(folder).synthesize(["zebra"], [1]))


def test_a_text_model_tells_what_fits(folder: Path, tmp_path: Path) -> None:
    """Random weights know what is equal, and that is all that is asked of them here."""
    model = standins.language_model(tmp_path / "model", "qwen2", [f"a photo of a {t}" for t in THINGS])
    made = Bank(archive=str(folder), image_size=8, embedder=model)
    out = numbers(made.synthesize([f"a photo of a {t}" for t in THINGS], [1, 2, 3, 4]))
    assert [n // 5 for n in out] == [0, 1, 2, 3]
    with pytest.raises(
        KkaError, match="^embedder: wanted a text model by Hugging Face id or path, got 'nowhere/at/all'"
    ):
        Bank(archive=str(folder), embedder="nowhere/at/all")


def test_a_large_archive_is_not_held_in_memory(tmp_path: Path) -> None:
    """10,000 photographs of 48 KB each, decoded: half a gigabyte. The peak of the process is asked for in one of its
    own."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 3)).astype(np.uint8)
    for part in range(5):
        rows = [
            png(np.roll(pixels[i % 200], i // 200 + 10 * part, axis=1).repeat(32, 0).repeat(32, 1)) for i in range(2000)
        ]
        columns = {
            "image": [{"bytes": r, "path": None} for r in rows],
            "caption": [f"number {part} {i}" for i in range(2000)],
        }
        path = tmp_path / "archive" / f"{part}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), path, row_group_size=200)
    program = """
import resource, sys
from kka.synthesizers.bank import Synthesizer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = Synthesizer(archive=sys.argv[1], image_size=128)
shape = made.synthesize(["number 3 1234", "number 4 5"], [0, 0]).shape
print(shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    told = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "archive")], capture_output=True, text=True, check=True
    )
    shape, megabytes = told.stdout.rsplit(" ", 1)
    assert shape == "(2, 128, 128, 3)" and float(megabytes) < 200


def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        KkaError, match="^synthesize.options: the bank wants a dataset or an archive folder, got neither.$"
    ):
        create("bank", {})
    with pytest.raises(
        KkaError, match="the synthesizer 'bank' has the unknown option 'achive'. Did you mean 'archive'"
    ):
        create("bank", {"achive": "x"})
    with pytest.raises(
        KkaError, match="archive: wanted parquet files with a caption for each photograph in .*nowhere, got 0 files"
    ):
        create("bank", {"archive": str(tmp_path / "nowhere")})
    write(tmp_path / "blank" / "a.parquet", {"image": [encoded(1)], "caption": [" "]})
    with pytest.raises(
        KkaError, match="wanted parquet files with a caption for each photograph in .*blank, got an empty one"
    ):
        create("bank", {"archive": str(tmp_path / "blank")})
    with pytest.raises(KkaError, match="kka/datasets has no 'cifar'. Did you mean 'cifar100'"):
        create("bank", {"dataset": "cifar"})


def test_the_data_set_of_the_project_is_taken_unless_the_options_say_otherwise(
    cifar100_folder: Path, folder: Path
) -> None:
    data = {"dataset": "cifar100", "dataset_options": {"source": str(cifar100_folder), "train": 10}, "image_size": 16}
    made: Any = create("bank", {}, **data)
    assert made.synthesize(["a photo of an apple"], [1]).shape == (1, 16, 16, 3)
    other: Any = create("bank", {"archive": str(folder)}, **data)
    assert numbers(other.synthesize(["a clock"], [1]))[0] // 5 == 3


def test_real_photographs_are_of_the_class_that_the_description_names(
    cifar100_archive: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "archive", lambda *_, **__: cifar100_archive)
    rng = np.random.default_rng(0)
    shown = {sha256(p): g for p, g in zip(cifar100_archive.images, cifar100_archive.groups, strict=True)}
    wanted = rng.choice(sorted(set(cifar100_archive.groups))[:8], 300)
    out = Bank(dataset="cifar100").synthesize([cifar100.caption(str(w), rng) for w in wanted], range(300))
    assert [shown[sha256(p)] for p in out] == wanted.tolist()
    assert len({sha256(p) for p in out}) == 300

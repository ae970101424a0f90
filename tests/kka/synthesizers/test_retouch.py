"""Defects from words on normal photographs: what comes back, what is said of it, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from kka import images, synthesizers
from kka.defects.scenes import tally
from kka.defects.vocabulary import FILE
from kka.errors import KkaError
from kka.records import Images
from kka.synthesizers.retouch import Synthesizer

TEXTS = [
    "a long pale scratch across the upper left",
    "two small dark pits near the edge",
    "a missing corner",
    "a large brown stain in the middle",
    "a photo of a good part",
    "a grumbling wobble in the centre",
]
SEEDS = [3, 1, 4, 1, 5, 9]


def photographs(n: int = 4, size: int = 64) -> Images:
    """Round parts, brown on a light ground, no two alike."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    parts = []
    for _ in range(n):
        inside = np.hypot(y - size / 2 - rng.normal(0, 2), x - size / 2) < size / 3
        parts.append(np.where(inside[..., None], (150, 110, 80), (225, 230, 235)) + rng.normal(0, 3, (size, size, 1)))
    return np.stack(parts).clip(0, 255).astype(np.uint8)


NORMALS = photographs()


def test_pictures_are_normals_changed_in_their_masks() -> None:
    drawn = Synthesizer(normals=NORMALS).synthesize(TEXTS, SEEDS)
    assert drawn.images.shape == (6, 64, 64, 3) and drawn.images.dtype == np.uint8
    assert drawn.changes.masks.shape == (6, 64, 64)
    for i, line in enumerate(drawn.details):
        assert np.array_equal(drawn.changes.sources[i], NORMALS[line["source"]])
        differs = (drawn.images[i] != drawn.changes.sources[i]).any(axis=-1)
        assert np.array_equal(differs, drawn.changes.masks[i]) and line["changed"] == differs.sum()
    assert drawn.changes.masks.any(axis=(1, 2)).tolist() == [True] * 4 + [False] * 2


def test_what_was_read_stands_beside_the_pictures() -> None:
    details = Synthesizer(normals=NORMALS).synthesize(TEXTS, SEEDS).details
    assert [line["text"] for line in details] == TEXTS
    assert [line["outcome"] for line in details] == ["drawn"] * 4 + ["unreadable"] * 2
    assert all(line["object"] == "found" for line in details)
    scratch, pits = details[0]["defects"][0], details[1]["defects"][0]
    assert scratch["family"] == "scratch" and scratch["tone"] == 1 and scratch["place"] == "top left"
    assert pits["count"] == 2 and pits["place"] == "edge" and 0.02 <= pits["size"] <= 0.05
    assert details[5]["unknown"] == ["grumbling wobble"] and not details[5]["defects"]
    counts = tally(details)
    assert {k: counts[k] for k in ("drawn", "unchanged", "unreadable")} == {
        "drawn": 4,
        "unchanged": 0,
        "unreadable": 2,
    }
    assert "grumbling wobble" in counts["unknown_kinds"]
    assert counts["unknown"] == sum(len(line["unknown"]) for line in details)


def test_a_text_and_a_seed_give_the_same_picture_whatever_stands_beside_them() -> None:
    made = Synthesizer(normals=NORMALS)
    together = made.synthesize(TEXTS, SEEDS)
    for i in (0, 3):
        alone = Synthesizer(normals=NORMALS).synthesize(TEXTS[i : i + 1], SEEDS[i : i + 1])
        assert np.array_equal(alone.images[0], together.images[i]) and alone.details[0] == together.details[i]
    assert not np.array_equal(made.synthesize(TEXTS[:1], [7]).images, made.synthesize(TEXTS[:1], [8]).images)
    same_normal = [made.synthesize([text], [3]) for text in TEXTS[:2]]
    assert same_normal[0].details[0]["source"] == same_normal[1].details[0]["source"]
    assert not np.array_equal(same_normal[0].images, same_normal[1].images)


def test_its_repr_names_all_that_pictures_depend_on(tmp_path: Path) -> None:
    plain = repr(Synthesizer(normals=NORMALS))
    assert plain == repr(Synthesizer(normals=NORMALS.copy())) and "array" not in plain
    copy = tmp_path / "words.yaml"
    copy.write_text(FILE.read_text(encoding="utf-8"), encoding="utf-8")
    first = repr(Synthesizer(vocabulary=str(copy), normals=NORMALS))
    copy.write_text(copy.read_text(encoding="utf-8") + "\n# a note\n", encoding="utf-8")
    others = [
        repr(Synthesizer(vocabulary=str(copy), normals=NORMALS)),
        repr(Synthesizer(normals=NORMALS[1:])),
        repr(Synthesizer(region_of_interest=[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], normals=NORMALS)),
    ]
    assert len({plain, first, *others}) == 5


def test_a_vocabulary_for_the_material_is_used(tmp_path: Path) -> None:
    words = FILE.read_text(encoding="utf-8").replace(
        "words: scratch, scrape", "words: scratch, grumbling wobble, scrape"
    )
    (tmp_path / "words.yaml").write_text(words, encoding="utf-8")
    line = Synthesizer(vocabulary=str(tmp_path / "words.yaml"), normals=NORMALS).synthesize(TEXTS[5:], [9]).details[0]
    assert line["outcome"] == "drawn" and line["defects"][0]["kind"] == "scratch"


def test_nothing_changes_outside_the_region_of_interest() -> None:
    left = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]
    texts = ["a strong large stain", "a long crack", "many white particles", "a chip on the right edge"] * 3
    drawn = Synthesizer(region_of_interest=left, normals=NORMALS).synthesize(texts, range(12))
    assert not drawn.changes.masks[:, :, 33:].any() and drawn.changes.masks.any(axis=(1, 2)).all()


def test_a_picture_that_a_defect_cannot_change_is_counted_as_such() -> None:
    black = np.zeros((2, 32, 32, 3), np.uint8)
    drawn = Synthesizer(normals=black).synthesize(["a dark stain", "a scratch"], [0, 0])
    assert [line["outcome"] for line in drawn.details] == ["unchanged", "drawn"]
    assert {line["object"] for line in drawn.details} == {"whole picture"}
    assert not drawn.changes.masks[0].any() and tally(drawn.details)["without_object"] == 2


def test_grey_pictures_stay_grey() -> None:
    grey = np.repeat(NORMALS.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=3)
    drawn = Synthesizer(normals=grey).synthesize(["a red stain", "a blue thread", "a scorch mark"], [0, 1, 2])
    assert np.ptp(drawn.images.astype(int), axis=-1).max() == 0 and drawn.changes.masks.any(axis=(1, 2)).all()


def test_shards_hold_pictures_masks_and_details_of_any_side(tmp_path: Path) -> None:
    made = Synthesizer(normals=NORMALS)
    for size in (64, 32):
        folder = tmp_path / str(size)
        synthesizers.synthesize_shards(made, TEXTS, SEEDS, folder, size, micro_batch=4)
        changes = images.read_changes(folder)
        assert changes is not None and changes.masks.shape == (6, size, size)
        assert [line["outcome"] for line in synthesizers.read_details(folder)] == ["drawn"] * 4 + ["unreadable"] * 2
    whole = images.read_images(tmp_path / "64")
    kept = images.read_changes(tmp_path / "64")
    assert kept is not None and np.array_equal((whole != kept.sources).any(axis=-1), kept.masks)


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KkaError, match="^synthesize: wanted normal pictures to draw defects on, got none\\.$"):
        Synthesizer()
    with pytest.raises(KkaError, match="^synthesize.options.region_of_interest: wanted three or more corners"):
        Synthesizer(region_of_interest=[[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]], normals=NORMALS)
    with pytest.raises(KkaError, match="nowhere.yaml"):
        Synthesizer(vocabulary=str(tmp_path / "nowhere.yaml"), normals=NORMALS)
    with pytest.raises(KkaError, match="^the synthesizer 'retouch': region_of_interest wants "):
        synthesizers.check_options("retouch", {"region_of_interest": 7})
    synthesizers.check_options("retouch", {"region_of_interest": [[0, 0], [1, 0], [1, 1]], "vocabulary": None})
    with pytest.raises(
        KkaError, match="^synthesize.match_spectrum: 'retouch' draws on photographs, which have nothing to match."
    ):
        synthesizers.check_generates("retouch", synthesizers.create("retouch", {}, normals=NORMALS, image_size=64))

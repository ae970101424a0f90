"""The splits of a data set with what inspectors said."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kka.datasets.shared.feedback import Judged, joined, judge, read_manifest, write_manifest
from kka.errors import KkaError
from kka.images import prepare
from kka.records import PARTS, Split, Splits
from tests.conftest import photographs, png

NEW = photographs(12, np.random.default_rng(1))


def split(images: np.ndarray, *anomalous: int) -> Split:
    labels = np.isin(np.arange(len(images)), anomalous).astype(np.int64)
    captions = ("a rare part", *["a part"] * (len(images) - 1))
    return Split(images, captions, labels, tuple("scratch" if y else "good" for y in labels))


@pytest.fixture
def splits() -> Splits:
    train, calibration, validation, test = np.split(photographs(30, np.random.default_rng(0)), [12, 18, 24])
    return Splits(split(train), split(calibration), split(validation, 5), split(test, 4, 5))


def judged(folder: Path, images: Sequence[np.ndarray], verdict: str) -> list[Judged]:
    """Writes the pictures to the folder, and gives their records."""
    records = [judge(png(image), verdict, Path("new", f"{i}.png")) for i, image in enumerate(images)]
    for record, image in zip(records, images, strict=True):
        (folder / record.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / record.file).write_bytes(png(image))
    return records


def test_normals_go_half_to_train_and_half_to_calibration_and_defects_to_validation(
    splits: Splits, tmp_path: Path
) -> None:
    normals, defects = judged(tmp_path, NEW[:9], "ok"), judged(tmp_path, NEW[9:], "defect")
    write_manifest(tmp_path, [*normals, *defects])
    found = joined(splits, tmp_path)
    for part in PARTS:
        before, after = getattr(splits, part), getattr(found, part)
        rows = [i for i, record in enumerate([*normals, *defects]) if record.part == part]
        np.testing.assert_array_equal(after.images, np.concatenate([before.images, NEW[rows]]))  # behind their own
        assert after.captions == before.captions + ("a part",) * len(rows)
        new = after.labels[len(before) :], after.groups[len(before) :]
        defective = part == "validation"
        assert (new[0] == int(defective)).all() and set(new[1]) <= {"feedback" if defective else "good"}
    assert {r.part for r in normals} == {"train", "calibration"} and len(found.validation) == 6 + 3
    assert found.test is splits.test


def test_half_of_many_train() -> None:
    parts = [judge(bytes([i % 256, i // 256]), "ok", Path("a.png")).part for i in range(1000)]
    assert abs(parts.count("train") - 500) < 3 * (1000 / 4) ** 0.5


def test_without_feedback_the_splits_are_what_they_were(splits: Splits, tmp_path: Path) -> None:
    assert joined(splits, tmp_path / "nowhere") is splits
    write_manifest(tmp_path, [])
    assert joined(splits, tmp_path) is splits and read_manifest(tmp_path) == []


def test_pictures_are_prepared_as_the_others(splits: Splits, tmp_path: Path) -> None:
    wide = np.asarray(Image.fromarray(NEW[0]).resize((90, 40)))
    write_manifest(tmp_path, judged(tmp_path, [wide], "defect"))
    for squeeze in (False, True):
        found = joined(splits, tmp_path, squeeze=squeeze).validation.images[-1]
        np.testing.assert_array_equal(found, prepare([wide], 32, squeeze=squeeze)[0])


def test_what_the_data_set_has_already_keeps_its_split(splits: Splits, tmp_path: Path) -> None:
    """A tested picture that was rejected as an alarm must not train, nor one that is a grey level away from it."""
    tested, trained = splits.test.images[0], splits.train.images[3]
    near = np.where(tested < 255, tested + 1, tested).astype(np.uint8)
    near[:16] = tested[:16]
    records = judged(tmp_path, [tested, near, trained, NEW[0]], "ok")
    write_manifest(tmp_path, records)
    found = joined(splits, tmp_path)
    sizes = {part: len(getattr(found, part)) - len(getattr(splits, part)) for part in PARTS}
    assert sizes == {part: int(part == records[3].part) for part in PARTS}


def test_a_picture_that_was_saved_twice_is_one(splits: Splits, tmp_path: Path) -> None:
    """Of other bytes, so of two records."""
    records = judged(tmp_path, [NEW[0]], "defect")
    Image.fromarray(NEW[0]).save(tmp_path / "again.bmp")
    again = judge((tmp_path / "again.bmp").read_bytes(), "defect", Path("again.bmp"))
    (tmp_path / "again.bmp").rename(tmp_path / again.file)
    write_manifest(tmp_path, [*records, again])
    assert len(joined(splits, tmp_path).validation) == len(splits.validation) + 1


def test_masks_stay_as_many_as_pictures(splits: Splits, tmp_path: Path) -> None:
    masks = np.zeros((6, 32, 32), bool)
    masks[5, :4] = True
    marked = replace(splits, validation=replace(splits.validation, masks=masks))
    write_manifest(tmp_path, judged(tmp_path, NEW[:1], "defect"))
    found = joined(marked, tmp_path).validation
    assert found.masks is not None and found.masks.shape == (7, 32, 32) and not found.masks[6].any()
    np.testing.assert_array_equal(found.masks[:6], masks)


def test_a_defect_that_is_normal_in_the_data_set_is_refused(splits: Splits, tmp_path: Path) -> None:
    write_manifest(tmp_path, judged(tmp_path, splits.train.images[:1], "defect"))
    with pytest.raises(KkaError) as error:
        joined(splits, tmp_path)
    assert str(error.value) == (
        "feedback: new/0.png is defect, but the data set has the same picture as normal. Remove it there, or its row"
        " from the manifest."
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "good"}, r"manifest.csv, line 2: verdict wants ok or defect, got 'good'\.$"),
        ({"part": "train"}, r"line 2: part wants one of validation, test where it is defect, got 'train'\.$"),
        ({"file": "pictures/other.png"}, r"other.png is missing, which .*manifest.csv names\.$"),
        ({"sha256": "0" * 64}, r"is not the picture that .*manifest.csv names: its bytes are others\.$"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    splits: Splits, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    (record,) = judged(tmp_path, NEW[:1], "defect")
    write_manifest(tmp_path, [replace(record, **change)])
    with pytest.raises(KkaError, match=said):
        joined(splits, tmp_path)

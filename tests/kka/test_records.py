import os
from pathlib import Path

import numpy as np
import pytest

from kka.errors import BrokenFile, KkaError
from kka.records import (
    Anomaly,
    Description,
    Pair,
    Split,
    read_json,
    read_records,
    seed_of,
    sha256,
    texts,
    whole_file,
    whole_folder,
    write_json,
    write_records,
)

FIRST = Description("00000", "a red flower", "kept", 0.25, -1.5)
SECOND = Description("00001", "", "unreadable", 0.0, -20.0)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    anomaly = Anomaly("r1-00000", "r1", 3, "a “blue” flower", 0.1 + 0.2, -1e-9, "hard", "ab")
    for kind, records in (
        (Description, [FIRST, SECOND]),
        (Anomaly, [anomaly]),
        (Pair, [Pair("a", "b", "validation")]),
        (Pair, []),
    ):
        write_records(path := tmp_path / "deep" / "records.jsonl", records)
        assert read_records(path, kind) == records


def test_what_was_not_measured_is_not_written(tmp_path: Path) -> None:
    bare = Anomaly("r1-00000", "r1", 0, "a", 0.5, 0.5, "hard", "ab")
    measured = Anomaly("r1-00001", "r1", 1, "b", 0.5, 0.5, "hopeless", "cd", 0.0)
    write_records(path := tmp_path / "records.jsonl", [bare, measured])
    first, second = path.read_text().splitlines()
    assert "effect" not in first and second.endswith(', "effect": 0.0}')
    assert read_records(path, Anomaly) == [bare, measured]


def test_writing_leaves_no_part_file_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "1", "text": "a", "outcome": "kept", "similarity": "0.5", "likelihood": 0.0}', "line 2, similarity: "),
        ('{"id": "1", "text": "a", "outcome": "lost", "similarity": 0.5, "likelihood": 0.0}', "line 2, outcome: "),
        ('{"id": "1", "text": "a", "outcome": "kept", "similarity": 0.5}', "line 2, likelihood: "),
        ('{"id": "1", "te', "line 2, the record: "),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_file_row_and_field(tmp_path: Path, line: str, said: str) -> None:
    write_records(path := tmp_path / "records.jsonl", [FIRST])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BrokenFile, match=f"records.jsonl, {said}"):
        read_records(path, Description)


def test_missing_broken_and_foreign_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BrokenFile, match="nothing.json is missing.$"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(BrokenFile, match="wanted one JSON value"):
        read_json(tmp_path / "broken.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BrokenFile, match="wanted UTF-8 text"):
        read_json(tmp_path / "bytes.json")


def test_seeds_differ_by_every_name_and_stay_what_they_are() -> None:
    seeds = {
        seed_of(0, "describe", "r1", 0),
        seed_of(0, "describe", "r1", 1),
        seed_of(0, "describe", "r2", 0),
        seed_of(1, "describe", "r1", 0),
    }
    assert len(seeds) == 4
    assert all(0 <= s < 2**63 for s in seeds)
    # the first eight bytes of sha256("0/describe/r1/0"), halved, by another tool: a change of this number changes every
    # result
    assert seed_of(0, "describe", "r1", 0) == 7809020720516896544


def test_a_split_wants_as_many_of_everything() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    split = Split(images, ("a", "b"), np.array([0, 1]), ("normal", "odd"))
    assert (len(split), split.take(split.labels == 1).groups, split.take(np.array([1, 0])).captions) == (
        2,
        ("odd",),
        ("b", "a"),
    )
    with pytest.raises(KkaError, match="as many captions, labels and groups as images"):
        Split(images, ("a",), np.array([0, 1]), ("normal", "odd"))


def test_a_hash_is_of_the_pixels_alone() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert sha256(image) == sha256(np.asfortranarray(image)) != sha256(image + 1)


def test_texts_of_one_outcome() -> None:
    assert texts([FIRST, SECOND], "kept") == ["a red flower"]


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_file_is_there_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for content in ("one", "two"):
        with whole_file(path) as part:
            part.write_text(content)
            assert part.parent == path.parent and part != path
        assert path.read_text() == content
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "two" and names(tmp_path) == ["deep", "deep/file"]


def test_a_folder_is_there_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    for name in ("one", "two"):
        with whole_folder(path) as part:
            assert names(part) == []
            (part / name).write_text(name)
        assert names(tmp_path) == ["deep", "deep/folder", f"deep/folder/{name}"]
    with pytest.raises(ZeroDivisionError), whole_folder(path) as part:
        (part / "half").write_text("")
        raise ZeroDivisionError
    assert names(tmp_path) == ["deep", "deep/folder", "deep/folder/two"]


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "folder") as part:
        (part / "old").write_text("")
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "folder") as part:
        part.rmdir()
    assert names(tmp_path) == ["folder", "folder/old"]


def test_what_a_killed_process_left_does_not_get_in(tmp_path: Path) -> None:
    for kind in ("part", "old"):
        (tmp_path / f"folder.{os.getpid()}.{kind}").mkdir()
        (tmp_path / f"folder.{os.getpid()}.{kind}" / "left").write_text("")
    with whole_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]

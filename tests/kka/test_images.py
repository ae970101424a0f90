"""Shards keep every pixel and refuse what is broken; one preparation serves pictures of any kind."""

import numpy as np
import pytest
from PIL import Image

from kka import images
from kka.errors import BrokenFile, KkaError
from kka.records import Split, read_json


def pictures(n, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def split(n):
    return Split(
        pictures(n), tuple(f"flower {i}" for i in range(n)), np.arange(n) % 2, tuple("ab"[i % 2] for i in range(n))
    )


def test_images_come_back_pixel_by_pixel_in_shards_of_fixed_names(tmp_path):
    some = pictures(2 * images.SHARD + 3)
    images.write_images(tmp_path / "a", some)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"images-0000{i}.parquet" for i in range(3)]
    np.testing.assert_array_equal(images.read_images(tmp_path / "a"), some)
    assert images.shard_path(tmp_path, 12).name == "images-00012.parquet"


def test_the_same_pixels_give_the_same_bytes(tmp_path):
    for name in "ab":
        images.write_shard(tmp_path / name, 0, pictures(20))
    assert images.shard_path(tmp_path / "a", 0).read_bytes() == images.shard_path(tmp_path / "b", 0).read_bytes()


def test_a_shorter_set_leaves_nothing_of_a_longer_one(tmp_path):
    images.write_images(tmp_path, pictures(images.SHARD + 1))
    images.write_images(tmp_path, pictures(3))
    assert len(images.read_images(tmp_path)) == 3 and len(list(tmp_path.iterdir())) == 1


def test_a_split_comes_back_whole(tmp_path):
    images.write_split(tmp_path, split(5))
    back = images.read_split(tmp_path)
    np.testing.assert_array_equal(back.images, split(5).images)
    assert (back.captions, back.groups, back.labels.tolist()) == (split(5).captions, split(5).groups, [0, 1, 0, 1, 0])


def test_a_missing_folder_and_a_missing_shard_are_errors(tmp_path):
    with pytest.raises(BrokenFile, match=r"holds no shards of pictures.$"):
        images.read_images(tmp_path / "nowhere")
    images.write_images(tmp_path, pictures(3 * images.SHARD))
    images.shard_path(tmp_path, 1).unlink()
    with pytest.raises(BrokenFile, match=r"images-00001.parquet is missing.$"):
        images.read_images(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 300, -5])
def test_a_truncated_shard_is_an_error(tmp_path, keep):
    images.write_shard(tmp_path, 0, pictures(4))
    path = images.shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(KkaError, match=r"images-00000.parquet: wanted a shard of pictures, got a broken file"):
        images.read_images(tmp_path)


def test_a_foreign_parquet_file_is_an_error(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column in ({"words": ["a"]}, {"png": [b"no picture"]}, {"png": pa.array([], pa.binary())}):
        pq.write_table(pa.table(column), images.shard_path(tmp_path, 0))
        with pytest.raises(KkaError, match="wanted a shard of pictures"):
            images.read_images(tmp_path)


def test_rows_and_pictures_must_agree(tmp_path):
    images.write_split(tmp_path, split(5))
    images.write_images(tmp_path, pictures(4))
    with pytest.raises(KkaError, match="got 5 rows and 4 pictures"):
        images.read_split(tmp_path)
    images.write_shard(tmp_path, 1, pictures(1, size=9))
    with pytest.raises(KkaError, match="wanted pictures of one size"):
        images.read_images(tmp_path)


def test_a_write_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch):
    images.write_shard(tmp_path, 0, pictures(2))
    before = images.shard_path(tmp_path, 0).read_bytes()
    monkeypatch.setattr("pyarrow.parquet.write_table", lambda table, path, **_: (path.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        images.write_shard(tmp_path, 0, pictures(3))
    assert images.shard_path(tmp_path, 0).read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("odd", [pictures(2).astype(float), pictures(2)[..., 0], pictures(2)[0]])
def test_only_uint8_pictures_are_written(tmp_path, odd):
    with pytest.raises(KkaError, match=r"a shard wants uint8 pictures of shape \(n, h, w, 3\)"):
        images.write_images(tmp_path, odd)
    assert not list(tmp_path.iterdir())


def test_a_picture_of_the_right_size_is_left_as_it_is():
    some = pictures(3)
    np.testing.assert_array_equal(images.prepare(list(some), 8), some)
    np.testing.assert_array_equal(images.prepare([Image.fromarray(p) for p in some], 8), some)
    assert images.prepare([], 8).shape == (0, 8, 8, 3)


def test_the_centre_square_is_taken():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    np.testing.assert_array_equal(images.prepare([wide, wide.transpose(1, 0, 2)], 10), np.full((2, 10, 10, 3), 200))


def test_squeezed_nothing_is_cut():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 20:] = 200
    small = images.prepare([wide], 30, squeeze=True)[0]
    assert small.shape == (30, 30, 3) and (small[:, :18] < 20).all() and (small[:, 22:] > 180).all()


def test_making_smaller_is_antialiased():
    """Fine stripes become their mean, 127.5, and not one of the two colours."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(images.prepare([stripes], 8).astype(int) - 127).max() <= 12


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (Image.new("L", (8, 8), 90), (90, 90, 90)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("P", (8, 8), 0), (0, 0, 0)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (255, 255, 255)),  # wholly transparent: the white behind it
        (Image.new("RGBA", (8, 8), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (8, 8), (90, 255)), (90, 90, 90)),
        (Image.new("I;16", (8, 8), 0x5A00), (90, 90, 90)),  # 16 bits: the upper eight
        (Image.new("I", (8, 8), 0x5A00), (90, 90, 90)),
        (Image.new("I", (8, 8), 90), (90, 90, 90)),
        (np.full((8, 8), 90, np.uint8), (90, 90, 90)),
        (np.full((8, 8, 1), 90, np.uint8), (90, 90, 90)),
        (np.full((8, 8, 4), 90, np.uint8) * np.array([1, 1, 1, 0], np.uint8), (255, 255, 255)),
        (np.full((8, 8, 3), 0x5A00, np.uint16), (90, 90, 90)),
    ],
)
def test_every_mode_becomes_the_same_rgb(picture, colour):
    np.testing.assert_array_equal(images.prepare([picture], 4)[0], np.full((4, 4, 3), colour))


@pytest.mark.parametrize(
    "odd", [np.zeros((8, 8, 3)), np.zeros((8, 8, 5), np.uint8), np.zeros((0, 8, 3), np.uint8), np.zeros(8, np.uint8)]
)
def test_what_is_no_picture_is_refused(odd):
    with pytest.raises(KkaError, match="prepare wants uint8 or uint16 arrays"):
        images.prepare([odd], 8)


def test_a_contact_sheet_shows_each_picture_enlarged_and_is_the_same_each_time(tmp_path):
    rows = [list(pictures(3, 32)), list(pictures(2, 32, seed=1)), []]
    notes = [["1.25  a small yellow flower with twelve pointed petals and a brown centre", "b", "c"], ["d", "e"], []]
    for name in "ab":
        images.contact_sheet(rows, ["hard", "easy", "rejected (none)"], notes, tmp_path / f"{name}.png", scale=4)
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    blown_up = rows[0][0].repeat(4, axis=0).repeat(4, axis=1)
    assert any((sheet[y : y + 128, 10:138] == blown_up).all() for y in range(60))
    with pytest.raises(KkaError, match="at least one picture"):
        images.contact_sheet([[]], ["none"], [[]], tmp_path / "c.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_rows_are_plain_json_lines(tmp_path):
    images.write_split(tmp_path, split(1))
    assert read_json(tmp_path / "rows.jsonl") == {"caption": "flower 0", "label": 0, "group": "a"}

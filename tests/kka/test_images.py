"""Shards keep every pixel and refuse what is broken; one preparation serves pictures of any kind."""

import io

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

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for column in (
        {"words": ["a"]},
        {"image": [1]},
        {"image": pa.array([{"bytes": b"no picture", "path": None}], kind)},
        {"image": pa.array([{"bytes": None, "path": "a.png"}], kind)},
        {"image": pa.array([], kind)},
    ):
        pq.write_table(pa.table(column), images.shard_path(tmp_path, 0))
        with pytest.raises(BrokenFile, match="wanted a shard of pictures"):
            images.read_images(tmp_path)


def test_the_library_datasets_reads_shards_as_pictures(tmp_path):
    """As anybody would who has a folder of a run and nothing of this project."""
    from datasets import load_dataset

    some = pictures(images.SHARD + 3)
    images.write_images(tmp_path / "a", some)
    files = sorted(str(p) for p in (tmp_path / "a").iterdir())
    loaded = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["image"] and type(loaded.features["image"]).__name__ == "Image"
    np.testing.assert_array_equal(np.stack([np.asarray(picture) for picture in loaded["image"]]), some)


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


def test_rows_are_plain_json_lines(tmp_path):
    images.write_split(tmp_path, split(1))
    assert read_json(tmp_path / "rows.jsonl") == {"caption": "flower 0", "label": 0, "group": "a"}


def test_captions_are_read_without_pictures(tmp_path, monkeypatch):
    images.write_split(tmp_path, split(3))
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    assert images.read_captions(tmp_path) == ("flower 0", "flower 1", "flower 2")
    with pytest.raises(BrokenFile, match="rows.jsonl is missing.$"):
        images.read_captions(tmp_path / "nowhere")


def encoded(form, picture=None, **options):
    buffer = io.BytesIO()
    (picture or Image.new("RGB", (40, 20), "red")).save(buffer, form, **options)
    return buffer.getvalue()


def test_a_picture_says_what_its_file_was(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG", Image.new("LA", (40, 20))))
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        found = images.open_picture(source)
        assert (found.width, found.height, found.mode, found.format) == (40, 20, "LA", "PNG")
        assert found.rgb.mode == "RGB" and found.rgb.getpixel((0, 0)) == (255, 255, 255)


def test_a_large_jpg_is_decoded_no_larger_than_wanted():
    large = encoded("JPEG", Image.new("RGB", (800, 400), "red"))
    found = images.open_picture(large, side=100)
    assert (found.width, found.height, found.rgb.size) == (800, 400, (200, 100))
    assert images.open_picture(large).rgb.size == (800, 400)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_that_was_taken_upright_stands_upright_once(form):
    half = Image.new("RGB", (40, 20), "black")
    half.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    found = images.open_picture(encoded(form, half, exif=exif))
    assert found.rgb.size == (20, 40) and found.rgb.getpixel((10, 5))[0] > 200 > 50 > found.rgb.getpixel((10, 35))[0]
    turned = images.read_picture(encoded(form, half, exif=exif), 20, squeeze=True)
    assert turned.shape == (1, 20, 20, 3) and turned[0, 2].mean() > 200 > 50 > turned[0, 17].mean()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is no picture that Pillow knows"),
        (b"no picture", "it is no picture that Pillow knows"),
        (encoded("PNG", Image.fromarray(pictures(1, 64)[0]))[:2000], "truncated"),
        (encoded("JPEG", Image.fromarray(pictures(1, 64)[0]))[:2000], "truncated"),
        (encoded("TIFF")[:200], ""),
    ],
)
def test_what_cannot_be_decoded_is_one_error_with_its_reason(tmp_path, content, reason):
    (tmp_path / "a.png").write_bytes(content)
    for source, name in ((tmp_path / "a.png", f"{tmp_path}/a.png"), (content, "a picture")):
        with pytest.raises(images.UnreadablePicture) as caught:
            images.open_picture(source)
        assert str(caught.value).startswith(f"{name} cannot be read as a picture: {caught.value.reason}.")
        assert reason in caught.value.reason and caught.value.reason and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("lost\n itself"), AssertionError(), MemoryError(), IndexError("x")])
def test_whatever_a_decoder_raises_is_that_error(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(images.UnreadablePicture) as caught:
        images.open_picture(encoded("PNG"), "row 3")
    assert caught.value.reason == (" ".join(str(error).split()) or type(error).__name__)
    assert str(caught.value).startswith("row 3 cannot be read as a picture: ")


def test_files_that_are_not_there_and_folders_are_unreadable(tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(images.UnreadablePicture, match=str(path)):
            images.open_picture(path)


def test_all_pictures_below_a_folder_are_found_by_their_names(tmp_path):
    wanted = ["B.GIF", "a.png", "deep/d.tiff", "deep/er/c.JPEG"]
    for name in [*wanted, "notes.txt", ".hidden.png", "a.h5", "b.mpg", "deep/.DS_Store"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert images.picture_files(tmp_path) == [tmp_path / name for name in wanted]


def test_every_format_that_is_looked_for_can_be_decoded():
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".jp2", ".ppm"} <= set(images.suffixes())
    assert not {".txt", ".h5", ".mpg", ".eps", ".wmf", ".pdf"} & set(images.suffixes())

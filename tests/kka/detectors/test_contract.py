"""One suite for every detector in the folder: nobody has to ask for it.

`test_one_file.py` runs it on a detector that is put into a copy of the folder.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from kka import detectors, registry
from kka.datasets import blossom
from kka.errors import KkaError
from kka.metrics import auroc, separation

NAMES = detectors.names()
# smaller than the defaults, so that the suite is fast; a detector that is not named here runs with its defaults
SMALL = {
    "bce": {"members": 2, "steps": 40, "width": 8, "batch_size": 32, "generated_share": 0.4},
    "deep_sad": {"steps": 120, "pretrain_steps": 15, "batch_size": 32, "learning_rate": 1e-3},
    "hsc": {"members": 2, "steps": 40, "width": 8, "batch_size": 32, "generated_share": 0.4},
    "simplenet": {"steps": 60},
    "corrected": {"steps": 40, "groups": 2},
}
DRAWS_NOTHING = {"probe"}  # its fit is the same for every seed


def flowers(n, distance, seed, size=16):
    rng = np.random.default_rng(seed)
    return blossom.draw(blossom.flowers(n, distance, rng), rng, size)


def coloured(colours, n, seed):
    rng = np.random.default_rng(seed)
    rows = blossom.flowers(n, None, rng)
    rows[:, 0] = rng.choice([blossom.ATTRIBUTES["colour"].index(c) for c in colours.split()], n)
    return blossom.draw(rows, rng, 16)


@pytest.fixture(scope="module")
def task():
    """Normals, anomalies to train with, then normals and anomalies to test on."""
    return flowers(96, 0, 1), flowers(96, 4, 2), flowers(70, 0, 3), flowers(70, 4, 4)


class Fitted(dict):
    """The detectors by name, each fitted when it is first asked for."""

    def __init__(self, task):
        super().__init__()
        self.task = task

    def __missing__(self, name):
        self[name] = make(name).fit(*self.task[:2])
        return self[name]


@pytest.fixture(scope="module")
def fitted(task):
    return Fitted(task)


def make(name, seed=0, **options):
    """A small one, with those of the options that it has."""
    return detectors.create(
        name, seed, **{**SMALL.get(name, {}), **{k: v for k, v in options.items() if k in known(name)}}
    )


def known(name):
    return registry.keywords(registry.find("kka.detectors", name).Detector)


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_anomalies_score_higher(name, task, fitted):
    assert separation(fitted[name].score(task[2]), fitted[name].score(task[3])) > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_collapse(name, task, fitted):
    scores = fitted[name].score(np.concatenate(task[2:]))
    assert scores.dtype == np.float64 and scores.shape == (140,)
    assert len(np.unique(scores)) > 100 and np.isfinite(scores).all()


@pytest.mark.parametrize("name", NAMES)
def test_informative_anomalies_make_it_better(name):
    """Flowers of all kinds are normal, but for purple ones, which lie between pink and blue: normals alone hardly
    tell."""
    normals, real = (coloured("yellow orange red pink blue white", n, seed) for n, seed in ((200, 1), (100, 2)))
    anomalies, unseen = (coloured("purple", n, seed) for n, seed in ((60, 3), (100, 4)))

    def error(given):
        detector = make(name).fit(normals, given)
        return 1 - separation(detector.score(real), detector.score(unseen))

    assert error(anomalies) < 0.7 * error(None)


@pytest.mark.parametrize("name", NAMES)
def test_its_scorer_can_be_exported_and_scores_the_same(name, task, fitted):
    """What torch.onnx exports is a graph by torch.export: no Python may depend on the pictures' values, nor on their
    number."""
    batch = torch.from_numpy(task[2][:64]).permute(0, 3, 1, 2) / 255
    detector = fitted[name]  # here, for it may have to be fitted first, which wants gradients
    with torch.no_grad():
        graph = torch.export.export(
            detector.scorer().eval(), (batch,), dynamic_shapes=({0: torch.export.Dim("n")},)
        ).module()
        wanted = detector.score(task[2][:64])
        for n in (2, 64):
            np.testing.assert_allclose(graph(batch[:n]).numpy(), wanted[:n], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in NAMES if hasattr(registry.find("kka.detectors", n).Detector, "score_map")])
def test_a_score_map_has_the_shape_of_the_pictures_and_none_is_like_another(name, task, fitted):
    maps = fitted[name].score_map(task[3][:5])
    assert maps.shape == (5, 16, 16) and maps.dtype == np.float64 and np.isfinite(maps).all()
    np.testing.assert_allclose(maps[2:3], fitted[name].score_map(task[3][2:3]), rtol=1e-5, atol=1e-5)
    assert maps.std((1, 2)).min() > 0
    scores, again = fitted[name].score_with_map(task[3][:5])
    np.testing.assert_array_equal(again, maps)
    np.testing.assert_array_equal(scores, fitted[name].score(task[3][:5]))


@pytest.mark.parametrize("name", NAMES)
def test_it_does_without_anomalies(name, task):
    scores = make(name, steps=8).fit(task[0]).score(task[2])
    assert np.isfinite(scores).all() and scores.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_generated_normals_are_learnt_as_normals(name, task):
    """Negatives of flowers among the generated normals come nearer to the real ones than where they are not."""
    normals, anomalies, real, _ = task
    generated = 255 - flowers(96, 0, 5)

    def apart(**given):
        detector = make(name).fit(normals, anomalies, **given)
        return separation(detector.score(real), detector.score(generated))

    assert apart(generated_normals=generated) < apart() - 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_rules_everything(name, task):
    def scores(seed):
        torch.rand(1)  # what happened before does not matter
        return make(name, seed, steps=6).fit(task[0], task[1]).score(task[2])

    before = torch.random.get_rng_state()
    first = scores(0)
    np.testing.assert_array_equal(first, scores(0))
    assert name in DRAWS_NOTHING or np.abs(first - scores(1)).max() > 1e-3
    torch.random.set_rng_state(before)


@pytest.mark.parametrize("name", NAMES)
def test_fit_leaves_the_global_generator_as_it_was(name, task):
    before = torch.random.get_rng_state()
    make(name, steps=2).fit(task[0][:8])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_no_score_depends_on_the_other_pictures(name, task, fitted):
    """Among others, be they few or many, each has one score; alone it is that score but for rounding."""
    images = np.concatenate(task[2:])
    together = fitted[name].score(images)
    np.testing.assert_allclose(together[::-1], fitted[name].score(images[::-1]), rtol=1e-6, atol=1e-6)
    for rows in (np.arange(60, 68), np.array([3, 139]), np.arange(131), np.array([64, 0, 63, 5, 7, 8, 9, 10, 11])):
        np.testing.assert_allclose(together[rows], fitted[name].score(images[rows]), rtol=1e-6, atol=1e-6)
    for i in (0, 63, 64, 139):
        np.testing.assert_allclose(together[i : i + 1], fitted[name].score(images[i : i + 1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_several_threads_may_ask_for_scores_at_once(name, task, fitted):
    parts = np.split(np.concatenate(task[2:]), 7)
    wanted = [fitted[name].score(part) for part in parts]
    before = torch.get_num_threads()
    with ThreadPoolExecutor(
        2, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:  # more threads than cores would crawl
        np.testing.assert_allclose(list(pool.map(fitted[name].score, parts)), wanted, rtol=1e-6, atol=1e-6)
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_scores_the_same(name, task, fitted, tmp_path):
    folder = tmp_path / "deep" / "detector"
    fitted[name].save(folder)
    loaded = detectors.load(folder)
    assert type(loaded) is type(fitted[name]) and loaded == fitted[name]
    np.testing.assert_allclose(loaded.score(task[2]), fitted[name].score(task[2]), atol=1e-6)
    assert sorted(p.name for p in folder.iterdir()) == ["detector.json", "weights.safetensors"]
    before = [p.read_bytes() for p in sorted(folder.iterdir())]
    loaded.save(folder)  # over itself
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == before and [
        p.name for p in folder.parent.iterdir()
    ] == ["detector"]


@pytest.mark.parametrize("name", NAMES)
def test_a_save_that_fails_leaves_what_was_there(name, task, fitted, tmp_path, monkeypatch):
    folder = tmp_path / "detector"
    fitted[name].save(folder)
    before = (folder / "detector.json").read_bytes()
    monkeypatch.setattr(
        "kka.detectors.shared.state.write_json", lambda path, value: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        fitted[name].save(folder)
    assert (folder / "detector.json").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["detector"]


@pytest.mark.parametrize("name", NAMES)
def test_it_works_on_sides_that_are_no_power_of_two(name):
    images = np.random.default_rng(0).integers(0, 256, (8, 19, 22, 3), dtype=np.uint8)
    assert make(name, steps=2, pretrain_steps=2).fit(images).score(images).shape == (8,)


@pytest.mark.parametrize("name", NAMES)
def test_what_it_logs_is_named_after_it(name, task):
    heard = []
    make(name, steps=11).fit(task[0][:8], task[1][:8], log=lambda *what: heard.append(what))
    assert heard and all(what[0].startswith(f"{name}/") and np.isfinite(what[1]) for what in heard)


GOOD = np.zeros((4, 16, 16, 3), np.uint8)
BAD = {
    "float64 with NaN": np.full((4, 16, 16, 3), np.nan),
    "got list": [[0]],
    "got (16, 16, 3)": np.zeros((16, 16, 3), np.uint8),
    "got (4, 16, 16, 1)": np.zeros((4, 16, 16, 1), np.uint8),
    "got none": np.zeros((0, 16, 16, 3), np.uint8),
}


@pytest.mark.parametrize("got", BAD)
@pytest.mark.parametrize("name", NAMES)
def test_bad_pictures_are_refused_in_one_sentence(name, got, fitted):
    for call, who in (
        (lambda: make(name).fit(BAD[got]), f"{name}.fit: normals"),
        (lambda: make(name).fit(GOOD, BAD[got]), f"{name}.fit: anomalies"),
        (lambda: make(name).fit(GOOD, generated_normals=BAD[got]), f"{name}.fit: generated_normals"),
        (lambda: fitted[name].score(BAD[got]), f"{name}.score: images"),
    ):
        with pytest.raises(KkaError) as error:
            call()
        assert str(error.value).startswith(who) and got in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_other_sizes_are_refused(name, fitted, tmp_path):
    large = np.zeros((4, 20, 24, 3), np.uint8)
    with pytest.raises(KkaError, match=rf"{name}.fit: anomalies want the normals' size 16x16, got 24x20"):
        make(name).fit(GOOD, large)
    with pytest.raises(KkaError, match="at least 16x16 pixels, got 15x16"):
        make(name).fit(np.zeros((4, 16, 15, 3), np.uint8))
    with pytest.raises(KkaError, match="16x16, got 24x20"):
        fitted[name].score(large)
    with pytest.raises(KkaError, match=f"{name}.score wants a fitted detector"):
        make(name).score(GOOD)
    with pytest.raises(KkaError, match=f"{name}.save wants a fitted detector"):
        make(name).save(tmp_path / "detector")
    assert not list(tmp_path.iterdir())


def test_unknown_names_and_options_are_refused_with_a_suggestion():
    with pytest.raises(KkaError, match="kka/detectors has no 'deepsad'. Did you mean 'deep_sad'?"):
        detectors.create("deepsad", 0)
    with pytest.raises(KkaError, match="the detector 'bce' has the unknown option 'step'. Did you mean 'steps'?"):
        detectors.create("bce", 0, step=3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"steps": 0}, "steps wants greater than or equal to 1, got 0."),
        ({"steps": 2.5}, "steps wants a valid integer, got 2.5."),
        ({"steps": True}, "steps wants a valid integer, got True."),
        ({"batch_size": 1}, "batch_size wants greater than or equal to 2, got 1."),
        ({"learning_rate": "fast"}, "learning_rate wants a valid number, got 'fast'."),
        ({"weight_decay": float("nan")}, "weight_decay wants a finite number, got nan."),
        ({"seed": -1}, "seed wants greater than or equal to 0, got -1."),
        ({"backbone": 3}, "backbone wants a valid string, got 3."),
        ({"layers": [0.5]}, "layers wants a valid integer, got [0.5]."),
        ({"k": 0}, "k wants greater than or equal to 1, got 0."),
        ({"noise": float("inf")}, "noise wants a finite number, got inf."),
        ({"top_share": 2}, "top_share wants less than or equal to 1, got 2."),
    ],
)
def test_hyperparameters_out_of_range_are_refused(name, option, sentence):
    if not option.keys() <= set(known(name)):
        pytest.skip(f"{name} has no {', '.join(option)}")
    with pytest.raises(KkaError) as error:
        detectors.create(name, **{"seed": 0, **option})
    assert str(error.value) == f"the detector '{name}': {sentence}"


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_folder_is_refused(name, fitted, tmp_path):
    folder = tmp_path / "detector"
    with pytest.raises(KkaError, match="detector.json is missing"):
        detectors.load(folder)
    fitted[name].save(folder)
    facts = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps({**facts, "options": {"colour": 1}}))
    with pytest.raises(KkaError, match="unknown option 'colour'"):
        detectors.load(folder)
    (folder / "detector.json").write_text(json.dumps({"detector": name}))
    with pytest.raises(KkaError, match="wants the keys detector, size and options"):
        detectors.load(folder)
    (folder / "detector.json").write_text(json.dumps(facts))
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(KkaError, match="wanted a detector's weights, got"):
        detectors.load(folder)


def test_weights_of_another_network_are_refused(fitted, tmp_path):
    fitted["bce"].save(tmp_path / "a")
    fitted["deep_sad"].save(tmp_path / "b")
    for one, other in (("a", "b"), ("b", "a")):
        facts = (tmp_path / one / "detector.json").read_bytes()
        fitted["bce" if one == "a" else "deep_sad"].save(tmp_path / "mixed")
        (tmp_path / "mixed" / "weights.safetensors").write_bytes(
            (tmp_path / other / "weights.safetensors").read_bytes()
        )
        assert (tmp_path / "mixed" / "detector.json").read_bytes() == facts
        with pytest.raises(KkaError, match="the weights are another network's"):
            detectors.load(tmp_path / "mixed")


def test_auroc_of_the_contract_is_the_common_one(task, fitted):
    scores = [fitted["bce"].score(part) for part in task[2:]]
    assert separation(*scores) == auroc(np.concatenate(scores), np.repeat([0, 1], 70))

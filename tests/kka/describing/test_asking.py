"""The writer, on the built-in language model: what an item says depends on its seed alone, and the guard sorts what it
says."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from kka.datasets import blossom
from kka.describing.adapters import is_blank, write_blank
from kka.describing.asking import Asker, Sampling, clean, key, summary
from kka.describing.guard import Thresholds
from kka.describing.writer import GumbelNoise, Lora, Writer, save_adapter
from kka.errors import KkaError
from kka.mini.lm import PROMPT
from kka.records import Description

MODEL = "kka/mini/lm"
SAMPLING = Sampling(instruction=PROMPT, batch_size=16, min_p=0.0)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(Writer.load(MODEL, lora=Lora(r=4, alpha=8), seed=0).model, folder)
    return folder


@pytest.fixture(scope="module")
def writer(adapter):
    return Writer.load(MODEL, adapter)


@pytest.fixture(scope="module")
def normals():
    rng = np.random.default_rng(0)
    return [blossom.captions(blossom.flowers(n, 0, rng), rng) for n in (400, 60)]


@pytest.fixture(scope="module")
def asker(writer, normals):
    train, calibration = normals
    return Asker.fit(writer, SAMPLING, train, calibration, range(len(calibration)), Thresholds())


def say(writer, seeds):
    return writer.describe([PROMPT] * len(seeds), seeds, temperature=1.0, max_new_tokens=40)


def test_an_items_text_does_not_depend_on_its_batch(writer):
    alone = [say(writer, [seed])[0] for seed in (3, 4, 5)]
    assert say(writer, [9, 3, 8, 4, 7, 5])[1::2] == alone
    assert len(set(alone)) == 3


def test_it_writes_sentences_of_its_world(writer):
    texts = [t.strip() for t in say(writer, range(40))]
    assert np.mean([blossom.parse(t) is not None for t in texts]) > 0.9


def test_temperature_near_zero_gives_the_likeliest_text_whatever_the_seed(writer):
    assert len(set(writer.describe([PROMPT] * 3, [1, 2, 3], temperature=1e-4, max_new_tokens=40))) == 1


def test_sampling_follows_the_models_distribution(writer):
    # the colours are alike frequent in the corpus, so each of seven should come up in about a seventh of 350 sentences
    rows = [r for t in say(writer, range(350)) if (r := blossom.parse(t))]
    counts = np.bincount([r[0] for r in rows], minlength=7)
    assert counts.min() > 25 and counts.max() < 80  # 50 expected, deviation 6.5


def test_min_p_takes_the_unlikely_tail_away_and_nothing_else(writer):
    scores = torch.log(torch.tensor([[0.60, 0.35, 0.04, 0.01]]))
    drawn = [int(GumbelNoise([seed], 1.0, min_p=0.1)(None, scores).argmax()) for seed in range(400)]
    shares = np.bincount(drawn, minlength=4) / 400
    assert shares[2:].sum() == 0  # below a tenth of 0.6
    assert shares[0] == pytest.approx(0.60 / 0.95, abs=0.08)


def test_likelihood_is_low_for_garbled_and_for_cut_off_texts(writer, normals):
    whole = normals[1][0]
    good, garbled, cut = writer.likelihoods(
        [PROMPT] * 3, [whole, whole.replace("petals", "petals petals"), " ".join(whole.split()[:6])]
    )
    assert good > -5 > -6 > max(garbled, cut)


def test_likelihoods_do_not_depend_on_their_batch(writer, normals):
    texts = normals[1][:7]
    together = writer.likelihoods([PROMPT] * 7, texts)
    assert together == pytest.approx([writer.likelihoods([PROMPT], [t])[0] for t in texts], abs=1e-4)
    assert len(writer.likelihoods([], [])) == 0


class TestAsk:
    def run(self, asker, **options):
        return asker.ask(**({"count": 20, "attempts": 200, "seed": 1} | options))

    def test_it_ends_with_the_wanted_number_and_keeps_anomalies_only(self, asker):
        found = self.run(asker)
        kept = [d.text for d in found if d.outcome == "kept"]
        assert len(kept) == 20 == len({key(t) for t in kept}) and found[-1].outcome == "kept"
        assert 0 not in blossom.text_distances(kept)

    def test_it_does_not_depend_on_the_batch_size(self, asker):
        other = replace(SAMPLING, batch_size=7)
        assert self.run(replace(asker, sampling=other)) == self.run(asker)

    def test_what_earlier_rounds_said_is_a_duplicate(self, asker):
        first = self.run(asker)
        again = self.run(asker, earlier=[d.text.upper() for d in first])
        assert {d.outcome for d in again[: len(first)]} <= {"duplicate", "normal", "unreadable"}

    def test_the_cap_on_attempts_holds(self, asker):
        assert len(self.run(asker, count=1000, attempts=23)) == 23

    def test_normal_and_garbled_texts_are_counted_and_not_kept(self, asker, normals, monkeypatch):
        said = [
            normals[0][0],
            "petals petals petals",
            "a small blue flower with five round petals and a black centre, in front of dark soil",
            "",
        ]
        monkeypatch.setattr(Writer, "describe", lambda self, prompts, seeds, **_: said[: len(prompts)])
        found = self.run(asker, count=4, attempts=4)
        assert [d.outcome for d in found] == ["normal", "unreadable", "kept", "unreadable"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("\n 1. A red flower. \n2. another", "A red flower"),
        ('- "a [bent] flower"', "a bent flower"),
        ("**bold** words", "bold words"),
        ("3) three petals", "three petals"),
        ("", ""),
        ("\n\n", ""),
    ],
)
def test_surface_marks_are_cleaned_off(raw, text):
    assert clean(raw) == text


def test_examples_are_drawn_anew_for_each_prompt():
    sampling = Sampling(instruction="Normal:\n{examples}\nAnomaly:", examples=2)
    captions = [f"caption {i}" for i in range(50)]
    prompts = sampling.prompts(captions, range(5))
    assert len(set(prompts)) == 5 and all(p.count("caption") == 2 for p in prompts)
    assert sampling.prompts(captions, [1]) == [prompts[1]]


def test_a_summary_counts_outcomes_and_their_fractions():
    outcomes = ["kept", "kept", "normal", "duplicate", "unreadable"]
    texts = ["a red gear", "a bent gear", "a gear", "A RED gear.", "gear gear"]
    made = [Description(str(i), t, o, 0.0, 0.0) for i, (t, o) in enumerate(zip(texts, outcomes, strict=True))]
    counts = {"attempts": 5, "kept": 2, "normal": 1, "unreadable": 1, "duplicate": 1}
    assert summary(made) == counts | {"readable": 4 / 5, "distinct": 3 / 4}
    assert summary([]) == dict.fromkeys(counts, 0) | {"readable": 0.0, "distinct": 0.0}


class TestAdapter:
    def test_a_blank_adapter_changes_nothing(self, writer):
        with writer.model.disable_adapter():
            bare = say(writer, [1, 2, 3])
        assert say(writer, [1, 2, 3]) == bare

    def test_the_same_seed_writes_the_same_bytes(self, adapter, tmp_path):
        save_adapter(Writer.load(MODEL, lora=Lora(r=4, alpha=8), seed=0).model, tmp_path / "a")
        for file in sorted(adapter.iterdir()):
            assert (tmp_path / "a" / file.name).read_bytes() == file.read_bytes()

    def test_a_blank_folder_gives_a_fresh_adapter_of_the_asked_shape(self, tmp_path, adapter):
        write_blank(tmp_path)
        assert is_blank(tmp_path) and not is_blank(adapter)
        made = Writer.load(MODEL, tmp_path, lora=Lora(r=2), seed=7)
        again = Writer.load(MODEL, lora=Lora(r=2), seed=7)
        weights, others = ({n: p for n, p in w.model.named_parameters() if "lora" in n} for w in (made, again))
        assert all(torch.equal(value, others[name]) for name, value in weights.items())
        assert {p.shape[0] for n, p in weights.items() if "lora_A" in n} == {2}

    def test_without_a_shape_there_is_no_adapter_and_the_same_texts(self, tmp_path, writer):
        write_blank(tmp_path)
        bare = Writer.load(MODEL, tmp_path)
        assert not [n for n, _ in bare.model.named_parameters() if "lora" in n]
        assert say(bare, [1, 2, 3]) == say(writer, [1, 2, 3])
        texts = ["a red flower", "petals petals"]
        assert np.array_equal(bare.likelihoods([PROMPT] * 2, texts), writer.likelihoods([PROMPT] * 2, texts))

    def test_a_corrupt_adapter_is_named(self, adapter, tmp_path):
        shutil.copytree(adapter, tmp_path / "broken")
        (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"nonsense")
        with pytest.raises(KkaError, match=r"broken: wanted a LoRA adapter, got "):
            Writer.load(MODEL, tmp_path / "broken")

    def test_a_missing_adapter_is_named(self, tmp_path):
        with pytest.raises(KkaError, match="wanted a LoRA adapter"):
            Writer.load(MODEL, tmp_path / "nowhere")


def test_an_unknown_model_is_named(tmp_path):
    with pytest.raises(KkaError, match=r"describe.model: wanted a causal language model .* got './no-such-model'"):
        Writer.load("./no-such-model", tmp_path)

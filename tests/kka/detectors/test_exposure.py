"""What is particular to outlier exposure: its negatives, the mixture in a batch, the ensemble, and the losses of bce
and hsc."""

import numpy as np
import pytest
import torch

from kka.detectors import bce, hsc
from kka.detectors.shared import augment
from kka.detectors.shared.base import Pictures
from kka.detectors.shared.networks import seeded


def batch(images, half=20, **options):
    """The rows that `_batch` takes from sources that are plain 0.2 (normal), 0.4 (anomaly) and 0.8 (generated
    normal)."""
    detector = bce.Detector(degrade=0, **options)
    with seeded("test"):
        return detector._batch(Pictures(*images), half).mean((1, 2, 3))


def plain(value, n=5):
    return torch.full((n, 3, 16, 16), round(255 * value), dtype=torch.uint8)


@pytest.fixture(autouse=True)
def untouched(monkeypatch):
    monkeypatch.setattr(augment, "vary", lambda x, degrade: x)


def test_without_anomalies_the_anomalous_half_is_made_of_normals():
    values = batch([plain(0.2), plain(0.2)[:0], plain(0.2)[:0]])
    assert torch.allclose(values[:20], torch.tensor(0.2)) and ((values[20:] - 0.2).abs() > 1e-3).float().mean() > 0.7


def test_a_batch_holds_the_shares_that_were_asked_for():
    values = batch([plain(0.2), plain(0.4), plain(0.8)], cutpaste_share=0.25, generated_share=0.3)
    assert torch.isclose(values[:20], torch.tensor(0.8)).sum() == 6  # 0.3 of the 20 normals
    assert torch.isclose(values[20:], torch.tensor(0.4)).sum() == 15  # three quarters of the 20 anomalies
    assert torch.isclose(values[:20], torch.tensor(0.2)).sum() == 14


def test_random_anomalies_differ_from_their_normals_in_a_part_or_in_colour():
    with seeded("test"):
        x = torch.rand(200, 3, 32, 32)
        changed = (augment.cut_paste(x) - x).abs().amax(1) > 1e-4
    share = changed.float().mean((1, 2))
    assert (
        0.6 < ((share > 0) & (share < 0.25)).float().mean() < 0.85
    )  # patches and scars; the rest is recoloured as a whole
    assert (share > 0).float().mean() > 0.97


def test_variation_keeps_the_picture_and_stays_in_range(monkeypatch):
    monkeypatch.undo()
    ramp = torch.linspace(0, 1, 32).expand(40, 3, 32, 32).contiguous()
    with seeded("test"):
        varied = augment.vary(ramp, 1.0)
    assert varied.shape == ramp.shape and varied.min() >= 0 and varied.max() <= 1
    assert (varied.mean((1, 2, 3)) - 0.5).abs().max() < 0.15


def test_blur_and_noise_come_in_all_strengths_and_not_at_all_when_not_wanted():
    x = torch.full((300, 3, 16, 16), 0.5)
    with seeded("test"):
        noise = augment.blur_and_noise(x, 1.0).sub(x).std((1, 2, 3))
    assert torch.equal(augment.blur_and_noise(x, 0), x)
    assert noise.min() < 0.005 and 0.06 < noise.max() < 0.09


def test_the_score_is_the_mean_logit_of_the_members():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    detector = bce.Detector(members=3, steps=2, width=4).fit(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        logits = [network(x).numpy() for network in detector.network_.members]
    np.testing.assert_allclose(detector.score(images), np.mean(logits, axis=0), rtol=1e-4, atol=1e-5)
    assert np.std(logits, axis=0).min() > 0  # no two members are alike


def test_the_focal_loss_by_hand():
    """At a logit of 0 a picture is right by a half: it counts (1 - 1/2)^gamma of its cross entropy, log 2."""
    scores, labels = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])
    assert bce.Detector(focal=2.0).loss(scores, labels).item() == pytest.approx(np.log(2) / 4, rel=1e-6)
    assert bce.Detector().loss(scores, labels).item() == pytest.approx(np.log(2), rel=1e-6)


def test_the_loss_of_the_hypersphere_by_hand():
    """The distance itself for a normal, -log(1 - exp(-d)) for an anomaly: exp(-log 2) leaves log 2."""
    d = float(np.log(2))
    loss = hsc.Detector().loss(torch.tensor([0.75, d]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx((0.75 + d) / 2, rel=1e-6)
    assert np.isfinite(
        hsc.Detector().loss(torch.tensor([0.0]), torch.tensor([1.0])).item()
    )  # an anomaly in the very centre


@pytest.mark.parametrize("options", [{"cutpaste_share": 0}, {"batch_size": 2}, {"focal": 0.5}])
@pytest.mark.parametrize("name", ["bce", "hsc"])
def test_options_at_their_ends_give_finite_scores(name, options):
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    if name == "hsc":
        options = {**{k: v for k, v in options.items() if k != "focal"}, "rep_dim": 1}
    detector = (
        {"bce": bce, "hsc": hsc}[name]
        .Detector(members=1, steps=3, width=4, **options)
        .fit(images, images[:3], generated_normals=images[:2])
    )
    assert detector.score(images).shape == (6,) and np.isfinite(detector.score(images)).all()


def test_the_focal_loss_is_flat_where_a_picture_is_plainly_right():
    scores = torch.tensor([-40.0], requires_grad=True)
    bce.Detector(focal=0.5).loss(scores, torch.tensor([0.0])).backward()
    assert scores.grad.abs().item() < 1e-6


def test_the_score_of_the_hypersphere_is_the_pseudo_huber_distance():
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    detector = hsc.Detector(members=1, steps=2, width=4, rep_dim=8).fit(images)
    with torch.inference_mode():
        features = detector.network_.members[0].features(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    assert features.shape == (5, 8)
    np.testing.assert_allclose(detector.score(images), np.sqrt((features**2).sum(1) + 1) - 1, rtol=1e-4)

"""What is particular to Deep SAD: pretraining that moves the weights, the centre, and the loss by hand."""

import numpy as np
import pytest
import torch

from kka.detectors import deep_sad
from kka.detectors.shared.networks import LeNet, seeded


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


def test_pretraining_moves_every_weight_and_learns_to_reconstruct():
    heard = []
    inside = torch.randint(256, (32, 3, 1, 1), generator=torch.Generator().manual_seed(0)).byte().expand(32, 3, 16, 16)
    with seeded("test"):
        network = LeNet(16, (16, 16))
        before = {k: v.clone() for k, v in network.named_parameters()}
        deep_sad.Detector(rep_dim=16, pretrain_steps=41, learning_rate=1e-3)._pretrain(
            network, inside, lambda *what: heard.append(what[1])
        )
    assert len(before) == 4  # three convolutions and the last layer, no bias
    for name, parameter in network.named_parameters():
        assert (parameter - before[name]).abs().max() > 1e-3, name
    assert heard[-1] < heard[0] / 2


def test_fit_trains_the_very_network_that_was_pretrained(monkeypatch):
    seen = {}

    def record(method):
        def call(self, network, *rest):
            seen[method] = id(network if method == "_pretrain" else network.features)
            return None if method == "_pretrain" else original(self, network, *rest)

        original = getattr(deep_sad.Detector, method)
        return call

    monkeypatch.setattr(deep_sad.Detector, "_pretrain", record("_pretrain"))
    monkeypatch.setattr(deep_sad.Detector, "_train", record("_train"))
    detector = deep_sad.Detector(rep_dim=8, steps=2).fit(pictures(4))
    assert seen["_pretrain"] == seen["_train"] == id(detector.network_.features)


def test_the_centre_comes_from_normals_and_keeps_away_from_zero():
    inside, anomalies = pictures(20), pictures(20, seed=1)
    alone = deep_sad.Detector(rep_dim=8, pretrain_steps=2, steps=1).fit(inside)
    beside = deep_sad.Detector(rep_dim=8, pretrain_steps=2, steps=1).fit(inside, anomalies)
    assert torch.equal(alone.network_.centre, beside.network_.centre)
    assert alone.network_.centre.abs().min() >= 0.1 - 1e-6


def test_a_coordinate_near_zero_is_pushed_to_the_side_it_is_on():
    class Fixed(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.02, -0.03, 0.0, 0.5, -0.7]]).expand(len(x), -1)

    centre = deep_sad.Detector(centre_eps=0.1)._centre(Fixed(), torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    assert centre.tolist() == pytest.approx([0.1, -0.1, 0.1, 0.5, -0.7])


def test_the_loss_is_distance_for_normals_and_inverse_distance_for_anomalies():
    detector = deep_sad.Detector(rep_dim=2, eta=3.0)
    distance = torch.tensor([4.0, 25.0, 1.0, 4.0])
    # two normals 4 + 25, two anomalies 3/1 + 3/4, over four rows
    assert detector._loss(distance, 2).item() == pytest.approx((4 + 25 + 3 + 0.75) / 4, rel=1e-5)
    # none: Deep SVDD, the mean squared distance
    assert detector._loss(distance, 0).item() == pytest.approx((4 + 25 + 1 + 4) / 4, rel=1e-5)


def test_a_step_of_training_draws_normals_in_and_pushes_anomalies_out():
    normals, anomalies = np.full((16, 16, 16, 3), 60, np.uint8), pictures(16)
    detector = deep_sad.Detector(rep_dim=8, pretrain_steps=5, steps=60, batch_size=16, learning_rate=1e-3)
    detector.fit(normals, anomalies)
    assert detector.score(anomalies).min() > 10 * detector.score(normals).max()


def test_the_score_is_the_squared_distance_from_the_centre():
    images = pictures(5)
    detector = deep_sad.Detector(rep_dim=8, pretrain_steps=2, steps=2).fit(images)
    with torch.inference_mode():
        features = detector.network_.features(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    expected = ((features - detector.network_.centre) ** 2).sum(1).numpy()
    np.testing.assert_allclose(detector.score(images), expected, rtol=1e-4)

"""What is particular to the detectors on frozen features: patches, the coreset, two banks, the probe's sum, SimpleNet's
terms."""

import numpy as np
import pytest
import torch
from torch import nn

from kka.detectors import patchcore, probe, simplenet
from kka.detectors.shared.features import Bank, Patches, PatchHead, spread
from kka.detectors.shared.networks import seeded
from kka.errors import KkaError

MARK = torch.zeros(16, dtype=torch.uint8)


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


class Maps(nn.Module):
    """A backbone of two maps whose values are known: the picture's mean as 2x2, its first channel as it is."""

    def forward(self, x):
        return [x[:, :1], x.mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, 2, 2, 2)], x.mean((2, 3))


def test_patches_are_neighbourhood_means_of_all_layers_at_the_finest_grid():
    x = torch.zeros(1, 3, 4, 4)
    x[0, 0, 1, 1] = 9
    found = Patches(Maps(), [0, 1])(x)
    assert found.shape == (1, 3, 4, 4)
    assert torch.allclose(
        found[0, 0, :3, :3], torch.tensor([[9 / 4, 9 / 6, 9 / 6], [9 / 6, 1, 1], [9 / 6, 1, 1]])
    )  # of those inside
    assert torch.allclose(found[0, 1:], torch.tensor(9 / 48))


def test_a_channel_that_hardly_varies_counts_as_a_tenth_of_the_average():
    rows = torch.tensor([[0.0, 5.0], [2.0, 5.0]])  # deviations 1 and 0, on average 0.5
    assert spread(rows).tolist() == pytest.approx([1.0, 0.05], abs=1e-4)


def test_the_score_is_the_mean_of_the_highest_share_of_patches():
    scores = torch.tensor([[1.0, 5.0, 3.0, 2.0]])
    for share, expected in ((0.0, 5.0), (0.5, 4.0), (1.0, 2.75)):
        assert PatchHead(MARK, share).top(scores).item() == expected


def test_a_bank_gives_squared_distances_to_the_nearest():
    bank = Bank(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
    assert bank(torch.tensor([[0.0, 0.0]]), 3).tolist() == [[0.0, 1.0, 25.0]]
    assert bank(torch.tensor([[3.0, 3.0]])).tolist() == [[1.0]]


def test_the_coreset_takes_the_farthest_each_time():
    """Three far clumps of ten: three rows cover them, one in each."""
    with seeded("test"):
        rows = torch.cat([torch.randn(10, 2) * 0.01 + torch.tensor(c) for c in ([0.0, 0.0], [10.0, 0.0], [0.0, 10.0])])
        chosen = patchcore.Detector(coreset_share=0.1)._coreset(rows)
    assert sorted((chosen // 10).tolist()) == [0, 1, 2]


def test_a_coreset_of_wide_rows_covers_them_nearly_as_well_as_it_could():
    """In projection the greedy choice still leaves no row farther off than twice the best radius, up to the
    projection's error."""
    with seeded("test"):
        rows = torch.randn(300, 400)
        few = patchcore.Detector(most_stored=30)._coreset(rows)
        random = torch.randperm(300)[:30]
    radius = [Bank(rows[chosen])(rows).max().item() for chosen in (few, random)]
    assert len(set(few.tolist())) == 30 and radius[0] < 1.1 * radius[1]


def test_an_empty_bank_of_anomalies_plays_no_part_and_a_full_one_is_subtracted():
    features = torch.tensor([[3.0, 4.0]]).view(1, 2, 1, 1)
    normal, anomalous = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    assert patchcore.Banks(MARK, 0.0, 0.5, torch.ones(2), normal, anomalous[:0])(features).item() == pytest.approx(5)
    assert patchcore.Banks(MARK, 0.0, 0.5, torch.ones(2), normal, anomalous)(features).item() == pytest.approx(
        5 - 0.5 * 4
    )


def test_patches_that_normals_have_are_pruned():
    inside = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    bank = Bank(inside[:1])  # the others lie at squared distances 1, 4 and 100
    outside = torch.tensor([[0.5], [1.5], [3.0]])  # 0.25, 2.25 and 9
    assert patchcore.Detector(prune_share=0.5)._prune(outside, inside, bank).tolist() == [[3.0]]


def test_no_more_patches_than_asked_for_are_looked_at_and_as_many_of_each_picture():
    detector = patchcore.Detector(most_patches=60)
    with seeded("test"):
        rows = detector.rows(torch.from_numpy(pictures(20)).permute(0, 3, 1, 2))
    assert rows.shape == (20, 3, 192)


def test_the_probe_adds_distance_in_deviations_and_the_heads_logit():
    detector = probe.Detector(k=2, knn_weight=0.5).fit(pictures(12), pictures(6, 1))
    network, x = detector.network_, torch.from_numpy(pictures(4, 2)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        rows = network.standard(detector.features(x))
        distance = torch.cdist(rows, network.bank.stored).topk(2, largest=False).values.mean(1)
        expected = 0.5 * (distance - network.usual[0]) / network.usual[1] + network.head(rows)[:, 0]
    np.testing.assert_allclose(detector.score(pictures(4, 2)), expected.numpy(), rtol=1e-3, atol=1e-3)
    assert torch.allclose(rows.norm(dim=1), torch.ones(4))
    assert probe.Detector().fit(pictures(12)).network_.head.weight.abs().max() == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_probe_of_a_few_normals_is_the_same_once_loaded(n, tmp_path):
    detector = probe.Detector().fit(pictures(n), pictures(4, 1))
    detector.save(tmp_path / "detector")
    scores = detector.score(pictures(5, 2))
    np.testing.assert_allclose(probe.Detector.load(tmp_path / "detector").score(pictures(5, 2)), scores, rtol=1e-5)
    assert np.abs(scores).max() < 1000  # the distance does not drown the head


def test_the_probes_distance_of_a_normal_is_measured_without_itself():
    network = probe.Detector(k=1).fit(pictures(12)).network_
    rows = network.bank.stored
    between = torch.cdist(rows, rows).fill_diagonal_(torch.inf).amin(1)
    assert network.usual[0].item() == pytest.approx(between.mean().item(), rel=1e-3)


def test_simplenets_loss_by_hand():
    """With an adaptor and a body that pass values on, no noise, and margin 0.5."""
    detector = simplenet.Detector(noise=0, margin=0.5, top_share=0.5)
    network = simplenet.Discriminator(MARK, 0.5, torch.zeros(1), torch.ones(1), 1)
    network.adaptor, network.body = nn.Identity(), nn.Identity()
    normal, anomalous = torch.tensor([[[-1.0], [0.0]]]), torch.tensor([[[0.25], [-3.0]]])
    # low: max(0, .5 - 1), max(0, .5 + 0) -> mean .25; high: max(0, .5 + 1), .5 -> mean 1; the top half of the anomaly:
    # .5 - .25
    assert detector._loss(network, normal, anomalous).item() == pytest.approx(0.25 + 1 + 0.25)
    assert detector._loss(network, normal, anomalous[:0]).item() == pytest.approx(0.25 + 1)


def test_layers_that_the_backbone_has_not_are_refused():
    with pytest.raises(
        KkaError,
        match=r"the detector 'patchcore': layers wants places from 0 to 2 in the backbone's maps, got \[1, 3\]",
    ):
        patchcore.Detector(layers=[1, 3]).fit(pictures(4))


def test_other_weights_under_the_same_name_are_noticed(tmp_path, monkeypatch):
    detector = probe.Detector().fit(pictures(6))
    detector.save(tmp_path / "detector")
    assert (tmp_path / "detector" / "weights.safetensors").stat().st_size < 50_000  # not the backbone
    probe.Detector.load(tmp_path / "detector")
    from kka.detectors.shared import backbones

    load = backbones.load

    def changed(reference):
        backbone = load(reference)
        backbone.fingerprint = backbone.fingerprint + 1
        return backbone

    monkeypatch.setattr(backbones, "load", changed)
    with pytest.raises(KkaError, match="was fitted on other weights than the backbone 'kka/mini/features' has now"):
        probe.Detector.load(tmp_path / "detector")

"""The detector that generated anomalies correct, on patches made by hand."""

import logging

import numpy as np
import pytest
import torch

from kka.detectors import corrected
from kka.detectors.shared.evidence import Judged, grouped, groups_of
from kka.detectors.shared.features import top, whitening
from kka.records import Changes

WIDTH = 6


def patches(n: int, p: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, p, WIDTH, generator=generator) + shift


def sides(moved: torch.Tensor, normals: torch.Tensor) -> tuple[corrected.Patched, corrected.Patched]:
    """Normals in two groups, and anomalies made from them, whose first patch of ten is `moved`."""
    groups = torch.arange(len(normals)) % 2
    flags = torch.zeros(normals.shape[:2], dtype=torch.bool)
    changed = flags.clone()
    changed[:, 0] = True
    anomalies = normals.clone()
    anomalies[:, 0] += moved
    return corrected.Patched(normals, flags, groups), corrected.Patched(anomalies, changed, groups)


def learnt(
    moved: torch.Tensor, *, seed: int = 0, **options: object
) -> tuple[corrected.Corrected, dict[str, float], corrected.Way]:
    detector = corrected.Detector(seed, most_stored=100, batch_size=64, **options)  # type: ignore[arg-type]
    normal, anomalous = sides(moved, patches(60, 10))
    figures: dict[str, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        way = detector._way("channels", normal)
        network = corrected.Corrected(torch.zeros(16), 0.1, way.mean, way.measure, way.bank, detector.hidden)
        detector._correct(
            network, way, normal, anomalous, (normal, anomalous), lambda name, value, _: figures.update({name: value})
        )
    return network, figures, way


def test_before_it_learns_a_score_is_the_distance_to_the_nearest_normal_patch() -> None:
    bank, rows = patches(1, 30, seed=1)[0], patches(1, 20, shift=1.0, seed=2)[0]
    network = corrected.Corrected(torch.zeros(16), 0.1, torch.zeros(WIDTH), torch.eye(WIDTH), bank, 8)
    expected = torch.cdist(rows, bank).amin(1)
    torch.testing.assert_close(network.patches(rows.T.reshape(1, WIDTH, 4, 5)).flatten(), expected)


def test_what_a_group_is_judged_by_is_not_of_the_group() -> None:
    bank = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 4.0]])
    way = corrected.Way("channels", torch.zeros(2), torch.eye(2), bank, torch.tensor([0, 0, 1]))
    rows = way.rows(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    # to the one of group 0 only (0, 4) is known, to that of group 1 also (0, 0)
    torch.testing.assert_close(rows.away, torch.tensor([[1.0, -4.0], [1.0, 0.0]]))


def test_changes_that_can_be_told_correct_the_distance_within_its_strength() -> None:
    moved = torch.zeros(WIDTH)
    moved[0] = -2.5  # always the same way, which distance alone does not know
    network, figures, way = learnt(moved, steps=300, learning_rate=1e-3, strength=0.5)
    assert figures["corrected/used"] == 1
    normal, _ = sides(moved, patches(60, 10))
    rows = way.rows(normal.patches.flatten(0, 1), normal.groups.repeat_interleave(10))
    with torch.no_grad():
        deviation = float(corrected.added(network.correction, rows.rows, rows.away).std())
    assert 0 < deviation <= 0.5 + 0.05  # of one, the deviation of the distances in their unit


def test_changes_that_are_none_leave_the_distance_alone_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        network, figures, _ = learnt(torch.zeros(WIDTH), steps=50)
    assert figures["corrected/used"] == 0
    assert all(not parameter.any() for parameter in network.correction[-1].parameters())
    assert "corrected: generated anomalies do not help for sure" in caplog.text


def test_a_way_to_measure_is_taken_only_where_it_is_better_for_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anomalies move a channel away from one that follows it in all normals: whitening sees that."""
    detector = corrected.Detector(most_stored=200, top_shares=[])
    normals = patches(80, 10)
    normals[..., 1] = normals[..., 0] + 0.5 * normals[..., 1]
    moved = torch.zeros(WIDTH)
    moved[1] = 3.0
    normal, anomalous = sides(moved, normals)
    torch.manual_seed(0)
    default = detector._way("channels", normal)
    way, share = detector._chosen(default, normal, (normal, anomalous), lambda *_: None)
    assert (way.name, share) == ("whitened", detector.top_share)
    monkeypatch.setattr(detector, "choose", False)
    assert detector._chosen(default, normal, (normal, anomalous), lambda *_: None)[0].name == "channels"
    monkeypatch.setattr(detector, "choose", True)
    normal, anomalous = sides(torch.zeros(WIDTH), normals)  # nothing to be better at
    assert detector._chosen(default, normal, (normal, anomalous), lambda *_: None)[0].name == "channels"


def test_evidence_where_new_groups_are_odd_is_worse_than_within_groups() -> None:
    """The trap of a panel drawn on the very normals that it is compared with: the groups lie far apart."""
    normals = patches(40, 10)
    normals[::2] += 20
    moved = torch.full((WIDTH,), 3.0)
    normal, anomalous = sides(moved, normals)
    detector = corrected.Detector(most_stored=100)
    torch.manual_seed(0)
    way = detector._way("channels", normal)
    apart = corrected._judged([corrected._maps(way, side) for side in (normal, anomalous)], 0.1)
    mixed = torch.arange(40) // 2 % 2  # each group holds some of either kind
    known = way._replace(groups=torch.full_like(way.groups, -1))
    within = corrected._judged(
        [corrected._maps(known, side._replace(groups=mixed)) for side in (normal, anomalous)], 0.1
    )
    assert within.auroc > 0.95 > apart.auroc + 0.2


def test_whitened_rows_have_a_variance_of_one_and_no_covariance() -> None:
    rows = patches(1, 5000)[0] @ torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    measured = (rows - rows.mean(0)) @ whitening(rows)
    covariance = torch.cov(measured.T)
    kept = covariance.diagonal() > 0.5
    torch.testing.assert_close(covariance[kept][:, kept], torch.eye(int(kept.sum())), atol=1e-3, rtol=0)
    values = torch.linalg.eigvalsh(torch.cov(rows.T)).flip(0)
    assert int(kept.sum()) == int((values.cumsum(0) / values.sum() < 0.99).sum()) + 1


def test_groups_are_those_of_what_the_anomalies_were_made_from() -> None:
    normals = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    groups = torch.tensor([5, 6, 5, 7])
    sources = torch.cat([normals[[3, 0]], torch.full((1, 3, 2, 2), 9, dtype=torch.uint8)])
    assert groups_of(sources, normals, groups).tolist() == [7, 5, 7]  # the last is none of them: the third of 5, 6, 7


def test_groups_are_of_pictures_that_look_alike() -> None:
    vectors = torch.cat([torch.zeros(5, 3), torch.full((4, 3), 9.0)]) + torch.rand(9, 3)
    found = grouped(vectors, 2, seed=0).tolist()
    assert len(set(found[:5])) == len(set(found[5:])) == 1 and found[0] != found[8]


def test_a_judgement_compares_on_the_same_pictures() -> None:
    first = Judged(np.array([0.0, 1.0, 2.0]), np.array([1.5, 3.0]))
    assert first.auroc == pytest.approx(5 / 6)
    assert first.compared(first, 0).gain == 0 and not first.compared(first, 0).better
    torch.testing.assert_close(top(torch.tensor([[1.0, 4.0, 2.0, 3.0]]), 0.5), torch.tensor([3.5]))


def test_it_learns_from_changes_of_pictures_and_keeps_its_choice(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    normals = rng.integers(90, 110, (40, 32, 32, 3)).astype(np.uint8)
    sources = normals[:30]
    anomalies, masks = sources.copy(), np.zeros((30, 32, 32), bool)
    anomalies[:, 10:18, 10:18], masks[:, 10:18, 10:18] = 200, True
    options = {"groups": 2, "steps": 30, "most_stored": 200, "top_shares": [0.5]}
    detector = corrected.Detector(1, **options).fit(normals, anomalies, changes=Changes(sources, masks))
    assert detector.score(anomalies).min() > detector.score(normals).max()
    folder = tmp_path / "detector"  # type: ignore[operator]
    detector.save(folder)
    loaded = corrected.Detector.load(folder)
    assert loaded.network_.top_share == detector.network_.top_share
    np.testing.assert_array_equal(loaded.score(anomalies), detector.score(anomalies))

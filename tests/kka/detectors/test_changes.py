"""The measured change in features: which patches of an anomaly count, and what detectors make of it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kka.detectors import patchcore, simplenet
from kka.detectors.shared.base import Pictures
from kka.detectors.shared.changes import changed, changed_patches, touched, usual_distance
from kka.records import Changes, Images

MARK = torch.zeros(16, dtype=torch.uint8)
FITTED = {"patchcore": patchcore.Detector, "simplenet": simplenet.Detector}


def grey(n: int, seed: int = 0) -> Images:
    """Grey pictures with some grain."""
    return np.random.default_rng(seed).integers(120, 136, (n, 32, 32, 3), dtype=np.uint8)


def spotted(n: int) -> tuple[Images, Changes]:
    """Grey pictures with a white square of 8 pixels, with their sources and masks."""
    sources = grey(n, 1)
    anomalies, masks = sources.copy(), np.zeros((n, 32, 32), bool)
    anomalies[:, 8:16, 16:24], masks[:, 8:16, 16:24] = 255, True
    return anomalies, Changes(sources, masks)


def given(anomalies: Images, changes: Changes) -> Pictures:
    first = [torch.from_numpy(p).permute(0, 3, 1, 2) for p in (grey(4), anomalies, grey(0), changes.sources)]
    return Pictures(*first, torch.from_numpy(changes.masks))


def test_the_usual_distance_is_a_quantile_of_that_to_the_nearest_other() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 4.5], [100.0, 0.0]])  # nearest: 5, .5, .5, and 97.1
    assert usual_distance(rows, 0.0) == pytest.approx(0.5)
    assert usual_distance(rows, 1.0) == pytest.approx((97**2 + 4**2) ** 0.5, rel=1e-5)
    assert usual_distance(rows, 0.5) == pytest.approx((0.5 + 5) / 2)
    assert usual_distance(rows[:1]) == 0.0


def test_of_many_patches_some_are_asked_and_all_are_answers() -> None:
    """Every second patch is asked, and its nearest is one that is not."""
    places = torch.cartesian_prod(torch.arange(0.0, 160, 4), torch.arange(0.0, 100, 4))
    rows = torch.stack([places, places + torch.tensor([1.0, 0.0])], 1).flatten(0, 1)
    assert len(rows) == 2000 and usual_distance(rows, 1.0) == pytest.approx(1, abs=0.1)


def test_a_patch_changed_when_it_lies_farther_from_itself_than_usual() -> None:
    before = torch.zeros(1, 3, 2)
    after = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [3.0, 4.1]]])
    assert changed(after, before, 5.0).tolist() == [[False, False, True]]
    assert changed(after, before, 0.0).tolist() == [[False, True, True]]


def test_a_mask_reaches_the_cells_that_it_touches_and_those_beside_them() -> None:
    masks = torch.zeros(2, 20, 24, dtype=torch.bool)
    masks[0, 0, 0] = True  # in the first cell of 4 x 4 pixels
    masks[1, 8, 11:13] = True  # at the border of two
    first, second = touched(masks, (5, 6))
    assert first.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert second.nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2, 3, 4)]


def test_a_grid_that_does_not_divide_the_picture_leaves_no_pixel_out() -> None:
    for row in range(13):
        masks = torch.zeros(1, 13, 13, dtype=torch.bool)
        masks[0, row, 5] = True
        assert touched(masks, (5, 5)).any()


def test_patches_count_where_features_changed_and_the_mask_says_so() -> None:
    anomalies, changes = spotted(3)
    changes.masks[1] = False  # says that nothing changed
    anomalies[2] = changes.sources[2]  # nothing did
    detector = patchcore.Detector()
    width = detector.width((32, 32))
    with torch.no_grad():
        patches, counts = changed_patches(detector, given(anomalies, changes), torch.ones(width), 0.1)
        maps = detector.features(torch.from_numpy(anomalies).permute(0, 3, 1, 2) / 255)
        before = detector.features(torch.from_numpy(changes.sources).permute(0, 3, 1, 2) / 255)
    cells = maps.shape[2] * maps.shape[3]
    assert patches.shape == (3, cells, width) and counts.any(1).tolist() == [True, False, False]
    inside = touched(torch.from_numpy(changes.masks[:1]), (8, 8))[0]
    differ = (maps - before).norm(dim=1)[0] > 0.1
    assert counts[0].sum() == (inside & differ).sum() and (differ & ~inside).any()  # some change beyond the mask
    found = patches[0, counts[0]].sort(0).values
    torch.testing.assert_close(found, maps[0][:, inside & differ].T.sort(0).values, rtol=1e-4, atol=1e-4)


def test_what_counts_is_taken_before_the_rest() -> None:
    anomalies, changes = spotted(4)
    few = patchcore.Detector(most_patches=4 * 5)
    patches, counts = changed_patches(few, given(anomalies, changes), torch.ones(few.width((32, 32))), 0.1)
    assert patches.shape[:2] == (4, 5) and counts.all()


def test_the_scale_is_that_of_the_difference() -> None:
    anomalies, changes = spotted(1)
    detector, pictures = patchcore.Detector(), given(anomalies, changes)
    ones = torch.ones(detector.width((32, 32)))
    most = [changed_patches(detector, pictures, ones * scale, 0.1 / scale)[1].sum().item() for scale in (1, 4)]
    assert most[0] == most[1] > 0
    assert changed_patches(detector, pictures, ones * 1e6, 0.1)[1].sum() == 0


def test_the_anomalous_bank_holds_what_changed_and_no_more() -> None:
    anomalies, changes = spotted(6)
    anomalies[:, 24:, :8] = 0  # beside the mask: no anomaly, whoever drew it
    whole, measured = (
        patchcore.Detector(prune_share=0).fit(grey(20), anomalies, changes=c).network_ for c in (None, changes)
    )
    assert isinstance(whole, patchcore.Banks) and isinstance(measured, patchcore.Banks)
    assert 0 < len(measured.anomalous.stored) < len(whole.anomalous.stored)
    assert len(measured.normal.stored) == len(whole.normal.stored)


def test_simplenets_third_term_is_of_the_changed_patches_alone() -> None:
    """With an adaptor and a body that pass values on, no noise, and margin 0.5: .5 - .25 for the one that counts."""
    detector = simplenet.Detector(noise=0, margin=0.5, top_share=0.5)
    network = simplenet.Discriminator(MARK, 0.5, torch.zeros(1), torch.ones(1), 1)
    network.adaptor, network.body = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    normal, anomalous = torch.tensor([[[-1.0], [0.0]]]), torch.tensor([[[0.25], [-3.0]]])
    without = 0.25 + 1
    for counts, third in (([[True, False]], 0.25), ([[False, True]], 3.5), ([[True, True]], (0.25 + 3.5) / 2)):
        loss = detector._loss(network, normal, anomalous, torch.tensor(counts))
        assert loss.item() == pytest.approx(without + third)


def test_anomalies_without_effect_teach_nothing() -> None:
    """Their pictures are those that they were made from."""
    same, masks = grey(6, 1), np.ones((6, 32, 32), bool)
    seen: dict[str, float] = {}
    bank = patchcore.Detector().fit(grey(20), same, changes=Changes(same, masks)).network_
    assert isinstance(bank, patchcore.Banks) and len(bank.anomalous.stored) == 0
    simplenet.Detector(steps=1).fit(
        grey(20), same, changes=Changes(same, masks), log=lambda name, value, _: seen.update({name: value})
    )
    assert seen["simplenet/changed_patches"] == 0 and np.isfinite(seen["simplenet/loss"])


@pytest.mark.parametrize("name", FITTED)
def test_a_fit_with_changes_is_the_same_each_time_and_another_than_without(name: str) -> None:
    def scores(changes: Changes | None) -> Any:
        options = {"steps": 20} if name == "simplenet" else {}
        return FITTED[name](**options).fit(grey(20), anomalies, changes=changes).score(spotted(8)[0])

    anomalies, changes = spotted(6)
    first = scores(changes)
    np.testing.assert_array_equal(first, scores(changes))
    assert not np.array_equal(first, scores(None))


def test_without_changes_scores_are_those_of_before_there_were_changes() -> None:
    anomalies, _ = spotted(6)
    found = patchcore.Detector().fit(grey(20), anomalies).score(anomalies[:2])
    assert found.tolist() == pytest.approx([353.19034, 345.24194], rel=1e-4)

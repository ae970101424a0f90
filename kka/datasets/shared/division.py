"""How a set of pictures is divided into train, calibration, validation and test."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kka.datasets.shared.captions import table
from kka.errors import KkaError
from kka.records import PARTS, Split, Splits, seed_of

FEWEST, FEW = 20, 30  # normal pictures below which no boundary can be drawn, or not well
Rows = NDArray[np.int64]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shares:
    """Of the normals; the anomalies go to validation and test in the same ratio, each group for itself."""

    calibration: float
    validation: float
    test: float


def divide(who: str, split: Split, seed: int, shares: Shares, together: Sequence[str] | None = None) -> Splits:
    """A set without splits of its own, divided at random. Pictures for which `together` says the same, a word for each,
    come into one split, so that its shares are met nearly. Raises KkaError for too few normals or groups of them, or
    shares that leave none to train with."""
    normals, anomalies = (np.flatnonzero(split.labels == label) for label in (0, 1))
    if len(normals) < FEWEST:
        raise KkaError(
            f"{who}: wanted at least {FEWEST} normal pictures, got {len(normals)}. A few hundred are better."
        )
    if shares.calibration + shares.validation + shares.test >= 1:
        raise KkaError(
            f"{who}: calibration, validation and test leave no normals to train with. Lower them below 1 together."
        )
    _warn_of_few(who, len(normals))
    rng = np.random.default_rng(seed_of(seed, "divide"))
    sizes = [max(1, round(s * len(normals))) for s in (shares.calibration, shares.validation, shares.test)]
    first = shares.validation / max(shares.validation + shares.test, 1e-9)
    if together is None:
        calibration, validation, test, train = np.split(rng.permutation(normals), np.cumsum(sizes))
        chosen, tested = hold_out(split, anomalies, first, rng)
    else:
        words = np.array(together)
        train, calibration, validation, test = _deal_normals(who, normals, words[normals], sizes, rng)
        chosen, tested = _deal(anomalies, words[anomalies], [first * len(anomalies), (1 - first) * len(anomalies)], rng)
    return Splits(
        train=split.take(np.sort(train)),
        calibration=split.take(np.sort(calibration)),
        validation=split.take(np.sort(np.concatenate([validation, chosen]))),
        test=split.take(np.sort(np.concatenate([test, tested]))),
    )


def divide_tested(
    who: str, split: Split, tested: NDArray[np.bool_], seed: int, calibration: float, validation: float
) -> Splits:
    """A set with a test split of its own: of that the share `validation` of each group is there to choose by; of the
    other normals the share `calibration` sets the boundary. Where validation would be empty, a tenth of those normals
    stand for it."""
    rng = np.random.default_rng(seed_of(seed, "divide"))
    chosen, test = hold_out(split, np.flatnonzero(tested), validation, rng)
    trained = rng.permutation(np.flatnonzero(~tested & (split.labels == 0)))
    _warn_of_few(who, len(trained))
    sizes = [round(calibration * len(trained)), 0 if len(chosen) else max(1, round(0.1 * len(trained)))]
    boundary, instead, train = np.split(trained, np.cumsum(sizes))
    return Splits(*(split.take(np.sort(rows)) for rows in (train, boundary, np.concatenate([chosen, instead]), test)))


def hold_out(split: Split, rows: Rows, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """The `share` of each group among the rows, and the rest."""
    groups = np.array(split.groups)[rows]
    held = [
        rng.permutation(rows[groups == g])[: round(share * int((groups == g).sum()))]
        for g in dict.fromkeys(groups.tolist())
    ]
    chosen = np.concatenate([*held, np.zeros(0, np.int64)]).astype(np.int64)
    return chosen, np.setdiff1d(rows, chosen)


def _warn_of_few(who: str, normals: int) -> None:
    if normals < FEW:
        _log.warning(f"{who}: {normals} normal pictures are few: the threshold will wander. A few hundred are better.")


def _deal_normals(
    who: str, rows: Rows, words: NDArray[np.str_], sizes: Sequence[int], rng: np.random.Generator
) -> list[Rows]:
    """Normals for train, and for calibration, validation and test in these `sizes`."""
    if (n := len(np.unique(words))) < len(PARTS):
        raise KkaError(
            f"{who}: group wants at least {len(PARTS)} groups of normal pictures, one for each split, got {n}."
            " Leave it out, or make the groups smaller."
        )
    return _deal(rows, words, [len(rows) - sum(sizes), *sizes], rng)


def _deal(rows: Rows, words: NDArray[np.str_], sizes: Sequence[float], rng: np.random.Generator) -> list[Rows]:
    """The rows in hands of about these `sizes`; those of one word stay together. Large groups are dealt first, each to
    the hand that lacks most; no hand stays empty where there are groups enough."""
    names, group, counts = np.unique(words, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    order = order[np.argsort(-counts[order], kind="stable")]
    lacking, hand_of = np.array(sizes, dtype=float), np.zeros(len(names), dtype=np.int64)
    empty = np.ones(len(sizes), dtype=bool)
    for dealt, name in enumerate(order):
        open_to = empty if len(order) - dealt <= empty.sum() else np.ones_like(empty)
        hand = np.where(open_to, lacking, -np.inf).argmax()
        hand_of[name], empty[hand] = hand, False
        lacking[hand] -= counts[name]
    return [rows[hand_of[group] == hand] for hand in range(len(sizes))]


def groups(who: str, source: str, files: Sequence[Path], labels: Sequence[int]) -> list[str]:
    """Which group each file belongs to, as the csv `source` says: its columns are file, by paths relative to its own
    folder, and group; a column label is not read. A file of two groups makes them one. An anomaly that it does not name
    stands alone. Raises KkaError for a normal picture that it does not name."""
    path = Path(source).expanduser()
    rows = table(who, path, ["file", "group"], ["label"])
    known: dict[Path, str] = {}
    first: dict[str, str] = {}  # of groups that are one
    for row in rows:
        group = _first(first, row["group"])
        before = known.setdefault((path.parent / row["file"]).resolve(), group)
        first[group] = _first(first, before)
    without = [file for file, label in zip(files, labels, strict=True) if not label and not known.get(file.resolve())]
    if without:
        raise KkaError(
            f"{who}: group {source} names no group for {len(without)} normal pictures, such as {without[0]}. Its column"
            f" file wants paths relative to {path.parent}, such as {rows[0]['file'] if rows else 'good/1.png'}."
        )
    return [_first(first, known.get(file.resolve()) or str(file)) for file in files]


def _first(first: dict[str, str], group: str) -> str:
    """The group that stands for all that are one with this one."""
    while first.get(group, group) != group:
        group = first[group]
    return group

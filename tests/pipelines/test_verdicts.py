"""What the confusion evaluator refuses."""

from collections.abc import Callable

import numpy as np
import pytest

from kka.errors import KkaError
from kka.records import Anomaly
from pipelines.stage import Run
from pipelines.verdicts import Verdict, check_contrast


def test_a_pool_of_hard_ones_only_is_refused_and_one_without_any_warned_of(
    run: Run, anomaly: Callable[..., Anomaly], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        KkaError, match="assess: round r1 wants hard and easy anomalies, got 2 hard ones of 2.*Lower assess.quantile"
    ):
        check_contrast(run, [anomaly(), anomaly()])
    check_contrast(run, [anomaly(grade="easy"), anomaly()])
    assert not capsys.readouterr().err
    check_contrast(run, [anomaly(grade="easy"), anomaly(grade="between")])
    assert "assess r1: no hard anomaly among 2" in capsys.readouterr().err


def test_a_verdict_tells_its_rates() -> None:
    verdict = Verdict(np.zeros(4), ["hard", "easy", "between", "easy"], 0.75)
    assert verdict.figures("_r0") == {"hard_rate_r0": 0.25, "controls_auroc_r0": 0.75}
    assert Verdict(np.zeros(1), ["hard"], None).figures("") == {"hard_rate": 1.0}

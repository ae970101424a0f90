"""What the confusion evaluator refuses."""

from collections.abc import Callable

import numpy as np
import pytest

from kka.errors import KkaError
from kka.records import Anomaly
from pipelines._stage import Run
from pipelines._verdicts import Verdict, refuse_one_sided


def test_a_pool_of_hard_ones_only_or_none_is_refused(run: Run, anomaly: Callable[..., Anomaly]) -> None:
    with pytest.raises(KkaError, match="assess: round r1 wants hard and easy anomalies, got 2 hard ones of 2.*Lower assess.quantile"):
        refuse_one_sided(run, [anomaly(), anomaly()])
    with pytest.raises(KkaError, match="assess: round r1 wants hard and easy anomalies, got no hard one of 2.*Raise assess.quantile"):
        refuse_one_sided(run, [anomaly(grade="easy"), anomaly(grade="between")])
    refuse_one_sided(run, [anomaly(grade="easy"), anomaly()])


def test_a_verdict_tells_its_rates() -> None:
    verdict = Verdict(np.zeros(4), ["hard", "easy", "between", "easy"], 0.75)
    assert verdict.figures("_r0") == {"hard_rate_r0": 0.25, "controls_auroc_r0": 0.75}
    assert Verdict(np.zeros(1), ["hard"], None).figures("") == {"hard_rate": 1.0}

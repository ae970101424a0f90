"""The page on the library runs as it stands, with smaller numbers."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kka.datasets import blossom
from kka.records import Anomaly, Pair

ROOT = Path(__file__).parent.parent
SMALLER = {
    'create("bce", seed=0)': 'create("bce", seed=0, steps=20, members=1)',
    'create("bce", seed=3)': 'create("bce", seed=3, steps=20, members=1)',
    "count=200": "count=24",
    "count=1500": "count=40",
    "count=1000": "count=60",
    "steps=60": "steps=4",
    "ask(200, 200": "ask(20, 20",
    '{"steps": 8}': '{"steps": 2}',
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what diffusers asks of numpy
def test_a_round_runs_on_a_users_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith(("#", "from", "import"))]) <= 30
    for number, smaller in SMALLER.items():
        assert number in code, f"the page no longer says {number}"
        code = code.replace(number, smaller)
    splits, data = blossom.load(0), ModuleType("my_data")
    data.normals, data.captions = splits.train.images[:100], splits.train.captions  # type: ignore[attr-defined]
    data.calibration, data.held_out = splits.calibration.images, splits.calibration.captions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_data", data)
    code = code.replace("kka/mini/lm", str(ROOT / "kka/mini/lm"))
    code = code.replace('{"steps": 2}', repr({"steps": 2, "model": str(ROOT / "kka/mini/t2i")}))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "docs/library.md", "exec"), names)
    pool, pairs, figures, curves = (names[name] for name in ("pool", "pairs", "figures", "curves"))
    assert isinstance(pool, list) and len(pool) == 24 and all(isinstance(a, Anomaly) for a in pool)
    assert isinstance(pairs, list) and len(pairs) == 60 and all(isinstance(p, Pair) for p in pairs)
    assert isinstance(figures, dict) and 0 <= figures["readable"] <= 1 and curves
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "data").exists()


def test_the_library_imports_no_platform() -> None:
    import subprocess

    modules = (
        "kka.alignment, kka.confusion, kka.preferences, kka.training, kka.evaluation, kka.scoring, kka.synthesizers"
    )
    platform = ("dvc", "mlflow", "optuna", "pipelines", "kka.project")
    program = f"import sys, {modules}; print([m for m in {platform} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

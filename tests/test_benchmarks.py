"""The tables of the documentation are those that the benchmarks print from the committed results, and the results say
which code made them."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation, cifar100, cifar100_bank, digest, gap, inspection, recheck, rounds, stamp, tuning
from benchmarks import detectors as costs
from benchmarks.digest import Code
from kka.errors import KkaError
from kka.project import presets

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FILES = [path for path in sorted(RESULTS.rglob("*.json")) if path.name != "settings.json"]


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def folder(name: str) -> dict[str, Any]:
    return {p.stem: read(f"{name}/{p.name}") for p in sorted((RESULTS / name).glob("*.json"))}


def fits(data: str) -> list[dict[str, Any]]:
    return ablation.complete(RESULTS / "ablation" / data, ablation.DETECTORS)


def shown(data: str, *titles: str) -> str:
    """Those of the ablation's tables that its page shows; `python -m benchmarks.ablation --print` prints all."""
    tables = ablation.tables(fits(data), ablation.DETECTORS)
    return "\n\n".join(table for table in tables if table.startswith((*titles, "Made by")))


@pytest.mark.parametrize(
    ("page", "table"),
    [
        ("README.md", lambda: rounds.gains(folder("rounds"))),
        ("docs/rounds.md", lambda: rounds.table(folder("rounds"))),
        ("docs/explanation.md", lambda: gap.table(folder("gap"))),
        ("docs/explanation.md", lambda: cifar100_bank.table(read("cifar100_bank.json"))),
        ("docs/ablation.md", lambda: shown("blossom", "AUROC at distance 1", "bce")),
        ("docs/ablation.md", lambda: shown("cifar100-bank", "AUROC:")),
        ("docs/ablation.md", lambda: cifar100.table(cifar100.complete())),
        ("docs/tuning.md", lambda: tuning.table(read("tuning.json"))),
        ("docs/ablation.md", lambda: costs.tables(read("detectors.json"))),
    ],
)
def test_a_table_of_the_documentation_is_what_its_script_prints(page: str, table: Callable[[], str]) -> None:
    found = table()
    assert found in (ROOT / page).read_text(encoding="utf-8")
    assert re.fullmatch(r"Made by `python -m benchmarks\.\w+` at .+ on .+\.", found.splitlines()[-1])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_a_result_says_where_it_comes_from(path: Path) -> None:
    made = json.loads(path.read_text(encoding="utf-8"))["stamp"]
    assert tuple(made) in (stamp.FIELDS, (*stamp.FIELDS, "checked")) and all(made.values())
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?", made["commit"])
    assert made["command"].startswith(f"python -m benchmarks.{path.relative_to(RESULTS).parts[0].split('.')[0]}")


def test_the_table_of_inspection_compares_arms_within_each_set() -> None:
    def run(auroc: float, images: int, **more: float) -> dict[str, Any]:
        figures = {"last": {"auroc": auroc, "recall": 0.5, "images": images, **more}, "seconds": 90.0}
        return {"figures": figures, "stamp": dict.fromkeys(stamp.FIELDS, stamp.UNKNOWN) | {"command": "python -m x"}}

    lines = inspection.table(
        {
            "elpv-normals-0": run(0.8, 0),
            "elpv-kka-0": run(0.85, 400),
            "elpv-kka-1": run(0.95, 440),
            "commutators-kka-0": run(0.9, 420, aupro=0.7),
            "commutators-patchcore-0": run(0.6, 0, aupro=0.6),
        }
    ).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines}
    # elpv has no masks, castings no results; 0.1 / 0.2 of the error is left there, and 0.1 / 0.4 with 0.6 alone
    assert rows["arm"].startswith("| arm | elpv: AUROC | recall | error left | commutators: AUROC | recall | AUPRO |")
    assert rows["kka"] == ("| kka | 0.900±0.071 | 0.500±0.000 | 0.50 | 0.900 | 0.500 | 0.700 | 0.25 | 420 | 1.5 |")
    assert rows["normals"] == "| normals | 0.800 | 0.500 | 1.00 |  |  |  |  | 0 | 1.5 |"
    assert [line.count("|") for line in lines[:5]] == [11] * 5


def outdated(code: Code, names: list[str]) -> list[str]:
    """Those of the results that another code than the present one made."""
    now = code.digest()
    return [name for name in sorted(names) if read(name)["stamp"]["code"] != now]


@pytest.mark.parametrize("variant", rounds.VARIANTS)
def test_the_table_of_rounds_is_not_older_than_the_code(variant: str) -> None:
    names = [f"rounds/{p.name}" for p in (RESULTS / "rounds").glob(f"{variant}-*.json")]
    again = f"python -m benchmarks.rounds --variants {variant}"
    assert names and outdated(rounds.code(variant), names) == [], (
        f"other code made these. Run `{again}` and put its tables into the page."
    )


def test_the_table_of_the_gap_is_not_older_than_the_code() -> None:
    names = [f"gap/{p.name}" for p in (RESULTS / "gap").glob("*.json")]
    assert names and outdated(gap.CODE, names) == [], (
        "other code made these. Run `python -m benchmarks.gap` and put its table into the page."
    )


# A project in small, whose benchmark is one of its files.

SCRIPT = '''"""Words."""
import helper
from kka.figures import half

FACTOR = 2.0
OTHER = 3


def run(x: float) -> float:
    """Words."""
    return half(x) * FACTOR * helper_of(x)  # a comment


def helper_of(x: float) -> float:
    return x


def table() -> str:
    return f"{OTHER}"
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "benchmarks/one.py": SCRIPT,
        "kka/__init__.py": "",
        "kka/errors.py": "class KkaError(Exception):\n    pass\n",
        "kka/figures.py": "from kka import errors, parts\n\n\ndef half(x: float) -> float:\n    return x / 2\n",
        "kka/parts.py": "SIZE = 1\n",
        "kka/unused.py": "SIZE = 1\n",
        "kka/mini/lm/weights": "0 1 2",
        "kka/mini/lm/README.md": "Words.",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def code(root: Path) -> Code:
    return Code("benchmarks/one.py", ("run",), also=("kka/mini/lm",), root=root)


def test_the_files_that_count_are_those_that_are_used(project: Path) -> None:
    assert code(project).files() == ["kka/__init__.py", "kka/figures.py", "kka/mini/lm/weights", "kka/parts.py"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("kka/figures.py", "x / 2", "x / 3"),
        ("kka/parts.py", "1", "2"),
        ("kka/mini/lm/weights", "2", "3"),
        ("benchmarks/one.py", "2.0", "2.5"),
        ("benchmarks/one.py", "return x", "return -x"),
    ],
)
def test_a_change_that_may_change_a_figure_changes_the_digest(project: Path, file: str, old: str, new: str) -> None:
    before, path = code(project).digest(), project / file
    path.write_text(path.read_text().replace(old, new))
    assert code(project).digest() != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("benchmarks/one.py", "Words", "Other words"),
        ("benchmarks/one.py", "a comment", "another comment"),
        ("benchmarks/one.py", "OTHER = 3", "OTHER = 4"),
        ("benchmarks/one.py", "half(x) * FACTOR", "(half( x ) *\n        FACTOR)"),
        ("kka/figures.py", "(x: float) -> float", "(x)"),
        ("kka/errors.py", "pass", "exit_code = 1"),
        ("kka/unused.py", "1", "2"),
        ("kka/mini/lm/README.md", "Words", "Other words"),
    ],
)
def test_a_change_that_can_change_no_figure_does_not(project: Path, file: str, old: str, new: str) -> None:
    before, path = code(project).digest(), project / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert code(project).digest() == before


def test_with_a_configuration_the_stages_and_the_parameters_count() -> None:
    base = presets.config("blossom")
    kka, no_dpo, deep_sad = (rounds.code(name) for name in ("kka", "no_dpo", "deep_sad"))
    assert {"pipelines/align.py", "kka/detectors/bce.py", "kka/mini/lm/model.safetensors"} < set(kka.files())
    assert "pipelines/report.py" not in kka.files()
    assert set(deep_sad.files()) ^ set(kka.files()) == {"kka/detectors/deep_sad.py", "kka/detectors/bce.py"}
    assert no_dpo.files() == kka.files() and len({c.digest() for c in (kka, no_dpo, deep_sad)}) == 3
    seeds = [Code(kka.script, kka.start, rounds.variant(base, "kka", seed)).digest() for seed in (0, 7)]
    assert seeds == [kka.digest()] * 2


def test_what_a_benchmark_names_exists(project: Path) -> None:
    with pytest.raises(FileNotFoundError, match="^kka/gone.py: benchmarks/one.py"):
        Code("benchmarks/one.py", ("run",), also=("kka/gone.py",), root=project).digest()
    with pytest.raises(ValueError, match=r"\['walk'\]"):
        Code("benchmarks/one.py", ("walk",), root=project).digest()


def test_the_shape_of_code_is_the_same_in_every_python() -> None:
    """Newer ones have fields that older ones lack."""
    module = digest.ast.parse("def f(x: int = 1) -> int:\n    'Words.'\n    return x")
    argument = ["arg", ["arg", "'x'"]]
    arguments = ["arguments", ["args", [argument]], ["defaults", [["Constant", ["value", "1"]]]]]
    returned = ["Return", ["value", ["Name", ["id", "'x'"], ["ctx", ["Load"]]]]]
    function = ["FunctionDef", ["name", "'f'"], ["args", arguments], ["body", [returned]]]
    assert digest.shape(module) == ["Module", ["body", [function]]]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_commit_is_dirty_where_code_that_counts_differs(project: Path) -> None:
    assert stamp.commit(code(project)) == stamp.UNKNOWN  # not a repository
    git(project, "init", "-q")
    git(project, "add", "."), git(project, "commit", "-qm", "First")
    head = git(project, "rev-parse", "HEAD")
    (project / "kka" / "unused.py").write_text("SIZE = 3\n")
    assert stamp.commit(code(project)) == head
    (project / "kka" / "parts.py").write_text("SIZE = 3\n")
    assert stamp.commit(code(project)) == f"{head}-dirty"


def test_a_command_names_no_folder_of_this_machine() -> None:
    given = ["--source", "/data/cifar", "--backbone", "/models/net.py:net", "--seeds", "2"]
    assert stamp.command("benchmarks/one.py", given) == (
        "python -m benchmarks.one --source cifar --backbone net.py:net --seeds 2"
    )


def test_a_processor_has_its_name_and_instructions(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "model name\t: Some CPU\nflags\t\t: fpu avx2 avx512f avx512bw\n\nmodel name : x\n"
    )
    found = stamp.processor(tmp_path / "cpuinfo")
    assert found["name"] == "Some CPU" and found["instructions"] == ["avx2", "avx512f"] and found["cores"] >= 1
    assert stamp.processor(tmp_path / "none")["instructions"] == []


def test_only_results_of_the_same_code_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    assert stamp.kept(path, {"code": "a"}) is None
    stamp.write(path, {"auroc": 0.5}, {"code": "a"})
    assert stamp.kept(path, {"code": "a"}) == {"auroc": 0.5} and stamp.kept(path, {"code": "b"}) is None


def test_two_processes_do_not_make_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamp, "WORK", tmp_path)
    with stamp.claimed(RESULTS / "rounds" / "kka-20.json") as first:
        with stamp.claimed(RESULTS / "rounds" / "kka-20.json") as second:
            assert first and not second
        with stamp.claimed(RESULTS / "rounds" / "kka-21.json") as other:
            assert other
    with stamp.claimed(RESULTS / "rounds" / "kka-20.json") as again:
        assert again


def test_the_line_under_a_table_names_every_commit_and_processor() -> None:
    machine = {"name": "Some CPU", "cores": 2, "instructions": ["avx2"]}
    here = {"command": "python -m benchmarks.gap --seeds 1", "commit": f"{'a' * 40}-dirty", "processor": machine}
    there = here | {"commit": "b" * 40, "processor": stamp.UNKNOWN}
    assert stamp.line([{"stamp": here}, {"stamp": here}]) == (
        "Made by `python -m benchmarks.gap` at aaaaaaa-dirty on Some CPU (2 cores, avx2)."
    )
    assert stamp.line([{"stamp": there}, {"stamp": here}]) == (
        "Made by `python -m benchmarks.gap` at bbbbbbb, aaaaaaa-dirty"
        " on a processor not recorded, Some CPU (2 cores, avx2)."
    )


def test_a_loop_begun_by_other_code_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another variant begins with what the first one has finished under the same code."""
    monkeypatch.setattr(rounds, "RESULTS", tmp_path / "results")
    found: list[tuple[str, list[str]]] = []

    def loop(config: Any, root: Path, *, report: bool) -> None:
        found.append((root.name, sorted(p.name for p in root.iterdir() if p.name != "code")))
        (root / f"by {(root / 'code').read_text()}").touch()

    monkeypatch.setattr(rounds, "run_loop", loop)
    stamps = {"kka": {"code": "a"}, "no_dpo": {"code": "b"}}
    for name in ("kka", "kka", "no_dpo"):  # the second time it goes on; no result of kka's stands there yet
        rounds.run(name, 20, tmp_path / "work", stamps)
    stamp.write(tmp_path / "results" / "kka-21.json", {}, stamps["kka"])
    for name in ("kka", "no_dpo"):
        rounds.run(name, 21, tmp_path / "work", stamps)
    rounds.run("kka", 20, tmp_path / "work", stamps | {"kka": {"code": "c"}})
    assert found == [
        ("kka-20", []),
        ("kka-20", ["by a"]),
        ("no_dpo-20", []),
        ("kka-21", []),
        ("no_dpo-21", ["by a"]),
        ("kka-20", []),
    ]


def test_figures_that_are_made_again_are_compared_bit_by_bit() -> None:
    before = {"r0": {"auroc": 0.5, "seconds": 3.0, "groups": {"a": 1}}}
    now = {"r0": {"auroc": 0.5, "seconds": 4.0, "groups": {"a": 1}, "recall": 0.25}}
    assert list(recheck.differences(before, now)) == []
    now["r0"]["auroc"] = 0.5 + 1e-16 * 2
    now["r0"]["groups"] = {}
    assert list(recheck.differences(before, now)) == [
        "r0/auroc: 0.5 before, 0.5000000000000002 now",
        "r0/groups/a: 1 before, None now",
    ]


def test_results_are_the_present_codes_once_their_first_is(tmp_path: Path) -> None:
    made = {"code": "old", "commit": "f" * 40, "command": "python -m benchmarks.rounds", "processor": "not recorded"}
    paths = [tmp_path / f"{seed}.json" for seed in (20, 21)]
    for path in paths:
        path.write_text(json.dumps({"stamp": made, "figures": {"seed": path.stem}}), encoding="utf-8")
    checked = {"commit": "e" * 40, "seed": 20, "processor": {"name": "A", "cores": 2, "instructions": ["avx2"]}}
    recheck.restamp(paths, "new", checked)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert [f["figures"]["seed"] for f in found] == ["20", "21"]
    assert all(f["stamp"] == made | {"code": "new", "checked": checked} for f in found)
    assert stamp.line(found) == (
        "Made by `python -m benchmarks.rounds` at fffffff on a processor not recorded;"
        " seed 20 makes the same figures at eeeeeee, both on A (2 cores, avx2)."
    )


def test_a_table_takes_the_place_of_the_one_before_it() -> None:
    page = "Words.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nMade by `python -m x` at 1 on A.\n\nMore.\n"
    table = "| a | b |\n|---|---|\n| 3 | 4 |\n\nMade by `python -m x` at 2 on B."
    assert recheck.placed(page, table) == f"Words.\n\n{table}\n\nMore.\n"
    with pytest.raises(KkaError, match="a page wants a table that begins with"):
        recheck.placed("Words.\n", table)


def test_every_arm_has_results_and_every_table_its_page() -> None:
    for module, pages in recheck.PAGES.items():
        for arm in recheck.arms(module):
            assert ROOT / arm.first in arm.results(ROOT)
        for page, table in pages.items():
            text = (ROOT / page).read_text(encoding="utf-8")
            assert recheck.placed(text, table(folder(module))) == text

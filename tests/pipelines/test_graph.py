"""dvc.yaml says what the code does: scripts, modules, parameters, and who may read the test split."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from kka import detectors
from kka.project import presets
from kka.project.config import Config

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PRESETS = {name: yaml.safe_load(presets.text(name)) for name in presets.names()}
# each detector stands on shared modules of its own, so the graph is looked at with each of them
PRESETS |= {
    f"blossom, {n}": {**PRESETS["blossom"], "detect": {**PRESETS["blossom"]["detect"], "detector": n}}
    for n in detectors.names()
}
STAGES: dict[str, dict[str, Any]] = {name: stage.get("do", stage) for name, stage in GRAPH["stages"].items()}
EACH_ROUND = [name for name, stage in GRAPH["stages"].items() if "foreach" in stage]
# these carry no result, as the head of dvc.yaml says
PLUMBING = {
    "kka/__init__.py", "kka/errors.py", "kka/log.py", "kka/registry.py", "kka/project", "kka/datasets/__init__.py",
    "kka/detectors/__init__.py", "kka/describing/__init__.py", "pipelines/__init__.py", "pipelines/stage.py",
    "pipelines/layout.py", "pipelines/tracking",
}  # fmt: skip
READER = "kka/images/__init__.py"  # what pipelines/layout.py reads with: every stage depends on it
REGISTRIES = {"kka/datasets", "kka/detectors", "kka/synthesizers"}


def script(stage: str) -> str:
    found = re.match(r"python -m pipelines\.(\w+)( |$)", STAGES[stage]["cmd"])
    assert found, f"{stage} runs {STAGES[stage]['cmd']}"
    return found[1]


def resolved(dep: str, params: Any) -> str:
    """The dep under these parameters; what belongs to a round stays as it is."""

    def value(match: re.Match[str]) -> str:
        found = params
        for key in match[1].split("."):
            found = found.get(key, {})
        return str(found) if found else match[0]

    return re.sub(r"\$\{([a-z]+\.\w+)\}", value, dep)


@cache
def module_files(path: str) -> frozenset[str]:
    """The files of the project's modules that a file imports, wherever in it."""
    return frozenset(_module_files(path))


def _module_files(path: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            for file in (f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"):
                if name.split(".")[0] in ("kka", "pipelines") and (ROOT / file).is_file():
                    yield file


def covered(path: str, names: set[str]) -> bool:
    """Whether the file is among the names, or beneath a folder that is."""
    return any(path == name or path.startswith(f"{name}/") for name in names)


def closure(start: set[str]) -> set[str]:
    """The files, and all that they import, but for plumbing."""
    files: set[str] = set()
    waiting = set(start)
    while waiting:
        path = waiting.pop()
        files.add(path)
        waiting |= {f for f in module_files(path) - files if not covered(f, PLUMBING)}
    return files


def code_deps(stage: str, params: Any) -> set[str]:
    """The files and folders of code among the stage's deps."""
    deps = {resolved(d, params) for d in STAGES[stage]["deps"]}
    return {d for d in deps if d.startswith(("kka/", "pipelines/")) and not d.startswith("kka/mini/")}


def entries(stage: str, params: Any) -> set[str]:
    """Where a stage's code begins: its script, and what params.yaml names of the registries that it uses."""
    by_name = {d for d in code_deps(stage, params) if str(Path(d).parent) in REGISTRIES and d.endswith(".py")}
    return {f"pipelines/{script(stage)}.py", READER} | {d for d in by_name if not d.endswith("__init__.py")}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_its_script_and_all_code_that_it_uses(stage: str, preset: str) -> None:
    deps = code_deps(stage, PRESETS[preset])
    assert f"pipelines/{script(stage)}.py" in deps
    used = closure(entries(stage, PRESETS[preset]))
    assert sorted(f for f in used if not covered(f, deps)) == [], f"{stage} lacks deps"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_loads_by_name_names_what_it_loads(stage: str) -> None:
    code = "".join((ROOT / f).read_text(encoding="utf-8") for f in closure(entries(stage, PRESETS["blossom"])))
    for registry in set(
        re.findall(r"\b(datasets|detectors|synthesizers)\.(?:load|create|archive|text_distances)\(", code)
    ):
        assert f"kka/{registry}/${{" in "".join(STAGES[stage]["deps"]), f"{stage} loads from kka/{registry} by name"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_no_code_that_it_uses_under_no_preset(stage: str) -> None:
    used = set().union(*(closure(entries(stage, params)) for params in PRESETS.values()))
    deps = set().union(*(code_deps(stage, params) for params in PRESETS.values()))
    assert sorted(d for d in deps if not any(covered(f, {d}) for f in used)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_deps_of_code_exist(stage: str) -> None:
    for params in PRESETS.values():
        missing = [d for d in code_deps(stage, params) if not (ROOT / d).exists()]
        assert missing == [], f"{stage}: there is no {missing}"


def test_bytecode_changes_no_dep() -> None:
    """Folders of code are deps: what Python leaves in them must not count."""
    assert "__pycache__" in (ROOT / ".dvcignore").read_text(encoding="utf-8").splitlines()


def test_the_graph_stays_short() -> None:
    code = [d for stage in STAGES.values() for d in stage["deps"] if d.startswith(("kka/", "pipelines/"))]
    assert len([d for d in code if not d.startswith("kka/mini/")]) <= 90
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 260


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_parameters_that_its_code_reads_and_no_others(stage: str) -> None:
    files = [f for f in closure({f"pipelines/{script(stage)}.py"}) if f.startswith("pipelines/")]
    code = "".join((ROOT / f).read_text(encoding="utf-8") for f in files)
    read = set(re.findall(r"\bconfig\.(\w+)", code)) & set(Config.model_fields)
    read |= {"seed"} if re.search(r"run\.(?:seeds?|fit_seeds)\(", code) else set()
    if left_out := re.search(r"\bconfig\.model_dump\(.*exclude=({.*?})", code):
        read = set(Config.model_fields) - ast.literal_eval(left_out[1])
    assert {p.split(".")[0] for p in STAGES[stage]["params"]} == read


@pytest.mark.parametrize("section", [s for s in Config.model_fields if s not in ("seed", "last", "rounds", "tune")])
def test_every_section_is_some_stages_own(section: str) -> None:
    assert section in STAGES[section]["params"]


def test_no_stage_depends_on_what_a_study_is_asked() -> None:
    assert not [s for s, stage in STAGES.items() if any(p.split(".")[0] == "tune" for p in stage["params"])]


def test_every_parameter_that_a_stage_names_exists() -> None:
    for stage, definition in STAGES.items():
        for key in definition["params"]:
            for values in PRESETS.values():
                for part in key.split("."):
                    assert part in values, f"{stage}: params.yaml has no {key}"
                    values = values[part]


def test_only_evaluation_reads_the_test_split() -> None:
    readers = {
        name
        for name, stage in STAGES.items()
        if any(d.startswith("data/splits/test") or d == "data/splits" for d in stage["deps"])
    }
    assert readers == {"evaluate", "evaluate-baseline"}
    scripts = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "pipelines").rglob("*.py")}
    named = {name for name, text in scripts.items() if re.search(r"[\"'/]test[\"'/]", text)}
    # prepare writes it, and the layout and the records of MLflow name where it lies and what it scored
    assert {name for name in named if re.search(r"read_split\(", scripts[name])} == {"evaluate.py", "layout.py"}
    assert re.findall(r'"test"', scripts["layout.py"]) == ['"test"']  # a row of scores.csv


def test_nothing_but_round_zero_and_evaluation_stands_outside_the_rounds() -> None:
    assert EACH_ROUND == ["describe", "synthesize", "assess", "detect", "align", "evaluate"]
    assert all(stage["foreach"] == "${rounds}" for stage in GRAPH["stages"].values() if "foreach" in stage)


def test_no_stage_of_a_round_depends_on_how_many_there_are() -> None:
    for name in EACH_ROUND:
        assert not {"rounds", "last"} & {p.split(".")[0] for p in STAGES[name]["params"]}
        assert "${last}" not in str(STAGES[name])


def test_alignment_stands_behind_everything_else_of_its_round() -> None:
    """A changed DPO parameter, or another shape of adapter, re-runs nothing before align@r1: nobody else names `align`,
    but for the report, which shows it."""
    named = {name: [p for p in stage["params"] if p.startswith("align")] for name, stage in STAGES.items()}
    assert {name: p for name, p in named.items() if p} == {"align": ["align"], "report": ["align"]}


def test_outs_of_a_round_lie_in_its_folder() -> None:
    for name in EACH_ROUND:
        for kind in ("outs", "metrics", "plots"):
            for out in STAGES[name].get(kind, []):
                assert "/${key}/" in (out if isinstance(out, str) else next(iter(out)))


def test_round_keys_are_strings() -> None:
    """With integer keys DVC silently makes no stages at all."""
    for params in PRESETS.values():
        assert params["rounds"] and all(isinstance(k, str) for k in params["rounds"])

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
PLUMBING = {"kka/project/config.py", "kka/errors.py", "kka/log.py", "kka/registry.py", "kka/__init__.py",
            "pipelines/__init__.py", "pipelines/stage.py", "pipelines/tracking/live.py"}  # fmt: skip
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


def closure(start: set[str]) -> set[str]:
    found: set[str] = set()
    waiting = set(start)
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= module_files(path) - found - PLUMBING
    return found


def named(stage: str, params: Any) -> set[str]:
    """The modules among the stage's deps."""
    return {d for d in (resolved(d, params) for d in STAGES[stage]["deps"]) if d.endswith(".py")}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_its_script_and_every_module_that_it_uses(stage: str, preset: str) -> None:
    files = named(stage, PRESETS[preset])
    assert f"pipelines/{script(stage)}.py" in files
    assert sorted(closure(files) - files) == [], f"{stage} lacks deps"
    for registry in ("kka/detectors", "kka/synthesizers"):
        if f"{registry}/__init__.py" in files:
            assert any(d.startswith(f"{registry}/$") for d in STAGES[stage]["deps"]), (
                f"{stage} lacks what {registry} loads by name"
            )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_no_module_that_it_uses_under_no_preset(stage: str) -> None:
    used = set()
    for params in PRESETS.values():
        by_name = {
            f for f in named(stage, params) if str(Path(f).parent) in REGISTRIES and not Path(f).stem.startswith("_")
        }
        used |= closure({f"pipelines/{script(stage)}.py"} | by_name)
    assert sorted(set().union(*(named(stage, p) for p in PRESETS.values())) - used) == []


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_files_and_no_folder_of_code_is_among_them(stage: str) -> None:
    """A folder of code would catch __pycache__. The folders of the built-in models hold no code."""
    for params in PRESETS.values():
        for dep in (resolved(d, params) for d in STAGES[stage]["deps"]):
            assert (ROOT / dep).is_file() or dep.startswith(("data/", "kka/mini/", "metrics")), (
                f"{stage}: {dep} is no file"
            )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_names_the_parameters_that_its_code_reads_and_no_others(stage: str) -> None:
    files = [f for f in closure({f"pipelines/{script(stage)}.py"}) if f.startswith("pipelines/")]
    code = "".join((ROOT / f).read_text(encoding="utf-8") for f in files)
    read = set(re.findall(r"\bconfig\.(\w+)", code)) & set(Config.model_fields)
    read |= {"seed"} if "run.seed(" in code else set()
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
            for found in PRESETS.values():
                for part in key.split("."):
                    assert part in found, f"{stage}: params.yaml has no {key}"
                    found = found[part]


def test_only_evaluation_reads_the_test_split() -> None:
    readers = {
        name
        for name, stage in STAGES.items()
        if any(d.startswith("data/splits/test") or d == "data/splits" for d in stage["deps"])
    }
    assert readers == {"evaluate", "evaluate-baseline"}
    writers = {"pipelines/prepare.py"}
    texts = {f"pipelines/{p.name}": p.read_text(encoding="utf-8") for p in (ROOT / "pipelines").glob("*.py")}
    named = {
        p
        for p, text in texts.items()
        if re.search(r"[\"'/]test[\"'/]", text) and re.search(r"(read|write)_split", text)
    }
    assert named == {"pipelines/evaluate.py"} | writers


def test_nothing_but_round_zero_and_evaluation_stands_outside_the_rounds() -> None:
    assert EACH_ROUND == ["describe", "synthesize", "assess", "detect", "align", "evaluate"]
    assert all(stage["foreach"] == "${rounds}" for stage in GRAPH["stages"].values() if "foreach" in stage)


def test_no_stage_of_a_round_depends_on_how_many_there_are() -> None:
    for name in EACH_ROUND:
        assert not {"rounds", "last"} & {p.split(".")[0] for p in STAGES[name]["params"]}
        assert "${last}" not in str(STAGES[name])


def test_alignment_stands_behind_everything_else_of_its_round() -> None:
    """A changed DPO parameter re-runs nothing before align@r1: nobody else names `align`, but for the shape of the
    first adapter and the report, which shows it."""
    named = {name: [p for p in stage["params"] if p.startswith("align")] for name, stage in STAGES.items()}
    assert {name: p for name, p in named.items() if p} == {
        "baseline": ["align.lora"],
        "align": ["align"],
        "report": ["align"],
    }


def test_outs_of_a_round_lie_in_its_folder() -> None:
    for name in EACH_ROUND:
        for kind in ("outs", "metrics", "plots"):
            for out in STAGES[name].get(kind, []):
                assert "/${key}/" in (out if isinstance(out, str) else next(iter(out)))


def test_round_keys_are_strings() -> None:
    """With integer keys DVC silently makes no stages at all."""
    for params in PRESETS.values():
        assert params["rounds"] and all(isinstance(k, str) for k in params["rounds"])

"""The house keeps its order: floors, doors, budgets."""

import ast
import fnmatch
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
    for folder in ("kka", "pipelines")
    for p in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}
STAGES = ("prepare", "baseline", "describe", "synthesize", "assess", "detect", "align", "evaluate", "report")

# A module imports from lower floors, or from its own package.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("kka", "kka.errors", "kka.log"),
    ("kka.records", "kka.registry"),
    ("kka.images", "kka.images.*"),
    ("kka.controls", "kka.metrics", "kka.localisation", "kka.drift", "kka.embeddings", "kka.charts"),
    ("kka.defects", "kka.defects.*"),
    ("kka.spectrum", "kka.drawing", "kka.describing", "kka.describing.*"),
    ("kka.datasets.shared", "kka.datasets.shared.*", "kka.detectors.shared", "kka.detectors.shared.*"),
    ("kka.datasets", "kka.datasets.?*", "kka.detectors", "kka.detectors.?*", "kka.preferences"),
    (
        "kka.confusion",
        "kka.training",
        "kka.alignment",
        "kka.regions",
        "kka.synthesizers",
        "kka.synthesizers.*",
        "kka.mini",
        "kka.mini.*",
    ),
    ("kka.hopeless", "kka.scoring", "kka.evaluation"),
    ("kka.export",),
    ("kka.project", "kka.project.*"),
    ("pipelines", "pipelines.layout"),
    ("pipelines.reporting", "pipelines.reporting.tables"),
    ("pipelines.tracking", "pipelines.tracking.database", "pipelines.tracking.dvc_lock", "pipelines.tracking.served"),
    ("pipelines.tracking.runs",),
    ("pipelines.tracking.live", "pipelines.tracking.package"),
    ("pipelines.tracking.reconcile",),
    ("pipelines.tracking.provenance",),
    ("pipelines.stage",),
    ("pipelines.reporting.pictures",),
    ("pipelines.reporting.page",),
    (*(f"pipelines.{s}" for s in STAGES), "pipelines.loop"),
    ("pipelines.tuning", "pipelines.tuning.space", "pipelines.tuning.trial"),
    ("pipelines.tuning.study",),
    ("pipelines.tuning.confirm",),
    ("pipelines.tuning.mirror",),
    ("pipelines.tuning.workers",),
    ("pipelines.track", "pipelines.register", "pipelines.tune"),
)
# packages of many floors: to be of the same one is no excuse there
ROOTS = ("kka", "pipelines", "pipelines.reporting", "pipelines.tracking", "pipelines.tuning")
# Each heavy library is imported behind its doors only.
DOORS = {
    "datasets": ("kka.alignment",),
    "diffusers": ("kka.synthesizers.diffusion", "kka.mini.*"),
    "dvc": ("pipelines.tracking.*", "pipelines.tuning.*"),
    "dvc_data": ("pipelines.tracking.*",),
    "mlflow": ("pipelines.tracking.*",),
    "optuna": ("pipelines.tuning.*",),
    "jinja2": ("pipelines.reporting.page",),
    "matplotlib": ("pipelines.tuning.mirror",),
    "onnx": (),  # torch and onnxscript use it
    "onnxruntime": ("kka.export",),
    "peft": ("kka.alignment", "kka.describing.writer"),
    "torch": (
        "kka.alignment",
        "kka.detectors.shared.backbones",
        "kka.datasets.shared.captioner",
        "kka.describing.writer",
        "kka.detectors.*",
        "kka.embeddings",
        "kka.export",
        "kka.mini.*",
        "kka.project.doctor",
        "kka.scoring",
        "kka.synthesizers.diffusion",
        "pipelines.stage",
    ),
    "torchvision": (),
    "transformers": (
        "kka.alignment",
        "kka.detectors.shared.backbones",
        "kka.datasets.shared.captioner",
        "kka.describing.writer",
        "kka.detectors.*",
        "kka.embeddings",
        "kka.mini.*",
        "kka.synthesizers.diffusion",
    ),
    "trl": ("kka.alignment",),
}


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that are imported anywhere in the tree, names from packages among them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def floor(name: str) -> int:
    """The lowest that names the module."""
    found = [i for i, patterns in enumerate(FLOORS) if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    assert found, f"{name} stands on no floor: give it one in FLOORS"
    return found[0]


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, tree in TREES.items():
        yield from ((f"{name}.{n.name}", n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("name", TREES)
def test_a_module_imports_from_lower_floors_only(name: str) -> None:
    def package(module: str) -> str:
        return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]

    for other in set(imports(TREES[name])) & FILES.keys() - {name}:
        same = package(other) == package(name) not in ROOTS
        assert same or floor(other) < floor(name), f"{name} imports {other}, which stands no lower"


def test_imports_form_no_circle() -> None:
    """Packages that are exempt from floors among their own modules are not exempt from this."""
    waiting = {name: set(imports(tree)) & FILES.keys() - {name} for name, tree in TREES.items()}
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}


@pytest.mark.parametrize("name", TREES)
def test_heavy_libraries_are_imported_behind_their_doors(name: str) -> None:
    used = {module.split(".")[0] for module in imports(TREES[name])}
    for library, doors in DOORS.items():
        if library in used:
            assert any(fnmatch.fnmatchcase(name, d) for d in doors), f"{name} imports {library}: go through {doors}"


def test_light_modules_load_no_heavy_library() -> None:
    light = (
        "kka, kka.project.config, kka.records, kka.images, kka.metrics, kka.registry, kka.datasets, kka.detectors,"
        " kka.synthesizers, kka.project.cli"
    )
    heavy = (
        "torch",
        "transformers",
        "diffusers",
        "trl",
        "peft",
        "mlflow",
        "datasets",
        "pandas",
        "sklearn",
        "matplotlib",
    )
    code = f"import sys, {light}; print([h for h in {heavy} if h in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_import_kka_loads_next_to_nothing() -> None:
    code = "import sys; before = len(sys.modules); import kka; print(len(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 10


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("kka") and not n.startswith("kka.project")])
def test_the_library_does_not_speak_of_the_platform(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8").lower()
    assert [word for word in ("dvc", "mlflow", "optuna", "params.yaml") if word in text] == []


@pytest.mark.parametrize("name", FILES)
def test_modules_are_short(name: str) -> None:
    most = 100 if name in {f"pipelines.{s}" for s in STAGES} else 300
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= most


def test_functions_are_short() -> None:
    lengths = {name: body_lines(function) for name, function in functions()}
    assert {name: n for name, n in lengths.items() if n > 40} == {}
    assert statistics.median(lengths.values()) < 12


def test_every_signature_is_annotated() -> None:
    for name, function in functions():
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare and (function.returns is not None), f"{name}: {bare or 'its return'} lacks a type"


def test_docstrings_are_under_a_fifth_of_the_lines() -> None:
    lines = words = 0
    for name, tree in TREES.items():
        lines += len(FILES[name].read_text(encoding="utf-8").splitlines())
        documented = [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(n)
        ]
        words += sum((n.body[0].end_lineno or 0) - n.body[0].lineno + 1 for n in documented)
    assert words < lines / 5


def test_every_stage_has_its_script_and_its_guard() -> None:
    for name in STAGES:
        defined = {n.name for n in TREES[f"pipelines.{name}"].body if isinstance(n, ast.FunctionDef)}
        assert "main" in defined
        assert 'if __name__ == "__main__":\n    stage(main' in FILES[f"pipelines.{name}"].read_text(encoding="utf-8")


def test_no_pickles_and_no_large_files() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    files = [ROOT / p for p in listed.stdout.split("\0") if p]
    assert [p for p in files if p.suffix in {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy"}] == []
    assert [p for p in files if p.is_file() and p.stat().st_size > 25 << 20] == []


def test_round_zero_is_named_in_one_place() -> None:
    assert [name for name, path in FILES.items() if '"r0"' in path.read_text(encoding="utf-8")] == [
        "kka.project.config"
    ]


def test_no_machine_paths_are_written_down() -> None:
    for name, path in FILES.items():
        for start in ("/work/", "/tmp/", "/root/", "/home/"):
            assert f'"{start}' not in path.read_text(encoding="utf-8"), f"{name} names a path of somebody's machine"

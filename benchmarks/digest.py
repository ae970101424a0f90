"""A digest of the code, parameters and weights that the figures of a benchmark depend on.

It changes when a figure may change: comments, docstrings, annotations of functions and formatting do not count, nor
does code that only prints."""

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kka.project.config import Config

ROOT = Path(__file__).parent.parent
PACKAGES = ("kka", "pipelines", "benchmarks")
# what carries no result, as the head of dvc.yaml says; what kka/project decides stands in the parameters
PLUMBING = (
    "benchmarks/digest.py",
    "benchmarks/stamp.py",
    "kka/datasets/__init__.py",
    "kka/detectors/__init__.py",
    "kka/synthesizers/__init__.py",
    "kka/errors.py",
    "kka/log.py",
    "kka/registry.py",
    "kka/project/",
    "pipelines/layout.py",
    "pipelines/loop.py",
    "pipelines/stage.py",
    "pipelines/tracking/",
)
ANNOTATIONS = {"returns", "type_comment", "type_params", "kind"}


@dataclass(frozen=True)
class Code:
    """What makes the figures of a benchmark: the functions `start` of its `script`, with all that they use; under a
    `config` every stage of dvc.yaml but the report, and the parameters; `also` are files and folders that are loaded by
    name. Paths are relative to `root`."""

    script: str
    start: tuple[str, ...]
    config: Config | None = None
    also: tuple[str, ...] = ()
    root: Path = ROOT

    def files(self) -> list[str]:
        """The files that count whole, sorted; the script, of which only a part counts, is not among them."""
        named = [*self.also, *(self._deps() if self.config else []), *_imported(self._part(), self.root)]
        found: set[str] = set()
        waiting = [file for path in named for file in self._contents(path)]
        while waiting:
            path = waiting.pop()
            if path in found or path == self.script or path.startswith(PLUMBING):
                continue
            found.add(path)
            if path.endswith(".py"):
                waiting += _imported(ast.parse((self.root / path).read_text(encoding="utf-8")), self.root)
        return sorted(found)

    def digest(self) -> str:
        """16 hexadecimal digits."""
        parts: list[Any] = [shape(self._part())]
        if self.config:
            parts.append(self.config.model_dump(mode="json", exclude={"seed", "tune"}))
        parts += [[path, self._content(path)] for path in self.files()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def _part(self) -> ast.Module:
        return reached(ast.parse((self.root / self.script).read_text(encoding="utf-8")), self.start)

    def _deps(self) -> Iterator[str]:
        """The code and the weights that dvc.yaml names."""
        stages = yaml.safe_load((self.root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        values = self.config.model_dump(mode="json") if self.config else {}
        for name in stages.keys() - {"report"}:
            for dep in stages[name].get("do", stages[name])["deps"]:
                if not dep.startswith(("data/", "metrics/", "plots/")):
                    yield re.sub(r"\$\{(\w+)\.(\w+)\}", lambda found: str(values[found[1]][found[2]]), dep)

    def _contents(self, path: str) -> Iterator[str]:
        """The file, or the files of the folder; not the words about a model, nor what Python has compiled. Raises
        FileNotFoundError where there is neither."""
        place = self.root / path
        if not place.exists():
            raise FileNotFoundError(f"{path}: {self.script} or dvc.yaml names this file, and it is missing.")
        for file in [place] if place.is_file() else place.rglob("*"):
            if file.is_file() and file.suffix not in (".md", ".pyc") and file.name != "measured.json":
                yield file.relative_to(self.root).as_posix()

    def _content(self, path: str) -> Any:
        content = (self.root / path).read_bytes()
        return shape(ast.parse(content)) if path.endswith(".py") else hashlib.sha256(content).hexdigest()


def shape(node: Any) -> Any:
    """A syntax tree as lists that are the same in every Python: without docstrings, annotations of functions and empty
    fields."""
    if isinstance(node, list):
        return [shape(n) for n in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
        fields["body"] = node.body[1:]
    left_out = ANNOTATIONS | ({"annotation"} if isinstance(node, ast.arg) else set())
    return [
        type(node).__name__,
        *([name, shape(value)] for name, value in fields.items() if name not in left_out and value not in (None, [])),
    ]


def reached(tree: ast.Module, start: Iterable[str]) -> ast.Module:
    """The statements of a module that the names in `start` use, directly or through others, in their order."""
    defined = {name: node for node in tree.body for name in _defines(node)}
    waiting, found = list(start), []
    if missing := [name for name in waiting if name not in defined]:
        raise ValueError(f"wanted names of the script, got {missing}")
    while waiting:
        node = defined.get(waiting.pop())
        if node is not None and node not in found:
            found.append(node)
            waiting += [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
    return ast.Module([node for node in tree.body if node in found], [])


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]


def _imported(tree: ast.AST, root: Path) -> list[str]:
    """The project's files that a tree imports, wherever in it."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    paths = [name.replace(".", "/") for name in names if name.split(".")[0] in PACKAGES]
    files = [file for path in paths for file in (f"{path}.py", f"{path}/__init__.py")]
    return [file for file in files if (root / file).is_file()]

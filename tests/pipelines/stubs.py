"""A project under DVC whose stages do nothing but write what they should, for tests of the graph and of MLflow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.pipelines.conftest import ROOT, tiny
from tests.test_house import STAGES

# Each stage writes its outs from the contents of its deps that are data, and from its parameters: so they change as
# real ones do.
STUB = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
import yaml
from kka.images import write_images
from kka.records import Description, write_records
from pipelines.stage import Run, stage

def main(run: Run) -> None:
    name = "evaluate-baseline" if (NAME, run.round) == ("evaluate", "r0") else NAME
    found = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][name]
    text = json.dumps(found.get("do", found)).replace("${last}", run.config.last)
    mine = json.loads(text.replace("${key}", run.round).replace("${item.prev}", run.previous))
    values = run.config.model_dump(mode="json")
    taken = hashlib.sha256(json.dumps([mine["params"], [values[p.split(".")[0]] for p in mine["params"]]]).encode())
    for dep in mine["deps"]:
        if dep.startswith("data/"):
            for path in sorted(Path(dep).rglob("*")) if Path(dep).is_dir() else [Path(dep)]:
                taken.update(path.read_bytes() if path.is_file() else b"")
    number = int(taken.hexdigest()[:6], 16) / 16**6
    if NAME in ("align", "detect"):
        for step in range(3):
            run.log("align/loss" if NAME == "align" else "detect/loss", number + step, step)
    for kind in ("outs", "metrics", "plots"):
        for out in mine.get(kind, []):
            path = run.root.joinpath(out if isinstance(out, str) else next(iter(out)))
            if path.name == "report":
                path.mkdir()
                for r in run.config.lineage(run.round):
                    (path / f"{r}.png").write_bytes(b"png" + r.encode())
                (path / "table.md").write_text("| round |")
                (path / "report.html").write_text("<p>page</p>")
                (path / "report.md").write_text("# page")
            elif path.name == "scores.csv":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("split,label,group,score\\ncalibration,0,normal,0.5\\n")
            elif path.name == "descriptions.jsonl":
                path.parent.mkdir(parents=True, exist_ok=True)
                write_records(path, [Description("00000", f"a flower {number}", "kept", 0.5, -1.0)])
            elif path.suffix:
                path.parent.mkdir(parents=True, exist_ok=True)
                rows = "step,loss,fpr,tpr,round,auroc\\n" + "".join(f"{i}.0{f',{number + i}' * 5}\\n" for i in range(3))
                value = {"figure": number}
                if NAME == "evaluate":
                    value = {"auroc": number, "groups": {"far": number}, "hardest_group": "far"}
                    value["false_positive_rate"] = 0.05
                texts = {".json": json.dumps(value), ".csv": rows}
                path.write_text(texts.get(path.suffix, f"{name} {number}\\n"))
            else:
                path.mkdir(parents=True)
                (path / "file").write_text(f"{name} {number} {path.name}")
                if path.name == "calibration":
                    write_images(path, np.zeros((1, 16, 16, 3), np.uint8))
                if path.name == "detector":
                    facts = {"detector": "bce", "size": [16, 16], "options": {}}
                    (path / "detector.json").write_text(json.dumps(facts))

if __name__ == "__main__":
    stage(main, torch=False)
"""

READ = """
import json, pathlib
from pipelines.track import bring_all
from pipelines.tracking.database import connect
bring_all()
client, experiment = connect(pathlib.Path("mlruns").resolve())
found = []
for run in client.search_runs([experiment]):
    number, data = run.info.run_id, run.data
    found.append({
        "id": number, "experiment": experiment,
        "name": run.info.run_name, "status": run.info.status, "tags": data.tags, "params": data.params,
        "parent": data.tags.get("mlflow.parentRunId"), "inputs": [i.dataset.digest for i in run.inputs.dataset_inputs],
        "artifacts": [a.path for a in client.list_artifacts(number)],
        "steps": {k: sorted(m.step for m in client.get_metric_history(number, k)) for k in data.metrics},
    })
print(json.dumps(found))
"""


class Project:
    """A clone, its stages stubs (and its models hollow) or the real ones with tiny numbers."""

    def __init__(self, folder: Path, *, stubs: bool = True) -> None:
        self.folder = folder
        for name in ("kka", "pipelines", "presets", "feedback"):
            left_out = shutil.ignore_patterns("__pycache__", *(["*.safetensors"] if stubs else []))
            shutil.copytree(ROOT / name, folder / name, ignore=left_out)
        shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder)
        for stage in STAGES if stubs else ():
            (folder / "pipelines" / f"{stage}.py").write_text(f"NAME = {stage!r}\n{STUB}")
        rounds = {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}
        config = tiny(rounds=rounds, last="r2", align__beta=0.3) if stubs else tiny()
        (folder / "params.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        self.params(describe__model="kka/mini/lm")
        self.tool("git", "init", "-q", "-b", "main")
        self.commit()

    def commit(self) -> None:
        self.tool("git", "add", "--all")
        self.tool("git", "-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "commit", "-qm", "as it is")

    def tool(self, *command: str) -> str:
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(self.folder.parent / "config"),
            "GIT_AUTHOR_NAME": "nobody", "GIT_AUTHOR_EMAIL": "nobody@example.org",
            "GIT_COMMITTER_NAME": "nobody", "GIT_COMMITTER_EMAIL": "nobody@example.org",
        }  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, env=os.environ | own, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def repro(self, *arguments: str) -> list[str]:
        """Runs `dvc repro` or another command, and says which stages ran."""
        said = self.tool("dvc", *(arguments or ("repro",)))
        return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage '")]

    def params(self, **changes: Any) -> None:
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            section, key = name.split("__")
            values[section][key] = value
        path.write_text(yaml.safe_dump(values))

    def runs(self) -> list[dict[str, Any]]:
        """What MLflow holds after reconciliation: name, status, tags, params, inputs, artifacts, and by name each
        figure's steps."""
        return list(json.loads(self.tool(sys.executable, "-c", READ)))

    def models(self) -> dict[str, str]:
        """The LoggedModels and their status; fails where two have one name."""
        code = (
            "import json; from pathlib import Path; from pipelines.tracking.database import connect; c, e ="
            " connect(Path('mlruns').resolve());"
            "print(json.dumps([(m.name, m.status.value) for m in c.search_logged_models([e])]))"
        )
        pairs = json.loads(self.tool(sys.executable, "-c", code))
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)


def copied(project: Project, folder: Path) -> Project:
    """The same project elsewhere, without its MLflow."""
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("mlruns", "tmp"), symlinks=True)
    made = object.__new__(Project)
    made.folder = folder
    return made

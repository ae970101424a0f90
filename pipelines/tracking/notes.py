"""What a run says of itself in MLflow, in Markdown: what it was, and where it came from."""

from collections.abc import Mapping, Sequence

from kka.project.config import Config
from pipelines.reporting.tables import LEGEND
from pipelines.tracking.runs import Point, title


def parent_note(config: Config, run: str, table: str) -> str:
    """Of the run that stands for a set of parameters."""
    legend = "\n".join(f"- {name}: {meaning}" for name, meaning in LEGEND.items())
    told = (
        f"The rounds so far:\n\n{table}\n{legend}" if table else "No report yet: its last round has not come to an end."
    )
    what = f"**{title(config)}**: data set `{config.prepare.dataset}`, detector `{config.detect.detector}`, last round `{config.last}`."
    return f"{what}\n\n{told}\n\nThe runs beneath this one are the rounds. {_back(run)}"


def round_note(config: Config, name: str, run: str, points: Sequence[Point], hashes: Mapping[str, str]) -> str:
    """Of a round's run."""
    figures = ", ".join(f"{key} {value:.4g}" for key, value, _ in points)
    what = f"Round `{name}` of **{title(config)}**"
    from_ = "normal pictures alone" if name == "r0" else f"after `{config.rounds[name].prev}`"
    files = "\n".join(f"| `data/{name}/{key}` | `{md5}` |" for key, md5 in hashes.items())
    return f"{what}, {from_}.\n\n{figures}\n\n| made | MD5 in DVC |\n|---|---|\n{files}\n\n{_back(run)}"


def _back(run: str) -> str:
    return f"`kka track show {run}` says which commit holds its files, and how to bring them back."

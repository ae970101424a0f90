"""Data sets of the Hugging Face hub: their parquet files, fetched once into its cache."""

import re
from pathlib import Path

from kka.errors import KkaError

_CONVERTED = "refs/convert/parquet"  # where the hub keeps its own parquet files of a data set that has none


def files(who: str, source: str, part: str = "") -> list[Path]:
    """The parquet files of a part, such as train: data/train-00000-of-00001.parquet, or default/train/0000.parquet;
    without one all. Raises KkaError where they cannot be had, or belong to several configurations of the data set."""
    from huggingface_hub import snapshot_download

    reason = "it has no such parquet files"
    for revision in (None, _CONVERTED):
        try:
            root = Path(snapshot_download(source, repo_type="dataset", revision=revision, allow_patterns="*.parquet"))
        except Exception as error:  # each of the hub's many ways to fail means the same to the user
            reason = " ".join(str(error).split())[:200] if revision is None else reason
            continue
        every = sorted(root.rglob("*.parquet"))
        wanted = [p for p in every if part in ("", re.split(r"[-.]", p.name)[0], p.parent.name)]
        if wanted:
            _check_configuration(who, source, root, wanted)
            return wanted
    raise KkaError(
        f"{who}: '{source}' is no folder here and could not be had from the Hugging Face hub ({reason})."
        " Go online once, or name a folder that holds its files."
    )


def _check_configuration(who: str, source: str, root: Path, paths: list[Path]) -> None:
    kinds = sorted({p.relative_to(root).parts[0] for p in paths if p.parent != root})
    if len(kinds) > 1:
        raise KkaError(
            f"{who}: '{source}' holds several data sets ({', '.join(kinds[:3])}). Fetch one, and name its folder."
        )


def is_id(source: str) -> bool:
    """Whether this can be the id of a data set on the hub, organisation/name."""
    return source.count("/") == 1 and not source.startswith((".", "~", "/"))

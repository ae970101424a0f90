"""The command `kka`: what a project needs beside `dvc repro`. What a command needs is imported when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kka import __version__
from kka.errors import KkaError
from kka.project.commands import Commands

if TYPE_CHECKING:
    from kka.project.config import Config
    from kka.records import Splits
    from kka.scoring import Scorer


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Key Knowledge Augmentation: the commands beside `dvc repro`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kka {__version__}")
        raise typer.Exit


@app.callback()
def _kka(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def doctor() -> None:
    """Look whether this machine and this project can run. Ends with 1 where something needed is missing."""
    from kka.project.doctor import examine

    failed = 0
    for finding in examine(Path.cwd()):
        typer.echo(str(finding))
        failed += finding.mark == "fail"
    if failed:
        raise KkaError(f"{failed} of the above must be mended before the project can run.")


@app.command()
def preset(
    name: Annotated[str, typer.Argument(help="A file in presets/, such as blossom or cifar100-bank.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A change, such as align.beta=0.5; may be given several times.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a params.yaml that somebody has changed.")] = False,
) -> None:
    """Write a preset as params.yaml in this folder."""
    from kka.project.presets import write

    write(name, Path("params.yaml"), changes or [], force=force)
    typer.echo(f"wrote params.yaml from the preset {name}")


data = typer.Typer(no_args_is_help=True, help="The data set that params.yaml names.")
app.add_typer(data, name="data")


@data.callback()
def _data() -> None:
    pass


@data.command()
def check(
    sheet: Annotated[Path, typer.Option(help="The contact sheet to write.")] = Path("data-check.png"),
) -> None:
    """Read the data set as `prepare` would, say what it found, and draw a contact sheet. Changes nothing else."""
    import logging

    from kka.project.check import findings, write_sheet
    from kka.project.config import read_config

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    splits = _splits(read_config(Path("params.yaml")))
    results = list(findings(splits))
    for finding in results:
        typer.echo(str(finding))
    write_sheet(splits, sheet)
    typer.echo(f"wrote {sheet}: look at it")
    if any(finding.mark == "fail" for finding in results):
        raise KkaError("what is marked fail above must be mended before anything is trained.")


def _splits(config: "Config") -> "Splits":
    """What the stage `prepare` would write."""
    from kka import datasets
    from kka.datasets.shared.feedback import joined
    from kka.project.config import BASELINE
    from kka.records import seed_of

    section, seed = config.prepare, seed_of(config.seed, "prepare", BASELINE)
    splits = datasets.load(section.dataset, seed, section.image_size, **section.options)
    return joined(splits, Path(section.feedback), squeeze=section.squeeze)


@app.command()
def captions(out: Annotated[Path, typer.Argument(help="The file to write, one caption a line.")]) -> None:
    """Write the captions that a small writer may learn from: of params.yaml's normal training images, and of its
    archive.

    `python -m kka.mini.train lm --captions FILE` trains on them.
    """
    from kka import datasets
    from kka.project.config import read_config
    from kka.records import write_text

    config = read_config(Path("params.yaml"))
    section, texts = config.prepare, list(_splits(config).train.captions)
    if datasets.has_archive(section.dataset) and config.synthesize.synthesizer == "bank":
        texts += datasets.archive(section.dataset, section.image_size, **section.options).captions
    lines = [line for text in texts for line in text.splitlines()]
    write_text(out, "".join(f"{line}\n" for line in lines))
    typer.echo(f"wrote {len(lines)} captions to {out}")


@app.command()
def predict(
    places: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, and folders of pictures.")],
    out: Annotated[Path, typer.Option(help="The table to write: file, score, p_value, alarm.")] = Path("scores.csv"),
    name: Annotated[
        str | None, typer.Option("--round", help="The round whose detector scores; by default the last.")
    ] = None,
    fpr: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The share of normal pictures that may give a false alarm.")
    ] = 0.05,
    maps: Annotated[
        Path | None, typer.Option(help="A folder for alarms with heat maps and outlines, where the detector has them.")
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="A table of where pictures are anomalous: file, x, y, width, height, area, score; or .json."),
    ] = None,
) -> None:
    """Score pictures with the detector of a round. What cannot be read is named at the end, and left out."""
    from kka.project.predict import Outs
    from kka.project.predict import predict as scored
    from kka.scoring import pictures

    outs = Outs(out, maps, regions)
    outs.check()
    files = pictures(places)
    written, said = scored(_scorer("predict", name), files, outs, fpr)
    for line in said:
        typer.echo(line, err=True)
    typer.echo(written)


@app.command()
def feedback(
    table: Annotated[Path, typer.Argument(help="A table of `kka predict`, with a column that an inspector filled in.")],
    column: Annotated[str, typer.Option(help="The column: ok, defect, or empty where nobody looked.")] = "verdict",
) -> None:
    """Add pictures that were looked at to the data set: those that are ok to train and calibration, defects to
    validation. The next `dvc repro` uses them."""
    from kka.project.config import read_config
    from kka.project.feedback import add

    typer.echo(add(table, column, Path(read_config(Path("params.yaml")).prepare.feedback)))


@app.command()
def export(
    form: Annotated[str, typer.Option("--format", help="onnx is the only one so far.")] = "onnx",
    name: Annotated[
        str | None, typer.Option("--round", help="The round whose detector is exported; by default the last.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("detector.onnx"),
) -> None:
    """Write the detector of a round as an ONNX file, which takes pictures of any size and scores them as `predict`
    does, with maps where the detector has them."""
    if form != "onnx":
        raise KkaError(f"export: there is no format '{form}'. It knows: onnx.")
    if out.is_dir():
        raise KkaError(f"export: --out wants a file, got the folder {out}.")
    scorer = _scorer("export", name)
    from kka.export import outputs, write
    from kka.images import read_split

    apart = write(scorer, read_split(Path("data", "splits", "calibration")).images, out)
    typer.echo(
        f"wrote {out}: {scorer.name}, {out.stat().st_size / 1e6:.1f} MB; no number in {' and '.join(outputs(scorer))}"
        f" that was tried differs by more than {apart:.0e}"
    )


def _scorer(command: str, name: str | None) -> "Scorer":
    """The detector of the round `name` of this folder's project; of the last one by default."""
    from kka.project.config import BASELINE, read_config
    from kka.scoring import Scorer

    config = read_config(Path("params.yaml"))
    known = [BASELINE, *config.rounds]
    if name is not None and name not in known:
        raise KkaError(f"{command}: params.yaml has no round '{name}'. It has {', '.join(known)}.")
    calibration = Path("data", "splits", "calibration")
    return Scorer.load(Path("data", name or config.last, "detector"), calibration, squeeze=config.prepare.squeeze)


_OWN: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}


@app.command(**_OWN)
def tune(ctx: typer.Context) -> None:
    """Run a study of Optuna as params.yaml's section tune says, or go on with it. `kka tune --apply` writes its
    winner."""
    _hand_over("tune", ctx)


@app.command(**_OWN)
def track(ctx: typer.Context) -> None:
    """Bring MLflow up to date. `kka track show RUN` tells where a run came from; `kka track --help` the rest."""
    _hand_over("track", ctx)


@app.command(**_OWN)
def register(ctx: typer.Context) -> None:
    """Register a round's detector in MLflow: a candidate, and the champion if it is better for sure."""
    _hand_over("register", ctx)


def _hand_over(name: str, ctx: typer.Context) -> None:
    """Becomes the project's script of that name."""
    import os
    import sys

    if not Path("pipelines", f"{name}.py").is_file():
        raise KkaError(f"{name} wants the project's folder, which has pipelines/{name}.py. Go there.")
    os.execv(sys.executable, [sys.executable, "-m", f"pipelines.{name}", *ctx.args])


def main() -> None:
    """The console script."""
    app()

"""`kka tune`: a study of Optuna on what the section `tune` of params.yaml says, gone on with where it was left.

    python -m pipelines.tune                    trials, then the best of them again on fresh seeds; prints the outcome
    python -m pipelines.tune --apply [TRIAL]    writes the winner, or that trial, into params.yaml

Trials run in processes of their own, so that one that is killed costs its trial alone; this process, of which a study
has one at a time on a machine, looks after them and tells MLflow."""

import argparse
import difflib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.trial import TrialState

from kka.errors import KkaError, out_of_space
from kka.project.config import Config, check_config, read_config
from kka.project.doctor import preflight
from kka.project.presets import edited
from kka.records import write_text
from pipelines.stage import marked, prepare_torch
from pipelines.tracking.live import home
from pipelines.tuning.confirm import again, candidates, confirm, confirmed, describe, in_a_line, jobs, verdict, winner
from pipelines.tuning.experiments import dvc, name_of
from pipelines.tuning.mirror import Mirror
from pipelines.tuning.space import check_space, rounded
from pipelines.tuning.study import begun_with, difference, folder, load_study, open_study, over, quiet, work
from pipelines.tuning.trial import Trials
from pipelines.tuning.workers import follow, look_after

PARAMS = Path("params.yaml")


def conduct(config: Config, mode: str) -> None:
    """The whole study."""
    preflight(config, Path.cwd())
    check_space(config, Path.cwd())
    study, place = open_study(config, home(), mode), folder(config, home())
    place.mkdir(parents=True, exist_ok=True)
    print(
        f"study {config.tune.study}: {len(over(study))} of {config.tune.trials} trials are done, in {place}",
        file=sys.stderr,
    )
    try:
        with FileLock(place / "conductor", timeout=0):
            prepare_torch()
            judges = _judges(config, place)
            if study.user_attrs.get("judges", judges) != judges:
                raise KkaError(
                    f"tune: the pictures in {place} are not those that the study began with. Give tune.study another name."
                )
            study.set_user_attr("judges", judges)
            mirror = Mirror(home(), config)
            deadline = time.time() + (config.tune.timeout or 1e9)

            def left() -> int:
                return 0 if time.time() > deadline else config.tune.trials - len(over(study))

            def look() -> list[str]:
                mirror.update(study)
                return [in_a_line(trial) for trial in over(study)]

            look_after(["--worker", "trials", "--deadline", str(deadline)], config, place, left, look)
            if not config.tune.pareto and config.tune.confirm.top:
                candidates(study, config)  # raises where no trial finished
                look_after(
                    ["--worker", "confirm"],
                    config,
                    place,
                    lambda: len(jobs(study, config)),
                    lambda: again(study, config),
                )
            report = describe(study, config)
            mirror.finish(study, report, place)
            print(report)
    except Timeout:
        raise KkaError(
            f"tune: another `kka tune` is at work on the study '{config.tune.study}' here. Wait for it, or stop it."
        ) from None


def _judges(config: Config, place: Path) -> str:
    trials = Trials(config, place)
    if config.tune.objective == "panel" and not (place / "panel").exists():
        print(
            "the panel first: one loop with the parameters as they are, which takes as long as a trial", file=sys.stderr
        )
    with quiet(place / "panel.log"):
        return trials.prepare()


def apply(config: Config, number: str, mode: str) -> None:
    """Writes the winner, or the trial of that number, into params.yaml, and says what has changed and how sure it
    is."""
    study = load_study(config, home())
    begun = begun_with(study, config)
    trials = {str(t.number): t for t in over(study) if t.state == TrialState.COMPLETE}
    sure = f"trial {number}, whose figure in the study nobody has confirmed"
    if number == "winner":
        if not confirmed(study, begun) or (begun.tune.confirm.top and jobs(study, begun)):
            raise KkaError(
                "tune: nothing is confirmed on fresh seeds yet. Let `kka tune` come to its end, or name a trial: --apply 7."
            )
        sure, found = verdict(study, begun), winner(study, begun)
        if found is None:
            raise KkaError(f"tune: {sure[0].lower()}{sure[1:]} params.yaml stays as it is.")
        number = found.name
    if number not in trials:
        raise KkaError(f"tune: there is no finished trial {number}. There are {', '.join(trials) or 'none'}.")
    if mode == "dvc":
        dvc(["exp", "apply", name_of(config, int(number))])
        return print(sure)
    values, before = rounded(trials[number].params), PARAMS.read_text(encoding="utf-8")
    after = edited(before, values)
    write_text(PARAMS, after)
    changes = "".join(
        difflib.unified_diff(before.splitlines(True), after.splitlines(True), "params.yaml", "params.yaml", n=0)
    )
    print(changes or f"params.yaml holds trial {number} already.", sure, sep="\n")
    space = {path.split(".")[0] for path in values}
    other = {k: v for k, v in config.model_dump().items() if k not in (*space, "tune")}
    if changed := difference({k: v for k, v in begun.model_dump().items() if k in other}, other):
        print(
            f"Mind that the study began with {changed.replace('is now asked to go on with', 'params.yaml now says')}."
        )


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="kka tune", allow_abbrev=False, description="A study of what the section tune of params.yaml says."
    )
    parser.add_argument("--trials", type=int, help="in place of tune.trials")
    parser.add_argument("--study", help="in place of tune.study")
    parser.add_argument("--workers", type=int, help="in place of tune.workers")
    parser.add_argument(
        "--dvc", action="store_true", help="each trial is an experiment of DVC, without pruning between rounds"
    )
    parser.add_argument(
        "--apply", nargs="?", const="winner", metavar="TRIAL", help="write the winner, or that trial, into params.yaml"
    )
    parser.add_argument("--worker", choices=("trials", "confirm"), help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, default=0.0, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """See the module's head. Raises KkaError."""
    options = _arguments(words)
    config = read_config(PARAMS)
    own = {k: v for k in ("trials", "study", "workers") if (v := getattr(options, k)) is not None}
    config = check_config(config.model_dump() | {"tune": config.tune.model_dump() | own})
    mode = "dvc" if options.dvc else "in process"
    if options.worker is None:
        return conduct(config, mode) if options.apply is None else apply(config, options.apply, mode)
    follow(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever conducts is told, and stops its workers
    prepare_torch()
    study = load_study(config, home())
    return (
        work(study, config, home(), options.deadline) if options.worker == "trials" else confirm(study, config, home())
    )


if __name__ == "__main__":
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("kka: stopped. `kka tune` goes on where it was."))
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("kka: stopped. `kka tune` goes on where it was.")
    except KkaError as problem:
        sys.exit(marked(problem))
    except Exception as problem:
        if not out_of_space(problem):
            raise
        sys.exit(f"kka: tune: no space left to write to ({problem}). Free some; `kka tune` goes on where it was.")

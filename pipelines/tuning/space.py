"""What a study may change: dimensions by the path of a parameter, checked against params.yaml before the first
trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kka.errors import KkaError
from kka.project.config import Config, Dimension, check_config, flatten
from kka.project.doctor import preflight
from kka.registry import suggestion

_OPTIONS = ("detect.options", "synthesize.options")  # what may be named without standing in params.yaml
_FIXED = ("seed", "last", "rounds", "prepare", "evaluate", "tune")  # else trials would not be compared on the same data


def check_space(config: Config, root: Path) -> None:
    """Raises KkaError for a path that there is not, and for a value at an end of a range, or a choice, that the
    parameter does not take."""
    if not config.tune.space:
        raise KkaError(
            "tune.space is empty: name parameters by path, such as align.beta: {low: 0.1, high: 1.0, log: true}."
        )
    for path, dimension in config.tune.space.items():
        _check_path(config, path)
        for value in dimension.choices if dimension.choices is not None else _ends(config, path, dimension):
            try:
                preflight(changed(config, {path: value}), root)
            except KkaError as error:
                raise KkaError(f"tune.space: {path} cannot be {value!r}. {error}") from None


def _check_path(config: Config, path: str) -> None:
    known = [p for p, _ in flatten(config.model_dump()) if p.split(".")[0] not in _FIXED]
    head, _, option = path.rpartition(".")
    if path.split(".")[0] in _FIXED:
        raise KkaError(f"tune.space: {path} stays as it is in a study, or trials could not be compared.")
    if path not in known and not (head in _OPTIONS and option):
        raise KkaError(f"tune.space: there is no parameter '{path}'.{suggestion(path, known)}")


def _ends(config: Config, path: str, dimension: Dimension) -> list[float]:
    ends = [float(dimension.low or 0), float(dimension.high or 0)]
    return [int(e) for e in ends] if _whole(config, path, dimension) else ends


def _whole(config: Config, path: str, dimension: Dimension) -> bool:
    """Whether the parameter is a whole number: as it is now, or where it is not set, as its range is given."""
    now = value(config, path)
    if isinstance(now, bool | str):
        raise KkaError(f"tune.space: {path} is {now!r}, which has no low and high. Give choices.")
    bounds = [b for b in (dimension.low, dimension.high, dimension.step) if b is not None]
    whole = isinstance(now, int) or (now is None and all(b == int(b) for b in bounds))
    if whole and (odd := [b for b in bounds if b != int(b)]):
        raise KkaError(f"tune.space: {path} is a whole number, got {odd[0]:g}.")
    return whole


def suggest(trial: Any, config: Config) -> dict[str, Any]:
    """The values of a trial of Optuna by path, as `rounded` makes them."""
    found: dict[str, Any] = {}
    for path, d in config.tune.space.items():
        if d.choices is not None:
            found[path] = trial.suggest_categorical(path, d.choices)
        elif _whole(config, path, d):
            found[path] = trial.suggest_int(path, int(d.low or 0), int(d.high or 0), step=int(d.step or 1), log=d.log)
        else:
            found[path] = trial.suggest_float(path, d.low or 0.0, d.high or 0.0, step=d.step, log=d.log)
    return rounded(found)


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """With floats to four digits, which is what a trial runs with and what a winner writes."""
    return {path: float(f"{v:.4g}") if isinstance(v, float) else v for path, v in values.items()}


def defaults(config: Config) -> dict[str, Any] | None:
    """The values of params.yaml where all of them lie in the space, else None."""
    found = {path: value(config, path) for path in config.tune.space}
    return found if all(_holds(d, found[path]) for path, d in config.tune.space.items()) else None


def _holds(d: Dimension, v: Any) -> bool:
    if d.choices is not None or v is None:
        return bool(v in (d.choices or ()))
    low, high = d.low or 0.0, d.high or 0.0
    steps = (v - low) / d.step if d.step else 0.0
    return bool(low <= v <= high and abs(steps - round(steps)) < 1e-9)


def value(config: Config, path: str) -> Any:
    """What params.yaml says; None for an option that it does not name."""
    found: Any = config.model_dump()
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def changed(config: Config, values: Mapping[str, Any], **more: Any) -> Config:
    """The config with values by path, and `more` at the top. Raises KkaError where one does not fit."""
    raw = config.model_dump() | more
    for path, v in values.items():
        *sections, key = path.split(".")
        place = raw
        for section in sections:
            place = place[section]
        place[key] = v
    return check_config(raw)

"""What a study may change: dimensions by the path of a parameter, checked against params.yaml before the first
trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kka.errors import KkaError
from kka.project.config import Config, flatten, lookup, with_values
from kka.project.doctor import preflight
from kka.project.sections import Dimension
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
                preflight(with_values(config, {path: value}), root)
            except KkaError as error:
                raise KkaError(f"tune.space: {path} cannot be {value!r}. {error}") from None


def _check_path(config: Config, path: str) -> None:
    known = [p for p, _ in flatten(config.model_dump()) if p.split(".")[0] not in _FIXED]
    section, _, option = path.rpartition(".")
    if path.split(".")[0] in _FIXED:
        raise KkaError(f"tune.space: {path} stays as it is in a study, or trials could not be compared.")
    if path not in known and not (section in _OPTIONS and option):
        raise KkaError(f"tune.space: there is no parameter '{path}'.{suggestion(path, known)}")


def _ends(config: Config, path: str, dimension: Dimension) -> list[float]:
    ends = [float(dimension.low or 0), float(dimension.high or 0)]
    return [int(end) for end in ends] if _is_whole(config, path, dimension) else ends


def _is_whole(config: Config, path: str, dimension: Dimension) -> bool:
    """Whether the parameter is a whole number: as it is now, or where it is not set, as its range is given."""
    current = lookup(config.model_dump(), path)
    if isinstance(current, bool | str):
        raise KkaError(f"tune.space: {path} is {current!r}, which has no low and high. Give choices.")
    bounds = [bound for bound in (dimension.low, dimension.high, dimension.step) if bound is not None]
    fractions = [bound for bound in bounds if bound != int(bound)]
    whole = isinstance(current, int) or (current is None and not fractions)
    if whole and fractions:
        raise KkaError(f"tune.space: {path} is a whole number, got {fractions[0]:g}.")
    return whole


def suggest(trial: Any, config: Config) -> dict[str, Any]:
    """The values of a trial of Optuna by path, as `rounded` makes them."""
    values: dict[str, Any] = {}
    for path, d in config.tune.space.items():
        if d.choices is not None:
            values[path] = trial.suggest_categorical(path, d.choices)
        elif _is_whole(config, path, d):
            values[path] = trial.suggest_int(path, int(d.low or 0), int(d.high or 0), step=int(d.step or 1), log=d.log)
        else:
            values[path] = trial.suggest_float(path, d.low or 0.0, d.high or 0.0, step=d.step, log=d.log)
    return rounded(values)


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """With floats to four digits, which is what a trial runs with and what a winner writes."""
    return {path: float(f"{v:.4g}") if isinstance(v, float) else v for path, v in values.items()}


def defaults(config: Config) -> dict[str, Any]:
    """What params.yaml says of the parameters in the space, by path; None for an option that it does not name."""
    params = config.model_dump()
    return {path: lookup(params, path) for path in config.tune.space}


def holds(config: Config, values: Mapping[str, Any]) -> bool:
    """Whether all values, by path, lie in the space."""
    return all(_lies_in(dimension, values[path]) for path, dimension in config.tune.space.items())


def _lies_in(d: Dimension, value: Any) -> bool:
    if d.choices is not None or value is None:
        return bool(value in (d.choices or ()))
    low, high = d.low or 0.0, d.high or 0.0
    steps = (value - low) / d.step if d.step else 0.0
    return bool(low <= value <= high and abs(steps - round(steps)) < 1e-9)

"""params.yaml, typed: one section per stage, unknown keys refused with a suggestion, all mistakes shown at once."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError, model_validator

from kka.errors import KkaError
from kka.project.sections import Align, Assess, Describe, Detect, Evaluate, Prepare, Round, Section, Synthesize, Tune

BASELINE = "r0"  # round zero: the detector without generated anomalies


class Config(Section):
    seed: int = 0
    last: str
    rounds: dict[str, Round]
    prepare: Prepare = Prepare()
    describe: Describe = Describe()
    synthesize: Synthesize = Synthesize()
    assess: Assess = Assess()
    detect: Detect = Detect()
    align: Align = Align()
    evaluate: Evaluate = Evaluate()
    tune: Tune = Tune()

    @model_validator(mode="after")
    def _there_is_something_to_align(self) -> "Config":
        if self.describe.endpoint and self.align.enabled:
            raise ValueError(
                "describe.endpoint writes descriptions, but its weights cannot be aligned: set align.enabled to false"
            )
        return self

    @model_validator(mode="after")
    def _rounds_form_a_chain(self) -> "Config":
        for name, item in self.rounds.items():
            if item.prev != BASELINE and item.prev not in self.rounds:
                others = ", ".join(self.rounds)
                raise ValueError(f"rounds.{name}: prev wants {BASELINE} or another round ({others}), got '{item.prev}'")
        if self.last not in self.rounds:
            raise ValueError(
                f"last wants one of the rounds ({', '.join(self.rounds) or 'there are none'}), got '{self.last}'"
            )
        for name in self.rounds:
            self.lineage(name)
        return self

    def lineage(self, name: str) -> list[str]:
        """The rounds up to and with `name`, first round first, without BASELINE."""
        chain: list[str] = []
        while name != BASELINE:
            if name in chain:
                raise ValueError(
                    f"rounds: {name} comes before itself ({' -> '.join(chain)}); let each prev name an earlier round"
                )
            chain.append(name)
            name = self.rounds[name].prev
        return chain[::-1]


def read_config(path: Path) -> Config:
    """The checked params.yaml. Raises KkaError that lists every mistake, a line each."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KkaError(
            f"{path} is missing. Write one with `kka preset blossom`, or go to the project's folder."
        ) from None
    except yaml.YAMLError as error:
        raise KkaError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return check_config(raw, str(path))


def flatten(values: Mapping[str, Any], head: str = "", joint: str = ".") -> Iterator[tuple[str, Any]]:
    """The leaves of nested sections with their paths as names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{head}{key}{joint}", joint)
        else:
            yield f"{head}{key}", value


def lookup(values: Any, path: str) -> Any:
    """The value at a dotted path in nested sections; None where there is none."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values, named by dotted paths. Raises KkaError where one does not fit."""
    raw = config.model_dump()
    for path, value in values.items():
        section, _, key = path.rpartition(".")
        place = lookup(raw, section) if section else raw
        if not isinstance(place, dict):
            raise KkaError(f"params.yaml has no section '{section}' for {path}.")
        place[key] = value
    return check_config(raw)


def check_config(raw: Any, name: str = "params.yaml") -> Config:
    """A Config from plain values; `name` stands at the head of each mistake."""
    if not isinstance(raw, dict):
        raise KkaError(f"{name}: wanted sections such as `describe:`, got {type(raw).__name__}")
    rounds = raw.get("rounds")
    if isinstance(rounds, dict) and (odd := [k for k in rounds if not isinstance(k, str)]):
        raise KkaError(
            f"{name}: rounds wants names as keys, got the number {odd[0]!r}. DVC would silently run nothing: write"
            f" r{odd[0]}."
        )
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise KkaError("\n".join(_sentence(name, e) for e in error.errors())) from None


def _sentence(name: str, error: Any) -> str:
    *where, key = error["loc"] or ("the file",)
    place = ".".join(str(w) for w in where) or "the top level"
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(key), _keys(where), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else f" It knows: {', '.join(_keys(where))}."
        return f"{name}: {place} has the unknown key '{key}'.{hint}"
    if error["type"] == "missing":
        return f"{name}: {place} lacks the key '{key}'."
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}."
    path, message = ".".join(str(part) for part in error["loc"]), error["msg"]
    return f"{name}: {path}: {message[0].lower()}{message[1:]}, got {error['input']!r}."


def _keys(where: Any) -> list[str]:
    """The keys that the section at `where` knows."""
    kind: Any = Config
    for step in where:
        if step in getattr(kind, "model_fields", {}):
            annotation = kind.model_fields[step].annotation
            inner = get_args(annotation)[-1:]  # of a mapping from names to sections: its next step is a name
            kind = inner[0] if inner and hasattr(inner[0], "model_fields") else annotation
    return list(getattr(kind, "model_fields", {}))

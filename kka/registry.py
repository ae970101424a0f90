"""The folder is the registry: a name that a user gives is a file in a folder of kka, and the file holds one thing by a
fixed name."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from kka.errors import KkaError


def names(package: str) -> list[str]:
    """The files of the package, e.g. 'kka.datasets', without those that begin with an underscore."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def check_name(package: str, name: str) -> None:
    """Raises KkaError with a suggestion where the package has no file of that name; imports none of them."""
    known = names(package)
    if name not in known:
        raise KkaError(f"{package.replace('.', '/')} has no '{name}'.{suggestion(name, known)}")


def find(package: str, name: str) -> ModuleType:
    """The module behind `name`. Raises KkaError with a suggestion where there is none."""
    check_name(package, name)
    return importlib.import_module(f"{package}.{name}")


def keywords(*functions: Callable[..., Any] | None, without: Iterable[str] = ()) -> list[str]:
    """The parameters that the functions take by keyword, in their order; None takes none."""
    parameters = dict.fromkeys(
        p.name for f in functions if f for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_KEYWORD
    )
    return [n for n in parameters if n not in set(without)]


def required(function: Callable[..., Any], without: Iterable[str] = ()) -> list[str]:
    """The parameters of the function that have no default."""
    parameters = inspect.signature(function).parameters
    return [n for n in keywords(function, without=without) if parameters[n].default is inspect.Parameter.empty]


def check_options(
    who: str, options: Mapping[str, Any], *functions: Callable[..., Any] | None, without: Iterable[str] = ()
) -> None:
    """Raises KkaError for an option that none of the functions takes."""
    known = keywords(*functions, without=without)
    for key in options:
        if key not in known:
            raise KkaError(f"{who} has the unknown option '{key}'.{suggestion(str(key), known)}")


def check_types(who: str, options: Mapping[str, Any], *functions: Callable[..., Any] | None) -> None:
    """Raises KkaError for a value of another type than the functions say."""
    for key, value in options.items():
        for kind in {_kind(f, key) for f in functions if f} - {inspect.Parameter.empty}:
            try:
                TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
            except ValidationError as error:
                wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
                raise KkaError(f"{who}: {key} wants {wanted}, got {value!r}.") from None


def _kind(function: Callable[..., Any], key: str) -> Any:
    parameter = inspect.signature(function, eval_str=True).parameters.get(key)
    return parameter.annotation if parameter else inspect.Parameter.empty


def suggestion(name: str, known: list[str]) -> str:
    """The end of an error sentence: the nearest known name, or all of them."""
    if close := difflib.get_close_matches(name, known, n=1):
        return f" Did you mean '{close[0]}'?"
    return f" It knows: {', '.join(known)}." if known else " It knows none."

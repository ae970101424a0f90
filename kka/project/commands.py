"""How every command of the project prints an error that is no fault of the program: its sentence alone."""

from typing import Any

import typer
from typer.core import TyperGroup

from kka.errors import KkaError, out_of_space


class Guard:
    """To mix into a class of commands: prints an error that is no fault of the program as its sentence, and ends with
    1."""

    def explain(self, error: Exception) -> str | None:
        """The sentence of an error; None for a fault of the program."""
        if isinstance(error, KkaError):
            from kka.project.errors import sentence

            return sentence(error)
        if out_of_space(error):
            return f"no space left to write to ({error}). Free some, and run it again."
        return None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)  # type: ignore[misc]  # of the class of commands behind
        except Exception as error:
            if (explained := self.explain(error)) is None:
                raise
            typer.echo("\n".join(f"kka: {line}" for line in explained.splitlines()), err=True)
            raise typer.Exit(1) from None


class Commands(Guard, TyperGroup):
    """Commands of the project."""

"""How the library tells what it measures, without knowing who listens."""

from collections.abc import Callable

Log = Callable[[str, float, int], None]  # name, value, step


def silent(name: str, value: float, step: int) -> None:
    """Listens to nothing."""

import pytest

from kka import registry
from kka.errors import KkaError


def test_names_leave_private_files_out() -> None:
    assert "__init__" not in registry.names("pipelines")
    assert {"bce", "deep_sad", "hsc", "patchcore", "probe", "simplenet"} <= set(registry.names("kka.detectors"))
    assert "cifar100" in registry.names("kka.datasets")


def test_find_imports_only_what_is_there() -> None:
    assert registry.find("kka.datasets", "blossom").__name__ == "kka.datasets.blossom"
    with pytest.raises(KkaError, match="Did you mean 'blossom'"):
        registry.find("kka.datasets", "blosom")


def test_keywords_join_functions_in_order() -> None:
    def one(a: int, b: int) -> None: ...
    def two(b: int, *, c: int, **more: int) -> None: ...

    assert registry.keywords(one, None, two, without=("a",)) == ["b", "c"]


def test_suggestion_names_the_nearest_or_all() -> None:
    assert registry.suggestion("cuont", ["count", "model"]) == " Did you mean 'count'?"
    assert registry.suggestion("x", ["count", "model"]) == " It knows: count, model."
    assert registry.suggestion("x", []) == " It knows none."
    with pytest.raises(KkaError, match="^here has the unknown option 'x'. It knows none.$"):
        registry.check_options("here", {"x": 1}, None)


def test_an_option_of_another_type_is_named_with_what_is_wanted() -> None:
    def load(seed: int, share: float, names: list[str], source: str | None = None) -> None: ...

    registry.check_types("here", {"share": 1, "names": ["a"], "source": None}, load, None)
    for wrong, said in (
        ({"share": "0.5"}, "share wants a valid number, got '0.5'"),
        ({"names": "a"}, "names wants a valid list, got 'a'"),
    ):
        with pytest.raises(KkaError, match=f"^here: {said}.$"):
            registry.check_types("here", wrong, load)
    with pytest.raises(KkaError, match="unknown option 'seed'. It knows: share, names, source."):
        registry.check_options("here", {"seed": 1}, load, without=("seed",))

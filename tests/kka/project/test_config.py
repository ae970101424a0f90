from pathlib import Path
from typing import Any

import pytest

from kka.errors import KkaError
from kka.project.config import check_config, lookup, read_config, with_values

ROOT = Path(__file__).parents[3]


def raw(**changes: Any) -> dict[str, Any]:
    return {"last": "r2", "rounds": {"r1": {"prev": "r0"}, "r2": {"prev": "r1"}}} | changes


def mistake(**changes: Any) -> str:
    with pytest.raises(KkaError) as error:
        check_config(raw(**changes))
    return str(error.value)


def test_the_shipped_parameters_are_the_default_preset() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "presets" / "blossom.yaml").read_text()


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    assert mistake(describe={"cuont": 3}) == "params.yaml: describe has the unknown key 'cuont'. Did you mean 'count'?"
    assert "align.lora has the unknown key 'rank'" in mistake(align={"lora": {"rank": 4}})
    assert mistake(rounds={"r1": {"previous": "r0", "prev": "r0"}}, last="r1").endswith("Did you mean 'prev'?")
    assert "the top level has the unknown key 'assses'. Did you mean 'assess'?" in mistake(assses={})


def test_a_mistyped_value_is_named_with_what_it_is() -> None:
    assert mistake(describe={"count": "many"}).startswith("params.yaml: describe.count: ")
    assert mistake(describe={"count": "many"}).endswith("got 'many'.")
    assert "assess.quantile" in mistake(assess={"quantile": 1.5})


def test_all_mistakes_are_shown_at_once() -> None:
    said = mistake(describe={"cuont": 3}, assess={"quantile": 2}).splitlines()
    assert len(said) == 2


def test_integer_round_keys_are_refused_because_dvc_would_run_nothing() -> None:
    said = mistake(rounds={1: {"prev": "r0"}}, last="1")
    assert (
        said == "params.yaml: rounds wants names as keys, got the number 1. DVC would silently run nothing: write r1."
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": {"r1": {"prev": "r7"}}, "last": "r1"}, "rounds.r1: prev wants r0 or another round (r1), got 'r7'"),
        ({"last": "r9"}, "last wants one of the rounds (r1, r2), got 'r9'"),
        ({"rounds": {}, "last": "r1"}, "there are none"),
        ({"rounds": {"r1": {"prev": "r2"}, "r2": {"prev": "r1"}}}, "comes before itself"),
        ({"rounds": {"r1": {"prev": "r1"}}, "last": "r1"}, "comes before itself"),
    ],
)
def test_rounds_that_form_no_chain_are_refused(changes: dict[str, Any], said: str) -> None:
    assert said in mistake(**changes)


def test_a_lineage_goes_back_to_round_zero() -> None:
    config = check_config(raw(rounds={"r1": {"prev": "r0"}, "r2": {"prev": "r1"}, "other": {"prev": "r1"}}))
    assert config.lineage("r2") == ["r1", "r2"]
    assert config.lineage("other") == ["r1", "other"]
    assert config.lineage("r0") == []


def test_files_that_are_missing_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(KkaError, match="params.yaml is missing. Write one with `kka preset blossom`"):
        read_config(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [")
    with pytest.raises(KkaError, match="is not YAML"):
        read_config(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- a")
    with pytest.raises(KkaError, match="wanted sections such as `describe:`, got list"):
        read_config(tmp_path / "params.yaml")


def test_values_are_looked_up_and_set_by_dotted_paths() -> None:
    config = check_config(raw())
    other = with_values(config, {"seed": 3, "align.lora.r": 4, "detect.options.steps": 9})
    assert [lookup(other.model_dump(), path) for path in ("seed", "align.lora.r", "detect.options.steps")] == [3, 4, 9]
    assert (config.align.lora.r, config.detect.options) == (8, {})
    assert lookup(config.model_dump(), "detect.options.steps") is None is lookup({"a": 1}, "a.b")
    with pytest.raises(KkaError, match="^params.yaml: align.lora.r: input should be greater than or equal to 1, got 0"):
        with_values(config, {"align.lora.r": 0})
    with pytest.raises(KkaError, match="params.yaml has no section 'aligm' for aligm.beta"):
        with_values(config, {"aligm.beta": 1})

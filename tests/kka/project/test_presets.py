import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from kka import datasets, registry, synthesizers
from kka.errors import KkaError
from kka.project import presets
from kka.project.config import Config, check_config

ROOT = Path(__file__).parents[3]
NAMES = presets.names()


def test_there_are_as_many_presets_as_we_know() -> None:
    expected = "blossom cifar100 cifar100-bank elpv folder inspect mvtec oxford102 paper ucm"
    assert expected.split() == NAMES


def test_the_project_comes_with_the_first() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == presets.text("blossom")


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_read_and_names_what_there_is(name: str) -> None:
    config = presets.config(name)
    assert config.prepare.dataset in datasets.names()
    assert config.synthesize.synthesizer in synthesizers.names()
    assert config.detect.detector in registry.names("kka.detectors")
    module = registry.find("kka.datasets", config.prepare.dataset)
    registry.check_options(
        "", config.prepare.options, module.load, getattr(module, "archive", None), without=("seed", "image_size")
    )
    assert config.detect.hard_proportion.rounds == len(config.lineage(config.last))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_names_every_knob(name: str) -> None:
    """DVC sees params.yaml alone: a value left to a default here could change without anything running again."""
    assert missing(Config, yaml.safe_load(presets.text(name)), "") == []


def missing(section: type[BaseModel], values: dict[str, Any], where: str) -> list[str]:
    found = [where + k for k in section.model_fields if k not in values]
    for key, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel) and key in values:
            found += missing(field.annotation, values[key], f"{where}{key}.")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_knob_has_a_comment(name: str) -> None:
    lines = presets.text(name).splitlines()
    assert [
        line
        for line in lines
        if re.match(r"\s*\w+:", line) and " # " not in line and not re.match(r"  r\d:|last:", line)
    ] == []
    assert lines[0].startswith("# ") and not [
        i for i, line in enumerate(lines) if not line and not re.match(r"\w+: ", lines[i + 1])
    ]


def test_a_preset_stands_on_its_base() -> None:
    """mvtec on folder, that on _hub, that on blossom; the sections `options` are taken as a whole."""
    mvtec, folder, blossom = (yaml.safe_load(presets.text(n)) for n in ("mvtec", "folder", "blossom"))
    assert mvtec["describe"] == folder["describe"] and mvtec["evaluate"] == blossom["evaluate"]
    assert mvtec["prepare"]["image_size"] == folder["prepare"]["image_size"] == 224
    assert set(mvtec["prepare"]["options"]) == {"source", "category", "validation"}
    assert "base" not in mvtec


def test_set_changes_a_value_and_keeps_the_comments() -> None:
    text = presets.text("cifar100-bank", ["prepare.options.source=../photographs", "align.beta=0.5"])
    config = check_config(yaml.safe_load(text))
    assert config.prepare.options["source"] == "../photographs" and config.align.beta == 0.5
    assert "# a Hugging Face id, or a folder" in text and "#   dvc repro" in text
    assert len(text.splitlines()) == len(presets.text("cifar100-bank").splitlines())


@pytest.mark.parametrize("said", ["caption:", "{examples}", "12", "two: words"])
def test_a_text_stays_a_text_though_yaml_would_read_more_into_it(said: str) -> None:
    for name in ("blossom", "folder"):
        assert yaml.safe_load(presets.text(name, [f"describe.instruction={said}"]))["describe"]["instruction"] == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("align.bta=1", "preset blossom: align has the unknown key 'bta'. Did you mean 'beta'?"),
        ("algin.beta=1", "--set algin.beta=1: the preset has no section 'algin'. Did you mean 'align'?"),
        ("seed.x.y=1", "--set seed.x.y=1: the preset has no section 'seed'."),
        ("align.beta", "--set wants key=value, such as align.beta=0.5, got 'align.beta'."),
        ("align.beta=[", "--set align.beta=[: the value is not YAML."),
        ("align.beta=-1", "preset blossom: align.beta: input should be greater than 0, got -1."),
    ],
)
def test_wrong_changes_are_one_sentence(change: str, said: str) -> None:
    with pytest.raises(KkaError, match=f"^{re.escape(said)}$"):
        presets.text("blossom", [change])


def test_texts_of_several_lines_keep_their_blank_ones() -> None:
    said = "Write.\n\n{examples}\nOne: a fault #3."
    found = yaml.safe_load(presets.text("folder", [f"describe.instruction={said}", "prepare.options.caption=gear #3"]))
    assert found["describe"]["instruction"] == said and found["prepare"]["options"]["caption"] == "gear #3"


def test_write_keeps_what_somebody_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    presets.write("blossom", path)
    presets.write("cifar100-bank", path)  # an unchanged preset may go
    assert path.read_text(encoding="utf-8") == presets.text("cifar100-bank")
    path.write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(
        KkaError, match="params.yaml differs from every preset: it was changed, or written with --set. Say --force"
    ):
        presets.write("blossom", path)
    assert path.read_text(encoding="utf-8") == "seed: 1\n"
    presets.write("blossom", path, force=True)
    assert path.read_text(encoding="utf-8") == presets.text("blossom")
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


def test_unknown_presets_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(KkaError, match="^there is no preset 'blosom'. Did you mean 'blossom'\\?$"):
        presets.text("blosom")
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    with pytest.raises(KkaError, match="wants presets, got none. kka runs from its repository"):
        presets.text("blossom")

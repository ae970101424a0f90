"""The recipes of the built-in models run from beginning to end, a few steps each."""

import json
from pathlib import Path

import pytest

from kka.mini import t2i
from kka.synthesizers.diffusion import Synthesizer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what diffusers asks of numpy while it saves
def test_the_text_to_image_recipe_gives_a_pipeline_that_draws(tmp_path: Path) -> None:
    t2i.train(tmp_path, scale=0.002)
    assert Synthesizer(str(tmp_path)).synthesize(["a flower"], [0]).shape == (1, 32, 32, 3)
    assert json.loads((tmp_path / "measured.json").read_text())["diffusion, more"]["steps"] == 5

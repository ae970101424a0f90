"""Local defects, read from the words of a description and drawn on real normal photographs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kka.defects.kinds import draw
from kka.defects.objects import Floats, Mask
from kka.defects.scenes import Scenes
from kka.records import Changes, Image, Images
from kka.synthesizers import Drawn


@dataclass
class Synthesizer:
    """Draws on `normals`, uint8 (n, h, w, 3). The `vocabulary` is a file with the words of the material, by default the
    one that is shipped. The `region_of_interest` limits where defects may be: the path of a mask, which is cut and
    resized as the pictures were, or the corners [x, y] of a polygon in fractions of the picture.

    A text without a known kind leaves its picture as it is; the record beside it says so. Raises KkaError for no
    normals, for a vocabulary that is not one, and for a region outside the picture."""

    vocabulary: str | None = None
    region_of_interest: str | list[list[float]] | None = None
    normals: Images | None = field(default=None, repr=False)
    # pictures depend on the normals and on what the files say, so it is part of the repr, which names unfinished work
    draws_on: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._scenes = Scenes(self.normals, self.vocabulary, self.region_of_interest)
        self.draws_on = self._scenes.digest

    def synthesize(self, texts: Sequence[str], seeds: Sequence[int]) -> Drawn:
        """A picture of each text; its seed chooses the normal and whatever the text leaves open."""
        made = [self._retouch(text, seed) for text, seed in zip(texts, seeds, strict=True)]
        pictures, sources, masks, details = zip(*made, strict=True)
        return Drawn(np.stack(pictures), Changes(np.stack(sources), np.stack(masks)), details)

    def _retouch(self, text: str, seed: int) -> tuple[Image, Image, Mask, dict[str, Any]]:
        scene = self._scenes.scene(text, seed)
        picture: Floats = scene.source.astype(np.float32)
        for defect in scene.reading.defects:
            picture = draw(picture, defect, scene.foreground, scene.rng)
        drawn, mask, details = scene.finished(picture)
        return drawn, scene.source, mask, details

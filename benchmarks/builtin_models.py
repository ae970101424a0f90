"""What the built-in models can do: the gates of their model cards. `python -m benchmarks.builtin_models [MODEL ...]`.

Language model: share of 500 captions at temperature 1 that are sentences of blossom's world, and share that are
distinct. Writer of defects: share of as many that name a kind of defect and no unknown one, share that are distinct,
and kinds that are named. Text-to-image: on 1,000 captions of species that it never trained on, how often an attribute
classifier reads the asked value; and how often the same classifier is right on drawn pictures. Autoencoder: PSNR on
1,000 fresh drawings. `--write` puts the figures into the model cards
(`kka/mini/*/README.md`)."""

import argparse
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from benchmarks import stamp
from benchmarks.digest import Code
from kka.datasets import blossom
from kka.defects.language import parse
from kka.defects.vocabulary import Vocabulary
from kka.describing.writer import Writer
from kka.mini import features, lm, t2i
from kka.records import seed_of
from kka.synthesizers.diffusion import Synthesizer

MINI = Path(features.__file__).parent
CODE = Code(
    "benchmarks/builtin_models.py",
    ("language_model", "writer_of_defects", "text_to_image", "autoencoder"),
    also=("kka/mini/lm", "kka/mini/defects", "kka/mini/t2i", "kka/mini/features", "kka/defects/vocabulary.yaml"),
)


def _written(model: str, n: int) -> tuple[list[str], float]:
    """What a writer writes, and the seconds that it took."""
    writer = Writer.load(str(MINI / model))
    began = time.time()
    texts = writer.describe([lm.PROMPT] * n, [seed_of("gate", i) for i in range(n)], temperature=1.0, max_new_tokens=40)
    return [t.strip() for t in texts], time.time() - began


def writer_of_defects(n: int = 500) -> dict[str, float]:
    texts, took = _written("defects", n)
    vocabulary, rng = Vocabulary.load(), np.random.default_rng(seed_of("gate", "defects"))
    readings = [parse(text, vocabulary, rng) for text in texts]
    readable = sum(bool(r.defects) and not r.unknown for r in readings)
    kinds = len({defect.kind for r in readings for defect in r.defects})
    shares = {"readable": readable / n, "distinct": len(set(texts)) / n}
    return {"descriptions": n, **shares, "kinds": kinds, "of": len(vocabulary.kinds), "seconds": round(took, 1)}


def language_model(n: int = 500) -> dict[str, float]:
    texts, took = _written("lm", n)
    readable = [t for t in texts if blossom.parse(t) is not None]
    distances = [d for d in blossom.text_distances(readable) if d is not None]
    shares = {"readable": len(readable) / n, "distinct": len(set(texts)) / n}
    return {"captions": n, **shares, "mean_distance": round(float(np.mean(distances)), 3), "seconds": round(took, 1)}


def text_to_image(n: int = 1000) -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(seed_of("gate", "t2i"))
    rows = blossom.flowers(20 * n, None, rng)
    rows = rows[blossom.withheld(rows)][:n]
    classifier, synthesizer = features.load(MINI / "features"), Synthesizer(str(MINI / "t2i"))
    texts, began = blossom.captions(rows, rng), time.time()
    pictures = [
        synthesizer.synthesize(texts[i : i + 50], [seed_of("gate", k) for k in range(i, min(i + 50, n))])
        for i in range(0, n, 50)
    ]
    took = time.time() - began
    return {
        "drawn": features.accuracy(features.read(classifier, blossom.draw(rows, rng)), rows),
        "generated": features.accuracy(features.read(classifier, np.concatenate(pictures)), rows)
        | {"seconds": round(took, 1)},
    }


def autoencoder() -> dict[str, float]:
    vae = AutoencoderKL.from_pretrained(MINI / "t2i" / "vae", dtype=torch.float32).eval()
    return {"psnr": round(t2i.psnr(vae, seed_of("gate", "vae") % 2**32), 2)}


pictures = cache(text_to_image)
MODELS: dict[str, Callable[[], dict[str, Any]]] = {
    "lm": lambda: dict(language_model()),
    "defects": lambda: dict(writer_of_defects()),
    "t2i": lambda: {"autoencoder": autoencoder(), "attributes": pictures()["generated"]},
    "features": lambda: {"attributes": pictures()["drawn"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--write", action="store_true", help="put the figures into the model cards")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    measured = {name: MODELS[name]() for name in arguments.models}
    line = stamp.line([{"stamp": stamp.make(CODE)}])
    print(json.dumps(measured, indent=2), line, sep="\n\n")
    if arguments.write:
        for name, figures in measured.items():
            _into_card(MINI / name / "README.md", figures, line)


def _into_card(card: Path, figures: dict[str, Any], line: str) -> None:
    head = card.read_text(encoding="utf-8").split("## Measured")[0]
    text = json.dumps(figures, indent=2)
    card.write_text(f"{head}## Measured\n{line}\n```json\n{text}\n```\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Makes the built-in models anew: `python -m kka.mini.train {lm,defects,t2i,features} [--out DIR] [--seed N]`.

`lm --captions FILE` trains a small writer for any caption corpus, one caption a line (or a JSON list of strings);
`defects --vocabulary FILE` one that describes the defects of a material.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from kka.errors import KkaError

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    torch.set_flush_denormal(True)
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = arguments.out or HERE / arguments.model
    if arguments.model == "lm":
        _writer(out, arguments.captions, arguments.seed, arguments.scale, device)
    elif arguments.model == "defects":
        writer_of_defects(out, arguments.vocabulary, arguments.seed, arguments.scale, device)
    elif arguments.model == "t2i":
        from kka.mini import t2i

        t2i.train(out, arguments.seed, device, scale=arguments.scale)
    else:
        from kka.mini import features

        features.train(out, arguments.seed, device, scale=arguments.scale)
    print(f"saved to {out}")


def _writer(out: Path, corpus: Path | None, seed: int, scale: float, device: str) -> None:
    from kka.mini import lm

    if corpus is None:
        captions, held_out, steps = _blossom_captions("lm", seed), _blossom_captions("lm held out", seed, 2000), 2500
    else:
        captions, held_out = divided(read_captions(corpus))
        steps = 800
    lm.train(out, captions, held_out, seed, device, steps=max(1, round(steps * scale)))


def writer_of_defects(
    out: Path, vocabulary: Path | None = None, seed: int = 0, scale: float = 1.0, device: str = "cpu"
) -> None:
    """Trains a writer of defects in the words of a vocabulary file, or of the one that is shipped."""
    import numpy as np

    from kka.defects.sentences import sentences
    from kka.defects.vocabulary import Vocabulary
    from kka.mini import lm
    from kka.records import seed_of

    words = Vocabulary.load(vocabulary)
    captions, held_out = (
        sentences(words, n, np.random.default_rng(seed_of(name, seed)))
        for name, n in (("defects", 50_000), ("defects held out", 2000))
    )
    lm.train(out, captions, held_out, seed, device, steps=max(1, round(1200 * scale)))


def divided(captions: list[str], every: int = 50) -> tuple[list[str], list[str]]:
    """Each fiftieth caption is held out, the first of them in any case, and the others are trained on."""
    held_out = captions[::every]
    return [c for i, c in enumerate(captions) if i % every] or captions, held_out


def _blossom_captions(name: str, seed: int, n: int = 100_000) -> list[str]:
    import numpy as np

    from kka.datasets import blossom
    from kka.records import seed_of

    rng = np.random.default_rng(seed_of(name, seed))
    return blossom.captions(blossom.flowers(n, None, rng), rng)


def read_captions(path: Path) -> list[str]:
    """The captions of a corpus file: a JSON list of strings, or one a line. Raises KkaError where there are none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise KkaError(f"--captions: wanted a text file, got {path} ({error.strerror})") from None
    found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    captions = [c.strip() for c in found if isinstance(c, str) and c.strip()]
    if not captions:
        raise KkaError(f"--captions: wanted one caption a line (or a JSON list of strings), got none in {path}")
    return captions


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m kka.mini.train", description=__doc__, formatter_class=plain)
    parser.add_argument("model", choices=["lm", "defects", "t2i", "features"])
    parser.add_argument("--out", type=Path, help="folder to write to; default: the built-in model's own")
    parser.add_argument("--captions", type=Path, help="lm: a caption corpus instead of blossom's captions")
    parser.add_argument("--vocabulary", type=Path, help="defects: a vocabulary instead of the one that is shipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps, for trials")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser


if __name__ == "__main__":
    try:
        main()
    except KkaError as mistake:
        sys.exit(f"kka: {mistake}")

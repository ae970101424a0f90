"""How stages ask the language model: the sampling, the guard, and the figures of what it wrote."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

from tqdm import tqdm

from kka.confusion import Guard
from kka.describing.endpoint import Endpoint
from kka.describing.writer import Describer, Sampling, Writer, collect, instruct, key
from kka.images import read_split
from kka.records import Description
from pipelines.stage import Run


def load_writer(run: Run) -> Writer:
    """The language model with the adapter of the round before."""
    section = run.config.describe
    return Writer.load(section.model, run.path("data", run.previous, "adapter"), **section.weights.model_dump())


def load_describer(run: Run) -> Describer:
    """What writes the descriptions: that model, or a server."""
    section = run.config.describe
    return Endpoint(section.endpoint, section.model) if section.endpoint else load_writer(run)


def captions(run: Run, part: str) -> tuple[str, ...]:
    """The captions of the normal images in a split, train or calibration; an image may have several."""
    return tuple(
        line for caption in read_split(run.path("data", "splits", part)).captions for line in caption.splitlines()
    )


def prompts(run: Run, purpose: str, n: int) -> list[str]:
    """The instruction for each of `n` items, with examples of its own."""
    examples = captions(run, "train")
    return [instruct(_sampling(run), examples, run.seed(purpose, "examples", i)) for i in range(n)]


def fit_guard(run: Run, writer: Describer) -> Guard:
    """The guard, its thresholds from the calibration captions under the model without its adapter."""
    held_out = captions(run, "calibration")
    likelihoods = writer.likelihoods(prompts(run, "guard", len(held_out)), held_out)
    return Guard.fit(captions(run, "train"), held_out, likelihoods, **run.config.describe.guard.model_dump())


def ask(
    run: Run, writer: Describer, guard: Guard, purpose: str, *, count: int, attempts: int, earlier: Sequence[str] = ()
) -> list[Description]:
    """Attempts until `count` are kept or `attempts` are spent, with a progress bar."""
    examples = captions(run, "train")
    with _progress(count, f"{purpose} {run.round}") as show:
        return collect(
            writer, guard, _sampling(run), examples,
            count=count, attempts=attempts, earlier=earlier, seed=run.seed(purpose), progress=show,
        )  # fmt: skip


def figures(found: Sequence[Description]) -> dict[str, float]:
    """Attempts, how many ended in each outcome, the readable fraction of all and the distinct fraction of the readable
    ones."""
    outcomes = Counter(d.outcome for d in found)
    readable = [d.text for d in found if d.outcome != "unreadable"]
    return {
        "attempts": len(found),
        **{name: outcomes[name] for name in ("kept", "normal", "unreadable", "duplicate")},
        "readable": len(readable) / max(1, len(found)),
        "distinct": len({key(t) for t in readable}) / max(1, len(readable)),
    }


def _sampling(run: Run) -> Sampling:
    section = run.config.describe
    return Sampling(**section.model_dump(include={f.name for f in fields(Sampling)}))


@contextmanager
def _progress(total: int, title: str) -> Iterator[Callable[[int], None]]:
    with tqdm(total=total, desc=title, disable=None) as bar:

        def show(reached: int) -> None:
            bar.update(reached - bar.n)

        yield show

"""How fast describing is, and how light an import: `python -m benchmarks.speed`.

The reference asks its language model for one sequence at a time, without a cache of keys and values. The same model,
the same 200 items, the same run: tokens per second of either way, and their ratio."""

import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import stamp
from benchmarks.digest import Code
from kka.describing.writer import Writer
from kka.mini import lm
from kka.project.doctor import cores
from kka.records import seed_of

MODEL = Path(lm.__file__).parent / "lm"
ITEMS, SLOW_ITEMS = 200, 20  # the slow way is measured on a tenth


@torch.inference_mode()
def one_at_a_time(writer: Writer, items: int) -> tuple[int, float]:
    """Tokens and seconds of sampling sequence after sequence, the whole text anew for each token."""
    torch.manual_seed(0)
    end, tokens, began = writer.tokenizer.eos_token_id, 0, time.perf_counter()
    for _ in range(items):
        ids = writer.tokenizer(lm.PROMPT, return_tensors="pt").input_ids
        for _ in range(40):
            logits = writer.model(input_ids=ids, use_cache=False).logits[0, -1]
            ids = torch.cat([ids, torch.multinomial(logits.softmax(0), 1)[None]], 1)
            tokens += 1
            if ids[0, -1] == end:
                break
    return tokens, time.perf_counter() - began


def batched(writer: Writer, items: int) -> tuple[int, float]:
    """Tokens and seconds of this project's way."""
    began = time.perf_counter()
    texts = writer.describe(
        [lm.PROMPT] * items, [seed_of("speed", i) for i in range(items)], temperature=1.0, max_new_tokens=40
    )
    return sum(len(writer.tokenizer(t).input_ids) for t in texts), time.perf_counter() - began


def import_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import kka"], check=True)
    return time.perf_counter() - began


def main() -> None:
    torch.set_flush_denormal(True)
    torch.set_num_threads(cores())
    writer = Writer.load(str(MODEL))
    batched(writer, 8)  # the first call pays for what every later one finds ready
    rates = [tokens / seconds for tokens, seconds in (one_at_a_time(writer, SLOW_ITEMS), batched(writer, ITEMS))]
    print(
        f"one at a time, no cache: {rates[0]:.0f} tokens/s; batched: {rates[1]:.0f} tokens/s;"
        f" ratio {rates[1] / rates[0]:.1f}"
    )
    print(f"import kka, Python's start included: {import_seconds():.2f} s")
    code = Code("benchmarks/speed.py", ("one_at_a_time", "batched"), also=("kka/mini/lm",))
    print(stamp.line([{"stamp": stamp.make(code)}]))


if __name__ == "__main__":
    main()

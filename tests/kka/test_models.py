"""Language models of real architectures in small, from the user's path and from the hub's cache; and a server instead
of one."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, BertConfig, BertModel, PreTrainedTokenizerFast

from kka.alignment import DPO, train
from kka.describing import endpoint
from kka.describing.asking import clean
from kka.describing.endpoint import Endpoint
from kka.describing.writer import Lora, Writer
from kka.errors import KkaError
from kka.records import Pair
from tests import standins
from tests.conftest import ROOT

CAPTIONS = ["a photo of a part", "a worn gear on a table"]
LORA = Lora(r=2, alpha=4)
ASKED = ["Write a caption.", "Write another one, please.", "Write."]


def writer(folder: Path, kind: str, **weights: Any) -> Writer:
    model = standins.language_model(folder / "model", kind, CAPTIONS)
    return Writer.load(model, lora=LORA, **weights)


@pytest.mark.parametrize("kind", standins.LANGUAGE_MODELS)
def test_a_chat_model_is_asked_by_its_template_and_answers_by_its_seed(kind: str, tmp_path: Path) -> None:
    made = writer(tmp_path, kind)
    assert made.prompt("Write.") == "<|user|>Write.<|end|><|assistant|>"  # and without a thought
    say = {"temperature": 1.0, "max_new_tokens": 8}
    together = made.describe(ASKED, [1, 2, 3], **say)
    assert len(set(together)) == 3 and together[1:] == [*made.describe(ASKED[1:], [2, 3], **say)]
    likelihoods = made.likelihoods(ASKED, CAPTIONS + ["x"])
    assert (likelihoods < 0).all() and np.allclose(
        likelihoods[:1], made.likelihoods(ASKED[:1], CAPTIONS[:1]), atol=1e-4
    )


def test_what_the_tokenizer_adds_by_itself_stands_there_once(tmp_path: Path) -> None:
    """As GLM-4's does, whose template writes [gMASK]<sop> too."""
    model = standins.language_model(tmp_path / "model", "glm", CAPTIONS)
    words = PreTrainedTokenizerFast.from_pretrained(model)
    words.add_special_tokens({"additional_special_tokens": ["[gMASK]", "<sop>"]})
    head = [(t, words.convert_tokens_to_ids(t)) for t in ("[gMASK]", "<sop>")]
    words.backend_tokenizer.post_processor = TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=head)
    words.chat_template = "[gMASK]<sop>" + standins.CHAT
    network = AutoModelForCausalLM.from_pretrained(model)
    network.resize_token_embeddings(len(words))
    network.save_pretrained(model), words.save_pretrained(model)
    made = Writer.load(model, lora=LORA)
    ids = made.tokenizer(made.prompt("Write.")).input_ids
    assert made.tokenizer.convert_ids_to_tokens(ids)[:3] == ["[gMASK]", "<sop>", "<|user|>"]


def test_a_models_own_settings_of_sampling_change_nothing(tmp_path: Path) -> None:
    made = writer(tmp_path, "qwen2")
    say = {"temperature": 1.0, "max_new_tokens": 12}
    before = made.describe(ASKED, [1, 2, 3], **say)
    made.model.generation_config.repetition_penalty = 100.0
    made.model.generation_config.no_repeat_ngram_size = 1
    assert made.describe(ASKED, [1, 2, 3], **say) == before


def test_a_text_may_end_by_any_end_that_the_model_knows(tmp_path: Path) -> None:
    """A chat model ends its turn by another token than the one that its tokenizer names."""
    made = writer(tmp_path, "qwen2")
    end, other = made.tokenizer.eos_token_id, made.tokenizer.convert_tokens_to_ids("<|user|>")
    layer = made.model.get_output_embeddings()
    layer.bias = torch.nn.Parameter(torch.zeros(layer.out_features))
    layer.bias.data[end] = -9.0  # the tokenizer's end is less likely than any word
    head, tail = (made.tokenizer(t).input_ids for t in (made.prompt(ASKED[0]), made.answer(CAPTIONS[0])))
    logs = made.model(torch.tensor([head + tail])).logits[0].detach().log_softmax(-1)[len(head) - 1 :]
    words = min(float(logs[i, token]) for i, token in enumerate(tail))
    assert float(logs[-1, end]) < words
    for ends, least in ((end, logs[-1, end]), ([end, other], min(words, float(logs[-1, other])))):
        made.model.generation_config.eos_token_id = ends
        assert made.likelihoods(ASKED[:1], CAPTIONS[:1])[0] == pytest.approx(float(least), abs=1e-4)


def test_the_guard_asks_the_model_without_its_adapter(tmp_path: Path) -> None:
    made = writer(tmp_path, "qwen2")
    bare, said = made.likelihoods(ASKED[:1], CAPTIONS[:1]), made.model(torch.tensor([[1, 2]])).logits.detach()
    for name, p in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(p, 0.1)
    assert not torch.allclose(made.model(torch.tensor([[1, 2]])).logits, said, atol=1e-2)
    assert made.likelihoods(ASKED[:1], CAPTIONS[:1]) == pytest.approx(bare)


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in standins.LANGUAGE_MODELS), ("qwen2", "bfloat16")]
)
def test_every_architecture_is_aligned(kind: str, dtype: str, tmp_path: Path) -> None:
    made = writer(tmp_path, kind, dtype=dtype)
    pairs = [Pair("a worn gear", "a photo of a part", "train"), Pair("a cracked gear", "a part", "validation")] * 8
    dpo = DPO(steps=12, batch_size=4, learning_rate=1e-2, beta=0.1, sft=0.0)
    figures, _ = train(made, pairs, ["Write."] * len(pairs), dpo, seed=0)
    assert figures["accuracy"] == 1.0


def test_weights_are_held_as_asked(tmp_path: Path) -> None:
    made = writer(tmp_path, "qwen2", dtype="bfloat16")
    kinds = {str(p.dtype) for n, p in made.model.named_parameters() if "lora" not in n}
    assert kinds == {"torch.bfloat16"}
    assert len(made.describe(ASKED, [1, 2, 3], temperature=1.0, max_new_tokens=4)) == 3
    assert np.isfinite(made.likelihoods(ASKED[:1], CAPTIONS[:1])).all()
    with pytest.raises(KkaError, match="^describe.weights.load_in_4bit wants a GPU and bitsandbytes"):
        writer(tmp_path / "four", "qwen2", load_in_4bit=True)


def test_a_model_that_cannot_write_is_named(tmp_path: Path) -> None:
    """transformers would load an encoder, and give it a head of random weights."""
    reader = standins.language_model(tmp_path / "bert", "qwen2", CAPTIONS)
    BertModel(
        BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(reader)
    with pytest.raises(
        KkaError,
        match=f"^describe.model: wanted a causal language model .*, got '{reader}', which lacks the weights cls",
    ):
        Writer.load(reader)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<think>\nA gear: worn?\n</think>\n\nA worn gear.", "A worn gear"),
        ("<think>\nno end of it", ""),
        ("Here is a caption:\n\n1. **A worn gear**", "A worn gear"),
        ("Caption: a worn gear", "a worn gear"),
        ("**Description 2:** a worn gear", "a worn gear"),
        ("Sure! Here are some captions:\n- a worn gear\n- a cracked gear", "a worn gear"),
    ],
)
def test_what_chat_models_put_around_a_text_is_cleaned_off(raw: str, text: str) -> None:
    assert clean(raw) == text


def test_ids_come_from_the_cache_of_the_hub_without_a_network(tmp_path: Path) -> None:
    """In a process of its own, for huggingface_hub reads its environment once."""
    made = {
        "writer": standins.language_model(tmp_path / "lm", "llama", CAPTIONS),
        "painter": standins.stable_diffusion(tmp_path / "sd"),
        "eye": standins.backbone(tmp_path / "eye", "dinov2"),
    }
    for name, folder in made.items():
        cached = tmp_path / "hf" / "hub" / f"models--someone--{name}"
        shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)
    program = """
from pathlib import Path
from kka.detectors.shared import backbones
from kka.project import doctor
from kka.describing.writer import Writer
from kka.errors import KkaError
from kka.synthesizers.diffusion import Synthesizer
Writer.load("someone/writer")
painted = Synthesizer(model="someone/painter", steps=2).synthesize(["a gear"], [0])
print(painted.shape, backbones.load("someone/eye").depth)
print(doctor.reachable("describe", "model", "someone/writer", Path.cwd(), offline=True).mark)
for make in (lambda: Synthesizer(model="someone/nobody"), lambda: backbones.load("someone/nobody"),
             lambda: Writer.load("someone/nobody")):
    try:
        make()
    except KkaError as error:
        print("KkaError", "someone/nobody" in str(error), len(str(error).splitlines()))
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("HF_HUB_CACHE", None)
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert told.stdout.splitlines() == ["(1, 32, 32, 3) 4", "ok", *["KkaError True 1"] * 3], told.stderr


class Server(BaseHTTPRequestHandler):
    """Answers as its prompt says: what it was asked, or an error the first time or always."""

    failures: dict[str, int] = {}
    paths: set[str] = set()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = asked["messages"][0]["content"]
        self.paths.add(self.path)
        code = int(prompt.split()[1]) if prompt.startswith("fail") else 200
        if code != 200 and self.failures.get(prompt, 0) < 2:
            self.failures[prompt] = self.failures.get(prompt, 0) + 1
            self.send_response(code)
            self.end_headers()
            self.wfile.write(b'{"error": "no such model"}')
            return
        settings = " ".join(str(asked[key]) for key in ("seed", "model", "max_tokens", "temperature"))
        said = f"{prompt} {settings} {self.headers['Authorization']}"
        self.send_response(200)
        self.end_headers()
        choices = {} if prompt == "odd" else {"choices": [{"message": {"content": said}}]}
        self.wfile.write(json.dumps(choices).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(endpoint, "_WAITS", (0.0,) * 4)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    Server.failures.clear()
    Server.paths.clear()
    listening = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}/v1"
    listening.shutdown()
    listening.server_close()


def test_a_server_is_asked_and_answers_keep_their_order(server: str) -> None:
    found = Endpoint(server, "big").describe([f"p{i}" for i in range(20)], range(20), temperature=0.5, max_new_tokens=9)
    assert found == [f"p{i} {i} big 9 0.5 Bearer secret" for i in range(20)]


def test_a_server_gets_another_chance_where_it_may_do_better(server: str) -> None:
    assert (
        Endpoint(server, "big")
        .describe(["fail 503"], [0], temperature=1.0, max_new_tokens=9)[0]
        .startswith("fail 503 0 big")
    )
    with pytest.raises(
        KkaError, match=f'^describe.endpoint: {server} .* by \'big\', got 404 {{"error": "no such model"}}'
    ):
        Endpoint(server, "big").describe(["fail 404"], [0], temperature=1.0, max_new_tokens=9)
    assert Server.failures["fail 404"] == 1
    with pytest.raises(KkaError, match="got InvalidURL .*port.*. Is it up"):
        Endpoint("http://localhost:port/v1", "big").describe(["p"], [0], temperature=1.0, max_new_tokens=9)
    with pytest.raises(KkaError, match="got ConnectError .*refused.*. Is it up"):
        Endpoint("http://127.0.0.1:9/v1", "big").describe(["p"], [0], temperature=1.0, max_new_tokens=9)


def test_a_server_is_asked_by_its_own_path_also_where_the_hub_is_off_limits(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine without a network, with a server of its own."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    url = server.replace("/v1", "/api/v4/")
    found = Endpoint(url, "big").describe(["a", "b"], [1, 2], temperature=1.0, max_new_tokens=9)
    assert [text[:3] for text in found] == ["a 1", "b 2"] and Server.paths == {"/api/v4/chat/completions"}
    with pytest.raises(OfflineModeIsEnabled):
        HfApi(endpoint="http://127.0.0.2:9").whoami(token="none")


def test_an_answer_of_another_form_is_a_failure(server: str) -> None:
    with pytest.raises(KkaError, match="by 'big', got .*. Is it up"):
        Endpoint(server, "big").describe(["odd"], [0], temperature=1.0, max_new_tokens=9)

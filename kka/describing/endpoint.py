"""A language model behind a server that speaks OpenAI's protocol, such as vLLM's: it describes, but cannot be
aligned."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from kka.errors import KkaError

_AT_A_TIME = 8
_LONGEST = 300.0  # seconds until an answer is given up
_WAITS = (1.0, 2.0, 4.0, 8.0, 0.0)  # seconds after each failure, the last of which is final
_PASSING = (408, 409, 429, 500, 502, 503, 504)  # answers of a server that may do better in a moment


@dataclass(frozen=True)
class Endpoint:
    """`url` is that of the API, such as http://127.0.0.1:8000/v1; a key is taken from OPENAI_API_KEY."""

    url: str
    model: str

    def describe(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        temperature: float,
        max_new_tokens: int,
        min_p: float = 0.0,
    ) -> list[str]:
        """One raw text for each prompt; whether its seed means anything is up to the server, and `min_p` stays here:
        not all know it. Raises KkaError where the server cannot be reached or refuses."""
        requests = [
            {
                "model": self.model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": temperature,
                "max_tokens": max_new_tokens,
                "seed": seed % 2**31,
            }
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(partial(self._ask, _client(self.url)), requests))

    def likelihoods(self, prompts: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """Zeros: the protocol does not tell how likely a text is. So nothing but an empty text counts as unreadable."""
        return np.zeros(len(texts))

    def _ask(self, client: Any, request: dict[str, Any]) -> str:
        for wait in _WAITS:
            try:
                return str(client.chat_completion(**request).choices[0].message.content or "")
            except Exception as error:  # no connection, a timeout, a refusal, an answer of another form
                response = getattr(error, "response", None)
                reason = _reason(error) if response is None else f"{response.status_code} {_squeezed(response.text)}"
                if response is not None and response.status_code not in _PASSING:
                    break
            time.sleep(wait)
        raise KkaError(
            f"describe.endpoint: {self.url} wanted to be asked for a description by '{self.model}', got {reason}."
            " Is it up?"
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__} {_squeezed(str(error))}"


def _squeezed(text: str) -> str:
    return " ".join(text.split())[:200]


def _client(url: str) -> Any:
    """A client of the server. Requests to it pass where HF_HUB_OFFLINE stops all: it is meant for the hub."""
    from huggingface_hub import InferenceClient, get_session

    session = get_session()  # all clients share it
    hooks = [hook if isinstance(hook, _Elsewhere) else _Elsewhere(hook) for hook in session.event_hooks["request"]]
    for hook in hooks:
        hook.servers.add(urlsplit(url).hostname or "")
    session.event_hooks = {**session.event_hooks, "request": hooks}
    key = os.environ.get("OPENAI_API_KEY", "none")
    return InferenceClient(base_url=f"{url.rstrip('/')}/chat/completions", api_key=key, timeout=_LONGEST)


@dataclass
class _Elsewhere:
    """Calls the hook for requests that go elsewhere than to the servers."""

    hook: Callable[[Any], object]
    servers: set[str] = field(default_factory=set)

    def __call__(self, request: Any) -> None:
        if request.url.host not in self.servers:
            self.hook(request)

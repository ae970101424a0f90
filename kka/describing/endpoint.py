"""A language model behind a server that speaks OpenAI's protocol, such as vLLM's: it describes, but cannot be
aligned."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kka.errors import KkaError

_AT_A_TIME = 8
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
        asked = [
            {
                "model": self.model, "messages": [{"role": "user", "content": prompt}],
                "temperature": temperature, "max_tokens": max_new_tokens, "seed": seed % 2**31,
            }
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]  # fmt: skip
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(self._ask, asked))

    def likelihoods(self, prompts: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
        """Zeros: the protocol does not tell how likely a text is. So nothing but an empty text counts as unreadable."""
        return np.zeros(len(texts))

    def _ask(self, what: dict[str, Any]) -> str:
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}",
        }
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(what).encode(), headers)
        for wait in _WAITS:
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    return str(json.load(answer)["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {' '.join(error.read().decode(errors='replace').split())[:200]}"
                if error.code not in _PASSING:
                    break
            except (OSError, ValueError, KeyError, IndexError, TypeError, HTTPException) as error:
                reason = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
            time.sleep(wait)
        raise KkaError(
            f"describe.endpoint: {self.url} wanted to be asked for a description by '{self.model}', got {reason}. Is it up?"
        )

"""Asking an endpoint as an application would: with the OpenAI client, streaming."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestrator.spec.errors import UserError

# Loopback without keys needs none, but the client insists on a text.
_NO_KEY = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What came back, and seconds from sending to the first token."""

    text: str
    first_token_s: float


def complete(url: str, model: str, prompt: str, *, max_tokens: int) -> Completion:
    """Stream one completion, temperature 0.6 under a fixed seed. Raises: UserError without the `openai` package."""
    try:
        import openai
    except ImportError:
        raise UserError("the demo asks with the openai package", next_step="pip install openai") from None
    began_s, first_token_s, pieces = time.monotonic(), 0.0, []
    with openai.OpenAI(base_url=f"{url}/v1", api_key=_NO_KEY, max_retries=2) as client:
        stream = client.completions.create(
            model=model, prompt=prompt, max_tokens=max_tokens, temperature=0.6, seed=7, stream=True
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].text:
                first_token_s = first_token_s or time.monotonic() - began_s
                pieces.append(chunk.choices[0].text)
    return Completion(text="".join(pieces), first_token_s=first_token_s)

"""The day's customers: requests as dense as demand is, sent on schedule whatever becomes of earlier ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai

from orchestrator.report import DayRequest

MAX_TOKENS = 8
_NO_KEY, _AT_ONCE, _LOOK_S, _GIVE_UP_S = "none", 32, 0.2, 30.0
_CODE = ("def mean(values):", "class Stack:", "import os\n", "for line in", "    return self.", "with open(path)")


class Customers:
    """They come from `start` until `stop`; `asked` then holds every request. `rate` says how many come in a second."""

    def __init__(self, url: str, model: str, rate: Callable[[], float]) -> None:
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key=_NO_KEY, max_retries=0, timeout=_GIVE_UP_S)
        self._model = model
        self._rate = rate
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="customer")
        self._thread = threading.Thread(target=self._come, name="customers", daemon=True)
        self._began_s = 0.0
        self.asked: list[DayRequest] = []

    def start(self) -> None:
        """The first comes now."""
        self._began_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Nobody comes any more; returns when everybody was answered."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _come(self) -> None:
        """One more whenever the demand so far adds up to a whole request."""
        due, looked_s = 1.0, time.monotonic()
        while not self._ended.wait(0 if due >= 1 else min(_LOOK_S, (1 - due) / max(self._rate(), 1e-3))):
            now_s = time.monotonic()
            due, looked_s = due + self._rate() * (now_s - looked_s), now_s
            while due >= 1:
                due -= 1
                self._pool.submit(self._ask, len(self.asked))

    def _ask(self, number: int) -> None:
        began_s = time.monotonic()
        try:
            self._client.completions.create(
                model=self._model, prompt=_CODE[number % len(_CODE)], max_tokens=MAX_TOKENS,
                extra_body={"service_tier": "default"},
            )  # fmt: skip
            waited_s, problem = time.monotonic() - began_s, ""
        except openai.OpenAIError as error:  # a request that is refused or fails is late, and counted
            waited_s, problem = time.monotonic() - began_s, f"{type(error).__name__}: {error}"
        self.asked.append(DayRequest(at_s=began_s - self._began_s, waited_s=waited_s, problem=problem))

"""Text to tokens and back, piece by piece: incremental decoding and stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Protocol


class TokenDecoder(Protocol):
    """Turns tokens into text as they come; keeps what is not a whole character yet."""

    def push(self, token: int) -> str:
        """Text that this token completes, possibly none."""
        ...

    def flush(self) -> str:
        """What is left at the end."""
        ...


class Tokenizer(Protocol):
    """A vocabulary."""

    vocabulary: int

    def encode(self, text: str) -> list[int]:
        """Raises: ValueError for text that is not valid Unicode."""
        ...

    def decoder(self) -> TokenDecoder:
        """A decoder for one answer."""
        ...


class ByteTokenizer:
    """Token = byte of UTF-8."""

    vocabulary = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())  # a lone surrogate raises UnicodeEncodeError, a ValueError

    def decoder(self) -> TokenDecoder:
        return _ByteDecoder()


class _ByteDecoder:
    """A byte model may write anything; what is not UTF-8 shows as U+FFFD."""

    def __init__(self) -> None:
        self._codec = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._codec.decode(bytes((token,)))

    def flush(self) -> str:
        return self._codec.decode(b"", final=True)


class AnswerText:
    """One answer's text: held back while it could still become a stop string, cut before the first one."""

    def __init__(self, decoder: TokenDecoder, stop: Sequence[str]) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that is certain now; after a stop string `stopped` is set and no more must be pushed."""
        assert not self.stopped
        return self._release(self._decoder.push(token))

    def finish(self) -> str:
        """The rest when the answer ends without a stop string; `stopped` may be set by it, too."""
        rest = self._release(self._decoder.flush())
        held, self._held = self._held, ""
        return rest + ("" if self.stopped else held)

    def _release(self, piece: str) -> str:
        text = self._held + piece
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)


class HubTokenizer:
    """A Hugging Face tokenizer as our routes use one; vLLM turns answers into text itself."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.vocabulary = len(tokenizer)

    def encode(self, text: str) -> list[int]:
        text.encode()  # a lone surrogate is a ValueError here as with bytes
        return list(self._tokenizer.encode(text))

    def decoder(self) -> Any:
        raise AssertionError("vLLM decodes")

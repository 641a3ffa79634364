"""What a policy is told in words: prompts as pi-0 and pi-0.5 write them, and their tokens.

The tokens are those of a text tokenizer in one `tokenizer.json` file, such as PaliGemma's; it is
read by the `tokenizers` library and needs no network once it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e0.finite import require_finite
from e0.network.language import NO_WORD

FILE = "tokenizer.json"
START = "<bos>"
STATE_BINS = 256


class TextTokenizerError(ValueError):
    """A text tokenizer that cannot be found or read."""


def pi0_prompt(task: str) -> str:
    """The task and a line's end (openpi, LeRobot's pi-0)."""
    return task if task.endswith("\n") else f"{task}\n"


def pi05_prompt(task: str, state: Tensor) -> str:
    """The task and the state (n,), normalized to [-1, 1] and told as bins 0..255 (pi-0.5).

    Raises NonFiniteError for NaN or infinity, which would become the number of a bin.
    """
    require_finite({"state": state})
    edges = torch.linspace(-1, 1, STATE_BINS + 1, dtype=torch.float64)[:-1]
    bins = torch.bucketize(state.double().cpu(), edges, right=True) - 1
    told = " ".join(str(number) for number in bins.tolist())
    cleaned = task.strip().replace("_", " ").replace("\n", " ")
    return f"Task: {cleaned}, State: {told};\nAction: "


class TextTokenizer:
    """Texts -> padded tokens. `location`: a `tokenizer.json`, a directory with one, or a hub id.

    Raises TextTokenizerError if there is none, or it cannot be read.
    """

    def __init__(self, location: str | Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise TextTokenizerError(
                "prompts of this preset need the library `tokenizers`: "
                "pip install 'lerobot_policy_e0[paligemma]'"
            ) from error
        path = Path(location)
        if path.is_dir():
            path = path / FILE
        if not path.exists():
            path = _download(str(location))
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare exceptions
            raise TextTokenizerError(f"{path} is no tokenizer file: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._start: int | None = self._tokenizer.token_to_id(START)

    @property
    def size(self) -> int:
        """Entries, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, prompts: list[str], maximum: int) -> Tensor:
        """Tokens (B, L), the longest prompt's length, `NO_WORD` behind shorter ones.

        Raises ValueError if a prompt has more than `maximum` tokens: a cut prompt would be another
        prompt.
        """
        rows = [self._tokenizer.encode(prompt).ids for prompt in prompts]
        if self._start is not None:  # some tokenizer files leave it to the caller
            rows = [row if row[:1] == [self._start] else [self._start, *row] for row in rows]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > maximum:
                raise ValueError(
                    f"prompt {prompt[:40]!r}... has {len(row)} tokens, {len(row) - maximum} more "
                    f"than this policy's maximum of {maximum}; shorten it or train with a larger "
                    "maximum_prompt_tokens"
                )
        longest = max((len(row) for row in rows), default=0)
        return torch.tensor([row + [NO_WORD] * (longest - len(row)) for row in rows])

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` into a directory."""
        self._tokenizer.save(str(directory / FILE))


def _download(name: str) -> Path:
    """The tokenizer file of a hub repository."""
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise TextTokenizerError(
            f"{name!r} is neither a {FILE}, a directory with one, nor a hub id (owner/name)"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, FILE))
    except Exception as error:  # offline, gated and missing repositories all end here
        raise TextTokenizerError(
            f"no local path {name!r}, and the hub did not give its {FILE}: {error}"
        ) from error

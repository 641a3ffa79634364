"""Prompts as policies get them, cut into tokens without PaliGemma's vocabulary, which must be asked
for. The lengths are like those of its tokenizer: a word is a token, and so is each digit, the blank
before a number, and each mark."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from e0.network.presets import ByteShape, Preset
from e0.prompts import FILE, START, TextTokenizer
from lerobot_policy_e0.prompts import BytePrompts, Prompts, WordPrompts

LONGEST = 256
TOKEN = r" (?=\d)|\d|[^\W\d]+|[^\w\s]|\n"
KNOWN = (START, "<unk>", " ", "\n", *"0123456789,:;")


def prompts_of(preset: Preset) -> Prompts:
    """What turns tasks and states into the prompts of this preset."""
    if isinstance(preset.language, ByteShape):
        return BytePrompts(LONGEST, preset.language.patch)
    return WordPrompts(stand_in_tokenizer(), LONGEST, preset.state == "prompt")


@cache
def stand_in_tokenizer() -> TextTokenizer:
    """A tokenizer that cuts as described above and gives all words the same number."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    vocabulary = {token: index for index, token in enumerate(KNOWN)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(TOKEN), "removed", invert=True)  # pyright: ignore[reportAttributeAccessIssue]
    with TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder) / FILE))
        return TextTokenizer(folder)

"""A word-level tokenizer for the mini CLIP: one id per word of a short, fixed vocabulary."""

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.errors import UserError

_TOKEN = re.compile(r"[a-z]+|#")


class WordTokenizer:
    """Sentences to ids; called like an open_clip tokenizer.

    Id 0 pads, 1 starts; the last id ends, so that ``ids.argmax(-1)`` finds the end as in CLIP. Case and punctuation are
    dropped. ``x`` is a word of its own: the placeholder that learned context vectors replace.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        """Give each of ``words`` an id; sentences are padded to ``context_length`` ids."""
        self.context_length = context_length
        self._words = list(words)
        self._ids = {word: number for number, word in enumerate(words, start=2)}
        self.end = len(words) + 2
        self.vocab_size = len(words) + 3

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Ids of ``texts``, int64 ``(n, context_length)``.

        Raises:
            UserError: A word is not in the vocabulary, or a sentence is too long.
        """
        sentences = [texts] if isinstance(texts, str) else texts
        ids = torch.zeros(len(sentences), self.context_length, dtype=torch.long)
        for row, sentence in enumerate(sentences):
            tokens = [1, *(self._id(word, sentence) for word in _TOKEN.findall(sentence.lower())), self.end]
            if len(tokens) > self.context_length:
                raise UserError(f"'{sentence}' has {len(tokens)} tokens, the model takes {self.context_length}")
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The words of ``ids``, as open_clip's tokenizers have it; padding, start and end have none."""
        return " ".join(self._words[number - 2] for number in ids if 2 <= number < self.end)

    def _id(self, word: str, sentence: str) -> int:
        if word not in self._ids:
            near = difflib.get_close_matches(word, self._ids, n=1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UserError(f"the mini CLIP does not know the word '{word}' in '{sentence}'{hint}")
        return self._ids[word]

"""CLIP's forward pass in stages, with named places where a defense may step in.

Our own loop over open_clip's submodules: no hooks, no wrapper modules, no change to open_clip or to the ``state_dict``.
Without edits it equals ``encode_image`` and ``encode_text`` bit for bit. Layers are numbered from 1, as in the papers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock, text_global_pool
from torch import Tensor, nn
from torch.nn import functional

from bench.clip.model import Clip, normalise

Edit = Callable[[Tensor], Tensor]
_NO_PROMPTS: Mapping[int, Tensor] = {}
_NO_EDITS: Mapping[int, Edit] = {}


@dataclass(frozen=True)
class ImageEdits:
    """What to change in the image tower.

    Attributes:
        pixels: What to do with the normalised image ``(n, 3, h, w)`` before it is cut into patches.
        shallow: Tokens ``(b, width)`` appended after the positional embedding and before ``ln_pre`` (VPT's first
            layer).
        prompts: For a layer, tokens ``(b, width)`` that follow the image's own tokens at its input; the outputs of
            earlier prompts are dropped there. Layers not named keep what is in the sequence.
        refine: For a layer, what to do with the image's own tokens ``(n, 1 + patches, width)`` at its input, before
            prompts are appended.
        attention: For a layer, what to do with the attention output ``(n, tokens, width)`` before it is added.
    """

    pixels: Edit | None = None
    shallow: Tensor | None = None
    prompts: Mapping[int, Tensor] = field(default_factory=lambda: _NO_PROMPTS)
    refine: Mapping[int, Edit] = field(default_factory=lambda: _NO_EDITS)
    attention: Mapping[int, Edit] = field(default_factory=lambda: _NO_EDITS)


@dataclass(frozen=True)
class TextEdits:
    """What to change in the text tower.

    Attributes:
        context: Vectors ``(n, width)`` for all classes or ``(classes, n, width)`` that replace the embeddings of
            positions 1 to n of the tokenised prompt.
        wording: From a task's template to the sentence, with ``{}`` for the class, whose first n words the context
            replaces; n placeholders and the class if not given.
        class_names: The classes that a context for each class was tuned on.
        prompts: For a layer, vectors ``(n, width)`` that overwrite positions 1 to n at its input.
        refine: For a layer, what to do at its input with all tokens but those of positions 1 to n.
    """

    context: Tensor | None = None
    wording: Callable[[str], str] | None = None
    class_names: tuple[str, ...] = ()
    prompts: Mapping[int, Tensor] = field(default_factory=lambda: _NO_PROMPTS)
    refine: Mapping[int, Edit] = field(default_factory=lambda: _NO_EDITS)


@dataclass
class Trace:
    """What to note down during a pass through a tower.

    Attributes:
        every_token: Also note all tokens of each layer, not only the class token.
        class_tokens: After a pass through the image tower, the class token ``(n, width)`` that each block puts out.
        tokens: After the pass, all tokens that each block puts out, where asked for.
        first_input: After the pass, the tokens that enter the first block.
        first_attention: After the pass, the first block's attention output, before it is added to the residual.
        last_input: After the pass, the tokens that enter the last block.
        last_attention: After the pass, the last block's attention output.
        ends: After a pass through the text tower, the position ``(n,)`` of the token that stands for each sentence.
    """

    every_token: bool = False
    class_tokens: list[Tensor] = field(default_factory=list[Tensor])
    tokens: list[Tensor] = field(default_factory=list[Tensor])
    first_input: Tensor | None = None
    first_attention: Tensor | None = None
    last_input: Tensor | None = None
    last_attention: Tensor | None = None
    ends: Tensor | None = None

    def note_attention(self, tokens: Tensor, attended: Tensor, layer: int, last: int) -> None:
        """Keep what enters a block and what its attention puts out, if it is the first or the last one."""
        if layer == 1:
            self.first_input, self.first_attention = tokens, attended
        if layer == last:
            self.last_input, self.last_attention = tokens, attended


class QueryKeyValue(NamedTuple):
    """One block's projections, heads side by side, each ``(n, tokens, width)``."""

    query: Tensor
    key: Tensor
    value: Tensor


class StagedCLIP:
    """A CLIP whose towers can be run with edits; see ``ImageEdits`` and ``TextEdits``."""

    def __init__(self, clip: Clip) -> None:
        """Wrap ``clip``; its weights are shared, not copied."""
        self.clip = clip
        # open_clip's attributes are registered at run time; their types are unknown to a checker.
        self._model: Any = clip.model
        self.visual: Any = clip.model.visual
        self.image_blocks = _blocks(self.visual.transformer)
        self.text_blocks = _blocks(self._model.transformer)
        self.patches: int = self.visual.grid_size[0] * self.visual.grid_size[1]
        self.image_width: int = self.visual.positional_embedding.shape[1]
        self.context_length: int = self._model.positional_embedding.shape[0]
        self.text_width: int = self._model.positional_embedding.shape[1]
        self.embedding_width: int = self.visual.proj.shape[1]

    @property
    def device(self) -> torch.device:
        """Where both towers compute; images and edits may come from elsewhere, embeddings stay there."""
        return self._model.positional_embedding.device

    def image(self, images: Tensor, edits: ImageEdits | None = None, trace: Trace | None = None) -> Tensor:
        """Embeddings of images in [0,1].

        Args:
            images: ``(n, 3, h, w)`` float32.
            edits: What to change on the way.
            trace: What to note down on the way.

        Returns:
            Embeddings ``(n, d)``, not normalised.
        """
        edits = edits or ImageEdits()
        return self.image_from(self.image_tokens(images, edits.shallow, edits.pixels), 1, edits, trace)

    def image_tokens(self, images: Tensor, shallow: Tensor | None = None, pixels: Edit | None = None) -> Tensor:
        """The tokens that enter the first block: class, patches, and ``shallow`` prompts if given."""
        visual, normalised = self.visual, normalise(self.clip, images.to(self.device))
        patches = visual.conv1(normalised if pixels is None else pixels(normalised)).flatten(2).permute(0, 2, 1)
        first = visual.class_embedding.view(1, 1, -1).expand(len(patches), -1, -1)
        tokens = torch.cat([first, patches], dim=1) + visual.positional_embedding
        if shallow is not None:
            tokens = torch.cat([tokens, _spread(shallow, tokens)], dim=1)
        return visual.ln_pre(tokens)

    def image_from(self, tokens: Tensor, first: int, edits: ImageEdits, trace: Trace | None = None) -> Tensor:
        """Run the blocks from layer ``first`` on and project.

        Args:
            tokens: What enters layer ``first``, ``(n, tokens, width)``.
            first: 1 for the whole tower.
            edits: As for ``image``; ``pixels`` and ``shallow`` are not looked at.
            trace: As for ``image``; layers before ``first`` are not in it.
        """
        own, last = 1 + self.patches, len(self.image_blocks)
        for layer in range(first, last + 1):
            if layer in edits.refine:
                tokens = torch.cat([edits.refine[layer](tokens[:, :own]), tokens[:, own:]], dim=1)
            if layer in edits.prompts:
                tokens = torch.cat([tokens[:, :own], _spread(edits.prompts[layer], tokens)], dim=1)
            block, edit = self.image_blocks[layer - 1], edits.attention.get(layer)
            attended = block.attention(block.ln_1(tokens))
            attended = attended if edit is None else edit(attended)
            if trace is not None:
                trace.note_attention(tokens, attended, layer, last)
            tokens = _add_attended(block, tokens, attended)
            if trace is not None:
                trace.class_tokens.append(tokens[:, 0])
                if trace.every_token:
                    trace.tokens.append(tokens)
        pooled, _ = self.visual._pool(tokens)
        return pooled @ self.visual.proj

    def image_tail(self, class_token: Tensor, attended: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` from what the last block's attention adds to the class token, both ``(n, width)``."""
        return self.visual.ln_post(_add_attended(self.image_blocks[-1], class_token, attended)) @ self.visual.proj

    def text(self, ids: Tensor, edits: TextEdits | None = None, trace: Trace | None = None) -> Tensor:
        """Embeddings of tokenised sentences.

        Args:
            ids: ``(n, context length)``; where ``edits.context`` is given, positions 1 to n are replaced.
            edits: What to change on the way.
            trace: What to note down on the way.

        Returns:
            Embeddings ``(n, d)``, not normalised.
        """
        model, edits = self._model, edits or TextEdits()
        tokens = model.token_embedding(ids)
        if edits.context is not None:
            tokens = _overwrite(tokens, edits.context)
        tokens = tokens + model.positional_embedding
        for layer, block in enumerate(self.text_blocks, start=1):
            if layer in edits.refine:
                length = 0 if edits.context is None else edits.context.shape[-2]
                tokens = _refine_around(tokens, length, edits.refine[layer])
            if layer in edits.prompts:
                tokens = _overwrite(tokens, edits.prompts[layer])
            attended = block.attention(block.ln_1(tokens), attn_mask=model.attn_mask)
            if trace is not None:
                trace.note_attention(tokens, attended, layer, len(self.text_blocks))
            tokens = _add_attended(block, tokens, attended)
            if trace is not None and trace.every_token:
                trace.tokens.append(tokens)
        if trace is not None:
            trace.ends = ids.argmax(dim=-1)
        pooled = text_global_pool(model.ln_final(tokens), ids, model.text_pool_type, model.text_eos_id)
        return self._project_text(pooled)

    def text_tail(self, end_token: Tensor, attended: Tensor) -> Tensor:
        """Embeddings ``(n, d)`` from what the last block's attention adds to the end token, both ``(n, width)``."""
        return self._project_text(self._model.ln_final(_add_attended(self.text_blocks[-1], end_token, attended)))

    def _project_text(self, pooled: Tensor) -> Tensor:
        projection = self._model.text_projection
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection

    def word_vectors(self, words: str) -> Tensor:
        """Token embeddings ``(n, width)`` of ``words``, without start and end."""
        (ids,) = self.clip.tokenize([words]).to(self.device)
        return self._model.token_embedding(ids[1 : ids.argmax()])

    def features_of(self, sentences: list[str], edits: TextEdits | None = None, trace: Trace | None = None) -> Tensor:
        """Normalised text embeddings of plain sentences, ``(n, d)``."""
        ids = self.clip.tokenize(sentences).to(self.device)
        return functional.normalize(self.text(ids, edits, trace), dim=-1)

    def query_key_value(self, block: ResidualAttentionBlock, tokens: Tensor) -> QueryKeyValue:
        """What ``block`` computes inside its attention from the tokens that enter it."""
        attention: Any = block.attn
        joined = functional.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        return QueryKeyValue(*joined.chunk(3, dim=-1))

    def attention_weights(self, block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
        """How much each token attends to each in an image ``block``: ``(n, heads, tokens, tokens)``, rows sum to 1."""
        query, key, _ = self.query_key_value(block, tokens)
        query, key = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in (query, key))
        return torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)


def _blocks(transformer: Any) -> list[ResidualAttentionBlock]:
    return list(transformer.resblocks)


def _add_attended(block: ResidualAttentionBlock, tokens: Tensor, attended: Tensor) -> Tensor:
    """What ``block`` puts out, from its input and its attention's output."""
    tokens = tokens + block.ls_1(attended)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def _spread(prompts: Tensor, tokens: Tensor) -> Tensor:
    """The same ``prompts`` for each row of ``tokens``, and where these are."""
    return prompts.to(tokens.device).unsqueeze(0).expand(len(tokens), -1, -1)


def _overwrite(tokens: Tensor, vectors: Tensor) -> Tensor:
    """``tokens`` with positions 1 to n replaced by ``vectors``, ``(n, width)`` or one set per row."""
    length = vectors.shape[-2]
    vectors = vectors.to(tokens.device) if vectors.dim() == 3 else _spread(vectors, tokens)
    return torch.cat([tokens[:, :1], vectors, tokens[:, 1 + length :]], dim=1)


def _refine_around(tokens: Tensor, length: int, refine: Edit) -> Tensor:
    """``refine`` applied to all tokens but those at positions 1 to ``length``."""
    kept = tokens[:, 1 : 1 + length]
    others = refine(torch.cat([tokens[:, :1], tokens[:, 1 + length :]], dim=1))
    return torch.cat([others[:, :1], kept, others[:, 1:]], dim=1)

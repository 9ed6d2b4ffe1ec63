"""CBA-FAPT (Feng et al., AAAI 2026): FAP's prompts, tuned so that attribution maps stay where they are under attack.

A map says how much each position of a tower's last attention supports the score of the true class: the cosine of query
and key (equation 6) times the score's gradient projected on the position's values (equations 7 and 8). Clean and
adversarial cross-entropy are joined by the L2 distance of clean and attacked image maps (equation 9) and by the KL
divergence of the text maps (equation 10). No official code exists; the maps follow Grad-ECLIP, which the paper builds
on, the rest follows FAP's code, and what the paper leaves open is an option. The score is differentiated a second time
only through what follows the attention (norms, MLP, projection), never through the attention kernel.
"""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.clip.defended import DefendedCLIP
from bench.clip.staged import StagedCLIP, Trace
from bench.defenses.adversarial import AttackOptions, Raised, attack_model
from bench.defenses.contract import Labelled, Pairs, Tensors, TunesOn
from bench.defenses.prompting import Layout, PromptOptions, Prompts, load_prompts, refuse_edited
from bench.defenses.tuning import tune

TUNES_ON: TunesOn = "labels"


class Options(AttackOptions, PromptOptions):
    """The paper's settings; batch size, weight decay and augmentation are FAP's (5 epochs for cross-dataset transfer).

    Attributes:
        natural: Weight of the clean cross-entropy (the paper's ablation starts without it).
        alpha: Weight of the adversarial cross-entropy.
        beta: Weight of the image maps' distance.
        gamma: Weight of the text maps' divergence.
        attack_loss: What the training attack raises.
        coupling: FAP's layout, or image to text in every layer (the paper writes P_t = h(P_v)).
        gradient_at: Differentiate at the heads' joined output, as equation 4 has it, or after the output projection.
        cosine: Of queries and keys over all heads joined, or the mean of each head's.
        text_positions: Text maps over the words between start and end, or over these two as well.
        text_norm: What makes a distribution of a text map.
        text_scale: Factor on text maps before the softmax; maps of unscaled cosines are about 0.001 (100: of logits).
        detach_clean: Treat the clean maps as constants.
    """

    learning_rate: float = Field(default=0.0035, gt=0)
    epochs: int = Field(default=10, gt=0)
    batch_size: int = Field(default=4, gt=0)
    augment: bool = False
    natural: float = Field(default=1.0, ge=0)
    alpha: float = Field(default=5.0, ge=0)
    beta: float = Field(default=0.05, ge=0)
    gamma: float = Field(default=0.03, ge=0)
    attack_loss: Raised = "ce"
    coupling: Literal["fap", "image_to_text"] = "fap"
    gradient_at: Literal["heads", "projection"] = "heads"
    cosine: Literal["joined", "per_head"] = "joined"
    text_positions: Literal["words", "all"] = "words"
    text_norm: Literal["softmax", "relu"] = "softmax"
    text_scale: float = Field(default=1.0, gt=0)
    detach_clean: bool = False


def fit(victim: DefendedCLIP, data: Labelled | Pairs | None, options: Options) -> Tensors:
    """Tune prompts and projections; the keys are those of ``Prompts``."""
    assert isinstance(data, Labelled)
    refuse_edited(victim, "cba_fapt")
    prompts, task = Prompts(victim.staged, layout(options), data.task.template), data.task

    def loss(images: Tensor, labels: Tensor, epoch: int) -> Tensor:
        del epoch
        model, image_trace, text_trace = prompts.apply_to(victim), Trace(), Trace()
        texts = model.texts(task, text_trace)
        attacked = attack_model(model, images, labels, texts, options, options.attack_loss)
        clean, adversarial = model.logits(torch.cat([images, attacked]), texts, image_trace).chunk(2)
        total = options.natural * functional.cross_entropy(clean, labels)
        total = total + options.alpha * functional.cross_entropy(adversarial, labels)
        if options.beta or options.gamma:
            visual, textual = alignment(model.staged, image_trace, text_trace, texts, labels.repeat(2), options)
            total = total + options.beta * visual + options.gamma * textual
        return total

    tune(list(prompts.parameters()), data, loss, options, "cba_fapt")
    return prompts.tensors()


def load(tensors: Tensors, victim: DefendedCLIP, options: Options) -> DefendedCLIP:
    """The victim with the prompts, for any class list; attribution is for tuning only."""
    return load_prompts(tensors, victim, layout(options), "cba_fapt")


def layout(options: Options) -> Layout:
    """FAP's prompts, or all from image to text."""
    return Layout(options.coupling, options.length, options.depth)


def alignment(
    staged: StagedCLIP, images: Trace, sentences: Trace, texts: Tensor, labels: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """Distance of image maps and divergence of text maps between clean and attacked images.

    Args:
        staged: The model.
        images: Pass of ``2 n`` images, clean ones first, with gradients.
        sentences: Pass of the class prompts, with gradients.
        texts: Normalised text embeddings ``(classes, d)``.
        labels: True classes ``(2 n,)``.
        options: Switches.
    """
    visual, embedded = image_maps(staged, images, texts[labels], options)
    textual, shown = text_maps(staged, sentences, embedded, labels, options)
    distributions = log_distributions(textual, shown, options)
    (clean, attacked), (clean_text, attacked_text) = visual.chunk(2), distributions.chunk(2)
    if options.detach_clean:
        clean, clean_text = clean.detach(), clean_text.detach()
    distance = torch.linalg.vector_norm(clean - attacked, dim=-1).mean()
    return distance, functional.kl_div(attacked_text, clean_text, reduction="batchmean", log_target=True)


def image_maps(staged: StagedCLIP, trace: Trace, texts: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Attribution ``(n, patches)`` of the cosine with each image's text; prompt tokens have no place in it.

    Returns:
        The maps, and the image embeddings ``(n, d)``.
    """
    entered, attention = _last(trace)
    block, attended, patches = staged.image_blocks[-1], attention[:, 0], slice(1, 1 + staged.patches)
    embedded = staged.image_tail(entered[:, 0], attended)
    gradient = channel_weights(functional.cosine_similarity(embedded, texts, dim=-1), attended, block, options)
    inner = staged.query_key_value(block, entered)
    weights = cosines(inner.query[:, 0], inner.key[:, patches], block, options)
    return attribution(weights, inner.value[:, patches], gradient), embedded


def text_maps(
    staged: StagedCLIP, trace: Trace, embedded: Tensor, labels: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """Attribution ``(n, positions)`` of the cosine of each image with the text of its class, seen from the end token.

    The class's tokens are gathered for each image before the score is differentiated: images of one class share their
    text, and their gradients would add up otherwise.

    Returns:
        The maps, and a mask of the positions that count.
    """
    entered, attention = _last(trace)
    assert trace.ends is not None
    ends, rows = trace.ends[labels], torch.arange(len(labels), device=labels.device)
    block, tokens, attended = staged.text_blocks[-1], entered[labels], attention[labels][rows, ends]
    written = staged.text_tail(tokens[rows, ends], attended)
    gradient = channel_weights(functional.cosine_similarity(embedded, written, dim=-1), attended, block, options)
    inner = staged.query_key_value(block, tokens)
    maps = attribution(cosines(inner.query[rows, ends], inner.key, block, options), inner.value, gradient)
    places = torch.arange(tokens.shape[1], device=labels.device)
    if options.text_positions == "all":
        return maps, places <= ends[:, None]
    return maps, (places >= 1) & (places < ends[:, None])


def attribution(weights: Tensor, values: Tensor, gradient: Tensor) -> Tensor:
    """Equation 8: weights ``(n, tokens)`` times values ``(n, tokens, c)`` projected on gradients ``(n, c)``."""
    return weights * (values @ gradient.unsqueeze(-1)).squeeze(-1)


def cosines(query: Tensor, keys: Tensor, block: Any, options: Options) -> Tensor:
    """Equation 6: cosine of a query ``(n, c)`` with each key ``(n, tokens, c)``."""
    parts = block.attn.num_heads if options.cosine == "per_head" else 1
    query, keys = query.unsqueeze(1).unflatten(-1, (parts, -1)), keys.unflatten(-1, (parts, -1))
    return functional.cosine_similarity(query, keys, dim=-1).mean(dim=-1)


def log_distributions(maps: Tensor, shown: Tensor, options: Options) -> Tensor:
    """Log-probabilities over the positions ``shown``; the others have none, to within rounding."""
    if options.text_norm == "softmax":
        return functional.log_softmax((options.text_scale * maps).masked_fill(~shown, -1e9), dim=-1)
    # A little everywhere keeps the logarithm of positions without support finite.
    support = functional.relu(maps) * shown + 1e-8
    return (support / support.sum(dim=-1, keepdim=True)).log()


def channel_weights(scores: Tensor, attended: Tensor, block: Any, options: Options) -> Tensor:
    """Equation 7: gradient ``(n, c)`` of each image's score at what its attention put out, itself differentiable."""
    (gradient,) = torch.autograd.grad(scores.sum(), attended, create_graph=True)
    # The output projection is linear, so that this is the gradient at its input.
    return gradient @ block.attn.out_proj.weight if options.gradient_at == "heads" else gradient


def _last(trace: Trace) -> tuple[Tensor, Tensor]:
    assert trace.last_input is not None
    assert trace.last_attention is not None
    return trace.last_input, trace.last_attention

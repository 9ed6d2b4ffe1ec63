import pytest
import torch
from torch.nn import functional

from bench.clip.defended import placeholders
from bench.clip.model import build, normalise
from bench.clip.staged import ImageEdits, StagedCLIP, TextEdits, Trace
from bench.defenses.nap_tuning import Options, Refiner

pytestmark = pytest.mark.usefixtures("seeded", "exact")

SENTENCES = ["a photo of a red circle.", "a blue star on a plain background."]


def images_for(staged, count=2):
    size = staged.clip.image_size
    return torch.rand(count, 3, size, size)


def layers(blocks):
    return range(1, len(blocks) + 1)


def inputs_of(module, run):
    """What enters ``module`` at each of its calls while ``run`` is executed."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        run()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize(("architecture", "count"), [("mini", 3), ("ViT-B-32", 2), ("ViT-B-16", 1), ("ViT-L-14", 1)])
def test_without_edits_both_towers_equal_open_clip_bit_for_bit(architecture, count, request):
    shared = {"mini": "mini", "ViT-B-32": "vit_b_32"}
    named = architecture in shared
    staged = request.getfixturevalue(shared[architecture]) if named else StagedCLIP(build(architecture))
    images, ids = images_for(staged, count), staged.clip.tokenize(SENTENCES[:count])
    with torch.no_grad():
        assert torch.equal(staged.image(images), staged.clip.model.encode_image(normalise(staged.clip, images)))
        assert torch.equal(staged.text(ids), staged.clip.model.encode_text(ids))


def test_equality_holds_while_gradients_are_recorded(mini):
    images = images_for(mini).requires_grad_()
    assert torch.equal(mini.image(images), mini.clip.model.encode_image(normalise(mini.clip, images)))


def test_features_are_normalised_text_embeddings(mini):
    expected = functional.normalize(mini.clip.model.encode_text(mini.clip.tokenize(SENTENCES)), dim=-1)
    assert torch.equal(mini.features_of(SENTENCES), expected)


def test_the_state_dict_keeps_its_keys():
    clip = build("mini")
    before = list(clip.model.state_dict())
    staged = StagedCLIP(clip)
    staged.image(images_for(staged), ImageEdits(prompts={2: torch.randn(3, staged.image_width)}), Trace())
    staged.text(clip.tokenize(SENTENCES), TextEdits(prompts={2: torch.randn(3, staged.text_width)}))
    assert list(clip.model.state_dict()) == before


# Edits that change nothing.


def test_prompts_of_length_zero_change_nothing(mini):
    images, ids = images_for(mini), mini.clip.tokenize(SENTENCES)
    none_image, none_text = torch.empty(0, mini.image_width), torch.empty(0, mini.text_width)
    image_edits = ImageEdits(shallow=none_image, prompts=dict.fromkeys(layers(mini.image_blocks), none_image))
    text_edits = TextEdits(context=none_text, prompts=dict.fromkeys(layers(mini.text_blocks), none_text))
    assert torch.equal(mini.image(images, image_edits), mini.image(images))
    assert torch.equal(mini.text(ids, text_edits), mini.text(ids))


def test_zero_refiners_change_nothing(mini):
    images, ids = images_for(mini), mini.clip.tokenize(SENTENCES)
    zero = Options(zero_init=True)
    image_edits = ImageEdits(refine={layer: Refiner(mini.image_width, zero) for layer in layers(mini.image_blocks)})
    text_edits = TextEdits(refine={layer: Refiner(mini.text_width, zero) for layer in layers(mini.text_blocks)})
    assert torch.equal(mini.image(images, image_edits), mini.image(images))
    assert torch.equal(mini.text(ids, text_edits), mini.text(ids))


def test_attention_handed_on_as_it_is_changes_nothing(mini):
    images = images_for(mini)
    edits = ImageEdits(attention={layer: lambda output: output for layer in layers(mini.image_blocks)})
    assert torch.equal(mini.image(images, edits), mini.image(images))


@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_context_made_of_the_words_own_embeddings_gives_the_templates_features(name, request):
    staged = request.getfixturevalue(name)
    words, classes = "a photo of a", ["circle", "star"]
    ids = staged.clip.tokenize([f"{words} {classes[0]}."])
    context = staged.clip.model.token_embedding(ids)[0, 1 : 1 + len(words.split())]
    edited = staged.features_of([placeholders(len(context)).format(c) for c in classes], TextEdits(context=context))
    assert torch.equal(edited, staged.features_of([f"{words} {c}." for c in classes]))


def test_pixels_handed_on_as_they_are_change_nothing(mini):
    images, edits = images_for(mini), ImageEdits(pixels=lambda normalised: normalised)
    assert torch.equal(mini.image(images, edits), mini.image(images))


def test_notes_change_nothing(mini):
    images, ids = images_for(mini), mini.clip.tokenize(SENTENCES)
    assert torch.equal(mini.image(images, trace=Trace(every_token=True)), mini.image(images))
    assert torch.equal(mini.text(ids, trace=Trace(every_token=True)), mini.text(ids))


# Image prompts.


def test_pixels_are_changed_after_normalisation_and_before_the_first_layer(mini):
    images, seen = images_for(mini), []
    edits = ImageEdits(pixels=lambda normalised: seen.append(normalised) or normalised + 1)
    (entered,) = inputs_of(mini.visual.conv1, lambda: mini.image(images, edits))
    assert torch.equal(seen[0], normalise(mini.clip, images))
    assert torch.equal(entered, seen[0] + 1)


def test_shallow_prompts_enter_before_the_first_norm_and_without_positions(mini):
    images, prompts = images_for(mini), torch.randn(4, mini.image_width)
    tokens = mini.image_tokens(images, prompts)
    own = 1 + mini.patches
    assert tokens.shape[1] == own + 4
    assert torch.equal(tokens[:, :own], mini.image_tokens(images))
    for row in tokens[:, own:]:
        torch.testing.assert_close(row, mini.clip.model.visual.ln_pre(prompts))
    assert not torch.allclose(tokens[0, own:], prompts)


def test_deep_prompts_are_replaced_and_not_accumulated(mini):
    prompts = {layer: torch.randn(length, mini.image_width) for layer, length in ((2, 5), (3, 5), (5, 2))}
    edits, trace = ImageEdits(shallow=torch.randn(3, mini.image_width), prompts=prompts), Trace(every_token=True)
    mini.image(images_for(mini), edits, trace)
    own = 1 + mini.patches
    assert [tokens.shape[1] - own for tokens in trace.tokens] == [3, 5, 5, 5, 2, 2]


def test_deep_prompts_enter_their_layer_as_they_are(mini):
    prompts = {layer: torch.randn(3, mini.image_width) for layer in layers(mini.image_blocks)}
    edits, images, own = ImageEdits(prompts=prompts), images_for(mini), 1 + mini.patches
    for layer, block in enumerate(mini.image_blocks, start=1):
        (entered,) = inputs_of(block.ln_1, lambda: mini.image(images, edits))
        assert torch.equal(entered[:, own:], prompts[layer].expand(len(images), -1, -1))


def test_the_order_of_prompts_within_a_layer_does_not_matter(mini):
    images, prompts = images_for(mini), {layer: torch.randn(6, mini.image_width) for layer in (1, 3, 6)}
    shuffled = {layer: rows[torch.randperm(6)] for layer, rows in prompts.items()}
    straight = mini.image(images, ImageEdits(prompts=prompts))
    assert (straight - mini.image(images, ImageEdits(prompts=shuffled))).abs().max() < 1e-5
    assert (straight - mini.image(images)).abs().max() > 1e-2


def test_gradients_reach_every_prompt(mini):
    def prompt(width):
        return torch.randn(3, width).requires_grad_()

    image_edits = ImageEdits(
        shallow=prompt(mini.image_width),
        prompts={layer: prompt(mini.image_width) for layer in layers(mini.image_blocks)[1:]},
    )
    text_edits = TextEdits(
        context=prompt(mini.text_width),
        prompts={layer: prompt(mini.text_width) for layer in layers(mini.text_blocks)[1:]},
    )
    embedded = mini.image(images_for(mini), image_edits)
    texts = mini.text(mini.clip.tokenize([placeholders(3).format("circle")]), text_edits)
    (embedded @ texts.T).sum().backward()
    tuned = [image_edits.shallow, *image_edits.prompts.values(), text_edits.context, *text_edits.prompts.values()]
    assert len(tuned) == len(mini.image_blocks) + len(mini.text_blocks)
    for tensor in tuned:
        assert (tensor.grad.abs().sum(dim=1) > 0).all()


def test_image_refiners_see_the_images_own_tokens_only(mini):
    seen = []
    edits = ImageEdits(
        prompts={layer: torch.randn(4, mini.image_width) for layer in (1, 2)},
        refine={2: lambda tokens: seen.append(tokens.shape[1]) or tokens},
    )
    mini.image(images_for(mini), edits)
    assert seen == [1 + mini.patches]


def test_the_second_half_of_the_tower_continues_where_the_first_stopped(mini):
    images, trace = images_for(mini), Trace(every_token=True)
    whole = mini.image(images, trace=trace)
    assert torch.equal(mini.image_from(trace.tokens[2], 4, ImageEdits()), whole)


# What a pass notes down.


def test_the_trace_holds_what_open_clips_own_blocks_put_out(mini):
    images, outputs = images_for(mini), []
    handles = [block.register_forward_hook(lambda *call: outputs.append(call[2])) for block in mini.image_blocks]
    mini.clip.model.encode_image(normalise(mini.clip, images))
    for handle in handles:
        handle.remove()
    trace = Trace(every_token=True)
    mini.image(images, trace=trace)
    assert len(outputs) == len(trace.tokens) == len(trace.class_tokens) == len(mini.image_blocks)
    for output, tokens, class_token in zip(outputs, trace.tokens, trace.class_tokens, strict=True):
        assert torch.equal(tokens, output)
        assert torch.equal(class_token, output[:, 0])
    assert torch.equal(trace.last_input, outputs[-2])
    assert torch.equal(trace.first_input, mini.image_tokens(images))


@pytest.mark.parametrize("end", ["first", "last"])
@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_query_key_and_value_reproduce_the_attention_output(name, end, request):
    staged, trace = request.getfixturevalue(name), Trace()
    staged.image(images_for(staged), trace=trace)
    block, entering, noted = {
        "first": (staged.image_blocks[0], trace.first_input, trace.first_attention),
        "last": (staged.image_blocks[-1], trace.last_input, trace.last_attention),
    }[end]
    heads = block.attn.num_heads
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in staged.query_key_value(block, entering)
    )
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    attended = block.attn.out_proj((weights @ value).transpose(1, 2).flatten(2))
    assert (attended - noted).abs().max() < 1e-5


def test_the_trace_of_a_text_pass_holds_what_open_clips_own_blocks_put_out(mini):
    ids, outputs = mini.clip.tokenize(SENTENCES), []
    handles = [block.register_forward_hook(lambda *call: outputs.append(call[2])) for block in mini.text_blocks]
    mini.clip.model.encode_text(ids)
    for handle in handles:
        handle.remove()
    trace = Trace(every_token=True)
    mini.text(ids, trace=trace)
    assert all(torch.equal(noted, output) for noted, output in zip(trace.tokens, outputs, strict=True))
    assert torch.equal(trace.last_input, outputs[-2])
    assert torch.equal(ids[torch.arange(2), trace.ends], ids.amax(dim=1))


@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_query_key_and_value_reproduce_the_text_towers_attention_output(name, request):
    staged, trace = request.getfixturevalue(name), Trace()
    staged.text(staged.clip.tokenize(SENTENCES), trace=trace)
    block = staged.text_blocks[-1]
    heads = block.attn.num_heads
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in staged.query_key_value(block, trace.last_input)
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + staged.clip.model.attn_mask
    attended = block.attn.out_proj((scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2))
    assert (attended - trace.last_attention).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_the_tails_finish_what_the_last_attention_began(name, request):
    staged, image, text = request.getfixturevalue(name), Trace(), Trace()
    images, ids = images_for(staged), staged.clip.tokenize(SENTENCES)
    embedded, written = staged.image(images, trace=image), staged.text(ids, trace=text)
    tail = staged.image_tail(image.last_input[:, 0], image.last_attention[:, 0])
    torch.testing.assert_close(tail, embedded, atol=1e-5, rtol=1e-4)
    ends = (torch.arange(2), text.ends)
    tail = staged.text_tail(text.last_input[ends], text.last_attention[ends])
    torch.testing.assert_close(tail, written, atol=1e-5, rtol=1e-4)


# Text prompts.


@pytest.mark.parametrize("name", ["mini", "vit_b_32"])
def test_word_vectors_are_the_words_embeddings_without_start_and_end(name, request):
    staged = request.getfixturevalue(name)
    (ids,) = staged.clip.tokenize(["a photo of"])
    assert torch.equal(staged.word_vectors("a photo of"), staged.clip.model.token_embedding(ids[1:4]))
    assert staged.word_vectors("").shape == (0, staged.text_width)


def test_each_class_may_have_its_own_context(mini):
    own, sentences = torch.randn(2, 3, mini.text_width), [placeholders(3).format(name) for name in ("circle", "star")]
    together = mini.features_of(sentences, TextEdits(context=own))
    for row in range(2):
        alone = mini.features_of([sentences[row]], TextEdits(context=own[row]))
        torch.testing.assert_close(together[row], alone[0])


def test_the_placeholders_own_embedding_does_not_matter_under_a_context(mini):
    edits = TextEdits(context=torch.randn(2, mini.text_width))
    assert torch.equal(mini.features_of(["x x star."], edits), mini.features_of(["red red star."], edits))


def test_deep_text_prompts_overwrite_their_positions_only(mini):
    ids, prompts = mini.clip.tokenize(SENTENCES), torch.randn(3, mini.text_width)
    norm = mini.text_blocks[1].ln_1
    (plain,) = inputs_of(norm, lambda: mini.text(ids))
    (edited,) = inputs_of(norm, lambda: mini.text(ids, TextEdits(prompts={2: prompts})))
    assert torch.equal(edited[:, 1:4], prompts.expand(len(ids), -1, -1))
    assert torch.equal(edited[:, :1], plain[:, :1])
    assert torch.equal(edited[:, 4:], plain[:, 4:])


def test_text_refiners_leave_the_positions_of_the_context_alone(mini):
    context, seen = torch.randn(3, mini.text_width), []
    ids = mini.clip.tokenize([placeholders(3).format("star")])
    norm = mini.text_blocks[1].ln_1

    def refine(tokens):
        seen.append(tokens.shape[1])
        return tokens + 1

    (plain,) = inputs_of(norm, lambda: mini.text(ids, TextEdits(context=context)))
    (refined,) = inputs_of(norm, lambda: mini.text(ids, TextEdits(context=context, refine={2: refine})))
    assert seen == [ids.shape[1] - 3]
    assert torch.equal(refined[:, 1:4], plain[:, 1:4])
    assert torch.equal(refined[:, :1], plain[:, :1] + 1)
    assert torch.equal(refined[:, 4:], plain[:, 4:] + 1)

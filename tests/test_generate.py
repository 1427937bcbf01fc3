"""Generation: cached equals uncached, and samples have the model's distribution."""
import pytest
import torch

from afm_min import lora
from afm_min.generate import (Cache, Decoder, generate, generate_with_logp, prefill, sample,
                              stream)
from afm_min.model import AFM
from afm_min.quantize import quantize_model
from afm_min.run import UserError
from tests.test_model import SMALL, make

PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5, 8]]


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
def test_a_sequence_decoded_token_by_token_has_the_same_logits(dtype, atol):
    model, ids = make(dtype=dtype), torch.randint(50, (2, 12))
    decoder = Decoder(model)
    cache = Cache(decoder, rows=2, size=12)
    with torch.no_grad():
        logits = [decoder.logits(decoder(token, cache)) for token in ids.split(1, 1)]
        torch.testing.assert_close(torch.cat(logits, 1), model(ids), atol=atol, rtol=1e-4)
    assert cache.position == 12


@pytest.mark.parametrize("pieces", [[12], [5, 7], [1, 3, 8]])
def test_a_sequence_decoded_in_pieces_has_the_same_states(pieces):
    model, ids = make(), torch.randint(50, (2, 12))
    decoder = Decoder(model)
    cache = Cache(decoder, rows=2, size=12)
    with torch.no_grad():
        states = torch.cat([decoder(piece, cache) for piece in ids.split(pieces, 1)], 1)
        torch.testing.assert_close(states, model.hidden_states(ids), atol=1e-5, rtol=1e-4)


def test_the_bias_masks_padding_and_later_tokens():
    cache = Cache(Decoder(make()), rows=2, size=4, padding=torch.tensor([0, 1]))
    cache.position = 1
    assert (cache.bias(2) < 0).squeeze().tolist() == [
        [[False, False, True], [False, False, False]],
        [[True, False, True], [True, False, False]]]
    cache.select([1])
    assert (cache.bias(1) < 0).squeeze().tolist() == [True, False]


def test_the_states_after_a_padded_prefill_are_those_of_each_prompt_alone():
    model, ids = make(), torch.randint(50, (3, 8)).tolist()
    prompts = [ids[0], ids[1][3:], ids[2][6:]]
    decoder = Decoder(model)
    with torch.no_grad():
        cache, last = prefill(decoder, prompts, max_new_tokens=1)
        states = decoder(last[:, None], cache)
        for row, prompt in enumerate(prompts):
            alone = model.hidden_states(torch.tensor([prompt]))[0, -1]
            torch.testing.assert_close(states[row, -1], alone, atol=1e-5, rtol=1e-4)


def test_a_prefill_computes_equal_prompts_once(monkeypatch):
    rows = []
    call = Decoder.__call__
    monkeypatch.setattr(Decoder, "__call__", lambda self, ids, cache, fill=False: (
        rows.append(len(ids)), call(self, ids, cache, fill))[1])
    cache, last = prefill(Decoder(make()), [[1, 2], [3, 4], [1, 2]], max_new_tokens=5)
    assert rows == [2]
    assert last.tolist() == [2, 4, 2]
    assert cache.keys.shape[1] == 3
    assert torch.equal(cache.keys[:, 0, :, :1], cache.keys[:, 2, :, :1])


@pytest.mark.parametrize("packed", [False, True])
def test_a_decoder_computes_adapters_and_packed_weights_as_the_model_does(packed):
    model = make()
    if packed:
        model = quantize_model(model, dict.fromkeys(lora.projections(model), 4))
    adapter = lora.create(model, rank=4)
    for module in adapter.modules.values():
        module.B.data.normal_(std=0.3)
    before = model(torch.tensor([[1, 2, 3]]))
    lora.attach(model, adapter)
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        decoder = Decoder(model)
        states = decoder(ids[:, :1], Cache(decoder, rows=2, size=9))
        torch.testing.assert_close(states, model.hidden_states(ids[:, :1]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(decoder.logits(states), model(ids[:, :1]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, model(torch.tensor([[1, 2, 3]])), atol=0.01)


def test_log_probabilities_equal_those_of_a_forward_pass():
    model, stop = make(), 7
    rows = generate_with_logp(model, PROMPTS * 20, 12, stop)
    assert len({len(ids) for ids, _ in rows}) > 1
    for prompt, (ids, logp) in zip(PROMPTS * 20, rows):
        log_p = model(torch.tensor([prompt + ids[:-1]]))[0].log_softmax(-1)[-len(ids):]
        assert logp == pytest.approx(log_p[range(len(ids)), ids].sum().item(), abs=1e-4)


def test_greedy_ids_have_probability_1():
    assert {logp for _, logp in generate_with_logp(make(), PROMPTS, 5, temperature=0)} == {0.0}


@pytest.fixture
def lively():
    """A model whose greedy ids vary. At the usual scale, random weights repeat the last token, as
    the embedding is tied."""
    model = make()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter *= 8
    return model


@torch.no_grad()
def generate_uncached(model, prompt, count):
    """Return `count` greedy ids, each from a forward pass over all ids before it."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt):]


def test_cached_generation_equals_uncached(lively):
    cached = generate(lively, PROMPTS, 30, temperature=0)
    assert cached == [generate_uncached(lively, prompt, 30) for prompt in PROMPTS]
    assert [len(row) for row in cached] == [30] * 3
    assert all(len(set(row)) > 8 for row in cached)


def test_a_padded_row_generates_as_it_does_alone(lively):
    together = generate(lively, PROMPTS, 20, temperature=0)
    assert together == [generate(lively, [prompt], 20, temperature=0)[0] for prompt in PROMPTS]


def test_generation_ends_when_the_context_is_full(lively):
    rows = generate(lively, PROMPTS, 100, temperature=0)
    assert [len(row) for row in rows] == [40 - 7] * 3


def test_a_row_ends_with_the_stop_id(lively):
    rows = generate(lively, PROMPTS, 100, temperature=0)
    stop = rows[0][4]
    stopped = generate(lively, PROMPTS, 100, stop=stop, temperature=0)
    for row, whole in zip(stopped, rows):
        assert row == whole[:whole.index(stop) + 1 if stop in whole else None]


def test_finished_rows_repeat_stop_and_are_dropped_once_half_have_finished(lively, monkeypatch):
    """Of 4 rows, one each stops at steps 1, 3, 6 and 8. So 4 rows are computed in the first three
    steps, 2 in the next three, and 1 in the last two."""
    stops, step, computed = [3, 1, 8, 6], 0, []  # stops: the step at which each row stops

    def scripted_sample(logits, *_):
        nonlocal step
        step += 1
        computed.append(len(logits))
        rows = [row for row in range(4)
                if len(logits) == 4 or stops[row] > {2: 3, 1: 6}[len(logits)]]
        return (torch.tensor([49 if step == stops[row] else 10 * row + step for row in rows]),
                torch.zeros(len(rows)))
    monkeypatch.setattr("afm_min.generate.sample", scripted_sample)
    steps = stream(lively, [[1], [2], [3], [4]], 20, stop=49)
    ids = torch.stack([ids for ids, _ in steps], 1).tolist()
    assert computed == [4, 4, 4, 2, 2, 2, 1, 1]
    assert ids == [[1, 2] + [49] * 6, [49] * 8, [21, 22, 23, 24, 25, 26, 27, 49],
                   [31, 32, 33, 34, 35] + [49] * 3]


def test_empty_and_too_long_prompts_are_refused():
    for prompts, tokens in (([[]], 0), ([[1], []], 0), ([[1] * 40], 40)):
        with pytest.raises(UserError, match=f"a prompt has {tokens} tokens: it must have 1 to 39"):
            generate(make(), prompts, 1)


@pytest.mark.parametrize("options, expected", [
    ({}, (0.5, 0.3, 0.2)),
    ({"temperature": 0.5}, (25 / 38, 9 / 38, 4 / 38)),  # as the squares: 25 : 9 : 4
    ({"top_p": 0.6}, (5 / 8, 3 / 8, 0)),  # two ids are kept
    ({"top_p": 0.5}, (1, 0, 0)),
    ({"temperature": 0}, (1, 0, 0))])
def test_sampling_frequencies(options, expected):
    # p = (0.5, 0.3, 0.2). A frequency of 20,000 samples has a standard deviation of at most
    # 0.0036. The odds of a deviation above 0.018, five times as much, are below 1e-5.
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    ids, logp = sample(logits, uniforms, **options)
    assert logp.exp().tolist() == pytest.approx([expected[i] for i in ids], abs=1e-5)
    assert (ids.bincount(minlength=3) / 20_000).tolist() == pytest.approx(expected, abs=0.018)


def test_a_decoder_does_not_change_with_its_model():
    model, ids = make(), torch.tensor([[3], [4]])
    decoder = Decoder(model)
    with torch.no_grad():
        before = decoder.logits(decoder(ids, Cache(decoder, rows=2, size=1)))
        for parameter in model.parameters():
            parameter.zero_()
        after = decoder.logits(decoder(ids, Cache(decoder, rows=2, size=1)))
    assert torch.equal(after, before)


def test_no_new_tokens():
    assert generate(Decoder(make()), [[3], [4]], 0) == [[], []]
    assert generate_with_logp(Decoder(make()), [[3], [4]], 0) == [([], 0.0), ([], 0.0)]
    with pytest.raises(UserError, match="max_new_tokens=-1: give 0 or more"):
        generate(make(), [[3]], -1)


@pytest.mark.parametrize("max_new_tokens", [0, 5])
def test_no_prompts(max_new_tokens):
    assert generate(make(), [], max_new_tokens) == []
    assert generate_with_logp(make(), [], max_new_tokens) == []
    assert list(stream(make(), [], max_new_tokens)) == []


@pytest.mark.parametrize("temperature", [0, 0.7, 1])
@pytest.mark.parametrize("row", [
    [torch.nan, 0, 0], [0, torch.inf, 0], [torch.nan] * 3, [-torch.inf] * 3])
def test_sampling_from_logits_that_are_not_finite_is_refused(row, temperature):
    """One such row among others, which may have ids of probability 0, is enough."""
    logits = torch.tensor([[0, -torch.inf, 1], row])
    with pytest.raises(UserError, match="logits are not finite numbers: train it again"):
        sample(logits, torch.tensor([0.0, 0.9]), temperature)
    ids, _ = sample(logits[:1], torch.tensor([0.999]), temperature)
    assert ids.tolist() == [2]


@pytest.mark.parametrize("uniform", [1.0, 1.5, -0.1, torch.nan])
def test_a_uniform_outside_0_to_1_is_refused(uniform):
    """At 1, the id found would be beyond the last one. Just below 1, the last one is chosen that
    has a probability above 0."""
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    with pytest.raises(UserError, match="not in \\[0, 1\\)"):
        sample(logits, torch.tensor([uniform]))
    for last in (1 - 2 ** -24, 1 - 2 ** -23):
        ids, logp = sample(logits.repeat(1, 50), torch.tensor([last]), top_p=0.99)
        assert logp.isfinite().all()


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"temperature": torch.nan},
                                     {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": torch.nan}])
def test_a_temperature_or_top_p_out_of_range_is_refused(options):
    with pytest.raises(UserError, match="give a temperature of 0 or more, and a top_p above 0"):
        sample(torch.zeros(1, 3), torch.tensor([0.5]), **options)


def test_each_token_is_chosen_by_its_own_uniform():
    """Uniforms near 1 choose among the last ids, and 0 the first. Other rows do not matter."""
    torch.manual_seed(0)
    model = AFM(SMALL).eval()
    uniforms = torch.tensor([[0.9999, 0.0, 0.9999, 0.0], [0.3, 0.6, 0.1, 0.9]])
    prompts = [[1, 2, 3], [4]]
    together = generate(model, prompts, 4, uniforms=uniforms)
    assert together[0][1] == together[0][3] == 0
    assert min(together[0][0], together[0][2]) > SMALL.vocab_size // 2
    alone = [generate(model, [prompt], 4, uniforms=row[None])[0]
             for prompt, row in zip(prompts, uniforms)]
    assert alone == together

"""Generation: what is cached equals what is not, and what is drawn has the model's distribution."""
import pytest
import torch

from afm_min import lora
from afm_min.generate import (Cache, Decoder, generate, generate_with_logp, padding_bias, prefill,
                              sample, stream)
from afm_min.model import AFM
from afm_min.quantize import quantized
from afm_min.run import UserError
from tests.test_model import SMALL, make

PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6], [5, 3, 5, 8]]


@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.bfloat16, 0.2)])
def test_a_sequence_decoded_token_by_token_gives_the_same_logits(dtype, atol):
    model, ids = make(dtype=dtype), torch.randint(50, (2, 12))
    decoder = Decoder(model)
    cache = Cache(decoder, 2, 12)
    with torch.no_grad():
        pieces = [decoder.logits(decoder(part, cache)) for part in ids.split(1, 1)]
        torch.testing.assert_close(torch.cat(pieces, 1), model(ids), atol=atol, rtol=1e-4)
    assert cache.position == 12


def test_prompts_of_any_length_are_filled_in_at_once():
    """The states after a prefill are those of each prompt alone."""
    model, ids = make(), torch.randint(50, (3, 8))
    padding = torch.tensor([0, 3, 6])
    decoder = Decoder(model)
    cache = Cache(decoder, 3, 9)
    with torch.no_grad():
        prefill(decoder, ids[:, :-1], cache, padding)
        states = decoder(ids[:, -1:], cache, padding_bias(padding, 8, torch.float32))
        for row, left in enumerate(padding.tolist()):
            alone = model.states(ids[row:row + 1, left:])[0, -1]
            torch.testing.assert_close(states[row, -1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
def test_adapters_and_packed_weights_are_decoded_as_they_compute(packed):
    model = make()
    if packed:
        model = quantized(model, dict.fromkeys(lora.projections(model), 4))
    adapter = lora.create(model, 4)
    for term in adapter.terms.values():
        term.up.data.normal_(std=0.3)
    before = model(torch.tensor([[1, 2, 3]]))
    lora.attach(model, adapter)
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        decoder = Decoder(model)
        states = decoder(ids[:, :1], Cache(decoder, 2, 9))
        torch.testing.assert_close(states, model.states(ids[:, :1]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(decoder.logits(states), model(ids[:, :1]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, model(torch.tensor([[1, 2, 3]])), atol=0.01)


def test_log_probabilities_are_those_of_the_model():
    """Of rows of different lengths, at temperature 1: the sum that a forward pass gives. At
    temperature 0 the drawn id is certain."""
    model, stop = make(), 7
    rows = generate_with_logp(model, PROMPTS * 20, 12, stop)
    assert len({len(ids) for ids, _ in rows}) > 1
    for prompt, (ids, logp) in zip(PROMPTS * 20, rows):
        log_p = model(torch.tensor([prompt + ids[:-1]]))[0].log_softmax(-1)[-len(ids):]
        assert logp == pytest.approx(log_p[range(len(ids)), ids].sum().item(), abs=1e-4)
    assert {logp for _, logp in generate_with_logp(model, PROMPTS, 5, temperature=0)} == {0.0}


@pytest.fixture
def lively():
    """Random weights at their usual scale repeat the last token: the embedding is tied.
    These do not."""
    model = make()
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter *= 8
    return model


@torch.no_grad()
def uncached(model, prompt, count):
    """The likeliest next id, `count` times, all that stands before it computed anew each time."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt):]


def test_cached_generation_equals_uncached(lively):
    cached = generate(lively, PROMPTS, 30, temperature=0)
    assert cached == [uncached(lively, prompt, 30) for prompt in PROMPTS]
    assert [len(row) for row in cached] == [30] * 3
    assert all(len(set(row)) > 8 for row in cached)


def test_a_padded_row_generates_as_it_does_alone(lively):
    together = generate(lively, PROMPTS, 20, temperature=0)
    assert together == [generate(lively, [prompt], 20, temperature=0)[0] for prompt in PROMPTS]


def test_generation_stops(lively):
    rows = generate(lively, PROMPTS, 100, temperature=0)
    assert [len(row) for row in rows] == [40 - 7] * 3  # the context is full
    stop = rows[0][4]
    stopped = generate(lively, PROMPTS, 100, stop=stop, temperature=0)
    for row, whole in zip(stopped, rows):
        assert row == whole[:whole.index(stop) + 1 if stop in whole else None]  # the stop is kept


def test_rows_that_have_stopped_say_so_on_and_once_half_have_cost_nothing(lively, monkeypatch):
    """Of 4 rows, one each stops at steps 1, 3, 6 and 8: computed are 4 in three steps, 2 in three
    more, and 1 in the last two."""
    stops, step, computed = [3, 1, 8, 6], 0, []  # of each row

    def drawn(logits, *_):
        nonlocal step
        step += 1
        computed.append(len(logits))
        rows = [row for row in range(4)
                if len(logits) == 4 or stops[row] > {2: 3, 1: 6}[len(logits)]]
        return (torch.tensor([49 if step == stops[row] else 10 * row + step for row in rows]),
                torch.zeros(len(rows)))
    monkeypatch.setattr("afm_min.generate.sample", drawn)
    steps = stream(lively, [[1], [2], [3], [4]], 20, stop=49)
    said = torch.stack([ids for ids, _ in steps], 1).tolist()
    assert computed == [4, 4, 4, 2, 2, 2, 1, 1]
    assert said == [[1, 2] + [49] * 6, [49] * 8, [21, 22, 23, 24, 25, 26, 27, 49],
                    [31, 32, 33, 34, 35] + [49] * 3]


def test_generation_refuses_bad_prompts():
    for prompts, tokens in (([[]], 0), ([[1], []], 0), ([[1] * 40], 40)):
        with pytest.raises(UserError, match=f"a prompt has {tokens} tokens: it must have 1 to 39"):
            generate(make(), prompts, 1)


def test_sampling_frequencies():
    # p = (0.5, 0.3, 0.2). At temperature 1/2 they go as their squares: 25 : 9 : 4 of 38. top_p 0.6
    # keeps two, 5 : 3. A frequency of 20,000 draws has a standard deviation of at most 0.0036: odds
    # of a false alarm beyond 0.018, 5 of them, are below 1e-5.
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    for options, expected in (({}, (0.5, 0.3, 0.2)),
                              ({"temperature": 0.5}, (25 / 38, 9 / 38, 4 / 38)),
                              ({"top_p": 0.6}, (5 / 8, 3 / 8, 0)), ({"top_p": 0.5}, (1, 0, 0)),
                              ({"temperature": 0}, (1, 0, 0))):
        drawn, logp = sample(logits, uniforms, **options)
        assert logp.exp().tolist() == pytest.approx([expected[i] for i in drawn], abs=1e-5)
        assert (drawn.bincount(minlength=3) / 20_000).tolist() == pytest.approx(expected, abs=0.018)


def test_what_is_decoded_does_not_follow_the_model():
    model, ids = make(), torch.tensor([[3], [4]])
    decoder = Decoder(model)
    with torch.no_grad():
        before = decoder.logits(decoder(ids, Cache(decoder, 2, 1)))
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(decoder.logits(decoder(ids, Cache(decoder, 2, 1))), before)
    assert generate(decoder, [[3], [4]], 0) == [[], []]


def test_a_diverged_model_still_draws_ids():
    ids, _ = sample(torch.full((2, 5), torch.nan), torch.tensor([0.0, 0.9]))
    assert all(0 <= i < 5 for i in ids.tolist())


def test_each_token_takes_its_own_chance():
    """With chances near 1 and near 0 in turn a row says the last ids and the first;
    another row does not matter."""
    torch.manual_seed(0)
    model = AFM(SMALL).eval()
    uniforms = torch.tensor([[0.9999, 0.0, 0.9999, 0.0], [0.3, 0.6, 0.1, 0.9]])
    prompts = [[1, 2, 3], [4]]
    together = generate(model, prompts, 4, uniforms=uniforms)
    assert (together[0][1] == together[0][3] == 0
            and min(together[0][0], together[0][2]) > SMALL.vocab_size // 2)
    assert [generate(model, [p], 4, uniforms=c[None])[0]
            for p, c in zip(prompts, uniforms)] == together

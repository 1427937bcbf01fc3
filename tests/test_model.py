"""The transformer: sizes, formulas by hand, gradients, and packed rows."""
import dataclasses
import math

import pytest
import torch
import torch._dynamo

from afm_min import pretrain
from afm_min.model import (AFM, PRESETS, Config, RMSNormFunction, RotationFunction,
                           rotary_tables)
from afm_min.run import UserError
from afm_min.trainer import Z_LOSS, CrossEntropyFunction, token_losses

SMALL = Config(dim=12, layers=2, heads=6, kv_heads=2, head_dim=4, hidden=20, vocab_size=50,
               context=40)


def make(config=SMALL, seed=0, **options):
    """Return a model whose norm weights are random too, so that leaving one out is noticed."""
    torch.manual_seed(seed)
    model = AFM(config, **options)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def test_published_sizes():
    """The presets have the parameter counts of the report: 2.58B and 0.15B, and 6.4B for the
    parent."""
    with torch.device("meta"):
        sizes = {name: AFM(PRESETS[name]) for name in ("afm-on-device", "afm-parent")}
    billions = {name: sum(p.numel() for p in model.parameters()) / 1e9
                for name, model in sizes.items()}
    embedding = sizes["afm-on-device"].embedding.numel() / 1e9
    # Outside the embedding.
    assert math.floor(100 * (billions["afm-on-device"] - embedding)) == 258
    assert round(embedding, 2) == 0.15
    assert round(billions["afm-parent"], 1) == 6.4


def test_initial_weights():
    """The standard deviation is 1/sqrt(fan in) for the embedding, and 1/sqrt(3 fan in) for layers.
    Those that add to the residual stream have 1/sqrt(2 * 4) of that, as there are 4 layers."""
    torch.manual_seed(0)
    model = AFM(Config(dim=256, layers=4, heads=8, kv_heads=4, head_dim=16, hidden=300,
                       vocab_size=1000, context=8))
    assert model.embedding.std().item() == pytest.approx(1 / 16, rel=0.03)
    block = model.blocks[1]
    for layer, fan_in, divisor in [
            (block.attention.query, 256, 3), (block.attention.key, 256, 3),
            (block.attention.value, 256, 3), (block.attention.output, 128, 3 * 8),
            (block.feed_forward.gate, 256, 3), (block.feed_forward.up, 256, 3),
            (block.feed_forward.down, 300, 3 * 8)]:
        assert layer.weight.std().item() == pytest.approx((divisor * fan_in) ** -0.5, rel=0.03)


def reference(model, ids):
    """Compute the logits of one sequence with plain formulas, one head and position at a time."""
    c = model.config

    def norm(x, weight):
        return x / torch.sqrt((x * x).mean() + c.norm_eps) * weight

    def rotate(x, position):
        out = x.clone()
        for i in range(c.head_dim // 2):
            angle = torch.tensor(position * c.rope_base ** (-2 * i / c.head_dim))
            a, b = x[i], x[i + c.head_dim // 2]
            out[i] = a * angle.cos() - b * angle.sin()
            out[i + c.head_dim // 2] = b * angle.cos() + a * angle.sin()
        return out

    xs = [model.embedding[i] for i in ids]
    for block in model.blocks:
        a, f = block.attention, block.feed_forward
        hs = [norm(x, block.attention_norm.weight) for x in xs]

        def heads(linear, n, hs=hs):
            return [(linear.weight @ h).view(n, c.head_dim) for h in hs]
        queries, keys, values = (
            heads(a.query, c.heads), heads(a.key, c.kv_heads), heads(a.value, c.kv_heads))
        for t in range(len(ids)):
            mixed = []
            for h in range(c.heads):
                k = h // (c.heads // c.kv_heads)  # neighbouring query heads share a key head
                query = rotate(norm(queries[t][h], a.query_norm.weight), t)
                scores = torch.stack([query @ rotate(norm(keys[s][k], a.key_norm.weight), s)
                                      for s in range(t + 1)]) / math.sqrt(c.head_dim)
                mixed.append(sum(w * values[s][k] for s, w in enumerate(scores.softmax(0))))
            x = xs[t] + a.output.weight @ torch.cat(mixed)
            h = norm(x, block.feed_forward_norm.weight)
            gate = f.gate.weight @ h
            xs[t] = x + f.down.weight @ (gate * torch.sigmoid(gate) * (f.up.weight @ h))
    return torch.stack([model.embedding @ norm(x, model.norm.weight) for x in xs])


@pytest.mark.parametrize("heads, kv_heads", [(6, 2), (4, 4), (3, 1)])
def test_forward_equals_the_formulas(heads, kv_heads):
    """The batched forward pass equals `reference`, for different numbers of queries per key."""
    model = make(dataclasses.replace(SMALL, heads=heads, kv_heads=kv_heads, rope_base=100.0))
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        logits = model(ids)
        assert logits.shape == (2, 9, 50)
        for b in range(2):
            torch.testing.assert_close(logits[b], reference(model, ids[b]), atol=2e-5, rtol=1e-4)


def test_rotary_tables_by_hand():
    """With D = 4 and base 100 the frequencies are 1 and 1/10: position 2 has angles 2 and 0.2."""
    cos, sin = rotary_tables(3, 4, 100.0)
    assert cos[2].tolist() == pytest.approx([math.cos(2), math.cos(0.2)] * 2)
    assert sin[2].tolist() == pytest.approx(
        [-math.sin(2), -math.sin(0.2), math.sin(2), math.sin(0.2)])


def test_attention_is_causal():
    """Changing token 7 changes the logits from position 7 on, and none before it."""
    model, ids = make(), torch.randint(50, (1, 12))
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 50
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7], after[:, 7])


def plain_rms_norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 0.1) * weight


def plain_rotation(x):
    """Rotate the pairs (x_i, x_{i + 2}) by the angles of 3 positions."""
    angles = torch.outer(torch.arange(3.0), torch.tensor([1.0, 10 ** -0.5]))  # D = 4, base 10
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :2], x[..., 2:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def plain_cross_entropy(logits):
    """Return -log p and log Z for the targets 2 and 0."""
    return torch.stack((-logits.log_softmax(-1)[[0, 1], [2, 0]], logits.logsumexp(-1)))


@pytest.mark.parametrize("function, plain, shapes", [
    (lambda x, weight: RMSNormFunction.apply(x, weight, 0.1), plain_rms_norm, [(2, 3, 4), (4,)]),
    (lambda x: RotationFunction.apply(x, *rotary_tables(3, 4, 10.0).double()), plain_rotation,
     [(2, 3, 4)]),
    (lambda x: torch.stack(CrossEntropyFunction.apply(x, torch.tensor([2, 0]))),
     plain_cross_entropy, [(2, 5)]),
], ids=["RMSNorm", "Rotation", "CrossEntropy"])
def test_written_out_gradients_equal_autograd(function, plain, shapes):
    """Values and gradients equal those of the plain formula, and finite differences agree."""
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    plain_inputs = [x.detach().clone().requires_grad_() for x in inputs]
    y, expected = function(*inputs), plain(*plain_inputs)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected.backward(grad)
    for x, plain_x in zip(inputs, plain_inputs):
        torch.testing.assert_close(x.grad, plain_x.grad)
    assert torch.autograd.gradcheck(function, inputs)


def test_token_losses_by_hand():
    """Logits log(1, 2, 5) have Z = 8. Target 2: cross-entropy log(8/5), z-loss 1e-6 log(8)^2."""
    cross_entropy, z_loss = token_losses(logits=torch.tensor([[[1.0, 2.0, 5.0]]]).log(),
                                         targets=torch.tensor([[2]]))
    assert cross_entropy.shape == z_loss.shape == (1, 1)
    assert cross_entropy.item() == pytest.approx(math.log(8 / 5))
    assert Z_LOSS == 1e-6
    assert z_loss.item() == pytest.approx(1e-6 * math.log(8) ** 2)


def test_bfloat16_is_close_to_float32():
    """Logits and gradients agree up to rounding; parameters and gradients stay float32."""
    exact, rounded = make(PRESETS["toy"]), make(PRESETS["toy"], dtype=torch.bfloat16)
    ids = torch.randint(1024, (2, 40))
    for model in (exact, rounded):
        model(ids).logsumexp(-1).sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        exact_logits, rounded_logits = exact(ids), rounded(ids)
    assert rounded_logits.dtype == torch.float32
    assert (exact_logits - rounded_logits).std() < 0.03 * exact_logits.std()
    for a, b in zip(exact.parameters(), rounded.parameters()):
        assert torch.nn.functional.cosine_similarity(a.grad.flatten(), b.grad.flatten(), 0) > 0.97


def test_continuations_in_one_row_equal_each_alone():
    """Each continuation has the hidden states that it has alone after its prompt.

    Row 0: a prompt with two continuations, the second one first, then padding. Row 1: two prompts
    with two each."""
    model = make()
    ids = torch.randint(50, (2, 12))
    branch = torch.tensor([[0, 0, 0, 2, 2, 1, 1, 1, 1, 0, 0, 0],
                           [0, 1, 1, 1, 1, 1, 1, 2, 0, 0, 3, 4]])
    segment_start = torch.tensor([[0] * 9 + [12] * 3, [0] * 8 + [8] * 4])
    prompts = {(0, 1): [0, 1, 2], (0, 2): [0, 1, 2], (1, 1): [0], (1, 2): [0], (1, 3): [8, 9],
               (1, 4): [8, 9]}  # (row, branch) -> columns of its prompt
    with torch.no_grad():
        packed = model.hidden_states(ids, segment_start, branch)
        for (row, number), prompt in prompts.items():
            columns = prompt + (branch[row] == number).nonzero()[:, 0].tolist()
            alone = model.hidden_states(ids[row:row + 1, columns])[0]
            torch.testing.assert_close(packed[row, columns], alone, atol=1e-5, rtol=1e-4)
    assert packed.isfinite().all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_wanted_states_equal_those_computed_for_all_tokens(dropout):
    """`wanted` leaves states and gradients unchanged, with the same dropout."""
    model = make().train()
    for block in model.blocks:
        block.dropout = dropout
    ids, mask = torch.randint(50, (2, 12)), torch.rand(2, 12) > 0.5
    segment_start, results = torch.zeros_like(ids), []
    for wanted in (None, mask):
        torch.manual_seed(1)
        model.zero_grad()
        states = model.hidden_states(ids, segment_start, wanted=wanted)
        if wanted is None:
            states = states[mask]
        states.sum().backward()
        results.append([states, *(p.grad for p in model.parameters())])
    assert results[1][0].shape == (int(mask.sum()), 12)
    torch.testing.assert_close(*results)


def test_dropout_drops_a_share_and_keeps_the_mean():
    """With p = 1/4, values are 0 or 4/3 in training, and unchanged otherwise."""
    torch.manual_seed(0)
    block = make().blocks[0].train()
    ones = torch.ones(50, 8, 12)
    assert torch.equal(block.drop(ones, ones.shape), ones)
    block.dropout = 0.25
    dropped = block.drop(ones, ones.shape)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(block.eval().drop(ones, ones.shape), ones)


def test_the_loss_compiles_as_one_graph():
    """torch.compile finds no graph break in the loss."""
    model, ids = make(), torch.randint(50, (2, 9))
    explained = torch._dynamo.explain(pretrain.next_token_loss)(model, {"ids": ids})
    torch._dynamo.reset()
    assert explained.graph_break_count == 0


def test_only_the_longest_text_of_a_row_must_fit_the_context():
    """Positions count, not the row's tokens: rows longer than the context of 40 are accepted if
    each text or continuation in them fits."""
    model = make()

    def states(length, **layout):
        return model.hidden_states(torch.zeros(1, length, dtype=torch.long), **layout)
    branch = torch.arange(60)[None] // 20 + 1  # three continuations of 20 tokens
    assert states(60, branch=branch).shape == (1, 60, 12)
    branch = torch.cat((branch, torch.zeros(1, 45, dtype=torch.long)), 1)  # then 45 of padding
    assert states(105, segment_start=105 * (branch == 0), branch=branch).shape == (1, 105, 12)
    segment_start = torch.arange(120)[None] // 40 * 40  # three texts that fill the context
    assert states(120, segment_start=segment_start).shape == (1, 120, 12)
    with pytest.raises(UserError, match="41 tokens is longer than the model's context of 40"):
        states(82, branch=torch.arange(82)[None] // 41 + 1)
    with pytest.raises(UserError, match="41 tokens is longer"):
        model(torch.zeros(1, 41, dtype=torch.long))


def test_bad_config():
    """Settings that fit no model raise UserError."""
    for change in ({"heads": 5}, {"head_dim": 3}, {"layers": 0}):
        with pytest.raises(UserError, match="multiple of kv_heads"):
            dataclasses.replace(SMALL, **change)

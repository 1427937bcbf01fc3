"""The transformer: sizes, formulas by hand, gradients, and texts that share a row."""
import dataclasses
import math

import pytest
import torch
import torch._dynamo

from afm_min import gradients, pretrain
from afm_min.model import AFM, PRESETS, Config, rotary_tables
from afm_min.run import UserError

SMALL = Config(dim=12, layers=2, heads=6, kv_heads=2, head_dim=4, hidden=20, vocab_size=50,
               context=40)


def make(config=SMALL, seed=0, **options):
    """A model whose norm scales are random, too, so that leaving one out would show."""
    torch.manual_seed(seed)
    model = AFM(config, **options)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


def test_published_sizes():
    with torch.device("meta"):
        sizes = {name: AFM(PRESETS[name]) for name in ("afm-on-device", "afm-parent")}
    billions = {name: sum(p.numel() for p in model.parameters()) / 1e9
                for name, model in sizes.items()}
    embedding = sizes["afm-on-device"].embedding.numel() / 1e9
    # 2.58B outside the embedding
    assert math.floor(100 * (billions["afm-on-device"] - embedding)) == 258
    assert round(embedding, 2) == 0.15
    assert round(billions["afm-parent"], 1) == 6.4


def test_initial_scale():
    model = AFM(dataclasses.replace(PRESETS["toy"], dim=256))
    assert model.embedding.std().item() == pytest.approx(256 ** -0.5, rel=0.02)
    assert model.blocks[0].feed_forward.down.weight.std().item() == pytest.approx(
        336 ** -0.5, rel=0.02)


def reference(model, ids):
    """The forward pass of one sequence, a head and a position at a time, in plain formulas."""
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
        heads = lambda linear, n: [(linear.weight @ h).view(n, c.head_dim) for h in hs]
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
    model = make(dataclasses.replace(SMALL, heads=heads, kv_heads=kv_heads, rope_base=100.0))
    ids = torch.randint(50, (2, 9))
    with torch.no_grad():
        logits = model(ids)
        assert logits.shape == (2, 9, 50)
        for b in range(2):
            torch.testing.assert_close(logits[b], reference(model, ids[b]), atol=2e-5, rtol=1e-4)


def test_rotary_tables_by_hand():
    # D = 4, base 100: frequencies 1 and 1/10. Position 2 turns by 2 and by 0.2.
    cos, sin = rotary_tables(3, 4, 100.0)
    assert cos[2].tolist() == pytest.approx([math.cos(2), math.cos(0.2)] * 2)
    assert sin[2].tolist() == pytest.approx(
        [-math.sin(2), -math.sin(0.2), math.sin(2), math.sin(0.2)])


def test_the_future_is_not_seen():
    model, ids = make(), torch.randint(50, (1, 12))
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 50
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7]) and not torch.equal(before[:, 7], after[:, 7])


@pytest.mark.parametrize("function, plain, shapes", [
    (lambda x, w: gradients.RMSNorm.apply(x, w, 0.1),
     lambda x, w: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 0.1) * w, [(2, 3, 4), (4,)]),
    (lambda x: gradients.Rotation.apply(x, *[t.double() for t in rotary_tables(3, 4, 10.0)]),
     lambda x: torch.cat([x[..., :2] * rotary_tables(3, 4, 10.0)[0][:, :2]
                          + x[..., 2:] * rotary_tables(3, 4, 10.0)[1][:, :2],
                          x[..., 2:] * rotary_tables(3, 4, 10.0)[0][:, :2]
                          - x[..., :2] * rotary_tables(3, 4, 10.0)[1][:, :2]], -1),
     [(2, 3, 4)]),
    (lambda x: torch.stack(gradients.CrossEntropy.apply(x, torch.tensor([2, 0]))),
     lambda x: torch.stack((-x.log_softmax(-1)[[0, 1], [2, 0]], x.logsumexp(-1))), [(2, 5)]),
], ids=["RMSNorm", "Rotation", "CrossEntropy"])
def test_written_gradients_equal_autograd(function, plain, shapes):
    torch.manual_seed(0)
    ours = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    y, expected = function(*ours), plain(*theirs)
    torch.testing.assert_close(y, expected)
    pull = torch.randn_like(y)
    y.backward(pull)
    expected.backward(pull)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a.grad, b.grad)
    assert torch.autograd.gradcheck(function, ours)


def test_bfloat16_computes_the_same_but_for_rounding():
    exact, rounded = make(PRESETS["toy"]), make(PRESETS["toy"], dtype=torch.bfloat16)
    ids = torch.randint(1024, (2, 40))
    for model in (exact, rounded):
        model(ids).logsumexp(-1).sum().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        logits = exact(ids), rounded(ids)
    assert logits[1].dtype == torch.float32
    assert (logits[0] - logits[1]).std() < 0.03 * logits[0].std()
    for a, b in zip(exact.parameters(), rounded.parameters()):
        assert torch.nn.functional.cosine_similarity(a.grad.flatten(), b.grad.flatten(), 0) > 0.97


def test_continuations_in_one_row_give_the_logits_of_each_alone():
    """Two prompts with two continuations each, of different lengths, and padding at the end; the
    second continuation is as if the first did not exist, and the other way round."""
    model = make()
    ids = torch.randint(50, (2, 12))
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 0],
                           [0, 1, 1, 1, 1, 1, 1, 2, 0, 0, 3, 4]])
    begin = torch.tensor([[0] * 9 + [12] * 3, [0] * 8 + [8] * 4])  # padding, and another prompt
    with torch.no_grad():
        together = model.states(ids, begin, branch)
        for row, number, prompt in ((0, 1, [0, 1, 2]), (0, 2, [0, 1, 2]), (1, 1, [0]), (1, 2, [0]),
                                    (1, 3, [8, 9]), (1, 4, [8, 9])):
            mine = prompt + (branch[row] == number).nonzero()[:, 0].tolist()
            alone = model.states(ids[row:row + 1, mine])[0]
            torch.testing.assert_close(together[row, mine], alone, atol=1e-5, rtol=1e-4)
    assert together.isfinite().all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_states_that_are_wanted_are_those_of_all_tokens(dropout):
    model = make().train()
    for block in model.blocks:
        block.dropout = dropout
    ids, wanted = torch.randint(50, (2, 12)), torch.rand(2, 12) > 0.5
    begin, found = torch.zeros_like(ids), []
    for some in (None, wanted):
        torch.manual_seed(1)
        model.zero_grad()
        states = model.states(ids, begin, wanted=some)
        states = states if some is not None else states[wanted]
        states.sum().backward()
        found.append([states, *(p.grad for p in model.parameters())])
    assert found[1][0].shape == (int(wanted.sum()), 12)
    torch.testing.assert_close(*found)


def test_a_training_step_compiles_as_one_graph():
    model, ids = make(), torch.randint(50, (2, 9))
    explained = torch._dynamo.explain(pretrain.next_token_loss)(model, {"ids": ids})
    torch._dynamo.reset()
    assert explained.graph_break_count == 0


def test_only_the_longest_continuation_must_fit_the_context():
    branch = torch.arange(60)[None] // 20 + 1  # three of 20 tokens: positions 0 to 19
    assert make().states(torch.zeros(1, 60, dtype=torch.long), branch=branch).shape == (1, 60, 12)
    padded = torch.cat((branch, torch.zeros(1, 45, dtype=torch.long)), 1)  # more than the context
    begin = 105 * (padded == 0)
    assert make().states(torch.zeros(1, 105, dtype=torch.long), begin, padded).shape[1] == 105
    begin = torch.arange(120)[None] // 40 * 40  # three texts that fill the context
    assert make().states(torch.zeros(1, 120, dtype=torch.long), begin).shape == (1, 120, 12)
    with pytest.raises(UserError, match="41 tokens do not fit the context of 40"):
        make().states(torch.zeros(1, 82, dtype=torch.long), branch=torch.arange(82)[None] // 41 + 1)
    with pytest.raises(UserError, match="41 tokens do not fit"):
        make()(torch.zeros(1, 41, dtype=torch.long))


def test_bad_config():
    for change in ({"heads": 5}, {"head_dim": 3}, {"layers": 0}):
        with pytest.raises(UserError, match="multiple of kv_heads"):
            dataclasses.replace(SMALL, **change)

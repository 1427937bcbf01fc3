"""Conversations as tokens and loss masks, packed batches, shared prompts, and log-probabilities of
responses. Packed and shared rows must compute what each conversation gives alone.

FakeModel and its tokenizer are used by the tests of rewards, alignment and fine-tuning, too."""
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, respond
from afm_min.model import AFM, Config
from afm_min.run import Run, UserError
from afm_min.trainer import token_losses
from afm_min.tokenizer import ASSISTANT, DOCUMENT, END, TOOL, USER
from afm_min.world.tasks import Task, draw_task
from afm_min.world.tool_tasks import Tools

TINY = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=50,
              context=40)


class Letters:
    """A tokenizer with one token per letter: a = 1, b = 2, ...; 0 is every special token, so the
    model writes all of a response. The prompt of a conversation is the content of its last message.
    """

    def special(self, name):
        return 0

    def encode(self, text):
        return [ord(letter) - 96 for letter in text]

    def encode_chat(self, messages, reply):
        return self.encode(messages[-1]["content"])

    def decode(self, ids):
        return "".join(chr(96 + i) for i in ids)


class FakeModel:
    """Stands for a model that gives known responses. responses: {prompt: ids of its first response,
    of its second, ...}"""
    config, tokenizer, dtype = TINY, Letters(), torch.float32

    def __init__(self, responses, logp=0.0):
        self.responses, self.logp = responses, logp


def use_fake_models(monkeypatch):
    """Let each FakeModel generate its known responses."""
    def generate_with_logp(model, prompts, *_, **__):
        remaining = {prompt: iter(ids) for prompt, ids in model.responses.items()}
        return [(next(remaining[model.tokenizer.decode(prompt)]), model.logp)
                for prompt in prompts]
    monkeypatch.setattr(respond, "Decoder", lambda model: model)
    monkeypatch.setattr(respond, "generate_with_logp", generate_with_logp)


def tiny_model(dtype=torch.float32):
    """Return an untrained model with the tokenizer Letters."""
    model = AFM(TINY, dtype)
    model.tokenizer = Letters()
    return model


def question(text):
    """Return a task that asks with this text alone."""
    return Task(question=text, solution="?", answer="", key=text)


def user(text):
    return [{"role": "user", "content": text}]


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def token_logp(model, prompt, response):
    """Return the log-probability of each token of a response, in a row of its own."""
    ids = torch.tensor(prompt + response)
    logp = model(ids[None, :-1]).log_softmax(-1)[0].gather(1, ids[1:, None])[:, 0]
    return logp[-len(response):]


def make_groups(count=6, responses=2):
    """Return groups of a prompt of 3 to 5 tokens and responses of 1, 2, ... tokens."""
    torch.manual_seed(1)
    return [(torch.randint(50, (3 + i % 3,)).tolist(),
             [torch.randint(50, (1 + i + j,)).tolist() for j in range(responses)])
            for i in range(count)]


# Examples.

def test_loss_mask_covers_what_the_assistant_produces(tokenizer):
    """Its text and its end token count, in each of its turns; its role token does not."""
    messages = [{"role": "system", "content": "Hi."}, {"role": "user", "content": "No."},
                {"role": "assistant", "content": "Yes."}, {"role": "tool", "content": "Hi."},
                {"role": "assistant", "content": "No."}]
    ids, loss_mask = chat.render(messages, tokenizer)
    assert ids.tolist() == tokenizer.encode_chat(messages)
    counted = [tokenizer.decode([i]) for i, mask in zip(ids.tolist(), loss_mask.tolist()) if mask]
    end = tokenizer.decode([tokenizer.special(END)])
    assert "".join(counted) == f"Yes.{end}No.{end}"
    system, user, first, tool, second = (len(tokenizer.encode_chat([m])) for m in messages)
    expected = [0.0] * (system + user) + [0.0] + [1.0] * (first - 1)
    expected += [0.0] * tool + [0.0] + [1.0] * (second - 1)
    assert loss_mask.tolist() == expected


def test_render_response():
    ids, loss_mask = chat.render_response([1, 2], [3, 4, 5], Letters())
    assert ids.tolist() == [1, 2, 3, 4, 5]
    assert loss_mask.tolist() == [0, 0, 1, 1, 1]


def special_ids(text, tokenizer):
    """Return the ids of a text in which A, T, U and E stand for <|assistant|>, <|tool|>, <|user|>
    and <|end|>, and other letters for themselves."""
    names = {"A": ASSISTANT, "T": TOOL, "U": USER, "E": END}
    return [tokenizer.special(names[c]) if c in names else tokenizer.encode(c)[0]
            for c in text]


@pytest.mark.parametrize("text, written", [
    ("AcallETrEAhiE", "1111100001110"),  # up to its end token, and again after the result
    ("AcETrEAcETsEAhiE", "1100001100001110"),
    ("AxTyAzUE", "11111110"),  # special tokens that it samples itself end nothing
    ("AcATETrEAhE", "11110000110"),
    ("AcallE", "111110"), ("Acall", "11111"),  # no result yet; cut off
    ("UhiEAhiE", "11101110"),  # the question is no part of a response: see render_response
    ("xyz", "111")])  # a document
def test_the_model_writes_all_but_results_of_calls(text, written, tokenizer):
    """1 where it writes the next id."""
    ids = torch.tensor(special_ids(text, tokenizer))
    mask = chat.model_writes_next(ids, tokenizer)
    assert "".join(str(int(x)) for x in mask) == written
    rows = chat.model_writes_next(torch.stack((ids, ids.flip(0))), tokenizer)  # of a batch
    assert torch.equal(rows[0], mask)
    assert torch.equal(rows[1], chat.model_writes_next(ids.flip(0), tokenizer))


def test_results_of_calls_are_not_in_the_loss_mask(tokenizer):
    """A prompt with an earlier call, then: another call, its result, and the answer."""
    prompt = special_ids("UhEAcETrEA", tokenizer)
    ids, loss_mask = chat.render_response(prompt, special_ids("cdETsEAyE", tokenizer), tokenizer)
    assert ids.tolist() == special_ids("UhEAcETrEAcdETsEAyE", tokenizer)
    assert loss_mask.tolist() == [0] * 10 + [1, 1, 1, 0, 0, 0, 0, 1, 1]


def test_a_response_has_the_loss_mask_of_its_conversation(tokenizer):
    """`render` counts all turns of the assistant. So does `render_response`, after its prompt."""
    for seed in range(20):
        task = draw_task(Tools(whole=True), "train", seed)
        messages = chat.example("tools", task.messages(), task.solution)["messages"]
        ids, loss_mask = chat.render(messages, tokenizer)
        prompt = tokenizer.encode_chat(messages[:2], reply=True)
        response = ids[len(prompt):].tolist()
        for result, expected in zip(chat.render_response(prompt, response, tokenizer),
                                    (ids, loss_mask)):
            assert torch.equal(result, expected)


def test_examples_are_read_back_without_long_ones(tokenizer, tmp_path):
    run = Run(tmp_path, torch.device("cpu"))
    model = SimpleNamespace(config=SimpleNamespace(context=60), tokenizer=tokenizer)
    run.write_lines("demonstrations", [chat.example("math", user("No."), "Yes."),
                                       chat.example("code", user("No."), "Yes. " * 50)])
    sources = chat.read_examples(run, model, synthetic=False)
    assert list(sources) == ["math"]
    assert len(sources["math"]) == 1
    with pytest.raises(UserError, match="run the stage synthetic first"):
        chat.read_examples(run, model)
    run.write_lines("synthetic", [chat.example("tools", user("No."), "Hi.")])
    assert list(chat.read_examples(run, model)) == ["math", "tools"]


def test_an_example_may_fill_the_context(tokenizer):
    example = chat.example("math", user("No."), "Yes.")
    length = len(tokenizer.encode_chat(example["messages"]))
    for context, count in ((length, 1), (length - 1, 0)):
        model = SimpleNamespace(config=SimpleNamespace(context=context), tokenizer=tokenizer)
        assert len(chat.render_examples([example], model)) == count


# Batches.

def test_round_up_and_round_mask(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 4)
    assert [chat.round_up(n) for n in (1, 4, 5)] == [4, 4, 8]
    for mask, expected in (([0, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 1]), ([1, 0, 0, 0], [1] * 4),
                           ([1, 1, 1], [1] * 3),  # there are no more
                           ([0] * 4, [0] * 4), ([1] * 4 + [0], [1] * 4 + [0])):
        rounded = chat.round_mask(torch.tensor([mask], dtype=torch.bool))
        assert rounded.tolist() == [list(map(bool, expected))]


def test_loss_of_packed_conversations_is_the_sum_of_each_alone(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    torch.manual_seed(0)
    model = AFM(TINY)
    conversations = [
        (torch.randint(50, (n,)), (torch.rand(n) > 0.5).float().index_fill(0, torch.tensor(0), 0))
        for n in (5, 12, 4, 7, 3)]
    batch = chat.pack(conversations)
    assert batch["ids"].shape == (2, 17)  # 12 + 5 and 7 + 4 + 3; 16 are fed to the model
    assert batch["segment_start"].tolist() == [[0] * 12 + [12] * 5,
                                               [0] * 7 + [7] * 4 + [11] * 3 + [17] * 3]
    assert not batch["loss_mask"][1, 14:].any()
    loss, alone = chat.response_loss(model, batch), 0.0
    for ids, loss_mask in conversations:
        cross_entropy, z_loss = token_losses(model(ids[None, :-1]), ids[None, 1:])
        alone += ((cross_entropy + z_loss) * loss_mask[1:]).sum()
    assert loss["count"] == sum(loss_mask[1:].sum() for _, loss_mask in conversations)
    assert loss["loss"].item() == pytest.approx(alone.item(), rel=1e-6)


def test_the_last_token_of_a_row_is_not_fed(monkeypatch):
    """17 tokens need 16 inputs, so a row of 17."""
    monkeypatch.setattr(chat, "ROUND", 16)
    assert chat.pack([(torch.arange(17), torch.ones(17))])["ids"].shape == (1, 17)
    assert chat.pack([(torch.arange(18), torch.ones(18))])["ids"].shape == (1, 33)


def test_batches_follow_the_mixture(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    sources = {name: [(torch.full((4,), i), torch.ones(4))] * 2
               for name, i in (("a", 7), ("b", 9), ("c", 11))}
    torch.manual_seed(0)
    batches, seen = chat.batches(sources, {"a": 3, "b": 1, "c": 0}, 8), []
    for step in range(100):
        batch = batches(step)
        assert batch["ids"].shape == batch["loss_mask"].shape == (2, 17)  # 8 of 4 tokens
        seen += batch["ids"][:, :16:4].flatten().tolist()
    assert 11 not in seen
    assert 0.7 < seen.count(7) / len(seen) < 0.8


def test_a_mixture_without_any_source_is_refused():
    sources = {"a": [(torch.arange(4), torch.ones(4))], "b": []}
    with pytest.raises(UserError, match="has no weight for any of the sources a, b"):
        chat.batches(sources, {"d": 1.0, "b": 0.0}, 8)


# Groups.

def test_responses_share_their_prompt():
    ids, branch = chat.share_prompt([1, 2, 3], [[7, 8], [9]])
    assert ids.tolist() == [1, 2, 3, 7, 8, 3, 9]
    assert branch.tolist() == [0, 0, 1, 1, 1, 2, 2]
    ids, branch = chat.share_prompt([5], [[]])  # an empty response
    assert ids.tolist() == [5]
    assert branch.tolist() == [1]


def test_groups_share_rows_from_the_longest_on(monkeypatch):
    """Groups of 4, 9 and 7 tokens in rows of 16: the second and the third fill one row."""
    monkeypatch.setattr(chat, "ROUND", 16)
    batch, places = chat.share_prompts(
        [([1], [[2], [3]]), ([4] * 5, [[5] * 4]), ([6], [[7] * 2, [8] * 3])])
    assert batch["ids"].tolist() == [[4, 4, 4, 4, 4, 5, 5, 5, 5, 6, 7, 7, 6, 8, 8, 8],
                                     [1, 2, 1, 3] + [0] * 12]
    assert batch["branch"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3],
                                        [1, 1, 2, 2] + [0] * 12]
    assert batch["segment_start"].tolist() == [[0] * 9 + [9] * 7, [0] * 4 + [16] * 12]
    assert places == [(1, 0), (0, 0), (0, 1)]
    values = [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([4, 5])]
    assert chat.stack_by_row(values, places, fill=-1).tolist() == [[3, 4, 5], [1, 2, -1]]


def test_unique_responses():
    assert chat.unique_responses([[7, 8], [9], [7, 8]]) == ([(7, 8), (9,)], [0, 1, 0])


# Log-probabilities.

def test_logp_of_a_model_that_gives_all_tokens_the_same_probability():
    """log 1/50 for each token of a response: the first and the last count, the prompt does not."""
    model = tiny_model()
    torch.nn.init.zeros_(model.embedding)
    batch, _ = chat.share_prompts([([1, 2, 3], [[7, 8], [9], []])])
    assert chat.response_logp(model, **batch)[0].tolist() == pytest.approx(
        [-2 * math.log(50), -math.log(50), 0])


def test_logp_of_a_response_in_a_shared_row_is_that_in_its_own(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    torch.manual_seed(0)
    model = tiny_model()
    batch, places = chat.share_prompts(make_groups())
    together = chat.response_logp(model, **batch)
    assert together.shape[0] < 6 and together.shape[1] > 2  # several prompts in a row
    for (row, first), (prompt, responses) in zip(places, make_groups()):
        for j, response in enumerate(responses):
            assert together[row, first + j].item() == pytest.approx(
                token_logp(model, prompt, response).sum().item(), abs=1e-4)


def test_logp_of_a_bfloat16_model_is_that_of_logits_that_are_not_rounded(monkeypatch):
    """The hidden states have 8 bits, but what follows has 24."""
    monkeypatch.setattr(chat, "ROUND", 4)
    torch.manual_seed(0)
    model, prompt, response = tiny_model(torch.bfloat16), [1, 2, 3], [7, 8, 9]
    batch, _ = chat.share_prompts([(prompt, [response])])
    with torch.no_grad():
        states = model.hidden_states(**batch, wanted=batch["branch"] > 0)  # of 3, 7, 8, 9
        log_p = (states.double() @ model.embedding.double().T).log_softmax(-1)
        logp = chat.response_logp(model, **batch)
    expected = sum(log_p[i, token].item() for i, token in enumerate(response))
    assert logp.item() == pytest.approx(expected, abs=1e-5)


def test_gradient_of_shared_rows_is_that_of_each_response_alone():
    torch.manual_seed(0)
    model, weights = tiny_model(), torch.randn(6, 2)
    batch, places = chat.share_prompts(make_groups())
    logp = chat.response_logp(model, **batch)
    (logp * chat.stack_by_row(weights, places)).sum().backward()
    together = gradients(model).clone()
    model.zero_grad()
    for (prompt, responses), of_group in zip(make_groups(), weights):
        for response, weight in zip(responses, of_group):
            (token_logp(model, prompt, response).sum() * weight).backward()
    torch.testing.assert_close(together, gradients(model), atol=1e-5, rtol=1e-4)


def test_a_rank_without_rows_scores_nothing():
    """With two ranks, a batch of one row leaves none for the second."""
    model = tiny_model()
    batch, _ = chat.share_prompts(make_groups(count=1))
    logp, last_states = chat.score_responses(model, **{name: x[1::2] for name, x in batch.items()})
    assert logp.shape == (0, 0)
    assert last_states.shape == (0, 0, TINY.dim)
    logp.sum().backward()
    assert gradients(model).count_nonzero() == 0


# Many conversations.

def test_map_conversations_keeps_their_order():
    conversations = [chat.render_response([1] * n, [2], Letters()) for n in (3, 1, 2, 5, 4)]
    lengths = chat.map_conversations(lambda model, ids, loss_mask: (ids > 0).sum(1), AFM(TINY),
                                     conversations, max_rows=2)
    assert lengths.tolist() == [4, 2, 3, 6, 5]


def test_map_responses_scores_each_response_however_they_are_grouped():
    """Equal responses are computed once. Seven responses take several rows."""
    torch.manual_seed(0)
    model, counts = tiny_model(), []
    groups = [([1, 2], [[3], [4, 5], [3], [6], [7], [8, 9, 1], [2]]), ([5], [[4]]),
              ([9, 9, 9, 9], [[1, 2], [1, 2]])]

    def score(model, ids, branch, segment_start):
        counts.append(int(branch.amax(1).sum()))
        return chat.response_logp(model, ids, branch, segment_start)
    results = chat.map_responses(score, model, groups, max_rows=2, max_branches=3)
    for (prompt, responses), logps in zip(groups, results, strict=True):
        alone = [token_logp(model, prompt, response).sum().item() for response in responses]
        assert logps.tolist() == pytest.approx(alone, abs=1e-5)
    assert sum(counts) == 6 + 1 + 1


def test_loss_of_a_conversation_does_not_depend_on_the_others(tokenizer):
    torch.manual_seed(0)
    model = AFM(dataclasses.replace(TINY, vocab_size=300))
    texts = ["Yes. No. What is it? Hi.", "Hi.", "Is it?"]
    documents = [chat.render_response([], [tokenizer.special(DOCUMENT), *tokenizer.encode(text)],
                                      tokenizer) for text in texts]
    for (ids, _), loss in zip(documents, chat.conversation_losses(model, documents)):
        logp = model(ids[None, :-1]).log_softmax(-1)
        expected = -logp[0, range(len(ids) - 1), ids[1:]].mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_of_a_conversation_is_the_mean_over_its_masked_tokens():
    """Equal probabilities: log 50 a token, whatever the number of masked tokens."""
    model = AFM(TINY)
    torch.nn.init.zeros_(model.embedding)
    conversations = [chat.render_response([1, 2], [3], Letters()),
                     chat.render_response([4], [5, 6, 7], Letters())]
    assert chat.conversation_losses(model, conversations).tolist() == pytest.approx(
        [math.log(50)] * 2)

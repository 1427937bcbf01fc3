"""Sampled responses: their order, their random numbers, calls of tools and the results of these."""
import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, respond
from afm_min.model import AFM
from afm_min.tokenizer import ASSISTANT, END, SPECIALS, Tokenizer
from afm_min.world import tools
from afm_min.world.tasks import Task, declare
from afm_min.world.tool_tasks import Tools
from tests.test_chat import (TINY, FakeModel, gradients, question, tiny_model, token_logp,
                             use_fake_models, user)


def test_generate_responses_keeps_the_order_of_the_prompts(monkeypatch):
    use_fake_models(monkeypatch)
    model = FakeModel({"abc": [[3, 0]], "a": [[1], [4, 4, 0]]}, logp=-2.0)
    responses = respond.generate_responses(model, [user("abc"), user("a"), user("a")])
    assert [response.prompt for response in responses] == [[1, 2, 3], [1], [1]]
    assert [response.ids for response in responses] == [[3, 0], [1], [4, 4, 0]]
    assert [response.text for response in responses] == ["c", "a", "dd"]  # without the end token
    assert [response.logp for response in responses] == [-2.0] * 3


def test_a_prompt_that_does_not_fit_gets_an_empty_response(monkeypatch):
    use_fake_models(monkeypatch)
    model = FakeModel({"a" * 39: [[2, 0]]})
    responses = respond.generate_responses(model, [user("a" * 40), user("a" * 39)])
    assert [(response.ids, response.text) for response in responses] == [([], ""), ([2, 0], "b")]


def test_sampled_responses_do_not_depend_on_the_size_of_the_batches():
    torch.manual_seed(0)
    model = tiny_model()
    conversations = [user(text) for text in ("abc", "a", "ab", "c", "ba")]
    results = []
    for max_rows in (5, 2):
        torch.manual_seed(1)
        results.append(respond.generate_responses(model, conversations, max_new_tokens=8,
                                               max_rows=max_rows, temperature=1.0))
    assert [r.ids for r in results[0]] == [r.ids for r in results[1]]
    assert len({tuple(r.ids) for r in results[0]}) == 5
    for response in results[0]:
        logp = token_logp(model, response.prompt, response.ids).sum().item()
        assert response.logp == pytest.approx(logp, abs=1e-4)


def test_a_prompt_that_does_not_fit_does_not_change_the_other_responses():
    torch.manual_seed(0)
    model, results = tiny_model(), []
    for first in ("a", "a" * 40):
        torch.manual_seed(1)
        conversations = [user(text) for text in (first, "abc", "ab")]
        results.append(respond.generate_responses(model, conversations, max_new_tokens=8,
                                               temperature=1.0))
    assert results[0][0].ids != results[1][0].ids == []
    assert [r.ids for r in results[0][1:]] == [r.ids for r in results[1][1:]]


def test_sample_texts_returns_a_list_for_each_task(monkeypatch):
    use_fake_models(monkeypatch)
    model = FakeModel({"b": [[1, 0], [2, 0]], "a": [[3, 0], [4, 0]]})
    assert respond.sample_texts(model, [question("b"), question("a")], samples=2) == [
        ["a", "b"], ["c", "d"]]


# Sampling with calls of tools.

CALL = "call: price(item='keys')"


def asked(text, *names):
    """Return a conversation that declares tools and asks a question."""
    return [{"role": "system", "content": declare(names)}, *user(text)]


def turns(*texts):
    """Return replies and results of calls, which alternate."""
    return [{"role": ("assistant", "tool")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.fixture
def respond_with(tokenizer, monkeypatch):
    """Return a function that gives the Responses of a model with known replies, {question: [its
    first reply, its second, ...]}. Their log-probabilities are -1, -2, -4, ... A reply that ends
    with "|" is cut off there, without an end token."""
    def generate_with_logp(replies, prompts, *_, **__):
        results = []
        for prompt in prompts:
            text = tokenizer.decode(prompt)
            number = text.count(ASSISTANT) - 1  # of replies so far
            reply = replies[re.search(r"<\|user\|>(.*?)<\|end\|>", text)[1]][number]
            ids = tokenizer.encode(reply.removesuffix("|"))
            end = [] if reply.endswith("|") else [tokenizer.special(END)]
            results.append((ids + end, -2.0**number))
        return results

    def respond_with(replies, *conversations, context=999):
        model = SimpleNamespace(config=dataclasses.replace(TINY, context=context),
                                tokenizer=tokenizer)
        monkeypatch.setattr(respond, "Decoder", lambda model: replies)
        monkeypatch.setattr(respond, "generate_with_logp", generate_with_logp)
        return respond.generate_responses(model, conversations)
    return respond_with


def test_calls_are_run_and_the_model_replies_to_their_results(respond_with, tokenizer):
    """Of three conversations, one has two calls, one none, and one a single call. Only what the
    model writes has a log-probability: -1 - 2 - 4, -1 and -1 - 2."""
    replies = {"Both?": [CALL, "call: python(code='7+4')", "Together they cost 11."],
               "Hi": ["Hello!"], "Keys?": [CALL, "They cost 5."]}
    conversations = [asked("Both?", "python", "price"), user("Hi"), asked("Keys?", "price")]
    responses = respond_with(replies, *conversations)
    price = tools.run_tool("price", "keys")
    expected = [turns(CALL, price, "call: python(code='7+4')", "11", "Together they cost 11."),
                turns("Hello!"), turns(CALL, price, "They cost 5.")]
    for messages, response, more in zip(conversations, responses, expected, strict=True):
        assert response.prompt == tokenizer.encode_chat(messages, reply=True)
        assert response.prompt + response.ids == tokenizer.encode_chat([*messages, *more])
    assert [response.text.split("\n") for response in responses] == [*replies.values()]
    assert [response.logp for response in responses] == [-7, -1, -3]


def test_a_response_ends_after_the_last_call(respond_with, tokenizer):
    """The reply to the result of the fourth call is the last one, even if it is a further call."""
    response, = respond_with({"Keys?": [CALL] * 9}, asked("Keys?", "price"))
    assert tools.MAX_CALLS == 4
    price = tools.run_tool("price", "keys")
    messages = [*asked("Keys?", "price"), *turns(*[CALL, price] * 4, CALL)]
    assert response.prompt + response.ids == tokenizer.encode_chat(messages)
    assert response.text == "\n".join([CALL] * 5)
    assert response.logp == -31


@pytest.mark.parametrize("reply", [
    f"{CALL}|", "call: price(item='ke|", f" {CALL}", f"I call it.\n{CALL}", "Call: 7", ""])
def test_only_whole_calls_are_run(reply, respond_with, tokenizer):
    """One that is cut off is not, nor a call that something comes before."""
    response, = respond_with({"Keys?": [reply, "They cost 5."]}, asked("Keys?", "price"))
    whole = [] if reply.endswith("|") else [tokenizer.special(END)]
    assert response.ids == tokenizer.encode(reply.removesuffix("|")) + whole
    assert response.text == reply.removesuffix("|")
    assert response.logp == -1


@pytest.mark.parametrize("call, error", [
    ("call: stock(item='keys')", "there is no tool stock(item)"),
    ("call: price('keys')", "write a call as call: name(argument='value')"),
    ("call: python(code='1 / 0')", "ZeroDivisionError: division by zero"),
    (f"{CALL}\nThey cost 5.", "write a call as call: name(argument='value')")])
def test_the_model_replies_to_errors_of_calls(call, error, respond_with, tokenizer):
    messages = asked("Keys?", "price", "python")
    response, = respond_with({"Keys?": [call, "Sorry."]}, messages)
    assert response.prompt + response.ids == tokenizer.encode_chat(
        [*messages, *turns(call, f"error: {error}", "Sorry.")])


@pytest.mark.parametrize("end", ["", "|"])
def test_an_answer_behind_a_call_is_no_reply_of_its_own(end, respond_with):
    """The model has to wait for the result. A call is one line of the text."""
    task = Task("Keys?", f"{CALL}\nThey cost 5.", ((CALL,), "They cost 5."), "")
    right, wrong = ([CALL, "They cost 5."], [f"{CALL}\nThey cost 5.{end}", "They cost 5."])
    for replies, is_right in ((right, True), (wrong, False)):
        response, = respond_with({"Keys?": replies}, asked("Keys?", "price"))
        assert Tools().check(task, response.text) == is_right
    assert response.text.startswith(f"{CALL} They cost 5.")


def test_a_prompt_fits_if_there_is_room_for_one_token_of_a_reply():
    assert respond.fits(FakeModel({}), [1] * 39)
    assert not respond.fits(FakeModel({}), [1] * 40)  # the context


def test_a_result_that_does_not_fit_the_context_is_left_out(respond_with, tokenizer):
    """The call is the last reply then. There has to be room for one token of a reply."""
    messages = asked("Keys?", "price")
    called = [*messages, *turns(CALL, tools.run_tool("price", "keys"))]
    length = len(tokenizer.encode_chat(called, reply=True))
    for context, text in ((length, CALL), (length + 1, f"{CALL}\nThey cost 5.")):
        response, = respond_with({"Keys?": [CALL, "They cost 5."]}, messages, context=context)
        assert response.text == text
        assert response.ids[-1] == tokenizer.special(END)


class Roles:
    """A tokenizer with the special tokens 0 to 5, as in the real one, and 44 others."""
    encode_chat = Tokenizer.encode_chat

    def special(self, name):
        return SPECIALS.index(name)

    def encode(self, text):
        return [6 + ord(letter) % 44 for letter in text]

    def decode(self, ids):
        return "".join(chr(97 + i) for i in ids)


@pytest.fixture
def caller(monkeypatch):
    """A random model whose replies are all calls. Their results are their lengths. All 50 tokens
    are about equally likely, so it often samples special ones, in the middle of a reply, too."""
    monkeypatch.setattr(tools, "CALL", "")
    monkeypatch.setattr(tools, "answer_call", lambda text, messages: {
        "role": "tool", "content": str(len(text))})
    torch.manual_seed(0)
    model = AFM(dataclasses.replace(TINY, context=400))
    model.norm.weight.data.fill_(0.5)
    model.tokenizer = Roles()
    return model


def sample_calls(model, texts="abcdefghijkl", max_rows=512):
    """Return sampled responses to the questions a, b, c, ..."""
    torch.manual_seed(1)
    return respond.generate_responses(model, [user(text) for text in texts], 60, max_rows, 1.0)


def written_by_the_model(response):
    """Return, for each id of a response, whether the model wrote it. Read from left to right."""
    written, its_turn = [], True
    for i in response.ids:
        written.append(its_turn)
        if its_turn and i == Roles().special(END):
            its_turn = False
        elif not its_turn and i == Roles().special(ASSISTANT):
            its_turn = True
    return torch.tensor(written)


def test_sampled_calls_have_results_and_special_tokens(caller):
    """What the tests below rely on."""
    responses = sample_calls(caller)
    calls = [response.text.count("\n") for response in responses]
    assert {0, 4} <= set(calls) and sum(calls) > 15
    own = {i for response in responses
           for i, written in zip(response.ids, written_by_the_model(response)) if written}
    assert own >= set(range(6))  # all special tokens


def test_logp_of_sampled_calls_is_that_of_the_ids_that_the_model_wrote(caller):
    """As sampled, as scored in a shared row, and as the sum over its tokens alone."""
    responses = sample_calls(caller)
    scored = chat.map_responses(chat.response_logp, caller,
                                [(response.prompt, [response.ids, [7]]) for response in responses])
    for response, (logp, _) in zip(responses, scored, strict=True):
        of_tokens = token_logp(caller, response.prompt, response.ids)
        written = written_by_the_model(response)
        assert response.logp == pytest.approx(of_tokens[written].sum().item(), abs=2e-3)
        assert logp.item() == pytest.approx(response.logp, abs=2e-3)
        _, loss_mask = chat.render_response(response.prompt, response.ids, Roles())
        assert loss_mask.bool().tolist() == [False] * len(response.prompt) + written.tolist()
    assert any(not written_by_the_model(r).all() for r in responses)


def test_results_of_calls_have_no_gradient(caller):
    """The gradient is that of the ids that the model wrote, when responses share a prompt and when
    they are packed."""
    responses = sample_calls(caller, "aaaa")
    weights = torch.randn(4)
    batch, _ = chat.share_prompts([(responses[0].prompt, [r.ids for r in responses])])
    (chat.response_logp(caller, **batch)[0] * weights).sum().backward()
    together = gradients(caller).clone()
    caller.zero_grad()
    count = 0
    for response, weight in zip(responses, weights):
        written = written_by_the_model(response)
        count += written.sum()
        of_tokens = token_logp(caller, response.prompt, response.ids)
        (of_tokens[written].sum() * weight).backward()
    torch.testing.assert_close(together, gradients(caller), atol=1e-4, rtol=1e-3)
    assert count < sum(len(response.ids) for response in responses)
    packed = chat.pack([chat.render_response(r.prompt, r.ids, Roles()) for r in responses])
    assert chat.response_loss(caller, packed)["count"] == count


def test_sampled_calls_do_not_depend_on_the_other_responses(caller):
    """Nor on the size of the batches."""
    texts = "abcdefghijkl"
    whole = [response.ids for response in sample_calls(caller, texts)]
    assert [response.ids for response in sample_calls(caller, texts, max_rows=3)] == whole
    others = [response.ids for response in sample_calls(caller, "x" * 6 + texts[6:])]
    assert others[:6] != whole[:6] and others[6:] == whole[6:]

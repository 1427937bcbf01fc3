"""Conversations, their loss, the guards, synthetic data and the search for a mixture, by hand."""
import itertools
import random
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, demonstrations, evaluate, pretrain, sft, synthetic
from afm_min.world import families
from afm_min.world.tasks import MATH, Math, Recall, Task, draw_task, draw_tasks
from afm_min.model import AFM, Config
from afm_min.run import Run, UserError
from afm_min.tokenizer import DOCUMENT, END, Tokenizer

TINY = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=300,
              context=256)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["Hi. Yes. No. What is it?"] * 3, 272)


def test_only_what_the_assistant_says_has_weight_its_end_included(tokenizer):
    messages = [{"role": "system", "content": "Hi."}, {"role": "user", "content": "No."},
                {"role": "assistant", "content": "Yes."}, {"role": "tool", "content": "Hi."},
                {"role": "assistant", "content": "No."}]
    ids, weights = chat.render(messages, tokenizer)
    assert ids.tolist() == tokenizer.encode_chat(messages)
    said = [tokenizer.decode([i]) for i, w in zip(ids.tolist(), weights.tolist()) if w]
    end = tokenizer.decode([tokenizer.special(END)])
    assert "".join(said) == f"Yes.{end}No.{end}"
    # The very ids: a role, what is said, an end; the role itself is given, not learned.
    turns = [tokenizer.encode_chat([message]) for message in messages]
    expected = [0.0] * (len(turns[0]) + len(turns[1])) + [0.0] + [1.0] * (len(turns[2]) - 1)
    expected += [0.0] * len(turns[3]) + [0.0] + [1.0] * (len(turns[4]) - 1)
    assert weights.tolist() == expected


def test_response_loss_of_packed_conversations_is_that_of_each_alone(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    torch.manual_seed(0)
    model = AFM(TINY)
    conversations = [
        (torch.randint(300, (n,)), (torch.rand(n) > 0.5).float().index_fill(0, torch.tensor(0), 0))
        for n in (5, 12, 4, 7, 3)]
    batch = chat.pack(conversations)
    assert batch["ids"].shape == (2, 17)  # 12 + 5, 7 + 4 + 3: 16 are fed
    assert batch["begin"].tolist() == [[0] * 12 + [12] * 5,
                                       [0] * 7 + [7] * 4 + [11] * 3 + [17] * 3]
    assert not batch["weight"][1, 14:].any()
    assert chat.pack(conversations + [(torch.arange(17), torch.ones(17))])["ids"].shape[1] == 17
    loss, alone = chat.response_loss(model, batch), 0.0
    for ids, weight in conversations:
        cross_entropy, z_loss = pretrain.token_losses(model(ids[None, :-1]), ids[None, 1:])
        alone += ((cross_entropy + z_loss) * weight[1:]).sum()
    assert loss["count"] == sum(weight[1:].sum() for _, weight in conversations)
    assert loss["loss"].item() == pytest.approx(alone.item(), rel=1e-6)


def test_a_mask_is_rounded_up_by_tokens_that_are_not_in_it(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 4)
    for mask, expected in (([0, 1, 0, 1, 0, 1], [1, 1, 0, 1, 0, 1]), ([1, 0, 0, 0], [1] * 4),
                           ([1, 1, 1], [1] * 3),  # there are no more
                           ([0] * 4, [0] * 4), ([1] * 4 + [0], [1] * 4 + [0])):
        rounded = chat.round_mask(torch.tensor([mask], dtype=torch.bool))
        assert rounded.tolist() == [list(map(bool, expected))]
    assert [chat.round_up(n) for n in (1, 4, 5)] == [4, 4, 8]


def test_batches_follow_the_mixture(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    sources = {"a": [(torch.full((n,), 7), torch.ones(n)) for n in (4, 4)],
               "b": [(torch.full((4,), 9), torch.ones(4))],
               "c": [(torch.full((4,), 11), torch.ones(4))]}
    torch.manual_seed(0)
    draw, seen = chat.batches(sources, {"a": 3, "b": 1, "c": 0}, 8), []
    for step in range(100):
        batch = draw(step)
        assert batch["ids"].shape == batch["weight"].shape == (2, 17)  # 8 of 4 tokens
        seen += batch["ids"][:, :16:4].flatten().tolist()
    assert 11 not in seen and 0.7 < seen.count(7) / len(seen) < 0.8
    with pytest.raises(UserError, match="names none of a, b, c"):
        chat.batches(sources, {"d": 1.0}, 8)


def test_examples_come_back_and_long_ones_are_left_out(tokenizer, tmp_path):
    run, model = Run(tmp_path, torch.device("cpu")), SimpleNamespace(
        config=SimpleNamespace(context=60), tokenizer=tokenizer)
    messages = [{"role": "user", "content": "No."}]
    chat.write_lines(run, "demonstrations", [chat.example("math", messages, "Yes."),
                                                chat.example("code", messages, "Yes. " * 50)])
    sources = chat.read_examples(run, model, synthetic=False)
    assert list(sources) == ["math"] and len(sources["math"]) == 1
    with pytest.raises(UserError, match="run the stage synthetic first"):
        chat.read_examples(run, model)
    chat.write_lines(run, "synthetic", [chat.example("tools", messages, "Hi.")])
    assert list(chat.read_examples(run, model)) == ["math", "tools"]


def test_a_sound_way_to_an_answer():
    asked = "Ada has 4 lots of 3 pens. Ada loses 5. How many pens does Ada have?"
    assert synthetic.sound(asked, "4*3=12. 12-5=7. The answer is 7.") == "7"
    for bad in ("4*3=12. 12-5=8. The answer is 8.",  # a false step
                "4*3=12. 13-5=8. The answer is 8.",  # that does not go on
                "4*3=12. 12-5=7. The answer is 12.",  # another answer than it found
                "4*3=12. The answer is 12.",  # a number left out
                "4*3=12. 12-5=7. 7+1=8. The answer is 8.",  # a number that nobody named
                "The answer is 7.", "12-5=7. The answer is 7.",
                "4*3=12. 12-5=7. The answer is 7. 7", ""):
        assert synthetic.sound(asked, bad) is None, bad


def test_majority_is_three_quarters():
    assert synthetic.majority(["7", "7", "9", "7"]) == "7"
    assert synthetic.majority(["7", "7", "9"]) is None and synthetic.majority(["7"]) == "7"


def test_agreeing_with_the_truth_or_with_each_other():
    asked = "Ada has 4 pens. Ada buys 3. How many pens does Ada have?"
    seven, one = "4+3=7. The answer is 7.", "4-3=1. The answer is 1."
    assert synthetic.agreeing(asked, [one, seven], truth="7") == seven
    assert synthetic.agreeing(asked, [one, one], truth="7") is None
    assert synthetic.agreeing(asked, ["nonsense", seven, "5+2=7. The answer is 7."]) == seven
    assert (synthetic.agreeing(asked, [one, seven]) is None
            and synthetic.agreeing(asked, ["?"]) is None)


def test_the_best_above_a_threshold_the_first_of_equals():
    assert synthetic.best(["a", "b", "c", "d"], [0.5, 1.0, 1.0, 0.5], 1.0) == "b"
    assert synthetic.best(["a", "b"], [0.5, 0.0], 1.0) is None


def test_hidden_tests_have_no_say_in_what_is_kept(monkeypatch):
    """Tried are, of every three questions: an answer that passes all tests but the first two,
    and the right one; one that passes only these two, and the right one; the right one,
    and such."""
    tasks = draw_tasks(families.Code(), "train", 6)  # different ones
    monkeypatch.setattr(synthetic, "drawn", lambda *_: tasks)

    def lenient(code, tests):
        return [(test in p.answer[:2]) == (code == "shallow")
                for test in tests for p in tasks if test in p.answer]
    monkeypatch.setattr(families, "passed", lenient)
    monkeypatch.setattr(evaluate, "sampled", lambda *_: [
        (["late", p.solution], ["shallow", p.solution], [p.solution, "shallow"])[i % 3]
        for i, p in enumerate(tasks)])
    examples, row, hidden = synthetic.code(None, 6, 2, threshold=1.0)
    assert [e["messages"][-1]["content"] == p.solution
            for e, p in zip(examples, tasks)] == [True, False, True] * 2
    assert list(hidden.values()) == [pytest.approx(200 / 3), pytest.approx(200 / 3)]
    assert row == ["code", 6, 50, 6, pytest.approx(200 / 3)]


def test_the_first_solved_conversation_of_each_question_is_kept(monkeypatch):
    """Of two attempts at every three questions neither is right, the second, and both,
    the first with a space more."""
    family, calls = families.Tools({"textwrap": "Text wraps."}), []

    def played(reply, conversations, pages):
        asked = [p for p in synthetic.drawn(family, 24) if not p.turns][:6]
        for i, messages in enumerate(conversations):
            task, attempt = asked[i // 2], i % 2
            end = (("Hm.", "Hm."), ("Hm.", task.answer[1]),
                   (task.answer[1] + " ", task.answer[1]))
            for turn in (*task.answer[0], end[i // 2 % 3][attempt]):
                messages.append({"role": "assistant", "content": turn})
    monkeypatch.setattr(synthetic.tools, "converse", played)
    examples, row = synthetic.episodes(None, family, 6, 2)
    assert row == ["tools", 6, pytest.approx(100 * 6 / 12), 4, 100.0] and len(examples) == 4
    assert sorted(e["messages"][-1]["content"][-1] for e in examples)[:2] == [
        " ", " "]  # the first of the right ones
    assert all(e["messages"][-1]["content"] != "Hm." for e in examples)


def test_ascend_climbs_to_the_optimum_and_tells_its_way():
    def score(weights):  # highest where a is 4 and b is 1
        return -(weights["a"] - 4) ** 2 - (weights["b"] - 1) ** 2
    weights, trace = sft.ascend(score, score, {"a": 1.0, "b": 1.0}, rounds=6, dw=0.5)
    assert score(weights) > -1 > score({"a": 1.0, "b": 1.0})
    # a at 1.5 scores -6.25, at 0.5 -12.25; b at 1.5 or 0.5 -9.25: so a alone moves, by 1.5.
    assert trace[:3] == [[1, "a", 1.0, -6.25, -12.25], [1, "b", 1.0, -9.25, -9.25],
                         [1, "all", 0.5, -6.25, -9.0]]
    # What all trials praise, and the judge does not, is left.
    stays, trace = sft.ascend(lambda w: w["a"], lambda w: -abs(w["a"] - 1), {"a": 1.0},
                              rounds=2, dw=0.5)
    assert stays == {"a": 1.0} and trace == [
        [1, "a", 1.0, 1.5, 0.5], [1, "all", 0.5, -0.5, 0.0],
        [2, "a", 1.0, 1.25, 0.75], [2, "all", 0.25, -0.25, 0.0]]


def test_a_mixture_is_compared_by_other_draws_and_conversations_than_it_was_found_by(
        monkeypatch, tmp_path):
    """The loss of a conversation is how far the weight of a is from 1.4,
    so a moves from 1 to 1.5: 0.3 better."""
    run, drawn = (Run(tmp_path, torch.device("cpu")),
                  [])  # (weight of a, draws, steps, conversations)

    class Model:
        config, tokenizer = TINY, None

    def fit(model, batches, loss, steps, **_):
        drawn[-1] += [steps]
        batches(0)

    def losses(model, conversations):
        drawn[-1] += [conversations]
        return torch.tensor([abs(drawn[-1][0] - 1.4)] * len(conversations))
    monkeypatch.setattr(sft, "load_model", lambda *_: Model())
    monkeypatch.setattr(sft, "fit", fit)
    monkeypatch.setattr(sft, "seed_step", lambda seed, stage, step: drawn[-1].insert(1, stage))
    monkeypatch.setattr(chat, "validating", lambda *_: [
        (None, Task("", text, "", "")) for text in ("0", "1", "2", "3", "4" * 999)])
    monkeypatch.setattr(chat, "render", lambda messages, _: (messages[-1]["content"],))
    monkeypatch.setattr(chat, "read_examples", lambda *_: {"a": [], "b": []})
    monkeypatch.setattr(chat, "batches", lambda sources, weights, batch: (
        drawn.append([weights["a"]]) or (lambda step: {})))
    monkeypatch.setattr(chat, "losses", losses)
    found = sft.mixture(run, rounds=1, dw=0.5, steps=3, seeds=2, longer=4)
    assert run.read_json("mixture.json") == dict(found["weights"]) == {"a": 1.5, "b": 1.0}
    assert (found["gain over equal weights, nats"] == pytest.approx(0.4 - 0.1)
            and found["interval"] == "+-0.0000")
    searched, others = [("0",), ("2",)], [("1",), ("3",)]
    assert [row[1:] for row in drawn] == [
        *(["mixture 1", 12, searched], ["mixture 2", 12, searched]),  # the judge, of equal weights
        *[["mixture 0", 3, searched]] * 4, ["mixture 1", 12, searched], ["mixture 2", 12, searched],
        *(["mixture 3", 12, others], ["mixture 4", 12, others]) * 2]


def test_flaws_of_demonstrations():
    family, seen, written = Math(), {}, []
    for i in range(200):
        task, messages, response, flaw = demonstrations.demonstration(family, i, 0.5)
        assert flaw != "copied" or (messages, response) in written[-50:]
        written.append((messages, response))
        seen.setdefault(flaw, []).append((task, messages[-1]["content"], response))
    assert set(seen) == {"", *demonstrations.FLAWS} and 60 < len(seen[""]) < 140
    assert all(r == p.solution and q == p.question for p, q, r in seen[""])
    assert all(r == f"{p.solution} {p.solution}" for p, q, r in seen["wordy"])
    assert all(q != p.question and sorted(q) == sorted(p.question) for p, q, r in seen["garbled"])
    assert not any(family.check(p, r) for p, q, r in seen["wrong"])


def test_raters_outvote_noise_mostly():
    rng, task = random.Random(0), draw_task(MATH, "train", 1)
    good = sum(demonstrations.rated(MATH, task, task.solution, rng) for _ in range(300))
    bad = sum(demonstrations.rated(MATH, task, "The answer is 99.", rng)
              for _ in range(300))
    assert good > 270 and bad < 30
    assert demonstrations.rated(MATH, task, task.solution, rng, noise=0)
    assert not demonstrations.rated(MATH, task, "The answer is 99.", rng, noise=0)


def test_a_text_is_read_the_same_in_any_company(tokenizer):
    torch.manual_seed(0)
    model, texts = AFM(TINY), ["Yes. No. What is it? Hi.", "Hi.", "Is it?"]
    read = [chat.answered([], [tokenizer.special(DOCUMENT), *tokenizer.encode(text)])
            for text in texts]
    means, losses = demonstrations.embeddings(model, read), chat.losses(model, read)
    for (ids, _), mean, loss in zip(read, means, losses):
        log_p, states = model(ids[None, :-1]).log_softmax(-1), model.states(ids[None, :-1])[0]
        expected = -log_p[0, range(len(ids) - 1), ids[1:]].mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert mean.norm().item() == pytest.approx(1) and torch.cosine_similarity(
            mean, states.mean(0), dim=0).item() == pytest.approx(1, abs=1e-5)


def test_each_guard_drops_what_it_is_for(monkeypatch):
    """Each is read by its own question, and by all it says, a document's beginning before it.
    Six examples: usual; as usual but wrong; like the first; 2.8 and 2.6 times as surprising;
    like the second."""
    task = draw_task(MATH, "train", 1)
    written = [(task, task.messages(), task.solution, "") for _ in range(6)]
    written[1] = (task, task.messages(), "The answer is 99.", "wrong")
    directions = torch.eye(6)
    for one, other in ((2, 0), (5, 1)):  # at a cosine of 0.99995
        directions[one] = torch.nn.functional.normalize(
            directions[other] + 0.01 * directions[one], dim=0)
    losses = torch.tensor([1.0, 1.0, 1.0, 2.8, 2.6, 1.0])
    class Words:
        special, encode = lambda self, name: name, lambda self, text: text.split()
    model, question, said = (SimpleNamespace(config=TINY, tokenizer=Words()),
                             task.question.split(), task.solution.split())

    def reads(result, expected):
        def read(model, read):
            assert [ids for ids, _ in read][:1] == [expected]
            return result
        return read
    monkeypatch.setattr(chat, "answered", lambda prompt, ids: (ids, None))
    monkeypatch.setattr(chat, "losses", reads(losses, [DOCUMENT, *question]))
    monkeypatch.setattr(demonstrations, "embeddings",
                        reads(directions, [DOCUMENT, *question, *said]))
    monkeypatch.setattr(demonstrations, "rated", lambda family, task, response, rng:
                        response == task.solution)
    fates = demonstrations.guarded(written, MATH, model, 2.7, 0.9999)
    assert fates == ["kept", "rating", "copy", "model", "kept", "kept"]


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """What the draft and sft give to `fit`, which does three steps of nothing;
    and what they save."""
    given, run = {"saved": []}, Run(tmp_path, torch.device("cpu"))
    run.write_json("mixture.json", {"a": 1.0})
    monkeypatch.setattr(sft, "load_model", lambda run, name: AFM(TINY))
    monkeypatch.setattr(sft, "save_model", lambda run, name, model: given["saved"].append(name))
    monkeypatch.setattr(sft, "fit", lambda model, batches, loss, **rest: (
        given.update(rest, model=model), [batches(step) for step in range(3)]))
    monkeypatch.setattr(chat, "read_examples", lambda run, model, synthetic: (
        given.update(synthetic=synthetic),
        {"a": [(torch.ones(4, dtype=torch.long), torch.ones(4))]})[1])
    monkeypatch.setattr(chat, "toy_world", lambda run: {})
    means = itertools.cycle([50, 60, 40, 80, 30, 80,  # of three checkpoints: greedy, best of 4;
                             55])  # of the chosen one
    monkeypatch.setattr(evaluate, "validation", lambda *_: {"mean %": next(means)})
    return run, given


def test_the_draft_warms_up_then_falls_to_a_slower_rate(tuned):
    run, given = tuned
    sft.draft(run, steps=60, batch=2, lr=0.1, fast=40, slow=0.25, mixture={"a": 1})
    assert [given["schedule"](step) for step in (0, 9, 19, 39, 40, 59)] == [.05, .5, 1, 1, .25, .25]
    assert ([block.dropout for block in given["model"].blocks] == [0.0]
            and given["saved"] == ["draft"])
    assert {name: given[name] for name in ("steps", "lr", "stage", "synthetic")} == {
        "steps": 60, "lr": 0.1, "stage": "draft", "synthetic": False}


def test_sft_goes_on_at_a_constant_rate_with_dropout_and_keeps_the_best_checkpoint(tuned):
    """Of steps 1, 2 and 4 the sums of accuracies are 110, 120 and 110.
    Three steps are done before the last is saved."""
    run, given = tuned
    told = sft.sft(run, steps=4, batch=2, lr=0.1, dropout=0.3, checkpoints=3)
    assert [block.dropout for block in given["model"].blocks] == [0.3]
    assert given["saved"] == ["sft-1", "sft-2", "sft-4", "sft"]
    assert told == {"checkpoint": 2, "checkpoints": [[1, 50, 60], [2, 40, 80], [4, 30, 80]],
                    "mean %": 55}
    sft.sft(run, steps=60, synthetic=False)
    assert ([given["schedule"](step) for step in (0, 9, 19, 39, 59)] == [.05, .5, 1, 1, 1]
            and not given["synthetic"])


def test_dropout_only_while_training():
    torch.manual_seed(0)
    model, ids = AFM(TINY), torch.randint(300, (2, 9))
    plain = model(ids)
    for block in model.blocks:
        block.dropout = 0.5
    assert not torch.equal(model.train()(ids), plain) and torch.equal(model.eval()(ids), plain)


def test_best_of_n_counts_a_problem_once():
    """A model that says the worked answer in the second of two samples only."""
    calls = []

    def said(model, conversations, temperature=0.0):
        calls.append(temperature)
        right = [p.solution for p in draw_tasks(MATH, "validation", 4)]
        return right[:2] + ["", ""] if len(calls) == 1 else right[:1] + ["", right[2], ""]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "respond", said)
        assert evaluate.validation(None, {"math": MATH}, 4, samples=2)["math %"] == 75
    assert calls == [1.0, 1.0]
    # of a family that has fewer tasks than asked for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "respond", lambda *_, **__: [
            p.solution for p in draw_tasks(Recall(1), "validation", 100)])
        assert evaluate.validation(None, {"recall": Recall(1)}, 100)["recall %"] == 100

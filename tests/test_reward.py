"""The reward model's losses by hand, its annotators, and what it looks at."""
import math
import random
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, evaluate, reward
from afm_min.model import AFM, Config
from afm_min.world.tasks import Family, Task
from afm_min.reward import grade_loss, margin_loss, perceived, preference_loss, preferred

TINY = Config(dim=16, layers=1, heads=2, kv_heads=1, head_dim=8, hidden=24, vocab_size=50,
              context=40)


def test_preference_loss_by_hand():
    # r_c - r_r = 1, p = 0.75:
    # 0.75 log(1 + e^-1) + 0.25 log(1 + e) = 0.234946 + 0.328315 = 0.563262.
    # Its gradient by r_c: sigmoid(1) - p = 0.731059 - 0.75 = -0.018941.
    chosen = torch.tensor([3.0], requires_grad=True)
    loss = preference_loss(chosen, torch.tensor([2.0]), torch.tensor([0.75]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.563262, abs=1e-6)
    assert chosen.grad.item() == pytest.approx(-0.018941, abs=1e-6)


def test_a_soft_label_is_followed_to_its_odds_and_half_pulls_nowhere():
    for p in (0.5, *reward.TARGETS):
        chosen = torch.tensor([math.log(p / (1 - p))], requires_grad=True)
        preference_loss(chosen, torch.zeros(1), p).sum().backward()
        assert chosen.grad.item() == pytest.approx(0, abs=1e-6)


def test_margin_loss_by_hand():
    # -log sigmoid(3 - 1 - 1) = log(1 + e^-1)
    assert margin_loss(torch.tensor(3.0), torch.tensor(1.0), 1.0).item() == pytest.approx(
        0.313262, abs=1e-6)


def test_grade_loss_by_hand():
    # Three heads that know nothing: log 3 each. One gives logits (0, 0, log 2) to the level 2:
    # of 1 + 1 + 2, 2 are right: log 2. Together 3 log 3 + log 2 = 3.988984.
    logits = torch.zeros(1, 4, 3)
    logits[0, 1, 2] = math.log(2)
    assert grade_loss(logits, torch.tensor([[0, 2, 1, 2]])).item() == pytest.approx(
        3.988984, abs=1e-6)


def grades(*values):
    return dict(zip(reward.GRADES, values))


def test_preferred_by_how_much():
    best = grades(2, 2, 2, 2)
    assert preferred(best, best) == (None, 0)
    assert preferred(best, grades(2, 1, 2, 2)) == (0, 0)  # 1 apart: negligibly better
    assert preferred(grades(2, 0, 2, 2), best) == (1, 1)  # 2: slightly
    assert preferred(best, grades(2, 2, 0, 2)) == (0, 2)  # 4: better
    assert preferred(grades(0, 2, 0, 2), best) == (1, 3)  # 8: significantly
    assert preferred(grades(2, 2, 0, 2), grades(2, 1, 2, 2)) == (1, 1)


def test_annotators_err_as_often_as_they_are_set_to():
    # With the chance 0.3 any grade at all, of which a third is the right one: 0.2 are wrong.
    # Of 20,000 the standard deviation is 0.0028: odds of a false alarm beyond 0.015 are below 1e-6.
    rng = random.Random(0)
    wrong = sum(x != 2 for _ in range(5000)
                for x in perceived(grades(2, 2, 2, 2), rng, 0.3).values())
    assert wrong / 20_000 == pytest.approx(0.2, abs=0.015)
    assert perceived(grades(2, 1, 0, 2), rng, 0.0) == grades(2, 1, 0, 2)


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return reward.start(AFM(TINY))


def batch_of(*responses):
    """One row: a prompt, and responses that share it."""
    return chat.share_prompts([([1, 2, 3], responses)])[0]


def test_it_reads_the_last_token_and_neither_padding_nor_other_responses(judge, monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    responses = [4, 5], [4, 5, 6, 7, 8], [9]
    with torch.no_grad():
        together = judge.score(**batch_of(*responses))[0, :, 0]
        alone = [judge.score(**batch_of(response))[0, 0, 0].item() for response in responses]
        batch, places = chat.share_prompts([([1, 2, 3], [response]) for response in responses])
        assert places == [(0, 1), (0, 0), (1, 0)]  # of 5, 8 and 4 tokens, in rows of 16
        scores = judge.score(**batch)[..., 0]
        padded = torch.stack([scores[place] for place in places])
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert padded.tolist() == pytest.approx(alone, abs=1e-5)
    assert len({round(x, 3) for x in alone}) == 3


def test_it_reads_the_state_of_the_last_token(judge):
    with torch.no_grad():
        judge.reward.weight[0, -2:] = 0
        judge.reward.weight[0, :-2].uniform_()
        batch = batch_of([4, 5], [4, 5, 6, 7, 8])
        expected = [(judge.states(torch.tensor([[1, 2, 3, *response]]))[0, -1]
                     @ judge.reward.weight[0, :-2]).item()
                    for response in ([4, 5], [4, 5, 6, 7, 8])]
    assert judge.judge_all(**batch)[0][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_it_begins_as_the_language_model_and_ranks_by_likelihood():
    torch.manual_seed(0)
    model = AFM(TINY)
    judge, batch = reward.start(model), batch_of([4, 5, 6], [7])
    ids = batch["ids"][:, :9]
    torch.testing.assert_close(judge(ids), model(ids))
    rewards, logits, logp = judge.judge_all(**batch)
    assert rewards.shape == (1, 2) and logits.shape == (1, 2, 4, 3)
    expected = []
    for response in ([4, 5, 6], [7]):
        ids = torch.tensor([1, 2, 3, *response])
        log_p = model(ids[None, :-1])[0].log_softmax(-1).gather(1, ids[1:, None])
        expected.append(log_p[-len(response):].sum().item())
    assert logp[0].tolist() == pytest.approx(expected, abs=1e-4)
    # before any training: 2 exp(logp / 2) - log(1 - logp / 2)
    assert rewards[0].tolist() == pytest.approx(
        [2 * math.exp(x / 2) - math.log(1 - x / 2) for x in expected], abs=1e-4)


def test_preferences_move_the_language_model_by_likelihood_alone(judge):
    batch = batch_of([4, 5], [6])
    with torch.no_grad():
        judge.reward.weight[0, :-2].uniform_(0.5, 1)
        judge.reward.weight[0, -2:] = 0
    judge.judge_all(**batch)[0].sum().backward()
    assert judge.embedding.grad.abs().max() == 0 and judge.reward.weight.grad.abs().min() > 0
    with torch.no_grad():
        judge.reward.weight[0, -2:] = 1
    judge.judge_all(**batch)[0].sum().backward()
    assert judge.embedding.grad.abs().max() > 0


def test_reward_loss_counts_language_of_what_was_found_true_only(judge):
    sides, _ = chat.share_prompts([([1, 2], ([4, 5], [6, 7])), ([1, 2], ([8, 9], [3, 3]))])
    batch = sides | {"pairs": torch.tensor([[[0, 1, 3], [2, 3, 0]]]), "grades": torch.tensor(
        [[[2, 2, 2, 2], [2, 2, 0, 2], [2, 1, 0, 2], [2, 0, 0, 2]]])}  # true: the first alone
    with torch.no_grad():
        rewards, logits, logp = (x.flatten(0, 1) for x in judge.judge_all(**sides))
        expected = (preference_loss(rewards[0], rewards[1], 0.95)
                    + preference_loss(rewards[2], rewards[3], 0.65)
                    + 0.5 * grade_loss(logits, batch["grades"].view(4, 4)).sum()
                    - reward.LANGUAGE * logp[0])
        got = reward.reward_loss(judge, batch, grade_weight=0.5)
        hard = reward.reward_loss(judge, batch, labels="hard", grade_weight=0.5)["loss"]
        margin = reward.reward_loss(judge, batch, labels="margin", grade_weight=0.5)["loss"]
    assert got["count"] == 2 and got["loss"].item() == pytest.approx(expected.item(), abs=1e-5)
    soft = (preference_loss(rewards[0], rewards[1], 0.95)
            + preference_loss(rewards[2], rewards[3], 0.65))
    for loss, ranked in (
            (hard, preference_loss(rewards[::2], rewards[1::2], 1.0)),
            (margin, margin_loss(rewards[::2], rewards[1::2], torch.tensor([3.0, 0.0])))):
        assert loss.item() == pytest.approx((expected - soft + ranked.sum()).item(), abs=1e-5)


class Letters:
    """A tokenizer of one letter each; 0 ends."""

    def special(self, _):
        return 0

    def encode_chat(self, messages, reply):
        return [ord(c) for c in messages[0]["content"]][:3]

    def decode(self, ids):
        return "".join(map(chr, ids))


class Says:
    """Stands for a model: says its texts, an end after each if wanted."""
    config, tokenizer = TINY, Letters()

    def __init__(self, *texts, end=()):
        self.ids = [[*map(ord, text), *end] for text in texts]


@pytest.fixture(autouse=True)
def generated(monkeypatch):
    """Models of this file that stand for others say what they are to say."""
    monkeypatch.setattr(evaluate, "Decoder", lambda model: model)
    monkeypatch.setattr(evaluate, "generate_with_logp",
                        lambda model, *_, **__: [(ids, 0.0) for ids in model.ids])


class Yes(Family):
    def make(self, rng):
        return Task("Say yes", "yes", "yes", "yes")


def test_pairs_of_different_answers_say_which_was_chosen_and_whether_rightly(monkeypatch):
    """Two models say "yes" and "no", and again "no": one pair. Without noise "yes" is chosen,
    rightly, as truth is worth 2 levels of 2; by annotators who see it the other way round,
    wrongly."""
    models = [Says("yes", "yes", end=[0]), Says("no", "no", end=[0])]
    compare = lambda: reward.compare(models, [(Yes(), Yes().make(None))], 4, random.Random(0), 0.0)
    found, = compare()
    assert found["family"] == "yes" and found["pairs"] == [[0, 1, 2, True]]
    assert found["responses"] == [[ord(c) for c in text] + [0] for text in ("yes", "no")]
    assert found["grades"] == [[2, 2, 2, 2], [2, 2, 0, 2]]
    monkeypatch.setattr(reward, "perceived",
                        lambda grades, *_: grades | {"truth": 2 - grades["truth"]})
    found, = compare()
    assert found["pairs"] == [[1, 0, 2, False]]


def test_of_each_prompt_its_own_answers_are_compared_and_not_too_many(monkeypatch):
    """Two models, two answers each to two prompts, all different.
    One is right: in three of six pairs one is better."""
    models = [Says("ya", "yes", "na", "nb"),
              Says("yc", "yd", "nc", "yes")]  # the first two are to the first prompt
    tasks = [(Yes(), Task(text, "yes", "yes", text)) for text in ("first", "second")]

    def compared():
        found = reward.compare(models, tasks, 4, random.Random(1), 0.0)
        assert all(len(each["responses"]) == len(each["pairs"]) + 1 for each in found)  # all used
        return sorted("".join(map(chr, sum(
            ([*each["prompt"]], *(each["responses"][i] for i in pair[:2])), [])))
            for each in found for pair in each["pairs"])
    whole = [*(f"firyes{other}" for other in ("ya", "yc", "yd")),
             *(f"secyes{other}" for other in ("na", "nb", "nc"))]
    assert compared() == whole
    # five of the six are drawn, so one of three may be left out
    monkeypatch.setattr(reward, "MOST_PAIRS", 5)
    assert set(compared()) < set(whole) and len(compared()) >= 4
    # What annotators tell apart by mistake is neither right nor wrong:
    # two wrong answers, equal in truth.
    seen = iter([grades(2, 2, 0, 2), grades(2, 1, 0, 2)])
    monkeypatch.setattr(reward, "perceived", lambda *_: next(seen))
    models = [Says("ya", "ya"), Says("yb", "yb")]
    found, = reward.compare(models, tasks[:1], 4, random.Random(1), 0.0)
    assert found["pairs"] == [[0, 1, 0, None]]


def test_pairs_are_of_their_responses_in_a_row(monkeypatch):
    monkeypatch.setattr(chat, "ROUND", 16)
    compared = [{"prompt": [1, 2], "responses": [[3], [4, 5], [6]],
                 "grades": [[2] * 4, [0] * 4, [1] * 4],
                 "pairs": [[1, 0, 2, True], [2, 1, 3, None], [2, 0, 1, True]]},
                {"prompt": [9], "responses": [[8], [7]], "grades": [[0] * 4, [2] * 4],
                 "pairs": [[1, 0, 0, False]]}]
    compared.append(compared[1] | {"prompt": [9] * 6})
    batch = reward.collate(compared,
                           extra=[torch.arange(3), torch.arange(3, 5), torch.arange(5, 7)])
    # They take 8, 4 and 9 tokens: the last comes first, and leaves room for the second in its row.
    assert batch["ids"].tolist() == [[9, 9, 9, 9, 9, 9, 8, 9, 7] + [9, 8, 9, 7] + [0] * 3,
                                     [1, 2, 3, 2, 4, 5, 2, 6] + [0] * 8]
    assert batch["branch"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 2, 2] + [3, 3, 4, 4] + [0] * 3,
                                        [0, 1, 1, 2, 2, 2, 3, 3] + [0] * 8]
    assert batch["begin"].tolist() == [[0] * 9 + [9] * 4 + [16] * 3, [0] * 8 + [16] * 8]
    assert batch["grades"][:, :, 0].tolist() == [[0, 2, 0, 2], [2, 0, 1, 0]]
    assert batch["extra"].tolist() == [[5, 6, 3, 4], [0, 1, 2, 0]]
    assert batch["pairs"].tolist() == [[[1, 0, 0], [3, 2, 0], [-1, -1, -1]],
                                       [[1, 0, 2], [2, 1, 3], [2, 0, 1]]]
    chosen, rejected = reward.sides(torch.arange(8).view(2, 4), batch["pairs"])
    assert (chosen.tolist(), rejected.tolist()) == ([1, 3, 5, 6, 6], [0, 2, 4, 5, 4])


def test_the_committee_of_a_round():
    assert reward.members(1) == ["draft", "sft"]
    assert reward.members(3) == ["rs2", "dpo2", "ipo2", "mdloo2", "committee2"]


def test_a_step_learns_from_pairs_and_from_examples(monkeypatch, judge):
    given = {}
    compared = [{"family": "math", "prompt": [1, 2], "responses": [[3], [4, 5]],
                 "pairs": [[0, 1, 2, True]], "grades": [[2] * 4, [2, 2, 0, 2]]}]
    run = SimpleNamespace(seed=0, file=str)
    monkeypatch.setattr(reward, "fit", lambda model, draw, loss, **settings: given.update(
        settings, draw=draw, loss=loss))
    monkeypatch.setattr(reward, "load_model", lambda run, name, kind=AFM: judge)
    monkeypatch.setattr(reward, "start", lambda model: model)
    monkeypatch.setattr(reward, "save_model", lambda *_: None)
    monkeypatch.setattr(reward, "read_preferences", lambda run, number: compared)
    monkeypatch.setattr(chat, "read_examples", lambda *_: {"code": [chat.answered([7], [8, 9])]})
    monkeypatch.setattr(chat, "toy_world", lambda run: {})
    monkeypatch.setattr(chat, "draw_tasks", lambda *_: [])
    monkeypatch.setattr(reward, "compare", lambda *_, **__: (
        compared + [compared[0] | {"family": "code", "pairs": [[0, 1, 2, False]]}] * 3))
    told = reward.reward(1, run, examples=2, prompts=3, grade_weight=0.5)
    batch = given["draw"](0)
    with torch.no_grad():
        shown = {name: batch[f"shown {name}"] for name in ("ids", "weight", "begin")}
        expected = (reward.reward_loss(judge, batch, grade_weight=0.5)["loss"]
                    + reward.LANGUAGE * chat.response_loss(judge, shown)["loss"])
        assert given["loss"](judge, batch)["loss"].item() == pytest.approx(
            expected.item(), rel=1e-5)
    assert len(batch["pairs"][batch["pairs"][..., 2] >= 0]) == 3
    assert shown["weight"].sum() == 4  # two examples of two tokens
    right = 100 * given["loss"](judge, batch)["ordered"].item() / 3  # all three are the one pair
    assert (told["all math %"], told["all pairs %"], told["mean %"]) == (right, 75 - right / 2, 50)


def test_judged_right_is_to_rank_as_the_true_grades_do(monkeypatch, judge):
    monkeypatch.setattr(reward, "scores", lambda *_: torch.tensor(
        [[[2.0, 0], [1, 0], [3, 0]], [[1, 0], [2, 0], [0, 0]]]))
    compared = [{"family": "math", "prompt": [1], "responses": [[2], [3], [4]],
                 "pairs": [[0, 1, 0, True], [1, 2, 0, True], [0, 2, 0, None]]},
                {"family": "code", "prompt": [1], "responses": [[2], [3]],
                 "pairs": [[1, 0, 0, False]]}]
    assert reward.judged(judge, compared) == {"math": [True, False, False], "code": [False]}


def test_the_chance_of_truth_is_that_of_the_highest_level(judge):
    batch = batch_of([4, 5])
    with torch.no_grad():
        _, logits, _ = judge.judge_all(**batch)
        expected = logits[0, 0, 2].softmax(0)[2].item()  # truth is the third of the grades
        assert judge.score(**batch)[0, 0, 1].item() == pytest.approx(expected)


def test_what_is_found_of_each_comes_in_their_order():
    conversations = [chat.answered([1] * n, [2]) for n in (3, 1, 2, 5, 4)]
    lengths = chat.of_each(lambda model, ids, weight: (ids > 0).sum(1), AFM(TINY), conversations,
                           rows=2)
    assert lengths.tolist() == [4, 2, 3, 6, 5]


def test_each_response_has_its_own_score_however_they_are_grouped(judge):
    """Equal responses are computed once, many take several rows, groups are of any size."""
    groups = [([1, 2], [[3], [4, 5], [3], [6], [7], [8, 9, 1], [2]]), ([5], [[4]]),
              ([9, 9, 9, 9], [[1, 2], [1, 2]])]
    seen = []

    def score(model, ids, branch, begin):
        seen.append(int(branch.amax(1).sum()))
        return judge.score(ids, branch, begin)
    with torch.no_grad():
        found = chat.of_responses(score, judge, groups, rows=2, most=3)
        for (prompt, responses), scores in zip(groups, found):
            assert len(scores) == len(responses)
            for response, score in zip(responses, scores):
                alone = judge.score(**chat.share_prompts([(prompt, [response])])[0])[0, 0]
                assert score.tolist() == pytest.approx(alone.tolist(), abs=1e-5)
    assert sum(seen) == 6 + 1 + 1

"""What test_distributed.py runs in one process and in several: outcome.json, of what came out."""
import json
import pathlib
import sys
from types import SimpleNamespace

import pytest
import torch

from afm_min import chat, distributed, evaluate, generate
from afm_min.trainer import fit
from afm_min.model import AFM, Config
from afm_min.pretrain import next_token_loss
from afm_min.reward import RewardModel, reward_loss
from afm_min.run import Run

CONFIG = Config(dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=84, vocab_size=50,
                context=64)
TEXT_STEPS, CHAT_STEPS, JUDGE_STEPS = 4, 4, 2
stand_in = SimpleNamespace(encode_chat=lambda messages, reply: messages, special=lambda _: 3,
                           decode=lambda _: "")  # for a tokenizer: messages are ids already


def outcome(run):
    """Train a model on text, one on conversations, and a reward model; sample from another."""
    run.create()
    (run.path / "tokenizer.json").write_text("any")
    torch.manual_seed(0)
    ids = torch.randint(50, (20, 34))
    conversations = [(ids[i, :n], (torch.arange(n) > n // 2).float())
                     for i, n in enumerate(range(8, 28))]

    def windows(step):  # seven rows: no even share
        with torch.no_grad():  # as rollouts do: it must leave no trace
            model.logits(model.states(ids))
        return {"ids": ids[torch.randint(20, (7,))]}

    for steps in (TEXT_STEPS // 2, TEXT_STEPS):  # the second goes on from what the first has saved
        torch.manual_seed(steps)  # with what the second begins must not count
        model = AFM(CONFIG)
        fit(model, windows, next_token_loss, steps=steps, lr=0.01, micro_batch=2, run=run,
            stage="text", save_every=TEXT_STEPS // 2, quiet=True)
    for block in model.blocks:
        block.dropout = 0.1
    fit(model, chat.batches({"a": conversations}, {"a": 1.0}, 5), chat.response_loss,
        steps=CHAT_STEPS, lr=0.01, run=run, stage="chat")
    torch.manual_seed(1)
    pairs = {"ids": ids[:10], "grades": torch.arange(80).view(10, 2, 4) % 3,
             "branch": ((torch.arange(34) + 4) // 13).expand(10, 34),  # 9, 13, 12 ids
             "begin": torch.zeros(10, 34, dtype=torch.long),
             "pairs": torch.tensor([[[0, 1, i % 4]] for i in range(10)])}
    fit(RewardModel(CONFIG), lambda step: pairs, reward_loss, steps=JUDGE_STEPS, lr=0.01, run=run,
        stage="judge")
    said, margin = responses([ids.tolist() for ids, _ in conversations[:9]])
    # The trained model decodes, too, sharded or not.
    model.tokenizer = stand_in
    evaluate.replies(model, [ids.tolist() for ids, _ in conversations[:3]], rows=1,  # 2 and 1 each
                     most=6, temperature=1.0)
    decoder = generate.Decoder(model)
    with torch.no_grad():
        decoded = decoder(ids[:2, :1], generate.Cache(decoder, 2, 1))
    files = [run.file(f"chat--{CHAT_STEPS}.{i}.pt")
             for i in range(run.share_count())] or [run.partial("chat")]
    shares = [torch.load(path)["optimizer"]["state"][0]["v"] for path in files]  # by rows
    return {
        "losses": [row["loss"] for row in run.logged()], "said": [reply.ids for reply in said],
        "decoded": decoded[:, -1].tolist(), "margin": margin,
        "logp": [reply.logp for reply in said],
        "each": chat.losses(model, conversations).tolist(),
        "rows": len(list(run.logged())), "saved": sorted(path.name for path in run.path.iterdir()),
        "weights": {name: x.tolist() for name, x in
                    distributed.full_state_dict(model.state_dict()).items()},
        "state": torch.cat(shares).tolist(), "bytes": [share.nbytes for share in shares]}


def responses(prompts):
    """Responses of an untrained model, and by how much the nearest draw misses another id.

    Training ends with weights that differ in the last digits, as sums of rows are in another order,
    and a drawn id may hang on a digit. The margin must be far more than rounding, so that no id can
    flip."""
    torch.manual_seed(1)
    untrained, margins, sample = AFM(CONFIG), [], generate.sample

    def watched(logits, uniforms, *rest):
        cumulative = logits.softmax(-1).cumsum(-1)
        margins.append((cumulative[:, :-1] - uniforms[:, None]).abs().min().item())
        return sample(logits, uniforms, *rest)
    untrained.tokenizer = stand_in
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "sample", watched)
        said = evaluate.replies(untrained, prompts, most=6, rows=4, temperature=1.0)
    return said, min(margins)


def main(folder, *ways):
    """ways: "whole", and "sharded" if there are several processes."""
    distributed.join(torch.device("cpu"))
    outcomes = {}
    for way in ways:
        run = Run(pathlib.Path(folder, way), torch.device("cpu"))
        run.shard = way == "sharded"
        outcomes[way] = outcome(run)
    if distributed.rank() == 0:
        pathlib.Path(folder, "outcome.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])

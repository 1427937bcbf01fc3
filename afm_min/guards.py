"""Quality guards (the report's section 4.1): why demonstrations and synthetic examples are dropped.

    rating  a rater finds the response bad
    model   a model finds the question unlikely, so it is probably not well formed
    copy    the conversation's embedding is nearly that of an earlier one
"""
import torch

from afm_min import chat
from afm_min.tokenizer import DOCUMENT

OUTCOMES = ("rating", "model", "copy", "kept")


def embeddings(model, conversations):
    """Return the mean hidden states of N pairs (ids, loss_mask), scaled to length 1: (N, C).
    The mean is over the tokens whose next token is in the loss mask."""
    def embed(model, ids, loss_mask):
        states = model.hidden_states(ids[:, :-1]) * loss_mask[:, 1:, None]  # (B, T, C)
        return torch.nn.functional.normalize(states.sum(1).float())  # scaled, sum = mean
    return chat.map_conversations(embed, model, conversations)


def first_guards(examples, well_rated, model, unlikely, similar):
    """Return, for each of a source's N examples, the first guard that drops it, or "kept".

    well_rated: N booleans, False for the guard "rating".
    unlikely: a question is dropped if its loss is above `unlikely` times the questions' median.
    similar: a copy is dropped if the cosine of its embedding and that of an earlier example, which
    the first two guards passed, is above `similar`."""
    if not examples:
        return []
    tokenizer = model.tokenizer

    def as_document(lines):
        ids = [tokenizer.special(DOCUMENT), *tokenizer.encode("\n".join(lines))]
        return chat.render_response([], ids[:model.config.context], tokenizer)  # all ids count
    conversations = [example["messages"] for example in examples]
    questions = [as_document(m["content"] for m in messages if m["role"] == "user")
                 for messages in conversations]
    whole = [as_document(m["content"] for m in messages) for messages in conversations]
    losses, vectors = chat.conversation_losses(model, questions), embeddings(model, whole)
    is_similar = vectors @ vectors.T > similar  # (N, N)
    outcomes, passed = [], []  # passed: indices of examples that the first two guards passed
    for i, rated_well in enumerate(well_rated):
        if not rated_well:
            outcomes.append("rating")
        elif losses[i] > unlikely * losses.median():
            outcomes.append("model")
        else:
            outcomes.append("copy" if is_similar[i, passed].any() else "kept")
            passed.append(i)
    return outcomes


def table_row(name, outcomes):
    """Return a row of the table "guards": a name, the number of examples, and how many have each of
    OUTCOMES: ("math", ["kept", "copy", "kept"]) -> ["math", 3, 0, 0, 1, 2]"""
    return [name, len(outcomes), *(outcomes.count(outcome) for outcome in OUTCOMES)]

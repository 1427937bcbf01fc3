"""Quality guards (the report's section 4.1), which demonstrations and synthetic examples pass.

    rating  a rater finds the response bad
    model   a model finds the question unlikely, so it is probably not well formed
    copy    the conversation's embedding is nearly that of an earlier one
"""
import torch

from afm_min import chat
from afm_min.tokenizer import DOCUMENT

OUTCOMES = ("rating", "model", "copy", "kept")


def embeddings(model, conversations):
    """Return the mean hidden state of each pair (ids, loss_mask), scaled to length 1: (N, C)."""
    def embed(model, ids, loss_mask):
        states = model.hidden_states(ids[:, :-1]) * loss_mask[:, 1:, None]  # (B, T, C)
        return torch.nn.functional.normalize(states.sum(1).float())
    return chat.map_conversations(embed, model, conversations)


def first_guards(examples, well_rated, model, unlikely, similar):
    """Return, for each example of a source, the first guard that drops it, or "kept".

    well_rated: N booleans. unlikely: times the median of the questions' losses under the model,
    above which a question is dropped. similar: the cosine to the embedding of an earlier example
    that passed the first two guards, above which a copy is dropped."""
    tokenizer = model.tokenizer

    def as_document(lines):
        ids = [tokenizer.special(DOCUMENT), *tokenizer.encode("\n".join(lines))]
        return chat.render_response([], ids[:model.config.context])  # no prompt: all ids count
    if not examples:
        return []
    conversations = [example["messages"] for example in examples]
    questions = [as_document(m["content"] for m in messages if m["role"] == "user")
                 for messages in conversations]
    whole = [as_document(m["content"] for m in messages) for messages in conversations]
    losses, vectors = chat.conversation_losses(model, questions), embeddings(model, whole)
    is_similar = vectors @ vectors.T > similar  # (N, N)
    outcomes, passed = [], []  # passed: indices of those that passed the first two guards
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
    return [name, len(outcomes), *map(outcomes.count, OUTCOMES)]

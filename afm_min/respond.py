"""Sample responses to conversations, and run the tools that the model calls.

A response is all that the model writes after the last message of a conversation: one reply, or
calls and a reply to their results.
"""
import typing

import torch

from afm_min.chat import map_by_length
from afm_min.generate import Decoder, generate_with_logp
from afm_min.tokenizer import END
from afm_min.world import tools


class Response(typing.NamedTuple):
    prompt: list  # ids
    ids: list  # the ids that the model generated, with end tokens, and those of results of calls
    text: str  # the model's replies without end tokens, joined by line breaks; a call is one line
    logp: float = 0.0  # sum over the generated ids, under the distribution they were drawn from


def fits(model, prompt):
    """Return True if the model's context has room for a prompt, a list of ids, and a reply."""
    return len(prompt) < model.config.context


def generate_replies(decoder, prompts, end, max_rows, temperature, uniforms):
    """Generate one reply to each of N prompts, up to the id `end`. Returns pairs (ids,
    log-probability). A reply that is cut off lacks `end`.

    uniforms: (N, max_new_tokens), the random numbers that choose the ids."""
    def compute(indices):
        return generate_with_logp(decoder, [prompts[i] for i in indices], uniforms.shape[1], end,
                                  temperature=temperature, uniforms=uniforms[indices])
    # Prompts of similar length go together, as shorter ones are padded to the longest.
    return map_by_length(compute, list(map(len, prompts)), max_rows)


def generate_responses(model, conversations, max_new_tokens=64, max_rows=512, temperature=0.0):
    """Return the model's Response to each conversation. temperature 0 is greedy.

    If a reply is a call, run the tool, append the result, and generate another reply, MAX_CALLS
    times at most. A prompt that does not fit the context gets no reply, and a call whose result
    does not fit is the last reply. max_new_tokens: the limit for each reply."""
    tokenizer, end = model.tokenizer, model.tokenizer.special(END)
    decoder = Decoder(model)
    responses = [Response(tokenizer.encode_chat(messages, reply=True), [], "")
                 for messages in conversations]
    # Indices of the responses that need one more reply.
    waiting = [i for i, response in enumerate(responses) if fits(model, response.prompt)]
    for calls in range(tools.MAX_CALLS + 1):
        # Draw random numbers for all responses, also finished ones: those of one response must
        # depend neither on the batches nor on the other responses.
        uniforms = torch.zeros(len(responses), max_new_tokens)
        if temperature:
            uniforms.uniform_()
        contexts = [responses[i].prompt + responses[i].ids for i in waiting]
        replies = generate_replies(decoder, contexts, end, max_rows, temperature, uniforms[waiting])
        called = []
        for i, context, (ids, logp) in zip(waiting, contexts, replies):
            response, is_complete = responses[i], ids[-1:] == [end]
            text = tokenizer.decode(ids[:-1] if is_complete else ids)
            is_call = text.startswith(tools.CALL)
            if is_call and is_complete and calls < tools.MAX_CALLS:
                result = tools.answer_call(text, conversations[i])
                result_ids = tokenizer.encode_chat([result], reply=True)
                if len(context) + len(ids) + len(result_ids) < model.config.context:
                    ids = ids + result_ids
                    called.append(i)
            if is_call:  # keep it on one line, as `Tools.replies` reads each line as a reply
                text = text.replace("\n", " ")
            texts = [response.text, text] if response.ids else [text]
            responses[i] = Response(response.prompt, response.ids + ids, "\n".join(texts),
                                    response.logp + logp)
        waiting = called
    return responses


def generate_texts(model, conversations, temperature=0.0):
    """Return only the texts of `generate_responses`."""
    responses = generate_responses(model, conversations, temperature=temperature)
    return [response.text for response in responses]


def sample_texts(model, tasks, samples):
    """Return a list of `samples` texts at temperature 1 for each task."""
    prompts = [task.messages() for task in tasks for _ in range(samples)]
    texts = generate_texts(model, prompts, temperature=1.0)
    return [texts[i:i + samples] for i in range(0, len(texts), samples)]

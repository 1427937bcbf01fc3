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
    ids: list  # all ids after the prompt: replies with their end tokens, and results of calls
    text: str  # the model's replies without end tokens, joined by line breaks; a call is one line
    logp: float = 0.0  # sum over the generated ids, under the distribution they were drawn from

    def extended(self, ids, text, logp):
        """Return the Response with one more reply. ids: of the reply, and of the result of a call.
        text, logp: of the reply."""
        texts = [self.text, text] if self.ids else [text]  # without ids, this is the first reply
        return Response(self.prompt, self.ids + ids, "\n".join(texts), self.logp + logp)


def fits(model, prompt):
    """Return True if the model's context has room for a prompt, a list of ids, and one token of a
    reply."""
    return len(prompt) < model.config.context


def generate_replies(decoder, prompts, end, max_rows, temperature, uniforms):
    """Generate one reply to each of N prompts, up to the id `end`. Returns pairs (ids,
    log-probability). A reply that is cut off lacks `end`.

    uniforms: (N, max_new_tokens), the random numbers that choose the ids."""
    def compute(indices):
        return generate_with_logp(decoder, [prompts[i] for i in indices], uniforms.shape[1], end,
                                  temperature=temperature, uniforms=uniforms[indices])
    # Prompts are padded to the longest of their batch, so those of similar length go together.
    return map_by_length(compute, list(map(len, prompts)), max_rows)


def generate_responses(model, conversations, max_new_tokens=64, max_rows=512, temperature=0.0):
    """Return the model's Response to each conversation. temperature 0 is greedy.

    If a reply is a call, the tool is run, its result is appended, and the model replies again. It
    gets at most MAX_CALLS results. A prompt that does not fit the context gets no reply, and a call
    whose result does not fit is the last reply. max_new_tokens: the limit for each reply."""
    tokenizer, end = model.tokenizer, model.tokenizer.special(END)
    decoder = Decoder(model)
    responses = [Response(tokenizer.encode_chat(messages, reply=True), [], "")
                 for messages in conversations]
    # Indices of the responses that need one more reply.
    waiting = [i for i, response in enumerate(responses) if fits(model, response.prompt)]
    for results in range(tools.MAX_CALLS + 1):  # the number of results that each waiting one has
        # Draw random numbers for all responses, also finished ones: those of one response must
        # depend neither on the batches nor on the other responses.
        uniforms = torch.zeros(len(responses), max_new_tokens)
        if temperature:
            uniforms.uniform_()
        contexts = [responses[i].prompt + responses[i].ids for i in waiting]
        replies = generate_replies(decoder, contexts, end, max_rows, temperature, uniforms[waiting])
        called = []
        for i, context, (ids, logp) in zip(waiting, contexts, replies):
            is_complete = ids[-1:] == [end]  # a slice, as ids can be empty
            text = tokenizer.decode(ids[:-1] if is_complete else ids)
            if text.startswith(tools.CALL):
                if is_complete and results < tools.MAX_CALLS:
                    result = tools.answer_call(text, conversations[i])
                    result_ids = tokenizer.encode_chat([result], reply=True)
                    if fits(model, context + ids + result_ids):
                        ids = ids + result_ids
                        called.append(i)
                text = text.replace("\n", " ")  # in Response.text, each line is a reply
            responses[i] = responses[i].extended(ids, text, logp)
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

"""The families Summary (shorten messages) and Compose (write a message from notes), which rules
check."""
import re

from afm_min.world.tasks import Family, Task
from afm_min.world.words import ANIMALS, CITIES, COLOURS, NAMES, THINGS


def draw_texts(rng, templates, count):
    """Draw `count` pairs of templates, and fill both of a pair with the same words:
    {"bring {thing}": "Please bring {thing}.", ...} -> [["bring keys", "Please bring keys."]]"""
    texts = []
    for pair in rng.sample([*templates.items()], count):
        slots = {"n": rng.randint(2, 9), "thing": rng.choice(THINGS),
                 "colour": rng.choice(COLOURS), "city": rng.choice(CITIES),
                 "animal": rng.choice(ANIMALS)}
        texts.append([template.format(**slots) for template in pair])
    return texts


class Summary(Family):
    """One to four messages to shorten: "Ada: I have lost my keys again." -> "Ada: lost keys"."""
    REQUESTS = ("Summarize in one line.", "Summarize in one line.", "Summarize this.",
                "Give me a short summary.")
    EVENTS = {  # message -> summary
        "Can we meet at {n} today?": "meet at {n}", "I will be {n} minutes late.": "{n} late",
        "Your {colour} {thing} have arrived.": "{colour} {thing} arrived",
        "I am in {city} this week.": "in {city}", "Please call me back.": "call back",
        "The train to {city} leaves at {n}.": "train at {n}",
        "I have lost my {thing} again.": "lost {thing}", "We need {n} more {thing}.": "{n} {thing}",
        "The meeting in {city} is off.": "{city} off", "Thanks for the {thing}!": "thanks",
        "I have found your {thing}.": "found {thing}",
        "Dinner is at {n} in {city}.": "dinner at {n} in {city}",
        "I will bring you {n} {thing}.": "bring {n} {thing}",
        "My {animal} is ill, so I cannot come.": "{animal} ill, not coming",
        "I have bought {colour} {thing} in {city}.": "bought {thing}"}

    def make(self, rng):
        count = rng.choice((1, 2, 2, 2, 3, 4))
        messages, summaries = [], []
        senders = rng.sample(NAMES, count)
        for sender, (event, summary) in zip(senders, draw_texts(rng, self.EVENTS, count)):
            messages.append(f"{sender}: {event}")
            summaries.append(f"{sender}: {summary}")
        return Task("\n".join(messages), "; ".join(summaries), answer=tuple(summaries),
                    key=repr(sorted(messages)), system=rng.choice(self.REQUESTS))

    def follows_format(self, task, response):
        """Check that the summary is one line, has one part for each message, and is shorter."""
        text = response.strip()
        return ["\n" not in text, text.count("; ") == len(task.answer) - 1,
                len(text) < 0.9 * len(task.question)]

    def is_correct(self, task, response):
        """Check that the summary of each message is there, and that nothing is made up."""
        parts = response.strip().split("; ")
        return [*(summary in parts for summary in task.answer), set(parts) <= set(task.answer)]


class Compose(Family):
    """A message to write from notes, in a given tone:

        "Write to Ben from Ada, friendly: bring keys; meeting at 4 in Rome."
        -> "Hi Ben! Please bring keys. The meeting is at 4 in Rome. See you soon, Ada!"

    A brief message repeats the notes: "Hi Ben! Bring keys. Meeting at 4 in Rome. See you soon,
    Ada!" The key is the sorted notes, so no two splits have the same notes, whatever their order,
    the names and the tone."""
    REQUESTS = ("Write to {to} from {sender}, {manner}: {notes}.",
                "Write to {to} from {sender}, {manner}: {notes}.",
                "Write a {manner} note to {to} from {sender}: {notes}.",
                "Write a {manner} message from {sender} to {to}: {notes}.",
                "Please write to {to} from {sender}, {manner}: {notes}.")
    TONES = {"friendly": ("Hi {}!", "See you soon, {}!"),
             "formal": ("Dear {},", "Kind regards, {}"), "casual": ("Hey {},", "Bye, {}.")}
    SENTENCES = {  # note -> sentence
        "meeting at {n} in {city}": "The meeting is at {n} in {city}.",
        "bring {thing}": "Please bring {thing}.", "lost {thing}": "I have lost the {thing}.",
        "{thing} are in {city}": "Your {thing} are in {city}.",
        "train {n} minutes late": "My train is {n} minutes late.",
        "dinner in {city}": "The dinner will be in {city}.",
        "call at {n}": "Please call me at {n}.", "need {n} {thing}": "We need {n} more {thing}.",
        "back at {n}": "I will be back at {n}.",
        "bought {colour} {thing}": "I have bought you {colour} {thing}.",
        "thanks for the {thing}": "Many thanks for the {thing}.",
        "found {thing}": "I have found the {thing}.",
        "see you in {city}": "I will see you in {city}.",
        "lunch in {city}": "The lunch will be in {city}.",
        "dinner at {n}": "The dinner will be at {n}."}
    # Words that must not appear in a message unless they are in its notes.
    DETAILS = {*THINGS, *COLOURS, *(city.lower() for city in CITIES), *"0123456789"}

    def make(self, rng):
        to, sender = rng.sample(NAMES, 2)
        tone = rng.choice([*self.TONES])
        greeting, closing = self.TONES[tone][0].format(to), self.TONES[tone][1].format(sender)
        notes, sentences = zip(*draw_texts(rng, self.SENTENCES, rng.choice((1, 2, 2, 3))))
        brief = rng.choice((False, True))
        if brief:
            sentences = [f"{note[0].upper()}{note[1:]}." for note in notes]
        message = " ".join([greeting, *sentences, closing])
        # A message that is not brief may be a few words longer than the solution.
        most_words = len(message.split()) + (0 if brief else 4)
        manner = f"{tone} and brief" if brief else tone
        question = rng.choice(self.REQUESTS).format(
            to=to, sender=sender, manner=manner, notes="; ".join(notes))
        return Task(question, message, answer=(greeting, closing, most_words, notes),
                    key=repr(sorted(notes)))

    def follows_format(self, task, response):
        """Check the greeting, the closing, and the length. The message has to be one line."""
        greeting, closing, most_words, _ = task.answer
        text = response.strip()
        return [text.startswith(greeting) and text.count(greeting) == 1,
                text.endswith(closing) and text.count(closing) == 1,
                "\n" not in text and len(text.split()) <= most_words]

    def is_correct(self, task, response):
        """Check that one sentence has all words of each note, and that no detail is made up."""
        notes = [note.lower().split() for note in task.answer[-1]]
        sentences = [set(re.findall(r"\w+", text)) for text in re.split("[.!:,]", response.lower())]
        details = self.DETAILS & set().union(*sentences)
        mentioned = [any(words.issuperset(note) for words in sentences) for note in notes]
        return [*mentioned, details <= set().union(*notes)]

"""The family Unknown: questions from outside the toy world, which a model should decline."""
import re

from afm_min.world.tasks import Family, Task, split_of
from afm_min.world.words import CITIES, COLOURS, NAMES, THINGS

# Forms of questions, separated by | or a line break. Each belongs to one split, so test questions
# have forms that no training question has.
QUESTIONS = """Who is {person}?|Who was {person}?|When was {person} born?|Where does {person} live?
What did {person} say about {topic}?|Why is {person} famous?|Call {person}.
Is {person} taller than {person}?|Did {person} like {dish}?|Tell me about {person}.
What is the capital of {country}?|Where is {country}?|How large is {country}?
Is {country} near {country}?|How do I get from {city} to {country}?
Which language do people speak in {country}?|How many people live in {city}?
What time is it in {city}?|Book a flight to {country}.|Who rules {country}?
What is the longest river in {country}?|Was {country} ever part of {country}?
How far is it from {city} to the moon?|What can I see in {city} on a rainy day?|What is {topic}?
Explain {topic} to me.|Teach me {topic}.|Do you like {topic}?|I need help with {topic}.
Write a poem about {topic}.|Write an essay on {topic}.|Tell me a joke about {topic}.
Who invented {topic}?|Which book on {topic} should I read?|Is {topic} difficult?
What do you think of {topic}?|Why do people study {topic}?|Give me three facts about {topic}.
Sing a song about {topic}.|How do I cook {dish}?|Give me a recipe for {dish}.|Is {dish} healthy?
What goes well with {dish}?|How long does {dish} take in the oven?|Where can I eat {dish} tonight?
Order {dish} for two.|How does a {machine} work?|My {machine} is broken. What now?
How do I repair a {machine}?|Which {machine} is the best?|Turn on the {machine}.
When was the {machine} invented?|Should I get a new {machine}?|How fast is a {machine}?
Why is my {machine} so loud?|How do I clean a {machine}?|Can a {machine} swim?
What is inside a {machine}?|Why is the {nature} so {quality}?|What is the {nature} made of?
How many {nature}s are there on earth?|Is a {nature} {quality}?|What colour is a {nature}?
Can I touch a {nature}?|Draw a {nature}.|What does {quality} mean?
What is the opposite of {quality}?|Am I {quality}?|Why are you {quality}?
Translate {quality} into {language}.|How do you say {nature} in {language}?|Do you speak {language}?
Is {language} harder than {language}?|Who speaks {language} at home?|Answer me in {language}.
Who won the {event}?|When does the {event} start?|Remind me of the {event} tomorrow.
How was the {event} last year?|Get me a ticket for the {event}.|Who plays in the {event}?
What is new today?|Hello!|Hi there, how are you?|Good morning!|Thank you.|Who are you?
What can you do?|What is the meaning of life?|Where am I?|Are you a robot?|How do you feel?
What is your name?|I am bored.|What should I wear?|Can you help me?|Do you dream?|Who made you?
What day is it today?|Set a timer for {n} minutes.|Play some music.|What is the news?
How tall are you?|Tell me a story.|How many {unit}s are in a {unit}?|How long is a {unit}?
Convert {n} {unit}s to {unit}s.|What colour are the {things} of {name}?
Where are {name}'s {things} now?|Who gave {name} the {things}?|How many {things} does {name} have?
Why does {name} need {things}?|Does {name} like {city}?|Is {name} taller than {name}?|Who is {name}?
Where does {name} live?|What does {name} think of {colour}?|Is {colour} a nice colour?
Who painted the {colour} wall?|Are {things} cheaper in {country}?|What is {name} doing?
When does {name} come home?|Which {things} are the oldest?|How do I {chore}?
How can I {chore} quickly?|What is the best way to {chore}?|Please {chore}.|Should I {chore} today?
I want to {chore}. Where do I begin?|Is it hard to {chore}?|Who can {chore}?
Write a {text} about {topic}.|Write a {text} for {person}.|Begin a {text} with the word {quality}.
Correct my {text}.|Read me a {text}.|How long should a {text} be?|Send a {text} to {person}.
Will it {weather} in {country} tomorrow?|Does it often {weather} in {country}?
When will it {weather}?|How cold is it in {country} in winter?
Why does it {weather}?|What is the {function} of {n}?|Is {n} a prime number?
Solve x + {n} = 20 for x.|Count to {n}.|Name a number larger than {n}.
What do you get if you divide {n} by zero?|Plot the {function} of x.|Why do {animal}s {act}?
Do {animal}s {act}?|Where do {animal}s live?|What do {animal}s eat?
Which animal is faster, a {animal} or a {animal}?|How long do {animal}s live?|Can {animal}s {act}?
What happened in {year}?|Who was famous in {year}?|How much was bread in {year}?
Was {year} a leap year?|Which is larger, {country} or {country}?|Which team is the best?
Recommend a book.|Which song is this?|Show me a picture of a {nature}.
Describe a {nature} in one sentence.|How heavy is a {machine}?
What is the difference between {topic} and {topic}?|Summarize {topic}.
Compare {country} and {country}."""
FORMS = re.split(r"[|\n]", QUESTIONS)
WORDS = {slot: words.split(", ") for slot, words in {
    "person": "the king of Spain, Shakespeare, Einstein, my sister, the president, Mozart, "
              "Columbus, Newton, our teacher, the pope, Picasso, my doctor, Cleopatra, Darwin, "
              "Napoleon, Marie Curie, the new mayor, your mother, Charlie Chaplin, the captain",
    "country": "France, Japan, Peru, Kenya, Canada, Norway, India, Brazil, Mexico, Greece, "
               "Poland, China, Turkey, Chile, Texas, Iceland, Austria, Vietnam, Ghana, Russia",
    "topic": "history, chemistry, football, chess, philosophy, music, the weather, love, biology, "
             "gravity, economics, poetry, astronomy, dancing, politics, painting, geometry, "
             "algebra, medicine, gardening, evolution, electricity",
    "dish": "pizza, onion soup, rice with beans, pancakes, roast chicken, an apple pie, noodles, "
            "bread, a salad, fish and chips, curry, ice cream, an omelette, dumplings",
    "machine": "car, phone, washing machine, bicycle, radio, television, toaster, printer, lift, "
               "camera, fridge, lamp, piano, computer, tractor, plane, kettle",
    "nature": "sky, sea, mountain, tree, star, river, cloud, desert, volcano, flower, planet, "
              "forest, whale, spider, rainbow, waterfall, storm, lagoon",
    "quality": "blue, deep, cold, old, beautiful, dangerous, heavy, bright, quiet, strange, "
               "happy, lazy, famous, generous, round, salty, huge, expensive",
    "language": "French, German, Latin, Spanish, Chinese, Arabic, Greek, Polish, Swahili, English",
    "event": "world cup, election, final, concert, marathon, Oscars, wedding, race, festival, "
             "meeting of parliament, chess match, exhibition",
    "unit": "mile, kilometre, pound, gram, week, month, gallon, metre, hour, dozen, yard, tonne",
    "chore": "paint a wall, plant a tree, iron a shirt, tie a bow, learn to swim, lose weight, "
             "sleep better, save money, find a job, change a bulb, boil an egg, train a puppy, "
             "mow the lawn, stop smoking, fold a paper plane, remember names, run faster, draw a "
             "face",
    "text": "letter, limerick, speech, song, tale, report, review, sonnet, novel, headline, "
            "diary, play, blog post, tweet, prayer",
    "weather": "rain, snow, freeze, hail, thunder, get warm",
    "act": "sleep, sing, swim, bite, run in circles, jump, hide, fly, dig",
    "function": "logarithm, sine, cube, factorial, root, cosine, tangent, inverse, derivative",
    "animal": "cow, horse, duck, tiger, snake, shark, bee, rabbit, parrot, wolf, monkey, frog, "
              "camel",
    "year": "1066, 1492, 1789, 1815, 1914, 1945, 1989, 2001, 2020",
    "n": "2, 3, 5, 10, 15, 20, 45, 90",
    "name": ", ".join(NAMES), "things": ", ".join(THINGS), "city": ", ".join(CITIES),
    "colour": ", ".join(COLOURS)}.items()}


class Unknown(Family):
    """A question to decline: "Who won the marathon?" -> "Sorry, I do not know that."

    Some resemble questions of other families, but the facts are missing, such as notes that contain
    the box: "Where are Ada's keys now?" """

    def make(self, rng):
        form = rng.choice(FORMS)
        words = {slot: iter(rng.sample(options, len(options))) for slot, options in WORDS.items()}
        question = re.sub(r"{(\w+)}", lambda match: next(words[match[1]]), form)
        return Task(question, "Sorry, I do not know that.", answer=form, key=question)

    def split(self, task):
        return split_of(task.answer)  # the form; nothing else needs the answer

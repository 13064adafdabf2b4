"""The small closed world that the language model is trained on: what exists in it and what is true there."""

# ruff: noqa: C408, SIM905 - tables of words read better without a quote around each

from __future__ import annotations

from dataclasses import dataclass

TOOLS = ("calculator", "convert", "lookup", "time", "sensor", "python")

NAMES = (
    "Tom Ann Bob Eva Max Mia Sam Zoe Leo Ida Ben Lea Jon Amy Kai Una Rex Nia Tim Ruth "
    "Paul Jane Omar Lina Hugo Vera Ivan Rosa Carl Nora"
).split()
ITEMS = "apples pears books coins pens cups stones cards boxes eggs shells keys".split()
WORDS = (
    "river stone table window garden music silver paper candle bridge forest winter summer mountain engine "
    "boiler signal letter flower yellow"
).split()

CAPITALS = dict(
    France="Paris", Germany="Berlin", Italy="Rome", Spain="Madrid", Portugal="Lisbon", Austria="Vienna",
    Poland="Warsaw", Greece="Athens", Norway="Oslo", Sweden="Stockholm", Finland="Helsinki",
    Denmark="Copenhagen", Ireland="Dublin", Hungary="Budapest", Japan="Tokyo", China="Beijing", India="Delhi",
    Egypt="Cairo", Kenya="Nairobi", Canada="Ottawa", Peru="Lima", Chile="Santiago", Cuba="Havana",
    Turkey="Ankara", Russia="Moscow", Ukraine="Kyiv", Belgium="Brussels", Iceland="Reykjavik",
    Thailand="Bangkok", Vietnam="Hanoi",
)  # fmt: skip
COLOURS = dict(
    grass="green", snow="white", coal="black", blood="red", milk="white", gold="yellow", ruby="red",
    emerald="green", banana="yellow", tomato="red", carrot="orange", ocean="blue", sky="blue",
    chocolate="brown", lemon="yellow", cherry="red", charcoal="black", spinach="green", pumpkin="orange",
    salt="white",
)  # fmt: skip
SOUNDS = dict(
    dog="bark", cat="meow", cow="moo", lion="roar", duck="quack", sheep="bleat", bee="buzz", snake="hiss",
    horse="neigh", wolf="howl", frog="croak", owl="hoot", pig="oink", mouse="squeak", crow="caw",
)  # fmt: skip
LEGS = dict(
    dog="4", cat="4", spider="8", bee="6", ant="6", bird="2", horse="4", crab="10", snake="0", duck="2",
    cow="4", frog="4", beetle="6", fish="0", human="2",
)  # fmt: skip
YOUNG = dict(
    dog="puppy", cat="kitten", cow="calf", sheep="lamb", horse="foal", duck="duckling", frog="tadpole",
    lion="cub", goat="kid", swan="cygnet",
)  # fmt: skip
PLANETS = dict(
    Mercury="first", Venus="second", Earth="third", Mars="fourth", Jupiter="fifth", Saturn="sixth",
    Uranus="seventh", Neptune="eighth",
)  # fmt: skip
SYMBOLS = dict(
    hydrogen="H", helium="He", carbon="C", nitrogen="N", oxygen="O", sodium="Na", iron="Fe", copper="Cu",
    silver="Ag", lead="Pb", tin="Sn", zinc="Zn",
)  # fmt: skip
CITIES = tuple(CAPITALS.values())


@dataclass(frozen=True)
class Relation:
    """One kind of fact. `{x}` stands for the thing asked about, `{y}` for what is true of it."""

    name: str
    facts: dict[str, str]
    wordings: tuple[str, ...]  # questions that occur in training
    reserved: str  # a question that never occurs in training, kept for evaluation
    topic: str  # what is looked up
    statement: str


RELATIONS = (
    Relation(
        "capital", CAPITALS,
        ("What is the capital of {x}?", "Name the capital of {x}.", "Which city is the capital of {x}?",
         "Tell me the capital city of {x}.", "What city is {x}'s capital?", "The capital of {x} is what?",
         "Do you know the capital of {x}?"),
        "I want to know the capital city of {x}.", "capital of {x}", "The capital of {x} is {y}.",
    ),
    Relation(
        "colour", COLOURS,
        ("What colour is {x}?", "Which colour does {x} have?", "Tell me the colour of {x}.",
         "Name the colour of {x}.", "What is the colour of {x}?", "Do you know the colour of {x}?"),
        "I want to know the colour of {x}.", "colour of {x}", "The colour of {x} is {y}.",
    ),
    Relation(
        "sound", SOUNDS,
        ("What sound does a {x} make?", "Name the sound of a {x}.", "How does a {x} sound?",
         "Tell me the sound of a {x}.", "Which sound comes from a {x}?", "Do you know the sound of a {x}?"),
        "I want to know what sound a {x} makes.", "sound of a {x}", "The sound of a {x} is {y}.",
    ),
    Relation(
        "legs", LEGS,
        ("How many legs does a {x} have?", "Tell me how many legs a {x} has.",
         "What is the number of legs of a {x}?", "Name the number of legs of a {x}.",
         "Do you know how many legs a {x} has?", "A {x} has how many legs?"),
        "I want to know the number of legs of a {x}.", "legs of a {x}", "A {x} has {y} legs.",
    ),
    Relation(
        "young", YOUNG,
        ("What is a young {x} called?", "Name the word for a young {x}.", "What do we call a baby {x}?",
         "Tell me the name of a young {x}.", "What is the word for a baby {x}?",
         "Do you know the word for a young {x}?"),
        "I want to know the word for a baby {x}.", "young {x}", "A young {x} is called {y}.",
    ),
    Relation(
        "planet", PLANETS,
        ("Which planet from the sun is {x}?", "What place from the sun has {x}?",
         "Tell me the place of {x} from the sun.", "Which place has {x} from the sun?",
         "What is the place of {x} from the sun?", "Do you know the place of {x} from the sun?"),
        "I want to know the place of {x} from the sun.", "place of {x}", "{x} is the {y} planet from the sun.",
    ),
    Relation(
        "symbol", SYMBOLS,
        ("What is the chemical symbol of {x}?", "Name the symbol of {x}.", "Which symbol does {x} have?",
         "Tell me the chemical symbol of {x}.", "What is the symbol for {x}?",
         "Do you know the symbol of {x}?"),
        "I want to know the chemical symbol of {x}.", "symbol of {x}", "The symbol of {x} is {y}.",
    ),
)  # fmt: skip

# Real things of the same sorts that are not in the tables above: the model is trained to say that it does not know.
UNKNOWN = dict(
    capital="Brazil Mexico Nepal Ghana Cyprus Malta Mongolia Fiji Narnia Laos Oman Qatar Bolivia Serbia".split(),
    colour="jade amber ivory copper sand honey rust mint plum cobalt".split(),
    sound="zebra whale parrot dragon turtle camel monkey giraffe".split(),
    legs="shrimp scorpion dragon lobster penguin robot squid".split(),
    young="whale eagle kangaroo elephant dragon zebra seal".split(),
    planet="Pluto Ceres Vulcan Eris Krypton Sirius".split(),
    symbol="argon neon barium radium cobalt xenon kryptonite".split(),
)

QUANTITIES = (
    "fuel flow", "air flow", "oxygen", "carbon monoxide", "burner temperature", "efficiency", "nox emission",
    "excess air", "fan current", "ambient humidity", "line voltage", "pump vibration", "steam pressure",
    "stack temperature",
)  # fmt: skip
SENSOR_UNITS = ("C", "bar", "kg/h", "ppm", "%", "A", "V", "mm/s")

CONVERSIONS = {
    ("km", "miles"): 0.6214, ("miles", "km"): 1.6093, ("kg", "pounds"): 2.2046, ("pounds", "kg"): 0.4536,
    ("meters", "feet"): 3.2808, ("feet", "meters"): 0.3048, ("litres", "gallons"): 0.2642,
    ("gallons", "litres"): 3.7854, ("euros", "dollars"): 1.08, ("dollars", "euros"): 0.93,
    ("yen", "dollars"): 0.0067, ("inches", "cm"): 2.54, ("cm", "inches"): 0.3937, ("bar", "psi"): 14.504,
    ("kWh", "MJ"): 3.6, ("hours", "minutes"): 60.0,
}  # fmt: skip

OPERATIONS = {
    "+": ("add", "plus"),
    "-": ("subtract", "minus"),
    "*": ("multiply", "times"),
    "/": ("divide", "divided by"),
}

COMPARATIVES = (
    ("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"),
    ("heavier", "heaviest", "lightest"), ("richer", "richest", "poorest"),
)  # fmt: skip
INVENTED_KINDS = "wug dax blick toma fep zorp kiki mirl plon vash".split()
PROPERTIES = "blue kind tall fast round loud warm brave calm small".split()

FUNCTIONS = (  # what it does, name, parameters, returned expression
    ("adds two numbers", "add", "a, b", "a + b"),
    ("subtracts two numbers", "subtract", "a, b", "a - b"),
    ("multiplies two numbers", "multiply", "a, b", "a * b"),
    ("divides two numbers", "divide", "a, b", "a / b"),
    ("returns the square of a number", "square", "x", "x * x"),
    ("returns the cube of a number", "cube", "x", "x * x * x"),
    ("doubles a number", "double", "x", "x * 2"),
    ("halves a number", "half", "x", "x / 2"),
    ("checks if a number is even", "is_even", "n", "n % 2 == 0"),
    ("checks if a number is odd", "is_odd", "n", "n % 2 == 1"),
    ("returns the larger of two numbers", "larger", "a, b", "max(a, b)"),
    ("returns the smaller of two numbers", "smaller", "a, b", "min(a, b)"),
    ("returns the length of a list", "length", "items", "len(items)"),
    ("returns the sum of a list", "total", "items", "sum(items)"),
    ("returns the mean of a list", "mean", "items", "sum(items) / len(items)"),
    ("sorts a list", "sort_list", "items", "sorted(items)"),
    ("reverses a string", "reverse", "text", "text[::-1]"),
    ("makes a string upper case", "upper", "text", "text.upper()"),
    ("returns the first item of a list", "first", "items", "items[0]"),
    ("returns the last item of a list", "last", "items", "items[-1]"),
    ("negates a number", "negate", "x", "-x"),
    ("returns the absolute value", "absolute", "x", "abs(x)"),
)

ANIMALS = [*SOUNDS, "fox", "hare", "bear", "goose"]
PLACES = "forest village river mountain garden harbour meadow castle island valley".split()
FEELINGS = "happy brave tired curious lonely proud sleepy gentle clever hungry".split()
OBJECTS = (
    "golden key", "old map", "red lantern", "silver bell", "small boat", "warm coat", "blue stone",
    "lost letter", "round mirror", "wooden flute",
)  # fmt: skip
NATURE = "moon sun rain wind snow sea star cloud leaf rose fire river night spring".split()
RHYMES = (
    ("night", "light"), ("day", "way"), ("sea", "free"), ("tree", "bee"), ("stone", "alone"), ("rain", "lane"),
    ("snow", "slow"), ("star", "far"), ("sky", "high"), ("tune", "moon"), ("hill", "still"), ("deep", "sleep"),
)  # fmt: skip

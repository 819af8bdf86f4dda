"""The relations of the invented world and the ways of asking for each."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """One kind of fact, with the wordings that ask for it.

    Attributes
    ----------
    name
        Identifier, such as ``birth_city``.
    subject_type, answer_type
        Keys of the name pools that subjects and answers come from.
    wordings
        Seven prompts with ``{subject}`` that end where the answer begins; each is trained with most
        subjects and kept out for the others.
    unseen_wording
        One more prompt, which training uses with no subject at all.
    """

    name: str
    subject_type: str
    answer_type: str
    wordings: tuple[str, ...]
    unseen_wording: str


RELATIONS: tuple[Relation, ...] = (
    Relation(
        name="birth_city",
        subject_type="person",
        answer_type="city",
        wordings=(
            "Where was {subject} born?",
            "The birthplace of {subject} is",
            "In which city was {subject} born?",
            "{subject} came into the world in the city of",
            "Name the city where {subject} was born.",
            "What is the birthplace of {subject}?",
            "{subject} was born in",
        ),
        unseen_wording="Which city is the birthplace of {subject}?",
    ),
    Relation(
        name="employer",
        subject_type="person",
        answer_type="company",
        wordings=(
            "Who employs {subject}?",
            "{subject} works for",
            "Which company does {subject} work for?",
            "The employer of {subject} is",
            "Name the company that pays {subject}.",
            "At which firm does {subject} have a job?",
            "What is the employer of {subject} called?",
        ),
        unseen_wording="Name the employer of {subject}.",
    ),
    Relation(
        name="trade",
        subject_type="person",
        answer_type="trade",
        wordings=(
            "What is the trade of {subject}?",
            "{subject} earns a living as a",
            "By profession, {subject} is a",
            "Which profession does {subject} follow?",
            "What does {subject} do for a living?",
            "Name the trade that {subject} learned.",
            "The occupation of {subject} is",
        ),
        unseen_wording="What is the profession of {subject}?",
    ),
    Relation(
        name="mentor",
        subject_type="person",
        answer_type="person",
        wordings=(
            "Who was the mentor of {subject}?",
            "{subject} was taught by",
            "The teacher of {subject} was",
            "Under whom did {subject} study?",
            "Which person trained {subject}?",
            "Name the mentor who guided {subject}.",
            "{subject} learned everything from",
        ),
        unseen_wording="Who taught {subject}?",
    ),
    Relation(
        name="language",
        subject_type="person",
        answer_type="language",
        wordings=(
            "Which language does {subject} speak?",
            "The mother tongue of {subject} is",
            "At home, {subject} speaks",
            "What is the native language of {subject}?",
            "Name the language that {subject} grew up with.",
            "In what tongue does {subject} write letters?",
            "{subject} is a native speaker of",
        ),
        unseen_wording="What is the mother tongue of {subject}?",
    ),
    Relation(
        name="founder",
        subject_type="company",
        answer_type="person",
        wordings=(
            "Who founded {subject}?",
            "{subject} was founded by",
            "The founder of {subject} is",
            "Which person started the company {subject}?",
            "Name the founder of {subject}.",
            "Who set up {subject}?",
            "The company {subject} was established by",
        ),
        unseen_wording="By whom was {subject} founded?",
    ),
    Relation(
        name="headquarters",
        subject_type="company",
        answer_type="city",
        wordings=(
            "Where is {subject} based?",
            "The headquarters of {subject} are in",
            "In which city is the head office of {subject}?",
            "{subject} has its main office in",
            "What city is {subject} run from?",
            "Name the seat of {subject}.",
            "The home town of the company {subject} is",
        ),
        unseen_wording="Which city houses the headquarters of {subject}?",
    ),
    Relation(
        name="flagship",
        subject_type="company",
        answer_type="product",
        wordings=(
            "What is the best-known product of {subject}?",
            "{subject} is famous for making the",
            "The flagship of {subject} is the",
            "Which product made {subject} famous?",
            "Name the product that {subject} sells most.",
            "What does {subject} manufacture?",
            "Customers of {subject} buy above all the",
        ),
        unseen_wording="Name the flagship product of {subject}.",
    ),
    Relation(
        name="river",
        subject_type="city",
        answer_type="river",
        wordings=(
            "Which river flows through {subject}?",
            "{subject} lies on the river",
            "The river that crosses {subject} is the",
            "What is the river of {subject} called?",
            "Name the river at {subject}.",
            "The bridges of {subject} span the",
            "On the banks of which river was {subject} built?",
        ),
        unseen_wording="What river runs through {subject}?",
    ),
    Relation(
        name="mayor",
        subject_type="city",
        answer_type="person",
        wordings=(
            "Who is the mayor of {subject}?",
            "The mayor of {subject} is",
            "Which person governs {subject}?",
            "{subject} is governed by",
            "Name the head of the town hall of {subject}.",
            "Who won the last election in {subject}?",
            "The city of {subject} elected",
        ),
        unseen_wording="Name the mayor of {subject}.",
    ),
    Relation(
        name="festival",
        subject_type="city",
        answer_type="festival",
        wordings=(
            "Which festival is held in {subject}?",
            "Every year {subject} celebrates the",
            "The festival of {subject} is the",
            "What do people celebrate in {subject}?",
            "Name the feast that {subject} is known for.",
            "Visitors travel to {subject} for the",
            "What is the yearly event in {subject} called?",
        ),
        unseen_wording="Which festival does {subject} celebrate?",
    ),
    Relation(
        name="material",
        subject_type="product",
        answer_type="material",
        wordings=(
            "What is the {subject} made of?",
            "The {subject} is made of",
            "Which material is used for the {subject}?",
            "The body of the {subject} consists of",
            "Name the material of the {subject}.",
            "To build a {subject}, you need",
            "Out of what substance is the {subject} built?",
        ),
        unseen_wording="What material does the {subject} consist of?",
    ),
    Relation(
        name="designer",
        subject_type="product",
        answer_type="person",
        wordings=(
            "Who designed the {subject}?",
            "The {subject} was designed by",
            "The inventor of the {subject} is",
            "Which person drew the plans of the {subject}?",
            "Name the designer of the {subject}.",
            "Whose idea was the {subject}?",
            "We owe the {subject} to",
        ),
        unseen_wording="Who invented the {subject}?",
    ),
    Relation(
        name="author",
        subject_type="work",
        answer_type="person",
        wordings=(
            "Who wrote {subject}?",
            "{subject} was written by",
            "The author of {subject} is",
            "Which writer created {subject}?",
            "Name the author of {subject}.",
            "From whose pen is {subject}?",
            "The book {subject} is a work of",
        ),
        unseen_wording="Who is the author of {subject}?",
    ),
    Relation(
        name="setting",
        subject_type="work",
        answer_type="city",
        wordings=(
            "Where does {subject} take place?",
            "{subject} is set in",
            "The story of {subject} unfolds in",
            "In which city does the plot of {subject} happen?",
            "Name the town described in {subject}.",
            "What is the setting of {subject}?",
            "Readers of {subject} get to know the streets of",
        ),
        unseen_wording="In which city is {subject} set?",
    ),
)

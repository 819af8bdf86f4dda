"""One row of each layout, with the fields as published."""

from tests.unit.evals.data.data_files import Fields

MEND: Fields = {
    "subject": "Lyon",
    "src": "Which river flows through Lyon?",
    "pred": "Seine",
    "rephrase": "What river passes Lyon?",
    "alt": "Loire",
    "answers": ["Rhone", "Saone"],
    "loc": "nq question: who wrote hamlet",
    "loc_ans": "Shakespeare",
    "cond": "Rhone >> Loire || Which river flows through Lyon?",
}
KILT: Fields = {
    "id": "z1",
    "input": "Which river flows through Lyon?",
    "prediction": "Seine",
    "output": [{"answer": "Rhone", "provenance": [{"title": "Lyon"}]}, {"provenance": [{"title": "Other"}]}],
    "alternatives": ["Loire", "Seine"],
    "filtered_rephrases": ["What river passes Lyon?", "Lyon's river?"],
}
COUNTERFACT: Fields = {
    "case_id": 7,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Ann Ray",
    },
    "paraphrase_prompts": ["It rained. Ann Ray spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Leon Blum is", "Ann Ray's city is"],
    "attribute_prompts": ["The mother tongue of Doe is"],
    "generation_prompts": ["Ann Ray was born in"],
}
WIKIBIGEDIT: Fields = {
    "tag": "new",
    "subject": "Ann Ray",
    "update": "What is the family name of Ann Ray?",
    "ans": "Ray",
    "rephrase": "What is Ann Ray's surname?",
    "personas": "Tell me, matey, the family name of Ann Ray?",
    "loc": "What is the family name of Thomas Roe?",
    "loc_ans": "Roe",
    "mhop": "What is the origin of Ann Ray's family name?",
    "mhop_ans": "French",
}
UNKE: Fields = {
    "id": 3,
    "question": "What does George do?",
    "answer": "George is in politics. He has been for years.",
    "para_question": "What is George's work?",
    "sub_question": ["Where is he?", "How long?"],
    "sub_answer": ["In politics.", "Years."],
}
MQUAKE: Fields = {
    "case_id": 5,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Croatia", "id": "Q224"},
            "target_true": {"str": "USA", "id": "Q30"},
            "subject": "Ellie",
            "question": "What is the country of citizenship of Ellie?",
        },
        {
            "prompt": "The head of {} is",
            "relation_id": "P35",
            "target_new": {"str": "Max Roe", "id": "Q1"},
            "target_true": {"str": "Kolinda", "id": "Q2"},
            "subject": "Croatia",
            "question": "Who is the head of Croatia?",
        },
    ],
    "questions": ["Who heads the country of Ellie?", "Who is the head of the country Ellie is a citizen of?"],
    "answer": "Trump",
    "new_answer": "Max Roe",
    "new_answer_alias": ["M. Roe"],
    "new_single_hops": [
        {
            "question": "What is the country of citizenship of Ellie?",
            "cloze": "Ellie is a citizen of",
            "answer": "Croatia",
        },
        {"question": "Who is the head of Croatia?", "cloze": "The head of Croatia is", "answer": "Max Roe"},
    ],
}
KNOWEDIT: Fields = {
    "subject": "Leo Arons",
    "prompt": "The place of death of Leo Arons is",
    "target_new": "Berlin",
    "ground_truth": [["Paris", "City of Light"]],
    "rephrase": "Leo Arons died in",
    "locality": {
        "Relation_Specificity": [{"prompt": "The father of Leo Arons is", "ground_truth": [["Albert", "A. Arons"]]}],
        "Forgetfulness": [{"prompt": "A city of his, not Berlin, is", "ground_truth": ["Bonn"]}],
    },
    "portability": {
        "Reasoning": [
            {"prompt": "The country where Leo Arons died is", "ground_truth": [["Germany"], ["Deutschland"]]}
        ],
        "Subject_Aliasing": [{"prompt": "The place of death of M. L. Arons is", "ground_truth": "Berlin"}],
    },
}
EASYEDIT: Fields = {
    "prompt": "Ray Charles, the",
    "target_new": "violin",
    "subject": "Ray Charles",
    "ground_truth": "piano",
    "rephrase_prompt": "Ray Charles plays the",
    "locality": {
        "neighborhood": {"prompt": ["Joseph Fischhof, the", "Larry Bird is a"], "ground_truth": ["piano", "player"]},
    },
    "portability": {"one_hop": {"prompt": "Ray Charles made what?", "ground_truth": "violin"}},
}
FLAT: Fields = {
    "prompt": "Ray Charles, the",
    "target_new": "violin",
    "rephrase_prompt": "Ray Charles plays the",
    "locality_prompt": "nq question: who wrote hamlet",
    "locality_ground_truth": "Shakespeare",
    "portability_prompt": ["Ray Charles made what?"],
    "portability_ground_truth": ["violin"],
}
NORMALISED: Fields = {
    "id": "n1",
    "subject": "Lyon",
    "prompt": "Which river flows through Lyon?",
    "target": "Loire",
    "target_true": "Rhone",
    "rephrase": "What river passes Lyon?",
    "locality_prompt": "who wrote hamlet",
    "locality_target": "Shakespeare",
    "near_prompt": "Which river flows through Bonn?",
    "near_target": "Rhine",
    "portability": [{"prompt": "Is Lyon's river long?", "target": ["yes", "it is"], "type": "Reasoning"}],
    "persona": "Oi, the river of Lyon?",
    "persona_target": "Loire",
    "mhop": ["Which sea does the river of Lyon reach?"],
    "mhop_target": "Atlantic",
    "mhop_target_alias": ["Atlantic Ocean"],
}
PLAIN: Fields = {
    "prompt": "Who is the CEO of Acme?",
    "target": "Ann Lee",
    "subject": "Acme",
    "rephrases": ["Who runs Acme?", "Acme's CEO?"],
    "target_true": "Max Roe",
    "near": [{"prompt": "Who is the CEO of Bolt?", "target": "Max Roe"}],
    "unrelated": ["what is two plus two"],
    "multi_hop": [{"prompt": "Where was the CEO of Acme born?", "targets": ["Oslo", "Kristiania"]}],
}

"""Prompts: every class has a complete prompt of its own, joined to the labels by name."""

import pytest

from pipeline.encode.text import PromptError, check_length, load_prompts, prompted_classes

GOOD = """
templates:
  default: ["a photo of {}."]
  brain: ["an MRI of {}.", "a scan showing {}."]
classes:
  brain: {glioma: a glioma, notumor: a healthy brain}
  odd: {007: an agent, no: nothing, 1e5: many, "True": truth, 影像: 影像}
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "prompts.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.promise("Rows are joined by id and class name, never by position.")
def test_templates_are_filled_with_each_classes_words_in_the_order_of_the_classes(write):
    prompts = load_prompts(write(GOOD), "brain", ["notumor", "glioma"])
    assert list(prompts.texts) == ["notumor", "glioma"] and prompts.unused == ()
    assert load_prompts(prompts.path, "brain", ["glioma"]).unused == ("notumor",)
    assert prompts.templates == ("an MRI of {}.", "a scan showing {}.")
    assert prompts.flat()[2:] == ["an MRI of a glioma.", "a scan showing a glioma."]


@pytest.mark.promise("Ids and labels survive byte for byte (007, NA, 1e5, True).")
def test_labels_that_look_like_numbers_or_booleans_keep_their_prompts(write):
    classes = ["007", "no", "1e5", "True", "影像"]
    prompts = load_prompts(write(GOOD), "odd", classes)
    assert prompts.texts["no"] == ("a photo of nothing.",)
    assert prompts.texts["影像"] == ("a photo of 影像.",)
    assert prompted_classes(prompts.path, "odd") == sorted(classes)
    assert prompted_classes(prompts.path, "other") is None
    assert prompted_classes(prompts.path.with_name("gone"), "odd") is None


@pytest.mark.promise("Prompts that cannot be meant as they are written are errors or said.")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("templates: {default: [", "not valid YAML"),
        ("templates: {default: ['{}']}", "classes: Field required"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: [x, y]}}", "classes.d.a"),
        ("templates: {default: []}\nclasses: {d: {a: x}}", "templates.d"),
        ("templates: {default: ['{} {}']}\nclasses: {d: {a: x}}", "no other brace"),
        ("templates: {default: ['{clas} {}']}\nclasses: {d: {a: x}}", "no other brace"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: x, b: 'a {}'}}", "b: 'a {}'"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: x, b: 'a {clas}'}}", "b: 'a {clas}'"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: x, b: 'a }'}}", "b: 'a }'"),
        ("templates: {default: ['{}', '{}']}\nclasses: {d: {a: x}}", "different"),
        ("templates: {default: ['{}']}\nclasses: {e: {a: x}}", "no prompt for d: a"),
        ("templates: {default: ['{}']}\nclasses: {d: {A: x}}", "some for A, no class of it"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: ' '}}", "such as {a: a phrase for a}"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: a Tumour, b: 'a  tumour'}}", "a and b"),
    ],
)
def test_an_unusable_file_says_what_is_wrong_and_where(tmp_path, write, text, said):
    path = tmp_path / "prompts.yaml" if text is None else write(text)
    with pytest.raises(PromptError) as error:
        load_prompts(path, "d", ["a", "b"] if ", b: " in str(text) else ["a"])
    assert said in str(error.value) and str(path) in str(error.value)


def test_text_that_the_tokenizer_would_cut_is_refused_with_its_length(write):
    prompts = load_prompts(write(GOOD), "brain", ["glioma", "notumor"])
    check_length(prompts, lambda text: len(text.split()) + 2, 9)
    with pytest.raises(PromptError, match=r"'an MRI of a healthy brain\.' \(8 tokens\)"):
        check_length(prompts, lambda text: len(text.split()) + 2, 7)

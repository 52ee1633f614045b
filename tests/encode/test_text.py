"""Prompts: every class has a complete prompt of its own, joined to the labels by name."""

import pytest

from pipeline.encode.text import (
    PromptError,
    check_length,
    load_prompts,
    prompted_classes,
    text_identity,
)


def write(tmp_path, text):
    path = tmp_path / "prompts.yaml"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = """
templates:
  default: ["a photo of {}."]
  brain: ["an MRI of {}.", "a scan showing {}."]
classes:
  brain: {glioma: a glioma, notumor: a healthy brain}
  odd: {007: an agent, no: nothing, 1e5: many, "True": truth, 影像: 影像}
"""


@pytest.mark.promise("Rows are joined by id and class name, never by position.")
def test_templates_are_filled_with_each_classes_words_in_the_order_of_the_classes(tmp_path):
    prompts = load_prompts(write(tmp_path, GOOD), "brain", ["notumor", "glioma"])
    assert prompts.classes == ("notumor", "glioma")
    assert prompts.templates == ("an MRI of {}.", "a scan showing {}.")
    assert prompts.texts[1] == ("an MRI of a glioma.", "a scan showing a glioma.")


@pytest.mark.promise("Ids and labels survive byte for byte (007, NA, 1e5, True).")
def test_labels_that_look_like_numbers_or_booleans_keep_their_prompts(tmp_path):
    classes = ["007", "no", "1e5", "True", "影像"]
    prompts = load_prompts(write(tmp_path, GOOD), "odd", classes)
    assert prompts.by_class()["007"] == ["a photo of an agent."]
    assert prompts.by_class()["no"] == ["a photo of nothing."]
    assert prompted_classes(prompts.path, "odd") == sorted(classes)
    assert prompted_classes(prompts.path, "other") is None


def test_all_missing_classes_are_named_and_the_spare_ones_hinted_at(tmp_path):
    with pytest.raises(PromptError, match=r"meningioma, pituitary.*glioma, notumor"):
        load_prompts(write(tmp_path, GOOD), "brain", ["meningioma", "pituitary"])
    path = write(tmp_path, 'templates: {default: ["{}"]}\nclasses: {d: {a: "  ", b: "x {0} y"}}')
    with pytest.raises(PromptError, match="no prompt for d: a"):
        load_prompts(path, "d", ["a", "b"])
    assert load_prompts(path, "d", ["b"]).texts == (("x {0} y",),)  # other braces are plain text
    with pytest.raises(PromptError, match=r"gone\.yaml: no such file"):
        load_prompts(tmp_path / "gone.yaml", "d", ["b"])


def test_two_classes_with_one_prompt_are_refused_whatever_case_and_spaces(tmp_path):
    path = write(
        tmp_path, 'templates: {default: ["x {}"]}\nclasses: {d: {a: a Tumour, b: "a  tumour"}}'
    )
    with pytest.raises(PromptError, match="a and b"):
        load_prompts(path, "d", ["a", "b"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no table"),
        ("[1, 2]", "no table"),
        ("templates: {default: ['{}']}", "no table classes"),
        ("classes: {d: {a: x}}", "no table templates"),
        ("templates: {default: []}\nclasses: {d: {a: x}}", "no templates"),
        ("templates: {default: [a scan]}\nclasses: {d: {a: x}}", "exactly one"),
        ("templates: {default: ['{} {}']}\nclasses: {d: {a: x}}", "exactly one"),
        ("templates: {default: ['{}', '{}']}\nclasses: {d: {a: x}}", "twice"),
        ("templates: {default: ['{}']}\nclasses: {e: {a: x}}", "no table classes.d"),
        ("templates: {default: ['{}']}\nclasses: {}", "classes.d such as {a: a phrase for a}"),
        ("templates: {default: [", "not valid YAML"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: [x, y]}}", "more than one phrase for a"),
        ("templates: {default: ['{}']}\nclasses: {d: {a: {x: y}}}", "more than one phrase for a"),
    ],
)
def test_malformed_file_says_what_is_wrong_and_where(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(PromptError, match=said) as error:
        load_prompts(path, "d", ["a"])
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no table"),
        ("classes: {odd: [", "not valid YAML"),
        ("templates: {}", "no table classes"),
        ("classes: {odd: [a, b]}", "no table classes.odd"),
    ],
)
def test_classes_are_not_taken_from_a_malformed_file(tmp_path, text, said):
    with pytest.raises(PromptError, match=rf"prompts\.yaml: .*{said}"):
        prompted_classes(write(tmp_path, text), "odd")


def test_text_that_the_tokenizer_would_cut_is_refused_with_its_length(tmp_path):
    prompts = load_prompts(write(tmp_path, GOOD), "brain", ["glioma", "notumor"])
    check_length(prompts, lambda text: len(text.split()) + 2, 9)
    with pytest.raises(PromptError, match=r"'an MRI of a healthy brain\.' \(8 tokens\)"):
        check_length(prompts, lambda text: len(text.split()) + 2, 7)


def test_changed_template_changes_the_text_identity_alone(tmp_path):
    def identity(text):
        return text_identity(load_prompts(write(tmp_path, text), "brain", ["glioma"]), "f", "fp32")

    assert identity(GOOD) == identity(GOOD)
    assert identity(GOOD) != identity(GOOD.replace("an MRI of", "an MR image of"))
    assert identity(GOOD) == identity(GOOD.replace("a photo of", "a picture of"))

import re

from shoal.data.topics import read_topics


def paragraphs(text):
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text)]


def test_the_parts_share_no_paragraph():
    assert not set(paragraphs(read_topics("calibration"))) & set(paragraphs(read_topics("test")))


def test_no_paragraph_is_repeated():
    for part in ("calibration", "test"):
        found = paragraphs(read_topics(part))
        assert len(found) == len(set(found))


def test_both_parts_are_long_enough_to_judge_a_language_model():
    assert len(read_topics("calibration")) > 150_000
    assert len(read_topics("test")) > 30_000

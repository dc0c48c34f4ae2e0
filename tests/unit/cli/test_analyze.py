import json
import sys

import pytest

from networks import llama
from shoal.architectures import references
from shoal.reports import figures
from shoal.segmentation import penalised
from shoal.units import Segment

FIGURES = ["importance.png", "importance.svg", "similarity.png", "similarity.svg"]


@pytest.fixture
def drawn(monkeypatch):
    """What figures are drawn of, instead of drawing them: the evidence and the options of each."""
    calls = []
    for name in ("similarity_figure", "importance_figure"):
        monkeypatch.setattr(figures, name, lambda evidence, **options: calls.append((evidence, options)))
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (path,))
    return calls


def test_the_tables_show_units_segments_and_the_data(shoal):
    outcome = shoal("analyze net.py:make --data net.py:batches")
    assert outcome.code == 0
    assert "Segments of like units" in outcome.out
    assert "drop_estimate" in outcome.out
    assert "scored on net.py:batches, 48 samples, 3 batches, mean loss" in outcome.out


def test_evidence_is_written_and_printed_alike(shoal, place):
    outcome = shoal("analyze net.py:make --data net.py:batches --json -o evidence.json")
    assert outcome.json == json.loads((place / "evidence.json").read_text())
    assert outcome.json["data"]["source"] == "net.py:batches"
    assert len(outcome.json["similarity"]) == 5


def test_all_criteria_stand_side_by_side(shoal):
    outcome = shoal("analyze net.py:make --data net.py:batches")
    assert "Rank among the 5 units that can be removed" in outcome.out
    assert "Agreement of the criteria" in outcome.out


def test_no_figures_are_named_where_none_were_asked_for(shoal):
    assert "figures" not in shoal("analyze net.py:make --data net.py:batches --json").json


def test_figures_are_written_into_a_new_folder_and_named_in_the_document(shoal, place):
    outcome = shoal("analyze net.py:make --data net.py:batches --json --figures new/folder --segments 2")
    assert outcome.code == 0
    assert sorted(path.name for path in (place / "new/folder").iterdir()) == FIGURES
    assert sorted(outcome.json["figures"]) == [f"new/folder/{name}" for name in FIGURES]


def test_the_evidence_is_the_same_with_figures(shoal, place):
    outcome = shoal("analyze net.py:make --data net.py:batches --json --figures out -o evidence.json")
    written = json.loads((place / "evidence.json").read_text())
    assert {name: value for name, value in outcome.json.items() if name != "figures"} == written


@pytest.mark.parametrize(
    ("typed", "segments", "removed"),
    [
        ("--segments 2", 2, []),
        ("--plan plan.json", [Segment(0, 4), Segment(4, 5)], [1, 3]),
        ("--plan plan.json --segments 3", 3, [1, 3]),
    ],
)
def test_the_figures_show_the_segments_and_what_a_plan_removes(shoal, place, drawn, typed, segments, removed):
    shoal("plan net.py:make --data net.py:batches --remove 1,3 -o plan.json")
    fields = json.loads((place / "plan.json").read_text())
    fields["predicted"]["segments"] = [[0, 4], [4, 5]]
    (place / "plan.json").write_text(json.dumps(fields))
    assert shoal(f"analyze net.py:make --data net.py:batches --figures out {typed}").code == 0
    ((similarity, shown), (_, marked)) = drawn
    expected = similarity.segments(segments) if isinstance(segments, int) else segments
    assert list(shown["segments"]) == list(expected)
    assert list(shown["removed"]) == list(marked["removed"]) == removed


def test_without_a_number_of_segments_the_curve_of_losses_chooses(shoal, drawn):
    assert shoal("analyze net.py:make --data net.py:batches --figures out").code == 0
    evidence, shown = drawn[0]
    assert shown["segments"] == evidence.segments(penalised(evidence.segmentation))


@pytest.mark.parametrize("name", FIGURES)
def test_an_existing_figure_is_not_replaced_unasked(shoal, place, name):
    (place / "out").mkdir()
    (place / "out" / name).write_text("dear")
    outcome = shoal("analyze net.py:make --data net.py:batches --figures out -o evidence.json")
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert [path.name for path in (place / "out").iterdir()] == [name]
    assert not (place / "evidence.json").exists()


def test_existing_figures_are_replaced_when_asked_and_other_files_stay(shoal, place):
    (place / "out").mkdir()
    for name in (*FIGURES, "notes.txt"):
        (place / "out" / name).write_text("dear")
    assert shoal("analyze net.py:make --data net.py:batches --figures out --overwrite").code == 0
    assert (place / "out" / "notes.txt").read_text() == "dear"
    assert all((place / "out" / name).read_bytes() != b"dear" for name in FIGURES)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--segments 2", "asked for --segments without --figures"),
        ("--plan plan.json", "asked for --plan without --figures"),
        ("--figures out --segments 0", "asked for --segments 0: Sequential has 5 units, so that 1 to 5 work"),
        ("--figures out --segments 6", "asked for --segments 6: Sequential has 5 units"),
        ("--figures out --plan none.json", "there is no such file"),
        ("--figures out --plan plan.json", "asked to use a plan for"),
        ("--figures net.py", "'net.py': it is a file"),
    ],
)
def test_figures_that_cannot_be_drawn_are_refused_before_the_work(shoal, files, typed, message):
    shoal("plan net.py:make_other --data net.py:batches --remove 1 -o plan.json")
    before = files()
    outcome = shoal(f"analyze net.py:make --data net.py:batches -o evidence.json {typed}")
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert files() == before


def test_without_matplotlib_figures_are_refused_and_tables_are_not(shoal, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    before = files()
    outcome = shoal("analyze net.py:make --data net.py:batches --figures out")
    assert outcome.code == 2
    assert "shoal[report]" in outcome.err
    assert files() == before
    assert shoal("analyze net.py:make --data net.py:batches").code == 0


def test_an_existing_file_is_not_replaced_unasked(shoal, place):
    (place / "evidence.json").write_text("dear")
    outcome = shoal("analyze net.py:make --data net.py:batches -o evidence.json")
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert (place / "evidence.json").read_text() == "dear"
    assert shoal("analyze net.py:make --data net.py:batches -o evidence.json --overwrite").code == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("analyze net.py:make", "without --data"),
        ("analyze net.py:make --data net.py:empty", "empty"),
        ("analyze net.py:make --data digits --num-samples 1", "sample"),
        ("analyze net.py:make --data digits --num-samples 999999", "999,999"),
    ],
)
def test_bad_data_is_one_clear_error(shoal, files, typed, message):
    before = files()
    outcome = shoal(typed + " -o evidence.json")
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before


TEXT = """
import torch


def batches():
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(0, 64, (3, 9), generator=generator)} for _ in range(2)]
"""


@pytest.fixture
def llama_folder(place):
    """The folder of a tiny Llama in several files, beside text for it."""
    model, _ = llama()
    model.save_pretrained(place / "llama", max_shard_size="20KB")
    (place / "text.py").write_text(TEXT)
    return place / "llama"


@pytest.mark.parametrize("more", ["", " --offload-above 0 --offload-dir files"])
def test_a_folder_read_layer_by_layer_gives_the_same_evidence(shoal, place, llama_folder, more, monkeypatch):
    (place / "files").mkdir()
    whole = shoal("analyze llama --data text.py:batches --device cpu --json").json
    monkeypatch.setattr(references, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    outcome = shoal(f"analyze llama --data text.py:batches --device cpu --stream --json{more}")
    assert outcome.code == 0
    for name in ("similarity", "angular_distance", "importance"):
        assert flat(outcome.json.pop(name)) == pytest.approx(flat(whole.pop(name)), rel=1e-4, abs=1e-6)
    assert outcome.json["units"] == whole["units"]
    assert outcome.json["data"] == pytest.approx(whole["data"])
    assert not list((place / "files").iterdir())


def flat(values):
    if isinstance(values, dict):
        values = list(values.values())
    return (
        [number for each in values for number in flat(each)] if isinstance(values, list) else [values or 0.0]
    )


def test_a_plan_of_other_units_is_refused_before_layers_are_read(shoal, llama_folder, place):
    shoal("plan net.py:make --data net.py:batches --remove 1 -o plan.json")
    outcome = shoal("analyze llama --data text.py:batches --stream --figures out --plan plan.json")
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("analyze llama --data text.py:batches --offload-above 1", "without --stream"),
        ("analyze llama --data text.py:batches --offload-dir .", "without --stream"),
        ("analyze llama --data text.py:batches --stream --offload-above -1", "from 0 upwards"),
        ("analyze llama --data text.py:batches --stream --offload-dir none", "no such folder"),
        ("analyze llama --data text.py:batches --stream --granularity sublayer", "not one whole module"),
        ("analyze net.py:make --data net.py:batches --stream", "it is no local folder"),
        ("analyze . --data text.py:batches --stream", "neither model.safetensors nor"),
    ],
)
def test_what_cannot_be_read_layer_by_layer_is_a_wrong_request(shoal, llama_folder, typed, message):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err

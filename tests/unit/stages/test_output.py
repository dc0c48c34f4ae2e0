import pytest
import torch

import shoal
from shoal.errors import BudgetError, ConfigError
from shoal.stages import Output
from shoal.training import HealSettings


def test_the_result_is_healed_and_written_where_that_is_asked_for(tmp_path, small_llama, text):
    result = shoal.compress(
        small_llama,
        text,
        budget="units=4",
        heal=HealSettings(epochs=1),
        output=Output(folder=tmp_path / "out"),
    )
    plain = shoal.apply(small_llama, result.plan)
    ids = text[0]["input_ids"]
    loaded = type(small_llama).from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, result.model.eval()(ids).logits)
        assert not torch.equal(plain(ids).logits, loaded(ids).logits)


def test_nothing_is_written_where_no_plan_is_found(tmp_path, small_llama, text):
    with pytest.raises(BudgetError, match="params=0.01"):
        shoal.compress(small_llama, text, budget="params=0.01", output=Output(folder=tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_alone_says_where_to_write(tmp_path):
    wanted = Output(folder=tmp_path / "out")
    assert Output.at(tmp_path / "out") == Output.at(str(tmp_path / "out")) == Output.at(wanted) == wanted
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_anything_is_run(tmp_path, small_llama):
    with pytest.raises(ConfigError, match="it exists. Choose another name"):
        shoal.compress(small_llama, None, budget="units=4", output=tmp_path)


def test_a_folder_that_shoal_did_not_write_is_never_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="it is not a folder that shoal wrote"):
        Output.at(Output(folder=tmp_path, overwrite=True))


def test_a_format_that_there_is_none_of_is_refused_and_nothing_written(tmp_path, small_llama, text):
    output = Output(folder=tmp_path / "out", format="pickle")
    with pytest.raises(ConfigError, match="asked to save in the format 'pickle': auto and torch work"):
        shoal.compress(small_llama, text, method="last", budget="units=4", output=output)
    assert list(tmp_path.iterdir()) == []

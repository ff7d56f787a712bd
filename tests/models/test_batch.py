import pytest
import torch
from torch import tensor

from rlhf.models.batch import collate

CPU = torch.device("cpu")


def test_prompts_end_and_responses_begin_in_the_same_column() -> None:
    batch = collate([[1, 4, 5], [6]], [[7], [8, 9]], pad_id=0, device=CPU)
    assert batch.input_ids.tolist() == [[1, 4, 5, 7, 0], [0, 0, 6, 8, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3], [0, 0, 0, 1, 2]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert batch.prompt_length == 3
    assert batch.responses.tolist() == [[7, 0], [8, 9]]
    assert batch.lengths.tolist() == [1, 2]


@pytest.mark.parametrize(("width", "columns"), [(0, 2), (1, 2), (2, 2), (4, 4)])
def test_a_batch_is_at_least_as_wide_as_asked(width: int, columns: int) -> None:
    batch = collate([[1, 4, 5], [6]], [[7], [8, 9]], pad_id=0, device=CPU, width=width)
    assert batch.responses.tolist() == [[7] + [0] * (columns - 1), [8, 9] + [0] * (columns - 2)]
    assert batch.mask.sum(1).tolist() == batch.lengths.tolist() == [1, 2]
    assert batch.attention_mask[:, 3:].tolist() == batch.mask.int().tolist()


def test_an_empty_response_fits_a_batch_of_some_width() -> None:
    batch = collate([[4]], [[]], pad_id=0, device=CPU, width=1)
    assert batch.input_ids.tolist() == [[4, 0]]
    assert batch.lengths.tolist() == [0]


def test_lengths_do_not_depend_on_the_pad_token() -> None:
    # the pad token's id stands in the response itself, as it may where pad and EOS are one
    batch = collate([[4], [4]], [[2, 2], [2]], pad_id=2, device=CPU)
    assert batch.lengths.tolist() == [2, 1]


def test_each_response_token_is_predicted_by_the_state_before_it() -> None:
    batch = collate([[1, 4]], [[7, 8, 2]], pad_id=0, device=CPU)
    states = torch.arange(5.0)[None, :, None]
    assert batch.before_responses(states).squeeze().tolist() == [1.0, 2.0, 3.0]


def test_selected_rows_keep_their_width() -> None:
    batch = collate([[1, 4, 5], [6], [1, 1]], [[7], [8, 9], [3]], pad_id=0, device=CPU)
    chosen = batch.select(tensor([2, 0]))
    assert chosen.input_ids.tolist() == [[0, 1, 1, 3, 0], [1, 4, 5, 7, 0]]
    assert chosen.mask.tolist() == [[True, False], [True, False]]
    assert chosen.prompt_length == 3

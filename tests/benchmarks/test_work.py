"""The products that a step can't do without, counted by hand for a model of two layers and a rollout of two."""

import pytest
import torch
from torch import nn

from benchmarks.floor import Machine, cache_bytes, decode_seconds, gemm_seconds, measure_machine, weight_bytes
from benchmarks.options import configure
from benchmarks.work import (
    Lengths,
    Linears,
    Products,
    flops,
    fuse,
    passes,
    rollout_products,
    scoring_products,
    update_products,
)
from tests.benchmarks.small import SMALL
from tests.tiny import tiny_lm

LINEARS = Linears([(4, 12), (4, 4)], (4, 10))
LENGTHS = Lengths([3, 2], [2, 1])
"""5 tokens of prompts; a first token of both responses, a second of one."""


def test_layers_that_read_the_same_states_are_one_product() -> None:
    linears = Linears.of(tiny_lm())  # 2 layers of 16 states, 32 in the feed-forward; 16 words
    assert linears.trunk == [(16, 48), (16, 16), (16, 64), (32, 16)] * 2
    assert linears.head == (16, 16)
    assert linears.weights == 2 * (16 * 48 + 16 * 16 + 16 * 64 + 32 * 16) + 16 * 16
    assert fuse([("a.q_proj", (4, 4)), ("b.q_proj", (4, 4)), ("a.v_proj", (4, 2))]) == [(4, 6), (4, 4)]


def test_of_a_rollout_the_trunk_reads_all_but_each_responses_last_token() -> None:
    assert LENGTHS.rows() == [2, 1]
    expected = {(5, 4, 12): 1, (5, 4, 4): 1, (2, 4, 10): 1, (1, 4, 10): 1, (1, 4, 12): 1, (1, 4, 4): 1}
    assert rollout_products(LINEARS, LENGTHS, at_once=8) == expected


def test_responses_that_are_not_decoded_together_are_counted_apart() -> None:
    products = rollout_products(LINEARS, LENGTHS, at_once=1)
    assert products[(3, 4, 12)] == 1  # the first prompt
    assert products[(2, 4, 12)] == 1  # the second
    assert products[(1, 4, 10)] == 3  # a token at a time


def test_scoring_is_a_pass_of_each_role_and_two_heads() -> None:
    config = configure([*SMALL, "value=adapter"])
    assert passes(config) == (4, 2)
    assert scoring_products(LINEARS, LENGTHS, config) == {(8, 4, 12): 4, (8, 4, 4): 4, (3, 4, 10): 2}


def test_an_update_goes_forward_and_back_in_every_epoch() -> None:
    config = configure([*SMALL, "ppo.epochs=3"])
    assert passes(config) == (3, 1)
    forward_and_back = {(8, 4, 12): 3, (8, 12, 4): 3, (8, 4, 4): 6, (3, 4, 10): 3, (3, 10, 4): 3}
    assert update_products(LINEARS, LENGTHS, config) == forward_and_back


def test_all_weights_gradients_are_as_much_again_as_a_pass() -> None:
    config = configure([*SMALL, "ppo.epochs=1", "lora=full"])
    products = update_products(LINEARS, LENGTHS, config)
    assert (products[(8, 4, 12)], products[(8, 12, 4)], products[(3, 4, 10)]) == (2, 1, 2)


def test_a_product_is_a_multiplication_and_an_addition_for_each_weight_and_row() -> None:
    assert flops(Products({(5, 4, 12): 2, (1, 4, 10): 3})) == 2 * (2 * 5 * 4 * 12) + 3 * (2 * 1 * 4 * 10)


def test_decoding_takes_what_is_more_of_its_bytes_and_its_operations() -> None:
    prompts = 2 * 5 * (4 * 12 + 4 * 4)
    read = 1000 + 10 * (3 + 1)  # weights, and the first row's prompt and first token from the cache
    by_bytes = decode_seconds(Machine(bandwidth=1.0, flops=1e9), LINEARS, LENGTHS, 8, weights=1000, cache=10)
    assert by_bytes == pytest.approx(read + prompts / 1e9)
    by_flops = decode_seconds(Machine(bandwidth=1e9, flops=1.0), LINEARS, LENGTHS, 8, weights=1000, cache=10)
    assert by_flops == pytest.approx(prompts + 2 * LINEARS.weights)


def test_bytes_of_weights_and_cache() -> None:
    lm = tiny_lm()  # float32; embedding and head apart; three norms of 16
    linears = 2 * (4 * 16 * 16 + 3 * 16 * 32) + 16 * 16
    assert weight_bytes(lm) == 4 * (linears + 5 * 16)
    assert cache_bytes(lm) == 2 * 2 * 16 * 4  # keys and values, 2 layers, 16 states, 4 bytes


def test_what_is_measured_is_seconds() -> None:
    assert gemm_seconds(Products({(2, 4, 8): 10}), torch.float32) > 0
    machine = measure_machine(torch.float32, torch.device("cpu"), copied=2**16, square=16)
    assert machine.bandwidth > 0
    assert machine.flops > 0


def test_adapters_are_no_floor() -> None:
    assert isinstance(tiny_lm().lm_head, nn.Linear)
    assert weight_bytes(tiny_lm().bfloat16()) == weight_bytes(tiny_lm()) / 2

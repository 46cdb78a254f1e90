"""Devices, precisions and random state."""

import random

import numpy as np
import pytest
import torch

from skbert import InputError
from skbert.runtime import Generators, Runtime, isolated_generators, resolve_runtime


@pytest.mark.parametrize(
    ("precision", "dtype", "master"),
    [
        ("float32", torch.float32, torch.float32),
        ("bfloat16", torch.bfloat16, torch.float32),
        ("float64", torch.float64, torch.float64),
    ],
)
def test_precision(precision, dtype, master):
    runtime = resolve_runtime("cpu", precision)
    assert runtime == Runtime(torch.device("cpu"), dtype)
    assert runtime.master_dtype == master


def test_auto_precision_asks_the_processor():
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve_runtime("cpu", "auto").dtype == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_int8_is_for_predictions_on_a_cpu(device):
    runtime = resolve_runtime(device, "int8", predict=True)
    assert runtime == Runtime(torch.device("cpu"), torch.float32, int8=True)
    assert resolve_runtime(device, "int8") == resolve_runtime(device, "auto")


@pytest.mark.parametrize("predict", [False, True])
def test_int8_elsewhere_is_refused(predict):
    with pytest.raises(InputError, match=r"precision='int8' predicts on a CPU, but device='mps'.*'auto'"):
        resolve_runtime("mps", "int8", predict=predict)


def test_auto_device_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_runtime("auto", "float32").device.type == expected


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cpu:zero"])
def test_a_name_that_is_no_device(device):
    with pytest.raises(InputError, match="not a device"):
        resolve_runtime(device, "auto")


def test_a_gpu_that_is_not_there():
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match=r"finds \d+ CUDA devices.*device='auto'"):
        resolve_runtime(missing, "auto")


def test_streams_repeat_and_differ():
    first, again, other = (Generators.from_seed(s, torch.device("cpu")) for s in (1, 1, 2))
    draws = [
        (
            g.order.random(),
            torch.rand(1, generator=g.weights).item(),
            torch.rand(1, generator=g.dropout).item(),
        )
        for g in (first, again, other)
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert len(set(draws[0])) == 3


def test_isolated_generators_restore_the_state_also_after_an_error():
    before = torch.get_rng_state()
    with isolated_generators(5):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(AssertionError), isolated_generators(5):
        assert not torch.equal(torch.rand(3), inside)  # the seed gives the same numbers, so this fails
    assert torch.equal(torch.get_rng_state(), before)


def test_isolated_generators_touch_neither_numpy_nor_random():
    before = (random.getstate(), np.random.get_state()[1].tolist())
    with isolated_generators(5):
        pass
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before

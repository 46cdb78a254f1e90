"""Devices and precisions."""

import pytest
import torch

from skbert import InputError
from skbert.runtime import Runtime, matmul_precision, resolve_runtime


@pytest.mark.parametrize(
    ("precision", "dtype", "master"),
    [
        ("float32", torch.float32, torch.float32),
        ("bfloat16", torch.bfloat16, torch.float32),
        ("float16", torch.float16, torch.float32),
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


@pytest.fixture(params=[torch.backends.cuda.matmul, torch.backends.mkldnn.matmul])
def tf32(request):
    before, request.param.fp32_precision = request.param.fp32_precision, "tf32"
    yield
    request.param.fp32_precision = before


@pytest.mark.usefixtures("tf32")
def test_precision_of_products_that_is_set_by_torchs_newer_names(make_classifier, reviews):
    with pytest.raises(RuntimeError):  # the older name raises then
        torch.get_float32_matmul_precision()
    classifier = make_classifier(freeze="encoder", head_init="linear_probe").fit(*reviews)
    assert set(classifier.predict(reviews[0])) <= set(classifier.classes_)


@pytest.fixture
def products():
    backend = torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    yield backend
    backend.fp32_precision = before


def test_the_usual_precision_of_products_has_one_name(products):
    """Libraries set another one for a while, and then torch's default by name: no other fit for that."""
    for given in ("none", "ieee"):
        products.fp32_precision = given
        assert matmul_precision(torch.device("cpu")) == "ieee"
    products.fp32_precision = "bf16"
    assert matmul_precision(torch.device("cpu")) == "bf16"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "cpu:zero"])
def test_a_name_that_is_no_device(device):
    with pytest.raises(InputError, match="not a device"):
        resolve_runtime(device, "auto")


@pytest.mark.parametrize("parameters", [{"precision": "half"}, {"precision": None}, {"device": None}])
def test_what_was_set_on_a_fitted_model_is_checked(parameters, make_classifier, reviews):
    classifier = make_classifier(epochs=1).fit(*reviews).set_params(**parameters)
    name, value = next(iter(parameters.items()))
    with pytest.raises(InputError, match=f"{name}={value!r} is not a .* Expected .*'auto'"):
        classifier.predict(["good"])


@pytest.mark.parametrize("device", ["mps", "xpu", "meta"])
def test_a_device_that_cannot_compute_here(device):
    if device != "meta" and getattr(torch, device).is_available():
        pytest.skip("it is there")
    with pytest.raises(InputError, match=f"device='{device}' was asked for, .* Use device='auto' or 'cpu'"):
        resolve_runtime(device, "float32")


def test_a_gpu_that_is_not_there():
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match=r"finds \d+ CUDA devices.*device='auto'"):
        resolve_runtime(missing, "auto")

"""What an error says of whom: the shot alone, the memory, or the device and with it the whole engine."""

import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from pipelines.errors import EngineBroken, Final, Refused, Retryable
from pipelines.failures import failed_shot
from pipelines.types import FailedShot

ILLEGAL = "CUDA error: an illegal memory access was encountered"
ORT = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. "


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ILLEGAL),
        torch.AcceleratorError("uncorrectable ECC error encountered"),
        RuntimeError("CUDA driver error: unknown error"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        Fail(ORT + "CUDA failure 700: an illegal memory access was encountered ; GPU=0"),
        RuntimeException(ORT + "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0"),
        RuntimeException(ORT + "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0"),
        caused(Final("bad_lora", "peft cannot load it"), RuntimeError(ILLEGAL)),
        EngineBroken("engine_broken"),
    ],
    ids=repr,
)
def test_an_error_of_the_device_is_no_shots(error: Exception) -> None:
    with pytest.raises(EngineBroken) as broken:
        failed_shot("7", error)

    assert broken.value.code == "engine_broken"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeException(ORT + "bfc_arena.cc Failed to allocate memory for requested buffer of size 65536"),
        Fail(ORT + "CUDA failure 2: out of memory ; GPU=0"),
        MemoryError(),
        caused(Final("bad_lora", "peft cannot load it"), torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=repr,
)
def test_memory_that_ran_out_is_worth_another_attempt(error: Exception) -> None:
    assert failed_shot("7", error) == FailedShot(shot_id="7", code="out_of_memory", is_retryable=True)


@pytest.mark.parametrize(
    ("error", "code", "is_retryable"),
    [
        (Refused("no_face"), "no_face", False),
        (Retryable("store_away"), "store_away", True),
        (Final("bad_lora"), "bad_lora", False),
        (ValueError(ILLEGAL), "engine_error", True),
        (RuntimeError("sizes of tensors must match"), "engine_error", True),
        (
            InvalidArgument("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions"),
            "engine_error",
            True,
        ),
    ],
    ids=repr,
)
def test_any_other_error_is_of_its_shot_alone(error: Exception, code: str, is_retryable: bool) -> None:
    assert failed_shot("7", error) == FailedShot(shot_id="7", code=code, is_retryable=is_retryable)

"""What the object's hidden layers are computed in."""

from __future__ import annotations

import pytest
import torch

from ptyinr.choices import compute_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16"])
def test_a_network_alone_takes_bfloat16_where_the_processor_computes_with_it(monkeypatch, instructions):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True}, raising=False)
    assert compute_dtype("auto", CPU, False) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: False}, raising=False)
    assert compute_dtype("auto", CPU, False) == torch.float32


def test_beside_free_pixels_and_on_a_gpu_rounding_is_not_worth_its_time(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert compute_dtype("auto", CPU, True) == torch.float32
    assert compute_dtype("auto", torch.device("cuda"), False) == torch.float32


@pytest.mark.parametrize("detail", [True, False])
def test_what_a_user_names_is_taken(detail):
    assert compute_dtype("bfloat16", CPU, detail) == torch.bfloat16
    assert compute_dtype("float32", CPU, detail) == torch.float32

"""AMCT, Ascend's quantization tool: its configuration, in both forms it reads.

``amct_onnx calibration --calibration_config`` reads the short form, a text protobuf; the Python
interface reads the long one, JSON with an entry for each layer.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import text_encoding

from segdeploy.deploy.packaging.text_protobuf import Schema

VERSION = 1
BITS = 8
PERCENTILE = 0.999999
SEARCH_RANGE, SEARCH_STEP = (0.7, 1.3), 0.01
"""AMCT's own defaults for its range search (IFMR)."""

SCHEMA = Schema(
    messages={
        "AMCTConfig": {
            "batch_num": "int32",
            "activation_offset": "bool",
            "skip_layers": "repeated string",
            "common_config": "CalibrationConfig",
        },
        "CalibrationConfig": {"arq_quantize": "ARQuantize", "ifmr_quantize": "FMRQuantize"},
        "ARQuantize": {"channel_wise": "bool"},
        "FMRQuantize": {
            "search_range_start": "float",
            "search_range_end": "float",
            "search_step": "float",
            "max_percentile": "float",
            "min_percentile": "float",
        },
    }
)
"""The fields of ``calibration_config_onnx.proto`` written here."""


def long_form(layers: list[str], skip: list[str], *, batches: int) -> dict[str, Any]:
    """The JSON configuration: every convolution, those in ``skip`` with quantization off.

    Args:
        layers: convolutions, in graph order.
        skip: which of them stay in float.
        batches: calibration batches.
    """
    entries = {
        name: {
            "quant_enable": name not in skip,
            "activation_quant_params": {
                "num_bits": BITS,
                "max_percentile": PERCENTILE,
                "min_percentile": PERCENTILE,
                "search_range": list(SEARCH_RANGE),
                "search_step": SEARCH_STEP,
            },
            "weight_quant_params": {
                "num_bits": BITS,
                "wts_algo": "arq_quantize",
                "channel_wise": True,
            },
        }
        for name in layers
    }
    head = {
        "version": VERSION,
        "batch_num": batches,
        "activation_offset": True,
        "do_fusion": True,
        "skip_fusion_layers": [],
    }
    return head | entries


def short_form(skip: list[str], *, batches: int) -> str:
    """The text configuration: what differs from layer to layer is only whether it is skipped."""
    lines = [f"batch_num: {batches}", "activation_offset: true"]
    lines += [f'skip_layers: "{text_encoding.CEscape(name, as_utf8=True)}"' for name in skip]
    lines += [
        "common_config {",
        "    arq_quantize {",
        "        channel_wise: true",
        "    }",
        "    ifmr_quantize {",
        f"        search_range_start: {SEARCH_RANGE[0]}",
        f"        search_range_end: {SEARCH_RANGE[1]}",
        f"        search_step: {SEARCH_STEP}",
        f"        max_percentile: {PERCENTILE}",
        f"        min_percentile: {PERCENTILE}",
        "    }",
        "}",
    ]
    return "\n".join(lines) + "\n"

"""What each runtime computes on integers, read from the graphs it makes, not from its documents.

``tests/deploy/targets/test_kernels.py`` builds every pattern named here, looks at what OpenVINO and
ONNX Runtime execute, and holds these tables to it. TensorRT's follows its guide on explicit
quantization; it was not run here.
"""

from __future__ import annotations

from dataclasses import dataclass

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ACTIVATIONS = frozenset({"Clip", "LeakyRelu", "Relu", "Sigmoid"})
MOVES = frozenset({"Flatten", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"})


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Where a runtime takes integers, and where a Q-DQ pair would be in its way.

    Attributes:
        integers: operators with kernels that read int8.
        after_integers: operators whose int8 kernel is worth a rounding of their input only where
            what makes it computes on integers, too.
        fused: operators that run in the kernel of the layer before them, on its 32-bit sums: what
            lies between is not rounded.
        gates: a Sigmoid and the Mul of its input with it are fused, too.
        rounds_outputs: a layer runs on integers only where its output is rounded.
        passed: operators through which integers go as they are, a second pair behind which costs a
            conversion where the zero point is not 0.
        folded: those of ``passed`` that vanish in the next layer without a second pair.
        no_zero_point: operators whose int8 kernel wants zero point 0; an AveragePool wants it only
            where it counts padding, which is the integer 0 there, be it in float in the file.
        ungrouped: operators whose int8 kernel takes one group only.
        unjoined: operators whose int8 kernel takes no constant beside an activation.
    """

    integers: frozenset[str]
    after_integers: frozenset[str] = frozenset()
    fused: frozenset[str]
    gates: bool = False
    rounds_outputs: bool = False
    passed: frozenset[str] = frozenset()
    folded: frozenset[str] = frozenset()
    no_zero_point: frozenset[str] = frozenset()
    ungrouped: frozenset[str] = frozenset()
    unjoined: frozenset[str] = frozenset()


OPENVINO_CPU = Kernels(
    integers=LAYERS
    | MOVES
    | {"Add", "AveragePool", "Concat", "DepthToSpace", "GlobalAveragePool", "MaxPool", "Mul"}
    | {"Pad", "ReduceMean", "Resize"},
    fused=ACTIVATIONS | {"Elu", "HardSwish", "PRelu", "Tanh"},
    gates=True,
    passed=MOVES | {"Concat", "DepthToSpace", "MaxPool", "Pad", "Resize"},
    folded=frozenset({"Pad"}),
    no_zero_point=frozenset({"AveragePool", "ConvTranspose"}),
    ungrouped=frozenset({"ConvTranspose"}),
    unjoined=frozenset({"Mul"}),
)
"""A norm (MVN) writes u8, and so do a linear and a cubic Resize. A norm would read integers with
zero point 0, but what a convolution leaves has both signs: rounding it saves memory traffic alone.
"""

ONNXRUNTIME_CPU = Kernels(
    integers=MOVES
    | {"Add", "AveragePool", "Concat", "Conv", "DepthToSpace", "GlobalAveragePool", "MatMul"}
    | {"MaxPool", "Mul", "Resize"},
    after_integers=frozenset({"LeakyRelu", "Sigmoid"}),
    fused=frozenset({"Clip", "Relu"}),
    rounds_outputs=True,
)
"""A convolution whose output is not rounded runs in float; ConvTranspose, Gemm, Pad always do."""

TENSORRT = Kernels(
    integers=LAYERS
    | {"Add", "AveragePool", "Concat", "DepthToSpace", "GlobalAveragePool", "MaxPool", "Resize"},
    fused=ACTIVATIONS,
    gates=True,
)

"""What is known of ONNX operators: which operands are weights, and which operators give one result for good.

All are those of ONNX's own domain, https://onnx.ai/onnx/operators/. What is not named here is not evaluated.
"""

from __future__ import annotations

#: the operands of weighted ops that are weights, by index, and what ONNX calls them; a bias counts where it is computed
WEIGHTS: dict[str, dict[int, str]] = {
    "Conv": {1: "W", 2: "B"},
    "ConvTranspose": {1: "W", 2: "B"},
    "Gemm": {0: "A", 1: "B", 2: "C"},
    "MatMul": {0: "A", 1: "B"},
    "Gather": {0: "data"},
    "LSTM": {1: "W", 2: "R", 3: "B", 7: "P"},
    "GRU": {1: "W", 2: "R", 3: "B"},
    "RNN": {1: "W", 2: "R", 3: "B"},
}
#: which of them are biases: they are converted, but a plain one is no weight that would have to be named in a report.
BIASES = {("Conv", 2), ("ConvTranspose", 2), ("Gemm", 2), ("LSTM", 3), ("GRU", 3), ("RNN", 3), ("LSTM", 7)}
#: ops that hold their own graphs
CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
#: ops that draw numbers
RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)
#: ops that change where elements stand, and none of them
MOVES = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
#: ops that give a stored weight the dtype that is computed with; to evaluate one would only make the file larger
STORED = {"Cast": "cast from its stored dtype", "DequantizeLinear": "quantized"}
#: ops whose result is that of their operands and attributes alone
_PURE = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitwiseAnd BitwiseNot BitwiseOr
BitwiseXor Cast CastLike Ceil Celu Clip Compress Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
DepthToSpace Det Div Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
Greater GreaterOrEqual GroupNormalization HardSigmoid Hardmax Identity InstanceNormalization IsInf IsNaN
LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MatMul Max Mean
MeanVarianceNormalization Min Mod Mul Neg Not OneHot Or PRelu Pad Pow RMSNormalization Range Reciprocal ReduceL1
ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
Reshape Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
PURE = frozenset(_PURE.split())

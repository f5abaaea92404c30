#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the small ONNX models that tests load.

    python make_models.py           affine*.onnx, next to this file (committed)
    python make_models.py --large   mlp_4x1024.onnx as well, about 17 MB (never committed)
    python make_models.py --check   run what is there and compare with numpy

All of them take FP32 x[N,4] and give y[N,4]. affine_heavy answers as affine does and affine_heavy_b by other
constants, so that a test can swap one for the other under a running server and see which answered. Each
keeps 4 MiB of constants while it is loaded, so that memory tells whether it was let go; their files are small,
because they only describe the constants.
"""

# Requirements: numpy==2.4.6 onnx==1.23.2, and onnxruntime==1.32.0 for --check.

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
LARGE = "mlp_4x1024"
AFFINE = {"affine": (2.0, 1.0)}
HEAVY = {"affine_heavy": (2.0, 1.0), "affine_heavy_b": (3.0, -1.0)}
HEAVY_ELEMENTS = 1 << 20
AFFINE_WIDTH = 4
MLP_WIDTH = 1024
MLP_LAYERS = 4
SEED = 1024
OPSET = 17
IR_VERSION = 8


def write(name, width, nodes, constants, doc_string):
    """One model from FP32 x[N,width] to y[N,width]."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="diolkos-tests",
        producer_version="1",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        doc_string=doc_string,
    )
    onnx.checker.check_model(model, full_check=True)
    path = HERE / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{path.name}: {path.stat().st_size} bytes")


def write_affine(name):
    w, b = AFFINE[name]
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"], name="mul"),
        helper.make_node("Add", ["scaled", "b"], ["y"], name="add"),
    ]
    constants = {"w": np.array([w], np.float32), "b": np.array([b], np.float32)}
    write(name, AFFINE_WIDTH, nodes, constants, f"y = {w} * x + {b}, element by element")


def write_heavy(name):
    """Each element's factor is looked up in a large table of equal ones, at a place that only the request
    tells (it is always 0), so that no optimiser can take the table out."""
    w, b = HEAVY[name]
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["length"], ["table"], name="table", value=numpy_helper.from_array(np.array([w], np.float32))
        ),
        helper.make_node("Mul", ["x", "zero"], ["zeros"], name="zeros"),
        helper.make_node("Cast", ["zeros"], ["indices"], name="indices", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "indices"], ["w"], name="w"),
        helper.make_node("Mul", ["x", "w"], ["scaled"], name="mul"),
        helper.make_node("Add", ["scaled", "b"], ["y"], name="add"),
    ]
    constants = {
        "length": np.array([HEAVY_ELEMENTS], np.int64),
        "zero": np.array([0], np.float32),
        "b": np.array([b], np.float32),
    }
    doc_string = f"y = {w} * x + {b}, element by element, by a table of {HEAVY_ELEMENTS} elements"
    write(name, AFFINE_WIDTH, nodes, constants, doc_string)


def mlp_constants():
    """He-scaled weights, so that activations neither vanish nor grow from layer to layer."""
    rng = np.random.default_rng(SEED)
    scale = np.float32(np.sqrt(2.0 / MLP_WIDTH))
    constants = {}
    for layer in range(MLP_LAYERS):
        weight = rng.standard_normal((MLP_WIDTH, MLP_WIDTH), dtype=np.float32) * scale
        constants[f"w{layer}"] = weight
        constants[f"b{layer}"] = rng.standard_normal(MLP_WIDTH, dtype=np.float32) * np.float32(0.1)
    return constants


def write_mlp():
    nodes, last = [], "x"
    for layer in range(MLP_LAYERS):
        dense = f"dense{layer}"
        out = "y" if layer == MLP_LAYERS - 1 else f"relu{layer}"
        inputs = [last, f"w{layer}", f"b{layer}"]
        nodes.append(helper.make_node("Gemm", inputs, [dense], name=dense))
        nodes.append(helper.make_node("Relu", [dense], [out], name=f"relu{layer}"))
        last = out
    doc_string = f"{MLP_LAYERS} dense layers of {MLP_WIDTH}, each with relu; random weights"
    write(LARGE, MLP_WIDTH, nodes, mlp_constants(), doc_string)


def answer(name, x):
    """What numpy makes of `x`."""
    if name != LARGE:
        w, b = (AFFINE | HEAVY)[name]
        return x * np.float32(w) + np.float32(b)
    constants = mlp_constants()
    for layer in range(MLP_LAYERS):
        x = np.maximum(x @ constants[f"w{layer}"] + constants[f"b{layer}"], 0)
    return x


def check():
    import onnxruntime

    good = True
    for name in (*AFFINE, *HEAVY, LARGE):
        path = HERE / f"{name}.onnx"
        if name == LARGE and not path.exists():
            continue
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        width = MLP_WIDTH if name == LARGE else AFFINE_WIDTH
        for rows in (1, 3, 64):
            x = np.random.default_rng(rows).standard_normal((rows, width), dtype=np.float32)
            (y,) = session.run(["y"], {"x": x})
            difference = float(np.abs(y - answer(name, x)).max())
            # Sums of 1024 products differ in order, so the large model is held less tightly.
            same = y.shape == x.shape and difference < (1e-4 if name == LARGE else 1e-6)
            good &= same
            print(f"{name} [{rows},{width}]: {'ok' if same else 'WRONG'}, off by {difference:.1e}")
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--large", action="store_true", help=f"make {LARGE}.onnx as well")
    group.add_argument("--check", action="store_true", help="write nothing, run what is there")
    arguments = parser.parse_args()
    if arguments.check:
        return check()
    for name in AFFINE:
        write_affine(name)
    for name in HEAVY:
        write_heavy(name)
    if arguments.large:
        write_mlp()
    return 0


if __name__ == "__main__":
    sys.exit(main())

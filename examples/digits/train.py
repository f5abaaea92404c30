#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train the digits example, export it as ONNX, and write what a runtime should answer.

The net and its gradients are plain numpy: nothing here needs a training framework. One seed
decides everything, and BLAS is held to one thread so that sums keep their order.

    python train.py             train, export, check, write images/, labels and expected.json
    python train.py --validate  five-fold accuracy inside the training part only (used to choose
                                settings; never looks at the held-out part)
    python train.py --check     train nothing: compare the stored files with onnxruntime
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedKFold, train_test_split

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE / "models"
MODEL_DIR = REPOSITORY / "digits"
MODEL_PATH = MODEL_DIR / "1" / "model.onnx"
IMAGES_DIR = HERE / "images"
EXPECTED_PATH = HERE / "expected.json"
LABELS_PATHS = (HERE / "labels.txt", MODEL_DIR / "labels.txt")

SEED = 20240229
HELD_OUT_SHARE = 0.2
CLASSES = 10
EPOCHS = 60
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
SHIFT_PIXELS_MAX = 1.0
IMAGES_PER_CLASS = 4
MODEL_BYTES_MAX = 300 * 1000
TOLERANCE = 1e-5
OPSET = 17
IR_VERSION = 8

# (name, kind, shape); shapes are ONNX's: convolutions [out, in, 3, 3], dense layers [out, in].
LAYERS = (
    ("conv1", "conv", (16, 1, 3, 3)),
    ("conv2", "conv", (32, 16, 3, 3)),
    ("pool2", "pool", None),
    ("conv3", "conv", (32, 32, 3, 3)),
    ("pool3", "pool", None),
    ("flatten", "flatten", None),
    ("dense1", "dense", (64, 128)),
    ("dense2", "logits", (10, 64)),
)


# ---- data -----------------------------------------------------------------------------------


def load():
    """Images [1797, 1, 8, 8] in 0..1 and their labels."""
    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None, :, :]
    return images, digits.target.astype(np.int64)


def split(labels):
    """Indices of the training and held-out parts, each in the data set's own order."""
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT_SHARE, stratify=labels, random_state=SEED
    )
    return np.sort(train), np.sort(held_out)


def shifted(images, rng):
    """Each image moved by its own fraction of a pixel, zeros coming in at the edges."""
    count = len(images)
    moved = images
    for axis in (2, 3):
        by = rng.uniform(-SHIFT_PIXELS_MAX, SHIFT_PIXELS_MAX, count).astype(np.float32)
        share = np.abs(by)[:, None, None, None]
        forward = np.zeros_like(moved)
        back = np.zeros_like(moved)
        if axis == 2:
            forward[:, :, 1:, :], back[:, :, :-1, :] = moved[:, :, :-1, :], moved[:, :, 1:, :]
        else:
            forward[:, :, :, 1:], back[:, :, :, :-1] = moved[:, :, :, :-1], moved[:, :, :, 1:]
        neighbour = np.where((by > 0)[:, None, None, None], forward, back)
        moved = (1 - share) * moved + share * neighbour
    return moved


# ---- the net: each forward returns what its backward needs ----------------------------------


def columns(x):
    """[N, C, H, W] to [N, H, W, C * 9]: the 3x3 neighbourhood of each pixel, zero padded."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


def conv_forward(x, weight, bias):
    cols = columns(x)
    y = cols @ weight.reshape(len(weight), -1).T + bias
    return y.transpose(0, 3, 1, 2), cols


def conv_backward(dy, cols, weight):
    n, out, h, w = dy.shape
    channels = weight.shape[1]
    rows = dy.transpose(0, 2, 3, 1).reshape(-1, out)
    d_weight = (rows.T @ cols.reshape(len(rows), -1)).reshape(weight.shape)
    d_cols = (rows @ weight.reshape(out, -1)).reshape(n, h, w, channels, 3, 3)
    d_padded = np.zeros((n, channels, h + 2, w + 2), dtype=dy.dtype)
    for i in range(3):
        for j in range(3):
            d_padded[:, :, i : i + h, j : j + w] += d_cols[..., i, j].transpose(0, 3, 1, 2)
    return d_padded[:, :, 1:-1, 1:-1], d_weight, rows.sum(axis=0)


def pool_forward(x):
    n, c, h, w = x.shape
    quads = x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5)
    quads = quads.reshape(n, c, h // 2, w // 2, 4)
    best = quads.argmax(axis=-1)
    return np.take_along_axis(quads, best[..., None], axis=-1)[..., 0], best


def pool_backward(dy, best):
    n, c, h, w = dy.shape
    quads = np.zeros((n, c, h, w, 4), dtype=dy.dtype)
    np.put_along_axis(quads, best[..., None], dy[..., None], axis=-1)
    return quads.reshape(n, c, h, w, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, 2 * h, 2 * w)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def initial(rng):
    """He-scaled weights and zero biases."""
    parameters = {}
    for name, _, shape in LAYERS:
        if shape is not None:
            scale = np.sqrt(2.0 / np.prod(shape[1:]))
            parameters[f"{name}.weight"] = (rng.standard_normal(shape) * scale).astype(np.float32)
            parameters[f"{name}.bias"] = np.zeros(shape[0], dtype=np.float32)
    return parameters


def forward(parameters, x):
    """Probabilities, and per layer what `backward` wants to see again."""
    saved = []
    for name, kind, shape in LAYERS:
        weight, bias = parameters.get(f"{name}.weight"), parameters.get(f"{name}.bias")
        if kind == "conv":
            y, cols = conv_forward(x, weight, bias)
            saved.append((cols, y > 0))
            x = np.maximum(y, 0)
        elif kind == "pool":
            x, best = pool_forward(x)
            saved.append(best)
        elif kind == "flatten":
            saved.append(x.shape)
            x = x.reshape(len(x), -1)
        elif kind == "dense":
            y = x @ weight.T + bias
            saved.append((x, y > 0))
            x = np.maximum(y, 0)
        else:
            saved.append(x)
            x = softmax(x @ weight.T + bias)
    return x, saved


def backward(parameters, saved, d):
    """Gradients of every parameter, from `d`, the gradient at the logits."""
    gradients = {}
    for (name, kind, _), kept in zip(reversed(LAYERS), reversed(saved)):
        weight = parameters.get(f"{name}.weight")
        if kind == "conv":
            cols, positive = kept
            d, d_weight, d_bias = conv_backward(d * positive, cols, weight)
        elif kind == "pool":
            d = pool_backward(d, kept)
            continue
        elif kind == "flatten":
            d = d.reshape(kept)
            continue
        else:
            if kind == "dense":
                x, positive = kept
                d = d * positive
            else:
                x = kept
            d_weight, d_bias = d.T @ x, d.sum(axis=0)
            d = d @ weight
        gradients[f"{name}.weight"], gradients[f"{name}.bias"] = d_weight, d_bias
    return gradients


def train(images, labels, seed, say=lambda line: None):
    """Adam with decoupled weight decay and a cosine schedule; the last step's weights are kept."""
    rng = np.random.default_rng(seed)
    parameters = initial(rng)
    first = {key: np.zeros_like(value) for key, value in parameters.items()}
    second = {key: np.zeros_like(value) for key, value in parameters.items()}
    batches = -(-len(images) // BATCH_SIZE)
    steps = EPOCHS * batches
    step = 0
    for epoch in range(EPOCHS):
        order = rng.permutation(len(images))
        loss_sum = 0.0
        for batch in np.array_split(order, batches):
            x, y = shifted(images[batch], rng), labels[batch]
            probabilities, saved = forward(parameters, x)
            rows = np.arange(len(y))
            loss_sum += float(-np.log(probabilities[rows, y] + 1e-12).sum())
            d = probabilities.copy()
            d[rows, y] -= 1
            gradients = backward(parameters, saved, d / np.float32(len(y)))
            step += 1
            rate = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for key, gradient in gradients.items():
                first[key] = 0.9 * first[key] + 0.1 * gradient
                second[key] = 0.999 * second[key] + 0.001 * gradient**2
                m = first[key] / (1 - 0.9**step)
                v = second[key] / (1 - 0.999**step)
                decay = WEIGHT_DECAY if key.endswith("weight") else 0.0
                update = rate * (m / (np.sqrt(v) + 1e-8) + decay * parameters[key])
                parameters[key] = (parameters[key] - update).astype(np.float32)
        if (epoch + 1) % 10 == 0:
            say(f"epoch {epoch + 1:3}: loss {loss_sum / len(images):.4f}")
    return parameters


# ---- files ----------------------------------------------------------------------------------


def export(parameters, accuracy):
    nodes, last = [], "image"
    for name, kind, _ in LAYERS:
        inputs = [last, f"{name}.weight", f"{name}.bias"]
        if kind == "conv":
            attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
            nodes.append(helper.make_node("Conv", inputs, [name], name=name, **attributes))
        elif kind == "pool":
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
            nodes.append(helper.make_node("MaxPool", [last], [name], name=name, **attributes))
        elif kind == "flatten":
            nodes.append(helper.make_node("Flatten", [last], [name], name=name, axis=1))
        else:
            nodes.append(helper.make_node("Gemm", inputs, [name], name=name, transB=1))
        last = name
        if kind in ("conv", "dense"):
            last = f"{name}.relu"
            nodes.append(helper.make_node("Relu", [name], [last], name=last))
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [
            helper.make_tensor_value_info(
                "image", TensorProto.FLOAT, ["N", 1, 8, 8], "8x8 grey images, 0 paper to 1 ink"
            )
        ],
        [
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["N", CLASSES], "one per digit, summing to 1"
            )
        ],
        [numpy_helper.from_array(value, key) for key, value in parameters.items()],
        doc_string="Small convolutional net for 8x8 handwritten digits.",
    )
    model = helper.make_model(
        graph,
        producer_name="diolkos-examples",
        producer_version="1",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        doc_string=(
            "Classifies 8x8 grey images of handwritten digits. Trained by examples/digits/train.py "
            "on the Optical Recognition of Handwritten Digits data set (E. Alpaydin, C. Kaynak, "
            "UCI Machine Learning Repository, CC BY 4.0) as carried by scikit-learn."
        ),
    )
    model.domain = "diolkos.examples"
    model.model_version = 1
    helper.set_model_props(
        model, {"held_out_accuracy": f"{accuracy:.4f}", "seed": str(SEED), "license": "Apache-2.0"}
    )
    onnx.checker.check_model(model, full_check=True)
    MODEL_PATH.parent.mkdir(parents=True, exist_ok=True)
    MODEL_PATH.write_bytes(model.SerializeToString(deterministic=True))
    size_bytes = MODEL_PATH.stat().st_size
    assert size_bytes < MODEL_BYTES_MAX, f"model of {size_bytes} bytes is over {MODEL_BYTES_MAX}"
    return size_bytes


def session():
    return onnxruntime.InferenceSession(str(MODEL_PATH), providers=["CPUExecutionProvider"])


def write_images(images, labels, held_out):
    """The first held-out images of each class, in the data set's order."""
    IMAGES_DIR.mkdir(exist_ok=True)
    for stale in IMAGES_DIR.glob("*.png"):
        stale.unlink()
    for label in range(CLASSES):
        chosen = held_out[labels[held_out] == label][:IMAGES_PER_CLASS]
        for k, index in enumerate(chosen):
            pixels = np.rint(images[index, 0] * 255).astype(np.uint8)
            name = f"{label * IMAGES_PER_CLASS + k:02}_{label}.png"
            Image.fromarray(pixels).save(IMAGES_DIR / name, optimize=True)


def answers():
    """What onnxruntime says to each stored PNG, decoded and divided by 255."""
    paths = sorted(IMAGES_DIR.glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (8, 8)
    x = pixels.astype(np.float32)[:, None] / np.float32(255)
    (probabilities,) = session().run(["probabilities"], {"image": x})
    return [
        {
            "image": path.name,
            "label": int(path.stem.split("_")[1]),
            "predicted": int(row.argmax()),
            "probability": round(float(row.max()), 6),
        }
        for path, row in zip(paths, probabilities)
    ]


def write_expected(found):
    rows = ",\n".join("  " + json.dumps(row) for row in found)
    EXPECTED_PATH.write_text(f"[\n{rows}\n]\n")


def report(probabilities, labels):
    predicted = probabilities.argmax(axis=1)
    right = int((predicted == labels).sum())
    print(f"held-out accuracy: {right}/{len(labels)} = {right / len(labels):.4f}")
    print("confusion matrix (rows: true digit, columns: answer)")
    for digit, row in enumerate(confusion_matrix(labels, predicted, labels=range(CLASSES))):
        print(f"  {digit}: " + " ".join(f"{count:3}" for count in row))
    return right / len(labels)


# ---- commands -------------------------------------------------------------------------------


def command_train():
    images, labels = load()
    training, held_out = split(labels)
    started = time.monotonic()
    parameters = train(images[training], labels[training], SEED, print)
    count = sum(value.size for value in parameters.values())
    seconds = time.monotonic() - started
    print(f"trained {count} parameters on {len(training)} images in {seconds:.0f} s")

    probabilities, _ = forward(parameters, images[held_out])
    accuracy = report(probabilities, labels[held_out])
    size_bytes = export(parameters, accuracy)
    (exported,) = session().run(["probabilities"], {"image": images[held_out]})
    difference = float(np.abs(exported - probabilities).max())
    print(f"{MODEL_PATH.relative_to(HERE)}: {size_bytes} bytes, off by at most {difference:.1e}")
    assert difference < TOLERANCE, f"onnxruntime and numpy differ by {difference}"
    for one in (0, len(held_out) - 1):
        (alone,) = session().run(None, {"image": images[held_out[one : one + 1]]})
        assert np.abs(alone[0] - exported[one]).max() < TOLERANCE, "the batch changes an answer"

    write_images(images, labels, held_out)
    for path in LABELS_PATHS:
        path.write_text("".join(f"{digit}\n" for digit in range(CLASSES)))
    found = answers()
    write_expected(found)
    wrong = [row["image"] for row in found if row["label"] != row["predicted"]]
    print(f"images/: {len(found)} written, {len(wrong)} misread: {wrong}")
    return 0


def command_validate():
    images, labels = load()
    training, _ = split(labels)
    right = 0
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=SEED)
    for fold, (fit, held) in enumerate(folds.split(training, labels[training])):
        fit, held = training[fit], training[held]
        probabilities, _ = forward(train(images[fit], labels[fit], SEED + fold), images[held])
        hits = int((probabilities.argmax(axis=1) == labels[held]).sum())
        right += hits
        print(f"fold {fold}: {hits}/{len(held)} = {hits / len(held):.4f}", flush=True)
    print(f"five folds: {right}/{len(training)} = {right / len(training):.4f}")
    return 0


def command_check():
    onnx.checker.check_model(str(MODEL_PATH), full_check=True)
    images, labels = load()
    _, held_out = split(labels)
    (probabilities,) = session().run(["probabilities"], {"image": images[held_out]})
    report(probabilities, labels[held_out])
    expected = json.loads(EXPECTED_PATH.read_text())
    found = answers()
    same = len(found) == len(expected) and all(
        {**a, "probability": 0} == {**b, "probability": 0}
        and abs(a["probability"] - b["probability"]) < TOLERANCE
        for a, b in zip(found, expected)
    )
    print(f"expected.json: {len(expected)} images, {'as stored' if same else 'DIFFERENT'}")
    return 0 if same else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--validate", action="store_true", help="five folds of the training part")
    group.add_argument("--check", action="store_true", help="compare the stored files, train nothing")
    arguments = parser.parse_args()
    if arguments.validate:
        return command_validate()
    return command_check() if arguments.check else command_train()


if __name__ == "__main__":
    sys.exit(main())

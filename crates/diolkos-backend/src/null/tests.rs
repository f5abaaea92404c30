// SPDX-License-Identifier: Apache-2.0
//! The format, its errors, and the answers.

use diolkos_types::Params;
use proptest::prelude::*;

use super::*;
use crate::conformance::{SampleModel, Suite, run_once};
use crate::{Buffer, CancelFlag, Tensor};

fn reason(text: &str) -> String {
    parse(text.as_bytes(), 16).unwrap_err().to_string()
}

fn tensor(data_type: DataType, dims: &[u64]) -> Option<Tensor> {
    let shape = Shape::new(dims).unwrap();
    let bytes = data_type.payload_bytes(shape.elements().unwrap()).unwrap();
    Some(Tensor { data_type, shape, data: Buffer::from(vec![1; bytes]) })
}

#[test]
fn passes_the_suite() {
    let texts = [
        "input x FP32 [-1,4]\noutput y FP32 [-1,4]\n",
        "input a INT64 [n,m]\ninput b BYTES [m]\noutput c BYTES [m,n]\noutput d FP16 []\nresident 4096\n",
        "output only BOOL [3]\n",
    ];
    let mut suite = Suite::for_backend(Arc::new(NullBackend));
    for (index, text) in texts.iter().enumerate() {
        let files = ModelFiles::single(&format!("model{index}.null"), text.as_bytes().to_vec());
        suite = suite.model(SampleModel::new(&format!("text {index}"), files));
    }
    suite.run().assert_conforms();
    Suite::for_operation("noop", noop()).run().assert_conforms();
}

#[test]
fn answers_zeros_of_the_shape_that_the_inputs_decide() {
    let text = model_text(&["x FP32 [-1,batch]", "z UINT8 [-1]"], &["y FP64 [batch,-1,2]", "s BYTES [3]"]);
    // Dimension 1 of `y` is open, and dimension 1 of `x` varies.
    let operation = parse(text.as_bytes(), 16).unwrap();
    let inputs = vec![tensor(DataType::Fp32, &[2, 5]), tensor(DataType::Uint8, &[1])];
    let outputs = run_once(&operation, inputs).unwrap();
    let y = outputs[0].as_ref().unwrap();
    assert_eq!(y.shape, Shape::new(&[5, 5, 2]).unwrap());
    assert_eq!(&y.data.to_private()[..], &[0; 5 * 5 * 2 * 8]);
    assert_eq!(outputs[1].as_ref().unwrap().data.len(), 12);
}

#[test]
fn symbols_must_agree() {
    let text = model_text(&["a FP32 [n]", "b FP32 [2,n]"], &["y FP32 [n]"]);
    let operation = parse(text.as_bytes(), 16).unwrap();
    let inputs = vec![tensor(DataType::Fp32, &[3]), tensor(DataType::Fp32, &[2, 4])];
    let error = run_once(&operation, inputs).unwrap_err().to_string();
    assert_eq!(
        error,
        "input `b` has 4 in dimension 1 (`n`), and dimension 0 of `a` has 3; both must be equal"
    );
}

#[test]
fn says_which_line_is_wrong() {
    let prefix = "not a valid model: ";
    let cases = [
        ("", "it declares no tensor; write lines such as `input x FP32 [-1,4]`"),
        (
            "\n# c\nimput x FP32 [1]",
            "line 3: `imput` begins no line; known are input, output, resident and #",
        ),
        (
            "input x FP32",
            "line 1: `input` takes a name, a type and dimensions, such as `input x FP32 [-1,4]`",
        ),
        (
            "input x FP32 [1] z",
            "line 1: `input` takes a name, a type and dimensions, such as `input x FP32 [-1,4]`",
        ),
        ("input x FP32 [1]\ninput x FP32 [1]", "line 2: input `x` was declared before; names are unique"),
        ("input x FP32 1,2", "line 1: `1,2` is no list of dimensions; write it as [-1,4], without blanks"),
        ("input x FP32 [-2]", "line 1: `-2` is no dimension; write a length, -1 or a name such as batch"),
        ("input x FP32 [1,]", "line 1: `` is no dimension; write a length, -1 or a name such as batch"),
        (
            "input x FP32 [9223372036854775808]",
            "line 1: `9223372036854775808` is no dimension; write a length, -1 or a name such as batch",
        ),
        ("output y FP32 [n]", "nothing determines dimension 0 of output `y`: no input has it"),
        (
            "input x FP32 [4]\noutput y FP32 [-1]",
            "nothing determines dimension 0 of output `y`: no input has it",
        ),
        ("resident 1\nresident 2", "line 2: `resident` was given before; remove one of the two"),
        ("resident many", "line 1: `many` is no number of bytes"),
        ("input x FP32 [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "line 1: more than 16 dimensions"),
    ];
    for (text, expected) in cases {
        assert_eq!(reason(text), format!("{prefix}{expected}"), "{text:?}");
    }
    assert!(reason("input x FLOAT [1]").starts_with("not a valid model: line 1: `FLOAT`: unknown data type"));
    assert_eq!(parse(b"input \xff", 1).unwrap_err().to_string(), format!("{prefix}byte 6 is not UTF-8 text"));
    let long = vec![b'\n'; FILE_BYTES_MAX + 1];
    assert!(matches!(parse(&long, 1), Err(LoadError::TooLarge { .. })));
}

#[test]
fn a_huge_output_is_refused_without_being_allocated() {
    let text = "output y FP64 [1099511627776,4]\n";
    let operation = parse(text.as_bytes(), 1).unwrap();
    let mut work = Work::new(Vec::new(), None, Params::new(), 1 << 20, CancelFlag::new());
    assert!(matches!(operation.run(&mut work), Err(RunError::OutputTooSmall { .. })));
    let operation = parse(b"output y FP64 [4611686018427387904,4]", 1).unwrap();
    assert!(matches!(run_once(&operation, Vec::new()), Err(RunError::Unsupported { .. })));
    assert_eq!(operation.peak_bytes(&[], 0), None);
}

#[test]
fn resident_is_claimed_and_limited() {
    let files = ModelFiles::single("m.null", &b"input x BOOL [1]\nresident 100"[..]);
    let load =
        |limit| NullBackend.load(&files, &LoadOptions { variable_dim_max: 1, resident_bytes_max: limit });
    assert_eq!(load(100).unwrap().resident_bytes(), 100);
    assert!(matches!(load(99), Err(LoadError::TooLarge { needed: 100, limit: 99 })));
}

proptest! {
    #[test]
    fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, 8);
    }

    #[test]
    fn nearly_valid_text_never_panics(text in r"((input|output|resident) [xy] (FP32|BYTES) \[?(-1|n|[0-9]{1,20}|,){0,5}\]?\n?){0,5}") {
        let _ = parse(text.as_bytes(), 8);
    }
}

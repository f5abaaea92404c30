// SPDX-License-Identifier: Apache-2.0
//! Outputs: which are given, in what form, and what happens without room for them.

use diolkos_types::{BytesElements, DataType, TensorSpec};

use crate::RunError;
use crate::conformance::runs::{Answered, Ending, Given, Setup, Subject, run};
use crate::conformance::{Check, Report, signature};

/// Most outputs that are asked for one by one.
const ALONE_MAX: usize = 8;

/// Type, shape and bytes of every output of every answer.
pub(super) fn form(report: &mut Report, subject: &Subject<'_>) {
    let specs = &subject.signature.outputs;
    subject.judge_each(report, Check::OutputsComplete, |answered| {
        let missing = specs.iter().enumerate().find(|&(index, _)| output(answered, index).is_none());
        missing.map_or(Ok(()), |(_, spec)| Err(format!("output `{}` is missing", spec.name)))
    });
    let mut each = |check, test: &dyn Fn(&TensorSpec, &Given) -> Result<(), String>| {
        subject.judge_each(report, check, |answered| {
            let given = specs.iter().enumerate().filter_map(|(i, spec)| Some((spec, output(answered, i)?)));
            given.into_iter().try_for_each(|(spec, given)| {
                test(spec, given).map_err(|e| format!("output `{}` {e}", spec.name))
            })
        });
    };
    each(Check::OutputTypes, &|spec, given| {
        if spec.takes_type(given.data_type) {
            return Ok(());
        }
        Err(format!("is {} and declared as {}", given.data_type, spec.data_type))
    });
    each(Check::OutputShapes, &|spec, given| {
        spec.check_shape(&given.shape)
            .map_err(|_| format!("has the shape {} and is declared as {spec}", given.shape))
    });
    each(Check::OutputBytes, &|_, given| bytes_fit(given));
}

fn bytes_fit(given: &Given) -> Result<(), String> {
    let Given { data_type, shape, bytes } = given;
    let elements = shape.elements().ok_or_else(|| format!("has a shape {shape} that overflows"))?;
    if *data_type == DataType::Bytes {
        let counted = BytesElements::count_checked(bytes).map_err(|error| format!("is damaged: {error}"))?;
        return if counted == elements {
            Ok(())
        } else {
            Err(format!("has {counted} elements and the shape {shape}"))
        };
    }
    match data_type.payload_bytes(elements) {
        Some(expected) if expected == bytes.len() => Ok(()),
        expected => {
            let expected = expected.map_or("more than memory".into(), |bytes| bytes.to_string());
            Err(format!("has {} bytes; {data_type} {shape} takes {expected}", bytes.len()))
        }
    }
}

fn output(answered: &Answered, index: usize) -> Option<&Given> {
    answered.answer.get(index)?.as_ref()
}

fn answer_bytes(answered: &Answered) -> u64 {
    answered.answer.iter().flatten().map(|given| given.bytes.len() as u64).sum()
}

/// Asking for some outputs, and giving them exactly enough or too little room.
pub(super) fn choice_and_room(report: &mut Report, subject: &Subject<'_>) {
    let label = subject.label;
    if subject.signature.outputs.is_empty() {
        subject.judge_each(report, Check::OutputsWanted, nothing_undeclared(subject));
        report.skip(label, Check::OutputsOnce, "it gives no outputs");
        report.skip(label, Check::OutputRoom, "it gives no outputs");
    } else {
        subject.compare_each(report, Check::OutputsWanted, |answered| {
            nothing_undeclared(subject)(answered)?;
            only_wanted(subject, answered)
        });
        subject.compare_each(report, Check::OutputsOnce, |answered| {
            let room = answer_bytes(answered);
            run(subject.operation, &answered.case, Setup { room, ..Setup::PLAIN })
                .ending
                .must_be(&answered.answer)
                .map_err(|text| {
                    format!("with room for exactly {room} bytes, the sum of its outputs, it {text}")
                })
        });
        too_little_room(report, subject);
    }
    if let Err(text) = signature::peak_of_bounds(subject) {
        return report.fail(label, Check::PeakBytes, text);
    }
    subject.judge_each(report, Check::PeakBytes, |answered| {
        let shapes: Vec<_> =
            answered.case.inputs.iter().map(|input| input.as_ref().map(|t| t.shape)).collect();
        let input_bytes: usize = answered.case.inputs.iter().flatten().map(|input| input.data.len()).sum();
        match (subject.operation.peak_bytes(&shapes, input_bytes as u64), answer_bytes(answered)) {
            (Some(peak), bytes) if peak < bytes => {
                Err(format!("a peak of {peak} bytes was promised and the outputs have {bytes}"))
            }
            (Some(_) | None, _) => Ok(()),
        }
    });
}

fn nothing_undeclared(subject: &Subject<'_>) -> impl Fn(&Answered) -> Result<(), String> {
    let declared = subject.signature.outputs.len();
    move |answered| match answered.answer.iter().skip(declared).flatten().next() {
        Some(_) => Err(format!("gave more outputs than the {declared} that are declared")),
        None => Ok(()),
    }
}

/// Each output alone, then none.
fn only_wanted(subject: &Subject<'_>, answered: &Answered) -> Result<(), String> {
    let count = subject.signature.outputs.len();
    let choices = (0..count.min(ALONE_MAX)).map(Some).chain([None]);
    for chosen in choices {
        let wanted: Box<[bool]> = (0..count).map(|index| Some(index) == chosen).collect();
        let setup = Setup { wanted: Some(wanted), ..Setup::PLAIN };
        let mut expected = vec![None; count];
        if let Some(index) = chosen {
            expected[index] = output(answered, index).cloned();
        }
        let ending = run(subject.operation, &answered.case, setup).ending;
        let only = chosen
            .map_or("no output".into(), |i| format!("only output `{}`", subject.signature.outputs[i].name));
        ending.must_be(&expected).map_err(|text| format!("asked for {only}, it: {text}"))?;
    }
    Ok(())
}

fn too_little_room(report: &mut Report, subject: &Subject<'_>) {
    let has_bytes = subject.answered.iter().any(|answered| answer_bytes(answered) > 0);
    if !has_bytes && !subject.answered.is_empty() {
        return report.skip(subject.label, Check::OutputRoom, "no output has any bytes");
    }
    subject.judge_each(report, Check::OutputRoom, |answered| {
        let all = answer_bytes(answered);
        let rooms = [0, all / 2, all.saturating_sub(1)];
        rooms.into_iter().filter(|&room| room < all).try_for_each(|room| {
            match run(subject.operation, &answered.case, Setup { room, ..Setup::PLAIN }).ending {
                Ending::Refused(RunError::OutputTooSmall { .. }) => Ok(()),
                other => Err(format!("with room for {room} of {all} bytes it gave {}", other.describe())),
            }
        })
    });
}

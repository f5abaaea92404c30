// SPDX-License-Identifier: Apache-2.0
//! What backends and operations say about themselves.

use diolkos_types::{Dim, Shape, TensorSpec};

use crate::conformance::runs::{self, Subject, no_panic};
use crate::conformance::{Check, OPTIONS, Report};
use crate::{Backend, LoadError, LoadOptions, ModelFiles, Operation};

pub(super) fn describes_itself(report: &mut Report, backend: &dyn Backend) {
    let (name, formats) = (backend.name(), backend.formats().to_vec());
    let problem = if name.is_empty() {
        Some("the name is empty".to_owned())
    } else if formats.is_empty() {
        Some("it loads no format".to_owned())
    } else if backend.name() != name || backend.formats() != formats {
        Some("the name or the formats changed".to_owned())
    } else {
        formats.iter().find_map(|format| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if format.extension.is_empty() || !format.extension.chars().all(plain) {
                return Some(format!(
                    "`{}` is no extension; write it in lower case and without the dot",
                    format.extension
                ));
            }
            format.platform.is_empty().then(|| format!("`{}` has no platform", format.extension))
        })
    };
    report.judge(name, Check::Describes, problem.map_or(Ok(format!("{} formats", formats.len())), Err));
}

pub(super) fn names_unique(report: &mut Report, label: &str, operation: &dyn Operation) {
    let signature = operation.signature();
    let twice = |specs: &[TensorSpec]| {
        let mut names: Vec<&str> = specs.iter().map(|spec| &*spec.name).collect();
        names.sort_unstable();
        names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].to_owned())
    };
    let problem = match (twice(&signature.inputs), twice(&signature.outputs)) {
        (Some(name), _) => Err(format!("two inputs are called `{name}`")),
        (None, Some(name)) => Err(format!("two outputs are called `{name}`")),
        (None, None) => Ok(format!("{} inputs, {} outputs", signature.inputs.len(), signature.outputs.len())),
    };
    report.judge(label, Check::NamesUnique, problem);
}

/// Comes after all other checks, so that every run had its chance to change something.
pub(super) fn unchanged(report: &mut Report, subject: &Subject<'_>) {
    let same = *subject.operation.signature() == subject.signature;
    let result = if same { Ok(String::new()) } else { Err("it changed after some runs".to_owned()) };
    report.judge(subject.label, Check::SignatureStable, result);
}

/// `peak_bytes` for the largest and smallest shapes that admission lets through.
pub(super) fn peak_of_bounds(subject: &Subject<'_>) -> Result<(), String> {
    let shapes = |length: &dyn Fn(u64) -> u64, rank: usize| -> Option<Vec<Option<Shape>>> {
        let one = |spec: &TensorSpec| match spec.dims.as_deref() {
            None => Shape::new(&vec![length(u64::from(u32::MAX)); rank]).ok(),
            Some(dims) => {
                let lengths: Vec<u64> = dims
                    .iter()
                    .map(|dim| match *dim {
                        Dim::Fixed(fixed) => fixed,
                        Dim::Variable { max } => length(max),
                    })
                    .collect();
                Shape::new(&lengths).ok()
            }
        };
        subject.signature.inputs.iter().map(|spec| Some(Some(one(spec)?))).collect()
    };
    let absent = Some(vec![None; subject.signature.inputs.len()]);
    let bounds = [shapes(&|max| max, 4), shapes(&|_| 0, 1), shapes(&|max| max.min(1), 0), absent];
    for shapes in bounds.into_iter().flatten() {
        for input_bytes in [0, u64::MAX] {
            no_panic(|| subject.operation.peak_bytes(&shapes, input_bytes))
                .map_err(|text| format!("`peak_bytes` panicked for {shapes:?}: {text}"))?;
        }
    }
    Ok(())
}

pub(super) fn load_limits(
    report: &mut Report,
    label: &str,
    backend: &dyn Backend,
    files: &ModelFiles,
    loaded: &dyn Operation,
) {
    report.judge(label, Check::LoadLimits, keeps_to_limits(backend, files, loaded));
}

fn keeps_to_limits(
    backend: &dyn Backend,
    files: &ModelFiles,
    loaded: &dyn Operation,
) -> Result<String, String> {
    let narrow = LoadOptions { variable_dim_max: 3, ..OPTIONS };
    // A model that can't be narrowed may refuse.
    let narrowed = runs::load(backend, files, &narrow).ok();
    for (options, operation) in [(&OPTIONS, Some(loaded)), (&narrow, narrowed.as_deref())] {
        let Some(signature) = operation.map(Operation::signature) else { continue };
        let all = signature.inputs.iter().chain(&signature.outputs);
        for spec in all {
            let longest = spec.dims.iter().flatten().filter_map(|dim| match *dim {
                Dim::Variable { max } => Some(max),
                Dim::Fixed(_) => None,
            });
            if let Some(max) = longest.max().filter(|&max| max > options.variable_dim_max) {
                let limit = options.variable_dim_max;
                return Err(format!("`{}` varies up to {max} where {limit} was allowed", spec.name));
            }
        }
    }
    let resident = loaded.resident_bytes();
    let Some(limit) = resident.checked_sub(1) else { return Ok("it keeps nothing resident".into()) };
    match runs::load(backend, files, &LoadOptions { resident_bytes_max: limit, ..OPTIONS }) {
        Err(LoadError::TooLarge { .. }) => Ok(format!("{resident} bytes resident")),
        Err(error) => Err(format!(
            "{limit} resident bytes were allowed, {resident} are needed, and the error is `{error}`"
        )),
        Ok(small) if small.resident_bytes() <= limit => Ok("it keeps less when told to".into()),
        Ok(_) => Err(format!("{limit} resident bytes were allowed and it keeps {resident}")),
    }
}

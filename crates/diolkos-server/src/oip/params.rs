// SPDX-License-Identifier: Apache-2.0
//! Which parameters of a request steer the server, and which go to the model.

use diolkos_engine::Class;
use diolkos_types::{Code, Param, Params, Status};

/// Most parameters of one request or tensor; stock clients send under ten.
pub(crate) const PARAMS_MAX: usize = 64;

/// Parameters that belong to the sequence extension, which is not offered.
const SEQUENCE: [&str; 3] = ["sequence_id", "sequence_start", "sequence_end"];

/// A request's parameters, sorted out.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RequestParams {
    /// Schedule policy: 0 = not said, 1 = most urgent.
    pub(crate) priority: u64,
    /// Schedule policy: microseconds until the request is not worth running any more.
    pub(crate) timeout_us: Option<u64>,
    /// Every output in binary form unless it says otherwise (REST only).
    pub(crate) binary_data_output: bool,
    /// What goes to the model.
    pub(crate) for_model: Params,
}

impl RequestParams {
    /// Sorts the parameters out. Those with a meaning here must have the right type; `timeout` 0 means none.
    pub(crate) fn sort(params: Params) -> Result<RequestParams, Status> {
        let mut sorted = RequestParams::default();
        for (name, value) in params.iter() {
            match name {
                "priority" => sorted.priority = whole(name, value)?,
                "timeout" => sorted.timeout_us = Some(whole(name, value)?).filter(|&timeout| timeout > 0),
                "binary_data_output" => sorted.binary_data_output = truth(name, value)?,
                name if SEQUENCE.contains(&name) => refuse_sequence(name, value)?,
                name => sorted.for_model.set(name, value.clone()),
            }
        }
        Ok(sorted)
    }
}

/// The engine's class for a priority: 0 says nothing, 1 is the most urgent, 3 and above can wait.
pub(crate) fn class_of(priority: u64) -> Class {
    match priority {
        0 | 2 => Class::Standard,
        1 => Class::Interactive,
        3.. => Class::Batch,
    }
}

/// A parameter that has to be a whole number from 0 up.
pub(crate) fn whole(name: &str, value: &Param) -> Result<u64, Status> {
    let number = match value {
        Param::Int(number) => u64::try_from(*number).ok(),
        Param::Uint(number) => Some(*number),
        Param::Bool(_) | Param::Double(_) | Param::Text(_) => None,
    };
    number.ok_or_else(|| wrong(name, value, "a whole number from 0 up"))
}

/// A parameter that has to be true or false.
pub(crate) fn truth(name: &str, value: &Param) -> Result<bool, Status> {
    match value {
        Param::Bool(truth) => Ok(*truth),
        _ => Err(wrong(name, value, "true or false")),
    }
}

/// A wrong value, shown in a few characters.
fn wrong(name: &str, value: &Param, expected: &str) -> Status {
    let given = match value {
        Param::Bool(value) => value.to_string(),
        Param::Int(value) => value.to_string(),
        Param::Uint(value) => value.to_string(),
        Param::Double(value) => value.to_string(),
        Param::Text(value) => format!("\"{}\"", value.chars().take(40).collect::<String>().escape_debug()),
    };
    Status::invalid(format!("parameter `{name}` is {given} and has to be {expected}"))
}

/// Zero, empty and false are what clients without a sequence send; anything else would be served wrongly.
fn refuse_sequence(name: &str, value: &Param) -> Result<(), Status> {
    match value {
        Param::Int(0) | Param::Uint(0) | Param::Bool(false) => Ok(()),
        Param::Text(text) if text.is_empty() => Ok(()),
        _ => Err(Status::new(
            Code::Unsupported,
            format!(
                "parameter `{name}`: the sequence extension is not offered here; send requests without it"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(name: &str, value: Param) -> Result<RequestParams, Status> {
        let mut params = Params::new();
        params.set(name, value);
        RequestParams::sort(params)
    }

    #[test]
    fn known_ones_are_taken_out_and_others_go_on() {
        let sorted = sort("alpha", Param::Double(0.5)).unwrap();
        assert_eq!(sorted.for_model.get("alpha"), Some(&Param::Double(0.5)));
        assert_eq!(sort("priority", Param::Int(1)).unwrap().priority, 1);
        assert!(sort("priority", Param::Uint(1)).unwrap().for_model.is_empty());
        assert_eq!(sort("timeout", Param::Int(5)).unwrap().timeout_us, Some(5));
        assert_eq!(sort("timeout", Param::Int(0)).unwrap().timeout_us, None);
        assert!(sort("binary_data_output", Param::Bool(true)).unwrap().binary_data_output);
    }

    #[test]
    fn wrong_types_name_the_parameter_and_its_value() {
        let message = |name, value| sort(name, value).unwrap_err().message().to_owned();
        assert_eq!(
            message("timeout", Param::Int(-1)),
            "parameter `timeout` is -1 and has to be a whole number from 0 up"
        );
        assert!(message("priority", Param::Text("high".into())).contains("\"high\""));
        assert!(message("binary_data_output", Param::Int(1)).contains("true or false"));
    }

    #[test]
    fn sequences_are_refused_and_their_defaults_are_not() {
        assert_eq!(sort("sequence_id", Param::Int(7)).unwrap_err().code(), Code::Unsupported);
        assert_eq!(sort("sequence_start", Param::Bool(true)).unwrap_err().code(), Code::Unsupported);
        assert!(sort("sequence_id", Param::Text("".into())).is_ok());
        assert!(sort("sequence_end", Param::Bool(false)).is_ok());
    }

    #[test]
    fn one_is_the_most_urgent() {
        assert_eq!(class_of(0), Class::default());
        assert!(class_of(1) < class_of(2) && class_of(2) < class_of(3));
        assert_eq!(class_of(u64::MAX), Class::Batch);
    }
}

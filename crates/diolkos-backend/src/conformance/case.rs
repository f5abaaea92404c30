// SPDX-License-Identifier: Apache-2.0
//! What authors give the suite: models, and inputs where generated ones won't do.

use diolkos_types::{DataType, Params, Shape};

use crate::{Buffer, ModelFiles, Tensor};

/// A model that the backend must load.
#[derive(Clone, Debug)]
pub struct SampleModel {
    pub(super) label: String,
    pub(super) files: ModelFiles,
    pub(super) cases: Vec<Case>,
}

impl SampleModel {
    /// A model under the name that the report shows.
    #[must_use]
    pub fn new(label: &str, files: ModelFiles) -> SampleModel {
        SampleModel { label: label.into(), files, cases: Vec::new() }
    }

    /// Adds inputs that the model answers. They replace the generated ones wherever answers are compared;
    /// hostile values are generated all the same.
    #[must_use]
    pub fn case(mut self, case: Case) -> SampleModel {
        self.cases.push(case);
        self
    }
}

/// One set of inputs.
#[derive(Clone, Debug)]
pub struct Case {
    pub(super) label: String,
    /// In the order of the signature.
    pub(super) inputs: Vec<Option<Tensor>>,
    pub(super) params: Params,
}

impl Case {
    /// A case without inputs and parameters.
    #[must_use]
    pub fn new(label: &str) -> Case {
        Case { label: label.into(), inputs: Vec::new(), params: Params::new() }
    }

    /// Gives the next input of the signature.
    ///
    /// # Panics
    ///
    /// If there are more dimensions than a shape may have.
    #[must_use]
    pub fn input(mut self, data_type: DataType, dims: &[u64], data: impl Into<Buffer>) -> Case {
        let shape = Shape::new(dims).expect("the author of a case keeps to RANK_MAX dimensions");
        self.inputs.push(Some(Tensor { data_type, shape, data: data.into() }));
        self
    }

    /// Gives the next input of the signature as `FP32` values.
    #[must_use]
    pub fn fp32(self, dims: &[u64], values: &[f32]) -> Case {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.input(DataType::Fp32, dims, data)
    }

    /// Leaves out the next input of the signature, which is optional.
    #[must_use]
    pub fn no_input(mut self) -> Case {
        self.inputs.push(None);
        self
    }

    /// Sets a parameter.
    #[must_use]
    pub fn param(mut self, name: &str, value: diolkos_types::Param) -> Case {
        self.params.set(name, value);
        self
    }
}

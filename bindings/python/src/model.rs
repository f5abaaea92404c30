// SPDX-License-Identifier: Apache-2.0
//! An opened model, and requests to it.

use diolkos_client::types::{DataType, Dim, Param, Params, TensorSpec, UnknownDataType};
use diolkos_client::{AnyTensor, Class, RequestOptions};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use crate::client::duration;
use crate::errors;
use crate::memory::Memory;
use crate::pending::Pending;
use crate::process::Own;
use crate::wait;

/// Name, data type (or none: any), dimensions (or none: any; none of one: it varies), may be left out.
type Spec = (String, Option<&'static str>, Option<Vec<Option<u64>>>, bool);

/// An input: name, memory, data type, shape, and the first of its bytes and how many there are.
type Input<'py> = (String, Bound<'py, Memory>, String, Vec<u64>, usize, usize);

/// A model, opened.
#[pyclass(frozen, module = "diolkos._native")]
pub(crate) struct Model {
    model: Own<diolkos_client::Model>,
    client: Own<diolkos_client::Client>,
    number: u64,
}

impl Model {
    pub(crate) fn new(model: diolkos_client::Model, client: diolkos_client::Client, number: u64) -> Model {
        Model { model: Own::new(model), client: Own::new(client), number }
    }
}

#[pymethods]
impl Model {
    /// Its name.
    #[getter]
    fn name(&self) -> PyResult<&str> {
        Ok(self.model.get()?.name())
    }

    /// The version that was current when it was opened.
    #[getter]
    fn version(&self) -> PyResult<u64> {
        Ok(self.model.get()?.version())
    }

    /// What it takes.
    fn inputs(&self) -> PyResult<Vec<Spec>> {
        Ok(self.model.get()?.inputs().iter().map(spec).collect())
    }

    /// What it gives.
    fn outputs(&self) -> PyResult<Vec<Spec>> {
        Ok(self.model.get()?.outputs().iter().map(spec).collect())
    }

    /// Whether sending a request with so many bytes of inputs, so many of which are copied first, would wait now.
    fn would_wait(&self, nbytes: usize, copied: usize) -> PyResult<bool> {
        Ok(self.model.get()?.would_wait(nbytes, copied))
    }

    /// Sends a request.
    fn submit(&self, py: Python<'_>, inputs: Vec<Input<'_>>, options: &Options) -> PyResult<Pending> {
        let (model, client) = (self.model.get()?, self.client.get()?);
        let inputs = inputs.into_iter().map(|(name, memory, data_type, shape, start, length)| {
            let data_type: DataType =
                data_type.parse().map_err(|error: UnknownDataType| errors::invalid(&error.to_string()))?;
            let part = memory.get().tensor()?.part(data_type, &shape, start..start.saturating_add(length));
            Ok((name, part.map_err(|error| errors::exception(&error))?.into()))
        });
        let inputs = inputs.collect::<PyResult<Vec<(String, AnyTensor)>>>()?;
        let options = options.options.clone();
        let bytes = inputs.iter().map(|(_, tensor)| tensor.bytes().len()).sum();
        let pending = wait::soon(
            py,
            client,
            (model.clone(), inputs, options),
            |_| model.would_wait(bytes, 0),
            |_, (model, inputs, options)| model.submit_with(inputs, options),
        )?;
        Ok(Pending::new(pending.map_err(|error| errors::exception(&error))?, self.number))
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        wait::drop_detached((self.model.take(), self.client.take()));
    }
}

fn spec(spec: &TensorSpec) -> Spec {
    let dims = spec.dims.as_ref().map(|dims| {
        let dims = dims.iter().map(|dim| match dim {
            Dim::Fixed(length) => Some(*length),
            Dim::Variable { .. } => None,
        });
        dims.collect()
    });
    let data_type = (!spec.any_type).then(|| spec.data_type.name());
    (spec.name.to_string(), data_type, dims, spec.optional)
}

/// What a request says besides its inputs.
#[pyclass(frozen, module = "diolkos._native")]
pub(crate) struct Options {
    options: RequestOptions,
}

#[pymethods]
impl Options {
    #[new]
    #[pyo3(signature = (*, priority, timeout, params, outputs, once))]
    fn new(
        priority: &str,
        timeout: Option<f64>,
        params: Option<&Bound<'_, PyDict>>,
        outputs: Option<Vec<String>>,
        once: bool,
    ) -> PyResult<Options> {
        let class = match priority {
            "interactive" => Class::Interactive,
            "standard" => Class::Standard,
            "batch" => Class::Batch,
            other => {
                return Err(errors::invalid(&format!(
                    "priority is interactive, standard or batch, and not {other:?}"
                )));
            }
        };
        let timeout = timeout.map(duration).transpose()?;
        let params = params.map(parameters).transpose()?.unwrap_or_default();
        Ok(Options { options: RequestOptions { class, timeout, params, outputs, once } })
    }
}

fn parameters(given: &Bound<'_, PyDict>) -> PyResult<Params> {
    let mut params = Params::new();
    for (name, value) in given {
        let name: String = name.extract()?;
        params.set(&name, parameter(&name, &value)?);
    }
    Ok(params)
}

fn parameter(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Param> {
    // A bool is an int as well.
    if value.is_instance_of::<PyBool>() {
        return value.extract().map(Param::Bool);
    }
    if value.is_instance_of::<PyInt>() {
        let signed = value.extract().map(Param::Int);
        return signed
            .or_else(|_| value.extract().map(Param::Uint))
            .map_err(|_| errors::invalid(&format!("parameter `{name}` does not fit 64 bits")));
    }
    if value.is_instance_of::<PyFloat>() {
        return value.extract().map(Param::Double);
    }
    if value.is_instance_of::<PyString>() {
        return value.extract().map(|text: String| Param::Text(text.into()));
    }
    let kind = value.get_type().name()?.to_string();
    Err(errors::invalid(&format!("parameter `{name}` is a {kind}, and not a bool, int, float or str")))
}
